"""Rounding tensors to a grid as a quantized model has it, by TensorFlow's own ops, which LiteRT's converter knows."""

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

__all__ = [
    "learned",
    "most",
    "rounded",
    "rounded_straight",
    "step_range",
    "symmetric_range",
    "usable_range",
    "weight_range",
]

# A channel's range is at least this share of its weight's largest value: behind a channel of zeros, a bias in units of
# the range would overflow LiteRT's int32.
_LEAST_SHARE = 2.0**-14
# Below it a range is one of zeros, or a step none at all: float32 has no such steps.
_TINY = 1e-12


def rounded(values: Any, low: Any, high: Any, *, bits: int, narrow_range: bool = False) -> Any:
    """Return floating `values` clipped to a range and rounded to its grid, in their own shape and dtype.

    The grid has 2**bits values, one less if narrow. TensorFlow shifts both ends by at most half a step, so that zero is
    on the grid, exactly. Gradients are those of clipping alone: 1 inside the shifted range, 0 outside (Jacob et al.
    2018, https://arxiv.org/abs/1712.05877). The ops compute in float32: other dtypes are cast there and back.

    Args:
        low: the range's lower end, 0 or below; a float32 scalar, or one for each place of the last axis.
        high: its upper end, 0 or above, of the same shape; above `low`.
    """
    ops = tf.quantization
    per_channel = low.shape.rank == 1
    op = ops.fake_quant_with_min_max_vars_per_channel if per_channel else ops.fake_quant_with_min_max_vars
    result = op(tf.cast(values, tf.float32), low, high, num_bits=bits, narrow_range=narrow_range)
    return tf.cast(result, values.dtype)


def rounded_straight(
    values: Any, *, bits: int, per_channel: bool = False, symmetric: bool = True, narrow_range: bool = True
) -> Any:
    """Return `values` rounded to the grid of their own range; gradients go straight through, as nothing is clipped.

    Args:
        per_channel: whether each place of the last axis has a range of its own.
        symmetric: whether ranges reach as far below zero as above.
    """

    def straight(values: Any) -> tuple[Any, Callable[[Any], Any]]:
        low, high = weight_range(values, bits, per_channel, symmetric, narrow_range)
        return rounded(values, low, high, bits=bits, narrow_range=narrow_range), lambda upstream: upstream

    return tf.custom_gradient(straight)(values)


def learned(values: Any, step: Any, *, bits: int, narrow_range: bool = True) -> Any:
    """Return `values` rounded to multiples of `step`, which has a gradient (LSQ, Esser et al. 2020).

    https://arxiv.org/abs/1902.08153. With v = values / step, and v clipped to the integers -n to p that `bits` allow,
    the gradient of the result by the step is round(v) - v inside, -n or p outside, summed, and scaled by
    1 / sqrt(count * p), where `count` is the number of values that share the step. The gradient by the values is 1
    inside, 0 outside.

    Args:
        step: above 0; a float32 scalar, or one for each place of the last axis.
    """
    largest = most(bits)
    axes = list(range(values.shape.rank - 1)) if step.shape.rank else None
    count = math.prod(values.shape) / max(math.prod(step.shape), 1)

    def lsq(values: Any, step: Any) -> tuple[Any, Callable[[Any], Any]]:
        low, high = step_range(step, bits, narrow_range)
        unit = high / largest
        result = rounded(values, low, high, bits=bits, narrow_range=narrow_range)

        def gradient(upstream: Any) -> tuple[Any, Any]:
            upstream = tf.convert_to_tensor(upstream)
            scaled = tf.cast(values, tf.float32) / unit
            inside = tf.logical_and(scaled > low / unit, scaled < largest)
            slope = tf.cast(result, tf.float32) / unit - tf.where(inside, scaled, 0.0)
            of_step = tf.reduce_sum(tf.cast(upstream, tf.float32) * slope, axes)
            return tf.where(inside, upstream, tf.zeros_like(upstream)), of_step / math.sqrt(count * largest)

        return result, gradient

    return tf.custom_gradient(lsq)(values, step)


def weight_range(values: Any, bits: int, per_channel: bool, symmetric: bool, narrow_range: bool) -> tuple[Any, Any]:
    """Return the ends of the range of a weight, float32: scalars, or one for each place of the last axis.

    They have zero between them. That of a channel is at least 2**-14 of the weight's largest value; that of a weight of
    zeros reaches to 1.
    """
    wide = tf.cast(values, tf.float32)
    axes = list(range(wide.shape.rank - 1)) if per_channel else None
    low = tf.minimum(tf.reduce_min(wide, axes), 0.0)
    high = tf.maximum(tf.reduce_max(wide, axes), 0.0)
    size = tf.maximum(-low, high)
    largest = tf.reduce_max(size)
    least = tf.where(largest > _TINY**2, largest * _LEAST_SHARE, 1.0)
    if symmetric:
        return symmetric_range(tf.maximum(size, least), bits, narrow_range)
    return low, tf.maximum(high, least)


def step_range(step: Any, bits: int, narrow_range: bool) -> tuple[Any, Any]:
    """Return the ends of the range of integers of `bits` times `step`, which counts as positive."""
    unit = tf.maximum(step, _TINY)
    return -_least(bits, narrow_range) * unit, most(bits) * unit


def usable_range(low: Any, high: Any, bits: int, symmetric: bool) -> tuple[Any, Any]:
    """Return the ends of the range of an activation from what was seen of it; that of zeros reaches to 1."""
    high = tf.where(high - low <= _TINY, low + 1.0, high)  # NaN stays NaN
    return symmetric_range(tf.maximum(-low, high), bits) if symmetric else (low, high)


def symmetric_range(size: Any, bits: int, narrow_range: bool = False) -> tuple[Any, Any]:
    """Return the range from about -size to size, of which zero is the middle of the grid: LiteRT's zero point is 0."""
    return -size * (_least(bits, narrow_range) / most(bits)), size


def most(bits: int) -> int:
    """Return the largest integer of `bits` with a sign."""
    return int(2 ** (bits - 1) - 1)


def _least(bits: int, narrow_range: bool) -> int:
    """Return the magnitude of the smallest integer of `bits` with a sign."""
    return most(bits) + (0 if narrow_range else 1)
