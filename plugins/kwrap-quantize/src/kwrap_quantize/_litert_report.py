"""LiteRTReport: what a written LiteRT file holds, and how its outputs compare with Keras'."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kwrap.tables import Table, Tabular
from kwrap_quantize._operators import Operator

__all__ = ["Comparison", "LiteRTReport"]


@dataclass(frozen=True)
class Comparison:
    """The outputs of a LiteRT file beside those of Keras, on the same data.

    Attributes:
        samples: how many samples were compared.
        agreement: the share of classes that are the same, the greatest along the last axis of outputs with two or more
            columns: one for a sample, or for each of its pixels; None where there is no such output.
        largest_difference: the largest absolute difference of an output; NaN or infinite where outputs are, which
            count as no agreement.
    """

    samples: int
    agreement: float | None
    largest_difference: float


@dataclass(frozen=True, repr=False)
class LiteRTReport(Tabular):
    """What `to_litert` wrote; shown as a table by `print`, by rich and in a notebook.

    Attributes:
        path: where the file is.
        size: its size in bytes.
        operators: its operators, in the order in which they run.
        comparison: how its outputs compare with Keras'; None if no data was given.
    """

    path: str
    size: int
    operators: tuple[Operator, ...]
    comparison: Comparison | None = None

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """How often each kind of operator is there, by the dtype that it computes in: {"CONV_2D": {"int8": 2}}."""
        counts: dict[str, dict[str, int]] = {}
        for (kind, dtype), count in sorted(Counter((one.kind, one.dtype) for one in self.operators).items()):
            counts.setdefault(kind, {})[dtype] = count
        return counts

    @property
    def weights(self) -> dict[str, dict[str, int]]:
        """How many operators of each kind have weights, by the dtype that these are stored in.

        Weights that a hook rounds stay float32 where the layer computes in float: {"FULLY_CONNECTED": {"float32": 1}}.
        """
        counts: dict[str, dict[str, int]] = {}
        found = Counter((one.kind, _weights(one)) for one in self.operators)
        for (kind, dtype), count in sorted(found.items()):
            if dtype:
                counts.setdefault(kind, {})[dtype] = count
        return counts

    @property
    def left_in_float(self) -> tuple[Operator, ...]:
        """The operators that compute in floating point; QUANTIZE and DEQUANTIZE between integers and floats not."""
        return tuple(one for one in self.operators if one.is_float)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "path": self.path,
            "size": self.size,
            "operators": self.counts,
            "weights": self.weights,
            "left_in_float": [{"kind": one.kind, "name": one.name} for one in self.left_in_float],
            "comparison": None if self.comparison is None else vars(self.comparison),
        }

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Return (operator, dtype, dtype of weights or nothing, count) as text."""
        found = Counter((one.kind, one.dtype, _weights(one)) for one in self.operators)
        return [(*names, str(count)) for names, count in sorted(found.items())]

    def _notes(self) -> list[str]:
        floats = self.left_in_float
        notes = [f"left in float: {', '.join(f'{one.kind} ({one.name})' for one in floats) if floats else 'nothing'}"]
        if (found := self.comparison) is not None:
            same = "" if found.agreement is None else f"the same class in {found.agreement:.2%}, "
            notes.append(
                f"beside Keras, {found.samples} samples: {same}largest difference {found.largest_difference:.6g}"
            )
        return notes

    def table(self) -> Table:
        """Return how many operators there are of each kind."""
        columns = ("operator", "dtype", "weights", "count")
        title = f"{self.path}: {self.size:,} bytes"
        return Table(title, columns, self.rows(), right=("count",), notes=self._notes())


def _weights(operator: Operator) -> str:
    """Return the dtype of weights; nothing of shapes and axes, which are int32 or int64, and of no constant."""
    return "" if operator.weights in (None, "int32", "int64") else str(operator.weights)


def as_text(operators: Sequence[Operator]) -> str:
    """Return operators for a message."""
    return ", ".join(f"{one.kind} ({one.name})" for one in operators[:8]) + (" ..." if len(operators) > 8 else "")
