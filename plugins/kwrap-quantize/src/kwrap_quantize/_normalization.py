"""QuantizeNormalization: a normalization that stands by itself as one operator in integers."""

import weakref
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

import kwrap
from kwrap_quantize._fake import rounded_straight
from kwrap_quantize._roles import has_channels_last

__all__ = ["QuantizeNormalization"]

_LAYERS = (keras.layers.BatchNormalization, keras.layers.Normalization, keras.layers.Rescaling)


@kwrap.hook(layer_type=_LAYERS)
class QuantizeNormalization(kwrap.Hook):
    """Compute, at inference, a normalization that no convolution comes before as a depthwise one with a kernel of 1x1.

    A factor and a sum a channel are two operators in LiteRT, with a number between them that has no range; a depthwise
    convolution is one, whose kernel has a range a channel: one number each, which is exact. The result is that of the
    layer, up to the rounding of float32. For tensors of up to 4 axes, channels last; in training, the layer computes.

    Raises:
        ValueError: the layer normalizes another axis than the last.
    """

    def build(self, layer: keras.Layer) -> None:
        """Remember the layer, which is no part of the hook: past Keras' tracking."""
        if not has_channels_last(layer):
            raise ValueError(
                f"{layer.name!r}, a {type(layer).__name__}, normalizes another axis than the last: leave it in float"
            )
        self.__dict__.update(_of=weakref.ref(layer))

    def call(self, call_next: Callable[..., Any], inputs: Any, *, training: Any) -> Any:
        """Return the layer's outputs."""
        layer = self._of()
        outputs = call_next(inputs)
        if (training and isinstance(layer, keras.layers.BatchNormalization)) or len(inputs.shape) > 4:
            return outputs
        channels = inputs.shape[-1]
        factor, addend = (
            tf.broadcast_to(tf.reshape(tf.cast(each, tf.float32), (-1,)), (channels,)) for each in _affine(layer)
        )
        kernel = tf.reshape(rounded_straight(factor[None, None], bits=8, per_channel=True), (1, 1, channels, 1))
        images = tf.cast(inputs, tf.float32)
        for _ in range(4 - len(inputs.shape)):
            images = tf.expand_dims(images, -2)
        result = tf.nn.depthwise_conv2d(images, kernel, (1, 1, 1, 1), "VALID") + addend
        added = list(range(len(inputs.shape) - 1, 3))
        return tf.cast(tf.squeeze(result, added) if added else result, outputs.dtype)


def _affine(layer: Any) -> tuple[Any, Any]:
    """Return what a normalization multiplies with and what it adds, at inference: scalars, or one for each channel."""
    if isinstance(layer, keras.layers.Rescaling):
        return layer.scale, layer.offset
    if isinstance(layer, keras.layers.Normalization):
        mean, deviation = _tensor(layer.mean), tf.maximum(tf.sqrt(_tensor(layer.variance)), keras.config.epsilon())
        return (deviation, mean) if layer.invert else (1 / deviation, -mean / deviation)
    factor = tf.math.rsqrt(_tensor(layer.moving_variance) + layer.epsilon)
    factor = factor * _tensor(layer.gamma) if layer.scale else factor
    addend = -_tensor(layer.moving_mean) * factor
    return factor, addend + _tensor(layer.beta) if layer.center else addend


def _tensor(value: Any) -> Any:
    return tf.cast(keras.ops.convert_to_tensor(value), tf.float32)
