"""Writing a model so that a reader finds the whole old file or the whole new one, whatever happens meanwhile."""

import contextlib
import os
import secrets
import stat
from pathlib import Path
from typing import Any

import keras

from kwrap._plan import check_model
from kwrap.errors import KwrapError, SaveError

__all__ = ["save_model"]

_FORMATS = (".keras", ".h5", ".hdf5")


def save_model(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Save a model at `path`, all of it or nothing: what was there stays whole until the new file is complete.

    It is written beside `path`, under a name that begins with a dot, brought to the disk, and put in the place of the
    old one in one step of the operating system. If the process is killed, that other file is left.

    Args:
        path: ends in `.keras`; or in `.h5`, in which Keras itself saves and loads less: see its documentation.

    Raises:
        SaveError: it cannot be written: no space, no such folder, another ending.
        ModelTypeError: it is no Keras 3 model.
    """
    check_model(model)
    target = Path(os.path.realpath(path))  # the file that a link leads to, not the link
    if target.suffix not in _FORMATS:
        raise SaveError(str(path), "a model's file ends in .keras (or in .h5)")
    if target.is_dir():
        raise SaveError(str(path), "it is a folder")
    stem = os.fsencode(target.stem)[:100].decode(errors="ignore")  # no name may be longer than 255 bytes
    beside = target.with_name(f".{stem}.{secrets.token_hex(6)}{target.suffix}")
    try:
        _create(beside, like=target)
        keras.saving.save_model(model, beside)
        _bring_to_disk(beside)
        os.replace(beside, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        cause = _os_error(error)
        if cause is None or isinstance(error, KwrapError):
            raise
        raise SaveError(str(path), f"{cause.strerror or cause}") from error
    with contextlib.suppress(OSError):  # some file systems cannot; the new file is whole, and in its place already
        _bring_to_disk(target.parent)


def _create(path: Path, like: Path) -> None:
    """Create a file with the rights of the one that it will replace, or those of any new file."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    if like.exists():
        path.chmod(stat.S_IMODE(like.stat().st_mode))


def _bring_to_disk(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _os_error(error: Any) -> OSError | None:
    """Return the operating system's error that an error is or comes from: closing what failed fails again."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno is not None:
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None
