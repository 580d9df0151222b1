import io
import json
import os
import random
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from kwrap_files import BadFileError, Contents, OversizedError, format_of, hooks_of, in_bytes, parts_of, read_contents

from . import forging

MIB = 1 << 20


def members(source: Path) -> dict[str, bytes]:
    return forging.members_of(source)


def weights(fill) -> bytes:
    """Return an HDF5 file that `fill` writes into."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        fill(file)
    return buffer.getvalue()


def with_weights(source: Path, fill) -> Path:
    return forging.write(source, {**members(source), "model.weights.h5": weights(fill)}.items())


# --- what it tells of a good file ------------------------------------------------------------------------------------


def test_reading_needs_neither_kwrap_nor_keras_nor_tensorflow(source):
    code = """
import sys
from kwrap_files import hooks_of, read_contents
print(len(hooks_of(read_contents(sys.argv[1]).config)), {"kwrap", "keras", "tensorflow"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code, str(source)], capture_output=True, text=True, check=True)
    assert done.stdout == "3 set()\n"


def test_it_tells_kind_config_metadata_and_sizes(source):
    contents = read_contents(source)
    assert isinstance(contents, Contents)
    assert (contents.kind, contents.config["class_name"]) == ("keras", "Functional")
    assert contents.metadata["keras_version"].startswith("3.")
    assert contents.size == source.stat().st_size
    assert contents.declared == sum(len(data) for data in members(source).values())
    assert contents.limit == 256 * MIB


def test_the_limit_grows_with_the_file_and_is_the_callers_where_given(source):
    noise = random.Random(0).randbytes(4 * MIB)
    forging.write(source, {**members(source), "assets/noise": noise}.items())
    assert read_contents(source).limit == 100 * source.stat().st_size > 256 * MIB
    assert read_contents(source, max_size=5 * MIB).limit == 5 * MIB
    with pytest.raises(OversizedError, match=r"its members declare 4\.0 MiB, and 1\.0 MiB is the limit") as raised:
        read_contents(source, max_size=MIB)
    assert (raised.value.limit, raised.value.declared > 4 * MIB) == (MIB, True)


def test_hooks_are_told_with_path_plugin_version_and_options_in_the_files_order(source):
    hooks = hooks_of(read_contents(source).config)
    assert [(hook.path, hook.hook, hook.version, hook.plugin) for hook in hooks] == [
        ("outer/inner", "specimen_times", 1, None),
        ("dense", "specimen_times", 1, None),
        ("dense", "specimen_adapter", 1, None),
    ]
    assert hooks[0].options["factor"] == 0.5
    assert format_of(read_contents(source).config) == 1


def test_parts_come_parents_first_in_the_files_order():
    config = {"a": {"b": [{"c": 1}, 2]}, "d": {}}
    assert list(parts_of(config)) == [config, {"b": [{"c": 1}, 2]}, {"c": 1}, {}]
    assert format_of(config) is None


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (3 << 30, "3.0 GiB"), (1 << 60, "1048576.0 TiB")],
)
def test_sizes_are_shown_in_units(count, text):
    assert in_bytes(count) == text


# --- archives --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"", b"x", b"PK\x05\x06" + 18 * b"\0", b"\x89HDF\r\n\x1a\n", random.Random(0).randbytes(5000)]
)
def test_what_is_no_archive_is_bad(data, tmp_path):
    (tmp_path / "model.keras").write_bytes(data)
    with pytest.raises(BadFileError):
        read_contents(tmp_path / "model.keras")


def test_a_file_cut_off_anywhere_is_bad(source):
    data = source.read_bytes()
    for end in range(0, len(data), 97):
        source.write_bytes(data[:end])
        with pytest.raises(BadFileError):
            read_contents(source)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize("name", ["config.json", "model.weights.h5", "assets/vocabulary.txt"])
