"""What decides which weights go: the criterion."""

import abc
import dataclasses
from typing import Any

import keras
import tensorflow as tf

import kwrap
from kwrap.errors import OptionValueError

__all__ = ["Criterion", "Magnitude", "scored", "shared"]


class Criterion(abc.ABC):
    """Scores weights: those with the lowest scores are pruned.

    For a criterion of one's own: a class with a `score`, and a `get_config` that gives the arguments of `__init__`,
    registered by `keras.saving.register_keras_serializable`, so that it is saved with the model.
    """

    @abc.abstractmethod
    def score(self, target: kwrap.WeightTarget, value: Any) -> Any:
        """Return how much each element of `value` matters: a tensor of its shape, of any floating dtype.

        `value` is the target's, as the optimizer left it. Called where masks are computed, also inside a graph. Scores
        may be negative; a NaN counts as the highest.
        """

    def sparsity(self, target: kwrap.WeightTarget, scores: Any, sparsity: Any) -> Any:
        """Return the share of this target's elements to prune, a float64 in [0, 1]; `sparsity` is the schedule's.

        With a threshold for several layers, as of global pruning, a layer's share is that of its scores below it. Each
        layer's hook has a copy of the criterion: docs/pruning.md shows how one learns of the other layers.
        """
        return sparsity

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of `__init__`: here, the fields of a dataclass."""
        return dict(vars(self))

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Criterion":
        """Return the criterion with the arguments of `config`."""
        return cls(**config)


def scored(criterion: Criterion, target: kwrap.WeightTarget, value: Any, path: str | None) -> Any:
    """Return the criterion's scores, checked, also inside a graph: one for each element, and floating.

    Raises:
        OptionValueError: they are not.
    """
    scores = criterion.score(target, value)
    try:
        scores = keras.ops.convert_to_tensor(scores)
    except (TypeError, ValueError) as error:
        raise _wrong(criterion, f"returned {scores!r}, which is no tensor, for {target.name!r} at {path!r}") from error
    dtype = keras.backend.standardize_dtype(scores.dtype)
    if scores.shape != target.shape or not keras.backend.is_float_dtype(dtype):
        problem = f"returned scores of dtype {dtype} and shape {scores.shape} for {target.name!r} at {path!r}"
        raise _wrong(criterion, f"{problem}: there has to be a float for each element, of shape {target.shape}")
    return scores


def shared(criterion: Criterion, target: kwrap.WeightTarget, scores: Any, sparsity: Any, path: str | None) -> Any:
    """Return the share of the target to prune, a float64 of no shape.

    Inside a graph its value is not known: what is below 0, or NaN, is 0 then, and the structures clip what is above 1.

    Raises:
        OptionValueError: it is no number, or, where its value is known, not in [0, 1].
    """
    share = criterion.sparsity(target, scores, sparsity)
    try:
        share = keras.ops.convert_to_tensor(share, "float64")
        known = float(share) if share.shape == () and tf.executing_eagerly() else 0.0
    except (TypeError, ValueError) as error:
        raise _wrong(criterion, f"gave {target.name!r} at {path!r} the sparsity {share!r}, no number") from error
    if share.shape != ():
        raise _wrong(criterion, f"gave {target.name!r} at {path!r} sparsities of shape {tuple(share.shape)}, not one")
    if not 0 <= known <= 1:
        raise _wrong(criterion, f"gave {target.name!r} at {path!r} the sparsity {known}: not in [0, 1]")
    return keras.ops.where(share > 0, share, 0.0)


def _wrong(criterion: Criterion, problem: str) -> OptionValueError:
    return OptionValueError("prune", "criterion", criterion, problem)


@keras.saving.register_keras_serializable(package="kwrap_prune")
@dataclasses.dataclass(frozen=True)
class Magnitude(Criterion):
    """|w|: Han et al., https://arxiv.org/abs/1506.02626."""

    def score(self, target: kwrap.WeightTarget, value: Any) -> Any:
        """Return the absolute values."""
        return keras.ops.abs(value)
