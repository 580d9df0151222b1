import keras
import numpy as np
import pytest
from keras import layers

import kwrap
from kwrap.errors import OptionValueError
from kwrap_noise import (
    DropConnect,
    DropPath,
    MonteCarloDropout,
    Noise,
    NothingRandomError,
    WeightNoise,
    predict_samples,
    sampling,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 3)).astype("float32")
TOKENS = RNG.normal(size=(2, 5, 4)).astype("float32")


def network(*last: layers.Layer) -> keras.Model:
    keras.utils.set_random_seed(0)
    hidden = layers.Dense(6, activation="relu", name="hidden")
    return keras.Sequential([keras.Input((3,)), hidden, *last, layers.Dense(2, name="outputs")])


def values(model: keras.Model) -> list[np.ndarray]:
    return [np.array(variable) for variable in model.variables]


def test_mean_and_spread_are_those_of_the_samples():
    mean, spread, samples = predict_samples(network(layers.Dropout(0.5)), X, 7, return_samples=True, batch_size=2)
    assert samples.shape == (7, 4, 2)
    assert mean.dtype == spread.dtype == samples.dtype == "float32"
    np.testing.assert_allclose(mean, samples.mean(axis=0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(spread, samples.std(axis=0), rtol=1e-4, atol=1e-7)
    assert len({sample.tobytes() for sample in samples}) == 7
    assert predict_samples(network(layers.Dropout(0.5)), X, 2)._fields == ("mean", "spread")


def test_the_spread_of_dropout_is_that_of_the_formula():
    """Of y = sum w x m / (1 - p), with m of Bernoulli(1 - p), the variance is p / (1 - p) sum (w x)^2."""
    model = keras.Sequential([keras.Input((3,)), layers.Dropout(0.4), layers.Dense(1, use_bias=False)])
    x = np.tile(X[:1], (6000, 1))  # each row is a draw of its own
    mean, _, samples = predict_samples(model, x, 2, return_samples=True, batch_size=6000)
    terms = X[0] * np.asarray(model.layers[-1].kernel)[:, 0]
    expected = np.sqrt(0.4 / 0.6 * np.sum(terms**2))
    assert mean.mean() == pytest.approx(terms.sum(), abs=4 * expected / np.sqrt(12_000))
    assert samples.std() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("hook", [Noise(0.5), WeightNoise(0.5), DropConnect(0.5), DropPath(0.5)])
def test_hooks_of_this_plugin_draw_although_they_are_for_training(hook):
    model = kwrap.wrap_model(network(), hook, where="hidden")
    _, spread = predict_samples(model, X, 4)
    assert np.all(spread > 0)
    np.testing.assert_array_equal(model.predict(X, verbose=0), model.predict(X, verbose=0))


RANDOM = {
    "gaussian noise": lambda x: layers.GaussianNoise(0.5)(x),
    "gaussian dropout": lambda x: layers.GaussianDropout(0.5)(x),
    "alpha dropout": lambda x: layers.AlphaDropout(0.5)(x),
    "spatial dropout": lambda x: layers.SpatialDropout1D(0.5)(x),
    "attention": lambda x: layers.MultiHeadAttention(2, 2, dropout=0.5)(x, x),
    "attention alone": lambda x: layers.Attention(dropout=0.5)([x, x]),
    "additive attention": lambda x: layers.AdditiveAttention(dropout=0.5)([x, x]),
    "grouped attention": lambda x: layers.GroupQueryAttention(2, 2, 1, dropout=0.5)(x, x),
    "recurrent": lambda x: layers.LSTM(6, dropout=0.5)(x),
    "cell": lambda x: layers.RNN(layers.LSTMCell(6, dropout=0.5))(x),
    "cells": lambda x: layers.RNN([layers.GRUCell(3), layers.GRUCell(6, recurrent_dropout=0.5)])(x),
    "convolution": lambda x: layers.ConvLSTM1D(2, 2, dropout=0.5)(x[..., None]),
    "bidirectional": lambda x: layers.Bidirectional(layers.GRU(6, recurrent_dropout=0.5))(x),
    "nested": lambda x: keras.Sequential([layers.Dense(6), keras.Sequential([layers.Dropout(0.5)])])(x),
}


@pytest.mark.parametrize("kind", RANDOM)
def test_keras_own_layers_draw_wherever_they_are(kind):
    inputs = keras.Input((5, 4))
    model = keras.Model(inputs, RANDOM[kind](inputs))
    before = model.predict(TOKENS, verbose=0)
    _, spread = predict_samples(model, TOKENS, 3)
    assert np.any(spread > 0)
    np.testing.assert_array_equal(model.predict(TOKENS, verbose=0), before)


def test_batch_normalization_stays_as_it_is_at_inference():
    model = network(layers.BatchNormalization(), layers.Dropout(1e-12))  # drops nothing
    model.layers[1].moving_mean.assign(RNG.normal(size=6))
    before = values(model)
    mean, spread = predict_samples(model, X, 3)
    np.testing.assert_array_equal(mean, model.predict(X, verbose=0))
    np.testing.assert_array_equal(spread, np.zeros((4, 2)))
    for value, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, variable)


def test_the_model_is_afterwards_what_it_was():
    model = kwrap.wrap_model(network(layers.Dropout(0.5)), [Noise(0.1).at("hidden"), WeightNoise(0.1).at("outputs")])
    model.compile("adam", "mse")
    model.fit(X, X[:, :2], verbose=0)
    before, held, config = values(model), list(model.layers), model.get_config()
    hooks = kwrap.find_hooks(model)
    first = predict_samples(model, X, 3)
    assert [id(layer) for layer in model.layers] == [id(layer) for layer in held]
    assert kwrap.find_hooks(model) == hooks
    assert model.get_config() == config
    for value, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, variable)
    np.testing.assert_array_equal(predict_samples(model, X, 3).spread, first.spread)
    model.fit(X, X[:, :2], verbose=0)
    assert not np.array_equal(model.get_weights()[0], before[0])


