"""`fit` in a MirroredStrategy of two CPUs: with a scaled loss, and what Keras does there only eagerly."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

SCALE = 1024.0
HOW = {
    "float16": {"scale": SCALE},
    "eager": {"eager": True, "accumulate": 2, "at_once": 2},
    "steps": {"every": 2},  # with ProbeSteps
}

# Logical devices are set before TensorFlow starts, so in a process of their own.
REPLICAS = """
import json, sys
from pathlib import Path
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
tf.config.optimizer.set_experimental_options({"dependency_optimization": False})
import kwrap
from kwrap_probe import NaNGuard, NonFiniteError, Probe, ProbeSteps, StopOnNonFinite, TensorBoardWriter, report

folder, how = Path(sys.argv[1]), json.loads(sys.argv[2])
x = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
y = np.random.default_rng(1).normal(size=(16, 2)).astype("float32")
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

def network(hooks=(), scale=None, eager=False, accumulate=None, at_once=1):
    with strategy.scope():
        keras.utils.set_random_seed(0)
        dtype = "mixed_float16" if scale else "float32"
        model = keras.Sequential([keras.layers.Input((6,)),
                                  keras.layers.Dense(5, activation="relu", name="hidden", dtype=dtype),
                                  keras.layers.Dense(2, name="head", dtype=dtype)])
        if hooks:
            kwrap.wrap_model(model, list(hooks))
        optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=accumulate)
        if scale:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=scale)
        model.compile(optimizer, "mse", run_eagerly=eager, jit_compile=False, steps_per_execution=at_once)
    return model

def fit(model, inputs=x, labels=y, callbacks=()):
    return model.fit(inputs, labels, batch_size=8, shuffle=False, verbose=0, callbacks=list(callbacks)).history

def copies(variables):
    return [[copy.numpy().tolist() for copy in strategy.experimental_local_results(each.value)] for each in variables]

def weights(model):
    return copies(variable for layer in model.layers for variable in (layer.kernel, layer.bias))

def caught(**options):
    model = network([NaNGuard()], **options)
    broken = np.where((np.arange(16) == 13)[:, None], np.inf, x)  # in the second replica's half of the second batch
    try:
        fit(model, broken, callbacks=[StopOnNonFinite()])
    except NonFiniteError as error:
        return str(error)

def run(name, every=1, **options):
    bare = network(**options)
    probed = network([Probe(every=every, sample=None, log=["outputs/zeros"]), NaNGuard()], **options)
    found = {"start": [each[0] for each in weights(bare)], "losses": [fit(bare)["loss"]]}
    callbacks = [StopOnNonFinite(), TensorBoardWriter(folder / name)] + [ProbeSteps()] * (every > 1)
    found["logs"] = fit(probed, callbacks=callbacks)
    found |= {"trained": [weights(bare), weights(probed)], "state": copies(probed.variables),
              "statistics": report(probed).as_dict()["statistics"]}
    probed.save(folder / "saved.keras")
    with strategy.scope():
        loaded = keras.models.load_model(folder / "saved.keras")
    found["loaded"] = report(loaded).as_dict()["statistics"]
    kwrap.unwrap_model(probed)
    for model in (bare, loaded, probed):
        fit(model)
    found["later"] = [weights(bare), weights(loaded), weights(probed)]
    found["left"] = [type(layer).__name__ for layer in probed.layers]
    found["caught"] = caught(**options)
    return found

