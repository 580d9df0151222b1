"""Noise, dropped connections and paths, and Monte-Carlo dropout for Keras 3 models, as a plugin of kwrap."""

from kwrap_noise._drop import DropConnect, DropPath, MonteCarloDropout
from kwrap_noise._errors import NothingRandomError
from kwrap_noise._hook import Noise, WeightNoise
from kwrap_noise._samples import Moments, Samples, predict_samples, sampling

__all__ = [
    "DropConnect",
    "DropPath",
    "Moments",
    "MonteCarloDropout",
    "Noise",
    "NothingRandomError",
    "Samples",
    "WeightNoise",
    "predict_samples",
    "sampling",
]
