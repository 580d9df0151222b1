"""Operators: what a LiteRT file is made of, read from its flatbuffer."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

# The classes that flatc makes of LiteRT's schema: the file is read without an interpreter, whose own list of operators
# is private.
from tensorflow.lite.python import schema_py_generated as schema

__all__ = ["BORDERS", "FLOATS", "Operator", "read_cut_off", "read_ends", "read_operators", "read_shifted"]

FLOATS = ("float32", "float16", "bfloat16", "float64")
# Between floats and integers, at the borders of what is quantized.
BORDERS = ("QUANTIZE", "DEQUANTIZE")
_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")


@dataclass(frozen=True)
class Operator:
    """One operator of a LiteRT file.

    Attributes:
        kind: its name in LiteRT, as CONV_2D.
        dtype: what it computes in: the dtype of its results, "float32" also where only what it takes is float.
        weights: the dtype of the largest constant that it takes, of a RESHAPE that of a shape; None without one.
        name: the name of its first result, which has the path of the layer that it was made of; where it is a result of
            the file, also that of what it takes.
    """

    kind: str
    dtype: str
    weights: str | None
    name: str

    @property
    def is_float(self) -> bool:
        """Whether it computes in floating point; the conversions at the borders of what is quantized do not count."""
        return self.dtype in FLOATS and self.kind not in BORDERS


def read_operators(content: bytes) -> list[Operator]:
    """Return the operators of a LiteRT file's content, those of all subgraphs, in the order in which they run."""
    return [_operator(*each) for each in _each(content)]


def read_ends(content: bytes) -> tuple[dict[str, str], dict[str, str]]:
    """Return the dtypes of a LiteRT file's inputs, and of its outputs, by their names in its signature."""
    model = schema.Model.GetRootAs(content, 0)
    graph, signature = model.Subgraphs(0), model.SignatureDefs(0)
    inputs = [signature.Inputs(index) for index in range(signature.InputsLength())]
    outputs = [signature.Outputs(index) for index in range(signature.OutputsLength())]

    def dtypes(ends: Sequence[Any]) -> dict[str, str]:
        return {end.Name().decode(): _dtype(graph.Tensors(end.TensorIndex())) for end in ends}

    return dtypes(inputs), dtypes(outputs)


def read_cut_off(content: bytes) -> list[str]:
    """Return the kinds of operators that take nothing first in a LiteRT file's content: such a file does not load."""
    return [_kind(model, one) for model, _, one in _each(content) if one.InputsLength() and one.Inputs(0) < 0]


def read_shifted(content: bytes) -> list[str]:
    """Return the names of convolutions, and dense layers of 4 bits, whose weights have another zero point than 0."""
    return [_operator(*each).name for each in _each(content) if _is_shifted(*each)]


def _each(content: bytes) -> Iterator[tuple[Any, Any, Any]]:
    """Yield each operator of a LiteRT file's content, after the model and the subgraph that it is in."""
    model = schema.Model.GetRootAs(content, 0)
    for graph in (model.Subgraphs(index) for index in range(model.SubgraphsLength())):
        for index in range(graph.OperatorsLength()):
            yield model, graph, graph.Operators(index)


def _is_shifted(model: Any, graph: Any, operator: Any) -> bool:
    kind = _kind(model, operator)
    if kind not in (*_CONVOLUTIONS, "FULLY_CONNECTED"):
        return False
    weights = graph.Tensors(operator.Inputs(1))
    zeros = weights.Quantization()
    shifted = zeros is not None and any(zeros.ZeroPoint(place) for place in range(zeros.ZeroPointLength()))
    return shifted and (kind in _CONVOLUTIONS or _dtype(weights) == "int4")


def _operator(model: Any, graph: Any, operator: Any) -> Operator:
    taken = [graph.Tensors(operator.Inputs(i)) for i in range(operator.InputsLength()) if operator.Inputs(i) >= 0]
    given = [graph.Tensors(operator.Outputs(i)) for i in range(operator.OutputsLength())]
    constants = [tensor for tensor in taken if _size(model, tensor)]
    dtypes = [_dtype(tensor) for tensor in given]
    computed = [_dtype(tensor) for tensor in (*taken, *given) if not _size(model, tensor)]
    kind = _kind(model, operator)
    floats = [dtype for dtype in computed if dtype in FLOATS and kind not in BORDERS]
    return Operator(
        kind=kind,
        dtype=(floats or dtypes or ["none"])[0],
        weights=_dtype(max(constants, key=_elements)) if constants else None,
        name=_name(given, computed_from=[tensor for tensor in taken if not _size(model, tensor)]),
    )


def _name(given: Sequence[Any], computed_from: Sequence[Any]) -> str:
    """Return the name of the first result; where it is one of the file, also that of what it is made of."""
    name = given[0].Name().decode() if given else ""
    if "PartitionedCall" not in name or not computed_from:
        return str(name)
    return f"{name} of {computed_from[0].Name().decode()}"


def _size(model: Any, tensor: Any) -> int:
    """Return how many bytes of constants a tensor has: 0 for what is computed."""
    size: int = model.Buffers(tensor.Buffer()).DataLength()
    return size


def _elements(tensor: Any) -> int:
    return math.prod(tensor.Shape(axis) for axis in range(tensor.ShapeLength()))


def _kind(model: Any, operator: Any) -> str:
    code = model.OperatorCodes(operator.OpcodeIndex())
    # Files of before LiteRT had more than 127 operators have the number in the older field.
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    if number == schema.BuiltinOperator.CUSTOM:
        return str(code.CustomCode().decode())
    return _names(schema.BuiltinOperator)[number]


def _dtype(tensor: Any) -> str:
    return _names(schema.TensorType)[tensor.Type()].lower()


@cache
def _names(enum: type) -> dict[int, str]:
    """Return the names of an enumeration's numbers."""
    return {number: name for name, number in vars(enum).items() if isinstance(number, int)}