results = {name: run(name, **options) for name, options in how.items()}
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    """Return the folder that a process wrote to, and what it found of each in HOW."""
    folder = tmp_path_factory.mktemp("replicas")
    command = [sys.executable, "-c", REPLICAS, str(folder), json.dumps(HOW)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder, json.loads(done.stdout.splitlines()[-1])


def by_numpy(start, scale=1.0, accumulate=1, every=1, **_):
    """Return what goes through the layers in two steps of the whole batch, each replica's part apart, and weights.

    Of what goes through, each so manieth step counts.

    The mean of the squared errors is differentiated by hand, and SGD takes steps of 0.1.
    """
    kernel, bias, head, last = (np.array(each) for each in start)
    x = np.random.default_rng(0).normal(size=(16, 6)).astype("float32").astype("float64")
    y = np.random.default_rng(1).normal(size=(16, 2)).astype("float32").astype("float64")
    seen, summed = {}, 0
    for step, (inputs, labels) in enumerate(zip(np.split(x, 2), np.split(y, 2), strict=True), start=1):
        hidden = np.maximum(inputs @ kernel + bias, 0)
        outputs = hidden @ head + last
        upstream = 2 * (outputs - labels) / labels.size
        below = upstream @ head.T
        before = below * (hidden > 0)
        for part in (slice(0, 4), slice(4, 8)) if (step - 1) % every == 0 else ():
            of_part = {
                "hidden/inputs": inputs[part],
                "hidden/outputs": hidden[part],
                "hidden/output_gradients": scale * below[part],
                "hidden/kernel": kernel,
                "hidden/kernel_gradients": scale * inputs[part].T @ before[part],
                "head/inputs": hidden[part],
                "head/outputs": outputs[part],
                "head/output_gradients": scale * upstream[part],
                "head/kernel": head,
                "head/kernel_gradients": scale * hidden[part].T @ upstream[part],
            }
            for name, values in of_part.items():
                seen.setdefault(name, []).append(values.copy())
        gradients = [inputs.T @ before, before.sum(0), hidden.T @ upstream, upstream.sum(0)]
        summed = [np.add(*each) for each in zip(summed, gradients, strict=True)] if summed else gradients
        if step % accumulate == 0:
            updates = [0.1 * each / accumulate for each in summed]
            kernel, bias, head, last = kernel - updates[0], bias - updates[1], head - updates[2], last - updates[3]
            summed = 0
    return seen, [kernel, bias, head, last]


@pytest.fixture(params=HOW)
def found(request, process):
    folder, results = process
    return {**results[request.param], "folder": folder / request.param, "options": HOW[request.param]}


def test_statistics_are_those_that_numpy_computes_of_the_whole_batch(found):
    seen, _ = by_numpy(found["start"], **found["options"])
    tolerance = 5e-3 if "scale" in found["options"] else 1e-5
    calls = 4 // found["options"].get("every", 1)
    assert [f"{each['path']}/{each['name']}" for each in found["statistics"]] == list(seen)
    for each, arrays in zip(found["statistics"], seen.values(), strict=True):
        values = np.concatenate([array.reshape(-1) for array in arrays])
        assert (each["calls"], each["size"], each["non_finite"]) == (calls, values.size, 0)
        assert each["zero_share"] == pytest.approx(np.mean(values == 0))
        numbers = [each["mean"], each["spread"], each["minimum"], each["maximum"]]
        assert "-0.0" not in map(str, numbers)
        expected = [values.mean(), values.std(), values.min(), values.max()]
        np.testing.assert_allclose(numbers, expected, rtol=0, atol=tolerance * np.abs(values).max())
        assert sum(count for _, _, count in each["bins"]) == values.size


def test_training_is_the_bare_models_to_the_bit_and_replicas_are_equal(found):
    bare, probed = found["trained"]
    assert bare == probed
    assert found["logs"]["loss"] == found["losses"][0]
    assert all(first == second for first, second in found["state"])
    _, expected = by_numpy(found["start"], **found["options"])
    for (first, _), values in zip(probed, expected, strict=True):
        np.testing.assert_allclose(first, values, rtol=0, atol=1e-3 if "scale" in found["options"] else 1e-6)


def test_logs_and_tensorboard_have_each_number_once(found):
    from tensorboard.backend.event_processing.event_accumulator import TENSORS, EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    assert sorted(found["logs"]) == ["head/outputs_zeros", "hidden/outputs_zeros", "loss"]
    hidden = next(each for each in found["statistics"] if (each["path"], each["name"]) == ("hidden", "outputs"))
    assert found["logs"]["hidden/outputs_zeros"] == [pytest.approx(hidden["zero_share"])]
    events = EventAccumulator(str(found["folder"]), {TENSORS: 0})
    events.Reload()
    tags = events.Tags()["tensors"]
    assert len(tags) == 10 * 7
    assert all(len(events.Tensors(tag)) == 1 for tag in tags)
    (scalar,) = events.Tensors("hidden/outputs/maximum")
    assert make_ndarray(scalar.tensor_proto) == np.float32(hidden["maximum"])


def test_a_loaded_and_an_unwrapped_model_train_on_as_the_bare_one(found):
    assert found["loaded"] == found["statistics"]
    bare, loaded, unwrapped = found["later"]
    assert bare != found["trained"][0]
    assert bare == loaded == unwrapped
    assert found["left"] == ["Dense", "Dense"]


@pytest.mark.parametrize("found", ["float16", "eager"], indirect=True)  # compiled, in float32, ReLU makes 0 of NaN
def test_a_guard_finds_what_is_not_finite_in_the_second_replica_alone(found):
    assert found["caught"].startswith("the output of layer 'hidden' is not finite in call 2 of the layer: neither are")
