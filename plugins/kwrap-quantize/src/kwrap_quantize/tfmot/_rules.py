"""What a QuantizeConfig says, as rules of hooks: ordinary ones where they do the same, else quantizers themselves."""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Any

import keras

import kwrap
from kwrap.errors import OptionValueError, TargetError
from kwrap_quantize._activation import QuantizeActivation
from kwrap_quantize._activations import QuantizeInput, QuantizeOutput
from kwrap_quantize._weights import QuantizeWeights
from kwrap_quantize.tfmot._config import QuantizeConfig
from kwrap_quantize.tfmot._hooks import QuantizeOutputBy, QuantizeWeightsBy
from kwrap_quantize.tfmot._quantizers import (
    AllValuesQuantizer,
    FixedQuantizer,
    LastValueQuantizer,
    MovingAverageQuantizer,
    Quantizer,
    RangeQuantizer,
)

__all__ = ["Owners", "entrances", "just", "owners_of", "rules_of"]


# The layer that owns a variable, and the name of its target there, by the variable's id.
Owners = Mapping[int, tuple[keras.Layer, str]]

_APPLY = "quantize_apply"
# tfmot rounds before these activations, and after GELU, too; after all others.
_BEFORE = ("softmax", "sigmoid", "tanh", "gelu")
_AFTER_TOO = ("gelu",)
_RANGES: Mapping[type[Quantizer], str] = {
    LastValueQuantizer: "last",
    MovingAverageQuantizer: "moving_average",
    AllValuesQuantizer: "all_time",
}


def owners_of(layers: Iterable[keras.Layer]) -> Owners:
    """Return who owns each variable of these layers that hooks may change."""
    return {id(target.variable): (layer, target.name) for layer in layers for target in kwrap.weight_targets(layer)}


def just(layer: keras.Layer) -> Callable[[keras.Layer, str], bool]:
    """Return the `where` of this one layer."""
    return lambda other, path: other is layer


def entrances(model: keras.Model, paths: Container[str], marked: Container[int]) -> Iterator[kwrap.Rule]:
    """Yield the rules that round the one tensor that a layer takes from the model's inputs or a layer not marked.

    Args:
        model: a Functional or Sequential model.
        paths: those of the layers that it is for.
        marked: the ids of the marked layers.
    """
    graph = kwrap.read_graph(model)
    givers = {number: id(call.operation) for call in graph.calls for number in call.outputs}
    found = {
        call.path: call.operation
        for call in graph.calls
        if call.path in paths
        and len(call.inputs) == 1
        and givers.get(call.inputs[0]) not in marked
        and keras.backend.is_float_dtype(graph.tensors[call.inputs[0]].dtype)
    }
    for layer in found.values():
        yield QuantizeInput(range="all_time").at(just(layer))


def rules_of(config: QuantizeConfig, layer: keras.Layer, owners: Owners) -> Iterator[kwrap.Rule]:
    """Yield the rules that round what `config` says of `layer`.

    Raises:
        TargetError: a weight that the config names is none that hooks may change.
        OptionValueError: an activation that it names is not the layer's `activation`; or a quantizer is none.
    """
    for number, (weight, quantizer) in enumerate(config.get_weights_and_quantizers(layer) or []):
        if id(weight) not in owners:
            raise TargetError(
                f"quantize_apply: get_weights_and_quantizers of {type(config).__name__} names {weight!r}, of layer "
                f"{layer.name!r}, which is no weight that hooks may change. Teach the layer's class: "
                f"@kwrap.weight_targets.register({type(layer).__name__})"
            )
        owner, name = owners[id(weight)]
        yield _of_weight(quantizer, name, number).at(just(owner))
    outputs = list(config.get_output_quantizers(layer) or [])[:1]  # tfmot asks the first one only, too
    for activation, quantizer in config.get_activations_and_quantizers(layer) or []:
        if activation is not getattr(layer, "activation", None):
            problem = f"is none of layer {layer.name!r}, which has {getattr(layer, 'activation', None)!r}: hooks round "
            problem += "before and after layer.activation; name that one, or give get_output_quantizers"
            raise OptionValueError(_APPLY, "get_activations_and_quantizers", activation, problem)
        name = getattr(activation, "__name__", "")
        if name in _BEFORE:
            yield _before(quantizer, layer).at(just(layer))
        if name not in _BEFORE or name in _AFTER_TOO:
            outputs.append(quantizer)
    # What is first in the list is outermost: an output is rounded after the activation.
    for number, quantizer in enumerate(outputs):
        yield _of_output(quantizer, number).at(just(layer))


def _of_weight(quantizer: Quantizer, target: str, number: int) -> kwrap.Hook:
    name = "quantize_weights" if number == 0 else f"quantize_weights_{number + 1}"
    if not isinstance(quantizer, LastValueQuantizer) or type(quantizer) is not LastValueQuantizer:
        return QuantizeWeightsBy(quantizer, targets=[target], name=name)
    return QuantizeWeights(
        quantizer.num_bits,
        per_channel=quantizer.per_axis,
        symmetric=quantizer.symmetric,
        narrow_range=quantizer.narrow_range,
        targets=[target],
        name=name,
    )


def _of_output(quantizer: Quantizer, number: int) -> kwrap.Hook:
    name = "quantize_output" if number == 0 else f"quantize_output_{number + 1}"
    options = _options(quantizer)
    return QuantizeOutputBy(quantizer, name=name) if options is None else QuantizeOutput(**options, name=name)


def _before(quantizer: Quantizer, layer: keras.Layer) -> kwrap.Hook:
    if not isinstance(layer, QuantizeActivation.layer_type):
        problem = f"would round before {layer.activation.__name__} of {layer.name!r}, a {type(layer).__name__}, which "
        problem += "hooks do in convolutions and dense layers only: leave it out, and give get_output_quantizers"
        raise OptionValueError(_APPLY, "get_activations_and_quantizers", quantizer, problem)
    options = _options(quantizer)
    if options is None:
        problem = f"is not for what comes before an activation, as {layer.name!r} has it: give another one"
        raise OptionValueError(_APPLY, "get_activations_and_quantizers", quantizer, problem)
    return QuantizeActivation(**options)


def _options(quantizer: Quantizer) -> dict[str, Any] | None:
    """Return the options of kwrap's hooks that do what `quantizer` does; None: there are none."""
    if isinstance(quantizer, FixedQuantizer):
        plain = type(quantizer) is FixedQuantizer and not quantizer.narrow_range
        ends = (quantizer.init_min, quantizer.init_max)
        return {"bits": quantizer.num_bits, "range": ends} if plain else None
    kind = _RANGES.get(type(quantizer))
    if kind is None or not isinstance(quantizer, RangeQuantizer) or quantizer.per_axis or quantizer.narrow_range:
        return None
    return {"bits": quantizer.num_bits, "range": kind, "symmetric": quantizer.symmetric}
