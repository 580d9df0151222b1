"""When a call is measured: one of so many, told by one addition and one comparison.

A call's turn is an int32 that overflows. Each call adds its share of a round, of 2**32; the calls that complete a round
are measured, and the first. The share is a bit less than one of so many, by the golden ratio, of which no multiple is
near to a whole number (Hurwitz, 1891): so of a layer that is called several times a step no call is left out for good.
"""

from typing import Any

__all__ = ["DUE", "GOLDEN", "START", "is_due", "next_turn"]

GOLDEN = (5**0.5 - 1) / 2
_ROUND = 2**32
START = _ROUND // 2 - 1  # before the first call, which completes a round
DUE = -_ROUND // 2  # of a call that is measured, one of however many


def next_turn(turn: Any, every: int) -> Any:
    """Return the turn of the call after one, an int32 scalar."""
    return turn + _share(every) % _ROUND


def is_due(turn: Any, every: int) -> Any:
    """Return whether the call whose turn it is is measured, a bool scalar."""
    return turn <= _share(every) - 1 - _ROUND // 2


def _share(every: int) -> int:
    return max(round(_ROUND / (every + min((every - 1) / 32, 1) * GOLDEN)), 1)