def test_training_goes_on_without_tracing_anew():
    traced = []

    def loss(labels, outputs):
        traced.append(1)
        return keras.ops.mean(keras.ops.square(labels - outputs), axis=-1)

    model = network(layers.Dropout(0.5))
    model.compile("adam", loss, metrics=["mae"])
    for work in (model.fit, model.evaluate):
        work(X, X[:, :2], verbose=0)
    before = model.predict(X, verbose=0)
    times, function = len(traced), model.predict_function
    for _ in range(2):
        predict_samples(model, X, 2)
        for work in (model.fit, model.evaluate):
            work(X, X[:, :2], verbose=0)
    assert len(traced) == times
    assert model.predict_function is function
    assert not np.array_equal(model.predict(X, verbose=0), before)


@pytest.mark.parametrize("change", ["compiled", "wrapped"])
def test_what_was_traced_is_gone_if_the_model_was_changed_meanwhile(change):
    model = network(layers.Dropout(0.5))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(X, X[:, :2], verbose=0)
    with sampling(model):
        if change == "compiled":
            model.compile(keras.optimizers.SGD(0.0), "mse")
        else:
            kwrap.wrap_model(model, WeightNoise(1e6), where="outputs")
    before = model.get_weights()
    model.fit(X, X[:, :2], verbose=0)
    if change == "compiled":
        for value, weight in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(value, weight)
    else:
        assert np.abs(model.get_weights()[0] - before[0]).max() > 1e3


def test_training_inside_leaves_no_function_behind_in_which_hooks_for_inference_draw():
    model = kwrap.wrap_model(network(), Noise(5.0, phase="inference"), where="hidden")
    model.compile(keras.optimizers.SGD(0.0), "mse")
    with sampling(model):
        model.fit(X, X[:, :2], verbose=0)
    expected = np.mean((np.asarray(model(X, training=True)) - X[:, :2]) ** 2)
    (loss,) = model.fit(X, X[:, :2], verbose=0).history["loss"]
    assert loss == pytest.approx(expected, rel=1e-5)


def test_means_of_outputs_that_are_not_floating_are():
    class Signs(layers.Layer):
        def call(self, inputs):
            return keras.ops.cast(inputs > 0, "int32")

    zeros = np.zeros((40, 3), "float32")
    model = keras.Sequential([keras.Input((3,)), layers.GaussianNoise(1.0), Signs()])
    mean, spread, samples = predict_samples(model, zeros, 2, return_samples=True)
    assert samples.dtype == "int32"
    assert mean.dtype == spread.dtype == "float64"
    np.testing.assert_allclose(mean, samples.mean(axis=0))
    np.testing.assert_allclose(spread, samples.std(axis=0))
    assert np.any(mean == 0.5)


