"""Model files and a way to run the command line on them, in this process."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from click.testing import CliRunner, Result

import kwrap
from kwrap_cli import main


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `plain.keras`, and `wrapped.keras`, with prune (half) on conv and noise on logits."""
    folder = tmp_path_factory.mktemp("models")
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(4, 3, name="conv"),
            layers.Flatten(name="flatten"),
            layers.Dense(3, name="logits"),
        ],
        name="small",
    )
    model.save(folder / "plain.keras")
    kwrap.wrap_model(model, [kwrap.use("prune").at("conv"), kwrap.use("noise", stddev=0.5).at("logits")])
    model.save(folder / "wrapped.keras")
    (folder / "junk.keras").write_bytes(b"no archive at all")
    np.save(folder / "images.npy", np.ones((2, 6, 6, 1), "float32"))
    return folder


@pytest.fixture
def run(models: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return a function that runs `kwrap` with arguments in the folder of `models`."""
    monkeypatch.chdir(models)

    def run(*arguments: str) -> Result:
        return CliRunner(env={"COLUMNS": "120"}).invoke(main, arguments, prog_name="kwrap", catch_exceptions=False)

    return run


@pytest.fixture
def data(run: Callable[..., Result]) -> Callable[..., Any]:
    """Return a function that runs `kwrap ... --json`, and returns what it prints as data."""

    def data(*arguments: str, code: int = 0) -> Any:
        result = run(*arguments, "--json")
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)

    return data


@pytest.fixture
def refused(run: Callable[..., Result]) -> Callable[..., str]:
    """Return a function that runs `kwrap`, expects one line of error and exit code 2, and returns the line."""

    def refused(*arguments: str) -> str:
        files = set(os.listdir())
        result = run(*arguments)
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        (line,) = [text for text in result.stderr.splitlines() if text and not text.startswith(("Usage", "Try"))]
        assert line.startswith("Error: ")
        assert set(os.listdir()) == files  # nothing was written
        return line

    return refused
