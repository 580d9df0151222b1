"""Surgery: putting one layer where another is held in a model. No layer is copied, no weight is touched."""

import collections
import functools
import gc
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras

from kwrap import _keras
from kwrap._wrapper import Wrapper

__all__ = ["Holders", "fixed_layers", "replace_layers"]

# (old, new) by the id of the old layer.
Pairs = Mapping[int, tuple[keras.Layer, keras.Layer]]
# (what was looked into, what stands for it) by the id of the first, which is held so that no other object gets its id.
Seen = dict[int, tuple[Any, Any]]


class Holders:
    """Who holds which layer, in `model` and in all other layers that are alive: nothing of Keras tells it.

    A base model below a fine-tuned one and a feature extractor call the very same nodes. Taken once an operation, for
    it looks at every object that lives.
    """

    def __init__(self, model: keras.Model) -> None:
        self._holders: dict[int, list[keras.Layer]] = {}
        # The model's own besides: `gc.freeze` hides from Python's collector what is alive.
        holders = (model, *_keras.all_sublayers(model), *_keras.living_layers())
        for holder in {id(holder): holder for holder in holders}.values():
            for held in _keras.held_by(holder):
                self._holders.setdefault(id(held), []).append(holder)

    def of(self, layers: Iterable[keras.Layer]) -> list[keras.Layer]:
        """Return whatever holds one of `layers` itself: models, composite layers, graphs; no Wrappers."""
        found = (holder for layer in layers for holder in self._holders.get(id(layer), ()))
        return list({id(holder): holder for holder in found if not isinstance(holder, Wrapper)}.values())

    def above(self, layers: Iterable[keras.Layer]) -> list[keras.Layer]:
        """Return whatever holds one of `layers` at any depth; no Wrappers."""
        found: dict[int, keras.Layer] = {}
        pending = list(layers)
        while pending:
            for holder in self._holders.get(id(pending.pop()), ()):
                if id(holder) not in found:
                    found[id(holder)] = holder
                    pending.append(holder)
        return [holder for holder in found.values() if not isinstance(holder, Wrapper)]


def fixed_layers(holders: Iterable[keras.Layer]) -> dict[tuple[int, int], tuple[str, str, str]]:
    """Return the layers that a holder keeps out of the reach of `replace_layers` as well, as in a closure.

    It may call them from there. By the ids of holder and layer: the holder's name, its class, and how it keeps it.
    """
    return {
        (id(holder), layer): (holder.name, type(holder).__name__, how)
        for holder in holders
        if not _keras.is_plain_graph(holder)
        for layer, how in _kept_aside(holder).items()
    }


def _kept_aside(holder: keras.Layer) -> dict[int, str]:
    """Return how `holder` keeps layers, by their ids, but in its attributes and the containers there."""
    containers: dict[int, Any] = {}
    starts = [*_not_in_containers(vars(holder), containers), *_methods(type(holder))]
    found, seen = dict[int, str](), dict(containers)
    for start in starts:
        is_function = isinstance(start, types.FunctionType)
        how = f"in a closure of {start.__qualname__}" if is_function else f"in a {type(start).__name__}"
        pending = [start]
        while pending:
            value = pending.pop()
            if id(value) in seen:
                continue
            seen[id(value)] = value
            if issubclass(type(value), keras.Layer):
                found.setdefault(id(value), how)
            else:
                pending.extend(_referenced(value))
    return found


def _methods(cls: type) -> Iterator[Any]:
    """Yield the functions of a user's class, decorated or not: one made in a function may close over a layer."""
    for base in cls.__mro__:
        if _is_users(base):
            yield from (value for value in vars(base).values() if isinstance(value, _FUNCTIONS) or _decorated(value))


def _not_in_containers(value: Any, containers: dict[int, Any]) -> Iterator[Any]:
    """Yield what is no layer and no container that `replace_layers` looks into; `containers` are those it changes."""
    if isinstance(value, list | dict | set):
        if id(value) not in containers:
            containers[id(value)] = value
            for item in value.values() if isinstance(value, dict) else value:
                yield from _not_in_containers(item, containers)
    elif isinstance(value, tuple):
        for item in value:
            yield from _not_in_containers(item, containers)
    elif isinstance(value, _keras.TrackableReference):
        yield from _not_in_containers(value.ref, containers)
    elif type(value) not in _PLAIN and not isinstance(value, keras.Layer):
        yield value


