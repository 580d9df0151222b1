"""Report: how sparse a model's weights are. Data, and shown as a table."""

import math
import zlib
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np

import kwrap
from kwrap.tables import Cell, Table, Tabular
from kwrap_prune._targets import prunable_targets, values_of

__all__ = ["Report", "WeightReport", "report"]

_COLUMNS = ("layer", "weight", "shape", "size", "zeros", "sparsity", "non-finite")
_NUMBERS = _COLUMNS[3:]


@dataclass(frozen=True)
class WeightReport:
    """One weight of a layer: how many of its elements are zero, and how many NaN or infinite."""

    path: str
    weight: str
    shape: tuple[int, ...]
    zeros: int
    non_finite: int

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def sparsity(self) -> float:
        """The share of zeros, in [0, 1]."""
        return _share(self.zeros, self.size)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {**asdict(self), "shape": list(self.shape), "size": self.size, "sparsity": self.sparsity}


@dataclass(frozen=True, repr=False)
class Report(Tabular):
    """How sparse a model is, made by `report`; shown as a table by `print`, by rich and in a notebook.

    Attributes:
        model: the model's name.
        weights: the weights that are pruned, or could be.
        model_size: the number of parameters of the whole model, biases and non-trainable ones included.
        model_zeros: how many of them are zero.
        raw_bytes: what all these parameters take as they are.
        deflated_bytes: what they take compressed by zlib's deflate, as in a zip file.
    """

    model: str
    weights: tuple[WeightReport, ...]
    model_size: int
    model_zeros: int
    raw_bytes: int
    deflated_bytes: int

    @property
    def size(self) -> int:
        """The number of elements of `weights`."""
        return sum(weight.size for weight in self.weights)

    @property
    def zeros(self) -> int:
        """How many elements of `weights` are zero."""
        return sum(weight.zeros for weight in self.weights)

    @property
    def non_finite(self) -> int:
        """How many elements of `weights` are NaN or infinite."""
        return sum(weight.non_finite for weight in self.weights)

    @property
    def sparsity(self) -> float:
        """The share of zeros in all of `weights`, in [0, 1]."""
        return _share(self.zeros, self.size)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        totals = {"size": self.size, "zeros": self.zeros, "sparsity": self.sparsity, "non_finite": self.non_finite}
        return {**vars(self), "weights": [weight.as_dict() for weight in self.weights], **totals}

    def rows(self) -> list[tuple[str, ...]]:
        """Return (layer, weight, shape, size, zeros, sparsity, non-finite) of each weight as text."""
        return [(one.path, one.weight, str(one.shape), *_numbers(one)) for one in self.weights]

    def _total(self) -> tuple[str, ...]:
        return ("total", "", "", *_numbers(self))

    def _notes(self) -> list[str]:
        """Return what is known of the whole model, a line each."""
        left = self.model_size - self.model_zeros
        deflated = f" ({_share(self.deflated_bytes, self.raw_bytes):.1%})" if self.raw_bytes else ""
        return [
            f"parameters left: {self.size - self.zeros:,} of these {self.size:,}; "
            f"{left:,} of the model's {self.model_size:,}",
            f"the model's weights: {self.raw_bytes:,} bytes, compressed {self.deflated_bytes:,}{deflated}",
        ]

    def table(self) -> Table:
        """Return the weights, and in total; sparsity is a bar in a notebook."""
        rows = [_with_bar(row, weight.sparsity) for row, weight in zip(self.rows(), self.weights, strict=True)]
        total = _with_bar(self._total(), self.sparsity)
        return Table(f"sparsity of {self.model}", _COLUMNS, rows, right=_NUMBERS, total=total, notes=self._notes())


def report(model: keras.Model) -> Report:
    """Return how sparse the weights of `model` are, pruned, unwrapped or never pruned.

    Weights count with their masks, as they are read, saved and left by unwrapping: what `set_weights` puts where a
    weight is pruned is zero. Listed are the weights that Prune takes by default, kernels and embeddings, and all that
    Prune hooks on the model act on; a shared weight once. (A layer to which Keras' `quantize` gave int weights has none
    of these.) Masks and other state of hooks are no parameters.

    Raises:
        ModelTypeError: this is no Keras model.
        WrapperStateError: the model is not built.
    """
    value_of = values_of(model)
    weights = tuple(_weight_report(path, target, value_of(target.variable)) for path, target in prunable_targets(model))
    of_hooks = {id(variable) for _, hook in kwrap.find_hooks(model) for variable in hook.variables}
    size = zeros = raw = deflated = 0
    deflate = zlib.compressobj()
    for variable in model.weights:
        if id(variable) not in of_hooks:
            value = value_of(variable)
            size, zeros, raw = size + value.size, zeros + _zeros(value), raw + value.nbytes
            deflated += len(deflate.compress(value.tobytes()))
    return Report(model.name, weights, size, zeros, raw, deflated + len(deflate.flush()))


def _weight_report(path: str, target: kwrap.WeightTarget, value: Any) -> WeightReport:
    return WeightReport(path, target.name, target.shape, _zeros(value), int(np.sum(~np.isfinite(value))))


def _zeros(value: Any) -> int:
    return int(value.size - np.count_nonzero(value))


def _numbers(counted: Report | WeightReport) -> tuple[str, ...]:
    return f"{counted.size:,}", f"{counted.zeros:,}", f"{counted.sparsity:.4f}", str(counted.non_finite)


def _with_bar(cells: tuple[str, ...], sparsity: float) -> list[str | Cell]:
    return [
        Cell(cell, bar=sparsity) if name == "sparsity" else cell for name, cell in zip(_COLUMNS, cells, strict=True)
    ]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
