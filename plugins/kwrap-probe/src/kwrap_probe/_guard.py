"""NaNGuard: the first layer whose output, or its gradient, is not finite; and a callback that stops there."""

import itertools
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

import kwrap
from kwrap.options import checked_bool, checked_int
from kwrap_probe._errors import NoFloatingOutputsError, NonFiniteError, told
from kwrap_probe._find import hooks_on
from kwrap_probe._hook import described
from kwrap_probe._watch import Cell, all_finite, floating, replicas, watched

__all__ = ["FirstNonFinite", "NaNGuard", "StopOnNonFinite", "first_non_finite"]

# The places in a guard's `seen`. Calls count from 1; 0 is never.
_CALLS, _OUTPUT, _FED, _OUTPUT_NUMBER = range(4)
# And in its `seen_gradient`.
_GRADIENT, _GRADIENT_NUMBER = range(2)
# Numbers outputs and gradients in the order in which Python computes them: in a compiled function, when it is traced.
_numbers = itertools.count(1)


@kwrap.hook(layer_type=keras.layers.Layer, name="nan_guard")
class NaNGuard(kwrap.Hook):
    """Note the first call in training in which a layer's output, or the gradient of it, is NaN or infinite.

    The layer computes what it computes without, to the bit. `first_non_finite` compares the guards of a model, and
    `StopOnNonFinite` asks it after each batch. Both work with all ways to train, XLA included; but for layers
    inside of a branch or loop of TensorFlow on several replicas, which cannot agree on anything there.

    Args:
        raises: stop in the call itself. Eagerly that is a `NonFiniteError`. In a compiled function it is TensorFlow's
            InvalidArgumentError with the same sentence; and under XLA (`jit_compile=True`), which knows no errors,
            nothing at all: use the callback there. (`compile(jit_compile="auto")`, the default, may take XLA.)
        gradients: whether to look at the gradients of outputs. With False they are let through: those of a scaled
            loss (`keras.optimizers.LossScaleOptimizer`) overflow now and then by design.

    Raises:
        NoFloatingOutputsError: the layer gives no floating tensor.
    """

    observes = True

    def __init__(
        self,
        raises: bool = False,
        *,
        gradients: bool = True,
        phase: Literal["always", "training", "inference"] = "training",
        **kwargs: Any,
    ) -> None:
        super().__init__(phase=phase, **kwargs)
        self.raises = checked_bool(self.hook_name, "raises", raises)
        self.gradients = checked_bool(self.hook_name, "gradients", gradients)

    def build(self, layer: keras.Layer) -> None:
        """Create the counter of calls, with the calls in which something was seen first."""
        # Two: TensorFlow does not always see that a gradient's read has to wait for the call's write (a branch in a
        # function in a function), so that of one variable for both, the gradient would write the count of before.
        kind = {"dtype": "int32", "initializer": "zeros", "trainable": False, "aggregation": "only_first_replica"}
        self.seen = self.add_weight(shape=(4,), name="seen", **kind)
        self.seen_gradient = self.add_weight(shape=(2,), name="seen_gradient", **kind)

    def initialize(self, layer: keras.Layer) -> None:
        """Begin with no calls."""
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        for variable in (self.seen, self.seen_gradient):
            variable.assign(keras.ops.zeros(variable.shape, "int32"))

    def call(self, call_next: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
        """Return the layer's outputs; note whether they, and later their gradients, are finite."""
        outputs = call_next(*inputs, **named)
        tensors = floating(outputs)
        if not tensors:
            raise NoFloatingOutputsError(self.name, self.path, described(outputs))
        given = floating([*inputs, *named.values()])
        finite = all_finite(tensors)
        # The inputs are looked at only if it is bad.
        inputs_finite = tf.cond(finite, lambda: True, lambda: all_finite(given) if given else tf.constant(True))
        finite, inputs_finite = _in_all_replicas(finite), _in_all_replicas(inputs_finite)
        seen, gradients = Cell(self.seen), Cell(self.seen_gradient)
        old = seen.read()
        call = old[_CALLS] + 1
        first = tf.logical_and(tf.logical_not(finite), tf.equal(old[_OUTPUT], 0))
        fed = tf.cast(inputs_finite, tf.int32)
        noted = tf.stack([call, call, fed, _next_number()])
        done = seen.assign(tf.where(first, noted, tf.concat([[call], old[1:]], 0)))
        stops = self._stops("output", finite, call, inputs_finite)

        def passed(each: Any) -> Any:
            if not floating(each):
                return each
            if stops:  # no layer after this one runs before
                with tf.control_dependencies([*stops, *done]):
                    each = tf.identity(each)
            if not self.gradients:
                return each
            # Where it raises, no gradient goes on to an update before.
            return watched(each, lambda gradient: self._note_gradient(gradients, call, gradient), waits=self.raises)

        return keras.tree.map_structure(passed, outputs)

    def _note_gradient(self, cell: Cell, call: Any, gradient: Any) -> list[Any]:
        finite = _in_all_replicas(all_finite([gradient]))
        old = cell.read()
        first = tf.logical_and(tf.logical_not(finite), tf.equal(old[_GRADIENT], 0))
        done = cell.assign(tf.where(first, tf.stack([call, _next_number()]), old))
        return [*done, *self._stops("gradient", finite, call, True)]

    def _stops(self, what: Literal["output", "gradient"], finite: Any, call: Any, inputs_finite: Any) -> list[Any]:
        """Raise, or return the ops that will, if the hook is to raise and something is not finite."""
        if not self.raises:
            return []
        if tf.executing_eagerly():
            if not finite:
                raise NonFiniteError(str(self.path), what, int(call), bool(inputs_finite))
            return []
        return [tf.debugging.Assert(finite, [told(str(self.path), what), "; call", call])]


def _next_number() -> int:
    return next(_numbers) & 0x7FFFFFFF  # of an int32


def _in_all_replicas(finite: Any) -> Any:
    """Return whether it is finite in all replicas of the step."""
    if replicas() == 1:
        return finite
    broken = tf.cast(tf.logical_not(finite), tf.int32)
    context = tf.distribute.get_replica_context()
    return tf.equal(context.all_reduce(tf.distribute.ReduceOp.SUM, broken), 0)


@dataclass(frozen=True)
class FirstNonFinite:
    """Where a value was not finite first.

    Attributes:
        path: the layer's path.
        what: "output", or "gradient": that of the output.
        call: in which call of the layer in training, from 1.
        inputs_finite: whether the layer's inputs were finite; of a gradient True.
    """

    path: str
    what: Literal["output", "gradient"]
    call: int
    inputs_finite: bool

    def __str__(self) -> str:
        return told(self.path, self.what, self.call, self.inputs_finite)


def first_non_finite(model: keras.Model, *, gradients: bool | None = None) -> FirstNonFinite | None:
    """Return where a NaNGuard of `model` saw the first value that is not finite; None: nowhere.

    Of the layers of the earliest step it is the first, in the order of calls, whose inputs were finite: there it came
    from. A gradient counts if no output of that step was bad; of these it is the one that was computed first, which is
    that of the layer called last, as gradients go from the last layer to the first. A layer that is called n times a
    step counts n calls: its steps are told from the number of calls that most layers count.

    Args:
        gradients: whether gradients count. Default: unless the model's optimizer is a LossScaleOptimizer, with which
            they overflow by design.

    Raises:
        AbsentHookError: no NaNGuard is on the model.
        ModelTypeError: this is no Keras model.
    """
    guards = [
        (path, _numbers_of(hook.seen), _numbers_of(hook.seen_gradient)) for path, hook in hooks_on(model, NaNGuard)
    ]
    # Of the steps that were run, each layer's calls are an equal share.
    counts = statistics.multimode(seen[_CALLS] for _, seen, _ in guards if seen[_CALLS])
    steps = min(counts, default=0)
    outputs, upstream = [], []
    for place, (path, seen, of_gradient) in enumerate(guards):
        if call := seen[_OUTPUT]:
            fed = bool(seen[_FED])
            found = FirstNonFinite(path, "output", call, fed)
            outputs.append((_step(call, steps, seen), not fed, seen[_OUTPUT_NUMBER], place, found))
        if call := of_gradient[_GRADIENT]:
            found = FirstNonFinite(path, "gradient", call, True)
            upstream.append((_step(call, steps, seen), False, of_gradient[_GRADIENT_NUMBER], -place, found))
    if not (_gradients_count(model) if gradients is None else gradients):
        upstream = []
    # Sorting is stable: of one step, outputs are before gradients.
    firsts = sorted([min(each) for each in (outputs, upstream) if each], key=lambda first: first[0])
    return firsts[0][-1] if firsts else None


def _numbers_of(variable: keras.Variable) -> list[int]:
    return [int(number) for number in keras.ops.convert_to_numpy(variable.value)]


def _step(call: int, steps: int, seen: list[int]) -> int:
    """Return in which of the model's steps a layer's call was, rounded up."""
    return -(-call * steps // max(seen[_CALLS], call))


def _gradients_count(model: keras.Model) -> bool:
    return not isinstance(getattr(model, "optimizer", None), keras.optimizers.LossScaleOptimizer)


class StopOnNonFinite(keras.callbacks.Callback):
    """Stop `fit` after the batch in which a NaNGuard has seen a value that is not finite.

    The optimizer has made that batch's update by then: go on from a checkpoint of before, after `kwrap_probe.reset`.
    What the guards have seen before `fit`, as in a loaded model, counts too. Gradients do not where the optimizer is a
    `keras.optimizers.LossScaleOptimizer`, which `compile` takes under "mixed_float16": it scales the loss until
    gradients overflow, and leaves out that update. A warning is given if no guard has counted a call in the first
    batch.

    Args:
        raises: whether to raise a NonFiniteError; else `model.stop_training` is set, as Keras' own callbacks do.
        every: look after every so manieth batch, and at an epoch's end. What `compile(steps_per_execution=...)` runs at
            once counts as one.

    Attributes:
        found: where the first one was, in this `fit`, or None.

    Raises:
        OptionValueError: an option has a value that it cannot have.
    """

    def __init__(self, raises: bool = True, *, every: int = 1) -> None:
        super().__init__()
        self.raises = checked_bool("StopOnNonFinite", "raises", raises)
        self.every = checked_int("StopOnNonFinite", "every", every)
        self.found: FirstNonFinite | None = None
        self._batches = 0
        self._any: Callable[[], Any] | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Find the guards.

        Raises:
            AbsentHookError: no NaNGuard is on the model.
        """
        guards = [hook for _, hook in hooks_on(self.model, NaNGuard)]
        self.found, self._batches = None, 0
        places = [(hook.seen, _OUTPUT) for hook in guards]
        if _gradients_count(self.model):
            places += [(hook.seen_gradient, _GRADIENT) for hook in guards]
        # One look for all layers, compiled.
        self._any = tf.function(
            lambda: tf.reduce_any(tf.stack([tf.convert_to_tensor(each.value)[place] > 0 for each, place in places]))
        )

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Stop if something was seen.

        Raises:
            NonFiniteError: it was, and this is to raise.
        """
        self._batches += 1
        if self._batches == 1 and not any(_numbers_of(hook.seen)[_CALLS] for _, hook in hooks_on(self.model, NaNGuard)):
            warnings.warn(
                f"no NaNGuard of model {self.model.name!r} has counted a call in the first batch: Keras tells layers "
                "that they train only where the model's own call takes an argument training. Give it one, or the "
                "guards phase='always'",
                stacklevel=2,
            )
        if self._batches % self.every == 0:
            self._look()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Stop if something was seen in the batches since the last look.

        Raises:
            NonFiniteError: it was, and this is to raise.
        """
        if self.found is None:
            self._look()

    def _look(self) -> None:
        if self._any is None or not bool(np.asarray(self._any())):
            return
        self.found = found = first_non_finite(self.model)
        if found is not None and self.raises:
            raise NonFiniteError(found.path, found.what, found.call, found.inputs_finite)
        self.model.stop_training = True
