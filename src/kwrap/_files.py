"""Writing a file so that a reader finds the whole old one or the whole new one, whatever happens meanwhile."""

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from kwrap._plan import check_model
from kwrap.errors import KwrapError, OptionValueError, SaveError

__all__ = ["atomic_write", "path_text", "save_model"]

_FORMATS = (".keras", ".h5", ".hdf5")


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Inside the context, write the file whose path is given: at its end it is what is at `path`, whole or not at all.

    What is given is an empty file beside `path`, of the same ending, under a name that begins with a dot. It has the
    rights of the file that it replaces, or those of any new file. If the context ends without an error, it is brought
    to the disk and put in the place of the old one in one step of the operating system; otherwise it is removed. If
    the process is killed, it is left.

    Args:
        path: of a file that is there or not. If it is a link, the file that it leads to is replaced, not the link.

    Raises:
        SaveError: `path` is a folder, a device or a pipe, or in no folder that is there: raised before anything is
            written. Or the operating system raised an error: no space, no right to write. What was there is as it was.
        OptionValueError: it is no path.
    """
    file = path_text("atomic_write", path)
    target = _target(file)
    stem = os.fsencode(target.stem)[:100].decode(errors="ignore")  # no name may be longer than 255 bytes
    beside = target.with_name(f".{stem}.{secrets.token_hex(6)}{target.suffix}")
    try:
        _create(beside, like=target)
        yield beside
        _bring_to_disk(beside)
        os.replace(beside, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        if isinstance(error, OSError) and not isinstance(error, KwrapError):
            is_of_another = error.filename not in (None, os.fspath(beside))  # as where a writer reads what it writes
            raise SaveError(file, str(error) if is_of_another else error.strerror or str(error)) from error
        raise
    with contextlib.suppress(OSError):  # some file systems cannot; the new file is whole, and in its place already
        _bring_to_disk(target.parent)


def save_model(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Save a model at `path`, all of it or nothing: what was there stays whole until the new file is complete.

    See `atomic_write`: if the process is killed, a file is left beside `path` whose name begins with a dot.

    Args:
        path: ends in `.keras`; or in `.h5`, in which Keras itself saves and loads less: see its documentation.

    Raises:
        SaveError: it cannot be written: no space, no such folder, another ending.
        OptionValueError: it is no path.
        ModelTypeError: it is no Keras 3 model.
    """
    check_model(model)
    file = path_text("save_model", path)
    if Path(os.path.realpath(path)).suffix not in _FORMATS:
        raise SaveError(file, "a model's file ends in .keras (or in .h5)")
    try:
        with atomic_write(path) as beside:
            keras.saving.save_model(model, beside)
    except Exception as error:
        cause = _os_error(error)
        if cause is None or isinstance(error, KwrapError):
            raise
        raise SaveError(file, f"{cause.strerror or cause}") from error


def path_text(function: str, path: Any) -> str:
    """Return the path that was given to a function as text, for errors to show.

    Raises:
        OptionValueError: it is no text nor an `os.PathLike` of one, or a text that no file can have for a path.
    """
    try:
        text = os.fspath(path)
        if isinstance(text, str) and b"\0" not in os.fsencode(text):
            return text
    except (TypeError, UnicodeEncodeError):
        pass
    raise OptionValueError(function, "path", path, "is no path")


def _target(file: str) -> Path:
    """Return the file that is written or replaced, behind all links; raise a SaveError if there can be none."""
    target = Path(os.path.realpath(file))
    if target.is_dir():
        raise SaveError(file, "it is a folder")
    if target.exists() and not target.is_file():
        raise SaveError(file, "it is a device or a pipe, and would be replaced by a file")
    if not target.parent.is_dir():
        raise SaveError(file, f"there is no folder {os.fspath(target.parent)!r}")
    return target


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
