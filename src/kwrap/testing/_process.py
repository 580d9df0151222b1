"""A new process that loads what a suite saved and trains in two replicas: one for all examples, as it takes seconds.

Run as `python -m kwrap.testing._process FOLDER`.
"""

import functools
import os
import pickle
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from importlib import import_module, util
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from kwrap._plugins import plugins
from kwrap._wrapper import Wrapper
from kwrap.testing._compare import arrays, values
from kwrap.testing._example import Example

__all__ = ["report_of"]

_STEPS = 2


def report_of(suite: Any, example: Example) -> dict[str, Any]:
    """Return what the process says of an example: `loading` and `replicas` are errors, or None."""
    index = next(index for index, each in enumerate(suite.all_examples()) if each is example)
    return _reports(suite)[index]


@functools.cache
def _reports(suite: Any) -> list[dict[str, Any]]:
    examples = suite.all_examples()
    try:
        return _reported(examples)
    except Exception as error:  # kept as well: the process takes seconds, and each check of each example asks
        return [{"loading": _described(error), "replicas": _described(error)}] * len(examples)


def _reported(examples: list[Example]) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared = [_prepared(example, folder / f"{index}.keras") for index, example in enumerate(examples)]
        modules = dict(each for example in examples for each in _modules_of(example))
        job = {"modules": modules, "examples": [_as_job(example) for example in examples]}
        (folder / "job.pickle").write_bytes(pickle.dumps(job))
        paths = os.pathsep.join(path for path in sys.path if path)
        environment = {**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-m", "kwrap.testing._process", str(folder)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the process ended with {done.returncode}: {done.stderr[-1400:]}")
        reports = pickle.loads((folder / "reports.pickle").read_bytes())
    return [{**report, **own} for report, own in zip(reports, prepared, strict=True)]


def _prepared(example: Example, path: Path) -> dict[str, Any]:
    """Return what `_prepare` does, or an error in the place of what the process would say."""
    try:
        return _prepare(example, path)
    except Exception as error:
        return {"loading": f"nothing can be loaded: {_described(error)}", "replicas": _described(error)}


def _prepare(example: Example, path: Path) -> dict[str, Any]:
    """Save a model of the example; return what it gives, and what training in one process makes of the weights."""
    model = example.wrapped_model()
    model.save(path)
    wrapper = example.wrapped()
    trained = example.loss(example.call(wrapper)) is not None and bool(wrapper.trainable_variables)
    if trained:
        _train(example, wrapper)
    return {
        "expected": arrays(example.call_model(model)),
        "alone": values(wrapper.weights),
        "names": [variable.path for variable in wrapper.weights],
        "trained": trained,
    }


def _train(example: Example, wrapper: Wrapper) -> None:
    optimizer = keras.optimizers.SGD(0.05)
    for _ in range(_STEPS):
        example.train_step(wrapper, optimizer)


def _as_job(example: Example) -> dict[str, Any]:
    return {
        "hook": (type(example.hook).__module__, type(example.hook).__qualname__, example.hook.get_config()),
        "layer": keras.saving.serialize_keras_object(example.layer),
        "inputs": example.inputs,
        "arguments": dict(example.arguments),
    }


def _modules_of(example: Example) -> Iterator[tuple[str, str | None]]:
    """Yield the modules, with their files, that a user imports before loading: those that no plugin brings."""
    named = [type(example.layer)]
    if plugins.owner(type(example.hook).__module__) is None:
        named.append(type(example.hook))
    named += _registered_in((example.hook.get_config(), example.layer.get_config()))
    for module in dict.fromkeys(each.__module__ for each in named):
        if plugins.owner(module) is None and module.partition(".")[0] not in ("keras", "kwrap"):
            yield module, getattr(sys.modules.get(module), "__file__", None)


def _registered_in(config: Any) -> Iterator[Any]:
    if isinstance(config, dict):
        # Keras names a function in the place of an object's config.
        name = config.get("config" if config.get("class_name") == "function" else "registered_name")
        found = keras.saving.get_registered_object(str(name))
        if found is not None:
            yield found
    items = config.values() if isinstance(config, dict) else config if isinstance(config, list | tuple) else ()
    for item in items:
        yield from _registered_in(item)


# --- in the process --------------------------------------------------------------------------------------------------


def _main(folder: Path) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    job = pickle.loads((folder / "job.pickle").read_bytes())
    for name, file in job["modules"].items():
        _import(name, file)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    reports = [_report(each, folder / f"{index}.keras", strategy) for index, each in enumerate(job["examples"])]
    (folder / "reports.pickle").write_bytes(pickle.dumps(reports))


def _import(name: str, file: str | None) -> None:
    """Import a module by its name, or from its file: pytest imports tests from anywhere."""
    try:
        import_module(name)
    except ImportError:
        if file is None:
            raise
        spec = util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)


def _report(job: dict[str, Any], path: Path, strategy: Any) -> dict[str, Any]:
    report: dict[str, Any] = {"loading": None, "replicas": None, "outputs": [], "copies": [[], []]}
    data = [leaf for leaf in keras.tree.flatten((job["inputs"], job["arguments"])) if hasattr(leaf, "dtype")]
    try:
        report["outputs"] = arrays(keras.models.load_model(path)(data, training=False))
    except Exception as error:
        report["loading"] = _described(error)
    try:
        report["copies"] = _train_in_replicas(job, strategy)
    except Exception as error:
        report["replicas"] = _described(error)
    return report


def _train_in_replicas(job: dict[str, Any], strategy: Any) -> list[list[Any]]:
    """Train as `_train` does, the loss shared by the replicas; return the weights of each."""
    hook, layer = _hook_of(*job["hook"]), keras.saving.deserialize_keras_object(job["layer"])
    example = Example(hook, layer, job["inputs"], job["arguments"])
    example.seed()  # for the first time, which it would otherwise be in two replicas
    with strategy.scope():
        wrapper = example.wrapped()
        loss = example.loss(example.call(wrapper))
        if loss is None or not wrapper.trainable_variables:
            return [[], []]
        optimizer = keras.optimizers.SGD(0.05 / strategy.num_replicas_in_sync)
        optimizer.build(wrapper.trainable_variables)
        step = tf.function(lambda: strategy.run(lambda: example.train_step(wrapper, optimizer)))
        for _ in range(_STEPS):
            step()
    results = [strategy.experimental_local_results(variable.value) for variable in wrapper.weights]
    return [[keras.ops.convert_to_numpy(each[min(index, len(each) - 1)]) for each in results] for index in range(2)]


def _hook_of(module: str, qualname: str, config: dict[str, Any]) -> Any:
    found: Any = import_module(module)
    for name in qualname.split("."):
        if name == "<locals>":
            raise LookupError(f"{qualname} is defined in a function, where no other process finds it")
        found = getattr(found, name)
    return found.from_config(config)


def _described(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    last = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {str(error)[:1500]}{last}"


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
