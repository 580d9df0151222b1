"""What is measured of a tensor, and kept of many: a vector of float64, and how two of them are added."""

import enum
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

import kwrap

__all__ = ["BIN_COUNT", "Part", "added", "bin_edges", "flat", "length", "measure", "of_all_replicas"]


class Part(enum.IntEnum):
    """The places in a vector; bins of the histogram come after the last."""

    LOW = 0
    HIGH = 1
    SEEN = 2  # finite values, of all; the extremes are of these
    NON_FINITE = 3  # of all
    CALLS = 4
    SIZE = 5  # finite values of the sample; what follows is of these
    TOTAL = 6
    SQUARES = 7
    ZEROS = 8


# A bin is a quarter of an octave: the bits of a float32 down to the second of its mantissa. Fixed bins, as counts of
# many steps and replicas are to be added.
_FIRST_OCTAVE, _OCTAVES, _PER_OCTAVE = -40, 64, 4
_MAGNITUDES = _OCTAVES * _PER_OCTAVE
BIN_COUNT = 2 * _MAGNITUDES + 1
_ZERO_BIN = _MAGNITUDES
_BITS_BELOW = 21
_FIRST_BITS = (127 + _FIRST_OCTAVE) * _PER_OCTAVE
# Multiples of it, modulo 1, are spread evenly however many there are, and follow no axis of a tensor: a plain stride of
# the number of channels would see one channel only.
_GOLDEN = (5**0.5 - 1) / 2


def length(histogram: bool) -> int:
    """Return the length of a vector with or without a histogram."""
    return len(Part) + (BIN_COUNT if histogram else 0)


