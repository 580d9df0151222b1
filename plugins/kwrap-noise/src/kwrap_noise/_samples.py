"""Predictions drawn many times: Monte-Carlo dropout and noise at inference, and the mean and spread they have."""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, NamedTuple, overload

import keras
import numpy as np

import kwrap
from kwrap.errors import RuleError
from kwrap.options import checked_int
from kwrap_noise._drawing import Drawing, is_floating
from kwrap_noise._drop import MonteCarloDropout, draws
from kwrap_noise._errors import NothingRandomError

__all__ = ["Moments", "Samples", "predict_samples", "sampling"]

_NAME = "kwrap_noise.sampling"
# Where a Keras model keeps the functions that it has traced.
_TRACES = ("train_function", "test_function", "predict_function")


class Moments(NamedTuple):
    """Mean and spread of several predictions of the same inputs, as arrays in the structure of the model's outputs.

    Attributes:
        mean: the mean over the predictions, of the outputs' dtype; float64 where that is not floating.
        spread: their standard deviation, with the number of predictions in the denominator.
    """

    mean: Any
    spread: Any


class Samples(NamedTuple):
    """Several predictions of the same inputs with their `Moments`.

    Attributes:
        mean: as in `Moments`.
        spread: as in `Moments`.
        samples: all of them, along a new first axis.
    """

    mean: Any
    spread: Any
    samples: Any


@overload
def predict_samples(
    model: keras.Model,
    x: Any,
    n: int = ...,
    *,
    seed: int | None = ...,
    return_samples: Literal[False] = ...,
    **keywords: Any,
) -> Moments: ...


@overload
def predict_samples(
    model: keras.Model,
    x: Any,
    n: int = ...,
    *,
    seed: int | None = ...,
    return_samples: Literal[True],
    **keywords: Any,
) -> Samples: ...


def predict_samples(
    model: keras.Model,
    x: Any,
    n: int = 20,
    *,
    seed: int | None = None,
    return_samples: bool = False,
    **keywords: Any,
) -> Moments | Samples:
    """Return mean and spread of `n` predictions, with the model's dropout and noise drawn anew for each.

    Monte-Carlo dropout (Gal & Ghahramani 2016, https://arxiv.org/abs/1506.02142). Inside of `sampling`, whose
    docstring says what is drawn; the model is afterwards as it was.

    Args:
        x: what `model.predict` takes, and can be read `n` times, each time in the same order: no shuffled dataset, of
            which means would be those of different rows.
        seed: for other draws than those that follow from the states of the model's random generators.
        return_samples: whether the predictions are returned, too, as a third: `n` times the memory.
        keywords: for `model.predict`, such as `batch_size`.

    Raises:
        NothingRandomError: the model has neither hooks of kwrap-noise nor dropout layers of Keras that draw: with a
            rate, or a deviation, above 0.
        OptionValueError: `n` is no int, or below 1; or `seed` is no int.
    """
    count, statistics = checked_int("predict_samples", "n", n), _Statistics(return_samples)
    with sampling(model, seed=seed):
        for _ in range(count):
            statistics.add(model.predict(x, **{"verbose": 0, **keywords}))
    return statistics.result()


@contextmanager
def sampling(model: keras.Model, *, seed: int | None = None) -> Iterator[keras.Model]:
    """Inside the context, `model` draws at inference what it draws in training: in calls, `predict`, `evaluate`.

    That is what the hooks of this plugin draw, whatever their `phase`, and Keras' own dropout and noise layers, those
    inside attention and recurrent layers too. Nothing else is told that it trains: batch normalization stays as it is
    at inference. Of a recurrent layer that has dropout, the cell is told as a whole.

    In place, and not for two threads. Afterwards the model is as it was, the states of its random generators and its
    traced functions included, so that the next context draws the same again, and training goes on without tracing
    anew; other models that hold its layers trace theirs anew. `seed` gives other draws. With one context around several
    calls, its functions are traced once; one inside another draws on, unless it has a `seed`.

    Raises:
        NothingRandomError: the model has neither hooks of kwrap-noise nor dropout layers of Keras that draw: with a
            rate, or a deviation, above 0.
        OptionValueError: `seed` is no int.
    """
    number = None if seed is None else checked_int("sampling", "seed", seed, least=None)
    with ExitStack() as after:
        if not _is_sampling(model):
            _start(model, after)
        if number is not None:
            for place, state in enumerate(_generator_states(model)):
                state.assign([zlib.crc32(f"{number} {place}".encode()), 0])
        yield model


