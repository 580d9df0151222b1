import keras
import numpy as np

import kwrap.testing
from kwrap_norm import SpectralNorm, UnitNorm, WeightNorm, WeightStandardization

GENERATOR = np.random.default_rng(0)
INPUTS = GENERATOR.normal(size=(2, 3)).astype("float32")
STEPS = GENERATOR.normal(size=(2, 5, 3)).astype("float32")


def dense():
    return keras.layers.Dense(4, activation="tanh", name="dense")


class TestNorm(kwrap.testing.HookSuite):
    examples = (
        (SpectralNorm(2), dense(), INPUTS),
        (SpectralNorm(2, project=True), keras.layers.Conv1D(4, 2, name="conv"), STEPS),
        (WeightNorm(targets="kernel"), dense(), INPUTS),
        (WeightStandardization(1e-3), keras.layers.Conv1D(4, 2, name="conv"), STEPS),
        (UnitNorm(), dense(), INPUTS),
    )
    bad_options = (
        {"power_iterations": 0},
        {"power_iterations": 1.5},
        {"project": "yes"},
        {"epsilon": 0},
        {"epsilon": float("nan")},
        {"epsilon": True},
    )
