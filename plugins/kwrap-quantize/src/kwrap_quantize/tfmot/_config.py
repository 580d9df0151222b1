"""QuantizeConfig: which tensors of a layer are rounded, and how."""

import abc
from collections.abc import Sequence
from typing import Any

import keras

from kwrap_quantize.tfmot._quantizers import Quantizer, register

__all__ = ["QuantizeConfig"]


class QuantizeConfig(abc.ABC):
    """Says which weights, activations and outputs of a layer to round; its subclasses are registered with Keras.

    The methods that set weights and activations, which tfmot's have too, are not called: a layer's attributes stay.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        register(cls)

    @abc.abstractmethod
    def get_weights_and_quantizers(self, layer: keras.Layer) -> Sequence[tuple[keras.Variable, Quantizer]]:
        """Return (weight, quantizer) of each weight that is rounded; `layer` is built."""

    @abc.abstractmethod
    def get_activations_and_quantizers(self, layer: keras.Layer) -> Sequence[tuple[Any, Quantizer]]:
        """Return [(layer.activation, quantizer)] to round before or after it, as it has to be; [] not to."""

    @abc.abstractmethod
    def get_output_quantizers(self, layer: keras.Layer) -> Sequence[Quantizer]:
        """Return the quantizer for what the layer gives, in a list, the first of which counts; [] for none."""

    @abc.abstractmethod
    def get_config(self) -> dict[str, Any]:
        """Return the arguments of `__init__`."""

    def set_quantize_weights(self, layer: keras.Layer, quantize_weights: Sequence[Any]) -> None:  # noqa: B027
        """Do nothing, for scripts that call it; kwrap gives the layer the rounded weights by itself."""

    def set_quantize_activations(self, layer: keras.Layer, quantize_activations: Sequence[Any]) -> None:  # noqa: B027
        """Do nothing, for scripts that call it."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "QuantizeConfig":
        """Return the one of these arguments; Keras objects among them may still be serialized."""
        return cls(**keras.saving.deserialize_keras_object(config))
