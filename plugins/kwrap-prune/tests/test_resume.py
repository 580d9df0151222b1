"""Exact sparsity in every file that Keras writes, and training that goes on from it as if nothing had happened."""

import io
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

import kwrap
from kwrap_prune import Prune

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 3, 2, 1)).astype("float32")
Y = RNG.normal(size=(48, 3)).astype("float32")
STEPS = 12
SIZES = {"conv": 12, "hidden": 24}


@keras.saving.register_keras_serializable("kwrap_prune_resume_tests")
def sixteenths(step):
    return keras.ops.minimum(keras.ops.cast(step, "float64"), 14) / 16


def network(**optimizer_options) -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((3, 2, 1)),
            keras.layers.Conv2D(3, 2, activation="tanh", name="conv"),
            keras.layers.Flatten(),
            keras.layers.Dense(4, activation="tanh", name="hidden"),
            keras.layers.Dense(3, name="outputs"),
        ]
    )
    kwrap.wrap_model(model, [Prune(sixteenths, regrow=True).at("conv"), Prune(sixteenths).at("hidden")])
    model.compile(keras.optimizers.Adam(0.01, **optimizer_options), "mse")
    return model


def counts(step: int) -> dict[str, int]:
    """Return how many weights have to be zero after so many steps; NumPy rounds half to even."""
    return {name: int(np.round(size * min(step, 14) / 16)) for name, size in SIZES.items()}


def zeros(model: keras.Model) -> dict[str, int]:
    return {name: int(np.sum(model.get_layer(name).get_weights()[0] == 0)) for name in SIZES}


def zeros_in(path: Path) -> dict[str, int]:
    """Return the zeros of the kernels in a file, read without Keras."""
    content = zipfile.ZipFile(path).read("model.weights.h5") if path.suffix == ".keras" else path.read_bytes()
    with h5py.File(io.BytesIO(content)) as file:
        places = {"conv": "layers/conv2d/vars/0", "hidden": "layers/dense/vars/0"}
        return {name: int(np.sum(file[place][()] == 0)) for name, place in places.items()}


def loaded(path: Path, **optimizer_options) -> keras.Model:
    if path.suffix == ".keras":
        return keras.models.load_model(path)
    model = network(**optimizer_options)
    model.optimizer.build(model.trainable_variables)
    model.load_weights(path)
    return model


def fit(model: keras.Model, epochs: int, *callbacks: keras.callbacks.Callback) -> None:
    batch_size = len(X) * epochs // STEPS
    model.fit(X, Y, batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)


# --- what files hold -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "optimizer_options",
    [{}, {"use_ema": True}, {"use_ema": True, "ema_overwrite_frequency": 2}],
    ids=["plain", "ema", "ema-overwrites"],
)
def test_files_written_in_training_and_after_it_hold_exact_zeros_that_unwrapping_leaves(optimizer_options, tmp_path):
    model = network(**optimizer_options)
    fit(
        model,
        1,
        keras.callbacks.ModelCheckpoint(tmp_path / "{batch}.keras", save_freq=5),
        keras.callbacks.ModelCheckpoint(tmp_path / "{batch}.weights.h5", save_freq=4, save_weights_only=True),
    )
    # What `fit` ends with: the averages, if there are any.
    model.save_weights(tmp_path / "12.weights.h5")
    model.save(tmp_path / "12.keras")
    paths = {"5.keras", "10.keras", "12.keras", "4.weights.h5", "8.weights.h5", "12.weights.h5"}
    assert {path.name for path in tmp_path.iterdir()} == paths
    for path in tmp_path.iterdir():
        expected = counts(int(path.name.split(".")[0]))
        assert zeros_in(path) == expected
        again = loaded(path, **optimizer_options)
        assert zeros(again) == expected
        assert zeros(kwrap.unwrap_model(again)) == expected
    assert zeros(kwrap.unwrap_model(model)) == counts(12)


def test_checkpoints_of_swapped_averages_hold_exact_zeros_that_unwrapping_leaves(tmp_path):
    model = network(use_ema=True)
    fit(
        model,
        3,
        keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras"),
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.weights.h5", save_weights_only=True),
    )
    assert len(list(tmp_path.iterdir())) == 6
    for path in tmp_path.iterdir():
        expected = counts(4 * int(path.name[0]))
        assert zeros_in(path) == expected
        assert zeros(kwrap.unwrap_model(loaded(path, use_ema=True))) == expected


# --- going on --------------------------------------------------------------------------------------------------------

