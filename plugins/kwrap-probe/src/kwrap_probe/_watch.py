"""Looking at tensors and their gradients without changing them."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

__all__ = [
    "Cell",
    "after",
    "all_finite",
    "assigned",
    "floating",
    "function_graph",
    "graph",
    "replicas",
    "runs_all_ops",
    "watched",
]


def floating(tensors: Any) -> list[Any]:
    """Return the dense floating tensors among nested ones, as a flat list."""
    return [leaf for leaf in keras.tree.flatten(tensors) if isinstance(leaf, tf.Tensor) and leaf.dtype.is_floating]


def watched(tensor: Any, record: Callable[[Any], Sequence[Any]], *, waits: bool = False) -> Any:
    """Return `tensor`, to the bit; `record` is called with its gradient, a tensor, whenever one is computed.

    What `record` returns are ops that have to run. The gradient waits for them if `waits`, and where TensorFlow would
    leave them out else, as in the gradient of a compiled function that is taken outside of it.
    """

    def gradient(upstream: Any) -> Any:
        # Of embeddings it is a slice of rows, and goes on as one: dense, an optimizer would update all rows.
        ops = record(upstream.values if isinstance(upstream, tf.IndexedSlices) else upstream)
        if not waits and runs_all_ops():
            return upstream
        with tf.control_dependencies(ops):
            return tf.identity(upstream)

    return _passed(tensor, gradient)


def runs_all_ops() -> bool:
    """Return whether ops that are made now all run, be their outputs asked for or not: in a tf.function, not elsewhere.

    Private, as there is no public way. Where TensorFlow changes it, all gradients wait, which is right, and slow.
    """
    return getattr(graph(), "_add_control_dependencies", False)


def after(tensor: Any, count: Callable[[], Any]) -> Any:
    """Return `tensor`, whose gradient waits under XLA for a count, a scalar, that is written before.

    There nothing but data orders ops; and what reads a weight has to come before its update, or XLA copies the weight.
    """

    def ordered(values: Any) -> Any:  # XLA does not know that there are no negative counts
        return tf.where(count() < 0, tf.zeros([], values.dtype), values)

    def gradient(upstream: Any) -> Any:
        if isinstance(upstream, tf.IndexedSlices):
            return tf.IndexedSlices(ordered(upstream.values), upstream.indices, upstream.dense_shape)
        return ordered(upstream)

    return _passed(tensor, gradient)


def _passed(tensor: Any, gradient: Callable[[Any], Any]) -> Any:
    """Return `tensor`, to the bit, whose gradient is what a function makes of the one that comes."""
    return tf.custom_gradient(lambda values: (tf.identity(values), gradient))(tensor)


def graph() -> Any:
    """Return the graph that ops go into now; None if they are computed."""
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def assigned(variable: keras.Variable, value: Any) -> list[Any]:
    """Assign, and return the op that does, for who has to wait for it; none where no op of its own does."""
    held = variable.value
    if not isinstance(held, tf.Variable):  # inside a stateless scope, which keeps the values
        variable.assign(value)
        return []
    done = held.assign(value, read_value=False)
    return [done] if isinstance(done, tf.Operation | tf.Tensor) else []


class Cell:
    """A variable for who reads and assigns it in the gradient of what is computed now.

    In a branch or a loop of TensorFlow that gradient is a function that can take no variable's handle but one that the
    branch itself has taken: made in the forward pass, this holds it.
    """

    def __init__(self, variable: keras.Variable) -> None:
        self.variable = variable
        self._handle = _taken(variable.value)

    @property
    def is_held(self) -> bool:
        """Whether it is a variable now, and not a value of a stateless scope."""
        return isinstance(self.variable.value, tf.Variable)

    def read(self) -> Any:
        """Return the value, a tensor."""
        if self._handle is None:
            return tf.convert_to_tensor(self.variable.value)
        value = tf.raw_ops.ReadVariableOp(resource=self._handle, dtype=self.variable.dtype)
        return tf.ensure_shape(value, self.variable.shape)

    def assign(self, value: Any) -> list[Any]:
        """Assign, as `assigned` does."""
        if self._handle is None:
            return assigned(self.variable, value)
        return [tf.raw_ops.AssignVariableOp(resource=self._handle, value=value)]


def _taken(held: Any) -> Any:
    """Return the handle of a variable as a function in a branch or loop, built now, has taken it; None elsewhere."""
    # Not in functions of no branch: TensorFlow tells by the handle which reads have to wait for which writes. Nor is
    # the handle asked for there: between replicas, a variable of theirs has none, and raises.
    if not _is_in_branch(graph()) or not hasattr(held, "handle"):
        return None
    return tf.raw_ops.ReadVariableOp(resource=held.handle, dtype=held.dtype).op.inputs[0]


def function_graph() -> Any:
    """Return the graph of the function that ops go into now, branches and loops of it left; None if computed."""
    found = graph()
    while getattr(found, "is_control_flow_graph", False):
        found = found.outer_graph
    return found


def _is_in_branch(graph: Any) -> bool:
    while graph is not None:
        if getattr(graph, "is_control_flow_graph", False):
            return True
        graph = getattr(graph, "outer_graph", None)
    return False


def replicas() -> int:
    """Return how many replicas run this step together."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else int(context.num_replicas_in_sync)


def all_finite(tensors: Sequence[Any]) -> Any:
    """Return whether all values of floating tensors are finite, a bool scalar."""
    return tf.reduce_all(tf.stack([_is_finite(tensor) for tensor in tensors]))


def _is_finite(tensor: Any) -> Any:
    wide = tensor if tensor.dtype in (tf.float32, tf.float64) else tf.cast(tensor, tf.float32)
    whole = tf.math.is_finite(tf.reduce_sum(wide))  # one look at each value; only a sum can overflow
    return tf.cond(whole, lambda: True, lambda: tf.reduce_all(tf.math.is_finite(wide)))
