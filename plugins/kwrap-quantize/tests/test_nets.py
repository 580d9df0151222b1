"""Small nets with the blocks of large ones: all operators are int8, and the file agrees with Keras."""

import keras
import numpy as np
import pytest
from keras import layers

import kwrap
from kwrap_quantize import calibrate, quantize, ranges, to_litert

IMAGES = np.random.default_rng(0).uniform(0, 255, size=(64, 12, 12, 3)).astype("float32")
# No rounding of floats is that of integers: now and then a number comes out one step off, and what is made of it more.
STEPS = 4


def squeeze_and_excite():
    """Return inverted residuals as in MobileNetV3 and EfficientNet, behind a Rescaling and a Normalization."""
    inputs = keras.Input((12, 12, 3))
    hidden = layers.Rescaling(1 / 255)(inputs)
    hidden = layers.Normalization(mean=[0.4, 0.5, 0.6], variance=[0.1, 0.2, 0.3])(hidden)
    hidden = layers.ZeroPadding2D(((0, 1), (0, 1)))(hidden)
    hidden = layers.Conv2D(8, 3, strides=2, use_bias=False)(hidden)
    stem = layers.Activation("silu")(layers.BatchNormalization()(hidden))
    hidden = layers.Activation("hard_silu")(layers.BatchNormalization()(layers.Conv2D(16, 1)(stem)))
    hidden = layers.ReLU(6.0)(layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same")(hidden)))
    squeezed = layers.GlobalAveragePooling2D(keepdims=True)(hidden)
    squeezed = layers.Conv2D(4, 1, activation="silu")(squeezed)
    left = layers.Conv2D(16, 1, activation="sigmoid")(squeezed)
    right = layers.ReLU(6.0)(layers.Conv2D(16, 1)(squeezed) + 3.0) * (1 / 6)
    hidden = layers.Multiply()([layers.Multiply()([hidden, left]), right])
    hidden = layers.BatchNormalization()(layers.Conv2D(8, 1)(hidden))
    hidden = layers.Add()([layers.Dropout(0.2)(hidden), stem])
    return keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(hidden)))


def preactivated():
    """Return a residual as in ResNetV2, a separable and a transposed convolution, and what is joined."""
    inputs = keras.Input((12, 12, 3))
    stem = layers.Conv2D(6, 3, strides=2, padding="same")(inputs)
    hidden = layers.ReLU()(layers.BatchNormalization()(stem))
    hidden = layers.BatchNormalization()(layers.SeparableConv2D(6, 3, padding="same")(hidden))
    stem = layers.Add()([stem, hidden])
    hidden = layers.ReLU()(layers.BatchNormalization()(layers.Conv2DTranspose(6, 2, strides=2)(stem)))
    hidden = layers.Concatenate()(
        [layers.MaxPooling2D()(hidden), layers.Conv2DTranspose(4, 1, activation="relu")(stem)]
    )
    hidden = layers.AveragePooling2D(2)(layers.LeakyReLU(0.1)(hidden))
    hidden = layers.ReLU()(layers.BatchNormalization()(layers.Dense(8)(layers.Flatten()(hidden))))
    return keras.Model(inputs, layers.Dense(4, activation="softmax")(hidden))


def one_dimensional():
    inputs = keras.Input((12, 12, 3))
    hidden = layers.Reshape((144, 3))(inputs)
    hidden = layers.ReLU()(layers.BatchNormalization()(layers.Conv1D(4, 3, padding="same")(hidden)))
    hidden = layers.MaxPooling1D()(layers.SeparableConv1D(4, 3, activation="tanh", bias_initializer="ones")(hidden))
    return keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling1D()(hidden)))


@pytest.mark.parametrize("make", [squeeze_and_excite, preactivated, one_dimensional])
def test_blocks_of_large_nets_are_int8_throughout(make, tmp_path):
    keras.utils.set_random_seed(0)
    model = make()
    model(IMAGES, training=True)
    quantize(model, strict=True).apply()
    calibrate(model, IMAGES)
    report = to_litert(model, tmp_path / "net.tflite", strict=True, validate=IMAGES)
    assert {dtype for dtypes in report.counts.values() for dtype in dtypes} == {"int8", "float32"}
    assert report.counts["DEQUANTIZE"] == {"float32": 1}
    step = max(one.step for one in ranges(model).tensors if one.path == model.layers[-1].name and one.of == "outputs")
    assert report.comparison.largest_difference < (STEPS + 0.5) * step


def test_a_backbone_of_keras_hub_is_rounded_in_its_weights_and_runs(tmp_path):
    from keras_hub import models

    backbone = models.BertBackbone(
        vocabulary_size=12, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=12, max_sequence_length=6
    )
    kwrap.wrap_model(backbone, "quantize_weights")
    data = {
        "token_ids": np.arange(12).reshape(2, 6),
        "padding_mask": np.ones((2, 6), "int32"),
        "segment_ids": np.zeros((2, 6), "int32"),
    }
    hooks = kwrap.find_hooks(backbone, "quantize_weights")
    assert {path.split("/")[-1] for path, _ in hooks} >= {"query", "key", "value", "token_embedding"}
    report = to_litert(backbone, tmp_path / "bert.tflite", validate=data)
    assert report.left_in_float
    assert report.comparison.largest_difference < 1e-4
