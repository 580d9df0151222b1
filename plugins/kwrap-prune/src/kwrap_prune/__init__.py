"""Magnitude pruning for Keras 3 models, as a plugin of kwrap."""

from kwrap_prune._hook import Prune
from kwrap_prune._mask import smallest
from kwrap_prune._schedules import ConstantSparsity, PolynomialDecay, Schedule

__all__ = ["ConstantSparsity", "PolynomialDecay", "Prune", "Schedule", "smallest"]
