"""As pytest fixtures, for conftest.py: `from kwrap.testing.fixtures import install_plugin, isolated_registry`."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kwrap import testing

__all__ = ["install_plugin", "isolated_registry"]


@pytest.fixture
def isolated_registry() -> Iterator[None]:
    """Give a test a registry of its own: see `kwrap.testing.isolated_registry`."""
    with testing.isolated_registry():
        yield


@pytest.fixture
def install_plugin(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Return a function that installs a plugin until the test ends: `install_plugin(name, source)`."""
    with ExitStack() as stack:

        def install(name: str, source: str, *, distribution: str | None = None, version: str = "1.0") -> str:
            folder = tmp_path / f"plugin_{name}"
            folder.mkdir()
            installed = testing.install_plugin(folder, name, source, distribution=distribution, version=version)
            return stack.enter_context(installed)

        yield install
