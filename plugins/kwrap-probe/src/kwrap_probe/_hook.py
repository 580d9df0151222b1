"""The hook that measures what goes through a layer."""

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
import tensorflow as tf

import kwrap
from kwrap.errors import TargetError
from kwrap.options import checked_bool, checked_int
from kwrap_probe._errors import NoFloatingOutputsError
from kwrap_probe._measure import added, flat, measure, nothing, of_all_replicas
from kwrap_probe._metric import Statistic
from kwrap_probe._options import SOURCES, checked_log, checked_watch
from kwrap_probe._turn import first, is_due, next_turn, was_due
from kwrap_probe._watch import Cell, assigned, floating, watched

__all__ = ["Probe"]

# By the name of its state: what it is of, and the weight, if it is one's.
Vectors = dict[tuple[str, str | None], keras.Variable]
Look = tuple[Cell, Sequence[Any]]  # tensors, and where to keep what is measured of them


class _Call(NamedTuple):
    """A call that goes on: whether it is measured, a bool scalar, its graph, and the weights to be looked at."""

    due: Any
    graph: Any
    looks: dict[str, Look]


# By the id of the probe. Replicas are threads, which take turns.
_calls: ContextVar[Mapping[int, _Call]] = ContextVar("_calls", default=MappingProxyType({}))


