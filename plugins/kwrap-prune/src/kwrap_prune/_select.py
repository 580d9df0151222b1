"""The compute of pruning: which scores are the lowest, exactly, and without a sort."""

import tensorflow as tf

import kwrap

__all__ = ["lowest"]

DIGIT_BITS = 11  # few bins: with more, a small layer pays for them and not for its weights


@kwrap.kernel
def lowest(scores: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Return a bool mask, True at the `count` lowest of `scores`. Ties take the earlier index. Flat.

    `scores`: `(n,)` of any floating dtype; `count`: an int32 scalar, clipped to 0 ... n. NaN without a sign is higher
    than infinity, -0 lower than 0.

    A radix selection: a float's bits, read as an integer, order as the floats do once those of negative numbers are
    turned round; denormals too, which float arithmetic may flush to zero. Digit by digit from the highest, a histogram
    of those still tied tells the digit of the count-th.
    """
    width = 8 * scores.dtype.size
    bits = tf.bitcast(scores, getattr(tf, f"int{width}"))
    sign = tf.bitwise.right_shift(bits, tf.constant(width - 1, bits.dtype))  # -1 or 0
    ordered = tf.bitwise.bitwise_xor(bits, sign | bits.dtype.min)
    remaining = tf.clip_by_value(count, 0, tf.size(scores))
    lower, tied = tf.zeros_like(scores, tf.bool), tf.ones_like(scores, tf.bool)
    for shift in reversed(range(0, width, DIGIT_BITS)):
        digit = _digit(ordered, shift, min(DIGIT_BITS, width - shift))
        # A constant size, and 0-or-1 weights in place of a selection: then XLA compiles it.
        histogram = tf.raw_ops.DenseBincount(input=digit, size=1 << DIGIT_BITS, weights=tf.cast(tied, tf.int32))
        up_to = tf.cumsum(histogram)
        below = up_to < remaining
        pivot = tf.math.count_nonzero(below, dtype=tf.int32)
        remaining -= tf.reduce_max(tf.where(below, up_to, 0))
        lower |= tied & (digit < pivot)
        tied &= digit == pivot
    return lower | (tied & (tf.cumsum(tf.cast(tied, tf.int32)) <= remaining))


def _digit(ordered: tf.Tensor, shift: int, bits: int) -> tf.Tensor:
    """Return the digit of `ordered` that has `bits` bits and starts at bit `shift`, int32."""
    shifted = tf.bitwise.right_shift(ordered, tf.constant(shift, ordered.dtype))
    return tf.cast(shifted & ((1 << bits) - 1), tf.int32)
