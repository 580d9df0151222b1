"""Checks of what a hook does to its layer's weights, and of what is left when it is taken off."""

from typing import Any

import keras
import numpy as np

from kwrap._hook import Hook, accepts
from kwrap._model import clone_model, unwrap_model
from kwrap._targets import WeightTarget
from kwrap.testing._check import NotApplicable, Wrong, check
from kwrap.testing._compare import arrays, must_be_close, must_be_finite, must_be_same, values
from kwrap.testing._example import Example
from kwrap.testing._graphs import graph_ops

__all__: list[str] = []


@check(where="kwrap.Hook", way_out="keep no layer and no target's variable in an attribute: both come as arguments")
def its_variables_are_its_own(example: Example) -> None:
    """The hook's variables are those that it made: a layer or a variable of it that it keeps would be saved twice."""
    wrapper = example.wrapped()
    of_layer = {id(variable): variable.path for variable in wrapper.layer.variables}
    if shared := [of_layer[id(variable)] for variable in wrapper.hooks[0].variables if id(variable) in of_layer]:
        raise Wrong(f"it tracks {shared}, which are the layer's")


@check(
    where="kwrap.Hook.initialize", way_out="return values from `parametrize` or `constrain`; kwrap does the assigning"
)
def other_weights_are_left_alone(example: Example) -> None:
    """Of the weights only the targets change: by `constrain` while it is on, by `merge` when it is taken off."""
    layer = example.new_layer()
    variables = layer.trainable_variables  # a hook may freeze some
    before = values(variables)
    model = example.wrapped_model(example.model(layer))
    hook = model.get_layer(example.layer.name).hooks[0]
    for training in (False, True):
        example.call_model(model, training)
    of_hook = {id(target.variable) for target in hook.target_weights}
    may_change = of_hook if type(hook).overrides("constrain") else set()
    _others_same(variables, before, may_change, "while the hook is on")
    unwrap_model(model)
    _others_same(variables, before, of_hook, "after unwrapping")


def _others_same(variables: Any, before: list[Any], may_change: set[int], when: str) -> None:
    for variable, value in zip(variables, before, strict=True):
        if id(variable) not in may_change:
            must_be_same([variable.value], [value], f"{variable.path} {when}")


@check(where="kwrap.Hook.parametrize", way_out="compute with `value`: hooks before this one have changed it already")
def parametrize_reads_the_value_given(example: Example) -> None:
    """`parametrize` changes the value that it is given, not the variable's."""
    _reads_value(example, "parametrize", {"training": False})


@check(
    where="kwrap.Hook.constrain",
    way_out="compute with `value`: it is the optimizer's, and the variable may hold another",
)
def constrain_reads_the_value_given(example: Example) -> None:
    """`constrain` changes the value that it is given, not the variable's."""
    _reads_value(example, "constrain", {"step": None})


def _reads_value(example: Example, method: Any, arguments: dict[str, Any]) -> None:
    hook, targets = _targets(example, method)
    function = getattr(hook, method)
    keywords = {name: value for name, value in arguments.items() if accepts(getattr(type(hook), method), name)}
    for target in targets:
        stored = keras.ops.convert_to_tensor(target.variable.value)
        other = stored * -1.5 + 0.25
        one, two = (keras.ops.convert_to_numpy(function(target, value, **keywords)) for value in (stored, other))
        if np.array_equal(one, two):
            raise Wrong(f"for {target.name!r} it returns the same, whatever `value` is")


@check(where="kwrap.Hook.constrain", way_out="project: what is projected already stays, as zeros do in kwrap_prune")
def constrain_is_idempotent(example: Example) -> None:
    """Without an update (`step` None) `constrain` leaves as it is what it has returned."""
    hook, targets = _targets(example, "constrain")
    for target in targets:
        once = constrained(hook, target, target.variable.value)
        must_be_same([constrained(hook, target, once)], [once], f"{target.name!r}, constrained again")


