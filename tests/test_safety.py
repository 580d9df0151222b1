"""What a stranger controls who wrote a file, by the numbers of docs/safety.md; and files changed by chance."""

import json
import os
import re
import socket
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, given, settings

import kwrap
from kwrap import _bounds, errors
from kwrap_cli import main

from . import forging, specimens

DOCUMENT = Path(__file__).parents[1] / "docs" / "safety.md"
MIB = 1 << 20


@pytest.fixture(autouse=True)
def closed(tmp_path, monkeypatch):
    """Work in an empty folder; fail where anything is written outside of it, or the net is asked."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the net was asked"))
    yield
    assert os.listdir(tmp_path / "work") == []


def refused(path: Path, kind: type[errors.KwrapError], text: str = "", **options: object) -> errors.KwrapError:
    """Load a file that is to be refused so."""
    with pytest.raises(kind, match=text or None) as raised:
        kwrap.load_model(path, **options)
    return raised.value


# --- the list --------------------------------------------------------------------------------------------------------

ITEMS = {}


def item(number: int):
    """Mark the test of an item of the list in the document."""

    def mark(test):
        ITEMS[number] = test.__name__
        return test

    return mark


def test_every_item_of_the_document_has_a_test_and_is_told_by_its_name():
    rows = dict(re.findall(r"^\| (\d+) \|.*\| `(test_\w+)` \|$", DOCUMENT.read_text(), re.MULTILINE))
    assert {int(number): name for number, name in rows.items()} == ITEMS


@item(1)
@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x80\x04\x95cos\nsystem\n", b"\x89HDF\r\n\x1a\n"])
def test_bytes_that_are_no_model(data, source):
    source.write_bytes(data)
    refused(source, errors.UnreadableFileError, "cannot be loaded")


@item(2)
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_members_twice_so_that_one_is_checked_and_the_other_read(source):
    members = forging.members_of(source)
    forging.write(source, [*members.items(), ("config.json", b"{}")])
    refused(source, errors.UnreadableFileError, "it holds 'config.json' 2 times")


@item(3)
@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "assets/../../escaped"])
def test_members_that_lie_outside(name, source):
    forging.write(source, [*forging.members_of(source).items(), (name, b"x")])
    refused(source, errors.UnreadableFileError, "would lie outside of it")
    assert not (source.parent / "escaped").exists()


@item(4)
def test_members_that_inflate_without_bound(source):
    members = [*forging.members_of(source).items(), ("assets/zeros", bytes(300 * MIB))]
    forging.write(source, members, zipfile.ZIP_DEFLATED)
    error = refused(source, errors.OversizedFileError, "If you trust it: max_size=")
    assert error.limit == 256 * MIB


@item(29)
def test_members_without_number(source):
    members = [*forging.members_of(source).items(), *((f"assets/{number}", b"") for number in range(10_001))]
    forging.write(source, members)
    refused(source, errors.UnreadableFileError, r"it holds 10,00\d members, more than 10,000")


@item(5)
@pytest.mark.parametrize("config", [b'{"a":' * 100_000, b"[1, 2]", b"9" * 100_000, b"{", b"NaN"])
def test_a_config_that_is_no_json_object(config, source):
    forging.write(source, {**forging.members_of(source), "config.json": config}.items())
    refused(source, errors.UnreadableFileError, r"config\.json")


@item(6)
def test_weights_that_lead_to_other_files(source):
    import io

    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["layers"] = h5py.ExternalLink("/etc/passwd", "/")
    forging.write(source, {**forging.members_of(source), "model.weights.h5": buffer.getvalue()}.items())
    refused(source, errors.UnreadableFileError, "'layers' among the weights is a link to elsewhere")


@item(7)
def test_weights_that_declare_more_than_there_is(source):
    import io

    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset("layers/dense/vars/0", shape=(1 << 20, 1 << 20), dtype="float32", chunks=(1, 1024))
    forging.write(source, {**forging.members_of(source), "model.weights.h5": buffer.getvalue()}.items())
    refused(source, errors.OversizedFileError, r"the weights declare 4\.0 TiB")


@item(8)
@pytest.mark.parametrize(
    ("units", "layer"), [(10**12, "dense"), (10**5, "inner")], ids=["beyond all memory", "beyond its file"]
)
def test_a_config_that_asks_for_more_memory_than_the_file_has(units, layer, source):
    def change(config):
        part = forging.named(config, layer)
        part["config"].get("layer", part)["config"]["units"] = units
        part["build_config"] = {"input_shape": [None, 10**4]}

    forged = forging.forge(source, change)
    if layer == "dense":
        refused(forged, errors.OversizedFileError, "its config asks for variables of")
    else:
        refused(forged, errors.OversizedFileError, "its config asks for variables of", max_size=MIB)


@item(9)
@pytest.mark.parametrize("module", ["keras.layers", "keras"])
@pytest.mark.parametrize("kind", ["a lambda", "a program of TensorFlow", "a pickle"])
def test_code(kind, module, source):
    given = {
        "a lambda": {"function": {"class_name": "__lambda__", "config": {"code": "4wAA", "defaults": None}}},
        "a program of TensorFlow": {"filepath": "/tmp/program"},
        "a pickle": {"module": "gASVBQ=="},
    }[kind]
    name = {"a lambda": "Lambda", "a pickle": "TorchModuleWrapper"}.get(kind, "TFSMLayer")

    def change(config):
        forging.named(config, "flat").update(
            module=module, class_name=f"keras.layers.{name}".removeprefix(f"{module}.")
        )
        forging.named(config, "flat")["config"] = {"name": "flat", **given}

    refused(forging.forge(source, change), errors.UnsafeFileError, "which would run with all your rights")


CALLS = [
    ("os", "system"),
    ("builtins", "exec"),
    ("subprocess", "run"),
    ("keras.utils", "get_file"),
    ("keras.utils", "plot_model"),
    ("keras.utils", "set_random_seed"),
    ("keras.config", "set_floatx"),
    ("keras.config", "enable_unsafe_deserialization"),
    ("keras.datasets.mnist", "load_data"),
    ("keras.applications.resnet", "decode_predictions"),
    ("keras", "config.set_floatx"),
]


@item(10)
@pytest.mark.parametrize(("module", "name"), CALLS)
def test_a_function_by_its_module(module, name, source):
    """As a layer's activation, which Keras calls while it rebuilds a model."""

    def change(config):
        function = {"module": module, "class_name": "function", "config": name, "registered_name": name}
        forging.named(config, "inner")["config"]["activation"] = function

    before = keras.config.floatx()
    refused(forging.forge(source, change), (errors.UnknownClassError, errors.UnreadableFileError))
    assert keras.config.floatx() == before


