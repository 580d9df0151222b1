"""The file of an adapter: a zip of NumPy arrays and a text, written whole or not at all, read as anyone's."""

import io
import json
import math
import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, TypeAlias

import numpy as np

import kwrap
from kwrap_lora._errors import AdapterFileError

__all__ = ["Adapter", "SavedLayer", "SavedWeight", "read", "write"]

Array: TypeAlias = np.ndarray[Any, Any]
Members: TypeAlias = Mapping[str, zipfile.ZipInfo]

# Raised when an older kwrap-lora would misread what this one writes.
FORMAT: Final = 1
_TEXT: Final = "adapter.json"
# Bytes: that of a thousand layers has 300 kB.
_LONGEST_TEXT: Final = 16_000_000
_PARTS: Final = ("a", "b", "magnitude")
_MAGIC: Final = b"\x93NUMPY\x01\x00"
# Not read by NumPy, which evaluates it.
_HEADER: Final = re.compile(
    re.escape(_MAGIC)
    + rb"(?P<length>..)\{'descr': '(?P<dtype><f[48])', 'fortran_order': False, "
    + rb"'shape': \((?P<shape>[0-9, ]*)\), \} *\n",
    re.DOTALL,
)


@dataclass(frozen=True)
class SavedWeight:
    """A weight with an adapter beside it.

    Attributes:
        name: its name among its layer's targets.
        shape: its shape.
        base: what tells its values from others: a hash in hexadecimal digits.
        parts: the arrays "a", "b", and of DoRA "magnitude", by these names; float32 or float64.
    """

    name: str
    shape: tuple[int, ...]
    base: str
    parts: Mapping[str, Array]


@dataclass(frozen=True)
class SavedLayer:
    """A layer with an adapter.

    Attributes:
        path: its place in the model, by names.
        position: its place among all layers of the model.
        options: its hook's, without `name` and `targets`.
        weights: those with an adapter beside them.
    """

    path: str
    position: int
    options: Mapping[str, Any]
    weights: tuple[SavedWeight, ...]


@dataclass(frozen=True)
class Adapter:
    """What a file holds: the adapter's name, a hash of the model's structure, and the layers that it is on."""

    name: str
    structure: str
    layers: tuple[SavedLayer, ...]


# --- writing -------------------------------------------------------------------------------------------------------


def write(adapter: Adapter, path: Path) -> None:
    """Write a file, whole or not at all: see `kwrap.atomic_write`."""
    with kwrap.atomic_write(path) as beside, open(beside, "wb") as file:
        _write_zip(adapter, file)


def _write_zip(adapter: Adapter, file: IO[bytes]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        # Members of no date: the same adapter is the same file.
        archive.writestr(zipfile.ZipInfo(_TEXT), json.dumps(_head(adapter), indent=1))
        for index, layer in enumerate(adapter.layers):
            for weight in layer.weights:
                for part, array in weight.parts.items():
                    name = _member(index, weight.name, part)
                    with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)


def _head(adapter: Adapter) -> dict[str, Any]:
    layers = [
        {
            "path": layer.path,
            "position": layer.position,
            "options": dict(layer.options),
            "weights": [{"name": one.name, "shape": list(one.shape), "base": one.base} for one in layer.weights],
        }
        for layer in adapter.layers
    ]
    return {"format": FORMAT, "name": adapter.name, "structure": adapter.structure, "layers": layers}


def _member(index: int, weight: str, part: str) -> str:
    return f"{index}/{weight}/{part}.npy"


# --- reading -------------------------------------------------------------------------------------------------------


# What zipfile raises for what is no zip file; OverflowError: for places in it that no integer of C holds.
_UNREADABLE: Final = (
    zipfile.BadZipFile,
    EOFError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    ValueError,
    struct.error,
)


class _Wrong(Exception):  # noqa: N818 - becomes an AdapterFileError
    """What is wrong with a file."""


def read(path: Path) -> Adapter:
    """Return what a file holds. Nothing of it is run, and no array is made that the file does not hold.

    Raises:
        AdapterFileError: it is no adapter, or damaged.
        OSError: it cannot be read.
    """
    data = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _read_zip(archive, len(data))
    except _Wrong as error:
        raise AdapterFileError(str(path), str(error)) from None
    except _UNREADABLE as error:
        raise AdapterFileError(str(path), f"it is no zip file of arrays, or damaged: {error}") from error


