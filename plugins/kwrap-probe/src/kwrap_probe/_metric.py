"""A statistic as a metric, for `fit`'s logs."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kwrap_probe._measure import Part
from kwrap_probe._step import flush

__all__ = ["Statistic"]


class Statistic(keras.metrics.Metric):
    """A number of what was measured, a row of a matrix; 0 where nothing was. It is read, and nothing is accumulated."""

    def __init__(self, matrix: keras.Variable, row: int, statistic: str, name: str) -> None:
        super().__init__(name=name)
        self._statistic = statistic
        # In a function, as Keras tracks the variables in an attribute.
        self._vector: Callable[[], Any] = lambda: tf.convert_to_tensor(matrix.value)[row]

    def update_state(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    def reset_state(self) -> None:
        """Do nothing."""

    def result(self) -> Any:
        """Return the statistic now, a float32 scalar."""
        flush()
        return tf.cast(_STATISTICS[self._statistic](self._vector()), tf.float32)


def _mean(vector: Any) -> Any:
    return tf.math.divide_no_nan(vector[Part.TOTAL], vector[Part.SIZE])


def _spread(vector: Any) -> Any:
    mean_square = tf.math.divide_no_nan(vector[Part.SQUARES], vector[Part.SIZE])
    return tf.sqrt(tf.maximum(mean_square - _mean(vector) ** 2, 0))


def _known(vector: Any, extreme: Any) -> Any:
    return tf.where(vector[Part.SIZE] > 0, extreme, 0.0)


_STATISTICS: dict[str, Callable[[Any], Any]] = {
    "mean": _mean,
    "spread": _spread,
    "minimum": lambda vector: _known(vector, 0.0 - vector[Part.NEGATED_LOW]),
    "maximum": lambda vector: _known(vector, vector[Part.HIGH]),
    "zeros": lambda vector: tf.math.divide_no_nan(vector[Part.ZEROS], vector[Part.SIZE]),
    "non_finite": lambda vector: vector[Part.VALUES] - vector[Part.SIZE],
}
