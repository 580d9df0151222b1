"""The hook of pruning."""

import operator
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import keras

import kwrap
from kwrap.errors import OptionValueError, TargetError
from kwrap_prune._criteria import Criterion, Magnitude
from kwrap_prune._metric import Sparsity
from kwrap_prune._schedules import ConstantSparsity, Schedule, scheduled
from kwrap_prune._structures import Blocks, Elements, Groups, Structure
from kwrap_prune._update import Timing, scores_of, update_of_magnitudes, updated

__all__ = ["NonFiniteWeightsWarning", "Prune"]

SparsitySchedule: TypeAlias = Schedule | Callable[[Any], Any]

MAGNITUDE = Magnitude()
_LAST_STEP = 2**31 - 1


class NonFiniteWeightsWarning(UserWarning):
    """Weights are NaN or infinite: pruning keeps them, whatever the sparsity."""


@kwrap.hook(layer_type=keras.layers.Layer)
class Prune(kwrap.Hook):
    """Set the weights of a layer that matter least to zero, on a schedule, and keep them there.

    Of a weight's n elements `round(sparsity * n)` are zero (half to even), but one always stays. A schedule that begins
    at step 0 prunes at once, when the model is wrapped. The mask is a bool, one byte an element, saved with the model.
    On a frozen layer nothing is updated, so the schedule does not advance. NaN and infinite weights are kept.

    Args:
        schedule: when masks are computed and how sparse they are: a `Schedule`, or a registered function from the step
            to the sparsity, computed at every step. Default: half at once, or what `n_m` asks for.
        block_size: prune blocks of (inputs, outputs) of the weight's matrix. Of the n blocks, `round(sparsity * n)` go.
        block_pooling: the score of a block: the mean ("AVG") or the maximum ("MAX") of its elements' scores.
        n_m: N:M sparsity: of each M weights that are consecutive along the inputs, N stay.
        criterion: what scores the weights.
        regrow: whether pruned weights have a gradient and may come back when masks are computed. They are zero all the
            same, after every step. tensorflow-model-optimization prunes so.
        gradient_accumulation_steps: the optimizer's, whose n-th calls only update the weights: steps then count these
            updates. Default: 1, and an error if the model's optimizer has another number.
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
        self.structure = self._structure(block_size, block_pooling, n_m)
        self.schedule = self._checked_schedule(schedule)
        if not isinstance(criterion, Criterion):
            raise self._wrong("criterion", criterion, "is no kwrap_prune.Criterion, such as Magnitude()")
        self.criterion = criterion
        self.regrow = regrow
        self.gradient_accumulation_steps = gradient_accumulation_steps
        if gradient_accumulation_steps is not None:
            self._checked_int("gradient_accumulation_steps", gradient_accumulation_steps)
        self.log_sparsity = log_sparsity

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
            self.criterion.add_target(target)
        if self.log_sparsity and self.target_weights:
            masks = [self.state(target, "mask") for target in self.target_weights]
            own = "" if self.name == self.hook_name else f"{self.name}_"
            self.sparsity = Sparsity(masks, name=f"{self.path}/{own}sparsity")

    def initialize(self, layer: keras.Layer) -> None:
        """Compute the masks of step 0, if the schedule begins there."""
        for target in self.target_weights:
            mask = self.state(target, "mask")
            value = keras.ops.convert_to_tensor(target.variable)
            if not keras.ops.all(keras.ops.isfinite(value)):
                warnings.warn(
                    f"hook {self.name!r} at {self.path!r}: {target.name!r} has NaN or infinite weights, which stay",
                    NonFiniteWeightsWarning,
                    stacklevel=2,
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
            return keras.ops.where(mask, value, 0)
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
            scores = scores_of(self.criterion.score(target, value), value, mask, self.regrow)
            sparsity = self.criterion.sparsity(target, scores, sparsity)
            return self.structure.kept(target, scores, sparsity)

        return updated(timing, calls, value, mask, kept)

    # --- options -------------------------------------------------------------------------------------------------

    def _structure(self, block_size: Any, pooling: Any, n_m: Any) -> Structure:
        if pooling not in ("AVG", "MAX"):
            raise self._wrong("block_pooling", pooling, "is not 'AVG' or 'MAX'")
        height, width = self._two_ints("block_size", block_size)
        if n_m is None:
            return Elements() if (height, width) == (1, 1) else Blocks(height, width, pooling)
        n, m = self._two_ints("n_m", n_m)
        if n >= m:
            raise self._wrong("n_m", n_m, f"prunes nothing: of each {m} weights, N have to be fewer than {m}")
        if (height, width) != (1, 1):
            raise self._wrong("n_m", n_m, f"contradicts block_size={tuple(block_size)}: one or the other")
        return Groups(n, m)

    def _checked_schedule(self, schedule: SparsitySchedule | None) -> SparsitySchedule:
        groups = self.structure if isinstance(self.structure, Groups) else None
        if schedule is None:
            return ConstantSparsity(1 - groups.n / groups.m if groups else 0.5, begin_step=0)
        if not callable(schedule):
            problem = "is no schedule, such as ConstantSparsity(0.5, begin_step=0) or PolynomialDecay(...)"
            raise self._wrong("schedule", schedule, problem)
        first, last = (float(scheduled(schedule, step)[1]) for step in (0, _LAST_STEP))
        for step, sparsity in ((0, first), (_LAST_STEP, last)):
            if not 0 <= sparsity < 1:
                raise self._wrong("schedule", schedule, f"gives sparsity {sparsity} at step {step}: not in [0, 1)")
        if groups and round(last * groups.m) != groups.m - groups.n:
            problem = f"ends at sparsity {last}, and n_m={(groups.n, groups.m)} at {1 - groups.n / groups.m}"
            raise self._wrong("schedule", schedule, problem)
        return schedule

    def _two_ints(self, option: str, value: Any) -> tuple[int, int]:
        try:
            first, second = value
        except (TypeError, ValueError):
            raise self._wrong(option, value, "is not two ints") from None
        return self._checked_int(option, first), self._checked_int(option, second)

    def _checked_int(self, option: str, value: Any) -> int:
        try:
            number = operator.index(value)
        except TypeError:
            raise self._wrong(option, value, "is not of ints") from None
        if number < 1:
            raise self._wrong(option, value, "is below 1")
        return number

    def _wrong(self, option: str, value: Any, problem: str) -> OptionValueError:
        return OptionValueError(self.hook_name, option, value, problem)
