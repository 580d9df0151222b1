import os
import shutil
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

import kwrap
from kwrap import _plugins, errors
from kwrap.errors import MissingPluginsError, OptionValueError, UnknownClassError, UnreadableFileError

from . import composites, forging
from .specimens import Adapter, Mask, Times, same, scale, values

ONES = np.ones((2, 3), "float32")


def equal(one: keras.Model, other: keras.Model) -> bool:
    """Tell whether two models have equal variables and hooks, to the bit."""
    hooks = [[(hook.path, hook.get_config()) for _, hook in kwrap.find_hooks(model)] for model in (one, other)]
    return hooks[0] == hooks[1] and same(*(values(model.weights) for model in (one, other)))


# --- what keras.models.load_model loads ------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [composites.in_graph, composites.tagger], ids=lambda make: make.__name__)
def test_it_loads_what_keras_loads_hooks_inside_of_composites_and_subclassed_models_included(make, tmp_path):
    model = composites.compiled(make(), run_eagerly=True)
    kwrap.wrap_model(model, [Mask(), Times(factor=0.75), Adapter().at(keras.layers.Dense)])
    composites.train(model, 1)
    kwrap.save_model(model, tmp_path / "model.keras")
    loaded = kwrap.load_model(tmp_path / "model.keras")
    assert equal(loaded, model)
    assert same(values(loaded.optimizer.variables), values(model.optimizer.variables))


def test_it_loads_the_unpacked_folder_and_files_of_any_name(source):
    reference = keras.models.load_model(source)
    folder = source.parent / "folder"
    with zipfile.ZipFile(source) as archive:
        archive.extractall(folder)
    for path in (str(source), folder, shutil.copy(source, source.with_name("model.zip"))):
        assert equal(kwrap.load_model(path), reference)


def test_it_loads_a_file_that_was_packed_anew_and_deflated(source):
    reference = keras.models.load_model(source)
    forging.write(source, forging.members_of(source).items(), zipfile.ZIP_DEFLATED)
    assert equal(kwrap.load_model(source), reference)


def test_compile_false_leaves_the_model_uncompiled(source):
    assert kwrap.load_model(source).compiled
    assert not kwrap.load_model(source, compile=False).compiled


class Unregistered(keras.layers.Layer):
    def call(self, inputs):
        return inputs + 1


def shifted(inputs):
    return inputs + 2


def test_custom_objects_are_known_and_without_them_all_that_is_unknown_is_named(tmp_path):
    layers = [Unregistered(name="unregistered"), keras.layers.Activation(shifted), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    model.save(tmp_path / "model.keras")
    with pytest.raises(UnknownClassError) as raised:
        kwrap.load_model(tmp_path / "model.keras")
    assert raised.value.names == [f"{__name__}.Unregistered", "builtins.shifted"][: len(raised.value.names)]
    given = {"Unregistered": Unregistered, "shifted": shifted}
    assert equal(kwrap.load_model(tmp_path / "model.keras", custom_objects=given), model)
    with keras.saving.custom_object_scope(given):
        assert equal(kwrap.load_model(tmp_path / "model.keras"), model)


def test_safe_mode_false_lets_keras_load_a_lambda(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Lambda(lambda inputs: inputs + 1)])
    model.save(tmp_path / "model.keras")
    with pytest.raises(errors.UnsafeFileError, match="'a lambda'"):
        kwrap.load_model(tmp_path / "model.keras")
    loaded = kwrap.load_model(tmp_path / "model.keras", safe_mode=False)
    assert np.array_equal(loaded(ONES), ONES + 1)


KERAS_HUB = """
import sys
import kwrap
assert "keras_hub" not in sys.modules
model = kwrap.load_model(sys.argv[1])
print(type(model).__name__, len(kwrap.find_hooks(model)))
"""


def test_kerashubs_classes_are_known_in_a_process_that_has_not_imported_it(tmp_path):
    import keras_hub

    options = {"vocabulary_size": 10, "num_layers": 1, "num_heads": 1, "hidden_dim": 4, "intermediate_dim": 4}
    model = keras_hub.models.BertBackbone(**options, max_sequence_length=4)
    kwrap.wrap_model(model, "weight_noise")
    model.save(tmp_path / "model.keras")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", KERAS_HUB, str(tmp_path / "model.keras")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"BertBackbone {len(kwrap.find_hooks(model))}\n"


