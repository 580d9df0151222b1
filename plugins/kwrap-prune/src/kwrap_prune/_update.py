"""An update of a pruned weight: its mask, computed anew when it is time, and zeros where it is pruned."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, get_args

import keras

import kwrap
from kwrap_prune._schedules import Schedule, Stepped, scheduled
from kwrap_prune._structures import highest

__all__ = ["Timing", "masked", "scores_of", "update_of_magnitudes", "updated"]


@dataclasses.dataclass(frozen=True)
class Timing:
    """A schedule, and the number of optimizer calls that are one of its steps."""

    schedule: Schedule | Callable[[Any], Any]
    every: int

    def at(self, calls: Any) -> tuple[Any, Any]:
        """Return whether masks are computed after so many calls, and the sparsity."""
        due, sparsity = scheduled(self.schedule, calls // self.every)
        # What a function gives at steps that nobody looked at is clipped: NaN is 0, too.
        sparsity = keras.ops.where(sparsity > 0, sparsity, 0.0)
        return keras.ops.logical_and(due, keras.ops.equal(calls % self.every, 0)), sparsity

    @property
    def is_shared(self) -> bool:
        """Whether equal schedules give equal sparsities for ever: one of the user's may read what changes."""
        return type(self.schedule) in get_args(Stepped)


def updated(
    timing: Timing, calls: Any, value: Any, mask: Any, kept: Callable[[Any], Any], regrow: bool
) -> tuple[Any, Any]:
    """Return the mask after so many optimizer calls, and `value` with zeros where it is pruned.

    `kept` returns a new mask, given the sparsity. NaN and infinite values stay, whatever it says: those of weights that
    are not pruned, or that may regrow.
    """
    due, sparsity = timing.at(calls)

    def computed() -> Any:
        broken = keras.ops.logical_not(keras.ops.isfinite(value))
        return keras.ops.logical_or(kept(sparsity), broken if regrow else keras.ops.logical_and(mask, broken))

    new = keras.ops.cond(due, computed, lambda: mask)
    return new, masked(value, new, regrow)


def masked(value: Any, mask: Any, regrow: bool) -> Any:
    """Return `value` with zeros where it is pruned, but for NaN and infinity in weights that may regrow."""
    return keras.ops.where(
        keras.ops.logical_or(mask, keras.ops.logical_not(keras.ops.isfinite(value))) if regrow else mask, value, 0
    )


def scores_of(scores: Any, mask: Any, regrow: bool) -> Any:
    """Return the scores with what is pruned as the lowest, unless it may regrow.

    An optimizer with momentum may have moved what is pruned.
    """
    return scores if regrow else keras.ops.where(mask, scores, -float("inf"))


@functools.lru_cache(maxsize=32)
def update_of_magnitudes(timing: Timing, regrow: bool) -> kwrap.Kernel[..., tuple[Any, Any]]:
    """Return `updated` for single weights by their magnitude, as one trace for all layers whose options are equal."""

    def update(value: Any, mask: Any, calls: Any) -> tuple[Any, Any]:
        def kept(sparsity: Any) -> Any:
            return highest(scores_of(keras.ops.abs(value), mask, regrow), sparsity)

        return updated(timing, calls, value, mask, kept, regrow)

    return kwrap.kernel(update)
