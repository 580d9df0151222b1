import keras
import numpy as np
import pytest
from keras import layers

import kwrap
from kwrap_quantize._between import QuantizeBetween

IMAGES = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype("float32")
LAYERS = [
    (layers.SeparableConv2D(4, 3, padding="same", activation="relu", bias_initializer="ones"), IMAGES),
    (layers.SeparableConv2D(4, 3, strides=2, use_bias=False, depth_multiplier=2), IMAGES),
    (layers.SeparableConv1D(4, 3, dilation_rate=2, bias_initializer="ones"), IMAGES[:, 0]),
]


@pytest.mark.parametrize(("layer", "inputs"), LAYERS)
def test_the_two_convolutions_give_what_the_layer_gives_but_for_rounding(layer, inputs):
    model = keras.Sequential([keras.Input(inputs.shape[1:]), layer])
    expected = model(inputs)
    kwrap.wrap_model(model, QuantizeBetween(16, range=(-20.0, 20.0)))
    assert np.allclose(model(inputs), expected, atol=2e-3)


def test_what_is_between_them_is_on_the_grid():
    layer = layers.SeparableConv2D(3, 1, use_bias=False)
    model = keras.Sequential([keras.Input((6, 6, 3)), layer])
    layer.pointwise_kernel.assign(np.eye(3)[None, None])
    depthwise = IMAGES * layer.depthwise_kernel.numpy()[0, 0, :, 0]
    kwrap.wrap_model(model, QuantizeBetween(2, range=(-1.0, 2.0)))
    assert np.allclose(model(IMAGES), np.clip(np.round(depthwise), -1, 2), atol=1e-6)
