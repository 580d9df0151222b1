"""Checks of saving and loading: in this process, in a new one, from a plain model's file, from old files."""

import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from kwrap.errors import HookStateWarning
from kwrap.testing._check import NotApplicable, Wrong, check
from kwrap.testing._compare import arrays, must_be_close, must_be_same, values
from kwrap.testing._example import Example
from kwrap.testing._process import report_of

if TYPE_CHECKING:
    from kwrap.testing._suite import HookSuite

__all__ = ["save_examples", "saved_and_loaded"]


@check(where="kwrap.Hook.add_state", way_out="keep what was learned in variables: `add_state`, `add_weight`")
def saved_and_loaded_it_is_the_same(example: Example) -> None:
    """A model that is saved in mid-training comes back with its hook, the hook's options and state, and its outputs."""
    model = example.wrapped_model()
    wrapper = model.get_layer(example.layer.name)
    example.trained(wrapper, 2)
    loaded = saved_and_loaded(model)
    other = loaded.get_layer(example.layer.name)
    if other.hooks[0].get_config() != wrapper.hooks[0].get_config():
        raise Wrong(f"the options came back as {other.hooks[0].get_config()}")
    names = [variable.path for variable in wrapper.weights]
    must_be_same(values(other.weights), values(wrapper.weights), "the loaded model", names)
    if not example.random_at_inference:
        must_be_same(example.call_model(loaded), example.call_model(model), "the loaded model's output")


@check(
    where="kwrap.Hook.add_state",
    way_out="no Python counters: a `step` argument of `constrain`, or a variable; draw by a `SeedGenerator` of `build`",
)
def training_goes_on_where_it_was(example: Example) -> None:
    """A loaded model trains on as the one that was saved would have, and draws what that would have drawn."""
    if example.layer_is_random:
        raise NotApplicable("the layer itself draws: Keras saves the state of no layer's seed generators")
    model = example.wrapped_model()
    wrapper = model.get_layer(example.layer.name)
    example.trained(wrapper, 2)
    other = saved_and_loaded(model).get_layer(example.layer.name)
    for each in (wrapper, other):
        example.trained(each, 2)
    names = [variable.path for variable in wrapper.weights]
    must_be_same(values(other.weights), values(wrapper.weights), "training after loading", names)


@check(where="kwrap.Hook.initialize", way_out="take first values from weights in `initialize`, not in `build`")
def weights_of_the_plain_model_load(example: Example) -> None:
    """A weights file of the model without the hook loads into the one with it, whose state is taken anew from it."""
    plain = example.model(example.new_layer(seed=11))
    if not plain.weights:
        raise NotApplicable("the layer has no weights")
    model = example.wrapped_model()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plain.weights.h5"
        plain.save_weights(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HookStateWarning)  # the file lacks it by intent
            model.load_weights(path)
    expected = example.wrapped_model(plain).get_layer(example.layer.name)
    received = model.get_layer(example.layer.name)
    example.call_model(model)
    if example.random_at_inference:
        raise NotApplicable("it loads; what it gives is random")
    received.weight_hooks.project()  # what is loaded is stored as hooks want it from the next update, or saving, on
    names = [variable.path for variable in expected.weights]
    must_be_same(values(received.weights), values(expected.weights), "after loading plain weights", names)
    must_be_same(example.call(received), example.call(expected), "the output after loading plain weights")


@check(
    where="kwrap.hook",
    way_out="register what options hold; define the hook in an importable module of the plugin",
)
def a_fresh_process_loads_it(suite: "type[HookSuite]", example: Example) -> None:
    """A new process loads the file by plain Keras, after `import kwrap`, and its model gives the same."""
    report = report_of(suite, example)
    if error := report["loading"]:
        raise Wrong(f"there {error}")
    if not example.random_at_inference:
        must_be_close(report["outputs"], report["expected"], "the output there", rtol=1e-6)


@check(where="kwrap.Hook.add_state", way_out="`aggregation`: 'mean', or 'only_first_replica' for masks and counts")
def two_replicas_train_as_one(suite: "type[HookSuite]", example: Example) -> None:
    """Under a MirroredStrategy of two replicas with the same data, weights and state are those of one process."""
    report = report_of(suite, example)
    if error := report["replicas"]:
        raise Wrong(f"there {error}")
    if not report["trained"]:
        raise NotApplicable("there is nothing to train")
    copies = report["copies"]
    for name, first, second in zip(report["names"], *copies, strict=True):
        if "seed_generator" not in name:
            must_be_same([second], [first], f"the second replica's {name}")
    if not example.random_in_training:
        must_be_close(copies[0], report["alone"], "training in two replicas", report["names"], rtol=1e-3)


@check(where="kwrap.testing.save_examples", way_out="raise `version`, and let `migrate` read the options of old files")
def old_files_load(suite: "type[HookSuite]") -> None:
    """Files of former versions, which `save_examples` made, load, and give what they gave then."""
    folder = suite.saved_folder()
    if folder and not folder.is_dir():
        raise Wrong(f"the folder that `saved` names, {folder}, is not there")
    files = sorted(folder.glob("*.keras")) if folder else []
    if not files:
        raise NotApplicable("there are no old files: make them by kwrap.testing.save_examples(suite, folder)")
    for file in files:
        try:
            model = keras.models.load_model(file)
        except Exception as error:
            raise Wrong(f"{file.name}: {type(error).__name__}: {error}") from error
        record = file.with_suffix(".npz")
        if record.exists():
            with np.load(record) as stored:
                inputs = [stored[name] for name in sorted(stored) if name.startswith("input")]
                outputs = [stored[name] for name in sorted(stored) if name.startswith("output")]
            if outputs:
                must_be_close(arrays(model(inputs, training=False)), outputs, f"{file.name}: the output", rtol=1e-5)


def save_examples(suite: "type[HookSuite]", folder: str | Path) -> list[Path]:
    """Write a model of each example of a suite, and what it gives, into `folder`; return the paths of those written.

    For `tests/saved/`, before each release: the check `old_files_load` reads them from then on. A file that is there,
    of the same place in `examples` and the same `version` of the hook, stays as it is: add examples at the end.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, example in enumerate(suite.all_examples()):
        hook = type(example.hook)
        path = folder / f"{hook.hook_name}-version{hook.version}-{index}.keras"
        if not path.exists():
            save_example(example, path)
            paths.append(path)
    return paths


def save_example(example: Example, path: Path) -> keras.Model:
    """Write a model that was trained for two steps, and beside it its inputs and outputs (none if random)."""
    model = example.wrapped_model()
    example.trained(model.get_layer(example.layer.name), 2)
    model.save(path)
    record: dict[str, Any] = {f"input{index:02}": array for index, array in enumerate(example.data)}
    if not example.random_at_inference:
        outputs = arrays(example.call_model(model))
        record |= {f"output{index:02}": array for index, array in enumerate(outputs)}
    np.savez(path.with_suffix(".npz"), **record)
    return model


def saved_and_loaded(model: keras.Model) -> keras.Model:
    """Return what comes back from the model's file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        loaded: keras.Model = keras.models.load_model(path)
    return loaded
