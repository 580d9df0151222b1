"""The hooks of Gaussian noise: on what a layer gives, and on what it reads."""

import zlib
from collections.abc import Callable
from typing import Any, Literal

import keras

import kwrap
from kwrap.errors import OptionValueError

__all__ = ["Noise", "WeightNoise"]


class _GaussianNoise(kwrap.Hook):
    """Draw Gaussian noise.

    Layers draw independently of each other. With a `seed`, what a layer draws follows from the seed, its path and the
    hook's name, and is the same in every run; without, from Keras' global seed (`keras.utils.set_random_seed`).
    """

    def __init__(
        self,
        stddev: float = 0.1,
        *,
        seed: int | None = None,
        phase: Literal["always", "training", "inference"] = "training",
        **kwargs: Any,
    ) -> None:
        super().__init__(phase=phase, **kwargs)
        if not stddev >= 0:
            raise OptionValueError(self.hook_name, "stddev", stddev, "is not 0 or more: it is a standard deviation")
        self.stddev = stddev
        self.seed = seed

    def build(self, layer: keras.Layer) -> None:
        """Create the random generator; as with Keras' own layers, its state is not saved with the model."""
        own = None if self.seed is None else zlib.crc32(f"{self.seed} {self.path} {self.name}".encode())
        self.generator = keras.random.SeedGenerator(own)

    def _noisy(self, value: Any) -> Any:
        """Return `value` with noise of its own shape and dtype added."""
        noise = keras.random.normal(keras.ops.shape(value), stddev=self.stddev, dtype=value.dtype, seed=self.generator)
        return value + noise


@kwrap.hook(layer_type=keras.layers.Layer)
class Noise(_GaussianNoise):
    """Add Gaussian noise to all floating outputs of a layer, in training only.

    `stddev` is the noise's standard deviation, `seed` makes it repeatable.
    """

    def call(self, call_next: Callable[..., Any], inputs: Any) -> Any:
        """Return the layer's outputs with noise; what is not floating stays."""
        return keras.tree.map_structure(self._noisy_if_floating, call_next(inputs))

    def _noisy_if_floating(self, output: Any) -> Any:
        floating = keras.backend.is_float_dtype(keras.backend.standardize_dtype(output.dtype))
        return self._noisy(output) if floating else output


@kwrap.hook(layer_type=keras.layers.Layer)
class WeightNoise(_GaussianNoise):
    """Add Gaussian noise to a layer's kernels and embeddings as it reads them, in training only.

    What is stored stays without noise. `stddev` is the noise's standard deviation, `seed` makes it repeatable.
    """

    def parametrize(self, target: kwrap.WeightTarget, value: Any, *, training: Any) -> Any:
        """Return `value` with noise."""
        return self._noisy(value)

    def merge(self, target: kwrap.WeightTarget, value: Any) -> Any:
        """Return `value` itself, also with `phase="always"`: no single draw is to stay in the weights."""
        return value
