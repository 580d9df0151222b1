"""The hook that measures what goes through a layer."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras
import tensorflow as tf

import kwrap
from kwrap.errors import TargetError
from kwrap.options import checked_bool, checked_int
from kwrap_probe._errors import NoFloatingOutputsError
from kwrap_probe._measure import added, flat, length, measure, of_all_replicas
from kwrap_probe._metric import Statistic
from kwrap_probe._options import SOURCES, checked_log, checked_watch
from kwrap_probe._watch import Cell, assigned, floating, replicas, watched

__all__ = ["Probe"]

# By the name of its state: what it is of, and the weight, if it is one's.
Vectors = dict[tuple[str, str | None], keras.Variable]


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
        every: of so many calls in a row measure one: the first of all, then one at a place that changes, so that of a
            layer that is called several times a step no call is left out for good.
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
        sample: int | None = 4096,
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
        """Create a vector for each thing that is watched, and the counter of calls."""
        of_weights = [source for source in self.watch if source.startswith("weight")]
        if len(of_weights) == len(self.watch) and not self.target_weights:
            raise TargetError(
                f"hook {self.name!r} at {self.path!r}: nothing but weights is watched, and of the layer there are none "
                "for a hook: leave it out with exclude=..., or name weights with the option targets=..."
            )
        self.calls = self.add_weight(
            dtype="int32", initializer="zeros", trainable=False, aggregation="only_first_replica", name="calls"
        )
        # Not "mean": what is assigned is of all replicas already, and the same in each.
        kind = {"dtype": "float64", "initializer": "zeros", "aggregation": "only_first_replica"}
        shape = (length(self.histogram),)
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
        """Begin with no calls."""
        self.reset()

    def reset(self) -> None:
        """Forget what was measured, and measure again in the next call."""
        for variable in (self.calls, *self.vectors().values()):
            variable.assign(keras.ops.zeros(variable.shape, variable.dtype))

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
        count = tf.convert_to_tensor(self.calls.value)
        due = self._is_due(count)
        assigned(self.calls, count + 1)
        outputs = call_next(inputs)
        tensors = floating(outputs)
        if not tensors and ("outputs" in self.watch or "output_gradients" in self.watch):
            raise NoFloatingOutputsError(self.name, self.path, described(outputs))
        looks = {"inputs": floating(inputs), "outputs": tensors}
        vectors = [(getattr(self, source), seen) for source, seen in looks.items() if source in self.watch]
        self._record(due, [(Cell(vector), seen) for vector, seen in vectors])
        if "output_gradients" not in self.watch:
            return outputs
        return keras.tree.map_structure(lambda each: self._watched(self.output_gradients, due, each), outputs)

    def parametrize(self, target: kwrap.WeightTarget, value: Any, *, training: Any) -> Any:
        """Return `value`; measure it and its gradient in the calls that are measured."""
        # `call`, which is around this, has counted the call already.
        due = self._is_due(tf.convert_to_tensor(self.calls.value) - 1)
        if "weights" in self.watch:
            self._record(due, [(Cell(self.state(target, "weights")), [value])])
        if "weight_gradients" not in self.watch:
            return value
        return self._watched(self.state(target, "weight_gradients"), due, value)

    def merge(self, target: kwrap.WeightTarget, value: Any) -> Any:
        """Return `value`: nothing is left of a look at it."""
        return value

    def _is_due(self, count: Any) -> Any:
        """Return whether the call after `count` others is measured, a bool scalar."""
        # Fibonacci hashing (Knuth, The Art of Computer Programming 3, 6.4): 2**32 over the golden ratio, as an int32.
        place = tf.bitwise.right_shift(count // self.every * -1640531527, 16) % self.every
        return tf.equal(count % self.every, place)

    def _prefix(self) -> str:
        return "" if self.name == self.hook_name else f"{self.name}_"

    def _watched(self, variable: keras.Variable, due: Any, tensor: Any) -> Any:
        if not floating(tensor):
            return tensor
        cell = Cell(variable)
        return watched(tensor, lambda gradient: self._record(due, [(cell, [gradient])]))

    def _record(self, due: Any, looks: Sequence[tuple[Cell, Sequence[Any]]]) -> list[Any]:
        """Add to each cell what is measured of its tensors, if it is time; return the ops that do."""
        looks = [(cell, tensors) for cell, tensors in looks if tensors]
        measured = measure(self.sample, self.histogram)
        if not looks:
            return []
        if replicas() == 1 and all(cell.is_held for cell, _ in looks):
            return [tf.cond(due, lambda: _added_to(looks, measured), lambda: tf.constant(False))]
        # Replicas cannot agree on anything inside of a condition, nor can values leave it for a stateless scope.
        nothing = tf.zeros([len(looks), length(self.histogram)], tf.float64)
        new = tf.cond(
            due,
            lambda: tf.stack([measured(flat(tensors), nothing[0]) for _, tensors in looks]),
            lambda: nothing,
        )
        return [
            op
            for (cell, _), each in zip(looks, tf.unstack(of_all_replicas(new)), strict=True)
            for op in cell.assign(added(cell.read(), each))
        ]


def _added_to(looks: Sequence[tuple[Cell, Sequence[Any]]], measured: Callable[..., Any]) -> Any:
    """Add; return what is there once that is done."""
    done: list[Any] = []
    for cell, tensors in looks:
        done += cell.assign(measured(flat(tensors), cell.read()))
    with tf.control_dependencies(done):
        return tf.constant(True)


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
