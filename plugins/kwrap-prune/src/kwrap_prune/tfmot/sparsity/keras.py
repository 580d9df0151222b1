"""The names of `kwrap_prune.tfmot`, where tfmot has them."""

from kwrap_prune._schedules import ConstantSparsity, PolynomialDecay
from kwrap_prune.tfmot._callbacks import PruningSummaries, UpdatePruningStep
from kwrap_prune.tfmot._layers import PrunableLayer
from kwrap_prune.tfmot._policy import PruneForLatencyOnXNNPack, PruningPolicy
from kwrap_prune.tfmot._prune import prune_low_magnitude, prune_scope, strip_pruning
from kwrap_prune.tfmot._schedule import PruningSchedule

__all__ = [
    "ConstantSparsity",
    "PolynomialDecay",
    "PrunableLayer",
    "PruneForLatencyOnXNNPack",
    "PruningPolicy",
    "PruningSchedule",
    "PruningSummaries",
    "UpdatePruningStep",
    "prune_low_magnitude",
    "prune_scope",
    "strip_pruning",
]
