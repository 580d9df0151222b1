"""The names of tensorflow-model-optimization's pruning, with its signatures, on Keras 3.

A script for tfmot works with `import kwrap_prune.tfmot as tfmot` for `import tensorflow_model_optimization as tfmot`.
The page "From tfmot to kwrap-prune" tells what differs.
"""

from kwrap_prune.tfmot import sparsity
from kwrap_prune.tfmot.sparsity.keras import (
    ConstantSparsity,
    PolynomialDecay,
    PrunableLayer,
    PruneForLatencyOnXNNPack,
    PruningPolicy,
    PruningSchedule,
    PruningSummaries,
    UpdatePruningStep,
    prune_low_magnitude,
    prune_scope,
    strip_pruning,
)

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
    "sparsity",
    "strip_pruning",
]
