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
    TOTAL = 3
    SQUARES = 4
    ZEROS = 5
    VALUES = 6
    CALLS = 7  # in which there was a value


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
    """Return floating tensors as one flat one, of their dtype, or the widest of them; of none, an empty one."""
    if not tensors:
        return tf.zeros([0])
    dtypes = [tensor.dtype for tensor in tensors]
    widest = dtypes[0] if len(set(dtypes)) == 1 else tf.float64 if tf.float64 in dtypes else tf.float32
    parts = [tf.reshape(tf.cast(tensor, widest), [-1]) for tensor in tensors]
    return parts[0] if len(parts) == 1 else tf.concat(parts, 0)


@functools.lru_cache(maxsize=32)
def measure(sample: int | None, histogram: bool) -> kwrap.Kernel[..., Any]:
    """Return the kernel that adds what it measures of flat floating tensors to a matrix, given flat behind them.

    A row of the matrix is a tensor's. One trace for a number of tensors, and their dtypes, serves all layers of equal
    options.
    """

    def measured(*tensors: Any) -> Any:
        *values, matrix = tensors
        # Together, as each op takes longer to start than a sample's values take.
        groups = [whole(each) for each in values] if sample is None else [sampled(values, sample)]
        new = tf.concat([_vectors(rows, sizes, histogram) for rows, sizes in groups], 0)
        return added(tf.reshape(matrix, [len(values), new.shape[1]]), new)

    return kwrap.kernel(measured)


def added(old: Any, new: Any) -> Any:
    """Return the vector of all that two vectors are of; or, of matrices, each row."""
    is_extreme = np.arange(new.shape[-1]) < Part.SIZE
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


def whole(tensor: Any) -> tuple[Any, Any]:
    """Return a flat tensor as a matrix of one row, and how many values it has."""
    return tensor[None], tf.cast(tf.size(tensor), tf.float64)[None, None]


def sampled(tensors: Sequence[Any], sample: int) -> tuple[Any, Any]:
    """Return a matrix, of which each row is of a flat tensor, and how many values of the row are.

    They are all values, and NaN behind them, or `sample` of them from all over, in their order.
    """
    sizes, places = [tf.shape(tensor, out_type=tf.int64) for tensor in tensors], np.arange(sample, dtype="float64")
    # Multiples of the golden ratio, modulo 1, are spread evenly however many there are, and follow no axis of a tensor:
    # a plain stride of the number of channels would see one channel only. Each is a place in a part of its own of the
    # tensor. Where parts are short, not in all of it: a multiple may be 0.382 below the one before, and two places have
    # to be one value apart, so that none is taken twice.
    counts = tf.cast(tf.stack(sizes), tf.float64)  # in float64: TensorFlow divides integers one by one
    part = tf.maximum(counts / sample, 1.0)
    spread = tf.minimum(part, 2.5 * (part - 1.0)) * (places * GOLDEN % 1.0)
    taken = tf.unstack(tf.cast(part * places + spread, tf.int64))
    start, end, step = np.array([[0], [sample], [1]])
    parts = []
    for tensor, its, size in zip(tensors, taken, sizes, strict=True):
        nans = tf.constant(np.nan, tensor.dtype, [sample])
        parts += [tf.gather(tensor, tf.strided_slice(its, start, size, step)), tf.strided_slice(nans, size, end, step)]
    return tf.reshape(flat(parts), [len(tensors), sample]), tf.minimum(counts, float(sample))


def _vectors(rows: Any, sizes: Any, histogram: bool) -> Any:
    """Return a matrix, of which a row is the vector of the values in a row; `sizes` tells how many, shape (rows, 1)."""
    wide = tf.cast(rows, tf.float64)  # in which the difference of the sums is exact enough for a spread
    finite = tf.math.is_finite(wide)
    counts = tf.cast(finite, tf.float64)
    known = tf.math.multiply_no_nan(wide, counts)
    zeros = tf.cast(tf.equal(wide, 0.0), tf.float64)
    return tf.concat(
        [
            tf.reduce_max(tf.where(tf.expand_dims(finite, 1), tf.stack([-wide, wide], 1), -np.inf), 2),
            tf.reduce_sum(tf.stack([counts, known, tf.square(known), zeros], 1), 2),
            sizes,
            tf.minimum(sizes, 1.0),
            *([_counted(known, finite)] if histogram else []),
        ],
        1,
    )


def _counted(values: Any, counts: Any) -> Any:
    """Return how many of finite values of each row are in each bin, of those that count: a bool for each."""
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
