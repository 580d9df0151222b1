"""The hooks of noise: on what a layer takes or gives, and on the weights that it reads."""

import math
from collections.abc import Callable
from typing import Any, Literal

import keras

import kwrap
from kwrap.options import checked_bool, checked_choice, checked_number
from kwrap_noise._drawing import Drawing, is_floating

__all__ = ["Noise", "WeightNoise"]


class _Noisy(Drawing):
    """Draw noise of mean 0 and a standard deviation."""

    def __init__(
        self,
        stddev: float = 0.1,
        *,
        distribution: Literal["gaussian", "uniform"] = "gaussian",
        multiplicative: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.stddev = checked_number(self.hook_name, "stddev", stddev, least=0, meaning="a standard deviation")
        self.distribution = checked_choice(self.hook_name, "distribution", distribution, ("gaussian", "uniform"))
        self.multiplicative = checked_bool(self.hook_name, "multiplicative", multiplicative)

    @property
    def draws(self) -> bool:
        """Whether the deviation is above 0."""
        return self.stddev > 0

    def _noisy(self, value: Any) -> Any:
        """Return `value` with noise of its own shape and dtype."""
        shape, dtype = keras.ops.shape(value), value.dtype
        if self.distribution == "gaussian":
            noise = keras.random.normal(shape, stddev=self.stddev, dtype=dtype, seed=self.generator)
        else:
            end = math.sqrt(3) * self.stddev  # the variance between -end and end is end² / 3
            noise = keras.random.uniform(shape, -end, end, dtype=dtype, seed=self.generator)
        return value * (1 + noise) if self.multiplicative else value + noise

    def _noisy_if_floating(self, value: Any) -> Any:
        return self._noisy(value) if is_floating(value) else value


@kwrap.hook(layer_type=keras.layers.Layer)
class Noise(_Noisy):
    """Add noise to all floating outputs of a layer, or to its inputs, in training only.

    Args:
        stddev: the noise's standard deviation, of either distribution.
        distribution: "gaussian"; or "uniform", between -√3 and √3 times `stddev`.
        multiplicative: multiply by 1 plus the noise, in the place of adding it.
        on: "outputs"; or "inputs", those that the layer takes first.
        seed: makes it repeatable; layers draw different noise all the same.
        phase: when it acts.

    Raises:
        OptionValueError: an option has a value that it cannot have.
        NoFloatingTensorsError: there is no floating tensor among what is to get noise.
    """

    def __init__(self, stddev: float = 0.1, *, on: Literal["outputs", "inputs"] = "outputs", **kwargs: Any) -> None:
        super().__init__(stddev, **kwargs)
        self.on = checked_choice(self.hook_name, "on", on, ("outputs", "inputs"))

    def call(self, call_next: Callable[..., Any], inputs: Any) -> Any:
        """Return the layer's outputs, with noise in them or of inputs with noise; what is not floating stays."""
        if self.on == "inputs":
            self.require_floating(inputs, "inputs")
            return call_next(keras.tree.map_structure(self._noisy_if_floating, inputs))
        outputs = call_next(inputs)
        self.require_floating(outputs, "outputs")
        return keras.tree.map_structure(self._noisy_if_floating, outputs)


@kwrap.hook(layer_type=keras.layers.Layer)
class WeightNoise(_Noisy):
    """Add noise to a layer's kernels and embeddings as it reads them, in training only.

    What is stored stays without noise.

    Args:
        stddev: the noise's standard deviation, of either distribution.
        distribution: "gaussian"; or "uniform", between -√3 and √3 times `stddev`.
        multiplicative: multiply by 1 plus the noise, in the place of adding it.
        seed: makes it repeatable; layers draw different noise all the same.
        phase: when it acts.

    Raises:
        OptionValueError: an option has a value that it cannot have.
    """

    def parametrize(self, target: kwrap.WeightTarget, value: Any, *, training: Any) -> Any:
        """Return `value` with noise."""
        return self._noisy(value)