def _is_sampling(model: keras.Model) -> bool:
    return any(hook.name == _NAME or getattr(hook, "samples", False) for _, hook in kwrap.find_hooks(model))


def _start(model: keras.Model, after: ExitStack) -> None:
    """Let the model draw at inference, until `after` closes."""
    drawing = [hook for _, hook in kwrap.find_hooks(model) if isinstance(hook, Drawing)]
    plan = _plan(model)
    if plan is None and not any(hook.draws for hook in drawing):
        raise NothingRandomError(model.name)
    after.callback(_restore, [(state, np.array(state)) for state in _generator_states(model)])
    after.callback(_Traces(model).restore)
    if plan is not None:
        plan.apply()
        after.callback(kwrap.unwrap_model, model, _NAME)
    for hook in drawing:
        after.callback(setattr, hook, "samples", hook.samples)
        hook.samples = True
    _forget_traces(model)


def _plan(model: keras.Model) -> kwrap.Plan | None:
    """Return the plan that lets those layers of Keras draw that do in training; None if there are none."""
    hook = MonteCarloDropout(name=_NAME)
    try:
        entries = kwrap.plan(model, hook).entries
    except RuleError:  # it has no layer of such a type
        return None
    where = [entry.path for entry in entries if draws(entry.layer)]
    return kwrap.plan(model, hook, where=where) if where else None


def _generator_states(model: keras.Model) -> list[keras.Variable]:
    """Return the states of the model's seed generators: all of its variables that no weight file of Keras has."""
    others = {id(variable) for variable in (*model.weights, *model.metrics_variables)}
    return [variable for variable in model.variables if id(variable) not in others]


def _restore(states: Sequence[tuple[keras.Variable, Any]]) -> None:
    for state, value in states:
        state.assign(value)


def _forget_traces(model: keras.Model) -> None:
    """Let the model trace anew; training, too, in which hooks draw now that are for inference."""
    for name in _TRACES:
        setattr(model, name, None)


class _Traces:
    """The functions that a model has traced, to be its own again."""

    def __init__(self, model: keras.Model) -> None:
        self._model, self._functions = model, {name: getattr(model, name) for name in _TRACES}
        self._state = self._of_now()

    def restore(self) -> None:
        """Give them back, unless the model was compiled meanwhile, or got other hooks; what it traced since is gone."""
        _forget_traces(self._model)
        now = self._of_now()
        if len(now) == len(self._state) and all(a is b for a, b in zip(now, self._state, strict=True)):
            for name, function in self._functions.items():
                setattr(self._model, name, function)

    def _of_now(self) -> list[Any]:
        """Return what the functions are traced with: the optimizer, the metrics, new when compiled, and the hooks."""
        hooks = [hook for _, hook in kwrap.find_hooks(self._model)]
        return [getattr(self._model, "optimizer", None), *self._model.metrics, *hooks]


class _Statistics:
    """The mean and the spread of predictions, which are kept only if that is asked for."""

    def __init__(self, keep: bool) -> None:
        self._keep, self._count = keep, 0
        self._kept: list[list[Any]] = []

    def add(self, prediction: Any) -> None:
        """Take a prediction into account, as Welford (1962) does: in float64, and stable."""
        leaves = keras.tree.flatten(prediction)
        if not self._count:
            self._structure, self._dtypes = (
                prediction,
                [leaf.dtype if is_floating(leaf) else "float64" for leaf in leaves],
            )
            self._means, self._squares = ([np.zeros(leaf.shape) for leaf in leaves] for _ in range(2))
        self._count += 1
        for leaf, mean, square in zip(leaves, self._means, self._squares, strict=True):
            change = leaf - mean
            mean += change / self._count
            square += change * (leaf - mean)
        if self._keep:
            self._kept.append(leaves)

    def result(self) -> Moments | Samples:
        """Return what was found."""
        spreads = [np.sqrt(square / self._count) for square in self._squares]
        mean, spread = (self._packed(each) for each in (self._means, spreads))
        if not self._keep:
            return Moments(mean, spread)
        samples = [np.stack(each) for each in zip(*self._kept, strict=True)]
        return Samples(mean, spread, keras.tree.pack_sequence_as(self._structure, samples))

    def _packed(self, arrays: Sequence[Any]) -> Any:
        cast = [array.astype(dtype) for array, dtype in zip(arrays, self._dtypes, strict=True)]
        return keras.tree.pack_sequence_as(self._structure, cast)
