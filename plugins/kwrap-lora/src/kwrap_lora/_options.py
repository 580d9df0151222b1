"""The options of LoRA, checked; and whether they go with a weight."""

import math
from typing import Any

import keras

import kwrap
from kwrap.errors import OptionValueError

__all__ = [
    "checked_initializer",
    "matrix_shape",
    "rank_problem",
]

HOOK = "lora"


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