@item(11)
@pytest.mark.parametrize(
    "module", ["antigravity", "this", "keras.src.backend.torch", "keras_hub.src.tests.mocks", "pdb"]
)
def test_a_class_by_its_module(module, source):
    def change(config):
        forging.named(config, "flat").update(module=module, class_name="Flatten", registered_name=None)

    before = set(sys.modules) - {"keras_hub"}
    refused(forging.forge(source, change), errors.UnknownClassError, module)
    assert module not in set(sys.modules) - before


@item(12)
def test_a_path_where_keras_takes_a_vocabulary(source):
    def change(config):
        lookup = {"name": "flat", "vocabulary": "/etc/passwd", "max_tokens": None}
        forging.named(config, "flat").update(module="keras.layers", class_name="StringLookup", config=lookup)

    refused(forging.forge(source, change), errors.UnreadableFileError, "safe_mode")


def record_at_dense(config):
    return forging.named(config, "dense")["config"]["hooks"][0]


@item(13)
def test_a_hook_by_the_path_of_its_class(source):
    for name in ("os.system", "kwrap_prune.Prune", f"{specimens.Times.__module__}.Times", "kwrap>Wrapper", ""):
        error = refused(
            forging.forge(
                source, lambda config, name=name: forging.named(config, "dense")["config"]["hooks"][0].update(hook=name)
            ),
            errors.MissingPluginsError,
        )
        assert [one.hook for one in error.missing] == [name]


@item(14)
def test_a_hook_of_a_plugin_that_is_blocked(source, monkeypatch):
    def change(config):
        record = record_at_dense(config)
        record.update(hook="weight_noise", plugin="noise", plugin_version="kwrap-noise 0.1.0", config={})

    forged = forging.forge(source, change)
    assert [hook.name for _, hook in kwrap.find_hooks(kwrap.load_model(forged, compile=False), "weight_noise")]
    monkeypatch.setenv("KWRAP_BLOCK", "noise")
    refused(forged, errors.MissingPluginsError, "which is blocked")


