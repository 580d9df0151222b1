"""The rounding of a model is in what XLA compiles of it: StableHLO, which other tools read."""

import keras
import numpy as np
import tensorflow as tf

import kwrap
from kwrap_quantize import calibrate, quantize


def module_of(model, inputs):
    compiled = tf.function(lambda inputs: model(inputs, training=False), jit_compile=True)
    return compiled, compiled.experimental_get_compiler_ir(inputs)(stage="stablehlo")


def test_stablehlo_keeps_the_rounding():
    inputs = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="relu")])
    assert "stablehlo.floor" not in module_of(model, inputs)[1]
    quantize(model).apply()
    calibrate(model, inputs)
    expected = np.array(model(inputs, training=False))
    compiled, module = module_of(model, inputs)
    assert module.count("stablehlo.floor") >= 3  # inputs, kernel and outputs
    np.testing.assert_allclose(compiled(inputs), expected, atol=1e-6)
    kwrap.unwrap_model(model)
    assert "stablehlo.floor" not in module_of(model, inputs)[1]
