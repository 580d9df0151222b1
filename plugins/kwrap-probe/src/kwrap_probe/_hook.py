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
from kwrap_probe._measure import Part, nothing
from kwrap_probe._metric import Statistic
from kwrap_probe._options import SOURCES, checked_log, checked_watch
from kwrap_probe._record import Measurement, record
from kwrap_probe._step import defer, due_by_step, flush
from kwrap_probe._turn import DUE, START, is_due, next_turn
from kwrap_probe._watch import Cell, after, assigned, floating, graph, watched

__all__ = ["Probe"]

Of = tuple[str, str | None]  # what is watched: the source, and the weight's name, if it is one's


class _Call(NamedTuple):
    """A call that goes on.

    Attributes:
        due: whether it is measured, a bool scalar; where the step tells, True, or None, which is as without the probe.
        graph: the graph that it is made in.
        weights: those that it has read.
    """

    due: Any
    graph: Any
    weights: dict[Of, Sequence[Any]]


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
            later, so that of a layer that is called several times a step no call is left out for good. With
            `ProbeSteps`, of so many steps of an epoch.
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
        """Create a row of a matrix for each thing that is watched, and what tells when to measure."""
        if all(source.startswith("weight") for source in self.watch) and not self.target_weights:
            raise TargetError(
                f"hook {self.name!r} at {self.path!r}: nothing but weights is watched, and of the layer there are none "
                "for a hook: leave it out with exclude=..., or name weights with the option targets=..."
            )
        self.turn = self.add_weight(
            dtype="int32", initializer="zeros", trainable=False, aggregation="only_first_replica", name="turn"
        )
        weights = [each.name for each in self.target_weights]
        # A call's, which are measured when it is over; gradients come one by one.
        self._seen: tuple[Of, ...] = tuple(
            (source, weight)
            for source in self.watch
            if not source.endswith("gradients")
            for weight in (weights if source == "weights" else [None])
        )
        width = len(nothing(self.histogram))
        # Not "mean": what is assigned is of all replicas already, and the same in each.
        kind = {"dtype": "float64", "initializer": "zeros", "aggregation": "only_first_replica"}
        for name, rows in (("seen", len(self._seen)), ("output_gradients", int("output_gradients" in self.watch))):
            if rows:
                variable = self.add_weight(shape=(rows, width), trainable=False, autocast=False, name=name, **kind)
                setattr(self, name, variable)
        if "weight_gradients" in self.watch:
            for target in self.target_weights:
                self.add_state(target, "gradients", (1, width), **kind)
        self.statistics = [
            Statistic(*place, statistic, name=f"{self.path}/{self._prefix()}{series(source, weight)}_{statistic}")
            for logged, statistic in self.log
            for (source, weight), place in self.places().items()
            if source == logged
        ]

    def initialize(self, layer: keras.Layer) -> None:
        """Begin with nothing measured."""
        self.reset()

    def reset(self) -> None:
        """Forget what was measured, and measure again in the next call."""
        flush()
        self.turn.assign(START)
        for matrix in {id(matrix): matrix for matrix, _ in self.places().values()}.values():
            matrix.assign(np.tile(nothing(self.histogram), (matrix.shape[0], 1)))

    def places(self) -> dict[Of, tuple[keras.Variable, int]]:
        """Return where it is kept what was measured of each thing that is watched: a matrix, and the row."""
        found: dict[Of, tuple[keras.Variable, int]] = {}
        for source in self.watch:
            if source == "output_gradients":
                found[source, None] = self.output_gradients, 0
            elif source == "weight_gradients":
                found.update({(source, each.name): (self.state(each, "gradients"), 0) for each in self.target_weights})
            else:
                found.update({of: (self.seen, row) for row, of in enumerate(self._seen) if of[0] == source})
        return found

    def call(self, call_next: Callable[..., Any], inputs: Any) -> Any:
        """Return the layer's outputs; measure them, the inputs and the outputs' gradients if it is time."""
        call = self._begun()
        token = _calls.set({**_calls.get(), id(self): call})
        try:
            outputs = call_next(inputs)
        finally:
            _calls.reset(token)
        if call.due is None:
            return outputs
        if call.due is True:  # a tf.function of a hook between, traced once for all steps, goes by the turn
            assigned(self.turn, tf.constant(START))
        tensors = floating(outputs)
        if not tensors and ("outputs" in self.watch or "output_gradients" in self.watch):
            raise NoFloatingOutputsError(self.name, self.path, described(outputs))
        seen = {("inputs", None): floating(inputs), ("outputs", None): tensors, **call.weights}
        if self._seen:
            self._record(call.due, Cell(self.seen), [seen.get(of, []) for of in self._seen])
        if "output_gradients" not in self.watch:
            return outputs
        return keras.tree.map_structure(lambda each: self._watched(self.output_gradients, call.due, each), outputs)

    def parametrize(self, target: kwrap.WeightTarget, value: Any, *, training: Any) -> Any:
        """Return `value`; measure it and its gradient in the calls that are measured."""
        call = _calls.get().get(id(self))
        if call is None:  # a hook between says that the layer trains, where it was called as one that does not
            return value
        is_same = graph() is call.graph
        if is_same and call.due is None:
            return value
        # A tf.function of a hook between would keep the answer of the call that it was traced in.
        due = call.due if is_same else is_due(tf.convert_to_tensor(self.turn.value), self.every)
        of = "weights", target.name
        if of in self._seen:
            cell = Cell(self.seen)
            if is_same and of not in call.weights:
                call.weights[of] = [value]
            else:  # in a function of a hook between, whose tensors cannot leave it; or it calls the layer again
                self._record(due, cell, [[value] if each == of else [] for each in self._seen])
            if kwrap.is_jit_compiled() and cell.is_held:  # any number of the matrix would do
                value = after(value, lambda: cell.read()[0, Part.CALLS])
        if "weight_gradients" not in self.watch:
            return value
        return self._watched(self.state(target, "gradients"), due, value)

    def merge(self, target: kwrap.WeightTarget, value: Any) -> Any:
        """Return `value`: nothing is left of a look at it."""
        return value

    def _begun(self) -> _Call:
        by_step = due_by_step(self.every)
        if by_step is False:
            return _Call(None, graph(), {})
        turn = tf.constant(DUE) if by_step else next_turn(tf.convert_to_tensor(self.turn.value), self.every)
        assigned(self.turn, turn)
        return _Call(by_step or is_due(turn, self.every), graph(), {})

    def _prefix(self) -> str:
        return "" if self.name == self.hook_name else f"{self.name}_"

    def _watched(self, variable: keras.Variable, due: Any, tensor: Any) -> Any:
        if not floating(tensor):
            return tensor
        cell = Cell(variable)
        return watched(tensor, lambda gradient: self._record(due, cell, [[gradient]], backward=True))

    def _record(self, due: Any, cell: Cell, rows: Sequence[Sequence[Any]], *, backward: bool = False) -> list[Any]:
        """Add to a cell's matrix what is measured of each row's tensors, if it is time; return the ops that do."""
        if not any(rows):
            return []
        measurement = Measurement(cell, rows, self.sample, self.histogram, backward)
        return [] if due is True and defer(measurement) else record([measurement], due)


def series(source: str, weight: str | None) -> str:
    """Return the name of what a row is of: "outputs", "kernel", "kernel_gradients"."""
    return source if weight is None else weight + ("_gradients" if source == "weight_gradients" else "")


def described(outputs: Any) -> str:
    """Return the dtypes of nested outputs as text."""
    dtypes = [
        keras.backend.standardize_dtype(leaf.dtype) if hasattr(leaf, "dtype") else type(leaf).__name__
        for leaf in keras.tree.flatten(outputs)
    ]
    return ", ".join(dict.fromkeys(dtypes)) or "nothing"
