"""Kernels: compute functions of flat tensors, traced once a dtype and shared by all layers of all models."""

import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar, final

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from kwrap._keras import unconverted
from kwrap.errors import KernelError

__all__ = ["Cost", "Kernel", "all_ops", "is_jit_compiled", "kernel"]

P = ParamSpec("P")
R = TypeVar("R")
Signature = tuple[tf.TensorSpec, ...]


class Cost(NamedTuple):
    """What a call of a kernel takes: TensorFlow ops, and the bytes that these read and write."""

    ops: int
    bytes: int


class _Implementation(NamedTuple, Generic[P, R]):
    """A function, and the callers it is for; `None` is any."""

    function: Callable[P, R]
    device: str | None = None
    jit_compile: bool | None = None

    @property
    def callers(self) -> tuple[str | None, bool | None]:
        return self.device, self.jit_compile

    @property
    def source(self) -> str:
        return f"{self.function.__module__}.{self.function.__qualname__}"


@final
class Kernel(Generic[P, R]):
    """A compute function that TensorFlow traces once a dtype, with variants for devices and for XLA.

    Arguments are scalars and flat tensors, `(n,)` of any length; whatever else they are is converted by
    `tf.convert_to_tensor`. `*values` takes any number of them, with a trace for each number. Inside another
    `tf.function` a call is one op that calls the shared trace, not a copy of its ops, so a model pays for the trace
    once and not once a layer. AutoGraph is off: control flow is `tf.cond` and `tf.while_loop`. A kernel that calls
    others is traced once for each kind of caller: theirs are chosen for it, too.

    Raises `KernelError` for an argument of more than one axis, and for a variant that does not fit.
    """

    def __init__(self, function: Callable[P, R]) -> None:
        # Marked for AutoGraph, which would convert what is around the trace in each tf.function of a user's own.
        functools.update_wrapper(self, unconverted(function))
        self.name = function.__name__
        self._signature = inspect.signature(function)
        parameters = self._signature.parameters.values()
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        if unfit := [each.name for each in parameters if each.kind not in kinds]:
            raise KernelError(self.name, f"parameters {unfit} are not plain ones, given by position or by name")
        defaults = [each.name for each in parameters if each.default is not each.empty]
        if defaults and any(each.kind is each.VAR_POSITIONAL for each in parameters):
            raise KernelError(self.name, f"{defaults} have defaults, before a parameter of any number of tensors")
        self._implementations: list[_Implementation[P, R]] = [_Implementation(function)]
        self._traces: dict[tuple[_Implementation[P, R], Signature, object], Callable[..., R]] = {}
        self._lock = threading.RLock()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        tensors = [tf.convert_to_tensor(value) for value in bound.args]
        signature = tuple(self._spec(bound, place, tensor) for place, tensor in enumerate(tensors))
        caller = _caller()
        return self._trace(self._choose(caller), signature, caller)(*tensors)

    def __repr__(self) -> str:
        return f"<Kernel {self._implementations[0].source}, {len(self._implementations)} implementations>"

    @property
    def trace_count(self) -> int:
        """How often TensorFlow has traced this kernel: once for each combination of implementation and dtypes.

        One that calls other kernels: once for each kind of caller as well.
        """
        return len(self._traces)

    def cost(self, *args: Any, **kwargs: Any) -> Cost:
        """Return what a call takes, without timing: for tests that a kernel stays as cheap as it is.

        Arguments are those of a call, or `tf.TensorSpec`s with lengths, as no value is looked at. Counted is the
        implementation for the caller, before XLA or Grappler fuse anything: each op once, in all branches and in the
        body of a loop, and the bytes of its inputs and outputs whose sizes are known from the lengths. Ops that only
        name, reshape or reinterpret a tensor are free. Of kernels that it calls, the ops count, but not their bytes, as
        a trace serves all lengths: ask these themselves.
        """
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        specs = [
            value if isinstance(value, tf.TensorSpec) else tf.TensorSpec.from_tensor(tf.convert_to_tensor(value))
            for value in bound.args
        ]
        function = tf.function(self._choose(_caller()).function, autograph=False)
        with tf.init_scope():
            graph = function.get_concrete_function(*specs).graph
        ops = [op for op in all_ops(graph) if op.type not in _FREE_OPS]
        return Cost(len(ops), sum(map(_size, (tensor for op in ops for tensor in (*op.inputs, *op.outputs)))))

    def variant(
        self, *, device: str | None = None, jit_compile: bool | None = None
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Add an implementation of the same contract, for callers on `device` ("CPU", "GPU", "TPU") or compiled by XLA.

        The decorated function is returned as it is. A call takes the implementation with the most conditions that hold
        for its caller, of equals the later one; they are looked at when the caller is traced.

        Raises `KernelError` without a condition, or with one that is none, if the parameters differ from the kernel's,
        or if another function has the same conditions; defining the same function again replaces it.
        """
        if device is None and jit_compile is None:
            raise KernelError(self.name, "a variant needs a condition: device=... or jit_compile=...")
        if not isinstance(device, str | None) or not isinstance(jit_compile, bool | None):
            raise KernelError(
                self.name, f'a variant is for a device type, such as "GPU", or True or False: {device=}, {jit_compile=}'
            )

        def add(function: Callable[P, R]) -> Callable[P, R]:
            self._add(_Implementation(function, device and device.upper(), jit_compile))
            return function

        return add

    def _add(self, new: _Implementation[P, R]) -> None:
        expected, given = _parameters(self._signature), _parameters(inspect.signature(new.function))
        if given != expected:
            raise KernelError(self.name, f"its variant {new.source} takes {given}, where the kernel takes {expected}")
        same = [each for each in self._implementations if each.callers == new.callers]
        if others := [each.source for each in same if each.source != new.source]:
            device, jit_compile = new.callers
            raise KernelError(
                self.name, f"{others[0]} and {new.source} are both its variant for {device=}, {jit_compile=}"
            )
        self._implementations = [each for each in self._implementations if each not in same] + [new]
        _Variants.count += 1
        _Variants.mind_devices |= new.device is not None

    def _choose(self, caller: "_Caller") -> _Implementation[P, R]:
        """Return the implementation for `caller`."""
        callers = (None, caller.device), (None, caller.jit_compile)
        fitting = [
            each for each in self._implementations if each.device in callers[0] and each.jit_compile in callers[1]
        ]
        # Most conditions first; reversed, as `max` keeps the first of equals and the later one is to win.
        return max(reversed(fitting), key=lambda each: -each.callers.count(None))

    def _trace(
        self, implementation: _Implementation[P, R], signature: Signature, caller: "_Caller"
    ) -> Callable[..., R]:
        """Return the shared trace of `implementation` for `signature`, made at its first use.

        One that calls other kernels is for this kind of caller only, and until one of them gets another variant.
        """
        for_all, for_caller = (implementation, signature, None), (implementation, signature, (caller, _Variants.count))
        outer = _tracing.get()
        if outer is not None:
            outer.calls_kernels = True
        with self._lock:
            for key in (for_all, for_caller):
                if key in self._traces:
                    return self._traces[key]
            # Not inlined: TensorFlow would optimize a copy for each caller, which takes longer than all else.
            function = tf.function(
                implementation.function,
                input_signature=signature,
                autograph=False,
                experimental_attributes={"_noinline": True},
            )
            token = _tracing.set(tracing := _Tracing(caller))
            try:
                # Outside the caller's graph and without its device: the next caller may be on another one. Held as a
                # concrete function: tf.function itself traces again for callers that XLA compiles.
                with tf.init_scope(), tf.device(None):
                    trace = function.get_concrete_function()
            finally:
                _tracing.reset(token)
            return self._traces.setdefault(for_caller if tracing.calls_kernels else for_all, trace)

    def _spec(self, bound: inspect.BoundArguments, place: int, tensor: tf.Tensor) -> tf.TensorSpec:
        if tensor.shape.rank not in (0, 1):
            parameter = [*bound.arguments][min(place, len(bound.arguments) - 1)]
            raise KernelError(
                self.name, f"{parameter!r} has shape {tensor.shape}; give it flat: tf.reshape({parameter}, [-1])"
            )
        return tf.TensorSpec([None] * tensor.shape.rank, tensor.dtype)


def kernel(function: Callable[P, R]) -> Kernel[P, R]:
    """Compile `function`, of scalars and flat tensors, so that one trace a dtype serves every caller."""
    return Kernel(function)


def _parameters(signature: inspect.Signature) -> str:
    """Return the parameters by name and kind: `(values, amount)`."""
    bare = [each.replace(default=each.empty, annotation=each.empty) for each in signature.parameters.values()]
    return str(inspect.Signature(bare))


class _Caller(NamedTuple):
    """What variants are chosen by: the device type, if any kernel has variants for one, and whether XLA compiles."""

    device: str | None
    jit_compile: bool


class _Tracing:
    """A kernel that is being traced: for whom, and whether it calls others."""

    def __init__(self, caller: _Caller) -> None:
        self.caller, self.calls_kernels = caller, False


class _Variants:
    """How many variants there are of all kernels, and whether one of them is for a device."""

    count = 0
    mind_devices = False


_tracing: ContextVar[_Tracing | None] = ContextVar("_tracing", default=None)


def _caller() -> _Caller:
    """Return who is calling: of a kernel inside another, that one's caller."""
    tracing = _tracing.get()
    if tracing is not None:
        return tracing.caller
    return _Caller(_caller_device() if _Variants.mind_devices else None, is_jit_compiled())


def _caller_device() -> str:
    """Return the device type that ops of the caller go to: its device scope, else TensorFlow's default."""
    # TensorFlow has no public way to read the scope but to make an op in it; unused, it is pruned from the graph.
    device: str | None = tf.DeviceSpec.from_string(tf.constant(0.0).device).device_type
    return device or ("GPU" if tf.config.get_visible_devices("GPU") else "CPU")


def is_jit_compiled() -> bool:
    """Return whether what is traced now is compiled by XLA: in a function with `jit_compile=True`, or called by one."""
    # Private, as there is no public way. It does not see auto-clustering (TF_XLA_FLAGS), which comes after tracing.
    return bool(control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))


_FREE_OPS = {
    *("Const", "Placeholder", "Identity", "NoOp", "StopGradient"),
    *("Bitcast", "Reshape", "Squeeze", "ExpandDims", "Shape", "Size"),
}


def all_ops(graph: tf.Graph) -> Iterator[tf.Operation]:
    """Yield the ops of a graph, and of the functions that they call: branches and loops."""
    for op in graph.get_operations():
        yield op
        for attribute in op.op_def.attr:
            if attribute.type == "func":
                # Private, as there is no public way from a function's name to its graph.
                yield from all_ops(graph._get_function(op.get_attr(attribute.name).name).graph)


def _size(tensor: tf.Tensor) -> int:
    """Return how many bytes a tensor takes; 0 if that is not known."""
    return (tensor.shape.num_elements() or 0) * int(tensor.dtype.size)
