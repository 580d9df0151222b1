"""Inputs for a model: from a file, or random."""

from pathlib import Path
from typing import Any

import keras
import numpy as np

from kwrap._selection import places
from kwrap_cli._command import BadInput, short_line
from kwrap_cli._output import aside

__all__ = ["call", "random_inputs", "read_inputs", "samples"]

# For axes whose length the model leaves open, such as the steps of a sequence.
_OPEN_LENGTH = 16


def read_inputs(model: keras.Model, path: Path) -> Any:
    """Return the inputs in a .npy file of one array, or a .npz file of one array an input, by the inputs' names."""
    arrays = _read(path)
    structure = _structure(model)
    if structure is None:
        if isinstance(arrays, dict):
            return next(iter(arrays.values())) if len(arrays) == 1 else arrays
        return arrays
    names = [spec.name for spec in keras.tree.flatten(structure)]
    if len(names) == 1 and (not isinstance(arrays, dict) or len(arrays) == 1):
        only = next(iter(arrays.values())) if isinstance(arrays, dict) else arrays
        return keras.tree.pack_sequence_as(structure, [only])
    if not isinstance(arrays, dict) or not set(names) <= set(arrays):
        raise BadInput(f"{path} has to be a .npz file with an array for each input of {model.name!r}: {names}.")
    return keras.tree.pack_sequence_as(structure, [arrays[name] for name in names])


def _read(path: Path) -> Any:
    """Return the array of a .npy file, or the arrays of a .npz file by name."""
    try:
        with path.open("rb") as file:  # which NumPy leaves open where it fails
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            arrays = dict(loaded.items())
    except Exception as error:  # of many kinds, for zipfile's and zlib's are among them
        raise BadInput(f"{path} cannot be read as .npy or .npz: {error}") from error
    if not arrays:
        raise BadInput(f"{path} holds no array.")
    return arrays


def random_inputs(model: keras.Model, batch: int, seed: int) -> Any:
    """Return inputs for a model: normal where floating, in the range of all its embeddings where integer."""
    structure = _structure(model)
    if structure is None:
        raise BadInput(f"{model.name!r}, a {type(model).__name__}, does not say what it takes: give --input FILE.")
    generator = np.random.default_rng(seed)
    layers = [place.layer for place in places(model)]
    limit = min((layer.input_dim for layer in layers if isinstance(layer, keras.layers.Embedding)), default=2)
    return keras.tree.map_structure(lambda spec: _draw(spec, batch, limit, generator), structure)


def call(model: keras.Model, inputs: Any) -> list[Any]:
    """Return the outputs of a model in inference, flat, as arrays."""
    try:
        with aside():
            outputs = keras.tree.flatten(model(inputs, training=False))
    except Exception as error:  # of any kind: the inputs may not be the model's
        raise BadInput(f"{model.name!r} cannot be called with these inputs: {short_line(error)}") from error
    return [keras.ops.convert_to_numpy(keras.ops.cast(output, "float64")) for output in outputs]


def samples(inputs: Any) -> int:
    """Return how many samples inputs are of."""
    return len(keras.tree.flatten(inputs)[0])


def _structure(model: keras.Model) -> Any:
    """Return what a model takes, as symbolic tensors; None for one that has no graph."""
    try:
        return model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    except (AttributeError, ValueError, TypeError, IndexError):
        return None


def _draw(spec: Any, batch: int, limit: int, generator: np.random.Generator) -> Any:
    shape = [batch, *(length or _OPEN_LENGTH for length in spec.shape[1:])]
    if keras.backend.is_int_dtype(spec.dtype):
        return generator.integers(0, limit, shape).astype(spec.dtype)
    if spec.dtype == "bool":
        return generator.integers(0, 2, shape).astype("bool")
    if not keras.backend.is_float_dtype(spec.dtype):
        raise BadInput(f"no random values of dtype {spec.dtype}, of input {spec.name!r}: give --input FILE.")
    return generator.standard_normal(shape).astype("float32")