@item(15)
@pytest.mark.parametrize(
    "change",
    [
        {"hook": None},
        {"hook": ["specimen_times"]},
        {"version": "1"},
        {"version": 99},
        {"config": [1]},
        {"config": {"nothing": 1}},
        {"config": {"phase": "never"}},
        {"config": {"targets": ["nothing"]}},
        {"config": {"name": 7}},
        {"plugin": 3},
    ],
    ids=repr,
)
def test_a_damaged_record_of_a_hook(change, source):
    forged = forging.forge(source, lambda config: record_at_dense(config).update(change))
    refused(forged, errors.KwrapError)


@item(16)
def test_an_option_of_a_hook_that_names_a_function(source):
    def change(config):
        named = {"module": "keras.config", "class_name": "function", "config": "set_floatx", "registered_name": None}
        record_at_dense(config)["config"]["targets"] = named

    forged = forging.forge(source, change)
    refused(forged, errors.UnknownClassError, r"keras\.config\.set_floatx")
    with pytest.raises(TypeError, match=r"keras\.config\.set_floatx"):  # and not where Keras alone loads
        keras.models.load_model(forged)


def hooked(config):
    return next(part for part in forging.parts(config) if part.get("registered_name") == "kwrap>Hooked")


@item(17)
@pytest.mark.parametrize(
    "change",
    [
        lambda config: hooked(config)["config"].update(layer={"class_name": "Dense", "config": {}}),
        lambda config: hooked(config)["config"].update(layer=None),
        lambda config: hooked(config)["config"].update(layer={"module": "os", "class_name": "system", "config": {}}),
        lambda config: hooked(config)["config"].update(count=-1),
        lambda config: hooked(config)["config"]["hooks"][0].update(position=99),
        lambda config: hooked(config)["config"]["hooks"][0].update(position="x"),
        lambda config: hooked(config)["config"].update(hooks=[{}]),
        lambda config: forging.named(config, "dense")["config"].update(layer=[]),
        lambda config: forging.named(config, "dense")["config"].update(layer={"class_name": "Adam", "config": {}}),
        lambda config: forging.named(config, "dense")["config"].update(layer="relu"),
        lambda config: forging.named(config, "dense")["config"].pop("path"),
        lambda config: forging.named(config, "dense")["config"].update(format=10**9) or {},
    ],
    ids=range(12),
)
def test_a_layer_with_hooks_that_is_none(change, source):
    refused(forging.forge(source, change), errors.KwrapError)


@item(18)
def test_a_name_that_is_a_command(source):
    evil = "\x1b]0;owned\x07 --index-url=https://example.invalid evil"

    def change(config):
        record = record_at_dense(config)
        record.update(hook="gone", plugin="gone\x1b[2J", plugin_version=f"{evil} 1.0")

    forged = forging.forge(source, change)
    error = refused(forged, errors.MissingPluginsError, "pip install the package that has it")
    with pytest.warns(errors.DroppedHooksWarning) as caught:
        kwrap.load_model(forged, missing="drop", compile=False)
    shown = [str(error), str(caught[0].message), CliRunner().invoke(main, ["inspect", str(forged)]).output]
    assert not [text for text in shown if "\x1b" in text or "\x07" in text]
    assert "pip install --index" not in str(error)


def name_of_hooks(config, name):
    for part in forging.parts(config):
        if "plugin_version" in part:
            part["config"]["name"] = name


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda config: name_of_hooks(config, "\x1b[2J"), errors.DuplicateHookError),
        (lambda config: forging.named(config, "flat")["config"].update(dtype="\x1b[2J"), errors.UnreadableFileError),
        (lambda config: config["compile_config"].update(optimizer="\x1b[2J"), errors.UnreadableFileError),
    ],
    ids=["in kwrap's own error", "in what Keras says of a layer", "in what Keras says of the optimizer"],
)
def test_a_name_that_is_a_command_is_text_in_the_error(change, kind, source):
    assert "\x1b" not in str(refused(forging.forge(source, change), kind, r"\\x1b"))


@item(19)
def test_a_model_inside_a_model_inside_a_model(source):
    def change(config):
        for _ in range(3000):
            config = {**config, "config": {"name": "deep", "layers": [config], "trainable": True}}
        return

    members = forging.members_of(source)
    config = members["config.json"].decode()
    start = config[: config.index('"layers": [') + len('"layers": [')]
    members["config.json"] = (start * 400 + config + "]}}" * 400).encode()
    forging.write(source, members.items())
    refused(source, errors.UnreadableFileError)


