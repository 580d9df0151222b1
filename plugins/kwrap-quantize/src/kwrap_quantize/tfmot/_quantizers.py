"""Quantizers: ways to round one tensor, as a QuantizeConfig gives them."""

import abc
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from kwrap.errors import OptionValueError
from kwrap_quantize._fake import rounded, usable_range
from kwrap_quantize._options import checked_bits

__all__ = [
    "AllValuesQuantizer",
    "FixedQuantizer",
    "LastValueQuantizer",
    "MovingAverageQuantizer",
    "Quantizer",
    "RangeQuantizer",
    "register",
]

DECAY = 0.999  # of tfmot's moving averages


def register(cls: type[Any]) -> None:
    """Register a class with Keras, so that what holds an object of it can be saved."""
    keras.saving.register_keras_serializable(package=cls.__module__, name=cls.__qualname__)(cls)


class Quantizer(abc.ABC):
    """Rounds a tensor; its subclasses are registered with Keras. Two of one class and config are equal."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        register(cls)

    @abc.abstractmethod
    def build(self, tensor_shape: Sequence[int | None], name: str, layer: Any) -> dict[str, keras.Variable] | None:
        """Return the variables that it needs, made by `layer.add_weight(name, ...)`, by names of its own."""

    @abc.abstractmethod
    def __call__(self, inputs: Any, training: bool, weights: dict[str, keras.Variable], **kwargs: Any) -> Any:
        """Return `inputs`, a floating tensor, rounded; `weights` are what `build` returned."""

    @abc.abstractmethod
    def get_config(self) -> dict[str, Any]:
        """Return the arguments of `__init__`."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Quantizer":
        """Return the quantizer of these arguments."""
        return cls(**config)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.get_config() == other.get_config()

    def __hash__(self) -> int:
        return hash((type(self), *sorted(self.get_config().items())))


class RangeQuantizer(Quantizer):
    """Rounds to a grid between two bounds that follow the values in training.

    Args:
        num_bits: of the grid, 2 to 16.
        per_axis: whether each index of the last axis has a range of its own.
        symmetric: whether a range has zero in its middle.
        narrow_range: whether the grid has one point fewer, as many below zero as above.
    """

    start = 6.0  # A range that has seen nothing is (-start, start).

    def __init__(self, num_bits: int, per_axis: bool, symmetric: bool, narrow_range: bool) -> None:
        self.num_bits = checked_bits(type(self).__name__, num_bits, "num_bits")
        self.per_axis, self.symmetric, self.narrow_range = per_axis, symmetric, narrow_range

    def build(self, tensor_shape: Sequence[int | None], name: str, layer: Any) -> dict[str, keras.Variable]:
        """Return the variables of the range."""
        if self.per_axis and not tensor_shape:
            raise OptionValueError(
                type(self).__name__, "per_axis", True, f"needs the shape of {name!r}, not known here"
            )
        shape = (tensor_shape[-1],) if self.per_axis else ()
        bounds = {"min_var": -self.start, "max_var": self.start}
        return {
            bound: layer.add_weight(
                f"{name}_{bound[:3]}",
                initializer=keras.initializers.Constant(value),
                trainable=False,
                shape=shape,
            )
            for bound, value in bounds.items()
        }

    def __call__(self, inputs: Any, training: bool, weights: dict[str, keras.Variable], **kwargs: Any) -> Any:
        """Return `inputs` on the grid; in training the range is moved before."""
        low, high = (tf.convert_to_tensor(weights[bound]) for bound in ("min_var", "max_var"))
        if training:
            low, high = self.moved((low, high), self._of(inputs))
            weights["min_var"].assign(low)
            weights["max_var"].assign(high)
        low, high = usable_range(low, high, self.num_bits, symmetric=False)
        return rounded(inputs, low, high, bits=self.num_bits, narrow_range=self.narrow_range)

    @abc.abstractmethod
    def moved(self, before: tuple[Any, Any], batch: tuple[Any, Any]) -> tuple[Any, Any]:
        """Return the range after a batch of this range, which has zero in it."""

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of `__init__`."""
        names = ("num_bits", "per_axis", "symmetric", "narrow_range")
        return {name: getattr(self, name) for name in names}

    def _of(self, inputs: Any) -> tuple[Any, Any]:
        """Return the smallest and the largest value, of each index of the last axis or of all; zero is between."""
        inputs = tf.stop_gradient(tf.cast(inputs, tf.float32))
        axes = list(range(len(inputs.shape) - 1)) if self.per_axis else None
        low, high = tf.reduce_min(inputs, axes), tf.reduce_max(inputs, axes)
        if not self.symmetric:
            return tf.minimum(low, 0.0), tf.maximum(high, 0.0)
        # A wide grid has one point more below zero than above.
        points = 2**self.num_bits
        below = 1.0 if self.narrow_range else points / (points - 2)
        return tf.minimum(low, -high * below), tf.maximum(high, -low / below)


class LastValueQuantizer(RangeQuantizer):
    """Its range is that of the last batch; at inference, of the last one in training."""

    def moved(self, before: tuple[Any, Any], batch: tuple[Any, Any]) -> tuple[Any, Any]:
        """Return the batch's range."""
        return batch


class MovingAverageQuantizer(RangeQuantizer):
    """Its range is a moving average, of decay 0.999, of those of batches."""

    def moved(self, before: tuple[Any, Any], batch: tuple[Any, Any]) -> tuple[Any, Any]:
        """Return the range, a thousandth of the way nearer to the batch's."""
        low, high = (old + (new - old) * (1 - DECAY) for old, new in zip(before, batch, strict=True))
        return low, high


class AllValuesQuantizer(RangeQuantizer):
    """Its range is that of all values so far, in training."""

    start = 0.0

    def moved(self, before: tuple[Any, Any], batch: tuple[Any, Any]) -> tuple[Any, Any]:
        """Return the range that has both in it."""
        return tf.minimum(before[0], batch[0]), tf.maximum(before[1], batch[1])


class FixedQuantizer(Quantizer):
    """Rounds to a grid of `num_bits` between `init_min` and `init_max`, for ever."""

    def __init__(self, num_bits: int, init_min: float, init_max: float, narrow_range: bool) -> None:
        self.num_bits = checked_bits(type(self).__name__, num_bits, "num_bits")
        self.init_min, self.init_max, self.narrow_range = init_min, init_max, narrow_range

    def build(self, tensor_shape: Sequence[int | None], name: str, layer: Any) -> dict[str, keras.Variable]:
        """Return no variables."""
        return {}

    def __call__(self, inputs: Any, training: bool, weights: dict[str, keras.Variable], **kwargs: Any) -> Any:
        """Return `inputs` on the grid."""
        low, high = (tf.constant(end, tf.float32) for end in (self.init_min, self.init_max))
        return rounded(inputs, low, high, bits=self.num_bits, narrow_range=self.narrow_range)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of `__init__`."""
        return {
            "num_bits": self.num_bits,
            "init_min": self.init_min,
            "init_max": self.init_max,
            "narrow_range": self.narrow_range,
        }
