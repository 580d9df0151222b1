"""The options of LoRA, checked; and whether they go with a weight."""

import math
import numbers
from typing import Any

import keras

import kwrap
from kwrap.errors import OptionValueError

__all__ = [
    "checked_alpha",
    "checked_bool",
    "checked_dropout",
    "checked_initializer",
    "checked_rank",
    "is_number",
    "matrix_shape",
    "rank_problem",
]

HOOK = "lora"
_LARGEST = 3.4e38


def checked_rank(rank: Any) -> int:
    """Return the rank; raise OptionValueError unless it is a whole number from 1 on."""
    if isinstance(rank, bool) or not isinstance(rank, numbers.Integral) or rank < 1:
        raise OptionValueError(HOOK, "rank", rank, "is not a whole number from 1 on")
    return int(rank)


def checked_alpha(alpha: Any) -> float | None:
    """Return alpha; raise OptionValueError unless it is a finite number above 0, or None."""
    if alpha is not None and not (is_number(alpha) and alpha > 0):
        raise OptionValueError(
            HOOK, "alpha", alpha, "is not a finite number above 0, nor None, which stands for the rank"
        )
    return None if alpha is None else float(alpha)


def checked_dropout(dropout: Any) -> float:
    """Return the rate; raise OptionValueError unless it is in [0, 1)."""
    if not (is_number(dropout) and 0 <= dropout < 1):
        raise OptionValueError(HOOK, "dropout", dropout, "is not in [0, 1): it is the share of inputs that are dropped")
    return float(dropout)


def checked_bool(option: str, value: Any) -> bool:
    """Return the value; raise OptionValueError unless it is True or False."""
    if not isinstance(value, bool):
        raise OptionValueError(HOOK, option, value, "is neither True nor False")
    return value


def checked_initializer(option: str, value: Any) -> keras.initializers.Initializer:
    """Return the initializer that a name or a Keras initializer stands for; raise OptionValueError for others."""
    problem = "is neither the name of an initializer nor a keras.initializers.Initializer"
    try:
        initializer = keras.initializers.get(value)
    except (TypeError, ValueError) as error:
        raise OptionValueError(HOOK, option, value, problem) from error
    if not isinstance(initializer, keras.initializers.Initializer):
        raise OptionValueError(HOOK, option, value, problem)
    return initializer


def is_number(value: Any) -> bool:
    """Tell whether a value is a number that float32 holds; neither NaN nor infinite."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    size: Any = abs(value)
    return bool(size <= _LARGEST)


def matrix_shape(target: kwrap.WeightTarget) -> tuple[int, int]:
    """Return the shape (inputs, outputs) of a weight's matrix."""
    inputs = math.prod(target.shape[axis] for axis in target.input_axes)
    return inputs, math.prod(size for axis, size in enumerate(target.shape) if axis not in target.input_axes)


def rank_problem(rank: int, target: kwrap.WeightTarget) -> str | None:
    """Return what speaks against matrices of this rank beside a weight: more than its own has nothing to add."""
    inputs, outputs = matrix_shape(target)
    most = min(inputs, outputs)
    if rank <= most:
        return None
    return f"rank {rank} is above {most}, the most that the {inputs} x {outputs} matrix of {target.name!r} has"