@item(20)
def test_weights_of_other_shapes(source):
    import io

    import h5py

    members = forging.members_of(source)
    buffer = io.BytesIO(members["model.weights.h5"])
    with h5py.File(buffer, "a") as file:
        path = next(path for path in named_datasets(file) if path.startswith("layers/dense"))
        del file[path]
        file[path] = np.zeros((7, 7), "float32")
    forging.write(source, {**members, "model.weights.h5": buffer.getvalue()}.items())
    refused(source, errors.UnreadableFileError, "objects could not be loaded")


def named_datasets(file):
    import h5py

    found = []
    file.visititems(lambda name, held: found.append(name) if isinstance(held, h5py.Dataset) else None)
    return found


@item(21)
def test_another_file_put_in_its_place_meanwhile(source, monkeypatch):
    """The checked file is held open: whatever stands at the path when Keras reads, it reads what was checked."""
    from kwrap import _loading

    load = _loading._load

    def replace_and_load(path, *arguments):
        source.unlink()
        source.write_bytes(b"another")
        return load(path, *arguments)

    monkeypatch.setattr(_loading, "_load", replace_and_load)
    assert kwrap.load_model(source, compile=False).name == "model"


def h5_of_a_plain_model(folder: Path) -> Path:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="plain")])
    model.compile("adam", keras.losses.MeanSquaredError())
    model.save(folder / "plain.h5")
    return folder / "plain.h5"


@item(22)
@pytest.mark.parametrize("name", ["both.keras", "both.h5"])
def test_an_hdf5_file_and_a_zip_archive_in_one(name, source):
    """Keras goes by the name, and would load the archive where the other was checked."""
    both = source.with_name(name)
    both.write_bytes(h5_of_a_plain_model(source.parent).read_bytes() + source.read_bytes())
    assert zipfile.is_zipfile(both)
    if name == "both.keras":
        assert keras.models.load_model(both).name == "model"  # and not that of the HDF5 file
    refused(both, errors.UnreadableFileError, "an HDF5 file and a zip archive in one")
    refused(both, errors.UnreadableFileError, missing="drop")
    assert CliRunner().invoke(main, ["inspect", str(both)]).exit_code == 2


def forged_rate(path: Path, rate: object) -> Path:
    import h5py

    with h5py.File(path, "r+") as file:
        training = json.loads(file.attrs["training_config"])
        training["optimizer_config"]["config"]["learning_rate"] = rate
        file.attrs["training_config"] = json.dumps(training)
    return path


@item(23)
@pytest.mark.parametrize(
    ("rate", "error"),
    [
        ({"class_name": "X", "module": "keras.src.backend.torch", "registered_name": None, "config": {}}, "Unknown"),
        ({"class_name": "function", "module": "keras.tree", "registered_name": None, "config": "flatten"}, "Unknown"),
        ({"class_name": "__lambda__", "config": {"code": "4wAA", "defaults": None}}, "Unsafe"),
    ],
    ids=["a module", "a function", "a lambda"],
)
def test_how_an_h5_files_model_is_compiled(rate, error, source):
    path = h5_of_a_plain_model(source.parent)
    assert kwrap.load_model(path).compiled
    before = set(sys.modules)
    types = {"Unknown": errors.UnknownClassError, "Unsafe": errors.UnsafeFileError}
    refused(forged_rate(path, rate), types[error])
    assert set(sys.modules) == before
    if error == "Unsafe":
        needs = json.loads(CliRunner().invoke(main, ["inspect", "--json", str(path)]).output)
        assert needs["code"] == ["a lambda"]


@item(24)
@pytest.mark.parametrize("name", ["__numpy__", "__tensor__"])
@pytest.mark.parametrize("dtype", ["U200000000", "(20000,20000)f4"])
def test_an_array_whose_dtype_makes_it_large(name, dtype, source):
    def change(config):
        value = {"class_name": name, "config": {"value": ["1"] * 4, "dtype": dtype}}
        forging.named(config, "inner")["config"]["kernel_initializer"] = {
            "module": "keras.initializers",
            "class_name": "Constant",
            "config": {"value": value},
            "registered_name": None,
        }

    refused(forging.forge(source, change), errors.UnreadableFileError, "an array in its config has the dtype")


