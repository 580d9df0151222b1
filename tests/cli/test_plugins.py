from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import kwrap
from kwrap_cli import main

Rows = Callable[[], dict[str, list[str]]]


def install(folder: Path, package: str, version: str, entry_points: str) -> None:
    """Write what pip leaves of a package that importlib.metadata reads; no module is needed to list a plugin."""
    info = folder / f"{package.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
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


def test_the_status_names_the_variable(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KWRAP_PLUGINS", "alpha")
    monkeypatch.setenv("KWRAP_BLOCK", "alpha")
    table = rows()
    assert table["alpha"][-1] == "blocked by KWRAP_BLOCK"
    assert table["beta"][-1] == "off: not in KWRAP_PLUGINS"
