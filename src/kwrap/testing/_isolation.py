"""A registry and installed plugins of a test's own, taken back when it ends."""

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from keras.saving import get_custom_objects

from kwrap import _registry
from kwrap._plugins import plugins
from kwrap._targets import weight_targets

__all__ = ["install_plugin", "isolated_registry"]


@contextmanager
def isolated_registry() -> Iterator[None]:
    """Inside the context, hooks, weight targets, Keras' registered objects and the state of plugins are one's own.

    What was there before is there; what is added, replaced or blocked inside is gone afterwards.
    """
    tables: list[dict[Any, Any]] = [_registry._definitions, weight_targets._registered, get_custom_objects()]
    tables += [plugins._blocked, plugins._managers, plugins._errors]
    before = [dict(table) for table in tables]
    try:
        yield
    finally:
        for table, content in zip(tables, before, strict=True):
            table.clear()
            table.update(content)


@contextmanager
def install_plugin(
    folder: str | Path, name: str, source: str, *, distribution: str | None = None, version: str = "1.0"
) -> Iterator[str]:
    """Install a plugin as pip leaves one: a module of this source, and metadata with an entry point that names it.

    A real folder on `sys.path`, and in `PYTHONPATH` for processes that are started inside the context.

    Args:
        folder: an empty folder, such as pytest's `tmp_path`.
        name: the plugin's name.
        source: the module's text.
        distribution: the name for pip; default: `kwrap-<name>`.

    Yields the name of the module, which is imported when kwrap loads it.
    """
    folder = Path(folder)
    distribution = distribution or f"kwrap-{name.replace('_', '-')}"
    module = distribution.replace("-", "_")
    metadata = folder / f"{module}-{version}.dist-info"
    metadata.mkdir()
    (folder / f"{module}.py").write_text(source)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    (metadata / "entry_points.txt").write_text(f"[kwrap]\n{name} = {module}\n")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), before]))
    sys.path.insert(0, str(folder))
    try:
        _look_again()
        with isolated_registry():
            yield module
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop(module, None)
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
        _look_again()


def _look_again() -> None:
    importlib.invalidate_caches()
    plugins.rescan()