# What holds nothing: a model may have many, as in a vocabulary.
_PLAIN = frozenset((str, bytes, int, float, complex, bool, type(None)))
_FUNCTIONS = (types.FunctionType, property, staticmethod, classmethod, functools.cached_property)
_TRANSPARENT = (
    *_FUNCTIONS,
    types.CellType,
    types.MappingProxyType,
    types.MethodType,
    types.SimpleNamespace,
    collections.deque,
    functools.partial,
    tuple,
    list,
    dict,
    set,
    frozenset,
)


def _referenced(value: Any) -> Sequence[Any]:
    if isinstance(value, types.FunctionType):  # not its globals, by which everything is reached
        return value.__closure__, value.__defaults__, value.__kwdefaults__
    return gc.get_referents(value) if isinstance(value, _TRANSPARENT) or _is_users(type(value)) else _decorated(value)


def _decorated(value: Any) -> Sequence[Any]:
    """Return the function that `value` was made of, as by tf.function; none for other objects."""
    attributes = getattr(value, "__dict__", {})
    return (attributes["__wrapped__"],) if "__wrapped__" in attributes else ()


_NOT_USERS = {"kwrap", "keras", "tensorflow", "numpy", *sys.stdlib_module_names}


def _is_users(cls: type) -> bool:
    """Tell whether a class is of neither Python, TensorFlow nor Keras, whose objects hold no layers of a model's."""
    return cls.__module__.partition(".")[0] not in _NOT_USERS


def replace_layers(holders: Iterable[keras.Layer], replacements: Iterable[tuple[keras.Layer, keras.Layer]]) -> None:
    """Put the new layer of each (old, new) where the old one stands in `holders`; (new, old) undoes it, also halfway.

    A layer is replaced in every attribute, list, tuple, set and dict of its holders, also as a key, at its index (Keras
    saves weights in that order), and in the graphs that call it: the nodes are the new layer's from then on.
    """
    pairs = {id(old): (old, new) for old, new in replacements}
    of_layer: dict[int, list[int]] = {}
    for key, (_, new) in pairs.items():
        of_layer.setdefault(key, []).append(key)
        of_layer.setdefault(id(new), []).append(key)
    held = []
    for holder in _with_graphs(holders):
        # Of what it holds itself. Of others it may know, untracked, and nobody would ask it to let them go again.
        own = {key: pairs[key] for layer in _keras.held_by(holder) for key in of_layer.get(id(layer), ())}
        held.append((holder, own))
    for holder, own in held:
        record = _keras.trainable_state(holder)  # by layer, and `refresh_trainable_state` is for it
        _replace_in_attributes(holder, own, {id(record): (record, record)})
        _keras.retrack(holder, own)
    for old, new in pairs.values():
        _keras.move_nodes(old, new)
    for holder, own in held:
        if isinstance(holder, _keras.Functional):
            _keras.rename_nodes(holder, own)


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
    if type(value) in _PLAIN:
        return value
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
        _replace_in_dict(value, pairs, seen)
    elif issubclass(kind, set):
        for item in [item for item in value if id(item) in pairs]:
            set.remove(value, item)
            set.add(value, pairs[id(item)][1])
    return value


def _replace_in_dict(value: dict[Any, Any], pairs: Pairs, seen: Seen) -> None:
    own = collections.OrderedDict if isinstance(value, collections.OrderedDict) else dict
    new_keys = any(id(key) in pairs for key in value)
    for key, item in list(value.items()):
        if new_keys:  # all of them anew, to stay in order
            own.__delitem__(value, key)
        own.__setitem__(value, pairs[id(key)][1] if id(key) in pairs else key, _replaced(item, pairs, seen))


def _same_items(new: Any, old: Any) -> bool:
    if isinstance(new, dict) and list(new) != list(old):
        return False
    keys = range(len(new)) if isinstance(new, tuple) else new
    return all(new[key] is old[key] for key in keys)
