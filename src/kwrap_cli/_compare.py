"""What tells two models apart: weights, hooks, outputs."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

import kwrap
from kwrap._selection import places
from kwrap_cli._contents import contents, value_of
from kwrap_cli._inputs import call

__all__ = ["different_hooks", "different_outputs", "different_weights"]

Rows = list[dict[str, Any]]


def different_weights(one: keras.Model, other: keras.Model) -> Rows:
    """Return the weights that only one of two models has, or with other values: weight, what differs, by how much."""
    first, second = _weights(one, {}), _weights(other, _alignment(one, other))
    rows: Rows = []
    for name in dict.fromkeys((*first, *second)):
        if name not in first or name not in second:
            rows.append({"weight": name, "differs": f"only in {'A' if name in first else 'B'}", "largest": ""})
            continue
        a, b = first[name], second[name]
        if a.shape != b.shape:
            rows.append({"weight": name, "differs": f"shapes {a.shape} and {b.shape}", "largest": ""})
        elif count := _unequal(a, b):
            rows.append({"weight": name, "differs": f"{count} of {a.size}", "largest": largest_difference(a, b)})
    return rows


def different_hooks(one: keras.Model, other: keras.Model) -> Rows:
    """Return the hooks that only one of two models has, or with other options or state: layer, hook, what differs."""
    first, second = _hooks(one, {}), _hooks(other, _alignment(one, other))
    rows: Rows = []
    for path, name in dict.fromkeys((*first, *second)):
        a, b = first.get((path, name)), second.get((path, name))
        if a is None or b is None:
            rows.append({"layer": path, "hook": name, "differs": f"only in {'B' if a is None else 'A'}"})
        elif differing := _differing(a, b):
            rows.append({"layer": path, "hook": name, "differs": ", ".join(differing)})
    return rows


def different_outputs(one: keras.Model, other: keras.Model, inputs: Any) -> Rows:
    """Return the largest difference of each output of two models on the same inputs."""
    first, second = call(one, inputs), call(other, inputs)
    if len(first) != len(second):
        return [{"output": "number of outputs", "largest": f"{len(first)} and {len(second)}"}]
    names = getattr(one, "output_names", ())
    if len(names) != len(first):
        names = [str(number) for number in range(len(first))]
    rows: Rows = []
    for name, a, b in zip(names, first, second, strict=True):
        differs = largest_difference(a, b) if a.shape == b.shape else f"shapes {a.shape} and {b.shape}"
        rows.append({"output": name, "largest": differs})
    return rows


def largest_difference(a: Any, b: Any) -> float:
    """Return the largest absolute difference of two arrays; infinite where one alone is NaN, or another infinity."""
    a, b = np.asarray(a, "float64"), np.asarray(b, "float64")
    with np.errstate(invalid="ignore"):
        differences = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    return float(np.max(np.where(np.isnan(differences), np.inf, differences), initial=0.0))


def _unequal(a: Any, b: Any) -> int:
    both_nan = np.isnan(a) & np.isnan(b) if a.dtype.kind == b.dtype.kind == "f" else False
    return int(np.sum((a != b) & ~np.asarray(both_nan)))


def _alignment(one: keras.Model, other: keras.Model) -> dict[str, str]:
    """Return the paths of `other` and, of each, that of the same layer in `one`.

    By position, where both have layers of the same types all along: automatic names count on from one model to the
    next. By path otherwise, which is what nothing is returned for.
    """
    first, second = places(one), places(other)
    alike = [(place.path.count("/"), type(place.layer)) for place in first] == [
        (place.path.count("/"), type(place.layer)) for place in second
    ]
    return {b.path: a.path for a, b in zip(first, second, strict=True)} if alike else {}


def _weights(model: keras.Model, paths: Mapping[str, str]) -> dict[str, Any]:
    return {
        f"{paths.get(layer.place.path, layer.place.path)}/{name}".lstrip("/"): value_of(weight)
        for layer in contents(model)
        for name, weight in layer.weights.items()
    }


def _hooks(model: keras.Model, paths: Mapping[str, str]) -> dict[tuple[str, str], kwrap.Hook]:
    return {(paths.get(path, path), hook.name): hook for path, hook in kwrap.find_hooks(model)}


def _differing(a: kwrap.Hook, b: kwrap.Hook) -> list[str]:
    """Return what differs of two hooks of one name: the class, or options and state by name."""
    if type(a) is not type(b):
        return [f"{type(a).__name__} and {type(b).__name__}"]
    first, second = a.get_config(), b.get_config()
    options = [name for name in first if first[name] != second.get(name)]
    pairs = zip(a.variables, b.variables, strict=False)
    state = [x.name for x, y in pairs if x.shape != y.shape or _unequal(value_of(x), value_of(y))]
    return options + [f"state {name}" for name in state if name != "seed_generator_state"]