def _read_zip(archive: zipfile.ZipFile, size: int) -> Adapter:
    members = {}
    for info in archive.infolist():
        # What is not compressed cannot be longer than the file.
        if info.compress_type != zipfile.ZIP_STORED or info.filename in members:
            raise _Wrong(f"its part {info.filename!r} is compressed, or there twice")
        members[info.filename] = info
    if sum(info.file_size for info in members.values()) > size:
        raise _Wrong("it declares more than it holds")
    if _TEXT not in members:
        raise _Wrong(f"it lacks {_TEXT!r}")
    if members[_TEXT].file_size > _LONGEST_TEXT:
        raise _Wrong(f"its text is longer than {_LONGEST_TEXT:,} bytes")
    head = _described(archive.read(_TEXT))
    rows = enumerate(_of_type(head, "layers", list))
    layers = tuple(_layer(archive, members, index, row) for index, row in rows)
    if not layers:
        raise _Wrong("it is on no layer")
    for what in ("path", "position"):
        if len({getattr(layer, what) for layer in layers}) < len(layers):
            raise _Wrong(f"two layers in its text have one {what}")
    if len(members) != 1 + sum(len(weight.parts) for layer in layers for weight in layer.weights):
        raise _Wrong("it holds arrays that its text does not name")
    return Adapter(_name(head), _of_type(head, "structure", str), layers)


def _described(text: bytes) -> dict[str, Any]:
    try:
        head = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _Wrong(f"its text is no JSON: {error}") from error
    if not isinstance(head, dict):
        raise _Wrong("its text describes no adapter")
    if (found := _of_type(head, "format", int)) < 1:
        raise _Wrong(f"it is of format {found}, which there is not")
    if found > FORMAT:
        raise _Wrong(f"it is of format {found}, and this kwrap-lora reads up to {FORMAT}: update kwrap-lora")
    return head


def _name(head: dict[str, Any]) -> str:
    name: str = _of_type(head, "name", str)
    if not name:
        raise _Wrong("its adapter's name is empty")
    return name


def _of_type(row: Any, key: str, kind: type) -> Any:
    value = row.get(key) if isinstance(row, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise _Wrong(f"its text has no {key!r} where one is due")
    return value


def _layer(archive: zipfile.ZipFile, members: Members, index: int, row: Any) -> SavedLayer:
    options = _of_type(row, "options", dict)
    if not all(value is None or isinstance(value, bool | int | float | str) for value in options.values()):
        raise _Wrong("options in its text are no plain values")
    path = _of_type(row, "path", str)
    weights = tuple(_weight(archive, members, index, one) for one in _of_type(row, "weights", list))
    if not weights:
        raise _Wrong(f"it is on no weight of layer {path!r}")
    return SavedLayer(path, _of_type(row, "position", int), options, weights)


def _weight(archive: zipfile.ZipFile, members: Members, index: int, row: Any) -> SavedWeight:
    shape = _of_type(row, "shape", list)
    if not all(isinstance(size, int) and not isinstance(size, bool) for size in shape):
        raise _Wrong("a shape in its text is none")
    name = _of_type(row, "name", str)
    names = {part: _member(index, name, part) for part in _PARTS}
    parts = {part: _array(archive, members[member]) for part, member in names.items() if member in members}
    if not {"a", "b"} <= parts.keys():
        raise _Wrong(f"it lacks the arrays {names['a']!r} and {names['b']!r}, or one of them")
    return SavedWeight(name, tuple(shape), _of_type(row, "base", str), parts)


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    """Return the array of a member: its header is of the one form that `write` gives it, and agrees with its length."""
    data = archive.read(info)
    found = _HEADER.match(data)
    if found is None or found.end() != len(_MAGIC) + 2 + int.from_bytes(found["length"], "little"):
        raise _Wrong(f"{info.filename!r} is no array of float32 or float64, as NumPy writes it by rows")
    dtype = np.dtype(found["dtype"].decode())
    shape = tuple(int(size) for size in found["shape"].split(b",") if size.strip())
    if len(data) - found.end() != math.prod(shape) * dtype.itemsize:
        raise _Wrong(f"{info.filename!r} is not as long as its shape {shape} says")
    array = np.frombuffer(data, dtype, offset=found.end()).reshape(shape)
    if not np.isfinite(array).all():
        raise _Wrong(f"{info.filename!r} has values that are NaN or infinite")
    return array
