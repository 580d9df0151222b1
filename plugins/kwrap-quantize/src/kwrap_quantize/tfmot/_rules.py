"""What a QuantizeConfig says, as rules of hooks: ordinary ones where they do the same, else the quantizers themselves."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras

import kwrap
from kwrap.errors import TargetError
from kwrap_quantize._hooks import QuantizeOutput, QuantizeWeights
from kwrap_quantize.tfmot._config import QuantizeConfig
from kwrap_quantize.tfmot._hooks import QuantizeAnnotate, QuantizeOutputBy, QuantizeWeightsBy
from kwrap_quantize.tfmot._quantizers import (
    AllValuesQuantizer,
    FixedQuantizer,
    LastValueQuantizer,
    MovingAverageQuantizer,
    Quantizer,
)

__all__ = ["Owners", "just", "owners_of", "rules_of"]

# The layer that owns a variable, and the name of its target there, by the variable's id.
Owners = Mapping[int, tuple[keras.Layer, str]]

_RANGES = {LastValueQuantizer: "last", MovingAverageQuantizer: "moving_average", AllValuesQuantizer: "all_time"}


def owners_of(model: keras.Model) -> Owners:
    """Return who owns each variable of the model that hooks may change."""
    places = kwrap.plan(model, QuantizeAnnotate(name="places"), where=lambda layer, path: True).entries
    return {
        id(target.variable): (place.layer, target.name)
        for place in places
        for target in kwrap.weight_targets(place.layer)
    }


def just(layer: keras.Layer) -> Callable[[keras.Layer, str], bool]:
    """Return the `where` of this one layer."""
    return lambda other, path: other is layer


def rules_of(config: QuantizeConfig, layer: keras.Layer, owners: Owners) -> Iterator[kwrap.Rule]:
    """Yield the rules that round what `config` says of `layer`.

    Raises:
        TargetError: a weight that the config names is none that hooks may change.
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
    # What is first in the list is outermost: the output is rounded after the activation.
    outputs = [*(config.get_output_quantizers(layer) or []), *_after(config, layer)]
    for number, quantizer in enumerate(outputs):
        yield _of_output(quantizer, number).at(just(layer))


def _after(config: QuantizeConfig, layer: keras.Layer) -> list[Quantizer]:
    """Return the quantizers of the activations with which the layer ends."""
    return [quantizer for _, quantizer in config.get_activations_and_quantizers(layer) or []]


def _of_weight(quantizer: Quantizer, target: str, number: int) -> kwrap.Hook:
    name = "quantize_weights" if number == 0 else f"quantize_weights_{number + 1}"
    if type(quantizer) is not LastValueQuantizer:
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
    options: dict[str, Any] = {"name": name}
    if type(quantizer) is FixedQuantizer and not quantizer.narrow_range:
        return QuantizeOutput(quantizer.num_bits, range=(quantizer.init_min, quantizer.init_max), **options)
    if type(quantizer) in _RANGES and not quantizer.per_axis and not quantizer.narrow_range:
        options |= {"range": _RANGES[type(quantizer)], "symmetric": quantizer.symmetric}
        return QuantizeOutput(quantizer.num_bits, **options)
    return QuantizeOutputBy(quantizer, **options)
