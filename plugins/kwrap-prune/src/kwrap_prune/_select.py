"""The compute of pruning: which scores are the lowest, exactly, and without a sort."""

import functools
from collections.abc import Callable

import tensorflow as tf

import kwrap

__all__ = ["lowest", "lowest_of_groups"]

DIGIT_BITS = 11  # few bins: with more, a small layer pays for them and not for its weights


@kwrap.kernel
def lowest(scores: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Return a bool mask, True at the `count` lowest of `scores`. Ties take the earlier index. Flat.

    `scores`: `(n,)` of any floating dtype; `count`: an int32 scalar, clipped to 0 ... n. NaN without a sign is higher
    than infinity, -0 lower than 0.

    A radix selection: digit by digit from the highest, a histogram of those still tied tells the digit of the count-th.
    Few are tied after the first digit, so that only this one is a pass over all.
    """
    keys = tied = _keys(scores)
    remaining = tf.clip_by_value(count, 0, tf.size(scores))
    for digit_of in _digits(scores.dtype):
        digit = digit_of(tied)
        pivot, below = _digit_of_last(digit, tf.zeros([0], tf.int32), remaining)
        remaining -= below
        tied = _taken(tied, tf.squeeze(tf.where(digit == pivot), 1))
    # All that are still tied are equal: of those, the first `remaining`, which mostly are all of them.
    value = tf.cast(tf.reduce_max(tf.cast(tied, tf.int64)), keys.dtype)
    return tf.cond(
        remaining == tf.size(tied),
        lambda: keys <= value,
        lambda: (keys < value) | _first(keys == value, remaining),
    )


@lowest.variant(jit_compile=True)
def lowest_in_xla(scores: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Do the same with shapes that are known before the values: what is no longer tied counts for nothing."""
    keys = _keys(scores)
    remaining = tf.clip_by_value(count, 0, tf.size(scores))
    lower, tied = tf.zeros_like(scores, tf.bool), tf.ones_like(scores, tf.bool)
    for digit_of in _digits(scores.dtype):
        digit = digit_of(keys)
        pivot, below = _digit_of_last(digit, tf.cast(tied, tf.int32), remaining)
        remaining -= below
        lower |= tied & (digit < pivot)
        tied &= digit == pivot
    all_tied = remaining == tf.math.count_nonzero(tied, dtype=tf.int32)
    return tf.cond(all_tied, lambda: lower | tied, lambda: lower | _first(tied, remaining))


@kwrap.kernel
def lowest_of_groups(scores: tf.Tensor, size: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Return a bool mask, True at the `count` lowest of each `size` consecutive `scores`. Flat.

    `scores`: `(n,)` of any floating dtype; `size`, which divides n, and `count`: int32 scalars. The order is that of
    `lowest`. Each is compared with each other of its group: `size` passes.
    """
    groups = _keys(tf.reshape(scores, [-1, size]))
    places = tf.range(size)

    def compare(place: tf.Tensor, rank: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        other = _taken(groups, [place], axis=1)
        is_lower = (other < groups) | ((other == groups) & (place < places))
        return place + 1, rank + tf.cast(is_lower, rank.dtype)

    start = tf.constant(0), tf.zeros_like(groups)
    _, rank = tf.while_loop(lambda place, _: place < size, compare, start)
    return tf.reshape(rank < tf.cast(tf.maximum(count, 0), rank.dtype), [-1])


# Unsigned ints, as on GPUs TensorFlow compares and adds int32 in host memory.


def _keys(scores: tf.Tensor) -> tf.Tensor:
    """Return unsigned ints in the order of `scores`: a float's bits, those of negative numbers turned round.

    Denormals, too, which float arithmetic may flush to zero. `-0` is before 0.
    """
    width = 8 * scores.dtype.size
    bits = tf.bitcast(scores, getattr(tf, f"int{width}"))
    negative = tf.bitwise.right_shift(bits, tf.constant(width - 1, bits.dtype))  # -1 or 0
    keys = tf.bitcast(tf.bitwise.bitwise_xor(bits, negative | bits.dtype.min), getattr(tf, f"uint{width}"))
    return tf.cast(keys, tf.uint32) if width == 16 else keys  # on GPUs, TensorFlow gathers no ints of 16 bits


def _taken(keys: tf.Tensor, places: tf.Tensor, axis: int = 0) -> tf.Tensor:
    """Return `tf.gather(keys, places, axis)`, which on GPUs there is for signed ints."""
    signed = tf.bitcast(keys, tf.int64 if keys.dtype.size == 8 else tf.int32)
    return tf.bitcast(tf.gather(signed, places, axis=axis), keys.dtype)


def _digits(dtype: tf.DType) -> list[Callable[[tf.Tensor], tf.Tensor]]:
    """Return functions from keys of floats to their digits, uint32, the highest digit first."""
    highest, *lower = range(8 * dtype.size - DIGIT_BITS, -DIGIT_BITS, -DIGIT_BITS)
    return [functools.partial(_shifted, by=highest), *(functools.partial(_lower_digit, start=start) for start in lower)]


def _lower_digit(keys: tf.Tensor, start: int) -> tf.Tensor:
    bits = DIGIT_BITS + min(start, 0)  # the lowest digit has what is left
    return _shifted(keys, max(start, 0)) & ((1 << bits) - 1)


def _shifted(keys: tf.Tensor, by: int) -> tf.Tensor:
    return tf.cast(tf.bitwise.right_shift(keys, tf.constant(by, keys.dtype)), tf.uint32)


def _digit_of_last(digit: tf.Tensor, weights: tf.Tensor, count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the digit of the last of the `count` lowest, or of the lowest, and how many are below that digit."""
    # A constant size, which XLA needs.
    histogram = tf.raw_ops.DenseBincount(input=tf.bitcast(digit, tf.int32), size=1 << DIGIT_BITS, weights=weights)
    up_to = tf.cumsum(histogram)
    below = up_to < tf.maximum(count, 1)
    return tf.math.count_nonzero(below, dtype=tf.uint32), tf.reduce_max(tf.where(below, up_to, 0))


def _first(chosen: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Return which are among the first `count` that are chosen."""
    places = tf.bitcast(tf.cumsum(tf.cast(chosen, tf.int32)), tf.uint32)
    return chosen & (places <= tf.cast(count, tf.uint32))
