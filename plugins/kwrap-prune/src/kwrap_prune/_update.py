"""An update of a pruned weight: its mask, computed anew when it is time, and zeros where it is pruned."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras

import kwrap
from kwrap_prune._schedules import Schedule, scheduled
from kwrap_prune._structures import highest

__all__ = ["Timing", "scores_of", "update_of_magnitudes", "updated"]


@dataclasses.dataclass(frozen=True)
class Timing:
    """A schedule, and the number of optimizer calls that are one of its steps."""

    schedule: Schedule | Callable[[Any], Any]
    every: int

    def at(self, calls: Any) -> tuple[Any, Any]:
        """Return whether masks are computed after so many calls, and the sparsity."""
        due, sparsity = scheduled(self.schedule, calls // self.every)
        return keras.ops.logical_and(due, keras.ops.equal(calls % self.every, 0)), sparsity

    @property
    def is_shared(self) -> bool:
        """Whether the copies that hooks have of a schedule are known to be equal: by value, or one function."""
        kind = type(self.schedule)
        by_value = kind.__eq__ is not object.__eq__ and kind.__hash__ is not None
        return by_value or not isinstance(self.schedule, Schedule)


def updated(timing: Timing, calls: Any, value: Any, mask: Any, kept: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Return the mask after so many optimizer calls, and `value` with zeros where it is pruned.

    `kept` returns a new mask, given the sparsity. NaN and infinite values stay, whatever it says.
    """
    due, sparsity = timing.at(calls)

    def computed() -> Any:
        return keras.ops.logical_or(kept(sparsity), keras.ops.logical_not(keras.ops.isfinite(value)))

    new = keras.ops.cond(due, computed, lambda: mask)
    return new, keras.ops.where(new, value, 0)


def scores_of(scores: Any, value: Any, mask: Any, regrow: bool) -> Any:
    """Return the scores with what is pruned as the lowest, unless it may regrow."""
    if regrow:
        return scores
    # An optimizer with momentum may have moved what is pruned.
    broken = keras.ops.logical_not(keras.ops.isfinite(value))
    return keras.ops.where(keras.ops.logical_or(mask, broken), scores, -float("inf"))


@functools.lru_cache(maxsize=32)
def update_of_magnitudes(timing: Timing, regrow: bool) -> kwrap.Kernel[..., tuple[Any, Any]]:
    """Return `updated` for single weights by their magnitude, as one trace for all layers whose options are equal."""

    def update(value: Any, mask: Any, calls: Any) -> tuple[Any, Any]:
        def kept(sparsity: Any) -> Any:
            return highest(scores_of(keras.ops.abs(value), value, mask, regrow), sparsity)

        return updated(timing, calls, value, mask, kept)

    kernel = kwrap.kernel(update)
    kernel.variant(jit_compile=True)(update)
    return kernel
