"""Rounding within a layer: before its activation, and between the operators that an activation is made of."""

import weakref
from collections.abc import Callable
from typing import Any, Final

import keras
import tensorflow as tf

import kwrap
from kwrap.options import checked_bool
from kwrap_quantize._activations import Activations
from kwrap_quantize._fake import rounded
from kwrap_quantize._modes import observer
from kwrap_quantize._options import checked_bits
from kwrap_quantize._roles import CLIPS, activation_name, fuses_clip, name_of
from kwrap_quantize._swap import Instead

__all__ = ["QuantizeActivation", "QuantizeSteps", "fixed_range", "has_steps", "is_rounded_before"]


_WITH_ACTIVATIONS: Final = (
    keras.layers.Conv1D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2D,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3D,
    keras.layers.Conv3DTranspose,
    keras.layers.Dense,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.EinsumDense,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)


@kwrap.hook(layer_type=_WITH_ACTIVATIONS)
class QuantizeActivation(Activations):
    """Round what a layer gives its own activation, as `Dense(10, activation="softmax")` does.

    LiteRT computes the sum and the activation by two operators, with integers between them. What the activation itself
    is made of is rounded as by `QuantizeSteps`; what it gives is left to `QuantizeOutput`, as which it works in all
    else.

    Args:
        bits: of each value, from 2 to 16.
        range: how the range moves: "moving_average", "last", "all_time", or fixed: (minimum, maximum).
        decay: of the moving average: the share of the old range that stays.
        symmetric: whether the range reaches as far below zero as above.

    Raises:
        OptionValueError: an option has a value that it cannot have.
        TypeError: the layer has no activation.
    """

    what = "sums"

    def build(self, layer: keras.Layer) -> None:
        """Create the range, and remember the activation."""
        if getattr(layer, "activation", None) is None:
            raise TypeError(f"{layer.name!r}, a {type(layer).__name__}, has no activation to round before")
        # Past Keras' tracking: the layer is no part of the hook.
        self.__dict__.update(_of=weakref.ref(layer), _own=layer.activation, _instead=Instead("activation"))
        super().build(layer)

    def call(self, call_next: Callable[..., Any], inputs: Any, *, training: Any) -> Any:
        """Return the layer's outputs, with another activation for the time of its call."""

        def activation(sums: Any) -> Any:
            return _in_steps(self._own, self.rounded(sums, training), self.bits, self.symmetric)

        with self._instead(self._of(), activation):
            return call_next(inputs)


@kwrap.hook(layer_type=keras.layers.Activation)
class QuantizeSteps(kwrap.Hook):
    """Round between the operators of which LiteRT makes an Activation layer.

    Of SiLU that is the sigmoid, of which it is a product; of hard sigmoid the sum that is clipped. The ranges are those
    that the functions have. All other activations are one operator, and stay as they are.

    Args:
        bits: of each value, from 2 to 16.
        symmetric: whether ranges reach as far below zero as above.

    Raises:
        OptionValueError: an option has a value that it cannot have.
    """

    def __init__(self, bits: int = 8, *, symmetric: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bits = checked_bits(self.hook_name, bits)
        self.symmetric = checked_bool(self.hook_name, "symmetric", symmetric)

    def build(self, layer: keras.Layer) -> None:
        """Remember the activation, past Keras' tracking: it may be a layer."""
        self.__dict__.update(_own=layer.activation)

    def call(self, call_next: Callable[..., Any], inputs: Any) -> Any:
        """Return the layer's outputs, rounded on the way."""
        outputs = call_next(inputs)
        name = name_of(self._own)
        if name not in _STEPS:
            return outputs
        # The layer casts what it takes.
        return _in_steps(self._own, tf.cast(inputs, outputs.dtype), self.bits, self.symmetric)


def _in_steps(activation: Callable[[Any], Any], sums: Any, bits: int, symmetric: bool) -> Any:
    steps = _STEPS.get(name_of(activation))
    return activation(sums) if steps is None or observer() is not None else steps(sums, bits, symmetric)


def fixed_range(activation: str, bits: int, symmetric: bool) -> tuple[float, float] | None:
    """Return the range that LiteRT's kernels give an activation's result, whatever it takes; None: it has none."""
    if activation in ("sigmoid", "softmax") and not symmetric:
        return 0.0, (2**bits - 1) / 2**bits
    if activation in ("sigmoid", "softmax", "tanh"):
        most = 2 ** (bits - 1)
        return -1.0, (most - 1) / most
    return (0.0, 1.0) if activation == "hard_sigmoid" and not symmetric else None


def is_rounded_before(layer: keras.Layer) -> bool:
    """Tell whether a layer has an activation of its own that LiteRT computes by an operator of its own."""
    if isinstance(layer, keras.layers.Activation):
        return False
    return activation_name(layer) not in (CLIPS if fuses_clip(layer) else ("linear",))


def has_steps(layer: keras.Layer) -> bool:
    """Tell whether there is something to round within an Activation layer."""
    return isinstance(layer, keras.layers.Activation) and activation_name(layer) in _STEPS


def _silu(values: Any, bits: int, symmetric: bool) -> Any:
    ends = fixed_range("sigmoid", bits, symmetric)
    return values * _rounded(tf.sigmoid(values), ends, bits)


def _hard_sigmoid(values: Any, bits: int, symmetric: bool) -> Any:
    clipped = tf.nn.relu6(values + tf.cast(3.0, values.dtype))
    return _rounded(clipped, (-6.0 if symmetric else 0.0, 6.0), bits) * tf.cast(1 / 6, values.dtype)


def _rounded(values: Any, ends: Any, bits: int) -> Any:
    low, high = (tf.constant(end, tf.float32) for end in ends)
    return rounded(values, low, high, bits=bits)


_STEPS: Final = {"silu": _silu, "hard_sigmoid": _hard_sigmoid}
