"""What holds for every command: exit codes, one line for bad input, `--debug`, `--import`."""

import json
import os
import subprocess
import sys
import types
import warnings
import zipfile
from pathlib import Path

import absl.logging
import click
import keras
import pytest
from click.testing import CliRunner

import kwrap
from kwrap_cli import _command
from kwrap_cli._command import BadInput, Command, ModelCommand, import_kwrap

ON_A_FILE = [
    ("show",),
    ("plan",),
    ("wrap", "-o", "new.keras", "--hook", "noise"),
    ("unwrap", "-o", "new.keras"),
    ("bench",),
    ("diff", "plain.keras"),
]


@pytest.mark.parametrize("command", ON_A_FILE, ids=lambda command: command[0])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("junk.keras", "'junk.keras' cannot be loaded: it is neither a zip archive"),
        ("part.keras", "'part.keras' cannot be loaded: "),
        ("images.npy", "'images.npy' cannot be loaded: "),
        ("missing.keras", "'missing.keras' does not exist"),
        ("other.keras", "'other.keras' cannot be loaded: "),
        ("old.h5", "'old.h5' cannot be loaded: it is neither a zip archive"),
    ],
)
def test_a_file_that_is_no_model_is_refused(refused, models: Path, command, name, said):
    whole = (models / "plain.keras").read_bytes()
    (models / "part.keras").write_bytes(whole[: len(whole) // 2])
    (models / "old.h5").write_bytes(b"not an HDF5 file")
    with zipfile.ZipFile(models / "other.keras", "w") as archive:
        archive.writestr("notes.txt", "an archive of something else")
    assert said in refused(*command, name)


def test_a_model_that_needs_a_plugin_which_is_not_there_is_refused_with_its_package(refused, monkeypatch):
    monkeypatch.setenv("KWRAP_BLOCK", "prune")
    said = refused("show", "wrapped.keras")
    assert "hook 'prune' at " in said
    assert "needs plugin 'prune' (kwrap-prune" in said
    assert "which is blocked" in said


MINE = """
import keras, kwrap

@keras.saving.register_keras_serializable(package="cli_mine")
class Double(keras.layers.Layer):
    def call(self, inputs):
        return 2 * inputs

@kwrap.hook(layer_type=keras.layers.Layer, name="cli_imported")
def mine(call_next, inputs, *, factor=1.0):
    return factor * call_next(inputs)
"""


@pytest.fixture
def own_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a model file with a layer of the user's own, of a module beside it that nobody has imported."""
    namespace = {"__name__": "cli_own_classes"}
    monkeypatch.setitem(sys.modules, "cli_own_classes", type(sys)("cli_own_classes"))
    exec(MINE.partition("@kwrap.hook")[0], namespace)
    model = keras.Sequential([keras.Input((2,)), namespace["Double"](name="double")])
    model.save(tmp_path / "own.keras")
    keras.saving.get_custom_objects().pop("cli_mine>Double")
    (tmp_path / "cli_own_classes.py").write_text(MINE)
    del sys.modules["cli_own_classes"]
    return tmp_path / "own.keras"


def test_a_class_that_nobody_registered_is_refused_and_import_is_the_way_out(refused, data, own_classes, monkeypatch):
    said = refused("show", str(own_classes))
    assert "names 'cli_own_classes.Double'" in said
    assert said.endswith("On the command line: --import MODULE, the module that registers them.")
    monkeypatch.chdir(own_classes.parent)
    before = list(sys.path)
    shown = data("plan", "own.keras", "--import", "cli_own_classes", "--hook", "cli_imported:factor=2")
    assert shown["entries"][0]["hooks"][0]["config"]["factor"] == 2
    assert sys.path == before


def test_a_module_that_cannot_be_imported_is_refused(refused):
    assert "--import no_such_module: ModuleNotFoundError" in refused(
        "show", "plain.keras", "--import", "no_such_module"
    )


def test_a_module_that_exits_when_it_is_imported_is_refused(refused, tmp_path, monkeypatch):
    (tmp_path / "cli_exits.py").write_text("raise SystemExit(0)")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "--import cli_exits: SystemExit: 0" in refused("show", "plain.keras", "--import", "cli_exits")


@pytest.mark.parametrize("command", [("wrap", "plain.keras", "--hook", "noise"), ("unwrap", "wrapped.keras")])
@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("nowhere/out.keras", "nowhere is no folder"),
        ("images.npy/out.keras", "images.npy is no folder"),
        ("out.h5", "out.h5 is no .keras file by its name"),
        ("folder.keras", "folder.keras is a folder"),
    ],
)
def test_a_target_that_cannot_be_written_is_refused(refused, models: Path, command, output, said):
    (models / "folder.keras").mkdir(exist_ok=True)
    assert said in refused(*command, "-o", output, "--force")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder in which nobody can write")
