"""QuantizeBetween: rounding between the two convolutions of a separable one."""

import weakref
from collections.abc import Callable
from typing import Any

import keras

import kwrap
from kwrap_quantize._activations import Activations
from kwrap_quantize._swap import Instead

__all__ = ["QuantizeBetween"]


_OWN_CALLS = (keras.layers.SeparableConv1D.call, keras.layers.SeparableConv2D.call)


@kwrap.hook(layer_type=(keras.layers.SeparableConv1D, keras.layers.SeparableConv2D))
class QuantizeBetween(Activations):
    """Round what the depthwise convolution of a SeparableConv gives the pointwise one, two operators in LiteRT.

    A subclass with a `call` of its own is left as it is. All else is as with `QuantizeOutput`.

    Args:
        bits: of each value, from 2 to 16.
        range: how the range moves: "moving_average", "last", "all_time", or fixed: (minimum, maximum).
        decay: of the moving average: the share of the old range that stays.
        symmetric: whether the range reaches as far below zero as above.

    Raises:
        OptionValueError: an option has a value that it cannot have.
    """

    what = "depthwise sums"

    def build(self, layer: keras.Layer) -> None:
        """Create the range."""
        # Past Keras' tracking: the layer is no part of the hook.
        self.__dict__.update(_of=weakref.ref(layer), _instead=Instead("call"))
        super().build(layer)

    def call(self, call_next: Callable[..., Any], inputs: Any, *, training: Any) -> Any:
        """Return the layer's outputs, computed in two steps."""
        layer = self._of()
        if type(layer).call not in _OWN_CALLS:
            return call_next(inputs)

        def call(inputs: Any) -> Any:
            return self._call(layer, inputs, training)

        with self._instead(layer, call):
            return call_next(inputs)

    def _call(self, layer: Any, inputs: Any, training: Any) -> Any:
        between = keras.ops.depthwise_conv(
            inputs,
            layer.depthwise_kernel,
            strides=layer.strides,
            padding=layer.padding,
            data_format=layer.data_format,
            dilation_rate=layer.dilation_rate,
        )
        between = self.rounded(between, training)
        outputs = keras.ops.conv(between, layer.pointwise_kernel, padding="valid", data_format=layer.data_format)
        if layer.use_bias:
            bias = keras.ops.reshape(layer.bias, (1,) * (layer.rank + 1) + (layer.filters,))
            outputs = keras.ops.add(outputs, bias)  # not "+": the converter knows the bias of a SeparableConv1D by it
        return outputs if layer.activation is None else layer.activation(outputs)
