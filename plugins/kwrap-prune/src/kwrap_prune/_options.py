"""What the options of Prune may be: checked when a hook is made, before anything has changed."""

import contextvars
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, get_args

import tensorflow as tf

from kwrap.errors import OptionValueError
from kwrap.options import checked_choice, checked_int
from kwrap_prune._criteria import Criterion
from kwrap_prune._schedules import ConstantSparsity, Schedule, Stepped, last_due, scheduled
from kwrap_prune._structures import Blocks, Elements, Groups, Structure
from kwrap_prune._warnings import UnreachedSparsityWarning, stacklevel

__all__ = [
    "SparsitySchedule",
    "checked_criterion",
    "checked_schedule",
    "checked_structure",
    "copying",
    "two_ints",
]

SparsitySchedule: TypeAlias = Schedule | Callable[[Any], Any]

OWNER = "prune"
# The steps at which schedules of one's own are looked at: further on, int32 arithmetic such as step * step overflows.
_LOOKED_AT = [0, *(digit * 10**power for power in range(4) for digit in (1, 2, 5)), 10_000]
# With N:M, whose end is fixed, it is looked for further on.
_FURTHER = [digit * 10**power for power in (4, 5) for digit in (2, 5, 10)]

_copying = contextvars.ContextVar("copying", default=False)


@contextmanager
def copying() -> Iterator[None]:
    """Warn of nothing inside: it was said when the options were given, and each layer has a copy of the hook."""
    token = _copying.set(True)
    try:
        yield
    finally:
        _copying.reset(token)


def two_ints(option: str, value: Any, owner: str = OWNER) -> tuple[int, int]:
    """Return `value` as two ints; raise if it is not, or one is below 1."""
    try:
        first, second = (checked_int(owner, option, part) for part in value)
    except (TypeError, ValueError) as error:
        raise OptionValueError(owner, option, value, "is not two ints that are at least 1") from error
    return first, second


def checked_criterion(criterion: Any) -> Criterion:
    """Return the criterion; raise if it is none."""
    if not isinstance(criterion, Criterion):
        raise _wrong("criterion", criterion, "is no kwrap_prune.Criterion, such as Magnitude()")
    return criterion


def checked_structure(block_size: Any, pooling: Any, n_m: Any) -> Structure:
    """Return the structure that the options ask for; raise if they contradict each other."""
    pooling = checked_choice(OWNER, "block_pooling", pooling, ("AVG", "MAX"))
    height, width = two_ints("block_size", block_size)
    if n_m is not None:
        n, m = two_ints("n_m", n_m)
        if n >= m:
            raise _wrong("n_m", n_m, f"prunes nothing: of each {m} weights, N have to be fewer than {m}")
        if (height, width) != (1, 1):
            raise _wrong("n_m", n_m, f"contradicts block_size={(height, width)}: one or the other")
    if (height, width) != (1, 1):
        return Blocks(height, width, pooling)
    if pooling != "AVG":
        problem = "has no blocks to pool: give block_size=(inputs, outputs), or leave it out"
        raise _wrong("block_pooling", pooling, problem)
    return Elements() if n_m is None else Groups(n, m)


# --- schedules -------------------------------------------------------------------------------------------------------


def checked_schedule(schedule: SparsitySchedule | None, structure: Structure) -> SparsitySchedule:
    """Return the schedule, or the default one for None; raise if it cannot be, warn if it does not reach its end."""
    groups = structure if isinstance(structure, Groups) else None
    if schedule is None:
        return ConstantSparsity(1 - groups.n / groups.m if groups else 0.5, begin_step=0)
    if not callable(schedule):
        problem = "is no schedule, such as ConstantSparsity(0.5, begin_step=0) or PolynomialDecay(...)"
        raise _wrong("schedule", schedule, problem)
    own = type(schedule) not in get_args(Stepped)
    if own and _copying.get():
        return schedule  # tried when the options were given
    if isinstance(schedule, Stepped) and not own:
        sparsity, short = float(schedule(last_due(schedule))[1]), _shortfall(schedule)
    else:
        sparsity, short = _last_sparsity(schedule, _FURTHER if groups else []), ""
    if groups:
        end = 1 - groups.n / groups.m
        # A third may be given as 0.33; what falls short of its end may still come to as many of each group.
        elsewhere = not short and abs(sparsity - end) > 0.01
        if elsewhere or round(sparsity * groups.m) != groups.m - groups.n:
            problem = f"ends at sparsity {sparsity}, and n_m={(groups.n, groups.m)} at {end}"
            raise _wrong("schedule", schedule, f"{problem}. It {short}" if short else problem)
    if short and not groups and not _copying.get():
        warnings.warn(f"{schedule!r} {short}", UnreachedSparsityWarning, stacklevel=stacklevel())
    return schedule


def _shortfall(schedule: Stepped) -> str:
    """Return how far a decay comes if it does not reach its end, and the way out; else ""."""
    if isinstance(schedule, ConstantSparsity):
        return ""
    last, span = last_due(schedule), schedule.end_step - schedule.begin_step
    reached = float(schedule(last)[1])
    if reached == schedule.final_sparsity:
        return ""
    end = f"end_step={last}, or " if last > schedule.begin_step else ""
    return (
        f"computes its last masks at step {last}, and so ends at sparsity {reached:.6g}, not "
        f"{schedule.final_sparsity:.6g}: give {end}a frequency that divides end_step - begin_step = {span}"
    )


def _last_sparsity(schedule: SparsitySchedule, further: Sequence[int]) -> float:
    """Return the sparsity at the last step that is looked at, if it is one; raise if one is not in [0, 1)."""
    ask = _traced(schedule)
    last = 0.0
    for step in (*_LOOKED_AT, *further):
        due, sparsity = ask(step)
        if 0 <= sparsity < 1:
            last = sparsity
        elif due and step not in further:
            raise _wrong("schedule", schedule, f"gives sparsity {sparsity} at step {step}: not in [0, 1)")
    return last


def _traced(schedule: SparsitySchedule) -> Callable[[int], tuple[bool, float]]:
    """Return the schedule as it is in a compiled training step; raise if it does not work there, or on an int.

    An int is what it is asked for on wrapping.
    """
    try:
        scheduled(schedule, 0)
    except Exception as error:
        raise _wrong("schedule", schedule, f"fails at step 0: {_told(error)}") from error
    # As Keras compiles a step: without AutoGraph, which would rewrite an `if`.
    compiled = tf.function(lambda step: scheduled(schedule, step), autograph=False)
    try:
        concrete = compiled.get_concrete_function(tf.TensorSpec((), tf.int32))
    except Exception as error:
        problem = (
            "works on an int, and not on the int32 tensor that the step is in training: use keras.ops, as in "
            f"keras.ops.where(step > 5, ...) or keras.ops.minimum, not if, min, float or NumPy. {_told(error)}"
        )
        raise _wrong("schedule", schedule, problem) from error

    def ask(step: int) -> tuple[bool, float]:
        try:
            due, sparsity = concrete(tf.constant(step))
        except Exception as error:
            raise _wrong("schedule", schedule, f"fails at step {step}: {_told(error)}") from error
        return bool(due), float(sparsity)

    return ask


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _wrong(option: str, value: Any, problem: str) -> OptionValueError:
    return OptionValueError(OWNER, option, value, problem)
