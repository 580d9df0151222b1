"""The sparsity of a layer as a metric, for `fit`'s logs."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras

__all__ = ["Sparsity"]


class Sparsity(keras.metrics.Metric):
    """The share of weights that masks set to zero, in [0, 1]; read from the masks, so that nothing is accumulated."""

    def __init__(self, masks: Sequence[keras.Variable], name: str) -> None:
        super().__init__(name=name)
        # In a function, as Keras tracks the variables in an attribute.
        self._masks: Callable[[], Sequence[keras.Variable]] = lambda: masks

    def update_state(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    def reset_state(self) -> None:
        """Do nothing."""

    def result(self) -> Any:
        """Return the sparsity now, a float32 scalar."""
        masks = self._masks()
        size = sum(math.prod(mask.shape) for mask in masks)
        kept = sum(keras.ops.count_nonzero(mask) for mask in masks)
        return keras.ops.cast(size - kept, "float32") / size
