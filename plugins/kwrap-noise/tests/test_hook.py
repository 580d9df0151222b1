import keras
import numpy as np
import pytest

import kwrap
from kwrap.errors import OptionValueError
from kwrap_noise import Noise, WeightNoise


def wrapped_dense(*hooks: kwrap.Hook, units: int = 4, **options) -> kwrap.Wrapper:
    dense = keras.layers.Dense(units, name="dense", **options)
    dense.build((None, 3))
    return kwrap.Wrapper(dense, list(hooks))


def noise_of(wrapper: kwrap.Wrapper, x: np.ndarray) -> np.ndarray:
    """Return what the hooks add to the layer's outputs, in training."""
    return np.asarray(wrapper(x, training=True)) - np.asarray(wrapper.layer(x))


@pytest.mark.parametrize("hook", [Noise, WeightNoise])
def test_inference_is_the_layers_own_to_the_bit(hook):
    x = np.ones((5, 3), "float32")
    wrapper = wrapped_dense(hook(10.0))
    np.testing.assert_array_equal(wrapper(x), wrapper.layer(x))
    np.testing.assert_array_equal(wrapper(x, training=False), wrapper.layer(x))


def test_outputs_get_noise_of_mean_zero_and_the_given_deviation():
    noise = noise_of(wrapped_dense(Noise(0.5), units=200), np.ones((1000, 3), "float32"))
    # 200,000 draws: four standard errors of the mean, and of the deviation.
    assert abs(noise.mean()) < 4 * 0.5 / np.sqrt(noise.size)
    assert abs(noise.std() - 0.5) < 4 * 0.5 / np.sqrt(2 * noise.size)


def test_weights_get_noise_of_mean_zero_and_the_given_deviation_and_biases_none():
    identity = np.eye(3, dtype="float32")
    noise = noise_of(wrapped_dense(WeightNoise(0.5), units=20_000), identity)
    assert abs(noise.mean()) < 4 * 0.5 / np.sqrt(noise.size)
    assert abs(noise.std() - 0.5) < 4 * 0.5 / np.sqrt(2 * noise.size)
    zero = np.zeros((1, 3), "float32")
    np.testing.assert_array_equal(noise_of(wrapped_dense(WeightNoise(0.5)), zero), np.zeros((1, 4)))


def test_the_stored_weights_stay_without_noise():
    wrapper = wrapped_dense(WeightNoise(0.5))
    before = np.array(wrapper.kernel)
    wrapper(np.ones((1, 3), "float32"), training=True)
    np.testing.assert_array_equal(wrapper.kernel, before)


@pytest.mark.parametrize("hook", [Noise, WeightNoise])
def test_gradients_are_those_of_the_layer(hook):
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    model = keras.Sequential([keras.Input((3,)), wrapped_dense(hook(0.5))])
    plain = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    plain.set_weights([np.array(w) for w in model.layers[0].layer.weights])
    for each in (model, plain):
        # The sum of the outputs is linear in the kernel, so its gradient does not see the noise.
        each.compile(keras.optimizers.SGD(1.0), lambda _, outputs: keras.ops.sum(outputs))
        each.train_on_batch(x, np.zeros((5, 4)))
    np.testing.assert_allclose(model.layers[0].kernel, plain.layers[0].kernel, rtol=1e-5)


def test_noise_differs_between_calls_and_between_layers_of_one_instance():
    x = np.ones((2, 3), "float32")
    hook = Noise(0.5)
    first, second = (
        wrapped_dense(Noise.from_config(hook.get_config())),
        wrapped_dense(Noise.from_config(hook.get_config())),
    )
    draws = [noise_of(first, x), noise_of(first, x), noise_of(second, x)]
    assert len({each.tobytes() for each in draws}) == 3


@pytest.mark.parametrize("hook", [Noise, WeightNoise])
def test_a_seed_makes_noise_repeatable_and_still_differs_by_path(hook):
    def draw(name: str, seed: int) -> bytes:
        dense = keras.layers.Dense(4, name=name, kernel_initializer="ones")
        dense.build((None, 3))
        return noise_of(kwrap.Wrapper(dense, [hook(0.5, seed=seed)]), np.ones((2, 3), "float32")).tobytes()

    assert draw("a", 1) == draw("a", 1)
    assert len({draw("a", 1), draw("b", 1), draw("a", 2)}) == 3


