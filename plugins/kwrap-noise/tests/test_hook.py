import keras
import numpy as np
import pytest

import kwrap
from kwrap.errors import NoFloatingTensorsError, OptionValueError
from kwrap_noise import DropConnect, DropPath, MonteCarloDropout, Noise, WeightNoise

# Each hook with the option that says how much.
HOOKS = {Noise: 0.5, WeightNoise: 0.5, DropConnect: 0.5, DropPath: 0.5}


def wrapped_dense(*hooks: kwrap.Hook, units: int = 4, **options) -> kwrap.Wrapper:
    dense = keras.layers.Dense(units, name="dense", **options)
    dense.build((None, 3))
    return kwrap.Wrapper(dense, list(hooks))


def noise_of(wrapper: kwrap.Wrapper, x: np.ndarray) -> np.ndarray:
    """Return what the hooks add to the layer's outputs, in training."""
    return np.asarray(wrapper(x, training=True)) - np.asarray(wrapper.layer(x))


@pytest.mark.parametrize("hook", HOOKS)
def test_inference_is_the_layers_own_to_the_bit(hook):
    x = np.ones((5, 3), "float32")
    wrapper = wrapped_dense(hook(HOOKS[hook]))
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


@pytest.mark.parametrize("hook", HOOKS)
def test_a_seed_makes_noise_repeatable_and_still_differs_by_path(hook):
    def draw(name: str, seed: int) -> bytes:
        dense = keras.layers.Dense(4, name=name, kernel_initializer="ones")
        dense.build((None, 3))
        return noise_of(kwrap.Wrapper(dense, [hook(0.5, seed=seed)]), np.ones((20, 3), "float32")).tobytes()

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


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("policy", ["float16", "mixed_float16", "float64"])
def test_the_outputs_dtype_stays(hook, policy):
    x = np.ones((20, 3), "float32")
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
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    before = model.get_weights()
    kwrap.unwrap_model(kwrap.wrap_model(model, WeightNoise(0.5, phase=phase)))
    for value, weight in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(value, weight)


EVERY = {"seed": 7, "phase": "always", "targets": ["bias"], "name": "mine"}
NOISY = {"stddev": 0.3, "distribution": "uniform", "multiplicative": True}


@pytest.mark.parametrize(
    ("hook", "options"),
    [
        (Noise, {**NOISY, "on": "inputs"}),
        (WeightNoise, NOISY),
        (DropConnect, {"rate": 0.3}),
        (DropPath, {"rate": 0.3}),
    ],
)
def test_every_option_is_in_the_config(hook, options):
    expected = {**options, **EVERY}
    config = hook(**expected).get_config()
    assert hook.from_config(config).get_config() == config == expected
    assert hook().get_config().keys() == config.keys()


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


# --- against Keras' own layers ---------------------------------------------------------------------------------------


def like(hook: kwrap.Hook, layer: keras.layers.Layer) -> keras.layers.Layer:
    """Return `layer`, which draws next what the hook drew first."""
    layer.seed_generator.state.assign([hook.generator.get_config()["seed"], 0])
    return layer


@pytest.mark.parametrize("on", ["inputs", "outputs"])
@pytest.mark.parametrize("multiplicative", [False, True])
def test_gaussian_noise_is_that_of_keras_layers(on, multiplicative):
    x = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
    wrapper = wrapped_dense(Noise(0.5, on=on, multiplicative=multiplicative, seed=1))
    outputs = wrapper(x, training=True)
    # Keras' layer multiplies by noise of the deviation sqrt(rate / (1 - rate)).
    of_keras = keras.layers.GaussianDropout(0.2) if multiplicative else keras.layers.GaussianNoise(0.5)
    noise, dense = like(wrapper.hooks[0], of_keras), wrapper.layer
    expected = dense(noise(x, training=True)) if on == "inputs" else noise(dense(x), training=True)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)


def test_dropped_connections_are_what_keras_dropout_leaves_of_the_kernel():
    x = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
    wrapper = wrapped_dense(DropConnect(0.4, seed=1))
    outputs = wrapper(x, training=True)
    dropout = like(wrapper.hooks[0], keras.layers.Dropout(0.4))
    np.testing.assert_allclose(outputs, x @ dropout(wrapper.kernel.value, training=True), rtol=1e-5, atol=1e-6)


def test_connections_are_dropped_at_the_rate_and_the_others_scaled():
    wrapper = wrapped_dense(DropConnect(0.3), units=20_000, kernel_initializer="ones")
    kernel = np.asarray(wrapper(np.eye(3, dtype="float32"), training=True))
    kept = kernel != 0
    # 60,000 draws: four standard errors.
    assert abs(kept.mean() - 0.7) < 4 * np.sqrt(0.3 * 0.7 / kernel.size)
    np.testing.assert_allclose(kernel[kept], 1 / 0.7, rtol=1e-6)


