"""What hooks emit during calls, and who collects it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import keras

from kwrap import _keras
from kwrap.errors import WrapperStateError

__all__ = ["Collector", "collecting", "emit"]


@dataclass(frozen=True, eq=False)
class Collector:
    """Gathers what hooks emit under one name: the values by the hook's path, in the order of the calls."""

    name: str
    paths: Mapping[int, str]  # by the id of the hook
    graph: Any  # that it was opened in; None: outside of any
    values: dict[str, list[Any]] = field(default_factory=dict)


# Of this thread and context: a model may be called in several at a time.
_collectors: ContextVar[tuple[Collector, ...]] = ContextVar("kwrap_collectors", default=())


@contextmanager
def collecting(collector: Collector) -> Iterator[None]:
    """Give to `collector` what is emitted meanwhile."""
    token = _collectors.set((*_collectors.get(), collector))
    try:
        yield
    finally:
        _collectors.reset(token)


def emit(hook: keras.Layer, name: str, value: Any) -> None:
    """Give `value` to those who collect `name` of `hook`.

    Raises:
        WrapperStateError: the value is inside a compiled function, which it cannot leave for who collects outside.
    """
    for collector in _collectors.get():
        path = collector.paths.get(id(hook))
        # Keras traces calls symbolically to learn shapes: these are no values.
        if collector.name != name or path is None or _keras.in_symbolic_scope():
            continue
        if _keras.current_graph() is not collector.graph:
            raise WrapperStateError(
                f"hook {hook.name!r} at {path!r} emits {name!r} inside a compiled function, or a branch or loop, "
                f"and it is collected outside, where its value does not exist. Open kwrap.collect(model, {name!r}) "
                "inside that function, around the call of the model; or run the function eagerly."
            )
        collector.values.setdefault(path, []).append(value)