@kwrap.hook(layer_type=keras.layers.Layer)
class Probe(kwrap.Hook):
    """Keep statistics of what goes through a layer: mean, spread, extremes, zeros, non-finite values, a histogram.

    The layer computes what it computes without, to the bit. Statistics are of the layer's calls in training since the
    hook was put on, or since `reset`; they are state, saved with the model. On several replicas they are of what all of
    them saw. `report` shows them, `TensorBoardWriter` writes them, `log` puts them into the logs of `fit`.

    All floating tensors of an input, or of an output, count together. "inputs" is the layer's first argument. "weights"
    are the targets as the layer reads them, behind the hooks before this one. Gradients are those of the loss that is
    differentiated: with Keras' LossScaleOptimizer, of the scaled one.

    Args:
        watch: which of "inputs", "outputs", "output_gradients", "weights", "weight_gradients". Default: all.
        every: of so many calls in a row measure one, the first of all among them; now and then the next comes a call
            later, so that of a layer that is called several times a step no call is left out for good.
        sample: of a tensor of more values, measure that many, from all over it. None: all.
        histogram: whether to count the values, too: in 513 bins, of a quarter of an octave.
        log: statistics that are metrics of the model, such as "outputs/zeros" or "weight_gradients/spread": named
            "<path>/outputs_zeros", "<path>/kernel_gradients_spread"; of a hook with a name of its own
            "<path>/<name>_outputs_zeros". The validation's are those of the training before.

    Raises:
        OptionValueError: an option has a value that it cannot have.
        NoFloatingOutputsError: outputs are watched, and the layer gives no floating tensor.
        TargetError: only weights are watched, and the layer has none for a hook.
    """

    observes = True

    def __init__(
        self,
        watch: Sequence[str] = SOURCES,
        *,
        every: int = 10,
        sample: int | None = 1024,
        histogram: bool = True,
        log: Sequence[str] = (),
        phase: Literal["always", "training", "inference"] = "training",
        **kwargs: Any,
    ) -> None:
        super().__init__(phase=phase, **kwargs)
        self.watch = checked_watch(watch, self.hook_name)
        self.every = checked_int(self.hook_name, "every", every)
        self.sample = None if sample is None else checked_int(self.hook_name, "sample", sample)
        self.histogram = checked_bool(self.hook_name, "histogram", histogram)
        self.log = checked_log(log, self.watch, self.hook_name)

    def build(self, layer: keras.Layer) -> None:
        """Create a vector for each thing that is watched, and what tells when to measure."""
        of_weights = [source for source in self.watch if source.startswith("weight")]
        if len(of_weights) == len(self.watch) and not self.target_weights:
            raise TargetError(
                f"hook {self.name!r} at {self.path!r}: nothing but weights is watched, and of the layer there are none "
                "for a hook: leave it out with exclude=..., or name weights with the option targets=..."
            )
        self.turn = self.add_weight(
            dtype="int32", initializer="zeros", trainable=False, aggregation="only_first_replica", name="turn"
        )
        # Not "mean": what is assigned is of all replicas already, and the same in each.
        kind = {"dtype": "float64", "initializer": "zeros", "aggregation": "only_first_replica"}
        shape = nothing(self.histogram).shape
        for source in self.watch:
            if source in of_weights:
                for target in self.target_weights:
                    self.add_state(target, source, shape, **kind)
            else:
                variable = self.add_weight(shape=shape, trainable=False, autocast=False, name=source, **kind)
                setattr(self, source, variable)
        self.statistics = [
            Statistic(variable, statistic, name=f"{self.path}/{self._prefix()}{series(source, weight)}_{statistic}")
            for logged, statistic in self.log
            for (source, weight), variable in self.vectors().items()
            if source == logged
        ]

    def initialize(self, layer: keras.Layer) -> None:
        """Begin with nothing measured."""
        self.reset()

    def reset(self) -> None:
        """Forget what was measured, and measure again in the next call."""
        self.turn.assign(first(self.every))
        for variable in self.vectors().values():
            variable.assign(nothing(self.histogram))

    def vectors(self) -> Vectors:
        """Return the variables with what was measured, by what it is of: the source, and the weight's name or None."""
        found: Vectors = {}
        for source in self.watch:
            if source.startswith("weight"):
                found.update({(source, each.name): self.state(each, source) for each in self.target_weights})
            else:
                found[source, None] = getattr(self, source)
        return found

    def call(self, call_next: Callable[..., Any], inputs: Any) -> Any:
        """Return the layer's outputs; measure them, the inputs and the outputs' gradients if it is time."""
        turn = tf.convert_to_tensor(self.turn.value)
        assigned(self.turn, next_turn(turn, self.every))
        call = _Call(is_due(turn, self.every), _graph(), {})
        token = _calls.set({**_calls.get(), id(self): call})
        try:
            outputs = call_next(inputs)
        finally:
            _calls.reset(token)
        tensors = floating(outputs)
        if not tensors and ("outputs" in self.watch or "output_gradients" in self.watch):
            raise NoFloatingOutputsError(self.name, self.path, described(outputs))
        seen = {"inputs": floating(inputs), "outputs": tensors}
        looks = [(Cell(getattr(self, source)), each) for source, each in seen.items() if source in self.watch]
        self._record(call.due, [*looks, *call.looks.values()])
        if "output_gradients" not in self.watch:
            return outputs
        return keras.tree.map_structure(lambda each: self._watched(self.output_gradients, call.due, each), outputs)

    def parametrize(self, target: kwrap.WeightTarget, value: Any, *, training: Any) -> Any:
        """Return `value`; measure it and its gradient in the calls that are measured."""
        call = _calls.get().get(id(self))
        if call is None:  # a hook between says that the layer trains, where it was called as one that does not
            return value
        is_same = _graph() is call.graph
        # A tf.function of a hook between would keep the answer of the call that it was traced in.
        due = call.due if is_same else was_due(tf.convert_to_tensor(self.turn.value), self.every)
        if "weights" in self.watch:
            look = (Cell(self.state(target, "weights")), [value])
            if is_same and target.name not in call.looks:
                call.looks[target.name] = look
            else:  # in a function of a hook between, whose tensors cannot leave it; or it calls the layer again
                self._record(due, [look])
        if "weight_gradients" not in self.watch:
            return value
        return self._watched(self.state(target, "weight_gradients"), due, value)

    def merge(self, target: kwrap.WeightTarget, value: Any) -> Any:
        """Return `value`: nothing is left of a look at it."""
        return value

    def _prefix(self) -> str:
        return "" if self.name == self.hook_name else f"{self.name}_"

    def _watched(self, variable: keras.Variable, due: Any, tensor: Any) -> Any:
        if not floating(tensor):
            return tensor
        cell = Cell(variable)
        return watched(tensor, lambda gradient: self._record(due, [(cell, [gradient])]))

    def _record(self, due: Any, looks: Sequence[Look]) -> list[Any]:
        """Add to each cell what is measured of its tensors, if it is time; return the ops that do.

        No cell is in two looks: all are read before one is assigned.
        """
        looks = [(cell, tensors) for cell, tensors in looks if tensors]
        if not looks:
            return []
        cells, values = [cell for cell, _ in looks], [tensors for _, tensors in looks]

        def added_to(vectors: Sequence[Any]) -> Any:
            return measure(self.sample, self.histogram)(*map(flat, values), *vectors)

        def add() -> Any:
            with tf.control_dependencies(_all_assigned(cells, added_to([cell.read() for cell in cells]))):
                return tf.constant(True)

        if not tf.distribute.has_strategy() and all(cell.is_held for cell in cells):
            return [tf.cond(due, add, lambda: tf.constant(False))]
        # Replicas, be it one alone, agree on nothing inside of a condition, nor can values leave it for a stateless
        # scope.
        none = [nothing(self.histogram)] * len(cells)
        new = tf.cond(due, lambda: tf.stack(added_to(none)), lambda: tf.constant(np.stack(none)))
        of_all = tf.unstack(of_all_replicas(new))
        return _all_assigned(cells, [added(cell.read(), vector) for cell, vector in zip(cells, of_all, strict=True)])


def _all_assigned(cells: Sequence[Cell], vectors: Sequence[Any]) -> list[Any]:
    return [op for cell, vector in zip(cells, vectors, strict=True) for op in cell.assign(vector)]


def _graph() -> Any:
    """Return the graph that ops go into now; None if they are computed."""
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def series(source: str, weight: str | None) -> str:
    """Return the name of what a vector is of: "outputs", "kernel", "kernel_gradients"."""
    return source if weight is None else weight + ("_gradients" if source == "weight_gradients" else "")


def described(outputs: Any) -> str:
    """Return the dtypes of nested outputs as text."""
    dtypes = [
        keras.backend.standardize_dtype(leaf.dtype) if hasattr(leaf, "dtype") else type(leaf).__name__
        for leaf in keras.tree.flatten(outputs)
    ]
    return ", ".join(dict.fromkeys(dtypes)) or "nothing"
