"""Graph: the calls that a Functional or Sequential model is made of, nested models seen through."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import keras

from kwrap import _keras
from kwrap._plan import check_model
from kwrap._selection import Place, places
from kwrap._wrapper import Wrapper
from kwrap.errors import ModelTypeError

__all__ = ["Graph", "GraphCall", "read_graph"]


@dataclass(frozen=True, eq=False)
class GraphCall:
    """A call that a graph recorded: of a layer, or of an operation that is no layer (`x + y`).

    Attributes:
        operation: the layer itself, not its Wrapper; or the operation.
        path: the layer's path in the model; None for an operation that is no layer.
        inputs: the numbers of the tensors that it takes, in the order of its arguments.
        outputs: the numbers of the tensors that it gives.
    """

    operation: keras.Operation
    path: str | None
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Graph:
    """The calls of a model, each after those whose results it takes; tensors are told by numbers.

    Attributes:
        calls: the calls, those of nested models in the place of the nested model's own.
        inputs: the numbers of the model's inputs.
        outputs: the numbers of the model's outputs.
        tensors: the tensor of each number: what shape and dtype it has.
    """

    calls: tuple[GraphCall, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    tensors: Mapping[int, keras.KerasTensor]


def read_graph(model: keras.Model) -> Graph:
    """Return the calls of a Functional or built Sequential model, in the order in which they run.

    A nested Functional or Sequential model is seen through: its layers' calls stand in its place, once for each of its
    own calls. Any other layer that holds layers is one call.

    Raises:
        ModelTypeError: the model has no graph: it is subclassed, or not built; or it is no Keras model.
    """
    check_model(model)
    graph = _keras.graph_of(model)
    if graph is None:
        raise ModelTypeError(
            f"model {model.name!r} (a {type(model).__name__}) has no graph that could be read: it is not built from "
            "calls of layers on keras.Input, or not built yet"
        )
    reader = _Reader(places(model))
    inputs = reader.number(graph.inputs)
    seen = {id(tensor): number for tensor, number in zip(graph.inputs, inputs, strict=True)}
    calls = tuple(reader.read(graph, seen))
    return Graph(calls, inputs, tuple(seen[id(tensor)] for tensor in graph.outputs), reader.tensors)


class _Reader:
    """Gives numbers to tensors while nested graphs are read."""

    def __init__(self, all_places: Sequence[Place]) -> None:
        self._paths = {id(place.layer): place.path for place in all_places}
        self.tensors: dict[int, keras.KerasTensor] = {}

    def number(self, tensors: Sequence[keras.KerasTensor]) -> tuple[int, ...]:
        """Return new numbers for `tensors`."""
        numbers = tuple(range(len(self.tensors), len(self.tensors) + len(tensors)))
        self.tensors.update(zip(numbers, tensors, strict=True))
        return numbers

    def read(self, graph: keras.Model, seen: dict[int, int]) -> Iterator[GraphCall]:
        """Yield the calls of `graph`; `seen`, numbers of tensors by their ids, has its inputs and takes the rest."""
        for operation, inputs, outputs in _keras.graph_steps(graph):
            layer = operation.layer if isinstance(operation, Wrapper) else operation
            given = tuple(seen[id(tensor)] for tensor in inputs)
            nested = _keras.graph_of(layer) if isinstance(layer, keras.Model) else None
            if nested is None or len(nested.inputs) != len(given):
                results = self.number(outputs)
                yield GraphCall(layer, self._paths.get(id(layer)), given, results)
            else:
                inner = {id(tensor): number for tensor, number in zip(nested.inputs, given, strict=True)}
                yield from self.read(nested, inner)
                results = tuple(inner[id(tensor)] for tensor in nested.outputs)
            seen.update((id(tensor), number) for tensor, number in zip(outputs, results, strict=True))
