"""What feeds what in a model: its operations, and the ways from one to the next."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras

import kwrap

__all__ = ["Graph"]


class Graph:
    """The operations of a Functional or Sequential model, those of models inside it among them; Wrappers taken off.

    Read from the model's config, which says it in public; the nodes of a layer are Keras' own affair. A layer that is
    called several times is one operation, with all its ways.
    """

    def __init__(self, model: keras.Model) -> None:
        self.producers: dict[keras.Operation, set[keras.Operation]] = defaultdict(set)
        self.consumers: dict[keras.Operation, set[keras.Operation]] = defaultdict(set)
        self.inputs, self.outputs = self._add(model)

    def search(
        self,
        starts: Iterable[keras.Operation],
        stop: Callable[[keras.Operation], bool],
        ways: dict[keras.Operation, set[keras.Operation]],
    ) -> set[keras.Operation]:
        """Return the operations at which `stop` ends the ways from `starts`; none if one of them does not end so."""
        waiting, seen, found, ended = list(starts), set(starts), set(), True
        while waiting:
            operation = waiting.pop()
            if stop(operation):
                found.add(operation)
                continue
            ended = ended and bool(ways[operation])
            waiting.extend(ways[operation] - seen)
            seen |= ways[operation]
        return found if ended else set()

    def _add(self, model: keras.Model) -> tuple[set[keras.Operation], set[keras.Operation]]:
        """Add a model's operations; return those that take its inputs, and those that give its outputs."""
        if isinstance(model, keras.Sequential):
            return self._add_chain(model.layers)
        config = model.get_config()
        own = {operation.name: self._ends(operation) for operation in model.operations}
        for row in config["layers"]:
            for producer in _tensors(row["inbound_nodes"]):
                self._connect(own[producer][1], own[row["name"]][0])
        inputs, outputs = ({name for name, *_ in _histories(config[key])} for key in ("input_layers", "output_layers"))
        return (
            {operation for name in inputs for operation in own[name][0]},
            {operation for name in outputs for operation in own[name][1]},
        )

    def _add_chain(self, layers: list[keras.Layer]) -> tuple[set[keras.Operation], set[keras.Operation]]:
        ends = [self._ends(layer) for layer in layers]
        for (_, before), (after, _) in itertools.pairwise(ends):
            self._connect(before, after)
        return ends[0][0], ends[-1][1]

    def _ends(self, operation: Any) -> tuple[set[keras.Operation], set[keras.Operation]]:
        """Return what of an operation takes its inputs and what gives its outputs: itself, or parts of a model."""
        plain = operation.layer if isinstance(operation, kwrap.Wrapper) else operation
        if isinstance(plain, keras.Function | keras.Sequential):
            return self._add(plain)
        return {plain}, {plain}

    def _connect(self, producers: set[keras.Operation], consumers: set[keras.Operation]) -> None:
        for producer in producers:
            self.consumers[producer] |= consumers
        for consumer in consumers:
            self.producers[consumer] |= producers


def _tensors(config: Any) -> Iterator[str]:
    """Yield the names of the operations whose outputs stand in a serialized call."""
    if isinstance(config, dict):
        if config.get("class_name") == "__keras_tensor__":
            yield config["config"]["keras_history"][0]
        else:
            yield from _tensors(list(config.values()))
    elif isinstance(config, list | tuple):
        for part in config:
            yield from _tensors(part)


def _histories(config: Any) -> Iterator[list[Any]]:
    """Yield each [operation, call, output] in the nested inputs or outputs of a config."""
    if isinstance(config, list | tuple) and len(config) == 3 and isinstance(config[0], str):
        yield list(config)
    elif isinstance(config, list | tuple | dict):
        for part in config.values() if isinstance(config, dict) else config:
            yield from _histories(part)
