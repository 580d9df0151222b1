"""What kwrap touches of the graph that a Functional model is."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
from keras.src.models.functional import Functional, functional_like_constructor
from keras.src.ops.function import make_node_key
from keras.src.ops.node import KerasHistory

__all__ = [
    "graph_of",
    "graph_steps",
    "is_plain_graph",
    "move_nodes",
    "output_spec",
    "recorded_calls",
    "rename_nodes",
    "retrack",
    "trace",
]


def move_nodes(source: keras.Layer, target: keras.Layer) -> None:
    """Make every call of `source` that a graph recorded a call of `target`."""
    for index, node in enumerate(source._inbound_nodes, len(target._inbound_nodes)):
        node.operation = target
        for position, tensor in enumerate(node.outputs):
            tensor._keras_history = KerasHistory(target, index, position)
    target._inbound_nodes.extend(source._inbound_nodes)
    target._outbound_nodes.extend(source._outbound_nodes)
    source._inbound_nodes.clear()
    source._outbound_nodes.clear()


def rename_nodes(model: keras.Model, replaced: Mapping[int, tuple[keras.Layer, keras.Layer]]) -> None:
    """Rewrite the keys of a Functional model's nodes, which hold the id of the operation, after `move_nodes`.

    `replaced` maps the id of the old layer to (old, new).
    """
    keys = {
        make_node_key(old, index): make_node_key(new, index)
        for old, new in replaced.values()
        for index in range(len(new._inbound_nodes))
    }
    # Past `__setattr__`, here and below: Keras would list the attribute, once more each time, as one that it tracks.
    vars(model)["_nodes"] = {keys.get(key, key) for key in model._nodes}


def retrack(holder: keras.Layer, pairs: Mapping[int, tuple[keras.Layer, keras.Layer]]) -> None:
    """Let `holder`'s tracker know each new layer where it knew the old; the caller changes the attributes."""
    for _, store in holder._tracker.config.values():  # a Sequential's is another list than its `_layers`
        for index, held in enumerate(store):
            if id(held) in pairs:
                list.__setitem__(store, index, pairs[id(held)][1])
    for ids in holder._tracker.stored_ids.values():
        for old in ids & pairs.keys():
            ids.remove(old)
            ids.add(id(pairs[old][1]))


def recorded_calls(layer: keras.Layer) -> list[tuple[tuple[Any, ...], dict[str, Any], list[keras.KerasTensor]]]:
    """Return (args, kwargs, flat outputs), all KerasTensors, of each call of `layer` that a graph recorded."""
    return [(node.arguments.args, node.arguments.kwargs, node.outputs) for node in layer._inbound_nodes]


def graph_of(model: keras.Model) -> Functional | None:
    """Return the Functional graph of a Functional or built Sequential model; None for other models."""
    if isinstance(model, keras.Sequential):
        graph: Functional | None = model._functional
        return graph
    return model if isinstance(model, Functional) else None


def graph_steps(
    graph: Functional,
) -> Iterator[tuple[keras.Operation, list[keras.KerasTensor], list[keras.KerasTensor]]]:
    """Yield (operation, input tensors, output tensors) of each node of a graph, in the order in which they run."""
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if node.operation is not None and not node.is_input:
                yield node.operation, node.input_tensors, node.outputs


def is_plain_graph(layer: keras.Layer) -> bool:
    """Tell whether a layer is a model that is rebuilt from its graph, not by a config of its class' own."""
    if type(layer) is keras.Sequential:
        return True
    return isinstance(layer, Functional) and functional_like_constructor(type(layer))


def output_spec(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Trace `function` on KerasTensors; return KerasTensors. Variables are neither created nor changed."""
    return keras.src.backend.compute_output_spec(function, *args, **kwargs)


def trace(function: Callable[[Any], None], specs: Any) -> None:
    """Call `function` with symbolic tensors in place of the KerasTensors in `specs`, as `output_spec` does.

    One stands for all that are alike: it takes TensorFlow as long to make as an op.
    """
    kinds = {_kind(spec): spec for spec in keras.tree.flatten(specs) if isinstance(spec, keras.KerasTensor)}

    def call(tensors: Sequence[Any]) -> None:
        of_kind = dict(zip(kinds, tensors, strict=True))
        function(keras.tree.map_structure(lambda one: of_kind.get(_kind(one), one), specs))

    output_spec(call, (list(kinds.values()),), {})


def _kind(value: Any) -> tuple[Any, ...] | None:
    return (value.shape, value.dtype, value.sparse) if isinstance(value, keras.KerasTensor) else None
