"""Ranges that move with what is seen in training, equal on all replicas."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

__all__ = ["extremes", "moved"]


def extremes(tensors: Sequence[Any]) -> tuple[Any, Any]:
    """Return the least and the largest value of each floating tensor, over all replicas: two float32 vectors.

    The least is 0 or below, the largest 0 or above: every range has zero in it. NaN where a tensor has any.
    """
    low = tf.stack([tf.cast(tf.reduce_min(tensor), tf.float32) for tensor in tensors])
    high = tf.stack([tf.cast(tf.reduce_max(tensor), tf.float32) for tensor in tensors])
    low, high = _of_all_replicas(tf.minimum(low, 0.0), tf.maximum(high, 0.0))
    return tf.stop_gradient(low), tf.stop_gradient(high)


def moved(kind: str, decay: float, old: Any, new: Any, seen: Any, *, upper: bool) -> Any:
    """Return where one end of ranges moves to: vectors; `seen` is a bool each, False before the first.

    Args:
        kind: "last": to `new`; "all_time": to whatever is further out; "moving_average": from `old` by the share
            1 - `decay` of the way.
        upper: whether it is the upper end.
    """
    if kind == "last":
        return new
    if kind == "all_time":
        return tf.where(seen, tf.maximum(old, new) if upper else tf.minimum(old, new), new)
    return tf.where(seen, decay * old + (1 - decay) * new, new)


def _of_all_replicas(low: Any, high: Any) -> tuple[Any, Any]:
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return low, high
    # Nothing reduces to the least: each replica puts its extremes into a place of its own, and places are added.
    own = tf.one_hot(context.replica_id_in_sync_group, context.num_replicas_in_sync)[:, None, None]
    both = context.all_reduce(tf.distribute.ReduceOp.SUM, own * tf.stack([low, high])[None])
    return tf.reduce_min(both[:, 0], 0), tf.reduce_max(both[:, 1], 0)
