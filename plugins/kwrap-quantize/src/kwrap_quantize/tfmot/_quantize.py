"""quantize_model, and its two steps: to mark layers, and to quantize those that are marked."""

import contextlib
import warnings
from collections.abc import Container, Iterator, Mapping
from typing import Any

import keras

import kwrap
from kwrap.errors import CloneError, OptionError, OptionValueError, PlanError, RuleError
from kwrap_quantize._activations import Activations, QuantizeInput
from kwrap_quantize._graph import is_in, quantize
from kwrap_quantize._roles import why_float
from kwrap_quantize._weights import QuantizeWeights
from kwrap_quantize.tfmot._config import QuantizeConfig
from kwrap_quantize.tfmot._hooks import KeepZeros, QuantizeAnnotate, checked_config
from kwrap_quantize.tfmot._quantizers import Quantizer
from kwrap_quantize.tfmot._rules import entrances, just, owners_of, rules_of
from kwrap_quantize.tfmot._schemes import Default8BitQuantizeScheme

__all__ = [
    "quantize_annotate_layer",
    "quantize_annotate_model",
    "quantize_apply",
    "quantize_model",
    "quantize_scope",
]

DEFAULT = Default8BitQuantizeScheme()

# The configs of the layers that are to be quantized, or None for the default, by the layer's id.
Marked = Mapping[int, QuantizeConfig | None]


def quantize_model(to_quantize: keras.Model, quantized_layer_name_prefix: str | None = "quant_") -> keras.Model:
    """Return a copy of a model, not compiled, that rounds to 8 bits what a LiteRT file of it would round.

    Args:
        to_quantize: a built Functional or Sequential model, models inside it too; it stays as it is.
        quantized_layer_name_prefix: counts for nothing, names stay.

    Raises:
        OptionValueError: it is no such model (a ValueError, as the next).
        PlanError: nobody says how to quantize a layer of it.
    """
    _check("quantize_model", "to_quantize", to_quantize, built=True)
    copy = _copy("quantize_model", "to_quantize", to_quantize)
    return _quantized("quantize_model", copy, _everything(copy) | _taken_off(copy), DEFAULT)


def quantize_annotate_layer(to_annotate: keras.Layer, quantize_config: QuantizeConfig | None = None) -> keras.Layer:
    """Return a layer that works as before, marked to be quantized.

    Args:
        to_annotate: a layer that is no model.
        quantize_config: what of it is rounded, and how; None: what is by default.

    Raises:
        OptionValueError: it is no layer, or a model, or has hooks; or the config is none.
    """
    function = "quantize_annotate_layer"
    if not isinstance(to_annotate, keras.Layer) or isinstance(to_annotate, keras.Model):
        raise OptionValueError(function, "to_annotate", to_annotate, "is no Keras 3 layer, or a model")
    if isinstance(to_annotate, kwrap.Wrapper):
        raise OptionValueError(function, "to_annotate", to_annotate, "is wrapped already")
    config = checked_config(function, quantize_config)
    try:
        return kwrap.Wrapper(to_annotate, [QuantizeAnnotate(config)])
    except OptionError as error:
        problem = f"is not what its get_config says, or its class was defined again since: {error.problem}"
        raise OptionValueError(function, "quantize_config", config, problem) from error


def quantize_annotate_model(to_annotate: keras.Model) -> keras.Model:
    """Return a copy of a model, not compiled, of which all layers are marked that are not yet; but for Lambda layers.

    Raises:
        OptionValueError: it is no Functional or Sequential model.
    """
    _check("quantize_annotate_model", "to_annotate", to_annotate)
    if not to_annotate.built:
        return keras.models.clone_model(to_annotate, clone_function=_annotated_copy)
    copy = _copy("quantize_annotate_model", "to_annotate", to_annotate)
    new = _everything(copy).keys() - _annotations(copy).keys()
    if not new:
        return copy
    return kwrap.wrap_model(copy, QuantizeAnnotate(), where=lambda layer, path: id(layer) in new)