def test_what_the_system_does_not_let_write_is_refused(refused):
    assert "'/proc/out.keras' was not written: No such file or directory. What was there" in refused(
        "wrap", "plain.keras", "-o", "/proc/out.keras", "--hook", "noise"
    )


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(refused, tmp_path, monkeypatch):
    output = tmp_path / "out.keras"
    output.write_bytes(b"precious")

    def fail(model, path):
        Path(path).write_bytes(b"half a f")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keras.saving, "save_model", fail)
    said = refused("wrap", "plain.keras", "-o", str(output), "--hook", "noise", "--force")
    assert "was not written: No space left on device" in said
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("out.keras", b"precious")]


@pytest.mark.parametrize("arguments", [("--debug", "plan"), ("plan", "--debug")])
def test_debug_shows_the_traceback_above_the_line(run, arguments):
    result = run(*arguments, "plain.keras", "--hook", "prun")
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert any("UnknownHookError" in line for line in lines)
    assert lines[-1].startswith("Error: no hook is named 'prun'")


def invoke(function, *arguments: str):
    return CliRunner().invoke(Command("test", callback=function), arguments)


@pytest.mark.parametrize(
    "error", [BadInput("on\ntwo lines"), kwrap.errors.KwrapError("on\ntwo lines"), OSError("on two  lines")]
)
def test_bad_input_is_one_line_and_exit_code_2(error):
    def fail():
        raise error

    result = invoke(fail)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", "Error: on two lines\n")


@pytest.mark.parametrize("error", [ZeroDivisionError("a fault"), click.UsageError("usage"), click.exceptions.Exit(5)])
def test_a_fault_of_kwraps_own_and_what_click_raises_stay_what_they_are(error):
    def fail():
        raise error

    result = invoke(fail)
    assert result.exit_code == {ZeroDivisionError: 1, click.UsageError: 2}.get(type(error), 5)
    assert (result.exception is error) == isinstance(error, ZeroDivisionError)


def test_an_error_does_not_command_the_terminal():
    def fail():
        raise kwrap.errors.KwrapError("layer d\x1b[31mred")

    assert invoke(fail).stderr == "Error: layer d\\x1b[31mred\n"


def test_a_warning_is_one_line_on_stderr():
    def warn():
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = before_test_shows
            warnings.warn(kwrap.errors.PluginWarning("late", " is\nbroken"), stacklevel=1)

    before_test_shows = None

    def run():
        nonlocal before_test_shows
        before_test_shows = warnings.showwarning
        warn()

    result = invoke(run)
    assert (result.stdout, result.stderr) == ("", "Warning: plugin 'late' is broken\n")


@pytest.mark.parametrize("compiled", [True, False])
def test_an_h5_file_is_read_without_the_lines_that_keras_logs(run, models: Path, caplog, compiled):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)], name="old")
    if compiled:
        model.compile("adam", keras.losses.MeanSquaredError(), metrics=["mae"])
    model.save(models / "keras.h5")
    caplog.clear()
    result = run("show", "keras.h5", "--json")
    assert json.loads(result.stdout)["model"] == "old"
    assert (result.stderr, caplog.records) == ("", [])


def test_what_keras_logs_otherwise_is_a_warning_of_one_line(caplog):
    command = ModelCommand("test", callback=lambda: absl.logging.warning("on\ntwo %s", "lines"))
    assert CliRunner().invoke(command).stderr == "Warning: on two lines\n"
    assert caplog.records == []
    absl.logging.warning("as before")
    assert [record.message for record in caplog.records] == ["as before"]


def test_what_is_written_while_kwrap_is_imported_is_shown_only_if_that_fails(monkeypatch, capfd):
    def write(name):
        os.write(2, b"I0000 a line of TensorFlow's")

    monkeypatch.delitem(sys.modules, "kwrap")
    monkeypatch.setattr(_command, "importlib", types.SimpleNamespace(import_module=write))
    import_kwrap()
    assert capfd.readouterr().err == ""

    def fail(name):
        write(name)
        raise ImportError(name)

    monkeypatch.setattr(_command, "importlib", types.SimpleNamespace(import_module=fail))
    with pytest.raises(ImportError):
        import_kwrap()
    assert capfd.readouterr().err == "I0000 a line of TensorFlow's"


def test_in_a_process_of_its_own_stdout_is_json_alone_and_stderr_has_no_line_of_tensorflow(models: Path):
    code = "from kwrap_cli import main; main(['show', 'plain.keras', '--json'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=models, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["model"] == "small"
    assert done.stderr == ""


def test_in_a_process_of_its_own_bad_input_exits_with_2_and_one_line(tmp_path: Path):
    code = "from kwrap_cli import main; main(['new-plugin', 'class'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == ["Error: 'class' cannot be a plugin's name: it is a keyword of Python."]
