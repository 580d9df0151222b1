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
    """The places in a vector; bins of the histogram come after the last. All but NON_FINITE is of finite values."""

    LOW = 0
    HIGH = 1
    SIZE = 2
    NON_FINITE = 3
    CALLS = 4
    TOTAL = 5
    SQUARES = 6
    ZEROS = 7


# A bin is a quarter of an octave: the bits of a float32 down to the second of its mantissa. Fixed bins, as counts of
# many steps and replicas are to be added.
_FIRST_OCTAVE, _OCTAVES, _PER_OCTAVE = -40, 64, 4
_MAGNITUDES = _OCTAVES * _PER_OCTAVE
BIN_COUNT = 2 * _MAGNITUDES + 1
_ZERO_BIN = _MAGNITUDES
_BITS_BELOW = 21
_FIRST_BITS = (127 + _FIRST_OCTAVE) * _PER_OCTAVE
# Multiples of it, modulo 1, are spread evenly however many there are, and follow no axis of a tensor: a plain stride of
# the number of channels would see one channel only. Each gives the place in a part of the tensor of its own, so that
# none is taken twice.
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
    """Return the kernel that adds what it measures of a flat floating tensor to a vector.

    One trace a dtype serves all layers of equal options.
    """

    def measured(values: Any, vector: Any) -> Any:
        part = values if sample is None else sampled(values, sample)
        return _joined(_split(vector), _parts(part, histogram))

    return kwrap.kernel(measured)


def added(old: Any, new: Any) -> Any:
    """Return the vector of all that two vectors are of."""
    return _joined(_split(old), _split(new))


def _split(vector: Any) -> Sequence[Any]:
    """Return the least, the greatest, their number and the rest of a vector, each of one axis."""
    parts: Sequence[Any] = tf.split(vector, [1, 1, 1, -1], num=4)
    return parts


def _joined(old: Sequence[Any], new: Sequence[Any]) -> Any:
    """Return the vector of both: what is extreme of no values does not count."""
    (old_low, old_high, old_size, old_rest), (low, high, size, rest) = old, new
    has_old, has_new = old_size > 0, size > 0
    low = tf.where(has_new, tf.where(has_old, tf.minimum(old_low, low), low), old_low)
    high = tf.where(has_new, tf.where(has_old, tf.maximum(old_high, high), high), old_high)
    return tf.concat([low, high, old_size + size, old_rest + rest], 0)


def of_all_replicas(new: Any) -> Any:
    """Return the vectors, rows of a matrix, of what all replicas of a step have measured; alone, what is given."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return new
    # Nothing reduces to the least: each replica puts its extremes into a place of its own, and places are added.
    count = context.num_replicas_in_sync
    own = tf.one_hot(context.replica_id_in_sync_group, count, dtype=tf.float64)[:, None, None]
    parts, sums = context.all_reduce(tf.distribute.ReduceOp.SUM, [own * new[:, : Part.SIZE + 1], new[:, Part.SIZE :]])
    seen = parts[:, :, Part.SIZE] > 0
    low = tf.reduce_min(tf.where(seen, parts[:, :, Part.LOW], tf.float64.max), 0)
    high = tf.reduce_max(tf.where(seen, parts[:, :, Part.HIGH], tf.float64.min), 0)
    extremes = tf.stack([low, high], 1)
    extremes = tf.where(tf.reduce_any(seen, 0)[:, None], extremes, tf.zeros_like(extremes))
    return tf.concat([extremes, sums], 1)


def sampled(values: Any, sample: int) -> Any:
    """Return all values, or `sample` of them from all over, in their order."""
    count = tf.size(values, out_type=tf.int64)
    # In float64: TensorFlow divides integers one by one.
    stride = tf.maximum(tf.cast(count, tf.float64) / sample, 1.0)
    places = np.arange(sample, dtype="float64")
    # A place in a part of its own. Where parts are short, not in all of it: a multiple may be 0.382 below the one
    # before, and two places have to be one value apart.
    shift = tf.minimum(stride, (stride - 1.0) * 2.5)
    spread = tf.cast(places * stride + places * _GOLDEN % 1.0 * shift, tf.int64)
    return tf.gather(values, spread[:count])


def _parts(values: Any, histogram: bool) -> Sequence[Any]:
    """Return, of flat values, what `_split` does of a vector; where there are none, extremes are infinite."""
    wide = tf.cast(values, tf.float64)  # in which the difference of the sums is exact enough for a spread
    finite = tf.math.is_finite(wide)
    ones = tf.cast(finite, tf.float64)
    known = tf.math.multiply_no_nan(wide, ones)
    size = _sum(ones)
    rest = [
        tf.cast(tf.size(values, out_type=tf.int64), tf.float64) - size,
        tf.ones([1], tf.float64),
        _sum(known),
        _sum(tf.square(known)),
        _sum(tf.cast(tf.equal(wide, 0.0), tf.float64)),
        *([_counted(known, finite)] if histogram else []),
    ]
    low = tf.reduce_min(tf.where(finite, wide, np.inf), keepdims=True)
    high = tf.reduce_max(tf.where(finite, wide, -np.inf), keepdims=True)
    return low, high, size, tf.concat(rest, 0)


def _sum(values: Any) -> Any:
    return tf.reduce_sum(values, keepdims=True)


def _counted(values: Any, counts: Any) -> Any:
    """Return how many of finite values are in each bin, of those that count: a bool for each."""
    narrow = tf.cast(values, tf.float32)
    bits = tf.bitwise.right_shift(tf.bitcast(tf.abs(narrow), tf.int32), _BITS_BELOW)
    magnitude = tf.clip_by_value(bits - (_FIRST_BITS - 1), 1, _MAGNITUDES)
    places = _ZERO_BIN + tf.cast(tf.sign(narrow), tf.int32) * magnitude
    weights = tf.cast(counts, tf.float32)  # GPUs count in no other floating dtype
    counted = tf.raw_ops.DenseBincount(input=places, size=BIN_COUNT, weights=weights, binary_output=False)
    return tf.cast(counted, tf.float64)
