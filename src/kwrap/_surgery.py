"""Surgery: putting one layer where another is held in a model. No layer is copied, no weight is touched."""

from collections.abc import Iterable, Mapping
from typing import Any

import keras

from kwrap import _keras

__all__ = ["replace_layers"]

# (old, new) by the id of the old layer.
Pairs = Mapping[int, tuple[keras.Layer, keras.Layer]]


def replace_layers(holders: Iterable[keras.Layer], replacements: Iterable[tuple[keras.Layer, keras.Layer]]) -> None:
    """Put the new layer of each (old, new) where the old one stands in `holders`; (new, old) undoes it, also halfway.

    A layer is replaced in every attribute, list, tuple, set and dict of its holders, at its index (Keras saves weights
    in that order), and in the graphs that call it: the nodes are the new layer's from then on.
    """
    pairs = {id(old): (old, new) for old, new in replacements}
    all_holders = list(_with_graphs(holders))
    for holder in all_holders:
        _replace_in_attributes(holder, pairs, set())
        _keras.retrack(holder, pairs)
    for old, new in pairs.values():
        _keras.move_nodes(old, new)
    for holder in all_holders:
        if isinstance(holder, _keras.Functional):
            _keras.rename_nodes(holder, pairs)


def _with_graphs(holders: Iterable[keras.Layer]) -> Iterable[keras.Layer]:
    """Yield the holders, each once, and the graphs that Sequential models keep beside their layers."""
    unique = {id(holder): holder for holder in holders}
    for holder in unique.values():
        yield holder
        graph = _keras.graph_of(holder)
        if graph is not None and graph is not holder:
            yield graph


def _replace_in_attributes(holder: object, pairs: Pairs, seen: set[int]) -> None:
    # Past `__setattr__`, which would track: the tracker is told by `retrack`.
    attributes = vars(holder)
    for name, value in list(attributes.items()):
        attributes[name] = _replaced(value, pairs, seen)


def _replaced(value: Any, pairs: Pairs, seen: set[int]) -> Any:
    """Return `value` with layers replaced: mutable containers in place, tuples anew."""
    if id(value) in pairs:
        return pairs[id(value)][1]
    if id(value) in seen:
        return value
    # `type(value)`, for TensorFlow's proxies claim to be what they wrap.
    kind = type(value)
    if issubclass(kind, tuple):
        items = [_replaced(item, pairs, seen) for item in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return kind(*items) if hasattr(value, "_fields") else kind(items)
    seen.add(id(value))
    if issubclass(kind, _keras.ListWrapper):
        _replace_in_attributes(value, pairs, seen)
    elif issubclass(kind, _keras.DictProxy):
        copy = _replaced(dict(value), pairs, seen)
        return value if all(copy[key] is value[key] for key in copy) else copy
    elif issubclass(kind, _keras.TupleProxy):
        copy = _replaced(value.__wrapped__, pairs, seen)
        return value if copy is value.__wrapped__ else copy
    # Below, the built-in methods: a tracked container's own would track what the tracker knows.
    elif issubclass(kind, list):
        for index, item in enumerate(value):
            list.__setitem__(value, index, _replaced(item, pairs, seen))
    elif issubclass(kind, dict):
        for key, item in value.items():
            dict.__setitem__(value, key, _replaced(item, pairs, seen))
    elif issubclass(kind, set):
        for item in [item for item in value if id(item) in pairs]:
            set.remove(value, item)
            set.add(value, pairs[id(item)][1])
    return value
