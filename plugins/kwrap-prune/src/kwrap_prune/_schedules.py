"""When to prune and how much: the schedules of tensorflow-model-optimization, with its arguments and mathematics."""

import abc
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras

from kwrap.errors import OptionValueError
from kwrap.options import checked_int, checked_number

__all__ = ["ConstantSparsity", "CosineDecay", "PolynomialDecay", "Schedule", "Stepped", "last_due", "scheduled"]

NO_END = -1


class Schedule(abc.ABC):
    """When masks are computed, and the share of weights that they set to zero.

    Steps count the updates of the weights since the model was wrapped, one a batch: step 0 is on wrapping, step n after
    the n-th update. Where an optimizer accumulates gradients, see `Prune`'s `gradient_accumulation_steps`.

    For a schedule of one's own: a frozen dataclass with a `__call__`, registered by
    `keras.saving.register_keras_serializable`, so that it is saved with the model.
    """

    @abc.abstractmethod
    def __call__(self, step: Any) -> tuple[Any, Any]:
        """Return whether masks are computed at `step`, a bool, and the sparsity from then on, a float64 in [0, 1).

        `step` is an int or an int32 tensor; the results are tensors.
        """

    def get_config(self) -> dict[str, Any]:
        """Return the fields, by name."""
        return dict(vars(self))

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Schedule":
        """Return the schedule with the fields of `config`."""
        return cls(**config)


@keras.saving.register_keras_serializable(package="kwrap_prune")
@dataclasses.dataclass(frozen=True)
class ConstantSparsity(Schedule):
    """The same sparsity from `begin_step` on, computed again every `frequency` steps; `end_step` -1 is no end.

    Steps count updates, see `Schedule`.
    """

    target_sparsity: float
    begin_step: int
    end_step: int = NO_END
    frequency: int = 100

    def __post_init__(self) -> None:
        _check_sparsity(self, "target_sparsity")
        _check_steps(self)

    def __call__(self, step: Any) -> tuple[Any, Any]:
        """Return whether `step` is one of the schedule's, and the target sparsity."""
        return _is_due(self, step), keras.ops.convert_to_tensor(self.target_sparsity, "float64")


@keras.saving.register_keras_serializable(package="kwrap_prune")
@dataclasses.dataclass(frozen=True)
class PolynomialDecay(Schedule):
    """A sparsity that goes from initial to final, fast at first: Zhu and Gupta, https://arxiv.org/abs/1710.01878.

    sparsity = final + (initial - final) * (1 - (step - begin_step) / (end_step - begin_step)) ** power

    Masks are computed at `begin_step` and every `frequency` steps after it, up to `end_step`: the final sparsity is
    reached only if `end_step - begin_step` is a multiple of `frequency`. Steps count updates, see `Schedule`.
    """

    initial_sparsity: float
    final_sparsity: float
    begin_step: int
    end_step: int
    power: float = 3
    frequency: int = 100

    def __post_init__(self) -> None:
        _check_decay(self)
        meaning = "else the sparsity would not reach the final one"
        power = checked_number(type(self).__name__, "power", self.power, above=0, meaning=meaning)
        object.__setattr__(self, "power", power)

    def __call__(self, step: Any) -> tuple[Any, Any]:
        """Return whether `step` is one of the schedule's, and the sparsity there."""
        return _is_due(self, step), _decayed(self, (1.0 - _done(self, step)) ** self.power)


@keras.saving.register_keras_serializable(package="kwrap_prune")
@dataclasses.dataclass(frozen=True)
class CosineDecay(Schedule):
    """A sparsity that goes from initial to final along half a cosine: slow at first and at last.

    sparsity = final + (initial - final) * (1 + cos(pi * (step - begin_step) / (end_step - begin_step))) / 2

    As in Dettmers and Zettlemoyer, https://arxiv.org/abs/1907.04840. Steps as of `PolynomialDecay`.
    """

    initial_sparsity: float
    final_sparsity: float
    begin_step: int
    end_step: int
    frequency: int = 100

    def __post_init__(self) -> None:
        _check_decay(self)

    def __call__(self, step: Any) -> tuple[Any, Any]:
        """Return whether `step` is one of the schedule's, and the sparsity there."""
        return _is_due(self, step), _decayed(self, (1.0 + keras.ops.cos(math.pi * _done(self, step))) / 2)


