"""Surgery: putting one layer where another is held in a model. No layer is copied, no weight is touched."""

from collections.abc import Iterable, Mapping
from typing import Any

import keras

from kwrap import _keras
from kwrap._wrapper import Wrapper

__all__ = ["holders_of", "replace_layers"]

# (old, new) by the id of the old layer.
Pairs = Mapping[int, tuple[keras.Layer, keras.Layer]]
# (what was looked into, what stands for it) by the id of the first, which is held so that no other object gets its id.
Seen = dict[int, tuple[Any, Any]]


def holders_of(layers: Iterable[keras.Layer]) -> list[keras.Layer]:
    """Return whatever holds one of `layers`: the model at hand, and any other that shares a layer or graph with it.

    A base model below a fine-tuned one and a feature extractor call the very same nodes.
    """
    wanted = {id(layer) for layer in layers}
    return [
        holder
        for holder in _keras.living_layers()
        if not isinstance(holder, Wrapper) and any(id(held) in wanted for held in _keras.held_by(holder))
    ]


def replace_layers(holders: Iterable[keras.Layer], replacements: Iterable[tuple[keras.Layer, keras.Layer]]) -> None:
    """Put the new layer of each (old, new) where the old one stands in `holders`; (new, old) undoes it, also halfway.

    A layer is replaced in every attribute, list, tuple, set and dict of its holders, at its index (Keras saves weights
    in that order), and in the graphs that call it: the nodes are the new layer's from then on.
    """
    pairs = {id(old): (old, new) for old, new in replacements}
    all_holders = list(_with_graphs(holders))
    for holder in all_holders:
        _replace_in_attributes(holder, pairs, {})
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


def _replace_in_attributes(holder: object, pairs: Pairs, seen: Seen) -> None:
    # Past `__setattr__`, which would track: the tracker is told by `retrack`.
    attributes = vars(holder)
    for name, value in list(attributes.items()):
        attributes[name] = _replaced(value, pairs, seen)


def _replaced(value: Any, pairs: Pairs, seen: Seen) -> Any:
    """Return `value` with layers replaced: lists, dicts and sets in place, what cannot change anew."""
    if id(value) in pairs:
        return pairs[id(value)][1]
    if id(value) not in seen:
        seen[id(value)] = value, value
        seen[id(value)] = value, _replaced_inside(value, pairs, seen)
    return seen[id(value)][1]


def _replaced_inside(value: Any, pairs: Pairs, seen: Seen) -> Any:
    # `type(value)`, for TensorFlow's proxies claim to be what they wrap.
    kind = type(value)
    if issubclass(kind, tuple):
        items = [_replaced(item, pairs, seen) for item in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return kind(*items) if hasattr(value, "_fields") else kind(items)
    if issubclass(kind, _keras.TupleProxy | _keras.DictProxy):
        old = value.__wrapped__ if issubclass(kind, _keras.TupleProxy) else dict(value)
        new = _replaced(old, pairs, seen)
        return value if _same_items(new, value) else kind(new)
    if issubclass(kind, _keras.TrackableReference):
        ref = _replaced(value.ref, pairs, seen)
        return value if ref is value.ref else kind(value.name, ref)
    if issubclass(kind, _keras.ListWrapper):
        _replace_in_attributes(value, pairs, seen)
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


def _same_items(new: Any, old: Any) -> bool:
    keys = range(len(new)) if isinstance(new, tuple) else new
    return all(new[key] is old[key] for key in keys)
