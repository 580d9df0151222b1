"""Training that goes on from a file draws what it would have drawn."""

import warnings
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import kwrap
from kwrap_noise import DropConnect, DropPath, Noise, WeightNoise

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 3)).astype("float32")
Y = RNG.normal(size=(12, 2)).astype("float32")


def network(seed: int = 1) -> keras.Model:
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(4, activation="tanh", name="hidden"), keras.layers.Dense(2, name="outputs")]
    model = keras.Sequential([keras.Input((3,)), *layers])
    hooks = [Noise(0.1), Noise(0.1, on="inputs", name="shake"), WeightNoise(0.1), DropConnect(0.2), DropPath(0.2)]
    kwrap.wrap_model(model, hooks, where=["hidden", "outputs"])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def fit(model: keras.Model, epochs: int) -> None:
    model.fit(X, Y, batch_size=4, epochs=epochs, shuffle=False, verbose=0)


def by_keras(model: keras.Model, folder: Path) -> keras.Model:
    model.save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")


def by_weights(model: keras.Model, folder: Path) -> keras.Model:
    model.save_weights(folder / "model.weights.h5")
    other = network(seed=2)
    other.optimizer.build(other.trainable_variables)
    other.load_weights(folder / "model.weights.h5")
    return other


def by_shards(model: keras.Model, folder: Path) -> keras.Model:
    model.save_weights(folder / "model.weights.json", max_shard_size=1e-6)
    other = network(seed=2)
    other.optimizer.build(other.trainable_variables)
    other.load_weights(folder / "model.weights.json")
    return other


def by_checkpoint(model: keras.Model, folder: Path) -> keras.Model:
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(str(folder / "checkpoint"))
    other = network(seed=2)
    other.optimizer.build(other.trainable_variables)
    tf.train.Checkpoint(model=other, optimizer=other.optimizer).restore(path).assert_consumed()
    return other


@pytest.mark.parametrize("way", [by_keras, by_weights, by_shards, by_checkpoint])
def test_a_run_that_was_interrupted_is_the_one_that_was_not_to_the_bit(way, tmp_path):
    whole = network()
    fit(whole, 4)
    part = network()
    fit(part, 2)
    resumed = way(part, tmp_path)
    fit(resumed, 2)
    assert len(resumed.variables) == len(whole.variables)
    for variable, expected in zip(resumed.variables, whole.variables, strict=True):
        np.testing.assert_array_equal(variable, expected, err_msg=variable.path)


def test_a_copy_draws_what_the_original_draws():
    model = network()
    fit(model, 1)
    copy = kwrap.clone_model(model)
    np.testing.assert_array_equal(copy(X, training=True), model(X, training=True))


def test_a_file_of_before_loads_without_a_word_and_the_generators_stay(tmp_path):
    model, other = network(), network(seed=2)
    model.save_weights(tmp_path / "old.weights.h5")
    with h5py.File(tmp_path / "old.weights.h5", "r+") as file:  # as it was written before generators were saved
        for layer in file["layers"].values():
            for hook in layer["hooks"].values():
                del hook["vars/seed_generator_state"]
    states = [np.array(hook.generator.state) for _, hook in kwrap.find_hooks(other)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.load_weights(tmp_path / "old.weights.h5")
    np.testing.assert_array_equal(other(X), model(X))
    for (_, hook), state in zip(kwrap.find_hooks(other), states, strict=True):
        np.testing.assert_array_equal(hook.generator.state, state)