def scheduled(schedule: Schedule | Callable[[Any], Any], step: Any) -> tuple[Any, Any]:
    """Return whether masks are computed at `step`, and the sparsity; a plain function gives one for every step."""
    due, sparsity = schedule(step) if isinstance(schedule, Schedule) else (True, schedule(step))
    due, sparsity = keras.ops.convert_to_tensor(due, "bool"), keras.ops.convert_to_tensor(sparsity, "float64")
    if due.shape != () or sparsity.shape != ():
        raise TypeError(f"one number is asked for, and not tensors of the shapes {due.shape} and {sparsity.shape}")
    return due, sparsity


def last_due(schedule: "Stepped") -> int:
    """Return the last step at which masks are computed; without an end, the first."""
    span = 0 if schedule.end_step == NO_END else schedule.end_step - schedule.begin_step
    return schedule.begin_step + span // schedule.frequency * schedule.frequency


Decay = PolynomialDecay | CosineDecay
Stepped = ConstantSparsity | Decay


def _done(schedule: Decay, step: Any) -> Any:
    """Return how far along the decay `step` is, a float64 from 0 to 1."""
    span = schedule.end_step - schedule.begin_step
    # In float64: the number of weights to prune, size times this, is then exact at any size.
    done = keras.ops.cast(step - schedule.begin_step, "float64") / span if span else keras.ops.ones((), "float64")
    return keras.ops.clip(done, 0.0, 1.0)


def _decayed(schedule: Decay, left: Any) -> Any:
    """Return the sparsity when the share `left` of the way from the final to the initial one is left."""
    return schedule.final_sparsity + (schedule.initial_sparsity - schedule.final_sparsity) * left


def _is_due(schedule: Stepped, step: Any) -> Any:
    """Return whether `step` is within begin and end, and a whole number of periods after the begin."""
    step = keras.ops.convert_to_tensor(step, "int32")
    since = step - schedule.begin_step
    due = keras.ops.logical_and(since >= 0, since % schedule.frequency == 0)
    return due if schedule.end_step == NO_END else keras.ops.logical_and(due, step <= schedule.end_step)


def _check_sparsity(schedule: Stepped, field: str) -> None:
    """Raise if the field is no sparsity; store NumPy's as a float, for a config is JSON."""
    share = checked_number(
        type(schedule).__name__,
        field,
        getattr(schedule, field),
        least=0,
        below=1,
        meaning="the share of weights that are set to zero",
    )
    object.__setattr__(schedule, field, share)


def _check_decay(schedule: Decay) -> None:
    _check_sparsity(schedule, "initial_sparsity")
    _check_sparsity(schedule, "final_sparsity")
    if schedule.end_step == NO_END:
        raise _wrong(schedule, "end_step", "is no end, and a decay needs one: give the step of the final sparsity")
    _check_steps(schedule)


def _check_steps(schedule: Stepped) -> None:
    for field in ("begin_step", "end_step", "frequency"):
        step = checked_int(type(schedule).__name__, field, getattr(schedule, field), least=None)
        object.__setattr__(schedule, field, step)  # NumPy's as an int, for a config is JSON
    if schedule.begin_step < 0:
        raise _wrong(schedule, "begin_step", "is negative: steps count from 0, when the model is wrapped")
    if schedule.end_step < NO_END:
        raise _wrong(schedule, "end_step", "is negative: give a step, or -1 for no end")
    if NO_END < schedule.end_step < schedule.begin_step:
        raise _wrong(schedule, "end_step", f"is before begin_step={schedule.begin_step}")
    if schedule.frequency <= 0:
        raise _wrong(schedule, "frequency", "is not positive: masks are computed every that many steps")


def _wrong(schedule: Stepped, field: str, problem: str) -> OptionValueError:
    return OptionValueError(type(schedule).__name__, field, getattr(schedule, field), problem)