def test_a_member_that_is_there_twice_is_bad(name, source):
    twice = [*members(source).items(), ("assets/vocabulary.txt", b""), (name, b"{}")]
    forging.write(source, twice)
    with pytest.raises(BadFileError, match=f"it holds '{name}' 2 times"):
        read_contents(source)


@pytest.mark.parametrize("name", ["../out", "assets/../../out", "/etc/out", "C:/out", "..\\out", "assets\\..\\..\\out"])
def test_a_member_that_would_lie_outside_is_bad(name, source):
    forging.write(source, [*members(source).items(), (name, b"")])
    with pytest.raises(BadFileError, match="would lie outside of it"):
        read_contents(source)


def test_a_member_that_is_a_link_is_bad(source):
    link = zipfile.ZipInfo("assets/link")
    link.external_attr = 0o120777 << 16
    forging.write(source, [*members(source).items(), (link, b"/etc/passwd")])
    with pytest.raises(BadFileError, match="is a link"):
        read_contents(source)


def test_an_encrypted_member_is_bad(source):
    data = source.read_bytes()
    at = data.index(b"PK\x01\x02")
    source.write_bytes(data[: at + 8] + struct.pack("<H", 1) + data[at + 10 :])
    with pytest.raises(BadFileError, match="is encrypted"):
        read_contents(source)


def test_members_that_inflate_beyond_the_limit_are_not_inflated(source):
    forging.write(source, [*members(source).items(), ("assets/zeros", bytes(300 * MIB))], zipfile.ZIP_DEFLATED)
    assert source.stat().st_size < MIB
    with pytest.raises(OversizedError, match=r"its members declare 300\.0 MiB"):
        read_contents(source)


def test_a_member_that_inflates_to_more_than_it_declares_is_read_no_further(source):
    forging.write(source, {**members(source), "config.json": b" " * 50 * MIB + b"{}"}.items(), zipfile.ZIP_DEFLATED)
    data = bytearray(source.read_bytes())
    declared = struct.pack("<I", 50 * MIB + 2)
    while (at := data.find(declared)) >= 0:
        data[at : at + 4] = struct.pack("<I", 1000)
    source.write_bytes(data)
    with pytest.raises(BadFileError, match="Bad CRC-32"):
        read_contents(source)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (b"", "config.json cannot be read"),
        (b"{", "config.json cannot be read"),
        (b"[]", "config.json is no JSON object"),
        (b"\xff\xfe{}", "cannot be read"),
        (b'{"a":' * 200_000, "config.json is nested too deeply"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "config.json cannot be read"),
    ],
    ids=["empty", "cut off", "a list", "no text", "nested", "a long number"],
)
def test_a_config_that_is_no_json_object_is_bad(config, text, source):
    forging.write(source, {**members(source), "config.json": config}.items())
    with pytest.raises(BadFileError, match=text):
        read_contents(source)


def test_a_config_beyond_16_mib_is_not_parsed(source):
    config = b'{"a": "' + b"a" * 16 * MIB + b'"}'
    forging.write(source, {**members(source), "config.json": config}.items())
    with pytest.raises(OversizedError, match=r"its config\.json declares 16\.0 MiB, and 16\.0 MiB is the limit"):
        read_contents(source)


@pytest.mark.parametrize("name", ["config.json", "model.weights.h5"])
def test_an_archive_without_what_a_model_needs_is_bad(name, source):
    forging.write(source, [member for member in members(source).items() if member[0] != name])
    with pytest.raises(BadFileError, match=f"there is no {name} in it"):
        read_contents(source)


# --- weights ---------------------------------------------------------------------------------------------------------


def test_datasets_that_declare_more_than_the_limit_are_not_read(source):
    def fill(file):
        file.create_dataset("bomb", shape=(1 << 20, 1 << 20), dtype="float32", chunks=(1, 1024), fillvalue=1)

    with_weights(source, fill)
    assert source.stat().st_size < MIB
    with pytest.raises(OversizedError, match=r"the weights declare 4\.0 TiB"):
        read_contents(source)


