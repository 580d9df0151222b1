"""Pruning for Keras 3 models, as a plugin of kwrap."""

from kwrap_prune._checks import kwrap_check_plan
from kwrap_prune._criteria import Criterion, Magnitude
from kwrap_prune._hook import NonFiniteWeightsWarning, Prune
from kwrap_prune._schedules import ConstantSparsity, CosineDecay, PolynomialDecay, Schedule
from kwrap_prune._select import lowest

__all__ = [
    "ConstantSparsity",
    "CosineDecay",
    "Criterion",
    "Magnitude",
    "NonFiniteWeightsWarning",
    "PolynomialDecay",
    "Prune",
    "Schedule",
    "kwrap_check_plan",
    "lowest",
]
