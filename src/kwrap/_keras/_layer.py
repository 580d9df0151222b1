"""What kwrap touches of one Keras layer, of its variables, and of the call that it is in."""

import functools
import gc
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import keras
import tensorflow as tf
from keras.src.backend.common.global_state import get_global_attribute, set_global_attribute
from keras.src.backend.common.remat import RematMode
from keras.src.backend.common.stateless_scope import get_stateless_scope
from keras.src.backend.common.variables import initialize_all_variables
from keras.src.layers.layer import CallSpec

__all__ = [
    "adopt_losses",
    "all_sublayers",
    "assign_directly",
    "build_for_call",
    "building",
    "call_signature",
    "call_training",
    "checkpoint_parts",
    "checkpointing",
    "current_graph",
    "flattened",
    "has_own_weights",
    "held_by",
    "in_many_replicas",
    "in_stateless_scope",
    "is_lifted",
    "kept_while_saving",
    "lift",
    "lift_like",
    "living_layers",
    "lower",
    "mirror_call",
    "move_remat",
    "outside_graphs",
    "own_dtype",
    "own_weights",
    "quantization",
    "read",
    "recomputes",
    "resume_remat",
    "serialized",
    "set_plain",
    "set_tracked",
    "stop_remat",
    "stored_value",
    "sublayers",
    "symbolic_outputs",
    "unconverted",
    "undecorate_build",
    "under_scope",
    "unlocked",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def mirror_call(wrapper: keras.Layer, layer: keras.Layer) -> None:
    """Make `wrapper` take a call's arguments as `layer` does: Keras reads these flags of what a graph calls."""
    names = (
        "_call_context_args",  # arguments besides `training` that Keras hands down
        "_call_has_context_arg",
        "_convert_input_args",
        "_allow_non_tensor_positional_args",
        "supports_jit",
    )
    # A Wrapper made inside a RematScope must not recompute: its layer does (see `move_remat`).
    vars(wrapper).update({name: getattr(layer, name) for name in names}, _remat_mode=None)


def call_signature(layer: keras.Layer) -> inspect.Signature:
    """Return the signature of the layer's `call`, which Keras has looked at when it made the layer."""
    signature: inspect.Signature = layer._call_signature
    return signature


# The modes that recompute a layer's whole call; "activations" recomputes the activation alone, which is the layer's.
_WHOLE_CALL = ("full", "larger_than", "list_of_layers")


def move_remat(source: keras.Layer, target: keras.Layer) -> None:
    """Move a RematScope's mode to the layer outside: recomputing loses gradients of tensors from outside of it."""
    mode: RematMode | None = source._remat_mode
    if mode is not None and mode.mode in _WHOLE_CALL:
        target._remat_mode, source._remat_mode = mode, None


def recomputes(layer: keras.Layer) -> bool:
    """Tell whether a RematScope has the layer compute its call again for the gradient."""
    return layer._remat_mode is not None


def stop_remat(layers: Iterable[keras.Layer]) -> None:
    """Keep layers from recomputing by themselves: the cells of a recurrent layer, for the reason of `move_remat`."""
    for layer in layers:
        mode: RematMode | None = layer._remat_mode
        if mode is not None and mode.mode in _WHOLE_CALL:
            # Past `__setattr__`, which would make another of a named tuple.
            vars(layer).update(_kwrap_remat=mode, _remat_mode=None)


def resume_remat(layers: Iterable[keras.Layer]) -> None:
    """Undo `stop_remat`."""
    for layer in layers:
        if "_kwrap_remat" in vars(layer):
            vars(layer)["_remat_mode"] = vars(layer).pop("_kwrap_remat")


def undecorate_build(layer: keras.Layer) -> None:
    """Take Keras' wrapper of `build` off an instance: it stores the arguments, and so tracks them as children."""
    layer.__dict__.pop("build", None)


@contextmanager
def building(layer: keras.Layer, parent_path: str | None) -> Iterator[None]:
    """Give `layer`'s new variables a path below `parent_path`, and lock its state afterwards, as Keras does."""
    layer._parent_path = parent_path
    with layer._open_name_scope():
        yield
    layer.built = True
    layer._lock_state()


def build_for_call(layer: keras.Layer, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Build an unbuilt `layer` for a call with these arguments, exactly as its own `__call__` would."""
    specs, keywords = keras.tree.map_structure(functools.partial(_as_spec, layer), (tuple(args), dict(kwargs)))
    if not layer._allow_non_tensor_positional_args and not all(map(_is_tensor_or_none, keras.tree.flatten(specs))):
        return  # the call itself raises, in Keras' words
    call = CallSpec(layer._call_signature, layer._call_context_args, specs, keywords)
    layer._assert_input_compatibility(call.first_arg)
    with layer._open_name_scope():
        layer._maybe_build(call)


def _is_tensor_or_none(value: Any) -> bool:
    return value is None or isinstance(value, keras.KerasTensor) or bool(keras.ops.is_tensor(value))


def _as_spec(layer: keras.Layer, value: Any) -> Any:
    if isinstance(value, keras.KerasTensor):
        return value
    if layer._convert_input_args and not keras.ops.is_tensor(value):
        value = layer.dtype_policy.convert_input(value, layer.autocast, layer.input_dtype)
    if not keras.ops.is_tensor(value):
        return value
    return keras.KerasTensor(value.shape, value.dtype, sparse=isinstance(value, tf.SparseTensor))


def symbolic_outputs(layer: keras.Layer, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return what `layer` gives for KerasTensors, leaving no node of this call behind: the Wrapper's stands for it."""
    count = len(layer._inbound_nodes)
    outputs = layer(*args, **kwargs)
    for node in layer._inbound_nodes[count:]:
        for tensor in node.input_tensors:
            if tensor._keras_history.operation is not None:
                tensor._keras_history.operation._outbound_nodes.remove(node)
    del layer._inbound_nodes[count:]
    return outputs


def call_training() -> Any:
    """Return `training` of the call that is under way: a bool, or None where nobody said."""
    context = get_global_attribute("current_call_ctx")
    return None if context is None else context.get_value("training")


def outside_graphs() -> AbstractContextManager[None]:
    """Return a context in which variables can be created and assigned although a graph is being traced."""
    scope: AbstractContextManager[None] = tf.init_scope()
    return scope


def current_graph() -> Any:
    """Return the graph that is being traced; None outside of any."""
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def unconverted(function: _Function) -> _Function:
    """Keep AutoGraph, of a user's own `tf.function`, out of what has no control flow for it."""
    plain: _Function = tf.autograph.experimental.do_not_convert(function)
    return plain


def read(variable: keras.Variable) -> Any:
    """Return the value as a tensor, which later assignments do not change; gradients reach the variable."""
    return tf.convert_to_tensor(variable.value)


def serialized(layer: keras.Layer) -> dict[str, Any]:
    """Return `layer` as a config for another's config; in a file with the mark of what is in it in several places.

    Keras marks what it meets again, also where it met it before; by then that place's config may have been copied.
    """
    config: dict[str, Any] = keras.saving.serialize_keras_object(layer)
    if get_global_attribute("shared_objects/id_to_config_map") is not None:
        config["shared_object_id"] = id(layer)
    return config


def kept_while_saving() -> dict[Any, Any]:
    """Return a dict that lives as long as the file that this thread is saving is marked; a new one outside of that.

    Keras marks objects by their ids, which those of objects that are no more would take over.
    """
    marks = get_global_attribute("shared_objects/id_to_config_map")
    kept: dict[Any, Any] = {} if marks is None else marks.setdefault("kwrap", {})
    return kept


def checkpointing(parts: Callable[[Any], Mapping[str, Any]]) -> Callable[[type], type]:
    """Return a decorator: `tf.train.Checkpoint` saves `parts` of such a layer, besides those that are attributes.

    TensorFlow asks this method for them, and does not look into the lists that Keras makes of a layer's lists.
    """

    def decorate(cls: Any) -> Any:
        ask = cls._trackable_children

        @functools.wraps(ask)
        def children(self: Any, save_type: str = "checkpoint", **kwargs: Any) -> Any:
            found = ask(self, save_type, **kwargs)
            return {**found, **parts(self)} if save_type == "checkpoint" else found

        cls._trackable_children = children
        return cls

    return decorate


def checkpoint_parts(layer: keras.Layer) -> dict[str, Any]:
    """Return what `tf.train.Checkpoint` saves of a layer, by name."""
    return dict(layer._trackable_children("checkpoint"))


def in_stateless_scope() -> bool:
    """Tell whether variables can neither be read nor initialized now."""
    return get_stateless_scope() is not None


@contextmanager
def under_scope(scope: keras.StatelessScope | None) -> Iterator[None]:
    """Let `scope` be the stateless scope that is open for the moment, or none."""
    previous = get_stateless_scope()
    set_global_attribute("stateless_scope", scope)
    try:
        yield
    finally:
        set_global_attribute("stateless_scope", previous)


def in_many_replicas() -> bool:
    """Tell whether this code runs once a replica, where variables cannot be created."""
    context = tf.distribute.get_replica_context()
    return context is not None and bool(context.num_replicas_in_sync > 1)


def adopt_losses(layer: keras.Layer, losses: Sequence[Any]) -> None:
    """Give losses that a stateless scope collected to those of `layer` and its sublayers that added them."""
    for owner in layer._flatten_layers():
        own = [loss for loss in losses if id(loss) in owner._loss_ids]
        owner._losses.extend(own)
        owner._loss_ids.difference_update(id(loss) for loss in own)


def stored_value(variable: keras.Variable) -> Any:
    """Return what the variable holds, past the stateless scope that is open; create it if that scope put it off."""
    if variable._value is None:  # such as the global seed, at the first random number without a seed
        with under_scope(None):
            initialize_all_variables()
    return variable._value


def assign_directly(variable: keras.Variable, value: Any) -> None:
    """Assign past the stateless scope that is open."""
    stored_value(variable)
    variable._direct_assign(value)


def own_dtype(variable: keras.Variable) -> str:
    """Return the dtype that the variable is stored in; `variable.dtype` is that of the autocast scope."""
    dtype: str = keras.backend.standardize_dtype(variable._dtype)
    return dtype


def quantization(layer: keras.Layer) -> tuple[Any, bool]:
    """Return the state that `quantize` and `enable_lora` change behind a Wrapper's back."""
    return layer.quantization_mode, bool(getattr(layer, "lora_enabled", False))


def sublayers(layer: keras.Layer) -> list[keras.Layer]:
    """Return the layers that `layer` holds itself, those of a graph first; Keras has a public list for models only.

    That of a Functional model lacks what a subclass holds beside its graph.
    """
    graph = layer.layers if isinstance(layer, keras.Model) else ()
    beside = () if isinstance(layer, keras.Sequential) else layer._layers
    return list({id(held): held for held in (*graph, *beside) if not isinstance(held, keras.Metric)}.values())


def living_layers() -> list[keras.Layer]:
    """Return every layer and model that exists: nothing of Keras tells who else holds a layer or shares its graph."""
    # By `type`, for proxies of any library may claim to be a layer; and by the set of all classes, which is faster to
    # ask than each class for its bases.
    classes = _subclasses(keras.Layer, set())
    return [thing for thing in gc.get_objects() if type(thing) in classes and "_tracker" in vars(thing)]


def _subclasses(cls: type, found: set[type]) -> set[type]:
    """Add `cls` and all classes below it to `found`, and return it."""
    found.add(cls)
    subclasses: list[type] = type.__subclasses__(cls)
    for subclass in subclasses:
        if subclass not in found:
            _subclasses(subclass, found)
    return found


def held_by(layer: keras.Layer) -> list[keras.Layer]:
    """Return what `layer` itself tracks as sublayers; of a graph, the layers that it calls."""
    return list(layer._layers)


def has_own_weights(layer: keras.Layer) -> bool:
    """Tell whether `layer` has weights besides those of the layers that it holds; an RNN's cell is part of it."""
    return bool(own_weights(layer))


def own_weights(layer: keras.Layer) -> list[keras.Variable]:
    """Return the weights of `layer` itself, and not those of the layers that it holds; an RNN's cell is part of it."""
    if isinstance(layer, keras.layers.RNN):
        parts = [layer, *all_sublayers(layer)]
        return list({id(weight): weight for part in parts for weight in _tracked_weights(part)}.values())
    own = _tracked_weights(layer)
    if not own:
        return own
    # SpectralNormalization has the kernel of its inner layer as an attribute, and so tracks it, too.
    held = {id(weight) for inner in all_sublayers(layer) for weight in _tracked_weights(inner)}
    return [weight for weight in own if id(weight) not in held]


def _tracked_weights(layer: keras.Layer) -> list[keras.Variable]:
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def flattened(layer: keras.Layer) -> list[keras.Layer]:
    """Return `layer` and all that it holds, parents first: input layers and a shared layer's later places included."""
    return list(layer._flatten_layers())


def all_sublayers(layer: keras.Layer) -> list[keras.Layer]:
    """Return the layers that `layer` holds at any depth, parents first; a shared one once for each holder."""
    return list(_descend(layer, set()))


def _descend(layer: keras.Layer, entered: set[int]) -> Iterator[keras.Layer]:
    entered.add(id(layer))
    for held in sublayers(layer):
        yield held
        # What a shared layer holds comes once; a layer may hold one that holds it.
        if id(held) not in entered:
            yield from _descend(held, entered)


@contextmanager
def unlocked(layer: keras.Layer) -> Iterator[Any]:
    """Let `layer`'s tracker take and give away state for the moment; yields the tracker."""
    tracker, locked = layer._tracker, layer._tracker.locked
    tracker.unlock()
    try:
        yield tracker
    finally:
        if locked:
            tracker.lock()


def set_tracked(layer: keras.Layer, name: str, old: Iterable[Any], new: Sequence[Any]) -> None:
    """Set attribute `name` to the list `new`, tracked by `layer` in place of the objects in `old`."""
    with unlocked(layer) as tracker:
        for value in old:
            tracker.untrack(value)
        if name in layer._tracked:  # Keras lists the name once more each time
            layer._tracked.remove(name)
        setattr(layer, name, list(new))


_PLAIN = frozenset((bool, int, float, str, type(None)))


def set_plain(layer: keras.Layer, name: str, value: Any) -> bool:
    """Set an attribute to a number, a text or None, which no tracker takes; tell whether `value` is one.

    Keras sets some thirty in making a layer, and asks its own tracker and TensorFlow's about each: a third of the time.
    """
    if type(value) not in _PLAIN:
        return False
    object.__setattr__(layer, name, value)
    return True


def is_lifted(layer: keras.Layer) -> bool:
    """Tell whether `lift` made a frozen layer trainable."""
    return "_kwrap_lifted" in vars(layer)


def lift(layer: keras.Layer, beneath: int) -> None:
    """Make a frozen `layer` trainable, itself alone: the setter would set all that it holds.

    `beneath`, the count of trainable layers below it, tells later whether somebody used the setter since.
    """
    vars(layer).update(_trainable=True, _kwrap_lifted=beneath)


def lift_like(layer: keras.Layer, source: keras.Layer) -> None:
    """Lift `layer`, a copy of `source`, if `source` is lifted."""
    if is_lifted(source):
        lift(layer, vars(source)["_kwrap_lifted"])


def lower(layer: keras.Layer, beneath: int) -> None:
    """Undo `lift`, unless the count of trainable layers below shows that the user has set `trainable` since."""
    if is_lifted(layer):
        vars(layer)["_trainable"] = vars(layer).pop("_kwrap_lifted") != beneath
