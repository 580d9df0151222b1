"""The hooks that drop at random: connections, and whole paths; and Keras' own dropout, kept on at inference."""

from collections.abc import Callable
from typing import Any

import keras
from keras import layers

import kwrap
from kwrap_noise._drawing import Drawing, checked_rate

__all__ = ["DropConnect", "DropPath", "MonteCarloDropout"]


@kwrap.hook(layer_type=keras.layers.Layer)
class DropConnect(Drawing):
    """Set weights to zero at random as the layer reads them, in training only (Wan et al. 2013).

    Each weight is dropped with the probability `rate`, and the others are divided by 1 - `rate`, so that at inference
    the layer is its own mean. One draw a call, for all samples of a batch, where the paper draws one for each. Biases,
    which the paper drops too, are by `targets`.

    Args:
        rate: the share that is dropped, from 0 to below 1.
        seed: makes it repeatable; layers draw differently all the same.
        phase: when it acts.

    Raises:
        OptionValueError: an option has a value that it cannot have.
    """

    def __init__(self, rate: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = checked_rate(self, rate)

    def parametrize(self, target: kwrap.WeightTarget, value: Any, *, training: Any) -> Any:
        """Return `value` with zeros where it is dropped."""
        return keras.random.dropout(value, self.rate, seed=self.generator)


@kwrap.hook(layer_type=keras.layers.Layer)
class DropPath(Drawing):
    """Set a layer's whole output to zero, for samples drawn at random, in training only (Huang et al. 2016).

    Stochastic depth (https://arxiv.org/abs/1603.09382): each sample is dropped with the probability `rate`, and the
    others are divided by 1 - `rate`, so that at inference nothing changes. It belongs on the last layer of a residual
    branch, before its sum with the identity: what is dropped there, the identity bridges. Elsewhere all that follows
    would see zeros. All floating outputs of a call are dropped together; the first axis is that of samples.

    Args:
        rate: the share that is dropped, from 0 to below 1.
        seed: makes it repeatable; layers draw differently all the same.
        phase: when it acts.

    Raises:
        OptionValueError: an option has a value that it cannot have.
    """

    def __init__(self, rate: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = checked_rate(self, rate)

    def call(self, call_next: Callable[..., Any], inputs: Any) -> Any:
        """Return the layer's outputs, of dropped samples zeros; what is not floating stays."""
        outputs = call_next(inputs)
        floating = [leaf for leaf in keras.tree.flatten(outputs) if _is_floating(leaf)]
        if not floating:
            return outputs
        samples = keras.ops.ones((keras.ops.shape(floating[0])[0],))
        factors = keras.random.dropout(samples, self.rate, seed=self.generator)

        def dropped(output: Any) -> Any:
            if not _is_floating(output):
                return output
            shape = (-1, *(1 for _ in output.shape[1:]))
            return output * keras.ops.cast(keras.ops.reshape(factors, shape), output.dtype)

        return keras.tree.map_structure(dropped, outputs)


@kwrap.hook(
    layer_type=(
        layers.Dropout,
        layers.SpatialDropout1D,
        layers.SpatialDropout2D,
        layers.SpatialDropout3D,
        layers.AlphaDropout,
        layers.GaussianDropout,
        layers.GaussianNoise,
        layers.SimpleRNN,
        layers.GRU,
        layers.LSTM,
        layers.ConvLSTM1D,
        layers.ConvLSTM2D,
        layers.ConvLSTM3D,
    )
)
class MonteCarloDropout(kwrap.Hook):
    """Let Keras' own dropout and noise layers draw at inference as they do in training (Gal & Ghahramani 2016).

    https://arxiv.org/abs/1506.02142. Recurrent layers draw what their `dropout` and `recurrent_dropout` say. No other
    layer is told that it trains: batch normalization stays as it is at inference.
    """

    def call(self, call_next: Callable[..., Any]) -> Any:
        """Return what the layer gives in training."""
        return call_next(training=True)


def _is_floating(value: Any) -> bool:
    return bool(keras.backend.is_float_dtype(keras.backend.standardize_dtype(value.dtype)))
