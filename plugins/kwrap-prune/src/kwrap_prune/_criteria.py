"""What decides which weights go: the criterion."""

import abc
import dataclasses
from typing import Any

import keras

import kwrap

__all__ = ["Criterion", "Magnitude"]


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

    def add_target(self, target: kwrap.WeightTarget) -> None:  # noqa: B027 - most criteria need none
        """Take note of a target that will be scored: for a criterion that looks at several layers."""

    def sparsity(self, target: kwrap.WeightTarget, scores: Any, sparsity: Any) -> Any:
        """Return the share of this target's elements to prune, a float64 in [0, 1]; `sparsity` is the schedule's.

        With a threshold for several layers, as of global pruning, a layer's share is that of its scores below it.
        """
        return sparsity

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of `__init__`: here, the fields of a dataclass."""
        return dict(vars(self))

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Criterion":
        """Return the criterion with the arguments of `config`."""
        return cls(**config)


@keras.saving.register_keras_serializable(package="kwrap_prune")
@dataclasses.dataclass(frozen=True)
class Magnitude(Criterion):
    """|w|: Han et al., https://arxiv.org/abs/1506.02626."""

    def score(self, target: kwrap.WeightTarget, value: Any) -> Any:
        """Return the absolute values."""
        return keras.ops.abs(value)
