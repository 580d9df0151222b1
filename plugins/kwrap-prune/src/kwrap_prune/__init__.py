"""Pruning for Keras 3 models, as a plugin of kwrap."""

from kwrap_prune._checks import kwrap_check_plan
from kwrap_prune._criteria import Criterion, Magnitude
from kwrap_prune._history import PruningHistory, PruningRecord
from kwrap_prune._hook import Prune
from kwrap_prune._lamp import lamp_sparsities
from kwrap_prune._report import Report, WeightReport, report
from kwrap_prune._schedules import ConstantSparsity, CosineDecay, PolynomialDecay, Schedule
from kwrap_prune._select import lowest, lowest_of_groups
from kwrap_prune._warnings import NonFiniteWeightsWarning, UnreachedSparsityWarning
from kwrap_prune.tfmot._layers import kwrap_weight_targets

__all__ = [
    "ConstantSparsity",
    "CosineDecay",
    "Criterion",
    "Magnitude",
    "NonFiniteWeightsWarning",
    "PolynomialDecay",
    "Prune",
    "PruningHistory",
    "PruningRecord",
    "Report",
    "Schedule",
    "UnreachedSparsityWarning",
    "WeightReport",
    "kwrap_check_plan",
    "kwrap_weight_targets",
    "lamp_sparsities",
    "lowest",
    "lowest_of_groups",
    "report",
]
