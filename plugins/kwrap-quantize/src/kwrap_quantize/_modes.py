"""What hooks do for a moment in the place of rounding: nothing, while others look; or rounding for a converter."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import kwrap

__all__ = ["Observer", "constant_ranges", "observed", "observer", "ranges_are_constants"]

# Called with a hook and its floating tensors.
Observer = Callable[[kwrap.Hook, Sequence[Any]], None]

_observer: ContextVar[Observer | None] = ContextVar("kwrap_quantize_observer", default=None)
_constants: ContextVar[bool] = ContextVar("kwrap_quantize_constants", default=False)


def observer() -> Observer | None:
    """Return who looks at tensors, if anybody does; then nothing is rounded."""
    return _observer.get()


def ranges_are_constants() -> bool:
    """Tell whether ranges go into graphs as constants."""
    return _constants.get()


@contextmanager
def observed(look: Observer) -> Iterator[None]:
    """Inside the context, hooks give their tensors to `look`, and nothing is rounded, neither weights."""
    token = _observer.set(look)
    try:
        yield
    finally:
        _observer.reset(token)


@contextmanager
def constant_ranges() -> Iterator[None]:
    """Inside the context, graphs that are traced have the ranges of activations as constants, as of now.

    For a converter, which reads ranges off the graph. Ranges have to be seen, see `require_ranges`.
    """
    token = _constants.set(True)
    try:
        yield
    finally:
        _constants.reset(token)
