"""Distributions with plugins, as pip leaves them on the path: a module, and metadata that name it."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kwrap import _plugins

# Not the real group: kwrap's own plugins are installed beside it while it is developed.
GROUP = "kwrap-under-test"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Return a function that installs a plugin of the given source; it returns the name of the plugin's module."""
    monkeypatch.setattr(_plugins, "GROUP", GROUP)
    monkeypatch.syspath_prepend(tmp_path)
    installed = set()

    def install(
        name: str, source: str = "", *, distribution: str | None = None, version: str = "1.0", requires: str = ""
    ) -> str:
        distribution = distribution or f"dist-{name}"
        module = f"module_of_{distribution.replace('-', '_')}"
        (tmp_path / f"{module}.py").write_text(source)
        metadata = tmp_path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        metadata.mkdir()
        needed = f"Requires-Dist: {requires}\n" if requires else ""
        text = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n{needed}"
        (metadata / "METADATA").write_text(text)
        (metadata / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {module}\n")
        importlib.invalidate_caches()
        installed.add(module)
        return module

    yield install
    for module in installed:
        sys.modules.pop(module, None)
    _plugins.plugins.rescan()  # which may have looked in the wrong group


@pytest.fixture
def plugins(install: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> _plugins.Plugins:
    """Return kwrap's plugins as in a new process: nothing loaded or blocked, nothing set in the environment."""
    monkeypatch.delenv("KWRAP_PLUGINS", raising=False)
    monkeypatch.delenv("KWRAP_BLOCK", raising=False)
    return _plugins.Plugins()
