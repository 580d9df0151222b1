"""The classical reparametrizations of weights for Keras 3 models, as a plugin of kwrap."""

from kwrap_norm._spectral import SpectralNorm
from kwrap_norm._weights import UnitNorm, WeightNorm, WeightStandardization

__all__ = ["SpectralNorm", "UnitNorm", "WeightNorm", "WeightStandardization"]
