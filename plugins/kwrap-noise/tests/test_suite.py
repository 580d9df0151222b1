import keras
import numpy as np

import kwrap.testing
from kwrap_noise import DropConnect, DropPath, MonteCarloDropout, Noise, WeightNoise

INPUTS = np.random.default_rng(0).normal(size=(2, 3)).astype("float32")
# Two draws for so many samples are not the same by chance.
MANY = np.random.default_rng(1).normal(size=(32, 3)).astype("float32")
AS_IN_TRAINING = {
    "training_is_kept": "that the layer is told it trains is what the hook is for",
    "inference_is_repeatable": "it lets the layer draw, by the layer's own generator",
}
UNIFORM = {"distribution": "uniform", "multiplicative": True, "seed": 5}


def dense():
    return keras.layers.Dense(4, name="dense")


class TestNoise(kwrap.testing.HookSuite):
    examples = (
        (Noise(0.2, on="inputs", **UNIFORM), dense(), INPUTS),
        (Noise(phase="always"), dense(), INPUTS),
        (WeightNoise(0.2, phase="always", **UNIFORM), dense(), INPUTS),
        (DropConnect(0.3, seed=5), dense(), INPUTS),
        (DropPath(0.5, seed=5), dense(), MANY),
        kwrap.testing.Example(
            MonteCarloDropout(), keras.layers.Dropout(0.5, name="dropout"), MANY, skip=AS_IN_TRAINING
        ),
    )
    bad_options = (
        {"stddev": -0.1},
        {"stddev": float("nan")},
        {"stddev": "0.1"},
        {"stddev": None},
        {"stddev": [0.1]},
        {"stddev": True},
        {"distribution": "normal"},
        {"multiplicative": 1},
        {"on": "weights"},
        {"rate": 1.0},
        {"rate": -0.1},
        {"rate": float("nan")},
        {"seed": "1"},
    )
