"""Gaussian noise on the outputs or weights of a Keras 3 model's layers, as a plugin of kwrap."""

from kwrap_noise._hook import Noise, WeightNoise

__all__ = ["Noise", "WeightNoise"]