# 18 steps, of which the 14th is the schedule's last; the process is killed after the 11th. Of the pruned layers, one
# is in the graph of a Functional model and one inside of a subclassed model. No Dropout: Keras 3.15 does not save where
# its random numbers are.
PROGRAM = """
import os, signal, sys
import keras, numpy as np, tensorflow as tf
import kwrap
from kwrap_prune import PolynomialDecay, Prune

mode, folder = sys.argv[1:]
tf.config.experimental.enable_op_determinism()
rng = np.random.default_rng(0)
x, y = rng.normal(size=(24, 6)).astype("float32"), rng.normal(size=(24, 3)).astype("float32")

@keras.saving.register_keras_serializable("resumed")
def sixteenths(step):
    return keras.ops.minimum(keras.ops.cast(step, "float64"), 14) / 16

@keras.saving.register_keras_serializable("resumed")
class Tower(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(8, activation="tanh", name="hidden")

    def call(self, inputs):
        return self.hidden(inputs)

class Kill(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations == 11:
            os.kill(os.getpid(), signal.SIGKILL)

class Stop(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations == 11:
            raise KeyboardInterrupt

def network(wrap=True):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.layers.Dense(3, name="head")(Tower(name="tower")(inputs)))
    decay = PolynomialDecay(0.2, 0.9, begin_step=1, end_step=13, frequency=3)
    if wrap:
        kwrap.wrap_model(model, [Prune(sixteenths).at("tower/hidden"), Prune(decay, regrow=True).at("head")])
    model.compile(keras.optimizers.AdamW(0.01), "mse")
    return model

def fit(model, *callbacks):
    begin = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: print("from", int(model.optimizer.iterations), flush=True)
    )
    model.fit(x, y, batch_size=4, epochs=3, shuffle=False, verbose=0, callbacks=[*callbacks, begin])

def fit_rest(model):
    done = int(model.optimizer.iterations)
    print("from", done, flush=True)
    fit_steps(model, range(done, 18))

def fit_steps(model, steps):
    batches = np.concatenate([np.arange(4 * step, 4 * step + 4) % 24 for step in steps])
    model.fit(x[batches], y[batches], batch_size=4, shuffle=False, verbose=0)

def fit_twice(model):
    # As Keras itself resumes from within an epoch: that epoch begins again.
    fit_steps(model, [*range(8), *range(6, 18)])
    return model

def dump(model, name):
    own = {f"{place} {each.name}": each for place, each in enumerate(model.variables)}
    slots = {f"slot {place}": each for place, each in enumerate(model.optimizer.variables)}
    arrays = {key: keras.ops.convert_to_numpy(each) for key, each in {**own, **slots}.items()}
    np.savez(f"{folder}/{name}.npz", **arrays)

backup = keras.callbacks.BackupAndRestore(f"{folder}/backup")
often, bare_often = (
    keras.callbacks.BackupAndRestore(f"{folder}/{name}", save_freq=4) for name in ("often", "bare_often")
)
if mode == "first":
    whole = network()
    fit(whole)
    dump(whole, "whole")
    dump(fit_twice(network()), "repeated")
    dump(fit_twice(network(wrap=False)), "bare_repeated")
    try:
        fit(network(wrap=False), bare_often, Stop())
    except KeyboardInterrupt:
        pass
    checkpoint = keras.callbacks.ModelCheckpoint(f"{folder}/checkpoint.keras", save_freq=4)
    fit(network(), backup, checkpoint, often, Kill())
else:
    model = keras.models.load_model(f"{folder}/checkpoint.keras")
    fit_rest(model)
    dump(model, "checkpoint")
    model = network()
    fit(model, backup)
    dump(model, "backup")
    model = network()
    model.optimizer.build(model.trainable_variables)
    model.load_weights(f"{folder}/often/latest.weights.h5")
    fit_rest(model)
    dump(model, "rest")
    for name, wrap, callback in (("often", True, often), ("bare_often", False, bare_often)):
        model = network(wrap=wrap)
        fit(model, callback)
        dump(model, name)
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Return the folder with what a whole run ended with, and one that was killed and taken up in two ways."""
    folder = tmp_path_factory.mktemp("runs")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""}
    first, second = (
        subprocess.run(
            [sys.executable, "-c", PROGRAM, mode, str(folder)], env=environment, capture_output=True, text=True
        )
        for mode in ("first", "second")
    )
    assert (first.returncode, first.stdout.split()) == (-signal.SIGKILL, ["from", "0"] * 3), first.stderr
    # A checkpoint every four steps, a backup after each epoch of six, and one every four steps.
    begins = [word for begin in (8, 6, 8, 8, 8) for word in ("from", str(begin))]
    assert (second.returncode, second.stdout.split()) == (0, begins), second.stderr
    return folder


def check_same(one: np.lib.npyio.NpzFile, other: np.lib.npyio.NpzFile) -> None:
    assert one.files == other.files
    for name in one:
        assert (one[name].dtype, one[name].tobytes()) == (other[name].dtype, other[name].tobytes()), name


@pytest.mark.parametrize("way", ["checkpoint", "backup", "rest"])
def test_training_that_was_killed_goes_on_to_the_same_bits(runs, way):
    whole, resumed = np.load(runs / "whole.npz"), np.load(runs / f"{way}.npz")
    check_same(whole, resumed)
    # What was compared, besides weights and the optimizer's slots: masks, at the end of the schedule, and steps.
    masks = [np.sum(~whole[name]) for name in whole if name.endswith("mask")]
    steps = [whole[name] for name in whole if name.endswith("step")]
    assert (masks, steps) == ([42, 22], [18, 18])


@pytest.mark.parametrize("model", ["", "bare_"])
def test_from_within_an_epoch_keras_begins_that_epoch_again_of_a_bare_model_too(runs, model):
    resumed = np.load(runs / f"{model}often.npz")
    check_same(resumed, np.load(runs / f"{model}repeated.npz"))
    assert resumed["slot 0"] == 20  # iterations: two of the 18 steps twice
    assert [resumed[name] for name in resumed if name.endswith("step")] == ([] if model else [20, 20])
