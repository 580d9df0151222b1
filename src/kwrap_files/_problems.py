"""What is wrong with a file."""

from collections.abc import Iterator
from contextlib import contextmanager

from kwrap_files._text import printable

__all__ = ["BadFileError", "OversizedError", "in_bytes", "reading"]


class BadFileError(ValueError):
    """A file is no saved model, or a damaged or forged one; the text says what is wrong, without the file's name."""


class OversizedError(BadFileError):
    """A file declares more than it may: `declared` bytes where `limit` is what is read of a file of its size."""

    def __init__(self, what: str, declared: int, limit: int) -> None:
        self.declared, self.limit = declared, limit
        super().__init__(f"{what} {in_bytes(declared)}, and {in_bytes(limit)} is the limit for it")


def in_bytes(count: int) -> str:
    """Return a number of bytes as text: `3.2 MiB`."""
    size = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{count} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Make a BadFileError of whatever a reader of damaged or forged bytes raises."""
    try:
        yield
    except BadFileError:
        raise
    except RecursionError as error:
        raise BadFileError(f"{what} is nested too deeply") from error
    # zipfile, json and h5py raise errors of a dozen kinds on such bytes, struct.error and NotImplementedError included.
    except Exception as error:
        text = printable((str(error).splitlines() or [""])[0][:200])
        raise BadFileError(f"{what} cannot be read: {type(error).__name__}: {text}") from error
