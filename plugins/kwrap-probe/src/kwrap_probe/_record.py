"""Measuring tensors, and adding that to what is kept of those before."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from kwrap_probe._measure import added, flat, measure, nothing, of_all_replicas
from kwrap_probe._watch import Cell

__all__ = ["Measurement", "record"]


class Measurement(NamedTuple):
    """What is to be measured.

    Attributes:
        cell: the matrix that it is added to.
        rows: the floating tensors of each row; of none, nothing is added to it.
        sample, histogram: options of the probe.
        backward: whether it is of gradients.
    """

    cell: Cell
    rows: Sequence[Sequence[Any]]
    sample: int | None
    histogram: bool
    backward: bool


def record(measurements: Sequence[Measurement], due: Any) -> list[Any]:
    """Measure together what has equal options, if `due`, a bool scalar or True; return the ops that do."""
    cells = [each.cell for each in measurements]
    counts = [len(each.rows) for each in measurements]
    rows = [row for each in measurements for row in each.rows]
    sample, histogram = measurements[0].sample, measurements[0].histogram

    def measured(matrix: Any) -> Any:
        return measure(sample, histogram)(*map(flat, rows), tf.reshape(matrix, [-1]))

    def kept() -> Any:
        return cells[0].read() if len(cells) == 1 else tf.concat([cell.read() for cell in cells], 0)

    def assign(matrix: Any) -> list[Any]:
        parts = [matrix] if len(cells) == 1 else tf.split(matrix, counts)
        return [op for cell, part in zip(cells, parts, strict=True) for op in cell.assign(part)]

    def add() -> Any:
        with tf.control_dependencies(assign(measured(kept()))):
            return tf.constant(True)

    def where_due(do: Callable[[], Any], otherwise: Any) -> Any:
        return do() if due is True else tf.cond(due, do, lambda: tf.constant(otherwise))

    if not tf.distribute.has_strategy() and all(cell.is_held for cell in cells):
        return [where_due(add, otherwise=False)]
    # Replicas, be it one alone, agree on nothing inside of a condition, nor can values leave it for a stateless scope.
    nothings = np.tile(nothing(histogram), (len(rows), 1))
    new = where_due(lambda: measured(nothings), nothings)
    return assign(added(kept(), of_all_replicas(new)))
