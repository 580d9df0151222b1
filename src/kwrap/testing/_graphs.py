"""Checks of a hook in graphs, under XLA, and in other dtypes."""

import logging
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kwrap.testing._check import NotApplicable, Wrong, check
from kwrap.testing._compare import arrays, must_be_close, must_be_finite, signature_of
from kwrap.testing._example import Example

__all__: list[str] = []

_PHASES = {"inference": False, "training": True}


@check(
    where="kwrap.Hook.call", way_out="`keras.ops` instead of NumPy and Python: `if` becomes `keras.ops.cond` or `where`"
)
def graph_agrees_with_eager(example: Example) -> None:
    """A compiled call gives what an eager one does, for every number of examples in a batch."""
    specs = keras.tree.map_structure(_spec, example.inputs)
    for phase, training in _PHASES.items():
        eager, compiled = example.wrapped(), example.wrapped()
        function = tf.function(lambda inputs: example.call(compiled, training, inputs), input_signature=[specs])  # noqa: B023
        _compare_batches(example, function, lambda inputs: example.call(eager, training, inputs), phase)  # noqa: B023


@check(where="kwrap.Hook.call", way_out="`kwrap.kernel` takes a variant for XLA, as kwrap_prune's `lowest` has one")
def xla_agrees_with_eager(example: Example) -> None:
    """A call compiled by XLA (`jit_compile=True`, the default of `fit` on a GPU) gives what an eager one does."""
    for phase, training in _PHASES.items():
        eager, compiled = example.wrapped(), example.wrapped()
        try:
            outputs = _by_xla(example, compiled, training)
        except Exception:
            _must_compile(example, training)
            raise
        expected = example.call(eager, training)
        must_be_finite(outputs, f"the output in {phase} under XLA")
        if not (example.random_in_training if training else example.random_at_inference):  # XLA draws other numbers
            must_be_close(outputs, expected, f"the output in {phase} under XLA")
        elif signature_of(outputs) != signature_of(expected):
            raise Wrong(f"in {phase} under XLA the output is {signature_of(outputs)}, not {signature_of(expected)}")


def _by_xla(example: Example, layer: Any, training: bool) -> Any:
    return tf.function(lambda: example.call(layer, training), jit_compile=True)()


def _must_compile(example: Example, training: bool) -> None:
    """Raise NotApplicable where XLA does not compile the layer without the hook; asked then only, as it is slow."""
    try:
        _by_xla(example, example.new_layer(), training)
    except Exception as error:
        raise NotApplicable(f"XLA does not compile the layer itself: {type(error).__name__}") from error


@check(
    where="kwrap.kernel", way_out="pass tensors, not Python numbers, to what `tf.function` or `kwrap.kernel` compiled"
)
def nothing_is_traced_again(example: Example) -> None:
    """A call with other inputs or weights traces nothing anew, neither the call nor a function of the hook's own."""
    for training in (False, True):
        wrapper = example.wrapped()
        function = tf.function(lambda inputs: example.call(wrapper, training, inputs))  # noqa: B023
        for turn in range(3):
            function(keras.tree.map_structure(tf.constant, example.other_inputs(turn)))
            for variable in wrapper.layer.trainable_variables:
                variable.assign(variable + 0.5)
        if (count := function.experimental_get_tracing_count()) > 1:
            raise Wrong(f"a compiled call was traced {count} times")
        with _RetracingLog() as log:
            for turn in range(7):
                example.call(wrapper, training, example.other_inputs(turn))
        if log.messages:
            raise Wrong(f"in eager calls: {log.messages[0]}")


