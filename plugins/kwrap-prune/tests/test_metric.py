import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import kwrap
from kwrap_prune import ConstantSparsity, PolynomialDecay, Prune

X = np.random.default_rng(0).normal(size=(32, 10)).astype("float32")
Y = X[:, :1]
OPTIONS = {"batch_size": 8, "validation_data": (X, Y), "verbose": 0}


@keras.saving.register_keras_serializable("test_metric")
class Block(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.parts = [keras.layers.Dense(8, name="up"), keras.layers.Dense(10, name="down")]

    def build(self, shape):
        self.parts[0].build(shape)
        self.parts[1].build((*shape[:-1], 8))

    def call(self, inputs):
        return self.parts[1](self.parts[0](inputs))


@keras.saving.register_keras_serializable("test_metric")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.block = Block(name="block")
        self.head = keras.layers.Dense(1, name="head")

    def call(self, inputs):
        return self.head(self.block(inputs))


def pruned() -> keras.Model:
    """Return a subclassed model; its layers but for the last go from 0 to 0.75 in the 8 steps of two epochs."""
    model = Subclassed()
    model(X)
    model.compile("sgd", "mse", metrics=["mae"])
    ramp = PolynomialDecay(0.0, 0.75, begin_step=0, end_step=8, power=1, frequency=2)
    kwrap.wrap_model(
        model,
        [Prune(ramp, log_sparsity=True).at("block/*"), Prune(ConstantSparsity(0.9, begin_step=0)).at("head")],
    )
    return model


# From step 0 to 8 by 2: 0, 0.1875, 0.375, 0.5625, 0.75.
EXPECTED = {f"{prefix}block/{name}/sparsity": [0.375, 0.75] for prefix in ("", "val_") for name in ("up", "down")}


def sparsities(history: dict[str, list[float]]) -> dict[str, list[float]]:
    return {name: values for name, values in history.items() if "sparsity" in name}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder with the logs of a `fit`, and the model that it trained."""
    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("logs")
    model = pruned()
    callbacks = [keras.callbacks.CSVLogger(path / "log.csv"), keras.callbacks.TensorBoard(path / "board")]
    history = model.fit(X, Y, epochs=2, callbacks=callbacks, **OPTIONS)
    (path / "history.json").write_text(json.dumps(history.history))
    model.save(path / "model.keras")
    return path


def test_fit_logs_the_sparsity_of_the_layers_that_ask_for_it_and_of_the_validation_too(folder):
    assert sparsities(json.loads((folder / "history.json").read_text())) == EXPECTED


def test_other_logs_are_those_of_a_model_whose_hooks_do_not_log(folder):
    assert set(json.loads((folder / "history.json").read_text())) - set(EXPECTED) == {
        "loss",
        "mae",
        "val_loss",
        "val_mae",
    }


def test_a_csv_logger_writes_it(folder):
    with open(folder / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    written = {name: [float(row[name]) for row in rows] for name in rows[0]}
    assert sparsities(written) == EXPECTED


@pytest.mark.parametrize(("run", "prefix"), [("train", ""), ("validation", "val_")])
def test_tensorboard_shows_it(folder, run, prefix):
    (path,) = (folder / "board" / run).glob("events*")
    shown: dict[str, list[float]] = {}
    for event in tf.compat.v1.train.summary_iterator(str(path)):
        for value in event.summary.value:
            if value.tag.startswith("epoch_block/"):
                shown.setdefault(value.tag, []).append(float(tf.make_ndarray(value.tensor)))
    assert shown == {
        f"epoch_block/{name}/sparsity": EXPECTED[f"{prefix}block/{name}/sparsity"] for name in ("up", "down")
    }


def test_a_loaded_model_logs_it_from_where_it_was(folder):
    model = keras.models.load_model(folder / "model.keras")
    assert sparsities(model.evaluate(X, Y, verbose=0, return_dict=True)) == {
        "block/up/sparsity": 0.75,
        "block/down/sparsity": 0.75,
    }
    assert sparsities(model.fit(X, Y, **OPTIONS).history) == {name: [0.75] for name in EXPECTED}


def test_an_unwrapped_model_logs_it_no_more(folder):
    model = keras.models.load_model(folder / "model.keras")
    kwrap.unwrap_model(model)
    assert set(model.fit(X, Y, **OPTIONS).history) == {"loss", "mae", "val_loss", "val_mae"}


def test_a_plain_models_layers_of_the_same_name_are_told_apart_by_their_paths():
    inner = keras.Sequential([keras.Input((10,)), keras.layers.Dense(4, name="dense")], name="inner")
    model = keras.Sequential([inner, keras.layers.Dense(1, name="dense")])
    model.compile("sgd", "mse")
    hooks = [
        Prune(ConstantSparsity(0.25, begin_step=0), log_sparsity=True).at("inner/dense"),
        Prune(ConstantSparsity(0.5, begin_step=0), log_sparsity=True).at("dense"),
    ]
    kwrap.wrap_model(model, hooks)
    logs = model.train_on_batch(X, Y, return_dict=True)
    assert sparsities(logs) == {"inner/dense/sparsity": 0.25, "dense/sparsity": 0.5}


def test_several_targets_of_a_layer_count_together():
    model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(10, name="dense")])
    model.compile("sgd", "mse")
    hook = Prune(ConstantSparsity(0.65, begin_step=0), targets=["kernel", "bias"], log_sparsity=True)
    kwrap.wrap_model(model, hook)
    logs = model.train_on_batch(X, X, return_dict=True)
    assert logs["dense/sparsity"] == np.float32((65 + 6) / 110)  # 6.5 of the bias: to the even number


# Logical devices are set before TensorFlow starts, so in a process of their own.
REPLICAS = """
import json
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import kwrap
from kwrap_prune import PolynomialDecay, Prune, PruningHistory, report

with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    model = keras.Sequential([keras.layers.Input((10,)), keras.layers.Dense(4, name="dense")])
    ramp = PolynomialDecay(0.0, 0.75, begin_step=0, end_step=8, power=1, frequency=2)
    kwrap.wrap_model(model, Prune(ramp, log_sparsity=True))
    model.compile("sgd", "mse")
x = np.random.default_rng(0).normal(size=(32, 10)).astype("float32")
callback = PruningHistory()
history = model.fit(x, x[:, :4], batch_size=8, epochs=2, validation_data=(x, x[:, :4]), callbacks=[callback], verbose=0)
print(json.dumps([history.history, [(record.step, record.sparsity) for record in callback.records],
                  report(model).as_dict()]))
"""


def test_on_two_replicas_logs_history_and_report_have_the_sparsity_of_each_step():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", REPLICAS], env=environment, capture_output=True, text=True, check=True)
    history, records, report = json.loads(done.stdout.splitlines()[-1])
    assert sparsities(history) == {"dense/sparsity": [0.375, 0.75], "val_dense/sparsity": [0.375, 0.75]}
    by_step = [0, 0.1875, 0.1875, 0.375, 0.375, 0.5625, 0.5625, 0.75]
    assert records == [[step, round(40 * share) / 40] for step, share in enumerate(by_step, start=1)]
    assert (report["zeros"], report["model_size"]) == (30, 44)


def test_two_hooks_on_a_layer_have_metrics_of_two_names():
    model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(8, name="dense")])
    model.compile("sgd", "mse")
    half, quarter = (ConstantSparsity(sparsity, begin_step=0) for sparsity in (0.5, 0.25))
    of_bias = Prune(quarter, targets="bias", name="thin", log_sparsity=True)
    kwrap.wrap_model(model, [Prune(half, log_sparsity=True), of_bias])
    logs = model.evaluate(X, X[:, :8], verbose=0, return_dict=True)
    assert logs.items() >= {"dense/sparsity": 0.5, "dense/thin_sparsity": 0.25}.items()
