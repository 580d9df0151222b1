"""The files that Keras saves whole models in: a `.keras` archive, the same unpacked in a folder, and `.h5`.

All that a file declares of itself is checked here before anything of that size is read or made.
"""

import io
import json
import os
import stat
import struct
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from kwrap_files._arrays import h5_size
from kwrap_files._problems import BadFileError, OversizedError, reading

__all__ = ["Contents", "open_file", "read_contents", "read_open"]

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
# Keras once wrote npz, too: pickles, which it no longer reads itself.
_NO_WEIGHTS = f"there is no {WEIGHTS} in it"
# Keras stores weights as they are; deflated ones shrink the more, the more of them are zero. It calls what expands to
# more than a hundredfold a bomb, too.
EXPANSION = 100
# For a small file, and more than any layer of Keras makes that is not in its file.
FLOOR = 256 << 20
# As text; up to twenty times that as Python objects.
CONFIG_LIMIT = 16 << 20
# Keras writes each to the disk, which takes its time; models have a few, and one for each of a vocabulary's lists.
MEMBERS_LIMIT = 10_000


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a file holds besides its weights.

    Sizes in bytes: on disk, as declared, what it may declare at most, and of its configs as text.
    """

    kind: Literal["keras", "folder", "h5"]
    config: Mapping[str, Any]
    # How an `.h5` file's model is compiled; other files have it in `config`.
    training: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    size: int
    declared: int
    limit: int
    config_size: int

    @property
    def configs(self) -> list[Mapping[str, Any]]:
        """All of it that Keras makes objects of."""
        return [self.config, self.training]


def read_contents(path: str | os.PathLike[str], max_size: int | None = None) -> Contents:
    """Return what a saved model's file or folder holds.

    Args:
        max_size: how many bytes it may declare; default: a hundred times its size on disk, and 256 MiB at least.

    Raises:
        BadFileError: it is no saved model, or a damaged or forged one.
        OSError: it is not there, or may not be read.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path, max_size)
    with open_file(path) as file:
        return read_open(file, max_size)


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file to read.

    Raises:
        BadFileError: it is a pipe or device, which may have no end.
        OSError: it is not there, or may not be read.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise BadFileError("it is no regular file")
    return Path(path).open("rb")