# --- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("./nowhere.keras", "No such file or directory. Is it the right path?"),
        ("nowhere.keras", "No such file or directory. Is it the right path?"),
        ("hf://someone/model", "it is not on this machine. Download it, and load the copy."),
        ("gs://bucket/model.keras", "it is not on this machine"),
        (".", "it is a folder without config.json"),
    ],
)
def test_a_path_without_a_local_model_is_an_error_that_says_so(path, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnreadableFileError) as raised:
        kwrap.load_model(path)
    assert text in str(raised.value)
    assert raised.value.file == path


@pytest.mark.parametrize("path", [None, 7, b"model.keras", "model\0.keras", "\ud800.keras"])
def test_what_is_no_path_is_an_error_that_says_so(path):
    with pytest.raises(OptionValueError, match=r"load_model: path=.* is no path"):
        kwrap.load_model(path)


@pytest.mark.parametrize("path", ["model.keras/inside", "n" * 300 + ".keras"])
def test_a_path_that_there_cannot_be_is_not_blamed_on_keras(path, source):
    source.rename(source.with_name("model.keras"))
    with pytest.raises(UnreadableFileError, match=r"(Not a directory|File name too long)\. Is it the right path\?"):
        kwrap.load_model(source.with_name("model.keras").parent / path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.keras")
    with pytest.raises(UnreadableFileError, match="it is no regular file"):
        kwrap.load_model(tmp_path / "pipe.keras")


def test_an_h5_file_is_loaded_as_keras_loads_it_whatever_its_name(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="dense")])
    kwrap.wrap_model(model, [Times(factor=0.5), Mask()])
    model.compile("adam", keras.losses.MeanSquaredError())
    model.fit(ONES, np.ones((2, 2)), verbose=0)
    model.save(tmp_path / "model.h5")
    reference = keras.models.load_model(tmp_path / "model.h5")
    for name in ("model.h5", "model.hdf5", "model.keras", "model"):
        path = tmp_path / name
        if name != "model.h5":
            shutil.copy(tmp_path / "model.h5", path)
        loaded = kwrap.load_model(path)
        assert equal(loaded, reference)
        assert same(values(loaded.optimizer.variables), values(reference.optimizer.variables))


def of_h5(model, path):
    model.save(path / "model.h5")
    return keras.models.load_model(path / "model.h5")


def of_kwrap(model, path):
    model.save(path / "model.h5")
    return kwrap.load_model(path / "model.h5")


def of_clone(model, path):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def of_json(model, path):
    copy = keras.models.model_from_json(model.to_json())
    copy.set_weights(model.get_weights())
    return copy


@pytest.mark.parametrize("made", [of_h5, of_kwrap, of_clone, of_json], ids=lambda made: made.__name__)
def test_state_that_is_assigned_and_not_loaded_is_not_taken_from_the_weights_again(made, tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, kernel_initializer="ones", name="dense")])
    kwrap.wrap_model(model, Mask(targets="kernel"))
    ((_, hook),) = kwrap.find_hooks(model)
    hook.state(hook.target_weights[0], "mask").assign([[True, False]] * 3)
    copy = made(model, tmp_path)
    assert np.array_equal(copy(ONES), [[3, 0], [3, 0]])
    assert same(*(values(kwrap.find_hooks(each)[0][1].weights) for each in (model, copy)))


def test_a_copy_whose_layers_weights_alone_are_assigned_takes_its_state_from_them():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, kernel_initializer="ones", name="dense")])
    kwrap.wrap_model(model, Mask(targets="kernel"))
    copy = keras.models.clone_model(model)
    copy.layers[0].layer.kernel.assign([[1.0, -1.0]] * 3)
    assert np.array_equal(copy(ONES), [[3, 0], [3, 0]])
    ((_, hook),) = kwrap.find_hooks(copy)
    assert np.array_equal(hook.state(hook.target_weights[0], "mask"), [[True, False]] * 3)


def test_missing_is_error_or_drop(source):
    with pytest.raises(OptionValueError, match="load_model: missing='ignore' is not 'error' or 'drop'"):
        kwrap.load_model(source, missing="ignore")


