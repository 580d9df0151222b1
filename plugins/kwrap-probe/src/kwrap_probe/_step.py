"""The step of `fit` that goes on, where `ProbeSteps` tells probes whether to measure it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import tensorflow as tf

import kwrap
from kwrap_probe._record import Measurement, record
from kwrap_probe._watch import function_graph, graph, runs_all_ops

__all__ = ["defer", "due_by_step", "flush", "step"]

# A kernel's call, and each op in it, take as long to start as some thousand values take; of more at once, other cores
# have nothing to do, and memory is held for all.
_ROW, _VALUES = 1024, 8 * 1024


class _Kind(NamedTuple):
    """What measurements that are made together have in common."""

    sample: int | None
    histogram: bool
    backward: bool  # a weight that waits for its gradient would be copied at its update
    device: str


class _Step:
    """A step, of which is told by `every` whether probes measure it, and what is left to it to measure."""

    def __init__(self, due: Mapping[int, bool]) -> None:
        self.due, self.function = due, function_graph()
        # Not under XLA, which starts no ops; nor where ops run, and tensors are there, for as long as someone asks.
        self._graph = graph() if runs_all_ops() and not kwrap.is_jit_compiled() else None
        self._groups: dict[_Kind, list[Measurement]] = {}

    @property
    def is_here(self) -> bool:
        """Whether ops go into the step's own graph, and not into one of a branch or a function in it."""
        return self._graph is not None and graph() is self._graph

    def add(self, new: Measurement) -> None:
        for kind, group in [*self._groups.items()]:  # a group reads all of its cells before it writes one
            if any(each.cell.variable is new.cell.variable for each in group):
                self._record(kind)
        kind = _Kind(new.sample, new.histogram, new.backward, _device())
        group = self._groups.setdefault(kind, [])
        group.append(new)
        if new.sample is None or sum(len(each.rows) for each in group) * max(new.sample, _ROW) >= _VALUES:
            self._record(kind)

    def flush(self) -> None:
        for kind in list(self._groups):
            self._record(kind)

    def _record(self, kind: _Kind) -> None:
        # Nothing of where it happens to be: another layer's device, or what that one waits for.
        with tf.control_dependencies(None), tf.device(None), tf.device(kind.device):
            record(self._groups.pop(kind), due=True)


_now: ContextVar[_Step | None] = ContextVar("_now", default=None)  # replicas are threads


@contextmanager
def step(due: Mapping[int, bool]) -> Iterator[None]:
    """Begin a step, of which is told by `every` whether probes measure it."""
    token = _now.set(_Step(due))
    try:
        yield
        flush()
    finally:
        _now.reset(token)


def due_by_step(every: int) -> bool | None:
    """Return whether probes that have this `every` measure now; None: nobody tells.

    Nobody does in a tf.function of the program's own, which is traced once for all steps.
    """
    now = _now.get()
    return None if now is None or now.function is not function_graph() else now.due.get(every)


def defer(measurement: Measurement) -> bool:
    """Leave it to the step to measure this, together with others and before it ends; return whether it will."""
    now = _here()
    if now is None or not measurement.cell.is_held:
        return False
    now.add(measurement)
    return True


def flush() -> None:
    """Measure what is left to the step so far: for who reads or resets it, and not in a branch or function of it."""
    now = _here()
    if now is not None:
        now.flush()


def _here() -> _Step | None:
    now = _now.get()
    return now if now is not None and now.is_here else None


def _device() -> str:
    """Return the device that ops are made for here, in words; "" where TensorFlow is to choose."""
    device: str = tf.constant(0.0).device  # no public name tells; unused, it is pruned from the graph
    return device
