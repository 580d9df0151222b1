import json
import tempfile
import textwrap
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import kwrap
from kwrap_cli import main

Rows = Callable[[], dict[str, list[str]]]


def install(folder: Path, package: str, version: str, entry_points: str, requires: str = "") -> None:
    """Write what pip leaves of a package that importlib.metadata reads; no module is needed to list a plugin."""
    info = folder / f"{package.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    needed = f"Requires-Dist: {requires}\n" if requires else ""
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n{needed}")
    (info / "entry_points.txt").write_text(f"[kwrap]\n{entry_points}\n")


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rows]:
    """Give a function that runs `kwrap plugins` with three more plugins than there are: its rows by plugin name."""
    install(tmp_path, "kwrap-alpha", "1.2", "alpha = kwrap_alpha")
    install(tmp_path, "kwrap-greek", "0.3", "beta = kwrap_greek.beta\ngamma = kwrap_greek.gamma")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("COLUMNS", "120")
    for variable in ("KWRAP_PLUGINS", "KWRAP_BLOCK"):
        monkeypatch.delenv(variable, raising=False)

    def run() -> dict[str, list[str]]:
        output = CliRunner().invoke(main, ["plugins"], catch_exceptions=False).output
        lines = [[cell.strip() for cell in line.strip("│").split("│")] for line in output.splitlines() if "│" in line]
        return {name: cells for name, *cells in lines}

    yield run
    kwrap.plugins.rescan()  # Forget the three.


def test_each_plugin_is_listed_with_its_package_version_and_module(rows: Rows) -> None:
    table = rows()
    assert table["alpha"] == ["kwrap-alpha", "1.2", "kwrap_alpha", "on"]
    assert table["beta"] == ["kwrap-greek", "0.3", "kwrap_greek.beta", "on"]


def test_plugins_are_listed_in_name_order(rows: Rows) -> None:
    assert list(rows()) == sorted(rows())


def test_two_packages_with_one_plugin_name_are_both_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "kwrap-one", "1.0", "same = kwrap_one")
    install(tmp_path, "kwrap-two", "1.0", "same = kwrap_two")
    monkeypatch.syspath_prepend(str(tmp_path))
    output = CliRunner().invoke(main, ["plugins"]).output
    assert "kwrap-one" in output
    assert "kwrap-two" in output


def test_without_a_plugin_it_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    result = CliRunner().invoke(main, ["plugins"])
    assert result.exit_code == 0
    assert "pip install plugins/kwrap-prune" in result.output


