"""A weight with its channels on the last axis, where TensorFlow's op for ranges of channels has them."""

import math
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

import kwrap

__all__ = ["Channels"]


@dataclass(frozen=True)
class Channels:
    """How a weight's channels, the axes that are not summed over with the inputs, come to be one last axis.

    Of a kernel (height, width, inputs, outputs) they are there; those of a depthwise kernel (height, width, inputs,
    multiplier) are folded into one; those of a transposed convolution (height, width, outputs, inputs) are moved.

    Attributes:
        shape: the weight's.
        order: its axes, those of channels last.
        axes: how many of them are of channels; 1 or more.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]
    axes: int

    @classmethod
    def of(cls, target: kwrap.WeightTarget) -> "Channels":
        """Return the channels of a target."""
        channels = [axis for axis in range(len(target.shape)) if axis not in target.input_axes]
        return cls(target.shape, (*sorted(target.input_axes), *channels), len(channels))

    @property
    def count(self) -> int:
        """The number of channels."""
        return math.prod(self._moved_shape[-self.axes :])

    def last(self, value: Any) -> Any:
        """Return `value`, of the weight's shape, with the channels as its last axis."""
        moved = value if self._in_order else tf.transpose(value, self.order)
        return moved if self.axes == 1 else tf.reshape(moved, [*self._moved_shape[: -self.axes], self.count])

    def back(self, value: Any) -> Any:
        """Return what `last` returned in the weight's shape."""
        moved = value if self.axes == 1 else tf.reshape(value, self._moved_shape)
        return moved if self._in_order else tf.transpose(moved, [self.order.index(axis) for axis in sorted(self.order)])

    @property
    def _in_order(self) -> bool:
        return self.order == tuple(sorted(self.order))

    @property
    def _moved_shape(self) -> list[int]:
        return [self.shape[axis] for axis in self.order]
