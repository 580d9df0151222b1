"""The hook of pruning."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras

import kwrap
from kwrap.errors import TargetError
from kwrap.options import checked_bool, checked_int
from kwrap_prune._criteria import Criterion, Magnitude, scored, shared
from kwrap_prune._metric import Sparsity
from kwrap_prune._options import (
    SparsitySchedule,
    checked_criterion,
    checked_schedule,
    checked_structure,
    copying,
)
from kwrap_prune._structures import Elements
from kwrap_prune._update import Timing, masked, scores_of, update_of_magnitudes, updated
from kwrap_prune._warnings import NonFiniteWeightsWarning, stacklevel

__all__ = ["Prune"]

MAGNITUDE = Magnitude()


@kwrap.hook(layer_type=keras.layers.Layer)
class Prune(kwrap.Hook):
    """Set the weights of a layer that matter least to zero, on a schedule, and keep them there.

    Of a weight's n elements `round(sparsity * n)` are zero (half to even), but one always stays. A schedule that begins
    at step 0 prunes at once, when the model is wrapped. The mask is a bool, one byte an element, saved with the model.
    On a frozen layer nothing is updated, so the schedule does not advance. NaN and infinite weights are kept;
    where weights may regrow, also those at the places of pruned ones.

    Args:
        schedule: when masks are computed and how sparse they are: a `Schedule`, or a registered function from the step
            to the sparsity, computed at every step. Default: half at once, or what `n_m` asks for. An
            `UnreachedSparsityWarning` is given if a decay does not reach its end.
        block_size: prune blocks of (inputs, outputs) of the weight's matrix. Of the n blocks, `round(sparsity * n)` go.
        block_pooling: the score of a block: the mean ("AVG") or the maximum ("MAX") of its elements' scores.
        n_m: N:M sparsity: of each M weights that are consecutive along the inputs, N stay.
        criterion: what scores the weights. Each layer's hook has a copy of its own.
        regrow: whether pruned weights have a gradient and may come back when masks are computed. They are zero all the
            same, after every step. tensorflow-model-optimization prunes so.
        gradient_accumulation_steps: the optimizer's, whose n-th calls only update the weights: steps then count these
            updates. Default: 1. To wrap a model that is compiled with an optimizer of another number is an error; of
            one that is compiled later, nobody asks, and steps are its calls.
        log_sparsity: whether the layer's sparsity is a metric of the model, named "<path>/sparsity", or, of a hook with
            a name of its own, "<path>/<name>_sparsity". Keras lists metrics of layers inside layers more than once in
            `model.metrics`; logs have each once.

    Raises:
        OptionValueError: an option has a value that it cannot have, or that contradicts another.
    """

    def __init__(
        self,
        schedule: SparsitySchedule | None = None,
        *,
        block_size: Sequence[int] = (1, 1),
        block_pooling: Literal["AVG", "MAX"] = "AVG",
        n_m: Sequence[int] | None = None,
        criterion: Criterion = MAGNITUDE,
        regrow: bool = False,
        gradient_accumulation_steps: int | None = None,
        log_sparsity: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.structure = checked_structure(block_size, block_pooling, n_m)
        self.schedule = checked_schedule(schedule, self.structure)
        self.criterion = checked_criterion(criterion)
        self.regrow = checked_bool(self.hook_name, "regrow", regrow)
        if gradient_accumulation_steps is not None:
            option = "gradient_accumulation_steps"
            gradient_accumulation_steps = checked_int(self.hook_name, option, gradient_accumulation_steps)
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self.log_sparsity = checked_bool(self.hook_name, "log_sparsity", log_sparsity)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> kwrap.Hook:
        """Return a hook of these options, as the copy for each layer, of which nothing is to be said again."""
        with copying():
            return super().from_config(config)

    def build(self, layer: keras.Layer) -> None:
        """Create a mask for each target, True where a weight is kept."""
        if not self.target_weights and layer.weights and not kwrap.weight_targets(layer):
            raise TargetError(
                f"hook {self.name!r} at {self.path!r}: nobody says which of its weights to prune. If they are those of "
                "layers that it holds, put the hook on these: kwrap.wrap_model(model, ...); else teach its class: "
                f"@kwrap.weight_targets.register({type(layer).__name__})"
            )
        for target in self.target_weights:
            if problem := self.structure.problem(target):
                raise TargetError(f"hook {self.name!r} at {self.path!r}: {problem}")
            self.add_state(target, "mask", target.shape, dtype="bool", initializer="ones")
        if self.log_sparsity and self.target_weights:
            masks = [self.state(target, "mask") for target in self.target_weights]
            own = "" if self.name == self.hook_name else f"{self.name}_"
            self.sparsity = Sparsity(masks, name=f"{self.path}/{own}sparsity")

    def initialize(self, layer: keras.Layer) -> None:
        """Compute the masks of step 0, if the schedule begins there."""
        for target in self.target_weights:
            mask = self.state(target, "mask")
            value = keras.ops.copy(target.variable.value)  # convert_to_tensor gives the variable, which 0 does not fit
            if not keras.ops.all(keras.ops.isfinite(value)):
                warnings.warn(
                    f"hook {self.name!r} at {self.path!r}: {target.name!r} has NaN or infinite weights, which stay",
                    NonFiniteWeightsWarning,
                    stacklevel=stacklevel(),
                )
            mask.assign(self._updated(0, target, value, keras.ops.ones_like(mask))[0])

    def parametrize(self, target: kwrap.WeightTarget, value: Any, *, training: Any) -> Any:
        """Return `value` with zeros where it is pruned; gradients go there only if weights may regrow."""
        pruned = value - keras.ops.stop_gradient(value) if self.regrow else 0
        return keras.ops.where(self.state(target, "mask"), value, pruned)

    def constrain(self, target: kwrap.WeightTarget, value: Any, *, step: Any) -> Any:
        """Compute the mask anew at the schedule's steps, and return `value` with zeros where it is pruned."""
        mask = self.state(target, "mask")
        if step is None:
            return masked(value, mask, self.regrow)
        kept, value = self._updated(step + 1, target, value, keras.ops.convert_to_tensor(mask))
        mask.assign(kept)  # here, and not where it is computed: replicas cannot agree on a variable inside a condition
        return value

    def _updated(self, calls: Any, target: kwrap.WeightTarget, value: Any, mask: Any) -> tuple[Any, Any]:
        """Return the mask after so many optimizer calls, and `value` with zeros where it is pruned."""
        timing = Timing(self.schedule, self.gradient_accumulation_steps or 1)
        if isinstance(self.structure, Elements) and self.criterion == MAGNITUDE and timing.is_shared:
            update = update_of_magnitudes(timing, self.regrow)
            flat = update(*(keras.ops.reshape(each, (-1,)) for each in (value, mask)), keras.ops.cast(calls, "int32"))
            return tuple(keras.ops.reshape(each, target.shape) for each in flat)

        def kept(sparsity: Any) -> Any:
            scores = scores_of(scored(self.criterion, target, value, self.path), mask, self.regrow)
            sparsity = shared(self.criterion, target, scores, sparsity, self.path)
            return self.structure.kept(target, scores, sparsity)

        return updated(timing, calls, value, mask, kept, self.regrow)