def test_many_datasets_are_added_up(source):
    def fill(file):
        for place in range(300):
            file.create_dataset(f"at_{place}", shape=(1 << 18,), dtype="float32", chunks=(1024,))

    with_weights(source, fill)
    with pytest.raises(OversizedError, match="the weights declare 257"):
        read_contents(source)


def test_datasets_of_texts_of_any_length_are_not_read(source):
    def fill(file):
        file.create_dataset("texts", data=["long"] * 3, dtype=h5py.string_dtype())

    with pytest.raises(BadFileError, match="'texts' among the weights is not of numbers"):
        read_contents(with_weights(source, fill))


@pytest.mark.parametrize("name", ["many", "layer_names"])
def test_attributes_that_are_lists_of_texts_of_any_length_are_not_read(name, source):
    def fill(file):
        file.create_group("layers").attrs["one"] = "text"
        file["layers"].attrs[name] = ["a", "b"]

    with pytest.raises(BadFileError, match=f"'{name}' of the weights is a list of texts without sizes"):
        read_contents(with_weights(source, fill))


def test_a_chunk_counts_as_a_whole(source):
    def fill(file):
        file.create_dataset("data", shape=(1,), maxshape=(None,), chunks=(1 << 27,), dtype="float32")

    with pytest.raises(OversizedError, match=r"the weights declare 512\.0 MiB"):
        read_contents(with_weights(source, fill))


def leads(kind):
    def fill(file):
        if kind == "soft link":
            file["layers"] = h5py.SoftLink("/elsewhere")
        elif kind == "external link":
            file["layers"] = h5py.ExternalLink("/etc/passwd", "/")
        elif kind == "external storage":
            file.create_dataset("data", shape=(4,), dtype="uint8", external=[("/etc/passwd", 0, 4)])
        else:
            layout = h5py.VirtualLayout(shape=(4,), dtype="uint8")
            layout[:] = h5py.VirtualSource("/etc/passwd", "data", shape=(4,))
            file.create_virtual_dataset("data", layout)

    return fill


@pytest.mark.parametrize("kind", ["soft link", "external link", "external storage", "virtual dataset"])
def test_weights_that_lead_out_of_the_file_are_bad(kind, source):
    with_weights(source, leads(kind))
    with pytest.raises(BadFileError, match=r"is a link to elsewhere|lies in another file"):
        read_contents(source)


def test_groups_that_hold_each_other_are_walked_once(source):
    def fill(file):
        group = file.create_group("a/b")
        group["again"] = file["a"]
        group["data"] = np.zeros(3, "float32")

    assert read_contents(with_weights(source, fill)).kind == "keras"


def test_weights_cut_off_are_bad(source):
    data = members(source)["model.weights.h5"]
    for end in range(0, len(data) - 1, 401):
        forging.write(source, {**members(source), "model.weights.h5": data[:end]}.items())
        with pytest.raises(BadFileError, match="the weights cannot be read"):
            read_contents(source)


# --- folders and h5 --------------------------------------------------------------------------------------------------


def folder_of(source: Path) -> Path:
    folder = source.parent / "folder"
    with zipfile.ZipFile(source) as archive:
        archive.extractall(folder)
    return folder


def test_a_folder_tells_what_its_archive_does(source):
    folder, archive = read_contents(folder_of(source)), read_contents(source)
    assert (folder.kind, folder.config, folder.metadata) == ("folder", archive.config, archive.metadata)


def test_a_config_in_a_folder_inside_is_not_read_for_the_models(source):
    folder, archive = folder_of(source), read_contents(source)
    for name in ("assets", "a", "z"):
        (folder / name).mkdir(exist_ok=True)
        for file in ("config.json", "metadata.json"):
            (folder / name / file).write_text('{"harmless": true}')
    contents = read_contents(folder)
    assert (contents.config, contents.metadata) == (archive.config, archive.metadata)


