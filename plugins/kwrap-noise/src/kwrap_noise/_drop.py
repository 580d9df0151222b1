"""The hooks that drop at random: connections, and whole paths; and Keras' own dropout, kept on at inference."""

from collections.abc import Callable
from typing import Any

import keras
from keras import layers

import kwrap
from kwrap.errors import OptionValueError
from kwrap.options import checked_number
from kwrap_noise._drawing import Drawing, is_floating

__all__ = ["DropConnect", "DropPath", "MonteCarloDropout", "draws"]

_MEANING = "the share that is dropped"


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
        self.rate = checked_number(self.hook_name, "rate", rate, least=0, below=1, meaning=_MEANING)

    @property
    def draws(self) -> bool:
        """Whether the rate is above 0."""
        return self.rate > 0

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
        NoFloatingTensorsError: the layer gives no floating tensor.
    """

    def __init__(self, rate: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = checked_number(self.hook_name, "rate", rate, least=0, below=1, meaning=_MEANING)

    @property
    def draws(self) -> bool:
        """Whether the rate is above 0."""
        return self.rate > 0

    def call(self, call_next: Callable[..., Any], inputs: Any) -> Any:
        """Return the layer's outputs, of dropped samples zeros; what is not floating stays."""
        outputs = call_next(inputs)
        self.require_floating(outputs, "outputs")
        first = next(leaf for leaf in keras.tree.flatten(outputs) if is_floating(leaf))
        samples = keras.ops.ones((keras.ops.shape(first)[0],))
        factors = keras.random.dropout(samples, self.rate, seed=self.generator)

        def dropped(output: Any) -> Any:
            if not is_floating(output):
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
        layers.Attention,
        layers.AdditiveAttention,
        layers.RNN,
    )
)
class MonteCarloDropout(kwrap.Hook):
    """Let Keras' own dropout and noise layers draw at inference as they do in training (Gal & Ghahramani 2016).

    https://arxiv.org/abs/1506.02142. Recurrent layers draw what the `dropout` and `recurrent_dropout` of their cells
    say, and a cell of your own is told as a whole that it trains. `MultiHeadAttention` and `GroupQueryAttention` hold
    a `Dropout`, which gets the hook. No other layer is told that it trains: batch normalization stays as it is at
    inference.

    Raises:
        OptionValueError: `phase` is "training", in which those layers draw anyway.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.phase == "training":
            problem = "would do nothing: in training those layers draw anyway"
            raise OptionValueError(self.hook_name, "phase", self.phase, problem)

    def call(self, call_next: Callable[..., Any]) -> Any:
        """Return what the layer gives in training."""
        return call_next(training=True)


def draws(layer: keras.Layer) -> bool:
    """Tell whether a layer that can have MonteCarloDropout draws in training: whether it has a rate above 0."""
    parts = _cells(layer.cell) if isinstance(layer, layers.RNN) else [layer]
    names = ("rate", "stddev", "dropout", "recurrent_dropout")
    return any(getattr(part, name, 0) for part in parts for name in names)


def _cells(cell: Any) -> list[Any]:
    """Return the cells that a cell is made of, as StackedRNNCells is."""
    return [part for each in cell.cells for part in _cells(each)] if hasattr(cell, "cells") else [cell]
