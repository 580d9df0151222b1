import keras
import numpy as np

import kwrap.testing
from kwrap_quantize import QuantizeActivation, QuantizeBetween, QuantizeNormalization, QuantizeSteps

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(2, 3)).astype("float32")
IMAGES = RNG.normal(size=(2, 5, 5, 3)).astype("float32")
OPTIONS = {"range": "all_time", "decay": 0.5, "symmetric": True}


class TestHooksInside(kwrap.testing.HookSuite):
    examples = (
        (QuantizeActivation(6, **OPTIONS), keras.layers.Dense(4, activation="silu", name="dense"), ROWS),
        (QuantizeBetween(6, **OPTIONS), keras.layers.SeparableConv2D(4, 3, name="separable"), IMAGES),
        (QuantizeSteps(6, symmetric=True), keras.layers.Activation("hard_sigmoid", name="activation"), ROWS),
        (QuantizeNormalization(), keras.layers.BatchNormalization(name="norm"), IMAGES),
    )
    bad_options = ({"bits": 1}, {"range": "first"}, {"symmetric": 1})
