import keras
import numpy as np
import pytest
from keras import layers
from sklearn.datasets import load_digits

import kwrap
from kwrap.errors import OptionValueError
from kwrap_quantize import FloatOperatorError, RangeNotSeenError, calibrate, quantize, to_litert

IMAGES, LABELS = load_digits(return_X_y=True)
IMAGES = (IMAGES.reshape(-1, 8, 8, 1) / 16).astype("float32")


def trained(model, images=IMAGES, epochs=1, **options):
    """Return the model, quantized and trained on digits for a moment."""
    keras.utils.set_random_seed(0)
    quantize(model, **options).apply()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(images[:1000], LABELS[:1000], epochs=epochs, batch_size=50, verbose=0)
    return model


def digits():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, use_bias=False, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.MaxPooling2D(name="pool"),
            layers.Flatten(name="flatten"),
            layers.Dense(32, activation="relu", name="hidden"),
            layers.Dense(10, name="logits"),
        ]
    )


@pytest.fixture(scope="module")
def model():
    return trained(digits(), epochs=3)


def test_all_operators_are_int8_and_the_file_agrees_with_keras(model, tmp_path):
    report = to_litert(model, tmp_path / "digits.tflite", strict=True, validate=IMAGES[1000:])
    assert report.counts == {
        "CONV_2D": {"int8": 1},
        "DEQUANTIZE": {"float32": 1},
        "FULLY_CONNECTED": {"int8": 2},
        "MAX_POOL_2D": {"int8": 1},
        "QUANTIZE": {"int8": 1},
        "RESHAPE": {"int8": 1},
    }
    assert report.left_in_float == ()
    assert {one.weights for one in report.operators if one.kind in ("CONV_2D", "FULLY_CONNECTED")} == {"int8"}
    assert report.size == (tmp_path / "digits.tflite").stat().st_size
    assert report.comparison.samples == len(IMAGES) - 1000
    assert report.comparison.agreement >= 0.999
    step = np.ptp(model.predict(IMAGES[1000:], verbose=0)) / 255
    assert report.comparison.largest_difference < 4 * step
