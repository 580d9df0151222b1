"""The step of `fit` that goes on, where `ProbeSteps` tells probes whether to measure it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from kwrap_probe._watch import function_graph

__all__ = ["due_by_step", "step"]


class _Step(NamedTuple):
    due: Mapping[int, bool]
    graph: Any


_now: ContextVar[_Step | None] = ContextVar("_now", default=None)  # replicas are threads


@contextmanager
def step(due: Mapping[int, bool]) -> Iterator[None]:
    """Begin a step, of which is told by `every` whether probes measure it."""
    token = _now.set(_Step(due, function_graph()))
    try:
        yield
    finally:
        _now.reset(token)


def due_by_step(every: int) -> bool | None:
    """Return whether probes that have this `every` measure now; None: nobody tells.

    Nobody does in a tf.function of the program's own, which is traced once for all steps.
    """
    now = _now.get()
    return None if now is None or now.graph is not function_graph() else now.due.get(every)
