"""The hooks that work on each output's weights: weight norm, weight standardization, unit norm."""

from typing import Any

import keras
from keras import ops

import kwrap
from kwrap.options import checked_number
from kwrap_norm._numbers import require_always, require_inputs, rounding, wide, wide_dtype

__all__ = ["UnitNorm", "WeightNorm", "WeightStandardization"]

# Of squared norms: the least that directions are divided by.
_TINY = 1e-30


@kwrap.hook(layer_type=keras.layers.Layer)
class WeightNorm(kwrap.Hook):
    """Train the lengths and the directions of weights apart (Salimans & Kingma 2016, https://arxiv.org/abs/1602.07868).

    The layer reads `g * v / |v|`: `v` is the stored weight, `|v|` its norm over the inputs of each output, and `g`, one
    a norm, a trainable variable of the hook, of 32 bits at least. `g` begins as the norm of the stored weight, so that
    the function is at first what it was; behind another hook that changes the weight as it is read, it is another one.
    A model that was frozen before it is wrapped still trains `g`: freeze it afterwards. The paper's initialization from
    a batch of data is not part of it.

    Raises:
        TargetError: a target has no inputs, as a bias.
    """

    def build(self, layer: keras.Layer) -> None:
        """Create the lengths of each target, of the weight's shape with 1 in the place of its input axes."""
        require_inputs(self, self.target_weights)
        # Past Keras' tracking: it knows them already.
        self.__dict__["lengths"] = {
            target.name: self.add_weight(
                shape=[1 if axis in target.input_axes else size for axis, size in enumerate(target.shape)],
                dtype=wide_dtype(target.dtype),
                initializer="ones",
                autocast=False,
                name=f"{target.name}_g".replace("/", "_"),
            )
            for target in self.target_weights
        }

    def initialize(self, layer: keras.Layer) -> None:
        """Take the lengths from the weights."""
        for target in self.target_weights:
            square = _square_norm(target, wide(target, target.variable.value))
            self.lengths[target.name].assign(ops.sqrt(square))

    def parametrize(self, target: kwrap.WeightTarget, value: Any, *, training: Any) -> Any:
        """Return the direction of `value` at the trained lengths."""
        full = wide(target, value)
        length = wide(target, ops.convert_to_tensor(self.lengths[target.name]))
        return ops.cast(full * (length * ops.rsqrt(_square_norm(target, full))), target.dtype)


@kwrap.hook(layer_type=keras.layers.Layer)
class WeightStandardization(kwrap.Hook):
    """Give the weights of each output mean 0 and variance 1 (Qiao et al. 2019, https://arxiv.org/abs/1903.10520).

    The layer reads `(w - mean) / sqrt(variance + epsilon)`, both over the inputs of each output, and gradients flow
    through both. For layers that a normalization follows: the function changes when the hook is put on.

    Args:
        epsilon: added to the variance, above 0.

    Raises:
        OptionValueError: an option has a value that it cannot have.
        TargetError: a target has no inputs, as a bias.
    """

    def __init__(self, epsilon: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.epsilon = checked_number(self.hook_name, "epsilon", epsilon, above=0)

    def build(self, layer: keras.Layer) -> None:
        """Raise unless each target has inputs."""
        require_inputs(self, self.target_weights)

    def parametrize(self, target: kwrap.WeightTarget, value: Any, *, training: Any) -> Any:
        """Return `value` standardized."""
        full = wide(target, value)
        centred = full - ops.mean(full, axis=target.input_axes, keepdims=True)
        variance = ops.mean(ops.square(centred), axis=target.input_axes, keepdims=True)
        return ops.cast(centred * ops.rsqrt(variance + self.epsilon), target.dtype)


@kwrap.hook(layer_type=keras.layers.Layer)
class UnitNorm(kwrap.Hook):
    """Keep the weights of each output at norm 1, as `keras.constraints.UnitNorm` does over the weight's input axes.

    It constrains: weights are stored at norm 1, from when the hook is put on and after each update. So a call costs
    nothing, and the weights stay as they are when the hook is taken off. Weights that are loaded into the wrapped model
    from one without the hook are read as they are until the next update, or saving. An embedding's inputs are its
    vocabulary: each of its columns gets norm 1, not each token's vector.

    Raises:
        OptionValueError: `phase` is not "always", of which it has no other.
        TargetError: a target has no inputs, as a bias.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require_always(self)

    def build(self, layer: keras.Layer) -> None:
        """Raise unless each target has inputs."""
        require_inputs(self, self.target_weights)

    # Without `step`, of which it would have a counter.
    def constrain(self, target: kwrap.WeightTarget, value: Any) -> Any:  # type: ignore[override]
        """Return `value` at norm 1; zeros stay."""
        full = wide(target, value)
        norm = ops.sqrt(ops.sum(ops.square(full), axis=target.input_axes, keepdims=True))
        scaled = ops.cast(full / ops.where(norm > _TINY, norm, 1.0), target.dtype)
        # What is at norm 1 stays, to the bit.
        return ops.where(ops.abs(norm - 1) <= rounding(target.dtype), value, scaled)


def _square_norm(target: kwrap.WeightTarget, value: Any) -> Any:
    """Return the squares of `value` summed over its input axes, which stay as axes of 1."""
    return ops.maximum(ops.sum(ops.square(value), axis=target.input_axes, keepdims=True), _TINY)