def quantize_apply(
    model: keras.Model,
    scheme: Default8BitQuantizeScheme = DEFAULT,
    quantized_layer_name_prefix: str | None = "quant_",
) -> keras.Model:
    """Return a copy of a model, not compiled, of which the marked layers are quantized.

    Args:
        model: a built Functional or Sequential model with marked layers; it stays as it is.
        scheme: a `Default8BitQuantizeScheme`, or a `Default8BitPrunePreserveQuantizeScheme`.
        quantized_layer_name_prefix: counts for nothing, names stay.

    Raises:
        OptionValueError: it is no such model, or no layer is marked; the scheme is another (a ValueError, as all).
        PlanError: nobody says how to quantize a marked layer.
        TargetError: a QuantizeConfig names a weight that hooks cannot change.
    """
    _check("quantize_apply", "model", model, built=True)
    if not isinstance(scheme, Default8BitQuantizeScheme):
        raise OptionValueError("quantize_apply", "scheme", scheme, "is none of the schemes of kwrap_quantize.tfmot")
    copy = _copy("quantize_apply", "model", model)
    marked = _taken_off(copy)
    if not marked:
        problem = "has no marked layer: quantize_annotate_layer, or quantize_annotate_model, marks them"
        raise OptionValueError("quantize_apply", "model", model, problem)
    return _quantized("quantize_apply", copy, marked, scheme)


