"""Checks of option values, for `__init__` of a hook: what is wrong is told before anything has changed.

Each check returns the value as a plain Python one, so that NumPy's scalars can be saved, or raises an
`OptionValueError` that names the owner, the option and the value, and says what it may be::

    class Blur(kwrap.Hook):
        def __init__(self, radius: int = 1, *, share: float = 0.5, **kwargs):
            super().__init__(**kwargs)
            self.radius = checked_int(self.hook_name, "radius", radius)
            self.share = checked_number(self.hook_name, "share", share, least=0, below=1)
"""

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from kwrap.errors import OptionValueError

__all__ = ["checked_bool", "checked_choice", "checked_int", "checked_number"]

_LARGEST = float(np.finfo("float32").max)  # kernels compute in float32, where more is infinite


def checked_bool(owner: str, option: str, value: Any) -> bool:
    """Return `value` as a bool.

    Args:
        owner: whose option it is, for the error: a hook's or a function's name.
        option: its name.
        value: what was given: True or False, or NumPy's.

    Raises:
        OptionValueError: it is neither.
    """
    if not isinstance(value, bool | np.bool_):
        raise OptionValueError(owner, option, value, "is not True or False")
    return bool(value)


def checked_int(owner: str, option: str, value: Any, *, least: int | None = 1, most: int | None = None) -> int:
    """Return `value` as an int.

    Args:
        owner: whose option it is, for the error.
        option: its name.
        value: what was given: an int, or NumPy's. Neither True nor 2.0 is one.
        least: the least that it may be; None: any.
        most: the most that it may be; None: any.

    Raises:
        OptionValueError: it is no int, or out of bounds.
    """
    problem = f"is not an int{_bounds(least, None, most, None)}"
    try:
        number = operator.index(value)
    except TypeError as error:
        raise OptionValueError(owner, option, value, problem) from error
    too_small, too_large = least is not None and number < least, most is not None and number > most
    if isinstance(value, bool | np.bool_) or too_small or too_large:
        raise OptionValueError(owner, option, value, problem)
    return number


def checked_number(
    owner: str,
    option: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    meaning: str = "",
) -> float:
    """Return `value` as a float.

    Args:
        owner: whose option it is, for the error.
        option: its name.
        value: what was given: an int or a float, or NumPy's, that is finite in float32.
        least: the least that it may be, or
        above: what it has to be above; None: any.
        most: the most that it may be, or
        below: what it has to be below; None: any.
        meaning: what the number is, for the error: "the share that is dropped".

    Raises:
        OptionValueError: it is no finite number, or out of bounds.
    """
    number = _float(value)
    in_bounds = (
        abs(number) <= _LARGEST  # NaN is not
        and (least is None or number >= least)
        and (above is None or number > above)
        and (most is None or number <= most)
        and (below is None or number < below)
    )
    if not in_bounds:
        problem = f"is not a finite number{_bounds(least, above, most, below)}"
        raise OptionValueError(owner, option, value, f"{problem}: {meaning}" if meaning else problem)
    return number


def checked_choice(owner: str, option: str, value: Any, choices: Sequence[str]) -> str:
    """Return `value`, which is one of a few names.

    Args:
        owner: whose option it is, for the error.
        option: its name.
        value: what was given.
        choices: what it may be: strings.

    Raises:
        OptionValueError: it is none of them.
    """
    for choice in choices:
        if isinstance(value, str) and value == choice:
            return choice
    *others, last = map(repr, choices)
    names = f"{', '.join(others)} or {last}" if others else last
    raise OptionValueError(owner, option, value, f"is not {names}")


def _float(value: Any) -> float:
    """Return a number as a float, infinite if it is too large for one; of all else NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _bounds(least: float | None, above: float | None, most: float | None, below: float | None) -> str:
    bounds = {"at least": least, "above": above, "at most": most, "below": below}
    words = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)
    return f" that is {words}" if words else ""