@item(25)
def test_weights_that_are_one_long_text_many_times(source):
    import io

    import h5py

    count, size = 500, 100_000
    path = source.with_name("weights.h5")
    with h5py.File(path, "w") as file:
        texts = file.create_dataset("layers/dense/vars/0", shape=(count,), dtype=h5py.string_dtype("ascii"))
        texts[0] = b"x" * size
        file.flush()
        at = texts.id.get_offset()
    data = bytearray(path.read_bytes())
    data[at : at + 16 * count] = data[at : at + 16] * count
    with h5py.File(io.BytesIO(bytes(data)), "r") as file:
        assert len(file["layers/dense/vars/0"][count - 1]) == size
    assert len(data) < 2 * size
    forging.write(source, {**forging.members_of(source), "model.weights.h5": bytes(data)}.items())
    refused(source, errors.UnreadableFileError, "is not of numbers")


@item(26)
def test_a_pipe_in_place_of_a_file(source):
    source.unlink()
    os.mkfifo(source)
    refused(source, errors.UnreadableFileError, "it is no regular file")


@item(27)
def test_a_hook_whose_absence_changes_shapes(source):
    def change(config):
        record = record_at_dense(config)
        record.update(hook="gone", plugin=None, effect={"methods": ["call"], "changes_output": True})
        forging.named(config, "dense")["config"]["layer"]["config"]["units"] = "many"

    error = refused(forging.forge(source, change), errors.UnreadableFileError, "Keras cannot rebuild", missing="drop")
    assert "the shapes of outputs are others" in str(error)


@item(28)
def test_another_config_in_a_folder_inside(source):
    good = forging.members_of(source)["config.json"]

    def change(config):
        function = {"module": "os", "class_name": "function", "config": "system", "registered_name": "system"}
        forging.named(config, "inner")["config"]["activation"] = function

    folder = source.parent / "folder"
    with zipfile.ZipFile(forging.forge(source, change)) as archive:
        archive.extractall(folder)
    (folder / "inside").mkdir()
    (folder / "inside" / "config.json").write_bytes(good)
    refused(folder, errors.UnknownClassError, "system")


def test_a_hook_that_was_not_there_when_a_folder_was_checked_gets_no_stand_in(source, monkeypatch):
    """A folder is not held open; no stand-in is left in a model for what was put into it since."""
    from kwrap import _loading

    folder = source.parent / "folder"
    with zipfile.ZipFile(source) as archive:
        archive.extractall(folder)
    config = json.loads((folder / "config.json").read_text())
    record_at_dense(config).update(hook="gone", plugin=None)
    (folder / "config.json").write_text(json.dumps(config))
    load = _loading._load

    def exchange_and_load(*arguments):
        hooked(config)["config"]["hooks"][0]["hooks"][0].update(hook="gone_as_well", plugin=None)
        (folder / "config.json").write_text(json.dumps(config))
        return load(*arguments)

    monkeypatch.setattr(_loading, "_load", exchange_and_load)
    refused(folder, errors.UnreadableFileError, "hook 'gone_as_well' at 'outer/inner' was not in it", missing="drop")


def graph_of(layer, *inputs, shape=(None, 4)):
    """Return the config of a model of one input, called "input", and one layer or operation on these arguments."""
    start = {"class_name": "InputLayer", "config": {"batch_shape": shape, "name": "input"}, "name": "input"}
    return {
        "module": "keras.src.models.functional",
        "class_name": "Functional",
        "registered_name": "Functional",
        "config": {
            "name": "model",
            "layers": [
                {**start, "module": "keras.layers", "registered_name": None, "inbound_nodes": []},
                {**layer, "name": "last", "inbound_nodes": [{"args": inputs, "kwargs": {}}]},
            ],
            "input_layers": [["input", 0, 0]],
            "output_layers": [["last", 0, 0]],
        },
    }


def tensor_of(layer, shape=(None, 4)):
    config = {"shape": shape, "dtype": "float32", "keras_history": [layer, 0, 0]}
    return {"class_name": "__keras_tensor__", "config": config}


def part_of(module, class_name, **config):
    return {"module": module, "class_name": class_name, "config": config, "registered_name": None}


def function_named(name):
    return {"module": "keras.ops", "class_name": "function", "config": name, "registered_name": name}