def quantize_scope(*args: Mapping[str, Any]) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which Keras knows the classes that are given by name; what is quantized loads without.

    A QuantizeConfig or Quantizer is found, too, if the script that saved it had defined the class itself.

    Raises:
        OptionValueError: what is given is no dict.
    """
    known: dict[str, Any] = {}
    for objects in args:
        if not isinstance(objects, Mapping):
            raise OptionValueError("quantize_scope", "args", objects, "is no dict of classes by their names")
        own = {name for name, cls in objects.items() if _is_of_tfmot(cls)}
        known |= {**objects, **{f"__main__>{name}": objects[name] for name in own}}
    scope: contextlib.AbstractContextManager[Any] = keras.saving.custom_object_scope(known)
    return scope


def _is_of_tfmot(cls: Any) -> bool:
    return isinstance(cls, type) and issubclass(cls, QuantizeConfig | Quantizer)


def _check(function: str, argument: str, model: Any, *, built: bool = False) -> None:
    """Raise unless it is a Functional or Sequential model of Keras 3."""
    if not isinstance(model, keras.Model):
        raise OptionValueError(function, argument, model, "is no keras.Model of Keras 3")
    if not isinstance(model, keras.Function | keras.Sequential):
        problem = "is neither Functional nor Sequential: put QuantizeWeights and QuantizeOutput on its layers yourself"
        raise OptionValueError(function, argument, model, problem)
    if not model.layers:
        raise OptionValueError(function, argument, model, "has no layers")
    if built and not model.built:
        raise OptionValueError(function, argument, model, "is not built: give it an Input, or call it once")


def _copy(function: str, argument: str, model: keras.Model) -> keras.Model:
    """Return a copy of `model` that is not compiled; raise if Keras cannot copy it."""
    try:
        return kwrap.clone_model(model, compile=False)
    except CloneError as error:
        raise OptionValueError(function, argument, model, f"cannot be copied: {error}") from error


# --- marks -----------------------------------------------------------------------------------------------------------


def _layers(model: keras.Model) -> Iterator[keras.Layer]:
    """Yield the layers of a model and of models inside it, not their Wrappers, without inputs."""
    for held in model.layers:
        layer = held.layer if isinstance(held, kwrap.Wrapper) else held
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        elif not isinstance(layer, keras.layers.InputLayer):
            yield layer


def _everything(model: keras.Model) -> dict[int, QuantizeConfig | None]:
    """Return marks for all layers but Lambda layers that have none yet, of which a warning says so."""
    marks: dict[int, QuantizeConfig | None] = {}
    own = _annotations(model)
    for layer in _layers(model):
        if isinstance(layer, keras.layers.Lambda):
            if id(layer) not in own:
                _warn_of_lambda(layer)
        else:
            marks[id(layer)] = None
    return marks


def _warn_of_lambda(layer: keras.Layer) -> None:
    warnings.warn(
        f"{layer.name!r} is a Lambda layer, of which nobody knows what it does: it stays in float. Write a layer class "
        "in its place, and give it a QuantizeConfig",
        UserWarning,
        stacklevel=4,
    )


def _annotated_copy(layer: keras.Layer) -> keras.Layer:
    """Return a fresh layer that is marked, with the weights that there are already; of a model, a marked one."""
    if isinstance(layer, keras.Function | keras.Sequential):
        return quantize_annotate_model(layer)
    copy = type(layer).from_config(layer.get_config())
    if layer.built and layer.weights:
        copy.build_from_config(layer.get_build_config())
        copy.set_weights(layer.get_weights())
    if isinstance(layer, keras.layers.Lambda):
        _warn_of_lambda(layer)
    if isinstance(layer, keras.Model | keras.layers.InputLayer | keras.layers.Lambda | kwrap.Wrapper):
        return copy
    return quantize_annotate_layer(copy)


def _annotations(model: keras.Model) -> dict[int, QuantizeConfig | None]:
    """Return the marks that are on a model."""
    marked = kwrap.plan(model).entries
    return {
        id(entry.layer): hook.quantize_config
        for entry in marked
        for hook in entry.all_hooks
        if isinstance(hook, QuantizeAnnotate)
    }


def _taken_off(model: keras.Model) -> dict[int, QuantizeConfig | None]:
    """Take the marks off a model, and return them."""
    marked = _annotations(model)
    if marked:
        kwrap.unwrap_model(model, QuantizeAnnotate)
    return marked


# --- quantizing ------------------------------------------------------------------------------------------------------


def _quantized(function: str, model: keras.Model, marked: Marked, scheme: Default8BitQuantizeScheme) -> keras.Model:
    """Put hooks on the marked layers of a model, and return it."""
    layers = kwrap.find_layers(model, "**")
    configs = {path: (layer, config) for path, layer in layers.items() if (config := marked.get(id(layer))) is not None}
    plan = _default_plan(function, model, layers, marked)
    rules = [] if plan is None else list(_defaults(plan, scheme, configs))
    rules.extend(entrances(model, configs.keys() - _with_ranges(plan), marked))
    owners = owners_of(layers.values())
    for layer, config in configs.values():
        rules.extend(rules_of(config, layer, owners))
    if scheme.keeps_zeros:
        rules.insert(0, KeepZeros().at(lambda layer, path: id(layer) in marked))
    return kwrap.wrap_model(model, rules) if rules else model


def _default_plan(
    function: str, model: keras.Model, layers: Mapping[str, keras.Layer], marked: Marked
) -> kwrap.Plan | None:
    """Return the plan of rounding the marked layers; None: there is nothing in it, but they all have configs.

    Raises:
        PlanError: nobody says how to quantize a marked layer.
    """
    default = [path for path, layer in layers.items() if marked.get(id(layer), ...) is None]
    try:
        plan = quantize(model, where=lambda layer, path: id(layer) in marked)
    except RuleError as error:  # the plan would be empty
        if default:
            reasons = {path: why_float(layers[path]) or str(error) for path in default}
            raise PlanError([_problem(function, path, reason) for path, reason in reasons.items()]) from error
        return None
    if problems := [_problem(function, each.path, each.reason) for each in plan.skipped if each.path in default]:
        raise PlanError(problems)
    return plan


def _with_ranges(plan: kwrap.Plan | None) -> set[str]:
    """Return the paths of the layers of which a plan knows what they take and give."""
    entries = () if plan is None else plan.entries
    return {entry.path for entry in entries if any(isinstance(hook, Activations) for hook in entry.hooks)}


def _problem(function: str, path: str, reason: str) -> kwrap.Problem:
    advice = (
        "Give it a QuantizeConfig, by quantize_annotate_layer; or leave it in float, as kwrap_quantize.quantize(model)"
    )
    return kwrap.Problem(f"{reason.rstrip('.')}. {advice} does", path, function)


def _defaults(plan: kwrap.Plan, scheme: Default8BitQuantizeScheme, configs: Container[str]) -> Iterator[kwrap.Rule]:
    """Yield the rules of the default scheme; `configs` are the paths of layers that have a config of their own."""
    for entry in plan.entries:
        for hook in entry.hooks:
            # A config stands for what the plan says of the layer, and of those inside; but how its inputs are rounded.
            if not is_in(entry.path, configs) or isinstance(hook, QuantizeInput):
                yield _of_tfmot(hook, scheme).at(just(entry.layer))


def _of_tfmot(hook: kwrap.Hook, scheme: Default8BitQuantizeScheme) -> kwrap.Hook:
    """Return the hook with the options that tfmot's scheme has."""
    changed: dict[str, Any] = {}
    if isinstance(hook, QuantizeInput):
        changed = {"range": "all_time"}
    elif isinstance(hook, QuantizeWeights) and scheme.disable_per_axis:
        changed = {"per_channel": False}
    return type(hook).from_config(hook.get_config() | changed) if changed else hook
