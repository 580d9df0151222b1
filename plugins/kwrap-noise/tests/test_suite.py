import keras
import numpy as np

import kwrap.testing
from kwrap_noise import Noise, WeightNoise

INPUTS = np.random.default_rng(0).normal(size=(2, 3)).astype("float32")


class TestNoise(kwrap.testing.HookSuite):
    examples = (
        (Noise(0.2, seed=5), keras.layers.Dense(4, name="dense"), INPUTS),
        (Noise(phase="always"), keras.layers.Dense(4, name="dense"), INPUTS),
        (WeightNoise(0.2, seed=5), keras.layers.Dense(4, name="dense"), INPUTS),
        (WeightNoise(phase="always"), keras.layers.Dense(4, name="dense"), INPUTS),
    )
    bad_options = ({"stddev": -0.1}, {"stddev": float("nan")})