@check(where="kwrap.Hook.constrain", way_out="advance where `step` is not None, as kwrap_prune does with its masks")
def saving_does_not_advance_it(example: Example) -> None:
    """Without an update (`step` None), as before saving, `constrain` changes no state."""
    hook, targets = _targets(example, "constrain")
    before = values(hook.variables)
    for target in targets:
        constrained(hook, target, target.variable.value)
    names = [variable.path for variable in hook.variables]
    must_be_same([variable.value for variable in hook.variables], before, "after constrain(step=None)", names)


@check(where="kwrap.Hook.merge", way_out="override `merge` where the default, parametrize(training=False), is not it")
def merged_equals_wrapped(example: Example) -> None:
    """The unwrapped model gives at inference what the wrapped one gave."""
    if example.random_at_inference:
        raise NotApplicable("its inference is random")
    if type(example.hook).overrides("call") and example.hook.phase != "training":
        raise NotApplicable("it acts on activations, which is lost on unwrapping")
    model = example.wrapped_model()
    expected = example.call_model(model)
    unwrap_model(model)
    must_be_close(example.call_model(model), expected, "the output of the unwrapped model")


@check(
    where="kwrap.Hook.additive", way_out="say `additive = True` only of a class whose `parametrize` returns value + x"
)
def adds_the_same_to_any_value(example: Example) -> None:
    """What a hook that is `additive` adds to a weight does not depend on the weight."""
    if not example.hook.additive:
        raise NotApplicable("it is not additive")
    wrapper = example.wrapped()
    example.trained(wrapper)
    (hook,) = wrapper.hooks
    for target in hook.target_weights:
        stored = keras.ops.convert_to_tensor(target.variable.value)
        other = stored * -1.5 + 0.25
        two = hook.merge(target, other) - other + stored
        must_be_close(hook.merge(target, stored), two, f"what is added to another value of {target.name!r}")


@check(
    where="kwrap.unwrap_model", way_out="change nothing of the layer but what the methods return: no attribute, no flag"
)
def unwrapping_leaves_nothing(example: Example) -> None:
    """Unwrapped, a layer is what it was: class, config, attributes, variables, constraints, flags, graph."""
    layer = example.new_layer()
    model = example.model(layer)
    before, ops = _portrait(layer), graph_ops(example, layer)
    example.wrapped_model(model)
    example.call_model(model, training=True)
    unwrap_model(model, merge=False)
    if model.get_layer(example.layer.name) is not layer:
        raise Wrong("the model holds another layer")
    after = _portrait(layer)
    if changed := sorted(name for name in {*before, *after} if before.get(name) != after.get(name)):
        raise Wrong(f"of the layer, {', '.join(map(repr, changed))} changed")
    if (now := graph_ops(example, layer)) != ops:
        raise Wrong(f"the graph of its call has {now} ops instead of {ops}")


@check(where="kwrap.Hook", way_out="say `freezes = True` on the class, and leave `trainable` alone")
def trainable_flags_are_as_said(example: Example) -> None:
    """A hook that `freezes` stops the training of its targets while it is on; nobody else stops any."""
    layer = example.new_layer()
    before = {variable.path: variable.trainable for variable in layer.variables}
    wrapper = example.wrapped(layer=layer)
    frozen = {target.variable.path for target in wrapper.hooks[0].target_weights if example.hook.freezes}
    for variable in layer.variables:
        expected = before[variable.path] and variable.path not in frozen
        if variable.trainable != expected:
            raise Wrong(f"{variable.path} has trainable={variable.trainable} while the hook is on, not {expected}")


@check(
    where="kwrap.Hook.constrain",
    way_out="do not assign to variables of the layer, and to trainable ones of the hook only",
)
def frozen_layers_stay(example: Example) -> None:
    """On a layer that is not trainable the hook works, and training leaves the layer's weights as they are."""
    layer = example.new_layer()
    wrapper = example.wrapped(layer=layer)
    wrapper.trainable = False
    weights = layer.weights
    before, names = values(weights), [variable.path for variable in weights]
    example.trained(wrapper)
    must_be_finite(example.call(wrapper), "the output of a frozen layer")
    must_be_same([variable.value for variable in weights], before, "training of a frozen layer", names)


