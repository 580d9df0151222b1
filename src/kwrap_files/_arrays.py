"""Files of weights, in HDF5: no value is read, only what they declare is added up."""

import math
import re
from collections.abc import Sequence
from typing import Any, BinaryIO

from kwrap_files._problems import BadFileError, OversizedError, reading

__all__ = ["h5_size"]


def h5_size(file: BinaryIO, limit: int, attributes: Sequence[str] = ()) -> tuple[int, list[Any]]:
    """Return the bytes that all datasets of an HDF5 file declare, and its attributes of these names, None for no such.

    Raises:
        BadFileError: it is none, or holds links and datasets that lead out of it: the weights of another file on the
            reader's disk would be loaded. Or it holds values without a size of their own.
        OversizedError: the datasets declare more than `limit` bytes.
    """
    import h5py

    with reading("the weights"), h5py.File(file, "r") as root:
        declared = _declared(root, limit, lists=bool(attributes))
        return declared, [root.attrs.get(name) for name in attributes]


def _declared(root: Any, limit: int, lists: bool) -> int:
    import h5py

    declared, groups, seen = 0, [root], set()
    while groups:
        group = groups.pop()
        _check_attributes(group, lists)
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise BadFileError(f"{name!r} among the weights is a link to elsewhere")
            held = group[name]
            address = h5py.h5o.get_info(held.id).addr
            if address in seen:  # hard links may make a circle
                continue
            seen.add(address)
            if isinstance(held, h5py.Group):
                groups.append(held)
            elif isinstance(held, h5py.Dataset):
                declared += _dataset_size(name, held)
                if declared > limit:
                    raise OversizedError("the weights declare", declared, limit)
    return declared


def _dataset_size(name: str, dataset: Any) -> int:
    if dataset.external or dataset.is_virtual:
        raise BadFileError(f"{name!r} among the weights lies in another file")
    if dataset.dtype.hasobject:  # each of its values may be the same large one of the file, made anew in memory
        raise BadFileError(f"{name!r} among the weights is not of numbers")
    # A chunk is read as a whole, and may be larger than the dataset.
    count = max(math.prod(dataset.shape or ()), math.prod(dataset.chunks or ()))
    return count * int(dataset.dtype.itemsize)


def _check_attributes(group: Any, lists: bool) -> None:
    for name in group.attrs:
        attribute = group.attrs.get_id(name)
        if lists and re.fullmatch(r"(layer|weight)_names\d*", name):  # as Keras writes them in `.h5` files
            continue
        if attribute.dtype.hasobject and attribute.shape != ():  # as for datasets; a single text is in the file once
            raise BadFileError(f"{name!r} of the weights is a list of texts without sizes")
