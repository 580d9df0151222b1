import keras
import numpy as np

import kwrap.testing
from kwrap_noise import DropConnect, DropPath, MonteCarloDropout, Noise, WeightNoise

INPUTS = np.random.default_rng(0).normal(size=(2, 3)).astype("float32")
UNIFORM = {"distribution": "uniform", "multiplicative": True, "seed": 5}


def dense():
    return keras.layers.Dense(4, name="dense")


class TestNoise(kwrap.testing.HookSuite):
    examples = (
        (Noise(0.2, on="inputs", **UNIFORM), dense(), INPUTS),
        (Noise(phase="always"), dense(), INPUTS),
        (WeightNoise(0.2, phase="always", **UNIFORM), dense(), INPUTS),
        (DropConnect(0.3, seed=5), dense(), INPUTS),
        (DropPath(0.3, seed=5, phase="always"), dense(), INPUTS),
        (MonteCarloDropout(), keras.layers.Dropout(0.5, name="dropout"), INPUTS),
    )
    bad_options = (
        {"stddev": -0.1},
        {"stddev": float("nan")},
        {"distribution": "normal"},
        {"multiplicative": 1},
        {"on": "weights"},
        {"rate": 1.0},
        {"rate": -0.1},
        {"rate": float("nan")},
        {"seed": "1"},
    )
