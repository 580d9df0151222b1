import keras
import numpy as np
import pytest
import tensorflow as tf

from kwrap_quantize._fake import learned, rounded, rounded_straight, usable_range

from .references import inside, on_grid, on_symmetric_grid

GENERATOR = np.random.default_rng(0)
VALUES = GENERATOR.normal(size=(64, 6)).astype("float32")


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize("ends", [(-1.3, 2.0), (0.0, 1.7), (-0.9, 0.0)])
def test_values_are_on_the_affine_grid_of_the_range(ends, bits):
    low, high = (tf.constant(end, tf.float32) for end in ends)
    received = rounded(tf.constant(VALUES), low, high, bits=bits)
    # In float32, of steps of up to 1/3: what is on the edge of a step may go either way.
    difference = np.abs(received - on_grid(VALUES, *ends, bits))
    assert np.mean(difference < 1e-5) > 0.99
    assert difference.max() < 1.01 * (ends[1] - ends[0]) / (2**bits - 1)
    assert len(np.unique(received)) <= 2**bits
    assert rounded(tf.zeros([1]), low, high, bits=bits)[0] == 0


def test_the_gradient_is_that_of_clipping_to_the_shifted_range():
    x = tf.constant(np.linspace(-2, 3, 501), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        result = tf.reduce_sum(rounded(x, tf.constant(-1.3), tf.constant(2.1), bits=4))
    np.testing.assert_array_equal(tape.gradient(result, x), inside(np.array(x), -1.3, 2.1, 4))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_dtypes_come_back_as_their_own(dtype):
    received = rounded(tf.cast(VALUES, dtype), tf.constant(-1.0), tf.constant(1.0), bits=4)
    assert received.dtype == dtype
    np.testing.assert_allclose(
        tf.cast(received, tf.float64), on_grid(tf.cast(tf.cast(VALUES, dtype), tf.float64), -1, 1, 4), rtol=0, atol=0.14
    )


@pytest.mark.parametrize("narrow", [True, False])
@pytest.mark.parametrize("bits", [2, 8, 16])
def test_weights_are_on_the_grid_of_their_own_largest(bits, narrow):
    received = rounded_straight(tf.constant(VALUES), bits=bits, narrow_range=narrow)
    np.testing.assert_allclose(received, on_symmetric_grid(VALUES, np.abs(VALUES).max(), bits, narrow), atol=1e-5)


def test_each_channel_has_a_range_of_its_own():
    values = VALUES * np.array([1, 10, 0.1, 1, 3, 0.5], "float32")
    received = rounded_straight(tf.constant(values), bits=4, per_channel=True)
    np.testing.assert_allclose(received, on_symmetric_grid(values, np.abs(values).max(0), 4), rtol=1e-5)
    received = rounded_straight(tf.constant(values), bits=4, per_channel=True, symmetric=False, narrow_range=False)
    np.testing.assert_allclose(received, on_grid(values, values.min(0), values.max(0), 4), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("per_channel", [True, False])
def test_zeros_stay_zero_and_channels_of_zeros_too(per_channel, symmetric):
    values = np.abs(VALUES) + 1
    values[::2, :3], values[:, 4] = 0, 0
    received = rounded_straight(tf.constant(values), bits=8, per_channel=per_channel, symmetric=symmetric)
    assert np.all(np.array(received)[values == 0] == 0)
    assert np.isfinite(received).all()
    zeros = rounded_straight(tf.zeros([3, 2]), bits=8, per_channel=per_channel, symmetric=symmetric)
    assert np.all(np.array(zeros) == 0)


def test_of_weights_all_gradients_go_through_those_of_the_extremes_too():
    values, upstream = tf.constant(VALUES), GENERATOR.normal(size=VALUES.shape).astype("float32")
    for options in ({}, {"per_channel": True}, {"symmetric": False, "narrow_range": False}):
        with tf.GradientTape() as tape:
            tape.watch(values)
            result = tf.reduce_sum(rounded_straight(values, bits=3, **options) * upstream)
        np.testing.assert_array_equal(tape.gradient(result, values), upstream)


@pytest.mark.parametrize("narrow", [True, False])
@pytest.mark.parametrize("per_channel", [True, False])
def test_learned_steps_have_the_gradients_of_the_paper(per_channel, narrow):
    most, least = 3, 3 + (not narrow)  # of 3 bits
    step = np.array([0.3, 0.2, 0.1, 0.4, 0.5, 0.7], "float32") if per_channel else np.float32(0.3)
    upstream = GENERATOR.normal(size=VALUES.shape)
    values, steps = tf.constant(VALUES), tf.constant(step)
    with tf.GradientTape() as tape:
        tape.watch([values, steps])
        result = learned(values, steps, bits=3, narrow_range=narrow)
        loss = tf.reduce_sum(result * tf.constant(upstream, tf.float32))
    of_values, of_steps = tape.gradient(loss, [values, steps])
    # Esser et al. 2020, equations 1 to 3 and section 2.2.
    v = VALUES.astype("float64") / step
    np.testing.assert_allclose(result, np.clip(np.round(v), -least, most) * step, atol=1e-6)
    slope = np.where(v <= -least, -least, np.where(v >= most, most, np.round(v) - v))
    axis = 0 if per_channel else None
    scale = 1 / np.sqrt((64 if per_channel else VALUES.size) * most)
    np.testing.assert_allclose(of_steps, np.sum(slope * upstream, axis) * scale, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(of_values, np.where((v > -least) & (v < most), upstream, 0), rtol=1e-6)


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_zero_is_the_middle_of_a_symmetric_grid(bits):
    for size in GENERATOR.uniform(0.01, 10, 20).astype("float32"):
        low, high = usable_range(tf.constant(-size / 3), tf.constant(size), bits, True)
        ends = rounded(tf.constant([-9 * size, 9 * size]), low, high, bits=bits)
        most = 2 ** (bits - 1) - 1
        np.testing.assert_allclose(ends, [-size * (most + 1) / most, size], rtol=1e-5)


def test_rows_of_an_embedding_that_are_not_looked_up_have_no_gradient():
    table = tf.Variable(VALUES)
    with tf.GradientTape() as tape:
        result = tf.reduce_sum(tf.gather(rounded_straight(tf.convert_to_tensor(table), bits=8), [1, 1, 5]))
    gradient = keras.ops.convert_to_numpy(tf.convert_to_tensor(tape.gradient(result, table)))
    assert sorted(np.unique(np.nonzero(gradient)[0])) == [1, 5]