@item(30)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Split", {"indices_or_sections": 10**9}),
        ("Unstack", {"num": 10**9, "axis": 1}),
        ("ArraySplit", {"indices_or_sections": 10**9, "axis": 1}),
    ],
)
def test_an_operation_of_a_thousand_million_outputs(name, options, source):
    module = "keras.src.ops.core" if name == "Unstack" else "keras.src.ops.numpy"
    layer = part_of(module, name, name="last", **options)
    shape = [10**9, 10**9]
    forged = forging.forge(source, lambda _: graph_of(layer, tensor_of("input", shape), shape=shape))
    keras.KerasTensor((1,))  # the first has no number
    before = keras.KerasTensor((1,)).name
    error = refused(forged, errors.OversizedFileError, "asks for more than 20,0.. layers, tensors and other objects")
    assert error.limit < 21_000
    assert "safe_mode=False" in str(error)
    assert int(keras.KerasTensor((1,)).name.rpartition("_")[2]) == int(before.rpartition("_")[2]) + 1


@item(31)
def test_a_graph_of_which_each_layer_comes_before_what_leads_to_it(source):
    """Keras goes through it once a layer, and tries them all each time."""
    count = 500

    def layer(number):
        name = f"layer_{number}"
        nodes = [{"args": [tensor_of(f"layer_{number - 1}" if number else "input")], "kwargs": {}}]
        part = part_of("keras.layers", "Activation", name=name, activation="relu")
        return {**part, "name": name, "inbound_nodes": nodes}

    def change(_):
        config = graph_of(part_of("keras.layers", "Activation", activation="relu"), tensor_of("input"))
        start, last = config["config"]["layers"]
        last["inbound_nodes"][0]["args"] = [tensor_of(f"layer_{count - 1}")]
        config["config"]["layers"] = [start, last, *map(layer, reversed(range(count)))]
        return config

    refused(forging.forge(source, change), errors.OversizedFileError, "tensors and other objects")


@item(32)
@pytest.mark.parametrize(
    "change",
    [
        lambda part: part.update(
            class_name="Lambda",
            config={"name": "flat", "function": function_named("split"), "arguments": {"indices_or_sections": 10**9}},
        ),
        lambda part: part.update(
            class_name="Activation", config={"name": "flat", "activation": function_named("unstack")}
        ),
        lambda part: part.update(
            class_name="Activation",
            config={
                "name": "flat",
                "activation": part_of("keras.src.ops.numpy", "Split", indices_or_sections=10**9),
            },
        ),
    ],
    ids=["a Lambda", "an activation", "an operation as an activation"],
)
def test_a_function_of_outputs_without_number_in_a_layer(change, source):
    forged = forging.forge(source, lambda config: change(forging.named(config, "flat")))
    refused(forged, errors.UnreadableFileError, "for outputs without number")


@item(33)
@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (part_of("keras.src.ops.numpy", "Arange", name="last"), [10**12]),
        (part_of("keras.layers", "RepeatVector", name="last", n=10**12), [[[0.0]]]),
        (
            part_of("keras.src.ops.numpy", "Arange", name="last"),
            [10**12, part_of("keras.layers", "Lambda", function=function_named("relu"), arguments=tensor_of("input"))],
        ),
    ],
    ids=["an operation", "a layer", "a tensor inside of an object"],
)
def test_a_graph_that_computes_with_values_of_its_own(layer, inputs, source):
    forged = forging.forge(source, lambda _: graph_of(layer, *inputs))
    refused(forged, errors.UnreadableFileError, "its graph calls 'last' on 0 tensors")


@item(34)
@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("AUC", "num_thresholds"),
        ("MeanIoU", "num_classes"),
        ("TextVectorization", "ngrams"),
        ("IntegerLookup", "num_oov_indices"),
    ],
)
def test_an_option_that_becomes_a_list_as_long_as_it_says(name, option, source):
    def change(config):
        if hasattr(keras.layers, name):
            forging.named(config, "flat").update(class_name=name, config={"name": "flat", option: 10**9})
        else:
            config["compile_config"]["metrics"] = [part_of("keras.metrics", name, **{option: 10**9})]

    refused(forging.forge(source, change), errors.OversizedFileError, "its config asks for lists of")


