import keras
import numpy as np
import pytest
from keras import layers

import kwrap
from kwrap.errors import HookCallError
from kwrap_quantize._normalization import QuantizeNormalization

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(4, 5, 5, 3)).astype("float32")


def norm(**options):
    layer = layers.BatchNormalization(**options)
    layer.build((None, 5, 5, 3))
    for weight in layer.weights:
        weight.assign(RNG.uniform(0.5, 2, weight.shape) * np.sign(RNG.normal(size=weight.shape)) ** 2)
    return layer


LAYERS = [
    norm(),
    norm(center=False, scale=False),
    layers.Rescaling(1 / 127.5, offset=-1),
    layers.Rescaling([1.0, -2.0, 3.0], offset=[0.1, 0.2, 0.3]),
    layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 5.0, 6.0]),
    layers.Normalization(mean=1.0, variance=4.0, axis=None),
    layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 5.0, 6.0], invert=True),
]


@pytest.mark.parametrize("layer", LAYERS)
def test_the_result_is_that_of_the_layer(layer):
    model = keras.Sequential([keras.Input((5, 5, 3)), layer])
    expected = model(IMAGES)
    kwrap.wrap_model(model, QuantizeNormalization(), where=type(layer))
    assert np.allclose(model(IMAGES), expected, atol=1e-5)


NOT_LAST = [
    layers.BatchNormalization(axis=1),
    layers.Normalization(mean=1.0, variance=4.0, axis=2),
    layers.Normalization(mean=1.0, variance=4.0, axis=(2, 3)),
    layers.Rescaling(np.ones((5, 1))),
]


@pytest.mark.parametrize("layer", NOT_LAST)
def test_another_axis_than_the_last_is_an_error(layer):
    model = keras.Sequential([keras.Input((5, 5, 3)), layer])
    with pytest.raises(HookCallError, match="normalizes another axis than the last"):
        kwrap.wrap_model(model, QuantizeNormalization(), where=type(layer))


def test_in_training_the_layer_normalizes_the_batch_itself():
    layer = layers.BatchNormalization()
    model = kwrap.wrap_model(
        keras.Sequential([keras.Input((5, 5, 3)), layer]), QuantizeNormalization(), where=type(layer)
    )
    outputs = model(IMAGES, training=True)
    assert np.allclose(np.mean(outputs, (0, 1, 2)), 0, atol=1e-5)
    assert np.allclose(layer.moving_mean, 0.01 * IMAGES.mean((0, 1, 2)), atol=1e-6)