@pytest.mark.parametrize(
    ("environment", "off"),
    [
        ({}, set()),
        ({"KWRAP_BLOCK": "alpha, gamma"}, {"alpha", "gamma"}),
        ({"KWRAP_PLUGINS": "alpha,beta", "KWRAP_BLOCK": "beta"}, {"beta", "gamma"}),
        ({"KWRAP_PLUGINS": ""}, {"alpha", "beta", "gamma"}),
        ({"KWRAP_BLOCK": ""}, set()),
    ],
)
def test_the_status_says_what_the_environment_switches_off_as_kwrap_itself_does(
    rows: Rows, environment: dict[str, str], off: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    table = rows()
    assert {name for name in ("alpha", "beta", "gamma") if table[name][-1] != "on"} == off

    kwrap.plugins.rescan()
    blocked = {plugin.name for plugin in kwrap.plugins.list() if plugin.status == "blocked"}
    assert blocked == {name for name, cells in table.items() if cells[-1] != "on"}


@pytest.mark.parametrize("requires", ["kwrap>=99", "kwrap==99 ; extra == 'x'", "kwrap>=0.1", "keras>=99", ">=", ""])
def test_the_status_says_which_kwrap_a_plugin_needs_as_kwrap_itself_does(
    rows: Rows, tmp_path: Path, requires: str
) -> None:
    install(tmp_path, "kwrap-late", "1.0", "late = kwrap_late", requires)
    status = rows()["late"][-1]
    kwrap.plugins.rescan()
    (plugin,) = (plugin for plugin in kwrap.plugins.list() if plugin.name == "late")
    assert (plugin.status == "incompatible") == (status != "on")
    expected = f"off: needs kwrap>=99, and this is {version('kwrap')}" if requires == "kwrap>=99" else "on"
    assert status == expected


def test_json_has_what_the_table_has(rows: Rows) -> None:
    table = rows()
    shown = json.loads(CliRunner().invoke(main, ["plugins", "--json"], catch_exceptions=False).output)["plugins"]
    assert {row["plugin"]: list(row.values())[1:] for row in shown} == table
    assert list(shown[0]) == ["plugin", "package", "version", "module", "status"]


# --- --check ---------------------------------------------------------------------------------------------------------

CHECKED = {
    "sound": """
        import keras, kwrap

        @kwrap.hook(layer_type=keras.layers.Dense)
        def check_double(call_next, inputs, *, factor=2.0):
            return call_next(factor * inputs)

        @kwrap.hook(layer_type=keras.layers.Layer)
        class CheckNeedy(kwrap.Hook):
            def __init__(self, rank, **kwargs):
                super().__init__(**kwargs)
    """,
    "failing": """
        import keras, kwrap

        @kwrap.hook(layer_type=keras.layers.Embedding)
        class CheckWide(kwrap.Hook):
            def call(self, call_next, inputs):
                outputs = call_next(inputs)
                return keras.ops.concatenate([outputs, outputs])

        @kwrap.hook(layer_type=keras.layers.LSTM)
        class CheckNan(kwrap.Hook):
            def parametrize(self, target, value, *, training):
                return value / 0.0 * 0.0

        @kwrap.hook(layer_type=keras.layers.Layer)
        class CheckConfig(kwrap.Hook):
            def get_config(self):
                raise RuntimeError("no config")

        @kwrap.hook(layer_type=keras.layers.Layer)
        class CheckRaising(kwrap.Hook):
            def __init__(self, **kwargs):
                super().__init__(**kwargs)
                raise RuntimeError("not today")
    """,
    "breaking": "import no_such_module",
}


@pytest.fixture(scope="module")
def checked() -> Iterator[dict[str, Any]]:
    """Return what `plugins --check --json` says with three more plugins, by plugin name; and the exit code."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for plugin, source in CHECKED.items():
            install(folder, f"kwrap-{plugin}", "1.0", f"{plugin} = checked_{plugin}")
            (folder / f"checked_{plugin}.py").write_text(textwrap.dedent(source))
        install(folder, "kwrap-late", "1.0", "late = checked_late", "kwrap>=99")
        patch.syspath_prepend(name)
        patch.setenv("KWRAP_BLOCK", "noise")
        kwrap.plugins.rescan()
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            result = CliRunner().invoke(main, ["plugins", "--check", "--json"])
        yield {row["plugin"]: row for row in json.loads(result.stdout)["plugins"]} | {"": result}
    kwrap.plugins.rescan()


def problems(row: dict[str, Any]) -> dict[str, str]:
    return {hook["hook"]: hook["problem"] for hook in row["hooks"]}


def test_check_names_the_hooks_of_each_plugin_and_finds_nothing_at_sound_ones(checked: dict[str, Any]) -> None:
    assert problems(checked["prune"]) == {"prune": ""}
    assert problems(checked["sound"]) == {"check_double": "", "check_needy": ""}
    assert checked["sound"]["status"] == "loaded"


def test_check_says_what_fails_at_a_hook(checked: dict[str, Any]) -> None:
    found = problems(checked["failing"])
    assert "on a Embedding: OutputChangedError: hook 'check_wide'" in found["check_wide"]
    assert found["check_nan"] == "on a LSTM, its output is not finite"
    assert found["check_config"] == "its config does not come back from itself: RuntimeError: no config"
    assert found["check_raising"] == "cannot be made: RuntimeError: not today"


def test_check_says_why_a_plugin_is_not_loaded(checked: dict[str, Any]) -> None:
    assert "it needs the module 'no_such_module'" in checked["breaking"]["problem"]
    assert "needs kwrap>=99, and this is kwrap" in checked["late"]["problem"]
    assert (checked["breaking"]["status"], checked["late"]["status"]) == ("broken", "incompatible")
    assert (checked["noise"]["status"], checked["noise"]["problem"]) == ("blocked by KWRAP_BLOCK", "")


def test_check_exits_with_1_if_something_is_broken(checked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert checked[""].exit_code == 1
    monkeypatch.setenv("KWRAP_PLUGINS", "prune,sound")
    result = CliRunner(env={"COLUMNS": "120"}).invoke(main, ["plugins", "--check"])
    assert result.exit_code == 0, result.output
    assert "check_double, check_needy" in result.output


def test_the_status_names_the_variable(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KWRAP_PLUGINS", "alpha")
    monkeypatch.setenv("KWRAP_BLOCK", "alpha")
    table = rows()
    assert table["alpha"][-1] == "blocked by KWRAP_BLOCK"
    assert table["beta"][-1] == "off: not in KWRAP_PLUGINS"