@item(35)
@pytest.mark.parametrize(
    ("inner", "error", "text"),
    [
        (
            part_of(
                "keras.layers",
                "SpectralNormalization",
                layer=part_of("keras.layers", "Dense", units=1),
                power_iterations=10**9,
            ),
            errors.OversizedFileError,
            "asks for more than 2,... operations to be traced",
        ),
        (
            part_of("keras.layers", "Lambda", function=function_named("diff"), arguments={"n": 10**9, "axis": 1}),
            errors.OversizedFileError,
            "asks for more than 2,... operations to be traced",
        ),
        (
            part_of("keras.layers", "SimpleRNN", units=1, unroll=True),
            errors.UnreadableFileError,
            "calls 'SimpleRNN', unrolled, for outputs without number",
        ),
    ],
    ids=["many rounds", "many rounds of a function", "a tensor that is taken apart"],
)
def test_a_loop_that_is_traced_round_by_round(inner, error, text, source, monkeypatch):
    monkeypatch.setattr(_bounds, "OBJECTS_FLOOR", 200)  # and not 20,000, which takes a minute
    shape = [None, 10**9, 2]
    pipeline = part_of("keras.layers", "Pipeline", name="last", layers=[inner])
    config = graph_of(pipeline, tensor_of("input", shape), shape=shape)
    config["config"]["layers"][1]["inbound_nodes"][0]["kwargs"] = {"training": True}
    refused(forging.forge(source, lambda _: config), error, text)


@item(36)
def test_a_call_of_very_many_tensors(source):
    layer = part_of("keras.layers", "Concatenate", name="last", axis=1)
    forged = forging.forge(source, lambda _: graph_of(layer, [tensor_of("input")] * 5_000))
    refused(forged, errors.UnreadableFileError, "its graph calls 'last' on 5,000 tensors, not on 1 to 4,000")


@item(37)
def test_a_backbone_of_very_many_layers(tmp_path, monkeypatch):
    backbone = pytest.importorskip("keras_hub.models").BertBackbone
    sizes = {"vocabulary_size": 5, "num_heads": 1, "hidden_dim": 2, "intermediate_dim": 2, "max_sequence_length": 4}
    backbone(num_layers=1, **sizes).save(tmp_path / "bert.keras")
    forged = forging.forge(tmp_path / "bert.keras", lambda config: config["config"].update(num_layers=10**9))
    monkeypatch.setattr(_bounds, "OBJECTS_FLOOR", 500)  # and not 20,000, which takes ten seconds
    refused(forged, errors.OversizedFileError, "asks for more than 50. layers, tensors and other objects")


# --- by chance -------------------------------------------------------------------------------------------------------

# More of them: KWRAP_FUZZ=100 pytest tests/test_safety.py
TIMES = int(os.environ.get("KWRAP_FUZZ", "1"))
CHECKED = {"configs": 120, "archives": 120, "weights": 80}


def by_chance(count: int):
    return settings(
        max_examples=count * TIMES,
        deadline=None,
        database=None,
        derandomize=TIMES == 1,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def loaded_or_refused(path: Path, count: dict[str, int]) -> None:
    """Load a file: a model or an error of kwrap's, and so `kwrap inspect`, which runs none of it."""
    try:
        kwrap.load_model(path, compile=bool(count["cases"] % 2))
        count["loaded"] += 1
    except errors.KwrapError:
        pass
    count["cases"] += 1
    result = CliRunner().invoke(main, ["inspect", "--json", str(path)])
    assert result.exit_code in (0, 2), result.exception
    assert isinstance(result.exception, SystemExit | None)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", CHECKED)
def test_a_file_changed_by_chance_is_loaded_or_refused_by_a_typed_error(what, source):
    members = forging.members_of(source)
    changed = {
        "configs": forging.changes(json.loads(members["config.json"])),
        "archives": forging.damages(source.read_bytes()),
        "weights": forging.damages(members["model.weights.h5"]),
    }[what]
    count = {"cases": 0, "loaded": 0}
    path = source.with_name("changed.keras")

    @by_chance(CHECKED[what])
    @given(changed)
    def run(change):
        if what == "archives":
            path.write_bytes(change)
        else:
            name, data = (
                ("config.json", json.dumps(change).encode()) if what == "configs" else ("model.weights.h5", change)
            )
            forging.write(path, {**members, name: data}.items())
        loaded_or_refused(path, count)

    run()
    assert count["cases"] >= CHECKED[what] * TIMES
    assert 0 < count["loaded"] < count["cases"]


def test_the_documents_counts_of_cases_are_those_of_the_tests():
    text = DOCUMENT.read_text()
    assert all(f"{count} {what}" in text for what, count in CHECKED.items())
    assert f"{len(ITEMS)} rows" in text