@check(
    where="kwrap.Hook",
    way_out="`phase='training'` as the default, as kwrap_noise has it: the hook is then out of the path",
)
def costs_nothing_where_it_does_nothing(example: Example) -> None:
    """A hook that leaves inference as it is adds no op to the graph of inference."""
    wrapper = example.wrapped()
    example.trained(wrapper, 2)  # what is learned may begin with no effect
    outputs, bare = (arrays(example.call(each)) for each in (wrapper, wrapper.layer))
    if len(outputs) != len(bare) or any(a.tobytes() != b.tobytes() for a, b in zip(outputs, bare, strict=True)):
        raise NotApplicable("it acts at inference")
    if wrapper.hooks[0].target_weights and type(wrapper.hooks[0]).overrides("constrain"):
        raise NotApplicable("what it stores in the weights makes it look as if it did nothing")
    more = graph_ops(example, wrapper) - graph_ops(example, wrapper.layer)
    if more:
        raise Wrong(f"it changes nothing at inference, and its graph has {more} ops more")


@check(
    where="kwrap.WeightTarget",
    way_out="follow `value.dtype`; compute wide in float32 and cast back, as a norm needs it",
)
def works_in_float16(example: Example) -> None:
    """A layer in float16 works with the hook: same dtype, finite."""
    _works_in(example, "float16")


@check(where="kwrap.WeightTarget", way_out="follow `value.dtype`: no constants of float32, no NumPy arrays as factors")
def works_in_bfloat16(example: Example) -> None:
    """A layer in bfloat16 works with the hook: same dtype, finite."""
    _works_in(example, "bfloat16")


@check(
    where="kwrap.WeightTarget",
    way_out="`call` sees the compute dtype, `parametrize` the variable's: follow the tensor's",
)
def works_in_mixed_precision(example: Example) -> None:
    """A layer of mixed precision works with the hook: its output in float16, its weights in float32."""
    _works_in(example, "mixed_float16")


def _works_in(example: Example, policy: str) -> None:
    if not any(keras.backend.is_float_dtype(dtype) for dtype, _ in signature_of(example.call(example.new_layer()))):
        raise NotApplicable("the layer's output is not floating")
    try:
        layer = example.new_layer(dtype=policy)
    except Exception as error:
        raise NotApplicable(f"the layer itself does not work in {policy}") from error
    wrapper = example.wrapped(layer=layer)
    if policy.startswith("mixed"):
        others = [target.name for target in wrapper.hooks[0].target_weights if target.dtype != "float32"]
        if others:
            raise Wrong(f"the weights {others} are no longer of float32")
    for phase, training in _PHASES.items():
        outputs = example.call(wrapper, training)
        must_be_finite(outputs, f"the output in {phase} under {policy}")
        if not example.hook.changes_output:
            received, expected = signature_of(outputs), signature_of(example.call(layer, training))
            if received != expected:
                raise Wrong(f"in {phase} under {policy} the output is {received} instead of {expected}")


def graph_ops(example: Example, layer: Any, training: bool = False) -> int:
    """Return how many ops a graph of a layer's call has."""
    function = tf.function(lambda: example.call(layer, training))
    return len(function.get_concrete_function().graph.get_operations())


class _RetracingLog(logging.Handler):
    """Keeps what TensorFlow logs of functions that are traced again and again."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record that is about tracing."""
        if "retracing" in record.getMessage():
            self.messages.append(record.getMessage().partition(". Tracing")[0])

    def __enter__(self) -> "_RetracingLog":
        logger = tf.get_logger()
        self._level = logger.level
        logger.addHandler(self)
        logger.setLevel(logging.WARNING)
        return self

    def __exit__(self, *_: object) -> None:
        tf.get_logger().removeHandler(self)
        tf.get_logger().setLevel(self._level)


def _compare_batches(example: Example, function: Callable[..., Any], eager: Callable[..., Any], phase: str) -> None:
    # Further arguments are of the example's number of examples.
    for count in (2, 3) if not example.arguments else (len(keras.tree.flatten(example.inputs)[0]),):
        inputs = keras.tree.map_structure(lambda array: _of_size(array, count), example.inputs)  # noqa: B023
        tensors = keras.tree.map_structure(tf.constant, inputs)
        must_be_close(function(tensors), eager(inputs), f"the output in {phase}, compiled, {count} in a batch")


def _of_size(array: Any, count: int) -> Any:
    return np.resize(array, (count, *array.shape[1:]))


def _spec(array: Any) -> tf.TensorSpec:
    return tf.TensorSpec((None, *array.shape[1:]), array.dtype)