def test_kernels_of_one_layer_get_different_noise():
    lstm = keras.layers.LSTM(3, kernel_initializer="zeros", recurrent_initializer="zeros", name="lstm")
    lstm.build((None, 2, 3))
    hook = WeightNoise(0.5)
    kwrap.Wrapper(lstm, [hook])
    kernel, recurrent = (hook.parametrize(each, each.variable.value, training=True) for each in hook.target_weights)
    assert kernel.shape == recurrent.shape
    assert not np.any(np.asarray(kernel) == np.asarray(recurrent))


@pytest.mark.parametrize("hook", [Noise, WeightNoise])
@pytest.mark.parametrize("policy", ["float16", "mixed_float16", "float64"])
def test_the_outputs_dtype_stays(hook, policy):
    x = np.ones((2, 3), "float32")
    wrapper = wrapped_dense(hook(0.5), dtype=policy)
    outputs = wrapper(x, training=True)
    assert outputs.dtype == wrapper.layer(x).dtype
    assert np.any(np.asarray(outputs) != np.asarray(wrapper.layer(x)))


def test_every_floating_output_gets_noise_and_others_stay():
    class Many(keras.layers.Layer):
        def call(self, inputs):
            return {"scores": inputs, "index": keras.ops.cast(inputs, "int32"), "more": [inputs]}

    x = np.ones((2, 3), "float32")
    outputs = kwrap.Wrapper(Many(), [Noise(0.5)])(x, training=True)
    np.testing.assert_array_equal(outputs["index"], np.ones((2, 3)))
    assert np.all(np.asarray(outputs["scores"]) != x)
    assert np.all(np.asarray(outputs["more"][0]) != x)


def test_phase_always_adds_noise_at_inference_too():
    x = np.ones((2, 3), "float32")
    wrapper = wrapped_dense(Noise(0.5, phase="always"))
    assert np.all(np.asarray(wrapper(x)) != np.asarray(wrapper.layer(x)))


@pytest.mark.parametrize("phase", ["training", "always"])
def test_unwrapping_leaves_the_weights_without_noise(phase):
    hook = WeightNoise(0.5, phase=phase)
    wrapper = wrapped_dense(hook)
    (target,) = hook.target_weights
    np.testing.assert_array_equal(hook.merge(target, wrapper.kernel.value), wrapper.kernel)


@pytest.mark.parametrize(("hook", "name"), [(Noise, "noise"), (WeightNoise, "weight_noise")])
def test_every_option_is_in_the_config(hook, name):
    assert hook(0.2).get_config() == {"stddev": 0.2, "seed": None, "phase": "training", "targets": None, "name": name}
    expected = {"stddev": 0.3, "seed": 7, "phase": "always", "targets": ["bias"], "name": "mine"}
    config = hook(0.3, seed=7, phase="always", targets=["bias"], name="mine").get_config()
    assert hook.from_config(config).get_config() == config == expected


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("hook", [Noise, WeightNoise])
def test_a_saved_model_comes_back_with_its_noise(hook, jit_compile, tmp_path):
    x = np.random.default_rng(0).normal(size=(32, 3)).astype("float32")
    model = keras.Sequential([keras.Input((3,)), kwrap.Wrapper(keras.layers.Dense(4), [hook(0.5)])])
    model.compile("sgd", "mse", jit_compile=jit_compile)
    model.fit(x, x[:, :1], epochs=2, verbose=0)
    model.save(tmp_path / "noisy.keras")
    loaded = keras.models.load_model(tmp_path / "noisy.keras")
    np.testing.assert_array_equal(loaded(x), model(x))
    assert loaded.layers[0].hooks[0].get_config() == model.layers[0].hooks[0].get_config()
    assert np.all(np.asarray(loaded(x, training=True)) != np.asarray(loaded(x)))


@pytest.mark.parametrize("stddev", [-0.1, float("nan")])
def test_a_deviation_that_cannot_be_is_an_error(stddev):
    with pytest.raises(OptionValueError, match=f"weight_noise: stddev={stddev} is not 0 or more"):
        WeightNoise(stddev)
