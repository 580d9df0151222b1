"""Hooks that no config of Keras reaches, inside composite layers and subclassed models: saved by their position."""

import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras

from kwrap import _keras
from kwrap._hook import Hook
from kwrap._registry import FORMAT, check_format, record, revive
from kwrap._selection import places
from kwrap._surgery import replace_layers
from kwrap._wrapper import Wrapper
from kwrap.errors import KwrapError, SavedHooksError

__all__ = ["Hooked", "bare_view", "follow_classes", "hooks_in", "plain_class", "put_hooks", "set_classes"]

# Where kwrap is not imported, Keras' error shows the config from its beginning.
_NEEDS = "kwrap: import it before loading"

# (path, hooks) of each Wrapper in a layer, by its position among all places in the layer.
Hooks = Mapping[int, tuple[str, Sequence[Hook]]]

_classes: dict[type[keras.Layer], type[keras.Layer]] = {}
_register: Callable[[Any], Any] = keras.saving.register_keras_serializable("kwrap", "Hooked")


class Hooked:
    """Stands before a layer's own class while hooks sit inside the layer; the class keeps its name.

    The configs of Functional and Sequential models hold the Wrappers of their graphs. Those of other layers are their
    authors', who know nothing of hooks: saved that way, the hooks would be lost in silence. Here the config is that of
    the layer without hooks, and the hooks by their position in it, for automatic names differ between processes.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make another layer of the layer's own class, as its classmethods may: it has no hooks."""
        return _plain(cls)(*args, **kwargs)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Leave out the layer's class' own: it would take the class on demand for one that its author defined."""

    def __reduce__(self: Any) -> tuple[Any, ...]:
        """Pickle as Keras does, for the layer's own class to load: that on demand is in no module."""
        reduced: Any = super().__reduce__()
        load = reduced[0]
        if getattr(load, "__self__", None) is type(self):  # and no way of the class' own
            load = getattr(plain_class(self), load.__name__)
        return load, *reduced[1:]

    def compute_output_spec(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Return what the layer's own class does, which calls the hooks inside; raise their errors as they are."""
        try:
            return super().compute_output_spec(*args, **kwargs)  # type: ignore[misc]
        except TypeError as error:
            # Keras makes an error anew of a text alone, which ours do not take.
            if isinstance(error.__context__, KwrapError):
                raise error.__context__ from None
            raise

    def get_config(self: Any) -> dict[str, Any]:
        """Return the serialized layer without hooks, and the records of its hooks."""
        hooks = [
            {"position": position, "path": path, "hooks": [record(hook) for hook in hooks]}
            for position, (path, hooks) in hooks_in(self).items()
        ]
        layer = _keras.serialized(bare_view(self, _keras.kept_while_saving()))
        # Compiled when the hooks are on: the optimizer has slots for their variables, too.
        layer.pop("compile_config", None)
        return {"needs": _NEEDS, "format": FORMAT, "layer": layer, "count": len(places(self)), "hooks": hooks}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None) -> keras.Layer:
        """Return the layer with its hooks; errors as `Wrapper.from_config`.

        Raises:
            SavedFormatError: a later kwrap wrote it.
            SavedHooksError: the layer holds another number of layers than when it was saved.
        """
        plain: Any = _plain(cls)
        if cls is not Hooked and "needs" not in config:
            # For `keras.models.clone_model` the class on demand is the one that the layer's own name means.
            return plain.from_config(config)
        check_format(config)
        # First, so that a missing plugin is told before the work of making the layer.
        hooks = {
            saved["position"]: (saved["path"], [revive(hook, saved["path"]) for hook in saved["hooks"]])
            for saved in config["hooks"]
        }
        known = {} if cls is Hooked else {plain.__name__: plain}  # a class that is not registered
        layer = keras.saving.deserialize_keras_object(
            config["layer"], custom_objects={**known, **(custom_objects or {})}
        )
        put_hooks(layer, config["count"], hooks)
        return layer


_register(Hooked)


def hooks_in(layer: keras.Layer) -> Hooks:
    """Return the hooks that sit inside `layer`, at any depth."""
    return {
        position: (place.wrapper.place, place.hooks)
        for position, place in enumerate(places(layer))
        if place.wrapper is not None
    }


