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
    ordered = tied = _ordered(scores)
    remaining = tf.clip_by_value(count, 0, tf.size(scores))
    for digit_of in _digits(scores.dtype):
        digit = digit_of(tied)
        pivot, below = _digit_of_last(digit, tf.zeros([0], tf.int32), remaining)
        remaining -= below
        tied = tf.gather(tied, tf.squeeze(tf.where(digit == pivot), 1))
    # All that are still tied are equal: of those, the first `remaining`, which mostly are all of them.
    return tf.cond(
        remaining == tf.size(tied),
        lambda: ordered <= tf.reduce_max(tied),
        lambda: (ordered < tf.reduce_max(tied)) | _first(ordered == tf.reduce_max(tied), remaining),
    )


@lowest.variant(jit_compile=True)
def lowest_in_xla(scores: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Do the same with shapes that are known before the values: what is no longer tied counts for nothing."""
    ordered = _ordered(scores)
    remaining = tf.clip_by_value(count, 0, tf.size(scores))
    lower, tied = tf.zeros_like(scores, tf.bool), tf.ones_like(scores, tf.bool)
    for digit_of in _digits(scores.dtype):
        digit = digit_of(ordered)
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
    groups = tf.reshape(_ordered(scores), [-1, size])
    places = tf.range(size)

    def compare(place: tf.Tensor, rank: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        other = tf.gather(groups, [place], axis=1)
        is_lower = (other < groups) | ((other == groups) & (place < places))
        return place + 1, rank + tf.cast(is_lower, tf.int32)

    start = tf.constant(0), tf.zeros_like(groups, tf.int32)
    _, rank = tf.while_loop(lambda place, _: place < size, compare, start)
    return tf.reshape(rank < count, [-1])


def _ordered(scores: tf.Tensor) -> tf.Tensor:
    """Return ints in the order of `scores`: a float's bits, those of negative numbers turned round.

    Denormals, too, which float arithmetic may flush to zero. `-0` is before 0.
    """
    width = 8 * scores.dtype.size
    bits = tf.bitcast(scores, getattr(tf, f"int{width}"))
    if bits.dtype == tf.int16:
        bits = tf.cast(bits, tf.int32)  # on GPUs, TensorFlow gathers no int16
    sign = tf.bitwise.right_shift(bits, tf.constant(width - 1, bits.dtype))  # -1 or 0
    return tf.bitwise.bitwise_xor(bits, sign & ((1 << (width - 1)) - 1))


def _digits(dtype: tf.DType) -> list[Callable[[tf.Tensor], tf.Tensor]]:
    """Return functions from ints to their digits, int32 from 0 on, the highest digit first."""
    highest, *lower = range(8 * dtype.size - DIGIT_BITS, -DIGIT_BITS, -DIGIT_BITS)
    # Its sign is in the highest: negative ones come first.
    return [
        lambda ints: _shifted(ints, highest) + (1 << (DIGIT_BITS - 1)),
        *(functools.partial(_lower_digit, start=start) for start in lower),
    ]


def _lower_digit(ints: tf.Tensor, start: int) -> tf.Tensor:
    bits = DIGIT_BITS + min(start, 0)  # the lowest digit has what is left
    return _shifted(ints, max(start, 0)) & ((1 << bits) - 1)


def _shifted(ints: tf.Tensor, by: int) -> tf.Tensor:
    return tf.cast(tf.bitwise.right_shift(ints, tf.constant(by, ints.dtype)), tf.int32)


def _digit_of_last(digit: tf.Tensor, weights: tf.Tensor, count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the digit of the last of the `count` lowest, and how many are below that digit."""
    # A constant size, which XLA needs.
    histogram = tf.raw_ops.DenseBincount(input=digit, size=1 << DIGIT_BITS, weights=weights)
    up_to = tf.cumsum(histogram)
    below = up_to < count
    return tf.math.count_nonzero(below, dtype=tf.int32), tf.reduce_max(tf.where(below, up_to, 0))


def _first(chosen: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Return which are among the first `count` that are chosen."""
    return chosen & (tf.cumsum(tf.cast(chosen, tf.int32)) <= count)
