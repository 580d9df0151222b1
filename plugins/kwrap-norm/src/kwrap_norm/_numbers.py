"""What the hooks share: dtypes wide enough to sum in, and norms over a weight's inputs."""

from collections.abc import Sequence
from typing import Any

import keras

import kwrap
from kwrap.errors import OptionValueError, TargetError

__all__ = ["require_always", "require_inputs", "rounding", "wide", "wide_dtype"]


def wide_dtype(dtype: str) -> str:
    """Return the dtype to compute in: squares of 16-bit floats overflow, and their sums lose digits."""
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def wide(target: kwrap.WeightTarget, value: Any) -> Any:
    """Return `value` as a tensor of at least 32 bits."""
    return keras.ops.cast(value, wide_dtype(target.dtype))


def rounding(dtype: str) -> float:
    """Return how far the norm of a weight may be from 1, by rounding, that was divided by its norm."""
    return {"float16": 2e-3, "bfloat16": 2e-2, "float64": 1e-14}.get(dtype, 2e-6)


def require_inputs(hook: kwrap.Hook, targets: Sequence[kwrap.WeightTarget]) -> None:
    """Raise unless each target has input axes.

    Raises:
        TargetError: one has none, as a bias: a norm over its inputs is that of single numbers.
    """
    for target in targets:
        if not target.input_axes:
            raise TargetError(
                f"hook {hook.name!r} at {hook.path!r}: {target.name!r} of shape {target.shape} has no input axes to "
                "take a norm over; name others, or none: targets=..."
            )


def require_always(hook: kwrap.Hook) -> None:
    """Raise if `phase` is set where it would do nothing.

    Raises:
        OptionValueError: it is not "always".
    """
    if hook.phase != "always":
        problem = "would do nothing: the hook acts on what is stored, which has no phases"
        raise OptionValueError(hook.hook_name, "phase", hook.phase, problem)
