"""Model files: read whole, or one line that says why not; written whole, or not at all."""

import importlib
import os
import re
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from kwrap_cli._command import BadInput

if TYPE_CHECKING:
    import keras

__all__ = ["check_target", "import_modules", "load_model", "save_model"]

_LONGEST_REASON = 300


def import_modules(names: Iterable[str]) -> None:
    """Import modules of the user's own, from the current folder too."""
    import kwrap  # noqa: F401 - first, so that its errors are known

    for name in names:
        sys.path.insert(0, os.getcwd())
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever that module raises
            raise BadInput(f"--import {name}: {type(error).__name__}: {error}") from error
        finally:
            sys.path.remove(os.getcwd())


def load_model(path: Path) -> "keras.Model":
    """Return the model of a file."""
    import keras

    import kwrap
    from kwrap._plan import check_model

    _check_kind(path)
    try:
        model = keras.models.load_model(path)  # to be kwrap.load_model
    except kwrap.errors.KwrapError:
        raise
    except Exception as error:  # of any kind: what a file holds is not known
        raise BadInput(f"{path} cannot be loaded: {_reason(error)}") from error
    check_model(model)
    return model


def _check_kind(path: Path) -> None:
    """Raise unless a file is of a kind that holds models; of another, Keras says that it is not found."""
    if path.suffix == ".keras" and not zipfile.is_zipfile(path):
        raise BadInput(
            f"{path} is no model file: a .keras file is a zip archive, and this is none, or only part of one."
        )
    if path.suffix not in (".keras", ".h5", ".hdf5"):
        raise BadInput(f"{path} is no model file by its name: they end in .keras (or .h5, of older Keras).")


def _reason(error: Exception) -> str:
    """Return why a file cannot be loaded, and the way out."""
    text = " ".join(str(error).split())
    if unknown := re.search(r"Could not locate \w+ '([^']*)'|Unknown [\w ]+: '([^']*)'", text):  # .keras, .h5
        name = unknown[1] or unknown[2]
        return f"nobody registered {name!r}, which it needs. Name the module that does: --import MODULE."
    shortened = text if len(text) < _LONGEST_REASON else text[:_LONGEST_REASON] + " ..."
    return f"{type(error).__name__}: {shortened}"


def check_target(path: Path, *, force: bool, suffix: str = ".keras") -> None:
    """Raise unless a file may be written at `path`; before the work whose result it is to hold."""
    if path.suffix != suffix:
        raise BadInput(f"{path} is no {suffix} file by its name, and would not be read as one.")
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
    try:
        # To be kwrap.save_model, which is atomic as well.
        with tempfile.TemporaryDirectory(dir=path.absolute().parent, prefix=".kwrap-") as folder:
            written = Path(folder, path.name)
            model.save(written)
            os.replace(written, path)
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror or error}.") from error
