import keras
import numpy as np
import pytest
from keras import layers

import kwrap
from kwrap.errors import HookCallError
from kwrap_quantize import QuantizeActivation
from kwrap_quantize._activation import QuantizeSteps, fixed_range, is_rounded_before

VALUES = np.linspace(-7, 7, 60, dtype="float32").reshape(4, 15)


def grid(values, low, high, bits=8):
    """Return values on TensorFlow's grid, of a range whose zero is on it."""
    step = (high - low) / (2**bits - 1)
    return np.round((np.clip(values, low, high) - low) / step) * step + low


def sigmoid(values):
    return 1 / (1 + np.exp(-values.astype("float64")))


def wrapped(layer, *hooks, shape=(15,)):
    return kwrap.wrap_model(keras.Sequential([keras.Input(shape), layer]), list(hooks), where=layer.name)


REFERENCES = {
    "silu": lambda values: values * grid(sigmoid(values), 0, 255 / 256),
    "hard_sigmoid": lambda values: grid(np.clip(values + 3, 0, 6), 0, 6) / 6,
    "tanh": np.tanh,
}


@pytest.mark.parametrize("name", REFERENCES)
def test_activations_are_rounded_between_their_operators(name):
    model = wrapped(layers.Activation(name, name="activation"), QuantizeSteps())
    assert np.allclose(model(VALUES), REFERENCES[name](VALUES), atol=1e-5)


@pytest.mark.parametrize("name", REFERENCES)
def test_what_a_layer_gives_its_own_activation_is_rounded(name):
    layer = layers.Dense(15, activation=name, use_bias=False, kernel_initializer="identity", name="dense")
    model = wrapped(layer, QuantizeActivation(range=(-4.0, 4.0 * 127 / 128)))
    expected = REFERENCES[name](grid(VALUES, -4.0, 4.0 * 127 / 128))
    assert np.allclose(model(VALUES), expected, atol=1e-5)
    # Only for the time of its call.
    assert layer.activation is keras.activations.get(name)


def test_the_sums_of_a_transposed_convolution_are_rounded_before_its_relu():
    # LiteRT's operator clips nothing.
    assert is_rounded_before(layers.Conv2DTranspose(2, 3, activation="relu"))
    assert not is_rounded_before(layers.Conv2DTranspose(2, 3))
    assert not is_rounded_before(layers.Conv2D(2, 3, activation="relu"))


def test_the_range_before_the_activation_moves_in_training():
    layer = layers.Dense(15, activation="softmax", use_bias=False, kernel_initializer="identity", name="dense")
    model = wrapped(layer, QuantizeActivation())
    model(VALUES, training=True)
    ((_, hook),) = kwrap.find_hooks(model, "quantize_activation")
    assert [hook.minimum.numpy(), hook.maximum.numpy()] == [[-7.0], [7.0]]


def test_an_activation_that_is_a_layer_is_kept_as_it_is():
    inner = layers.LeakyReLU(0.1, name="inner")
    layer = layers.Dense(15, activation=inner, name="dense")
    model = wrapped(layer, QuantizeActivation(range=(-9.0, 9.0)))
    weights = [weight.path for weight in model.weights]
    model(VALUES)
    assert layer.activation is inner
    assert [weight.path for weight in model.weights] == weights


def test_a_layer_without_an_activation_is_an_error():
    layer = layers.Dense(3, name="dense")
    layer.activation = None
    with pytest.raises(HookCallError, match="has no activation to round before"):
        wrapped(layer, QuantizeActivation())


@pytest.mark.parametrize(
    ("name", "bits", "symmetric", "expected"),
    [
        ("softmax", 8, False, (0, 255 / 256)),
        ("sigmoid", 16, True, (-1, 32767 / 32768)),
        ("tanh", 8, False, (-1, 127 / 128)),
        ("silu", 8, False, None),
    ],
)
def test_fixed_ranges_are_those_of_litert(name, bits, symmetric, expected):
    assert fixed_range(name, bits, symmetric) == expected
