"""What the options of the hooks may be: checked when a hook is made, before anything has changed."""

from typing import Any

from kwrap.errors import OptionValueError, listed
from kwrap.options import checked_int, checked_number

__all__ = ["checked_bits", "checked_range"]

KINDS = ("moving_average", "last", "all_time")


def checked_bits(owner: str, bits: Any, option: str = "bits") -> int:
    """Return `bits` as an int; raise if it is none from 2 to 16, as TensorFlow's ops take."""
    return checked_int(owner, option, bits, least=2, most=16)


def checked_range(owner: str, value: Any) -> str | tuple[float, float]:
    """Return the kind of a range, or a fixed one; raise if it is neither, or has no zero in it."""
    if isinstance(value, str) and value in KINDS:
        return value
    problem = f"is none of {listed(KINDS)}, nor (minimum, maximum) of finite numbers with zero between them"
    try:
        low, high = value if isinstance(value, list | tuple) else ()
        ends = checked_number(owner, "range", low, most=0), checked_number(owner, "range", high, least=0)
    except (TypeError, ValueError) as error:
        raise OptionValueError(owner, "range", value, problem) from error
    if ends[0] == ends[1]:
        raise OptionValueError(owner, "range", value, problem)
    return ends
