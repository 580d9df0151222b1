"""What `kwrap new-plugin` writes, as its author has it: installed in a fresh environment, tested, linted, typed."""

import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from kwrap_cli import main

ROOT = Path(__file__).parents[2]
NAME = "l2_norm"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a package that was just made."""
    folder = tmp_path_factory.mktemp("made") / "package"
    result = CliRunner().invoke(main, ["new-plugin", NAME, "--folder", str(folder)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, package: Path) -> Run:
    """Return a function that runs a Python module in the package's folder, in a fresh environment that has the package.

    The package is installed by pip as its author would. All else, kwrap and TensorFlow above all, is read from where
    it is installed here.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    site_packages = next(folder.glob("lib/python*/site-packages"))
    here = [entry for entry in sys.path if entry.endswith("-packages")]
    (site_packages / "here.pth").write_text("\n".join([*here, str(ROOT / "src")]))
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "KWRAP_BLOCK")}
    # The plugins of this repository have their metadata here, and not their modules.
    environment["KWRAP_PLUGINS"] = NAME

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [folder / "bin" / "python", "-m", *arguments]
        done = subprocess.run(command, cwd=package, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    run("pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--no-compile", ".")
    return run


def test_it_is_installed_and_passes_its_tests_as_it_is(run: Run) -> None:
    lines = run("pytest", "-q", "-p", "no:cacheprovider", "-rs").stdout.splitlines()
    assert " passed" in lines[-1]
    assert int(lines[-1].split()[0]) >= 40  # the contract of a hook, on two layers


@pytest.mark.parametrize("arguments", [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)])
def test_it_is_clean_by_its_own_settings(run: Run, arguments: tuple[str, ...]) -> None:
    run(*arguments)


def test_it_is_listed_as_what_it_is(run: Run) -> None:
    rows = {row["plugin"]: row for row in json.loads(run("kwrap_cli", "plugins", "--json").stdout)["plugins"]}
    assert list(rows[NAME].values()) == [NAME, "kwrap-l2-norm", "0.1.0", "kwrap_l2_norm", "on"]
