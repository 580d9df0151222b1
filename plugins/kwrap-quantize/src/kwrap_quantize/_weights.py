"""The hook on the weights that a layer reads."""

from typing import Any, Literal

import keras
import tensorflow as tf

import kwrap
from kwrap.errors import OptionValueError, TargetError
from kwrap.options import checked_bool, checked_choice
from kwrap_quantize._channels import Channels
from kwrap_quantize._fake import learned, most, rounded_straight, step_range, weight_range
from kwrap_quantize._modes import observer
from kwrap_quantize._options import checked_bits
from kwrap_quantize._roles import ONE_RANGE

__all__ = ["QuantizeWeights"]


@kwrap.hook(layer_type=keras.layers.Layer)
class QuantizeWeights(kwrap.Hook):
    """Round a layer's kernels and embeddings to a grid as it reads them, in training and at inference.

    What is stored stays in float and trains on: gradients go straight through (Jacob et al. 2018,
    https://arxiv.org/abs/1712.05877). Ranges are those of the weights, at each call anew, so that nothing is to be
    calibrated. Zero is on the grid, exactly: pruned weights stay zero. Unwrapped, the weights are on the grid.

    Args:
        bits: of each weight, from 2 to 16.
        per_channel: whether each output channel has a range of its own. Default: as LiteRT's converter takes it: where
            a weight has more than two axes, as kernels of convolutions do, but not those of EinsumDense, Conv1D,
            Conv2DTranspose, DepthwiseConv1D and SeparableConv1D.
        symmetric: whether ranges reach as far below zero as above, as LiteRT has them for weights.
        narrow_range: whether one value less is used, so that the integers are those from -127 to 127 of 8 bits.
        method: "min_max"; or "learned": a step size, one for each range, is a trainable variable of the hook (LSQ,
            Esser et al. 2020, https://arxiv.org/abs/1902.08153). It begins as 2 times the mean of the magnitudes that
            are not zero over the root of the largest integer.

    Raises:
        OptionValueError: an option has a value that it cannot have; or `symmetric` is False with "learned".
        TargetError: nobody says which of the layer's weights to round; or one has no channels, as a bias has none.
    """

    def __init__(
        self,
        bits: int = 8,
        *,
        per_channel: bool | None = None,
        symmetric: bool = True,
        narrow_range: bool = True,
        method: Literal["min_max", "learned"] = "min_max",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.bits = checked_bits(self.hook_name, bits)
        self.per_channel = None if per_channel is None else checked_bool(self.hook_name, "per_channel", per_channel)
        self.symmetric = checked_bool(self.hook_name, "symmetric", symmetric)
        self.narrow_range = checked_bool(self.hook_name, "narrow_range", narrow_range)
        self.method = checked_choice(self.hook_name, "method", method, ("min_max", "learned"))
        if self.method == "learned" and not self.symmetric:
            problem = 'is at odds with method="learned", which learns one step around zero'
            raise OptionValueError(self.hook_name, "symmetric", symmetric, problem)

    def build(self, layer: keras.Layer) -> None:
        """Find the channels of each target, and create the steps that are learned."""
        if not self.target_weights and layer.weights and not kwrap.weight_targets(layer):
            raise TargetError(
                f"hook {self.name!r} at {self.path!r}: nobody says which of its weights to round. If they are those of "
                "layers that it holds, put the hook on these: kwrap.wrap_model(model, ...); else teach its class: "
                f"@kwrap.weight_targets.register({type(layer).__name__})"
            )
        channels: dict[str, Channels | None] = {}
        steps: dict[str, keras.Variable] = {}
        for target in self.target_weights:
            channels[target.name] = found = self._channels_of(layer, target)
            if self.method == "learned":
                shape = () if found is None else (found.count,)
                name = f"{target.name}_step".replace("/", "_")
                steps[target.name] = self.add_weight(
                    shape=shape, dtype="float32", initializer="ones", autocast=False, name=name
                )
        # Past Keras' tracking: it knows the steps already.
        self.__dict__.update(channels=channels, steps=steps)

    def initialize(self, layer: keras.Layer) -> None:
        """Take the steps that are learned from the weights."""
        for target in self.target_weights:
            if target.name in self.steps:
                size = tf.abs(tf.cast(self._seen(target, tf.convert_to_tensor(target.variable.value)), tf.float32))
                axes = list(range(size.shape.rank - 1)) if self.channels[target.name] else None
                count = tf.maximum(tf.math.count_nonzero(size, axes, dtype=tf.float32), 1.0)
                mean = tf.reduce_sum(size, axes) / count
                step = 2 * mean / most(self.bits) ** 0.5
                self.steps[target.name].assign(tf.where(step > 0, step, tf.ones_like(step)))

    def parametrize(self, target: kwrap.WeightTarget, value: Any, *, training: Any) -> Any:
        """Return `value` on the grid."""
        if observer() is not None:
            return value
        seen = self._seen(target, tf.convert_to_tensor(value))
        if self.method == "learned":
            step = tf.convert_to_tensor(self.steps[target.name].value)
            result = learned(seen, step, bits=self.bits, narrow_range=self.narrow_range)
        else:
            result = rounded_straight(
                seen,
                bits=self.bits,
                per_channel=self.channels[target.name] is not None,
                symmetric=self.symmetric,
                narrow_range=self.narrow_range,
            )
        channels = self.channels[target.name]
        return result if channels is None else channels.back(result)

    def range_of(self, target: kwrap.WeightTarget) -> tuple[Any, Any]:
        """Return the ends of the range of a target as it is stored: float32, scalars or one for each channel."""
        if self.method == "learned":
            return step_range(tf.convert_to_tensor(self.steps[target.name].value), self.bits, self.narrow_range)
        seen = self._seen(target, tf.convert_to_tensor(target.variable.value))
        per_channel = self.channels[target.name] is not None
        return weight_range(seen, self.bits, per_channel, self.symmetric, self.narrow_range)

    def _seen(self, target: kwrap.WeightTarget, value: Any) -> Any:
        """Return `value` with its channels on the last axis, if they have ranges of their own."""
        channels = self.channels[target.name]
        return value if channels is None else channels.last(value)

    def _channels_of(self, layer: keras.Layer, target: kwrap.WeightTarget) -> Channels | None:
        """Return the channels that have ranges of their own; None: the weight has one range."""
        has_channels = 0 < len(target.input_axes) < len(target.shape)
        if self.per_channel and not has_channels:
            raise TargetError(
                f"hook {self.name!r} at {self.path!r}: {target.name!r} has no output channels with weights of their "
                "own: leave it out with the option targets=..., or per_channel=False"
            )
        has_one = isinstance(layer, (keras.layers.EinsumDense, *ONE_RANGE))
        default = has_channels and len(target.shape) > 2 and not has_one
        return Channels.of(target) if (default if self.per_channel is None else self.per_channel) else None