@check(
    where="kwrap.clone_model",
    way_out="keep nothing that two hooks share: no class attribute, no global, no default list",
)
def a_copy_leaves_the_original_alone(example: Example) -> None:
    """`kwrap.clone_model` gives a copy with the hook; the original stays as it is, to the bit, also while it trains."""
    layer = example.new_layer()
    model = example.model(layer)
    before, portrait = values(model.variables), _portrait(layer)
    expected = example.call_model(model)
    copy = clone_model(model, example.new_hook(), where=example.layer.name)
    example.trained(copy.get_layer(example.layer.name), 2)
    if (after := _portrait(layer)) != portrait:
        changed = sorted(name for name in {*portrait, *after} if portrait.get(name) != after.get(name))
        raise Wrong(f"of the original, {', '.join(map(repr, changed))} changed")
    must_be_same([v.value for v in model.variables], before, "the original", [v.path for v in model.variables])
    must_be_same(example.call_model(model), expected, "the original's output")


@check(where="kwrap.clone_model", way_out="keep in variables what was learned: a copy takes them over by their order")
def a_copy_of_a_wrapped_model_is_exact(example: Example) -> None:
    """A copy of a wrapped model in mid-training has its hooks, with their state, and shares nothing with it."""
    model = example.wrapped_model()
    wrapper = model.get_layer(example.layer.name)
    example.trained(wrapper, 2)
    before, names = values(wrapper.weights), [variable.path for variable in wrapper.weights]
    copy = clone_model(model)
    other = copy.get_layer(example.layer.name)
    must_be_same(values(other.weights), before, "the copy", names)
    outputs = arrays(example.call_model(model))
    if not example.random_at_inference:
        must_be_same(example.call_model(copy), outputs, "the copy's output")
    example.trained(other, 2)
    must_be_same(values(wrapper.weights), before, "the model while its copy trains", names)
    if not example.random_at_inference:
        must_be_same(example.call_model(model), outputs, "the model's output while its copy trains")


def constrained(hook: Hook, target: WeightTarget, value: Any) -> Any:
    """Return a value as the hook wants it stored where no update was made."""
    keywords = {"step": None} if accepts(type(hook).constrain, "step") else {}
    return hook.constrain(target, keras.ops.convert_to_tensor(value), **keywords)


def _targets(example: Example, method: Any) -> tuple[Hook, tuple[WeightTarget, ...]]:
    """Return a hook on its layer, and its targets, if it has that method."""
    hook = example.wrapped().hooks[0]
    if not type(hook).overrides(method):
        raise NotApplicable(f"it has no `{method}`")
    if not hook.target_weights:
        raise NotApplicable("it has no targets on this layer")
    return hook, hook.target_weights


def _portrait(layer: keras.Layer) -> dict[str, Any]:
    """Return what a layer is made of: its class, its attributes by identity, its variables and their flags."""
    made = {name: _identity(value) for name, value in vars(layer).items() if name not in _KERAS_OWN}
    return {
        **made,
        "class": type(layer),
        "config": layer.get_config(),
        "variables": [(v.path, id(v), v.trainable, id(v.constraint), str(v.dtype)) for v in layer.variables],
        "trainable": layer.trainable,
    }


# What Keras itself notes of a call, or of the nodes of a graph.
_KERAS_OWN = {"_inbound_nodes", "_outbound_nodes", "_called", "_losses", "_loss_ids", "_call_has_context_arg"}


def _identity(value: Any) -> Any:
    if isinstance(value, str | int | float | bool | type(None)):
        return value
    if isinstance(value, dict):
        return sorted((str(key), str(_identity(item))) for key, item in value.items())
    if isinstance(value, list | tuple):
        return [_identity(item) for item in value]
    return id(value)
