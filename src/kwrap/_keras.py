"""Every private thing of Keras that kwrap touches: each with its reason, and a test in tests/test_keras.py.

Checked against Keras 3.15. Nothing else in kwrap imports `keras.src` or reads an underscore name of a Keras object.
"""

import functools
import gc
import inspect
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import keras
import tensorflow as tf
from keras.src.backend import AutocastScope, get_keras_mask
from keras.src.backend.common.global_state import get_global_attribute, set_global_attribute
from keras.src.backend.common.keras_tensor import any_symbolic_tensors
from keras.src.backend.common.remat import RematMode
from keras.src.backend.common.stateless_scope import get_stateless_scope
from keras.src.backend.common.symbolic_scope import in_symbolic_scope
from keras.src.backend.common.variables import initialize_all_variables
from keras.src.layers.layer import CallSpec

# The only cell of Keras that is not public.
from keras.src.layers.rnn.conv_lstm import ConvLSTMCell
from keras.src.models.functional import Functional, functional_like_constructor
from keras.src.ops.function import make_node_key
from keras.src.ops.node import KerasHistory
from keras.src.utils.tracking import Tracker

# What TensorFlow keeps of what becomes an attribute of a layer, and makes of lists, dicts and tuples past Keras' own
# tracking.
from tensorflow.python.trackable.base import TrackableReference
from tensorflow.python.trackable.data_structures import ListWrapper
from tensorflow.python.trackable.data_structures import _DictWrapper as DictProxy
from tensorflow.python.trackable.data_structures import _TupleWrapper as TupleProxy

__all__ = [
    "AutocastScope",
    "ConvLSTMCell",
    "DictProxy",
    "Functional",
    "ListWrapper",
    "TrackableReference",
    "TupleProxy",
    "any_symbolic_tensors",
    "functional_like_constructor",
    "get_keras_mask",
    "get_stateless_scope",
    "in_symbolic_scope",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])

# --- one layer ---------------------------------------------------------------------------------------------------


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
    """Keep AutoGraph, of a user's own `tf.function`, out of what runs outside graphs."""
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
    # `type`, for proxies of any library may claim to be a layer.
    return [thing for thing in gc.get_objects() if issubclass(type(thing), keras.Layer) and "_tracker" in vars(thing)]


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


# --- a model's graph -----------------------------------------------------------------------------------------------


def move_nodes(source: keras.Layer, target: keras.Layer) -> None:
    """Make every call of `source` that a graph recorded a call of `target`."""
    for index, node in enumerate(source._inbound_nodes, len(target._inbound_nodes)):
        node.operation = target
        for position, tensor in enumerate(node.outputs):
            tensor._keras_history = KerasHistory(target, index, position)
    target._inbound_nodes.extend(source._inbound_nodes)
    target._outbound_nodes.extend(source._outbound_nodes)
    source._inbound_nodes.clear()
    source._outbound_nodes.clear()


def rename_nodes(model: keras.Model, replaced: Mapping[int, tuple[keras.Layer, keras.Layer]]) -> None:
    """Rewrite the keys of a Functional model's nodes, which hold the id of the operation, after `move_nodes`.

    `replaced` maps the id of the old layer to (old, new).
    """
    keys = {
        make_node_key(old, index): make_node_key(new, index)
        for old, new in replaced.values()
        for index in range(len(new._inbound_nodes))
    }
    # Past `__setattr__`, here and below: Keras would list the attribute, once more each time, as one that it tracks.
    vars(model)["_nodes"] = {keys.get(key, key) for key in model._nodes}


def retrack(holder: keras.Layer, pairs: Mapping[int, tuple[keras.Layer, keras.Layer]]) -> None:
    """Let `holder`'s tracker know each new layer where it knew the old; the caller changes the attributes."""
    for _, store in holder._tracker.config.values():  # a Sequential's is another list than its `_layers`
        for index, held in enumerate(store):
            if id(held) in pairs:
                list.__setitem__(store, index, pairs[id(held)][1])
    for ids in holder._tracker.stored_ids.values():
        for old in ids & pairs.keys():
            ids.remove(old)
            ids.add(id(pairs[old][1]))


def recorded_calls(layer: keras.Layer) -> list[tuple[tuple[Any, ...], dict[str, Any], list[keras.KerasTensor]]]:
    """Return (args, kwargs, flat outputs), all KerasTensors, of each call of `layer` that a graph recorded."""
    return [(node.arguments.args, node.arguments.kwargs, node.outputs) for node in layer._inbound_nodes]


def graph_of(model: keras.Model) -> Functional | None:
    """Return the Functional graph of a Functional or built Sequential model; None for other models."""
    if isinstance(model, keras.Sequential):
        graph: Functional | None = model._functional
        return graph
    return model if isinstance(model, Functional) else None


def is_plain_graph(layer: keras.Layer) -> bool:
    """Tell whether a layer is a model that is rebuilt from its graph, not by a config of its class' own."""
    if type(layer) is keras.Sequential:
        return True
    return isinstance(layer, Functional) and functional_like_constructor(type(layer))


