"""What is measured of a tensor, and kept of many: a vector of float64, and how two of them are added."""

import enum
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

import kwrap
from kwrap_probe._turn import GOLDEN

__all__ = [
    "BIN_COUNT",
    "Part",
    "added",
    "bin_edges",
    "extremes",
    "flat",
    "measure",
    "nothing",
    "of_all_replicas",
    "sampled",
]


class Part(enum.IntEnum):
    """The places in a vector; bins of the histogram come after the last. All but VALUES is of finite values."""

    NEGATED_LOW = 0  # so that of both extremes the greater one counts
    HIGH = 1
    SIZE = 2
    VALUES = 3
    TOTAL = 4
    SQUARES = 5
    ZEROS = 6
    CALLS = 7


# A bin is a quarter of an octave: the bits of a float32 down to the second of its mantissa. Fixed bins, as counts of
# many steps and replicas are to be added.
_FIRST_OCTAVE, _OCTAVES, _PER_OCTAVE = -40, 64, 4
_MAGNITUDES = _OCTAVES * _PER_OCTAVE
BIN_COUNT = 2 * _MAGNITUDES + 1
_ZERO_BIN = _MAGNITUDES
_BITS_BELOW = 21
_FIRST_BITS = (127 + _FIRST_OCTAVE) * _PER_OCTAVE
_SIGN_BIT = 1 << 31 - _BITS_BELOW


def nothing(histogram: bool) -> Any:
    """Return the vector of no values, with or without a histogram."""
    return np.array([-np.inf] * Part.SIZE + [0.0] * (len(Part) - Part.SIZE + (BIN_COUNT if histogram else 0)))


def extremes(vector: Any) -> tuple[float, float]:
    """Return the least and the greatest of a vector's values; 0 and 0 where there are none."""
    return (0.0 - float(vector[Part.NEGATED_LOW]), float(vector[Part.HIGH])) if vector[Part.SIZE] else (0.0, 0.0)


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
    """Return the kernel that adds what it measures of flat floating tensors to as many vectors, given behind them.

    One trace for a number of them, and their dtypes, serves all layers of equal options.
    """

    def measured(*tensors: Any) -> Any:
        half = len(tensors) // 2
        return [
            added(vector, _vector(values if sample is None else sampled(values, sample), histogram))
            for values, vector in zip(tensors[:half], tensors[half:], strict=True)
        ]

    return kwrap.kernel(measured)


def added(old: Any, new: Any) -> Any:
    """Return the vector of all that two vectors are of."""
    is_extreme = np.arange(new.shape[0]) < Part.SIZE
    return tf.where(is_extreme, tf.maximum(old, new), old + new)


def of_all_replicas(new: Any) -> Any:
    """Return the vectors, rows of a matrix, of what all replicas of a step have measured; alone, what is given."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return new
    # Nothing reduces to the greatest: each replica puts its extremes into a place of its own, and places are added.
    own = tf.range(context.num_replicas_in_sync) == context.replica_id_in_sync_group
    placed = tf.where(own[:, None, None], new[:, : Part.SIZE], 0.0)
    parts, sums = context.all_reduce(tf.distribute.ReduceOp.SUM, [placed, new[:, Part.SIZE :]])
    return tf.concat([tf.reduce_max(parts, 0), sums], 1)


def sampled(values: Any, sample: int) -> Any:
    """Return all values, or `sample` of them from all over, in their order."""
    # In float64: TensorFlow divides integers one by one.
    count, places = tf.shape(values, out_type=tf.int64), np.arange(sample, dtype="float64")
    # Multiples of the golden ratio, modulo 1, are spread evenly however many there are, and follow no axis of a tensor:
    # a plain stride of the number of channels would see one channel only. Each is a place in a part of its own of the
    # tensor. Where parts are short, not in all of it: a multiple may be 0.382 below the one before, and two places have
    # to be one value apart, so that none is taken twice.
    spread, most = places * GOLDEN % 1.0, places * GOLDEN % 1.0 * 2.5
    length = tf.cast(count, tf.float64)
    in_parts = tf.minimum(length * ((places + spread) / sample), length * ((places + most) / sample) - most)
    taken = tf.cast(tf.maximum(in_parts, places), tf.int64)
    return tf.gather(values, tf.strided_slice(taken, np.zeros(1, "int64"), count))


def _vector(values: Any, histogram: bool) -> Any:
    """Return the vector of flat values."""
    wide = tf.cast(values, tf.float64)  # in which the difference of the sums is exact enough for a spread
    finite = tf.math.is_finite(wide)
    counts = tf.cast(finite, tf.float64)
    known = tf.math.multiply_no_nan(wide, counts)
    zeros = tf.cast(tf.equal(wide, 0.0), tf.float64)
    return tf.concat(
        [
            tf.reduce_max(tf.where(finite, tf.stack([-wide, wide]), -np.inf), 1),
            tf.reduce_sum(tf.stack([counts, tf.ones_like(wide), known, tf.square(known), zeros]), 1),
            tf.ones([1], tf.float64),
            *([_counted(known, finite)] if histogram else []),
        ],
        0,
    )


def _counted(values: Any, counts: Any) -> Any:
    """Return how many of finite values are in each bin, of those that count: a bool for each."""
    bits = tf.bitcast(tf.cast(values, tf.float32), tf.int32)
    places = tf.gather(_places(), tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, _BITS_BELOW), 2 * _SIGN_BIT - 1))
    weights = tf.cast(counts, tf.float32)  # GPUs count in no other floating dtype
    counted = tf.raw_ops.DenseBincount(input=places, size=BIN_COUNT, weights=weights, binary_output=False)
    return tf.cast(counted, tf.float64)


def _places() -> Any:
    """Return the bin for all that the upper bits of a float32 may be, by these as an unsigned integer."""
    magnitudes = np.clip(np.arange(_SIGN_BIT) - (_FIRST_BITS - 1), 1, _MAGNITUDES).astype("int32")
    magnitudes[0] = 0  # and what is below 2**-128, which is zero to TensorFlow's arithmetic on CPUs
    return np.concatenate([_ZERO_BIN + magnitudes, _ZERO_BIN - magnitudes])
