"""The compute of magnitude pruning: which weights are the smallest, exactly, and without a sort."""

import tensorflow as tf

import kwrap

__all__ = ["smallest"]

DIGIT_BITS = 11  # few bins: with more, a small layer pays for them and not for its weights


@kwrap.kernel
def smallest(weights: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Return a bool mask, True at the `count` smallest magnitudes of `weights`. Ties take the earlier index. Flat.

    `weights`: `(n,)` of any floating dtype; `count`: an int32 scalar, clipped to 0 ... n. NaN is larger than infinity.

    A radix selection: the bits of |w|, read as an integer, order as |w| does; denormals too, which float arithmetic
    may flush to zero. Digit by digit from the highest, a histogram of those still tied tells the digit of the count-th.
    """
    width = 8 * weights.dtype.size
    integer = getattr(tf, f"int{width}")
    magnitude = tf.bitcast(weights, integer) & integer.max  # without the sign bit
    remaining = tf.clip_by_value(count, 0, tf.size(weights))
    smaller, tied = tf.zeros_like(weights, tf.bool), tf.ones_like(weights, tf.bool)
    for shift in reversed(range(0, width, DIGIT_BITS)):
        digit = _digit(magnitude, shift)
        # A constant size, and 0-or-1 weights in place of a selection: then XLA compiles it.
        histogram = tf.raw_ops.DenseBincount(input=digit, size=1 << DIGIT_BITS, weights=tf.cast(tied, tf.int32))
        up_to = tf.cumsum(histogram)
        below = up_to < remaining
        pivot = tf.math.count_nonzero(below, dtype=tf.int32)
        remaining -= tf.reduce_max(tf.where(below, up_to, 0))
        smaller |= tied & (digit < pivot)
        tied &= digit == pivot
    return smaller | (tied & (tf.cumsum(tf.cast(tied, tf.int32)) <= remaining))


def _digit(magnitude: tf.Tensor, shift: int) -> tf.Tensor:
    """Return the digit of `magnitude` that starts at bit `shift`, int32."""
    shifted = tf.bitwise.right_shift(magnitude, tf.constant(shift, magnitude.dtype))
    return tf.cast(shifted & min((1 << DIGIT_BITS) - 1, shifted.dtype.max), tf.int32)
