"""Model files: read after a check, written whole, or not at all."""

import importlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from kwrap_cli._command import BadInput

if TYPE_CHECKING:
    import keras

__all__ = ["check_target", "import_modules", "load_model", "save_model"]


def import_modules(names: Iterable[str]) -> None:
    """Import modules of the user's own, from the current folder too."""
    import kwrap  # noqa: F401 - first, so that its errors are known

    for name in names:
        sys.path.insert(0, os.getcwd())
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:  # whatever that module raises
            raise BadInput(f"--import {name}: {type(error).__name__}: {error}") from error
        finally:
            sys.path.remove(os.getcwd())


def load_model(path: Path) -> "keras.Model":
    """Return the model of a file."""
    import kwrap

    try:
        return kwrap.load_model(path)
    except kwrap.errors.UnknownClassError as error:
        raise BadInput(f"{error} On the command line: --import MODULE, the module that registers them.") from error


def check_target(path: Path, *, force: bool) -> None:
    """Raise unless a file may be written at `path`; before the work whose result it is to hold."""
    if path.suffix != ".keras":
        raise BadInput(f"{path} is no .keras file by its name, and would not be read as one.")
    if path.is_dir():
        raise BadInput(f"{path} is a folder.")
    if path.exists() and not force:
        raise BadInput(f"{path} is there already: --force overwrites it.")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise BadInput(f"{path} cannot be written: {path.parent} is no folder.")
    if not os.access(folder, os.W_OK):
        raise BadInput(f"{path} cannot be written: no permission to write in {path.parent}.")


def save_model(model: "keras.Model", path: Path) -> None:
    """Write a model: a failure leaves what was at `path`."""
    import kwrap

    kwrap.save_model(model, path)
