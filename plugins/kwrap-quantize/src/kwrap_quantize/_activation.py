"""QuantizeActivation: rounding within a layer, before its activation and between the operators that this is made of."""

import weakref
from collections.abc import Callable
from typing import Any, Final

import keras
import tensorflow as tf

import kwrap
from kwrap_quantize._fake import rounded
from kwrap_quantize._activations import Activations
from kwrap_quantize._modes import observer
from kwrap_quantize._roles import activation_name
from kwrap_quantize._swap import Instead

__all__ = ["QuantizeActivation", "fixed_range", "has_steps"]


@kwrap.hook(layer_type=keras.layers.Layer)
class QuantizeActivation(Activations):
    """Round what a layer gives its own activation, as `Dense(10, activation="softmax")` does, and within the activation.

    LiteRT computes the sum and the activation by two operators, with integers between them. An `Activation` layer takes
    what was rounded before it: there only what lies within is rounded. Of SiLU that is the sigmoid, of which it is a
    product; of hard sigmoid the sum that is clipped. Hard SiLU is computed by the formula that LiteRT has an operator
    for, x * relu6(x + 3) * (1 / 6). What the activation gives is left to `QuantizeOutput`.

    Args:
        bits: of each value, from 2 to 16.
        range: how the range before the activation moves: "moving_average", "last", "all_time", or fixed:
            (minimum, maximum).
        decay: of the moving average: the share of the old range that stays.
        symmetric: whether the range reaches as far below zero as above.

    Raises:
        OptionValueError: an option has a value that it cannot have.
        TypeError: the layer has no activation.
    """

    what = "sums before the activation"

    def build(self, layer: keras.Layer) -> None:
        """Create the range, and remember the activation."""
        if getattr(layer, "activation", None) is None:
            raise TypeError(f"a {type(layer).__name__} without an activation")
        # Past Keras' tracking: the layer is no part of the hook.
        self.__dict__.update(
            _takes_rounded=isinstance(layer, keras.layers.Activation),
            _original=layer.activation,
            _steps=_STEPS.get(activation_name(layer)),
            _of=weakref.ref(layer),
            _instead=Instead("activation"),
        )
        super().build(layer)

    @property
    def moves(self) -> bool:
        """Whether its range is state: not fixed, and of use."""
        return super().moves and not self.__dict__.get("_takes_rounded", False)

    def call(self, call_next: Callable[..., Any], inputs: Any, *, training: Any) -> Any:
        """Return the layer's outputs, with another activation for the time of its call."""
        with self._instead(self._of(), lambda sums: self._activated(sums, training)):
            return call_next(inputs)

    def _activated(self, sums: Any, training: Any) -> Any:
        if not self._takes_rounded:
            sums = self.rounded(sums, training)
        if self._steps is None or observer() is not None:
            return self._original(sums)
        return self._steps(sums, self.bits, self.symmetric)


def fixed_range(activation: str, bits: int, symmetric: bool) -> tuple[float, float] | None:
    """Return the range that LiteRT's kernels give an activation's result, whatever it takes; None: it has none."""
    if activation in ("sigmoid", "softmax") and not symmetric:
        return 0.0, (2**bits - 1) / 2**bits
    if activation in ("sigmoid", "softmax", "tanh"):
        most = 2 ** (bits - 1)
        return -1.0, (most - 1) / most
    return (0.0, 1.0) if activation == "hard_sigmoid" and not symmetric else None


def has_steps(layer: keras.Layer) -> bool:
    """Tell whether there is something to round within a layer's activation or before it."""
    name = activation_name(layer)
    return name in _STEPS if isinstance(layer, keras.layers.Activation) else name not in _CLIPS


def _silu(values: Any, bits: int, symmetric: bool) -> Any:
    return values * _rounded(tf.sigmoid(values), fixed_range("sigmoid", bits, symmetric), bits)


def _hard_silu(values: Any, bits: int, symmetric: bool) -> Any:
    return values * tf.nn.relu6(values + tf.cast(3.0, values.dtype)) * tf.cast(1 / 6, values.dtype)


def _hard_sigmoid(values: Any, bits: int, symmetric: bool) -> Any:
    clipped = tf.nn.relu6(values + tf.cast(3.0, values.dtype))
    return _rounded(clipped, (-6.0 if symmetric else 0.0, 6.0), bits) * tf.cast(1 / 6, values.dtype)


def _rounded(values: Any, ends: Any, bits: int) -> Any:
    low, high = (tf.constant(end, tf.float32) for end in ends)
    return rounded(values, low, high, bits=bits)


# Done within the operator before the activation.
_CLIPS: Final = ("linear", "relu", "relu6")
_STEPS: Final = {"silu": _silu, "hard_silu": _hard_silu, "hard_sigmoid": _hard_sigmoid}