def bare_view(value: Any, views: dict[int, keras.Layer]) -> Any:
    """Return `value` as it is without hooks, for the `get_config` of an author who knows nothing of them.

    Nothing in it is touched: other threads may call it, or save it. `views` are those of layers by their ids, made so
    far; while these live, a layer in two places has one view.
    """
    if isinstance(value, Wrapper):
        return bare_view(value.layer, views)
    if isinstance(value, keras.Layer):
        return views[id(value)] if id(value) in views else _view_of_layer(value, views)
    if isinstance(value, dict):
        return {key: bare_view(item, views) for key, item in value.items()}
    if isinstance(value, list):
        return [bare_view(item, views) for item in value]
    if isinstance(value, tuple):
        items = [bare_view(item, views) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return {bare_view(item, views) for item in value} if isinstance(value, set) else value


def _view_of_layer(layer: keras.Layer, views: dict[int, keras.Layer]) -> keras.Layer:
    is_graph = _keras.is_plain_graph(layer)
    if not isinstance(layer, Hooked) and not (is_graph and _has_hooks_inside(layer, {})):
        views[id(layer)] = layer
        return layer
    plain: Any = plain_class(layer)
    view = views[id(layer)] = object.__new__(plain)
    vars(view).update({name: bare_view(item, views) for name, item in vars(layer).items()})
    if is_graph:
        # Not of the view: the nodes of the graph know the layers that are called.
        vars(view)["get_config"] = lambda: _bare_config(plain.get_config(layer))
    return view


def _bare_config(config: Any) -> Any:
    """Return the config of a graph, with those of its layers in the place of their Wrappers'."""
    if isinstance(config, list | tuple):
        return type(config)(map(_bare_config, config))
    if not isinstance(config, dict):
        return config
    bare, place = config, {key: config[key] for key in ("name", "inbound_nodes") if key in config}
    while bare.get("registered_name", bare.get("class_name")) in ("kwrap>Wrapper", "kwrap>Hooked"):
        bare = bare["config"]["layer"]
    return {key: _bare_config(value) for key, value in {**bare, **place}.items()}


def _wrappers_by_position(layer: keras.Layer) -> dict[str, Wrapper]:
    return {f"wrapper_{at}": place.wrapper for at, place in enumerate(places(layer)) if place.wrapper is not None}


def put_hooks(layer: keras.Layer, count: int, hooks: Hooks) -> None:
    """Put hooks, whose state is yet to be loaded, into a layer that was rebuilt without them.

    Raises:
        SavedHooksError: `layer` does not hold `count` layers.
    """
    if len(places(layer)) == count or isinstance(layer, keras.Model):  # Keras has called a model to build it
        _put(layer, count, hooks)
    else:
        vars(layer)["_kwrap_awaited"] = count, hooks
        set_classes([(layer, _in_front(_Awaiting, plain_class(layer)))])


class _Awaiting:
    """Stands before the class of a layer that is to make layers yet, until its first call: they have hooks in the file.

    So does a layer without a `build` of its own that holds attention: the graph around calls it, after Keras has marked
    it as built, and before the state is loaded.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Leave out the layer's class' own, as `Hooked` does."""

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the layer as it is, and with its hooks."""
        set_classes([(self, plain_class(self))])
        _keras.symbolic_outputs(self, args, kwargs)
        _put(self, *vars(self).pop("_kwrap_awaited"))
        return self(*args, **kwargs)


def _put(layer: keras.Layer, count: int, hooks: Hooks) -> None:
    found = places(layer)
    if len(found) != count:
        raise SavedHooksError(layer.name, len(found), count)
    wrappers = [
        (found[at], Wrapper.loading(found[at].layer, own, path=path))
        for at, (path, own) in hooks.items()
        if found[at].wrapper is None  # in a layer that others share, they put them on
    ]
    replace_layers(
        [holder for place, _ in wrappers for holder in place.holders],
        [(place.layer, wrapper) for place, wrapper in wrappers],
    )
    for _, wrapper in wrappers:
        if wrapper.layer.built:
            wrapper.make_ready()  # Keras builds the optimizer next: what hooks freeze has no slots in it
    follow_classes([layer, *_keras.all_sublayers(layer)])


def follow_classes(layers: Iterable[keras.Layer]) -> None:
    """Let the class of each of `layers` say whether it holds hooks that its config does not reach."""
    known: dict[int, bool] = {}
    set_classes([(layer, _wanted_class(layer, known)) for layer in layers if not isinstance(layer, Wrapper | Hook)])


def set_classes(classes: Iterable[tuple[keras.Layer, type[keras.Layer]]]) -> None:
    """Give each layer the class that stands beside it, which is its own or that on demand over it."""
    for layer, cls in classes:
        if type(layer) is not cls:
            object.__setattr__(layer, "__class__", cls)  # past Keras' tracking and a class' own `__setattr__`


def plain_class(layer: keras.Layer) -> type[keras.Layer]:
    """Return the class that a layer has without hooks."""
    return _plain(type(layer))


def _plain(cls: type) -> type:
    return cls.__mro__[2] if cls.__mro__[1] in (Hooked, _Awaiting) else cls


def _wanted_class(layer: keras.Layer, known: dict[int, bool]) -> type[keras.Layer]:
    plain = plain_class(layer)
    return _hooked(plain) if _holds_hooks(_out_of_config(layer), known) else plain


def _out_of_config(layer: keras.Layer) -> list[keras.Layer]:
    """Return the layers in `layer` that Keras does not save by their own configs."""
    if not _keras.is_plain_graph(layer):
        return _keras.sublayers(layer)
    in_graph = {id(held) for held in layer.layers}
    return [held for held in _keras.sublayers(layer) if id(held) not in in_graph]


def _holds_hooks(layers: Sequence[keras.Layer], known: dict[int, bool]) -> bool:
    return any(isinstance(layer, Wrapper) or _has_hooks_inside(layer, known) for layer in layers)


def _has_hooks_inside(layer: keras.Layer, known: dict[int, bool]) -> bool:
    if id(layer) not in known:
        known[id(layer)] = False  # for a layer that holds itself, by a way round
        known[id(layer)] = _holds_hooks(_keras.sublayers(layer), known)
    return known[id(layer)]


def _hooked(plain: type[keras.Layer]) -> type[keras.Layer]:
    if plain not in _classes:
        # TensorFlow's checkpoints look into no list or dict of a layer's.
        _classes[plain] = _register(_keras.checkpointing(_wrappers_by_position)(_in_front(Hooked, plain)))
        _register(Hooked)  # Keras maps the one name to the class that was registered last
    return _classes[plain]


def _in_front(first: type, plain: type[keras.Layer]) -> type[keras.Layer]:
    """Return a class that looks as `plain`, with the methods of `first` before its own."""
    own = {name: getattr(plain, name) for name in ("__module__", "__qualname__", "__doc__")}
    return types.new_class(plain.__name__, (first, plain), exec_body=lambda body: body.update(own))
