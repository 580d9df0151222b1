"""batches: the data that calibrate and to_litert take, read in one way."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras

from kwrap_quantize._errors import DataError

__all__ = ["batches"]


def batches(model: keras.Model, data: Any, size: int, what: str) -> Iterable[Any]:
    """Return the batches of the model's inputs in `data`, of which nothing is computed before it is asked for.

    An array, a dict of arrays or a list of arrays is what the model takes, all of its inputs, cut into batches of
    `size`. A tuple is (x,), (x, y) or (x, y, sample_weight), as Keras' batches are, with such an x. Anything else gives
    batches when it is gone through, each x or such a tuple.

    Args:
        what: who asks, for the errors.

    Raises:
        DataError: x has another number of arrays than the model has inputs, or arrays of different lengths; or data is
            nothing that gives batches.
    """
    if isinstance(data, tuple) and data and not any(isinstance(part, tuple) for part in data):
        if len(data) > 3:
            raise DataError(what, model.name, f"a tuple of {len(data)} is none of (x,), (x, y), (x, y, sample_weight)")
        data = data[0]
    if not _is_inputs(data):
        if not _gives(data):
            raise DataError(what, model.name, f"{data!r:.100} is neither an array nor does it give batches of them")
        return _given(data)
    arrays = keras.tree.flatten(data)
    if (count := _inputs(model)) not in (None, len(arrays)):
        problem = (
            f"it takes {count} inputs, and x has {len(arrays)} arrays: a list of arrays is one for each input, a tuple "
            "is (x, y). Give batches as a generator, or a list of (x,)"
        )
        raise DataError(what, model.name, problem)
    lengths = {len(array) for array in arrays}
    if len(lengths) > 1:
        raise DataError(what, model.name, f"the arrays have different lengths: {sorted(lengths)}")
    return _cut(data, lengths.pop(), size)


def _is_inputs(data: Any) -> bool:
    """Tell whether `data` is an array, or a dict or list that holds arrays, and no batches."""
    if isinstance(data, dict):
        return bool(data)
    return _is_array(data) or (isinstance(data, list) and bool(data) and all(map(_is_array, data)))


def _gives(data: Any) -> bool:
    """Tell whether one can go through `data`."""
    if isinstance(data, str | bytes):
        return False
    return hasattr(data, "__iter__") or (hasattr(data, "__getitem__") and hasattr(data, "__len__"))


def _is_array(data: Any) -> bool:
    return hasattr(data, "shape") and hasattr(data, "__getitem__") and len(data.shape) > 0


def _inputs(model: keras.Model) -> int | None:
    """Return how many inputs a model has; None where it is not known, as of a subclassed one."""
    try:
        return len(keras.tree.flatten(model.inputs)) or None
    except (AttributeError, ValueError):
        return None


def _cut(data: Any, count: int, size: int) -> Iterator[Any]:
    for start in range(0, count, size):
        yield keras.tree.map_structure(lambda array: array[start : start + size], data)  # noqa: B023


def _given(data: Iterable[Any] | Sequence[Any]) -> Iterator[Any]:
    # Python's own way through a PyDataset ends at an IndexError, which none has to raise.
    given = map(data.__getitem__, range(data.num_batches)) if isinstance(data, keras.utils.PyDataset) else data
    for batch in given:
        yield keras.utils.unpack_x_y_sample_weight(batch)[0]
