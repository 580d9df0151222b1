"""Files of weights, in HDF5: no value is read, only what they declare is added up."""

import math
from typing import Any, BinaryIO

from kwrap_files._problems import BadFileError, OversizedError, reading

__all__ = ["h5_size"]


def h5_size(file: BinaryIO, limit: int, config_attribute: str | None = None) -> tuple[int, Any]:
    """Return the bytes that all datasets of an HDF5 file declare, and the attribute of that name.

    Raises:
        BadFileError: it is none, or holds links and datasets that lead out of it: the weights of another file on the
            reader's disk would be loaded.
        OversizedError: the datasets declare more than `limit` bytes.
    """
    import h5py

    with reading("the weights"), h5py.File(file, "r") as root:
        declared = _declared(root, limit)
        return declared, root.attrs.get(config_attribute) if config_attribute else None


def _declared(root: Any, limit: int) -> int:
    import h5py

    declared, groups, seen = 0, [root], set()
    while groups:
        group = groups.pop()
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
    return math.prod(dataset.shape or ()) * int(dataset.dtype.itemsize)
