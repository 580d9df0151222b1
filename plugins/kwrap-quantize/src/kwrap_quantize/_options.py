"""What the options of the hooks may be: checked when a hook is made, before anything has changed."""

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from kwrap.errors import OptionValueError, listed

__all__ = [
    "checked_bits",
    "checked_bool",
    "checked_choice",
    "checked_count",
    "checked_decay",
    "checked_range",
    "number",
]

# What TensorFlow's ops take.
_BITS = (2, 16)
KINDS = ("moving_average", "last", "all_time")


def checked_bits(bits: Any, owner: str) -> int:
    """Return `bits` as an int; raise if it is none from 2 to 16."""
    count = _int(bits)
    if count is None or not _BITS[0] <= count <= _BITS[1]:
        raise OptionValueError(owner, "bits", bits, f"is not an int from {_BITS[0]} to {_BITS[1]}")
    return count


def checked_count(option: str, value: Any, owner: str, least: int = 1) -> int:
    """Return `value`, which may be NumPy's, as an int; raise if it is none, or below `least`."""
    count = _int(value)
    if count is None or count < least:
        raise OptionValueError(owner, option, value, f"is not an int of {least} or more")
    return count


def checked_bool(option: str, value: Any, owner: str) -> bool:
    """Return `value` as a bool; raise if it is none."""
    if not isinstance(value, bool | np.bool_):
        raise OptionValueError(owner, option, value, "is not True or False")
    return bool(value)


def checked_choice(option: str, value: Any, choices: Sequence[str], owner: str) -> str:
    """Return `value`; raise if it is none of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise OptionValueError(owner, option, value, f"is none of {listed(choices)}")
    return value


def checked_decay(decay: Any, owner: str) -> float:
    """Return `decay` as a float; raise if it is not from 0 to below 1."""
    share = number(decay)
    if share is None or not 0 <= share < 1:
        raise OptionValueError(owner, "decay", decay, "is not from 0 to below 1: the share of the old range that stays")
    return share


def checked_range(value: Any, owner: str) -> str | tuple[float, float]:
    """Return the kind of a range, or a fixed one; raise if it is neither, or has no zero in it."""
    if isinstance(value, str) and value in KINDS:
        return value
    ends = [number(end) for end in value] if isinstance(value, list | tuple) and len(value) == 2 else []
    low, high = ends if len(ends) == 2 else (None, None)
    if low is None or high is None or not low <= 0 <= high or not low < high:
        problem = f"is none of {listed(KINDS)}, nor (minimum, maximum) of finite numbers with zero between them"
        raise OptionValueError(owner, "range", value, problem)
    return low, high


def number(value: Any) -> float | None:
    """Return a finite number as a float; of all else None."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return None
    return float(value) if math.isfinite(value) else None


def _int(value: Any) -> int | None:
    if isinstance(value, bool | np.bool_):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None
