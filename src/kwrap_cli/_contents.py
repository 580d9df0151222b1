"""What is in a model: its layers, each with its own weights and its hooks."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

import kwrap
from kwrap import _keras
from kwrap._selection import Place, places

__all__ = ["LayerContents", "contents", "value_of"]


@dataclass(frozen=True, kw_only=True)
class LayerContents:
    """A layer's place, and the weights that are its own: not of layers inside it, nor of its hooks."""

    place: Place
    weights: dict[str, keras.Variable]

    @property
    def depth(self) -> int:
        """How many layers hold it."""
        return self.place.path.count("/")

    @property
    def parameters(self) -> int:
        """The number of its own weights' elements."""
        return sum(_count(weight) for weight in self.weights.values())

    @property
    def bytes(self) -> int:
        """What its own weights take."""
        return _bytes(self.weights.values())

    @property
    def hook_bytes(self) -> int:
        """What the variables of its hooks take."""
        return _bytes(variable for hook in self.place.hooks for variable in hook.variables)

    def zeros(self) -> tuple[int, int]:
        """Return how many elements of the weights that hooks change by default are zero as stored, and of how many."""
        targets = kwrap.weight_targets(self.place.layer) if self.place.layer.built else ()
        values = [value_of(target.variable) for target in targets if target.default]
        size = sum(value.size for value in values)
        return size - sum(int(np.count_nonzero(value)) for value in values), size


def contents(model: keras.Model) -> list[LayerContents]:
    """Return the layers of a model, parents before what they hold; last the model itself, if it has own weights."""
    found = [LayerContents(place=place, weights=_named(place.layer)) for place in places(model)]
    own = _named(model)
    root = Place("", model, None, ())
    return [*found, LayerContents(place=root, weights=own)] if own else found


def value_of(variable: keras.Variable) -> Any:
    """Return a variable's value as NumPy counts and compares it; float64 for floats that NumPy lacks."""
    value = keras.ops.convert_to_numpy(variable)
    return value.astype("float64") if value.dtype.kind == "V" or "bfloat16" in str(value.dtype) else value


def _named(layer: keras.Layer) -> dict[str, keras.Variable]:
    """Return a layer's own weights by name; a name that stands twice is told apart by a number."""
    named: dict[str, keras.Variable] = {}
    for weight in _keras.own_weights(layer):
        name, count = weight.name, 2
        while name in named:
            name, count = f"{weight.name}#{count}", count + 1
        named[name] = weight
    return named


def _count(variable: keras.Variable) -> int:
    return int(np.prod(variable.shape, dtype="int64"))


def _bytes(variables: Iterable[keras.Variable]) -> int:
    return sum(int(keras.ops.convert_to_numpy(one).nbytes) for one in variables)
