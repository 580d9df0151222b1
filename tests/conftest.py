"""What tests of several modules use: plugins as pip leaves them, a saved model, hooks that cannot be had."""

import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kwrap import Hook, _plugins, _registry

from . import forging

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


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a model with hooks; tests leave it as it is."""
    return forging.saved_model(tmp_path_factory.mktemp("saved"))


@pytest.fixture
def source(saved: Path, tmp_path: Path) -> Path:
    """Return a copy of `saved` in the test's own folder."""
    return Path(shutil.copy(saved, tmp_path))


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that takes hooks, which were there when a model was saved, out of the registry."""

    def forget(*hooks: type[Hook]) -> None:
        for key, known in list(_registry._definitions.items()):
            if known in hooks:
                monkeypatch.delitem(_registry._definitions, key)

    return forget