def test_a_seed_gives_other_draws_and_the_same_again():
    model = network(layers.Dropout(0.5))
    draws = [predict_samples(model, X, 2, seed=seed).mean.tobytes() for seed in (None, 1, 2, 1)]
    assert len(set(draws)) == 3
    assert draws[1] == draws[3]


def test_layers_of_one_seed_draw_differently():
    model = keras.Sequential([keras.Input((3,)), layers.Dropout(0.5), layers.Dropout(0.5)])
    ones = np.ones((200, 3), "float32")
    with sampling(model, seed=1):
        first, second = (np.asarray(layer(ones, training=False)) for layer in model.layers)
    assert not np.array_equal(first, second)


def test_calls_draw_inside_the_context_and_traces_serve_several():
    model = network(layers.Dropout(0.5))
    with sampling(model):
        assert not np.array_equal(model(X), model(X))
        first = predict_samples(model, X, 2)
        function = model.predict_function
        second = predict_samples(model, X, 2)
        assert model.predict_function is function
    assert not np.array_equal(first.mean, second.mean)
    np.testing.assert_array_equal(model(X), model(X))


def test_an_error_inside_the_context_leaves_the_model_as_it_was():
    model = kwrap.wrap_model(network(layers.Dropout(0.5)), Noise(0.1), where="hidden")
    with pytest.raises(ZeroDivisionError), sampling(model):
        raise ZeroDivisionError
    np.testing.assert_array_equal(model(X), model(X))
    assert [hook.name for _, hook in kwrap.find_hooks(model)] == ["noise"]


def test_a_subclassed_model_without_a_config_gives_samples_in_its_structure():
    class Pair(keras.Model):
        def __init__(self, size):
            super().__init__()
            self.dense, self.dropout = layers.Dense(size), layers.Dropout(0.5)

        def call(self, inputs):
            hidden = self.dropout(self.dense(inputs))
            return {"hidden": hidden, "sum": keras.ops.sum(hidden, axis=-1)}

    model = Pair(3)
    model(X)
    mean, spread, samples = predict_samples(model, X, 3, return_samples=True)
    assert mean["hidden"].shape == (4, 3)
    assert spread["sum"].shape == (4,)
    assert samples["sum"].shape == (3, 4)


def test_the_hook_alone_keeps_dropout_on_at_inference():
    model = kwrap.wrap_model(network(layers.Dropout(0.5)), MonteCarloDropout())
    assert not np.array_equal(model.predict(X, verbose=0), model.predict(X, verbose=0))
    kwrap.unwrap_model(model)
    np.testing.assert_array_equal(model(X), model(X))


SILENT = {
    "none": network,
    "dropout": lambda: network(layers.Dropout(0.0)),
    "recurrent": lambda: keras.Sequential([keras.Input((5, 4)), layers.LSTM(3)]),
    "noise": lambda: kwrap.wrap_model(network(), Noise(0.0), where="hidden"),
    "paths": lambda: kwrap.wrap_model(network(), DropPath(0.0), where="hidden"),
}


@pytest.mark.parametrize("kind", SILENT)
def test_a_model_that_draws_nothing_is_an_error(kind):
    model = SILENT[kind]()
    hooks = kwrap.find_hooks(model)
    with pytest.raises(NothingRandomError, match="draws nothing: it has neither hooks of kwrap-noise nor dropout"):
        predict_samples(model, X, 3)
    assert kwrap.find_hooks(model) == hooks


@pytest.mark.parametrize("n", [0, -1, 2.5, "3", True])
def test_a_number_of_samples_that_cannot_be_is_an_error(n):
    with pytest.raises(OptionValueError, match="predict_samples: n="):
        predict_samples(network(layers.Dropout(0.5)), X, n)


@pytest.mark.parametrize("seed", [1.5, "1", True])
def test_a_seed_of_samples_that_cannot_be_is_an_error_before_anything_changes(seed):
    model = network(layers.Dropout(0.5))
    with pytest.raises(OptionValueError, match=r"sampling: seed=.* is not an int"):
        predict_samples(model, X, 2, seed=seed)
    assert not kwrap.find_hooks(model)