def read_open(file: BinaryIO, max_size: int | None = None) -> Contents:
    """Return what an open file holds; errors as `read_contents`."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    limit = _limit(size, max_size)
    if file.read(8) == b"\x89HDF\r\n\x1a\n":
        # Keras goes by the name: it would read the archive, where this reads what is before it.
        if zipfile.is_zipfile(file):
            raise BadFileError("it is an HDF5 file and a zip archive in one")
        file.seek(0)
        return _read_h5(file, size, limit, _config_limit(max_size))
    file.seek(0)
    with reading("the zip archive"):
        if not zipfile.is_zipfile(file):
            raise BadFileError("it is neither a zip archive, as .keras files are, nor an HDF5 file")
        with zipfile.ZipFile(file) as archive:
            return _read_archive(archive, file, size, limit, _config_limit(max_size))


def _limit(size: int, max_size: int | None) -> int:
    return max_size if max_size is not None else max(FLOOR, EXPANSION * size)


def _config_limit(max_size: int | None) -> int:
    return max(CONFIG_LIMIT, max_size or 0)


def _read_archive(archive: zipfile.ZipFile, file: BinaryIO, size: int, limit: int, config_limit: int) -> Contents:
    members = archive.infolist()
    if len(members) > MEMBERS_LIMIT:
        raise BadFileError(f"it holds {len(members):,} members, more than {MEMBERS_LIMIT:,}")
    for member in members:
        _check_member(member)
    for name, count in Counter(member.filename for member in members).items():
        if count > 1:
            raise BadFileError(f"it holds {name!r} {count} times")
    declared = sum(member.file_size for member in members)
    if declared > limit:
        raise OversizedError("its members declare", declared, limit)
    names = archive.namelist()
    if CONFIG not in names:
        raise BadFileError(f"there is no {CONFIG} in it")
    texts = {name: _member_text(archive, name, config_limit) for name in (CONFIG, METADATA) if name in names}
    if WEIGHTS not in names:
        raise BadFileError(_NO_WEIGHTS)
    with _opened(archive, archive.getinfo(WEIGHTS), file) as weights:
        return _contents("keras", texts, weights, size, declared, limit)


def _contents(
    kind: Literal["keras", "folder"], texts: Mapping[str, str], weights: BinaryIO, size: int, declared: int, limit: int
) -> Contents:
    declared = max(declared, h5_size(weights, limit)[0])
    config, metadata = _parsed(texts[CONFIG], CONFIG), _parsed(texts.get(METADATA, "{}"), METADATA)
    return Contents(
        kind=kind,
        config=config,
        metadata=metadata,
        size=size,
        declared=declared,
        limit=limit,
        config_size=len(texts[CONFIG]),
    )


def _check_member(member: zipfile.ZipInfo) -> None:
    name = member.filename
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or not parts[0] or ":" in parts[0]:
        raise BadFileError(f"its member {name!r} would lie outside of it")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise BadFileError(f"its member {name!r} is a link")
    if member.flag_bits & 1:
        raise BadFileError(f"its member {name!r} is encrypted")


def _member_text(archive: zipfile.ZipFile, name: str, limit: int) -> str:
    declared = archive.getinfo(name).file_size
    if declared > limit:
        raise OversizedError(f"its {name} declares", declared, limit)
    return archive.read(name).decode()  # which stops at what is declared


def _parsed(text: str, name: str) -> dict[str, Any]:
    with reading(name):
        parsed = json.loads(text)
    if not isinstance(parsed, dict):
        raise BadFileError(f"its {name} is no JSON object")
    return parsed


def _opened(archive: zipfile.ZipFile, member: zipfile.ZipInfo, file: BinaryIO) -> BinaryIO:
    """Return a member as a file to seek in; one that is stored as it is, as Keras does, is not read for it."""
    if member.compress_type != zipfile.ZIP_STORED:
        return io.BytesIO(archive.read(member))
    file.seek(member.header_offset + 26)
    name_length, extra_length = struct.unpack("<HH", file.read(4))
    start = member.header_offset + 30 + name_length + extra_length
    return io.BufferedReader(_Window(file, start, member.file_size))


class _Window(io.RawIOBase):
    """A part of a file, as a file."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        super().__init__()
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._start + self._at)
        data = self._file.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _read_h5(file: BinaryIO, size: int, limit: int, config_limit: int) -> Contents:
    names = ("model_config", "training_config")
    declared, texts = h5_size(file, limit, names)
    if texts[0] is None:
        raise BadFileError("it holds no model: weights alone, which model.load_weights(path) loads into one")
    config, training = (
        _parsed_attribute("{}" if text is None else text, name, config_limit)
        for name, text in zip(names, texts, strict=True)
    )
    return Contents(
        kind="h5",
        config=config,
        training=training,
        size=size,
        declared=declared,
        limit=limit,
        config_size=sum(len(text) for text in texts if text is not None),
    )


def _parsed_attribute(text: Any, name: str, limit: int) -> dict[str, Any]:
    if not isinstance(text, str | bytes):
        raise BadFileError(f"its {name} is no text")
    if len(text) > limit:
        raise OversizedError(f"its {name} declares", len(text), limit)
    with reading(name):
        return _parsed(text.decode() if isinstance(text, bytes) else text, name)


def _read_folder(folder: Path, max_size: int | None) -> Contents:
    files = [path for path in folder.rglob("*") if path.is_file()]
    if folder / CONFIG not in files:
        raise BadFileError(f"it is a folder without {CONFIG}")
    if link := next((path for path in folder.rglob("*") if path.is_symlink()), None):
        raise BadFileError(f"{link.name!r} in it is a link")
    if other := next((path for path in folder.rglob("*") if not path.is_dir() and not path.is_file()), None):
        raise BadFileError(f"{other.name!r} in it is no regular file")
    size = sum(path.stat().st_size for path in files)
    limit = _limit(size, max_size)
    # Not one of that name in a folder inside, which Keras does not read.
    found = [folder / name for name in (CONFIG, METADATA) if folder / name in files]
    texts = {path.name: _file_text(path, _config_limit(max_size)) for path in found}
    if folder / WEIGHTS not in files:
        raise BadFileError(_NO_WEIGHTS)
    with (folder / WEIGHTS).open("rb") as weights:
        return _contents("folder", texts, weights, size, size, limit)


def _file_text(path: Path, limit: int) -> str:
    if (declared := path.stat().st_size) > limit:
        raise OversizedError(f"its {path.name} is of", declared, limit)
    with reading(path.name):
        return path.read_text("utf-8")
