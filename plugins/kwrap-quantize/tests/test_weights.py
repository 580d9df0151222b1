import keras
import numpy as np
import pytest
import tensorflow as tf

import kwrap
from kwrap.errors import OptionValueError, TargetError
from kwrap_quantize import QuantizeWeights, ranges

from .references import on_symmetric_grid

GENERATOR = np.random.default_rng(0)


def built(layer, *shape):
    """Return a built layer, of weights that a generator draws."""
    layer.build((2, *shape))
    for variable in layer.weights:
        variable.assign(GENERATOR.normal(size=variable.shape))
    return layer


def read(layer, hook):
    """Return what the hook leaves in the weights of a layer, and what was in them, by name."""
    model = keras.Sequential([layer])
    before = {variable.name: np.array(variable) for variable in layer.weights}
    kwrap.wrap_model(model, hook)
    kwrap.unwrap_model(model)
    return {variable.name: np.array(variable) for variable in layer.weights}, before


@pytest.mark.parametrize(
    ("layer", "shape", "name", "axes"),
    [
        (keras.layers.Dense(3), (4,), "kernel", None),
        (keras.layers.Embedding(5, 3), (4,), "embeddings", None),
        (keras.layers.EinsumDense("abc,cde->abde", (None, 2, 3)), (3, 4), "kernel", None),
        # As LiteRT's converter takes them.
        (keras.layers.Conv1D(3, 2), (5, 2), "kernel", None),
        (keras.layers.DepthwiseConv1D(2), (5, 2), "kernel", None),
        (keras.layers.SeparableConv1D(3, 2), (5, 2), "pointwise_kernel", None),
        (keras.layers.Conv2D(3, 2), (5, 5, 2), "kernel", (0, 1, 2)),
        (keras.layers.Conv3D(3, 2), (5, 5, 5, 2), "kernel", (0, 1, 2, 3)),
        (keras.layers.Conv2DTranspose(3, 2), (5, 5, 2), "kernel", None),
        (keras.layers.DepthwiseConv2D(2, depth_multiplier=2), (5, 5, 3), "kernel", (0, 1)),
        (keras.layers.SeparableConv2D(3, 2), (5, 5, 2), "depthwise_kernel", (0, 1)),
        (keras.layers.SeparableConv2D(3, 2), (5, 5, 2), "pointwise_kernel", (0, 1, 2)),
    ],
)
def test_convolutions_have_a_range_for_each_channel_and_others_one(layer, shape, name, axes):
    after, before = read(built(layer, *shape), QuantizeWeights(4))
    largest = np.abs(before[name]).max(axes, keepdims=True)
    np.testing.assert_allclose(after[name], on_symmetric_grid(before[name], largest, 4), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("layer", [keras.layers.LSTM(2), keras.layers.GRU(2)])
def test_kernels_of_recurrent_layers_are_rounded(layer):
    after, before = read(built(layer, 3, 4), QuantizeWeights(4))
    for name in ("kernel", "recurrent_kernel"):
        expected = on_symmetric_grid(before[name], np.abs(before[name]).max(), 4)
        np.testing.assert_allclose(after[name], expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(after["bias"], before["bias"])


def test_projections_of_an_attention_are_rounded():
    attention = keras.layers.MultiHeadAttention(2, 3, name="attention")
    inputs = keras.Input((4, 6))
    model = kwrap.wrap_model(keras.Model(inputs, attention(inputs, inputs)), QuantizeWeights(4))
    assert {path for path, _ in kwrap.find_hooks(model)} == {
        f"attention/{name}" for name in ("query", "key", "value", "attention_output")
    }
    kwrap.unwrap_model(model)
    kernel = np.array(attention.query_dense.kernel)
    assert len(np.unique(kernel)) <= 15


def test_rounding_again_what_is_on_the_grid_changes_nothing():
    after, _ = read(layer := built(keras.layers.Conv2D(3, 2), 5, 5, 2), QuantizeWeights())
    again, _ = read(layer, QuantizeWeights())
    np.testing.assert_allclose(again["kernel"], after["kernel"], rtol=1e-6)


def test_a_layer_computes_with_the_rounded_weights_and_trains_those_in_float():
    layer = built(keras.layers.Dense(3), 4)
    kernel, inputs = np.array(layer.kernel), GENERATOR.normal(size=(2, 4)).astype("float32")
    wrapper = kwrap.Wrapper(layer, [QuantizeWeights(3)])
    rounded = on_symmetric_grid(kernel, np.abs(kernel).max(), 3)
    for training in (False, True):
        np.testing.assert_allclose(wrapper(inputs, training=training), inputs @ rounded + layer.bias, rtol=1e-5)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(wrapper(inputs, training=True))
    gradient = tape.gradient(loss, layer.kernel.value)
    np.testing.assert_allclose(gradient, inputs.sum(0)[:, None] * np.ones(3), rtol=1e-5)
    np.testing.assert_array_equal(layer.kernel, kernel)


def test_steps_that_are_learned_begin_at_what_the_paper_says_and_move():
    layer = built(keras.layers.Conv1D(3, 2), 5, 2)
    kernel = np.array(layer.kernel)
    kernel[0, 0] = 0  # of pruned weights nothing is learned
    layer.kernel.assign(kernel)
    wrapper = kwrap.Wrapper(layer, [QuantizeWeights(4, per_channel=True, method="learned")])
    inputs = GENERATOR.normal(size=(2, 5, 2)).astype("float32")
    wrapper(inputs)
    (steps,) = wrapper.hooks[0].trainable_variables
    first = 2 * np.abs(kernel).sum((0, 1)) / np.count_nonzero(kernel, (0, 1)) / np.sqrt(7)
    np.testing.assert_allclose(steps, first, rtol=1e-5)
    model = keras.Sequential([wrapper])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(inputs, np.ones((2, 4, 3)), verbose=0)
    assert not np.any(np.array(steps) == first)
    values = np.array(wrapper.kernel)
    step = np.array(steps)
    kwrap.unwrap_model(model)
    np.testing.assert_allclose(layer.kernel, np.clip(np.round(values / step), -7, 7) * step, rtol=1e-5)


def test_a_weight_without_channels_has_none():
    layer = built(keras.layers.Dense(3), 4)
    with pytest.raises(TargetError, match="'bias' has no output channels"):
        kwrap.Wrapper(layer, [QuantizeWeights(per_channel=True, targets="bias")])(np.ones((1, 4)))
    after, before = read(layer, QuantizeWeights(4, targets="bias"))
    expected = on_symmetric_grid(before["bias"], np.abs(before["bias"]).max(), 4)
    np.testing.assert_allclose(after["bias"], expected, rtol=1e-5)
    np.testing.assert_array_equal(after["kernel"], before["kernel"])


def test_a_layer_that_nobody_taught_is_refused_with_the_way_out():
    class Scale(keras.layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=(shape[-1],))

        def call(self, inputs):
            return inputs * self.scale

    wrapper = kwrap.Wrapper(Scale(name="scale"), [QuantizeWeights()])
    with pytest.raises(TargetError, match="nobody says which of its weights to round"):
        wrapper(np.ones((1, 3)))


def test_one_step_around_zero_is_all_that_is_learned():
    with pytest.raises(OptionValueError, match="symmetric=False is at odds with"):
        QuantizeWeights(method="learned", symmetric=False)


def test_their_ranges_are_told():
    model = keras.Sequential([built(keras.layers.Conv2D(3, 2, name="conv"), 5, 5, 2)])
    kernel = np.array(model.layers[0].kernel)
    kwrap.wrap_model(model, QuantizeWeights(5))
    (told,) = ranges(model).tensors
    assert (told.path, told.of, told.bits, told.channels, told.state) == ("conv", "kernel", 5, 3, "of weights")
    assert told.maximum == -told.minimum == np.abs(kernel).max()