def test_a_link_in_a_folder_is_bad(source):
    folder = folder_of(source)
    (folder / "assets").symlink_to("/etc")
    with pytest.raises(BadFileError, match="'assets' in it is a link"):
        read_contents(folder)


def test_a_folder_without_a_model_is_bad(tmp_path):
    with pytest.raises(BadFileError, match=r"it is a folder without config\.json"):
        read_contents(tmp_path)


def test_an_h5_file_tells_its_config_or_that_it_holds_weights_alone(tmp_path):
    path = tmp_path / "model.h5"
    path.write_bytes(weights(lambda file: file.attrs.update(model_config=json.dumps({"class_name": "Sequential"}))))
    assert (read_contents(path).kind, read_contents(path).config) == ("h5", {"class_name": "Sequential"})
    path.write_bytes(weights(lambda file: file.create_group("layers")))
    with pytest.raises(BadFileError, match="it holds no model: weights alone"):
        read_contents(path)


def h5(path: Path, **attributes: object) -> Path:
    path.write_bytes(weights(lambda file: file.attrs.update(attributes)))
    return path


def test_an_h5_file_tells_how_its_model_is_compiled(tmp_path):
    training = {"optimizer_config": {"class_name": "Adam", "config": {}}}
    path = h5(tmp_path / "model.h5", model_config='{"class_name": "A"}', training_config=json.dumps(training))
    contents = read_contents(path)
    assert contents.training == training
    assert contents.configs == [{"class_name": "A"}, training]


@pytest.mark.parametrize("name", ["model_config", "training_config"])
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (json.dumps({"a": "a" * 16 * MIB}), r"declares 16\.0 MiB, and 16\.0 MiB is the limit"),
        ("[1]", "is no JSON object"),
        ("{", "cannot be read"),
        (7, "is no text"),
    ],
    ids=["large", "a list", "cut off", "a number"],
)
def test_a_config_in_an_h5_file_that_is_no_json_object_or_beyond_16_mib_is_bad(name, value, text, tmp_path):
    path = h5(tmp_path / "model.h5", **{"model_config": "{}", name: value})
    with pytest.raises(BadFileError, match=f"{name} {text}"):
        read_contents(path)


def test_a_file_that_is_hdf5_and_zip_in_one_is_bad(source):
    path = h5(source.with_name("model.h5"), model_config="{}")
    path.write_bytes(path.read_bytes() + source.read_bytes())
    with pytest.raises(BadFileError, match="an HDF5 file and a zip archive in one"):
        read_contents(path)


def test_a_pipe_is_no_file_and_is_not_waited_for(tmp_path, source):
    os.mkfifo(tmp_path / "pipe.keras")
    with pytest.raises(BadFileError, match="it is no regular file"):
        read_contents(tmp_path / "pipe.keras")
    folder = folder_of(source)
    os.mkfifo(folder / "assets")
    with pytest.raises(BadFileError, match="'assets' in it is no regular file"):
        read_contents(folder)


# --- records of hooks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["hook", "version", "plugin", "plugin_version", "config"])
@pytest.mark.parametrize("value", [3.5, ["x"]])
def test_a_damaged_record_of_a_hook_is_bad(key, value, source):
    config = json.loads(members(source)["config.json"])
    for part in forging.parts(config):
        if part.get("hook") == "specimen_adapter":
            part[key] = value
    with pytest.raises(BadFileError, match=f"a record of hooks in it is damaged: '{key}' is"):
        hooks_of(config)


def test_a_plugins_command_for_the_terminal_is_no_way_to_name_a_package():
    from kwrap.errors import MissingPluginError

    version = "\x1b[2Jevil 1.0"
    assert "\x1b" not in str(MissingPluginError("prune", "a", "prune", version, "which is not here"))