def bin_edges() -> Any:
    """Return the edges of the bins as an array of shape (BIN_COUNT, 2), float64.

    The bin in the middle is zero alone. The next ones reach to 0, the outermost ones take what is beyond them.
    """
    steps = np.arange(_MAGNITUDES + 1)
    edges = 2.0 ** (_FIRST_OCTAVE + steps // _PER_OCTAVE) * (1 + steps % _PER_OCTAVE / _PER_OCTAVE)
    edges[0] = 0.0
    positive = np.stack([edges[:-1], edges[1:]], axis=1)
    return np.concatenate([-positive[::-1, ::-1], [[0.0, 0.0]], positive])


def flat(tensors: Sequence[Any]) -> Any:
    """Return floating tensors as one flat one, of their dtype, or the widest of them."""
    dtypes = [tensor.dtype for tensor in tensors]
    widest = dtypes[0] if len(set(dtypes)) == 1 else tf.float64 if tf.float64 in dtypes else tf.float32
    parts = [tf.reshape(tf.cast(tensor, widest), [-1]) for tensor in tensors]
    return parts[0] if len(parts) == 1 else tf.concat(parts, 0)


@functools.lru_cache(maxsize=32)
def measure(sample: int | None, histogram: bool) -> kwrap.Kernel[..., Any]:
    """Return the kernel that measures a flat floating tensor: one trace a dtype for all layers of equal options."""

    def measured(values: Any) -> Any:
        values = values if values.dtype == tf.float64 else tf.cast(values, tf.float32)
        count = tf.size(values, out_type=tf.int64)
        part = values if sample is None else _sampled(values, count, sample)

        def of_whole() -> Any:
            extremes = tf.stack([tf.reduce_min(values), tf.reduce_max(values)])
            return _vector(extremes, count, tf.zeros_like(count), part, histogram)

        def of_finite() -> Any:
            finite = tf.math.is_finite(values)
            broken = count - tf.math.count_nonzero(finite)
            low = tf.reduce_min(tf.where(finite, values, values.dtype.max))
            high = tf.reduce_max(tf.where(finite, values, values.dtype.min))
            extremes = tf.stack([low, high])
            extremes = tf.where(broken < count, extremes, tf.zeros_like(extremes))
            kept = tf.boolean_mask(part, tf.math.is_finite(part))
            return _vector(extremes, count, broken, kept, histogram)

        # A sum is finite only if all are; one that overflows takes the longer way for nothing.
        return tf.cond(tf.math.is_finite(tf.reduce_sum(values)) & (count > 0), of_whole, of_finite)

    return kwrap.kernel(measured)


def added(old: Any, new: Any) -> Any:
    """Return the vector of all that two vectors are of."""
    has_new, has_old = new[Part.SEEN] > 0, old[Part.SEEN] > 0
    low = tf.minimum(old[Part.LOW], new[Part.LOW])
    high = tf.maximum(old[Part.HIGH], new[Part.HIGH])
    both = tf.where(has_old, tf.stack([low, high]), new[: Part.SEEN])
    return tf.concat([tf.where(has_new, both, old[: Part.SEEN]), old[Part.SEEN :] + new[Part.SEEN :]], 0)


def of_all_replicas(new: Any) -> Any:
    """Return the vectors, rows of a matrix, of what all replicas of a step have measured; alone, what is given."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return new
    # Nothing reduces to the least: each replica puts its extremes into a place of its own, and places are added.
    count = context.num_replicas_in_sync
    own = tf.one_hot(context.replica_id_in_sync_group, count, dtype=tf.float64)[:, None, None]
    parts, sums = context.all_reduce(tf.distribute.ReduceOp.SUM, [own * new[:, : Part.SEEN + 1], new[:, Part.SEEN :]])
    seen = parts[:, :, Part.SEEN] > 0
    low = tf.reduce_min(tf.where(seen, parts[:, :, Part.LOW], tf.float64.max), 0)
    high = tf.reduce_max(tf.where(seen, parts[:, :, Part.HIGH], tf.float64.min), 0)
    extremes = tf.stack([low, high], 1)
    extremes = tf.where(tf.reduce_any(seen, 0)[:, None], extremes, tf.zeros_like(extremes))
    return tf.concat([extremes, sums], 1)


def _sampled(values: Any, count: Any, sample: int) -> Any:
    """Return all values, or `sample` of them from all over."""
    places = np.arange(sample)
    kept = tf.minimum(count, sample)
    spread = tf.cast(tf.constant(places * _GOLDEN % 1.0)[:kept] * tf.cast(count, tf.float64), tf.int64)
    return tf.gather(values, tf.where(count > sample, spread, tf.constant(places)[:kept]))


def _vector(extremes: Any, count: Any, broken: Any, part: Any, histogram: bool) -> Any:
    """Return the vector of `count` values, of which `broken` are not finite; `part` is the sample's finite ones."""
    size, seen = tf.size(part, out_type=tf.int64), count - broken
    zeros = size - tf.math.count_nonzero(part)
    numbers = tf.cast(tf.stack([seen, broken, tf.ones_like(count), size]), tf.float64)
    wide = tf.cast(part, tf.float64)  # in which the difference of the sums is exact enough for a spread
    sums = [tf.reduce_sum(wide), tf.reduce_sum(wide * wide), tf.cast(zeros, tf.float64)]
    return tf.concat([tf.cast(extremes, tf.float64), numbers, sums, *([_counted(part)] if histogram else [])], 0)


def _counted(values: Any) -> Any:
    """Return how many of finite values are in each bin."""
    narrow = tf.cast(values, tf.float32)
    bits = tf.bitwise.right_shift(tf.bitcast(tf.abs(narrow), tf.int32), _BITS_BELOW)
    magnitude = tf.clip_by_value(bits - (_FIRST_BITS - 1), 1, _MAGNITUDES)
    places = _ZERO_BIN + tf.cast(tf.sign(narrow), tf.int32) * magnitude
    counts = tf.raw_ops.DenseBincount(
        input=places, size=BIN_COUNT, weights=tf.zeros([0], tf.float32), binary_output=False
    )
    return tf.cast(counts, tf.float64)