def output_spec(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Trace `function` on KerasTensors; return KerasTensors. Variables are neither created nor changed."""
    return keras.src.backend.compute_output_spec(function, *args, **kwargs)


def trace(function: Callable[[Any], None], specs: Any) -> None:
    """Call `function` with symbolic tensors in place of the KerasTensors in `specs`, as `output_spec` does.

    One stands for all that are alike: it takes TensorFlow as long to make as an op.
    """
    kinds = {_kind(spec): spec for spec in keras.tree.flatten(specs) if isinstance(spec, keras.KerasTensor)}

    def call(tensors: Sequence[Any]) -> None:
        of_kind = dict(zip(kinds, tensors, strict=True))
        function(keras.tree.map_structure(lambda one: of_kind.get(_kind(one), one), specs))

    output_spec(call, (list(kinds.values()),), {})


def _kind(value: Any) -> tuple[Any, ...] | None:
    return (value.shape, value.dtype, value.sparse) if isinstance(value, keras.KerasTensor) else None


# --- a compiled model ------------------------------------------------------------------------------------------------


def forget_traces(model: keras.Model) -> None:
    """Make a model trace its functions anew at their next use; `fit` may be running, and calls what it finds here."""
    for name in ("train", "test", "predict"):
        if getattr(model, f"{name}_function", None) is not None:
            setattr(model, f"{name}_function", None)
            getattr(model, f"make_{name}_function")()


def trainable_state(model: keras.Layer) -> Any:
    """Return what Keras compares in `fit`: whether each layer was trainable in `compile`; None if not compiled."""
    return getattr(model, "_compiled_trainable_state", None)


def refresh_trainable_state(model: keras.Model) -> None:
    """Add and drop the layers that kwrap put there from what Keras compares in `fit`, which warns of any change."""
    known = trainable_state(model)
    if known is not None:
        _refill(known, {layer: known.get(layer, layer.trainable) for layer in model._flatten_layers()})


def trainable_state_restorer(model: keras.Model) -> Callable[[], None]:
    """Return what undoes `refresh_trainable_state`."""
    known = trainable_state(model)
    return functools.partial(_refill, {} if known is None else known, dict(known or {}))


def _refill(known: dict[Any, Any], content: Mapping[Any, Any]) -> None:
    # In place: TensorFlow keeps the dict that `compile` set, and with it the layers that are its keys. And key by key:
    # after what goes past its own methods, as `clear` does, the model can be neither exported nor checkpointed.
    for key in [key for key in known if key not in content]:
        del known[key]
    known.update(content)


def optimized_variables(optimizer: keras.Optimizer) -> list[keras.Variable]:
    """Return the model's variables that a built optimizer has slots for."""
    return list(getattr(optimizer, "inner_optimizer", optimizer)._trainable_variables)


def shadows_in(optimizer: keras.Optimizer) -> list[tuple[keras.Variable, keras.Variable]]:
    """Return (variable, slot) for the slots that hold weights: moving averages, the iterates of ScheduleFreeAdamW."""
    found: list[tuple[keras.Variable, keras.Variable]] = []
    for part in optimizers_in(optimizer):
        averages = getattr(part, "_model_variables_moving_average", ())
        iterates = part._momentums if isinstance(part, keras.optimizers.ScheduleFreeAdamW) and part.built else ()
        for slots in (averages, iterates):
            found += zip(part._trainable_variables, slots, strict=False)
    return [(variable, slot) for variable, slot in found if slot is not None]


def optimizers_in(optimizer: keras.Optimizer) -> list[keras.Optimizer]:
    """Return `optimizer` and those that it hands its variables to: a LossScaleOptimizer's one, a MultiOptimizer's."""
    inner = getattr(optimizer, "inner_optimizer", None)
    handed = [*([] if inner is None else [inner]), *getattr(optimizer, "optimizers", ())]
    return [optimizer, *(part for held in handed for part in optimizers_in(held))]


def exclude_alike(
    source: keras.Optimizer, target: keras.Optimizer, pairs: Sequence[tuple[keras.Variable, keras.Variable]]
) -> None:
    """Exclude from weight decay in `target` what is in `source`, which is in no config.

    `pairs` are the variables of the model of `source`, each with that of the model of `target`.
    """
    for old, new in zip(optimizers_in(source), optimizers_in(target), strict=True):
        keys = vars(old).get("_exclude_from_weight_decay", ())
        pattern = vars(old).get("_exclude_from_weight_decay_pattern")
        if keys or pattern is not None:
            excluded = [counterpart for variable, counterpart in pairs if old._var_key(variable) in keys]
            new.exclude_from_weight_decay(excluded, [] if pattern is None else [pattern.pattern])


def optimizer_restorer(optimizer: keras.Optimizer) -> Callable[[], None]:
    """Return what undoes `rebuild_optimizer`."""
    before = [(vars(part), dict(vars(part))) for part in optimizers_in(optimizer)]

    def restore() -> None:
        for attributes, content in before:
            attributes.clear()
            attributes.update(content)

    return restore


def rebuild_optimizer(optimizer: keras.Optimizer, variables: Sequence[keras.Variable]) -> None:
    """Build a built optimizer for other variables; it keeps its iterations and the slots of variables that stay.

    In place: training loops, callbacks and a MultiOptimizer's function hold it. And its config does not tell all: what
    is excluded from weight decay, functions.
    """
    before = [(part, _slots(part)) for part in optimizers_in(optimizer)]
    choosing = [(part, part._optimizer_map) for part, _ in before if isinstance(part, keras.optimizers.MultiOptimizer)]
    for part, choice in choosing:
        vars(part)["_optimizer_map"] = _chosen_as_before(part)
        own = [*choice.values(), choice.default_optimizer] if isinstance(choice, keras.optimizers.OptimizerMap) else []
        part._inner_optimizers = list(dict.fromkeys(own))
    for part, slots in before:
        _unbuild(part, slots)
    optimizer.build(list(variables))
    for part, choice in choosing:
        vars(part)["_optimizer_map"] = choice
    for part, slots in before:
        _refill_slots(part, slots)


# The variables of an optimizer by what they are there for: an attribute, and a key in it.
_Slots = dict[tuple[str, Hashable], keras.Variable]


def _slots(optimizer: keras.Optimizer) -> _Slots:
    """Return an optimizer's own variables; those in a list, which has one for each of the model's, by the model's.

    Paths do not tell: those of two layers of one name are equal, and a LossScaleOptimizer's depend on who built it.
    """
    optimized = [id(variable) for variable in optimizer._trainable_variables]
    found: _Slots = {}
    for name, value in vars(optimizer).items():
        if isinstance(value, keras.Variable):
            found[name, None] = value
        elif isinstance(value, dict):
            found.update({(name, key): slot for key, slot in value.items() if isinstance(slot, keras.Variable)})
        elif isinstance(value, list) and len(value) == len(optimized) and name not in _LISTS:
            slots = zip(optimized, value, strict=True)
            found.update({(name, key): slot for key, slot in slots if isinstance(slot, keras.Variable)})
    return found


_LISTS = ("_variables", "_trainable_variables")


def _unbuild(optimizer: keras.Optimizer, slots: _Slots) -> None:
    """Make a built optimizer look as it did before, but for the variables that are attributes: its iterations."""
    attributes = vars(optimizer)
    for name, value in attributes.items():
        if name.startswith("_self_") and isinstance(value, dict | list | set):
            # TensorFlow changes them in place; plain copies, for Keras' tracker tracks what comes into its own.
            plain = next(kind for kind in (dict, list, set) if isinstance(value, kind))
            attributes[name] = plain(value)
    is_variable, _ = attributes.pop("_tracker").config["variables"]
    optimizer._variables, optimizer._trainable_variables, optimizer._trainable_variables_indices = [], [], {}
    optimizer._tracker = Tracker({"variables": (is_variable, optimizer._variables)})
    for (name, key), slot in slots.items():
        if key is None:
            optimizer._track_variable(slot)
        else:
            setattr(optimizer, name, {} if isinstance(attributes[name], dict) else [])
    optimizer.built = False


def _refill_slots(optimizer: keras.Optimizer, before: _Slots) -> None:
    """Give the slots of an optimizer that was built anew what they held before."""
    slots = _slots(optimizer)
    for purpose in before.keys() & slots.keys():
        if slots[purpose] is not before[purpose]:
            slots[purpose].assign(before[purpose])
    for (name, key), old in before.items():
        if key is None and slots[name, key] is not old:  # `build` made another one
            optimizer._untrack_variable(old)
    # From zero, and past the first step, an average would take long to come near the variable.
    for variable in optimizer._trainable_variables:
        average = "_model_variables_moving_average", id(variable)
        if average in slots.keys() - before.keys():
            slots[average].assign(variable)


def _chosen_as_before(multi: keras.optimizers.MultiOptimizer) -> Callable[[keras.Variable], keras.Optimizer]:
    """Return the choice of a MultiOptimizer; its own, which may make an optimizer a call, for new variables only."""
    choose = multi._optimizer_map
    chosen = {
        id(variable): multi.optimizers[multi._var_to_optimizer_idx[multi._var_key(variable)]]
        for variable in multi._trainable_variables
    }
    return lambda variable: chosen[id(variable)] if id(variable) in chosen else choose(variable)


@contextmanager
def uncompiled(model: keras.Model) -> Iterator[None]:
    """Let `model` look uncompiled for the moment."""
    compiled, model.compiled = model.compiled, False
    try:
        yield
    finally:
        model.compiled = compiled


def compile_arguments(model: keras.Model) -> dict[str, Any]:
    """Return the arguments that `model.compile` was last called with: the objects themselves, not their configs."""
    return dict(model._compile_config.config)