def test_weights_alone_are_no_model(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(UnreadableFileError, match=r"weights alone, which model\.load_weights\(path\) loads"):
        kwrap.load_model(tmp_path / "model.weights.h5")


def test_a_file_that_keras_cannot_rebuild_says_what_keras_said(source):
    def change(config):
        forging.named(config, "inner")["config"]["units"] = "many"

    with pytest.raises(UnreadableFileError, match=r"Keras cannot rebuild its model: .*many") as raised:
        kwrap.load_model(forging.forge(source, change))
    assert isinstance(raised.value.__cause__, Exception)


# --- what a failure leaves -------------------------------------------------------------------------------------------


def process_state() -> list[object]:
    """Return what loading might change in a process: registrations, plugins, hooks, Keras' names and settings."""
    return [
        dict(keras.saving.get_custom_objects()),
        [(plugin.name, plugin.status) for plugin in kwrap.plugins.list()],
        kwrap.registered(),
        keras.layers.Dense(1).name.partition("_")[0],
        keras.config.floatx(),
        keras.config.dtype_policy().name,
        sorted(sys.modules),
    ]


def test_a_failed_load_leaves_registrations_plugins_names_and_modules_as_they_were(source):
    kwrap.load_model(source)  # a first time, in which Keras imports what it has put off
    changes = [
        lambda config: forging.named(config, "dense")["config"]["layer"]["config"].update(units="many"),
        lambda config: forging.named(config, "dense")["config"]["hooks"][0].update(version=99),
        lambda config: forging.named(config, "outer").update(build_config={"input_shape": "x"}),
        lambda config: forging.named(config, "inner").update(module="os", class_name="system", registered_name=None),
    ]
    before, next_name = process_state(), keras.layers.Dense(1).name
    number = int(next_name.rpartition("_")[2])
    for change in changes:
        with pytest.raises(errors.KwrapError):
            kwrap.load_model(forging.forge(source, change))
    assert keras.layers.Dense(1).name == f"dense_{number + 1}"
    assert process_state() == before


# --- missing plugins -------------------------------------------------------------------------------------------------


def wrapped(hooks, make=None) -> keras.Model:
    layers = [keras.layers.Dense(4, name="one"), keras.layers.Dense(2, name="two")]
    model = keras.Sequential([keras.Input((3,)), *layers])
    model.compile("adam", "mse")
    kwrap.wrap_model(model, hooks)
    model.fit(ONES, np.ones((2, 2)), verbose=0, epochs=2)
    return model


def test_all_plugins_that_are_missing_are_named_at_once_with_their_layers_and_one_pip_line(tmp_path, monkeypatch):
    wrapped(["prune", "weight_noise"]).save(tmp_path / "model.keras")
    monkeypatch.setattr(_plugins.Plugins, "_find", lambda self: {})
    with pytest.raises(MissingPluginsError) as raised:
        kwrap.load_model(tmp_path / "model.keras")
    error = raised.value
    assert {(one.hook, one.path, one.plugin) for one in error.missing} == {
        (hook, path, plugin)
        for path in ("one", "two")
        for hook, plugin in (("prune", "prune"), ("weight_noise", "noise"))
    }
    version = kwrap_version()
    assert (
        f"hook 'prune' at 'one', 'two' needs plugin 'prune' (kwrap-prune {version}), which is not installed: "
        "pip install kwrap-prune;" in str(error)
    )
    assert str(error).endswith(
        "To load it: pip install kwrap-prune kwrap-noise; or kwrap.load_model(path, missing='drop')."
    )


def kwrap_version() -> str:
    from importlib.metadata import version

    return version("kwrap-prune")


def test_keras_own_loading_names_the_first_that_is_missing(tmp_path, without):
    wrapped([Times(), scale()]).save(tmp_path / "model.keras")
    without(Times, scale)
    with pytest.raises(errors.MissingPluginError, match="hook 'specimen_times' at 'one', which no plugin has"):
        keras.models.load_model(tmp_path / "model.keras")


def test_a_blocked_plugins_hook_is_missing_however_often_a_file_asks(tmp_path, monkeypatch):
    wrapped("weight_noise").save(tmp_path / "model.keras")
    monkeypatch.setenv("KWRAP_BLOCK", "noise")
    for load in (kwrap.load_model, keras.models.load_model):
        with pytest.raises(errors.MissingPluginError, match=r"which is blocked: kwrap\.plugins\.unblock\('noise'\)"):
            load(tmp_path / "model.keras")
    with pytest.warns(errors.DroppedHooksWarning):
        assert kwrap.find_hooks(kwrap.load_model(tmp_path / "model.keras", missing="drop")) == []


def test_without_missing_hooks_drop_is_as_error(source, recwarn):
    assert equal(kwrap.load_model(source, missing="drop"), kwrap.load_model(source))
    assert [str(warning.message) for warning in recwarn if warning.category is errors.DroppedHooksWarning] == []