def test_paths_are_dropped_for_whole_samples_at_the_rate_and_the_others_scaled():
    conv = keras.layers.Conv1D(4, 2)
    conv.build((None, 5, 3))
    x = np.random.default_rng(0).normal(size=(2000, 5, 3)).astype("float32")
    outputs = np.asarray(kwrap.Wrapper(conv, [DropPath(0.3)])(x, training=True))
    plain = np.asarray(conv(x))
    kept = np.any(outputs != 0, axis=(1, 2))
    assert abs(kept.mean() - 0.7) < 4 * np.sqrt(0.3 * 0.7 / 2000)
    np.testing.assert_allclose(outputs[kept], plain[kept] / 0.7, rtol=1e-5)
    np.testing.assert_array_equal(outputs[~kept], np.zeros_like(plain[~kept]))


def test_all_outputs_of_a_call_are_dropped_together_and_what_is_not_floating_stays():
    class Many(keras.layers.Layer):
        def call(self, inputs):
            return inputs, keras.ops.ones((keras.ops.shape(inputs)[0], 2, 2)), keras.ops.cast(inputs, "int32")

    first, second, third = kwrap.Wrapper(Many(), [DropPath(0.5)])(np.ones((50, 3), "float32"), training=True)
    np.testing.assert_array_equal(np.asarray(first)[:, 0], np.asarray(second)[:, 0, 0])
    assert set(np.asarray(first)[:, 0]) == {0, 2}
    np.testing.assert_array_equal(third, np.ones((50, 3)))


@pytest.mark.parametrize("hook", [Noise, WeightNoise])
def test_uniform_noise_has_the_given_deviation_and_its_bounds(hook):
    noise = noise_of(wrapped_dense(hook(0.5, distribution="uniform"), units=20_000), np.eye(3, dtype="float32"))
    end = np.sqrt(3) * 0.5
    assert 0.99 * end < np.abs(noise).max() <= end * (1 + 1e-5)
    # The fourth moment is 9/5 of the squared variance: the standard error of the deviation is 0.5 * sqrt(0.2 / n).
    assert abs(noise.mean()) < 4 * 0.5 / np.sqrt(noise.size)
    assert abs(noise.std() - 0.5) < 4 * 0.5 * np.sqrt(0.2 / noise.size)


def test_multiplicative_weight_noise_is_relative_to_each_weight():
    wrapper = wrapped_dense(WeightNoise(0.1, multiplicative=True), units=20_000)
    read = np.asarray(wrapper(np.eye(3, dtype="float32"), training=True))
    relative = read / np.asarray(wrapper.kernel) - 1
    assert abs(relative.mean()) < 4 * 0.1 / np.sqrt(relative.size)
    assert abs(relative.std() - 0.1) < 4 * 0.1 / np.sqrt(2 * relative.size)


def test_noise_on_the_inputs_of_a_masked_sequence_keeps_the_mask():
    lstm, x = keras.layers.LSTM(3), np.array([[1, 2, 0, 0]])
    embedding = keras.layers.Embedding(4, 3, mask_zero=True)
    model = keras.Sequential(
        [keras.Input((4,), dtype="int64"), embedding, kwrap.Wrapper(lstm, [Noise(0.0, on="inputs")])]
    )
    np.testing.assert_allclose(model(x, training=True), lstm(embedding(x)[:, :2]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("hook", "what"), [(Noise(on="inputs"), "inputs"), (Noise(), "outputs"), (DropPath(), "outputs")]
)
def test_a_layer_without_floating_tensors_is_an_error_before_anything_changes(hook, what):
    class Ids(keras.layers.Layer):
        def call(self, inputs):
            return inputs + 1

    inputs = keras.Input((4,), dtype="int32")
    model = keras.Model(inputs, keras.layers.Embedding(9, 3)(Ids(name="ids")(inputs)))
    with pytest.raises(NoFloatingTensorsError, match=f"'{hook.name}' at 'ids': .* layer's {what}. .*exclude="):
        kwrap.wrap_model(model, hook)
    assert not kwrap.find_hooks(model)


def test_dropout_that_is_only_kept_on_in_training_is_an_error():
    with pytest.raises(OptionValueError, match="monte_carlo_dropout: phase='training' would do nothing"):
        MonteCarloDropout(phase="training")


@pytest.mark.parametrize("stddev", [-0.1, float("nan"), True])
def test_a_deviation_that_cannot_be_is_an_error(stddev):
    with pytest.raises(OptionValueError, match=f"weight_noise: stddev={stddev} is not a finite number that"):
        WeightNoise(stddev)


@pytest.mark.parametrize("rate", [-0.1, 1, float("nan"), True])
@pytest.mark.parametrize("hook", [DropConnect, DropPath])
def test_a_rate_that_cannot_be_is_an_error(hook, rate):
    with pytest.raises(
        OptionValueError, match=f"{hook.hook_name}: rate={rate} is not a finite number that is at least 0"
    ):
        hook(rate)


def test_choices_that_are_not_there_are_errors_that_name_those_that_are():
    with pytest.raises(OptionValueError, match="noise: on='weights' is not 'outputs' or 'inputs'"):
        Noise(on="weights")
    with pytest.raises(OptionValueError, match="weight_noise: distribution='normal' is not 'gaussian' or 'uniform'"):
        WeightNoise(distribution="normal")
