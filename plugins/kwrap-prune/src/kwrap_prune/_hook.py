"""The hook of magnitude pruning."""

import math
from typing import Any

import keras

import kwrap
from kwrap.errors import OptionValueError
from kwrap_prune._mask import smallest
from kwrap_prune._schedules import ConstantSparsity, Schedule

__all__ = ["Prune"]

HALF_AT_ONCE = ConstantSparsity(0.5, begin_step=0)


@kwrap.hook(layer_type=keras.layers.Layer)
class Prune(kwrap.Hook):
    """Set the smallest weights of a layer to zero, on a schedule, and keep them there.

    Of a weight's n elements `round(sparsity * n)` are zero (half to even), but one always stays. A schedule that begins
    at step 0 prunes at once, when the model is wrapped. Pruned weights have no gradient. The mask is a bool, one byte
    an element, saved with the model. On a frozen layer nothing is updated, so the schedule does not advance.
    """

    def __init__(self, schedule: Schedule = HALF_AT_ONCE, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(schedule, Schedule):
            problem = f"is no schedule, such as {HALF_AT_ONCE!r} or PolynomialDecay(...)"
            raise OptionValueError(self.hook_name, "schedule", schedule, problem)
        self.schedule = schedule

    def build(self, layer: keras.Layer) -> None:
        """Create a mask for each target, True where a weight is kept."""
        for target in self.target_weights:
            self.add_state(target, "mask", target.shape, dtype="bool", initializer="ones")

    def initialize(self, layer: keras.Layer) -> None:
        """Compute the masks of step 0, if the schedule begins there."""
        for target in self.target_weights:
            mask = self.state(target, "mask")
            value = keras.ops.convert_to_tensor(target.variable)
            mask.assign(self._mask_at(0, value, otherwise=keras.ops.ones_like(mask)))

    def parametrize(self, target: kwrap.WeightTarget, value: Any, *, training: Any) -> Any:
        """Return `value` with zeros where it is pruned, so that no gradient goes there."""
        return keras.ops.where(self.state(target, "mask"), value, 0)

    def constrain(self, target: kwrap.WeightTarget, value: Any, *, step: Any) -> Any:
        """Compute the mask anew at the schedule's steps, and return `value` with zeros where it is pruned."""
        mask = self.state(target, "mask")
        if step is not None:
            # Assigned outside the condition, as replicas cannot agree on a variable inside one.
            mask.assign(self._mask_at(step, value, otherwise=keras.ops.convert_to_tensor(mask)))
        return keras.ops.where(mask, value, 0)

    def _mask_at(self, step: Any, value: Any, *, otherwise: Any) -> Any:
        """Return the mask of `value` that the schedule has at `step`; if it has none there, `otherwise`."""
        due, sparsity = self.schedule(step)
        return keras.ops.cond(due, lambda: _kept(value, sparsity), lambda: otherwise)


def _kept(value: Any, sparsity: Any) -> Any:
    """Return a bool mask of `value`'s shape, False at its smallest elements."""
    size = math.prod(value.shape)
    count = keras.ops.minimum(keras.ops.round(size * keras.ops.cast(sparsity, "float64")), size - 1)
    pruned = smallest(keras.ops.reshape(value, (-1,)), keras.ops.cast(count, "int32"))
    return keras.ops.logical_not(keras.ops.reshape(pruned, value.shape))
