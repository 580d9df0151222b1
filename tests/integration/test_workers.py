"""Hooks in several processes: docs/train_on_workers.py, as the documents show it, on the loopback address."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "train_on_workers.py"
LIMIT = 240  # seconds, far more than it takes: a worker whose peer is gone may wait for ever


def start(folder: Path, index: int | None, addresses: list[str], killed_at: str = "") -> subprocess.Popen:
    """Start a worker; without an index, the only one."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"KILLED_AT": killed_at}
    if index is not None:
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment["TF_CONFIG"] = json.dumps(task)
    with (folder / f"log_{index}").open("w") as log:
        return subprocess.Popen([sys.executable, SCRIPT, folder], env=environment, stdout=log, stderr=subprocess.STDOUT)


@contextlib.contextmanager
def two_workers(folder: Path, killed_at: str = "") -> Iterator[list[subprocess.Popen]]:
    """Start two workers; kill what is left of them in the end."""
    with socket.socket() as one, socket.socket() as other:
        for free in (one, other):
            free.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{free.getsockname()[1]}" for free in (one, other)]
    workers = [start(folder, index, addresses, killed_at) for index in (0, 1)]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def finish(folder: Path) -> None:
    """Run two workers to their end."""
    with two_workers(folder) as workers:
        codes = [worker.wait(LIMIT) for worker in workers]
    assert codes == [0, 0], (folder / "log_0").read_text()


def weights(folder: Path, worker: int = 0) -> list[np.ndarray]:
    """Return what a worker had in the end: a layer's kernel and bias, and its mask and step, layer by layer."""
    with np.load(folder / f"worker_{worker}.npz") as arrays:
        return [arrays[name] for name in arrays.files]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of two workers that nothing has happened to."""
    folder = tmp_path_factory.mktemp("trained")
    finish(folder)
    return folder


def test_two_workers_end_with_the_same_weights_masks_and_steps(trained):
    for one, other in zip(weights(trained, 0), weights(trained, 1), strict=True):
        np.testing.assert_array_equal(one, other)


def test_they_are_those_of_one_process_with_the_same_batches(trained, tmp_path):
    alone = start(tmp_path, None, [])
    assert alone.wait(LIMIT) == 0, (tmp_path / "log_None").read_text()
    for together, expected in zip(weights(trained), weights(tmp_path), strict=True):
        if expected.dtype.kind == "f":
            np.testing.assert_allclose(together, expected, atol=1e-6)
        else:
            np.testing.assert_array_equal(together, expected)


def test_kernels_are_as_sparse_as_the_schedule_says_and_the_steps_counted(trained):
    kernels, masks, steps = weights(trained)[::4], weights(trained)[2::4], weights(trained)[3::4]
    assert [np.sum(kernel == 0) for kernel in kernels] == [36, 18]  # three quarters
    assert [(mask == (kernel != 0)).all() for kernel, mask in zip(kernels, masks, strict=True)] == [True, True]
    assert [int(step) for step in steps] == [12, 12]


def test_a_worker_that_was_killed_goes_on_from_the_last_checkpoint_to_the_same_bits(trained, tmp_path):
    with two_workers(tmp_path, killed_at="1 6") as workers:
        assert workers[1].wait(LIMIT) == -signal.SIGKILL
    assert (tmp_path / "checkpoint.keras").exists()
    assert not list(tmp_path.glob("*.npz"))
    finish(tmp_path)
    for resumed, expected in zip(weights(tmp_path), weights(trained), strict=True):
        np.testing.assert_array_equal(resumed, expected)


REPLICAS = """
import json

import keras
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

import kwrap
from kwrap_prune import PolynomialDecay, Prune


@kwrap.hook(layer_type=keras.layers.Layer)
class Range(kwrap.Hook):
    '''Keep the moving maximum of each weight, as a quantizer does.'''

    def build(self, layer):
        for target in self.target_weights:
            self.add_state(target, "maximum")

    def parametrize(self, target, value, *, training):
        if training:
            maximum = self.state(target, "maximum")
            maximum.assign(0.9 * maximum + 0.1 * keras.ops.max(keras.ops.abs(value)))
        return value


def trained(strategy):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = keras.Sequential(
            [keras.Input((6,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3)]
        )
        kwrap.wrap_model(model, [Prune(PolynomialDecay(0.0, 0.75, begin_step=0, end_step=8, frequency=2)), Range()])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01), loss, jit_compile=False)
    generator = np.random.default_rng(0)
    inputs, labels = generator.normal(size=(96, 6)).astype("float32"), generator.integers(3, size=96)
    model.fit(tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(8), verbose=0)
    return {
        weight.path: [np.asarray(each).tolist() for each in strategy.experimental_local_results(weight.value)]
        for weight in model.weights
    }


print(json.dumps([trained(tf.distribute.get_strategy()), trained(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))]))
"""


def test_two_replicas_have_the_same_state_and_that_of_one_with_the_same_batches():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run([sys.executable, "-c", REPLICAS], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    alone, replicas = (list(each.values()) for each in json.loads(run.stdout.splitlines()[-1]))
    assert len(alone) == len(replicas) == 2 * (2 + 2 + 1)  # kernel and bias; mask and step; maximum
    for (expected,), (first, second) in zip(alone, replicas, strict=True):
        assert first == second
        np.testing.assert_allclose(np.array(first, "float64"), np.array(expected, "float64"), atol=1e-6)
    sizes = [np.size(expected) for (expected,) in alone]
    zeros = [np.sum(np.equal(expected, 0)) for (expected,) in alone]
    assert (sizes[0], zeros[0]) == (48, 36)
