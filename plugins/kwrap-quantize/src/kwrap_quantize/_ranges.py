"""The ranges of a model's hooks: data, shown as a table; what an exporter asks of them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

import kwrap
from kwrap.errors import AbsentHookError
from kwrap.tables import Table, Tabular
from kwrap_quantize._activations import Activations
from kwrap_quantize._errors import NonFiniteRangeError, RangeNotSeenError
from kwrap_quantize._fake import usable_range
from kwrap_quantize._weights import QuantizeWeights

__all__ = ["Ranges", "TensorRange", "activations", "ranges", "require_ranges", "unseen"]

_COLUMNS = ("layer", "of", "bits", "minimum", "maximum", "channels", "range")
_NUMBERS = _COLUMNS[2:-1]


@dataclass(frozen=True)
class TensorRange:
    """The range of a tensor that a hook rounds.

    Attributes:
        path: the layer's path.
        hook: the hook's name.
        of: what it is of: "outputs", "inputs", of several "outputs 0", or a weight's name.
        bits: of each value.
        minimum: the range's lower end, as it is used, up to TensorFlow's shift of half a step; 0 if nothing was seen.
            Of a weight: over all channels.
        maximum: its upper end.
        channels: how many ranges there are: 1, or one for each channel.
        state: "moving", "frozen", "fixed", "not seen", "of weights", or "learned".
    """

    path: str
    hook: str
    of: str
    bits: int
    minimum: float
    maximum: float
    channels: int
    state: Literal["moving", "frozen", "fixed", "not seen", "of weights", "learned"]

    @property
    def step(self) -> float:
        """The distance of neighbours on the grid; of several channels that of the widest."""
        return (self.maximum - self.minimum) / float(2**self.bits - 1)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True, repr=False)
class Ranges(Tabular):
    """The ranges of a model's hooks, made by `ranges`; shown as a table by `print`, by rich and in a notebook.

    Attributes:
        model: the model's name.
        tensors: a range each, in the order of layers.
    """

    model: str
    tensors: tuple[TensorRange, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the ranges as JSON values."""
        return {"model": self.model, "tensors": [each.as_dict() for each in self.tensors]}

    def rows(self) -> list[tuple[str, ...]]:
        """Return (layer, of, bits, minimum, maximum, channels, range) of each tensor as text."""
        return [
            (
                each.path,
                each.of,
                str(each.bits),
                f"{each.minimum:.4g}" if each.state != "not seen" else "",
                f"{each.maximum:.4g}" if each.state != "not seen" else "",
                str(each.channels),
                each.state,
            )
            for each in self.tensors
        ]

    def table(self) -> Table:
        """Return the ranges."""
        return Table(f"ranges of {self.model}", _COLUMNS, self.rows(), right=_NUMBERS)


def ranges(model: keras.Model) -> Ranges:
    """Return the ranges of all QuantizeWeights, QuantizeOutput and QuantizeInput hooks of `model`.

    Those of weights are of what is stored: hooks before may change what is read.

    Raises:
        AbsentHookError: none of them is on the model.
        ModelTypeError: this is no Keras model.
    """
    found: list[TensorRange] = []
    for path, hook in kwrap.find_hooks(model):
        if isinstance(hook, Activations):
            found += _of_activations(path, hook)
        elif isinstance(hook, QuantizeWeights):
            found += _of_weights(path, hook)
    if not found:
        raise AbsentHookError(model.name, "quantize_*", sorted({hook.name for _, hook in kwrap.find_hooks(model)}))
    return Ranges(model.name, tuple(found))


def activations(model: keras.Model) -> list[tuple[str, Activations]]:
    """Return the hooks of `model` that round activations, with their layers' paths.

    Raises:
        AbsentHookError: there is none.
        ModelTypeError: this is no Keras model.
    """
    hooks = kwrap.find_hooks(model)
    found = [(path, hook) for path, hook in hooks if isinstance(hook, Activations)]
    if not found:
        raise AbsentHookError(model.name, "quantize_output", sorted({hook.name for _, hook in hooks}))
    return found


def require_ranges(model: keras.Model, what: str = "export") -> None:
    """Raise unless every range of `model` has seen something, and is finite: ask it before a model is exported.

    Args:
        what: what needs them, for the error.

    Raises:
        RangeNotSeenError: ranges have seen nothing; it names their layers.
        NonFiniteRangeError: ranges are NaN or infinite, those of weights included; it names their layers.
        AbsentHookError: no hook of this plugin is on the model.
    """
    found = ranges(model).tensors
    if paths := unseen(model):
        raise RangeNotSeenError(what, paths)
    if broken := [each.path for each in found if not np.isfinite([each.minimum, each.maximum]).all()]:
        raise NonFiniteRangeError(what, list(dict.fromkeys(broken)))


def unseen(model: keras.Model) -> list[str]:
    """Return the paths of the layers of `model` with a range that has seen nothing yet."""
    hooks = [(path, hook) for path, hook in kwrap.find_hooks(model) if isinstance(hook, Activations) and hook.moves]
    return [path for path, hook in hooks if not keras.ops.convert_to_numpy(hook.seen.value).all()]


def _of_activations(path: str, hook: Activations) -> list[TensorRange]:
    names = [hook.what] if hook.tensors == 1 else [f"{hook.what} {place}" for place in range(hook.tensors)]
    rows = []
    for place, name in enumerate(names):
        low, high, state = _ends(hook, place)
        low, high = _numbers(usable_range(tf.constant(low), tf.constant(high), hook.bits, hook.symmetric))
        if state == "not seen":
            low = high = 0.0
        rows.append(TensorRange(path, hook.name, name, hook.bits, low, high, 1, state))
    return rows


def _ends(hook: Activations, place: int) -> tuple[float, float, Any]:
    """Return the ends of a range as they are recorded, and its state."""
    if hook.fixed is not None:
        return *hook.fixed, "fixed"
    low, high = (float(keras.ops.convert_to_numpy(end.value)[place]) for end in (hook.minimum, hook.maximum))
    if not bool(keras.ops.convert_to_numpy(hook.seen.value)[place]):
        return low, high, "not seen"
    return low, high, "frozen" if bool(keras.ops.convert_to_numpy(hook.frozen.value)) else "moving"


def _of_weights(path: str, hook: QuantizeWeights) -> list[TensorRange]:
    rows = []
    for target in hook.target_weights:
        lows, highs = (np.ravel(end) for end in hook.range_of(target))
        state: Any = "learned" if hook.method == "learned" else "of weights"
        low, high = float(lows.min()), float(highs.max())
        rows.append(TensorRange(path, hook.name, target.name, hook.bits, low, high, lows.size, state))
    return rows


def _numbers(ends: Sequence[Any]) -> tuple[float, float]:
    low, high = (float(keras.ops.convert_to_numpy(end)) for end in ends)
    return low, high
