"""compare: the outputs of a LiteRT file beside those of Keras, on the same data."""

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kwrap_quantize._graph_errors import MissingLiteRTError
from kwrap_quantize._litert_report import Comparison

__all__ = ["compare", "run"]

Array = npt.NDArray[Any]
_BATCH = 256


def compare(model: keras.Model, content: bytes, data: Any) -> Comparison:
    """Run a file's content and the model on `data` and return how their outputs compare.

    Raises:
        MissingLiteRTError: `ai-edge-litert` is not installed.
    """
    runner = _Runner(content, model)
    samples, same, largest = 0, [], 0.0
    for batch in _batches(data):
        expected = [np.asarray(one) for one in keras.tree.flatten(model.predict_on_batch(batch))]
        received = runner(batch)
        samples += len(expected[0])
        for ours, theirs in zip(received, expected, strict=True):
            largest = max(largest, float(np.max(np.abs(ours - theirs), initial=0.0)))
        same += [
            np.ravel(np.argmax(ours, axis=-1) == np.argmax(theirs, axis=-1))
            for ours, theirs in zip(received, expected, strict=True)
            if theirs.ndim > 1 and theirs.shape[-1] > 1
        ]
    agreement = float(np.mean(np.concatenate(same))) if same else None
    return Comparison(samples, agreement, largest)


def run(content: bytes, data: Any, model: keras.Model) -> list[Array]:
    """Return a file's outputs on `data`, the inputs of `model`: an array for each output, floats."""
    parts = [_Runner(content, model)(batch) for batch in _batches(data)]
    return [np.concatenate(one) for one in zip(*parts, strict=True)]


class _Runner:
    """Runs a file's signature on inputs as the model takes them; integers are rounded and read by its scales."""

    def __init__(self, content: bytes, model: keras.Model) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise MissingLiteRTError from error
        self._interpreter = Interpreter(model_content=content)
        self._run = self._interpreter.get_signature_runner()
        self._inputs = self._run.get_input_details()
        self._outputs = self._run.get_output_details()
        self._names = [tensor.name for tensor in keras.tree.flatten(getattr(model, "inputs", None) or [])]

    def __call__(self, batch: Any) -> list[Array]:
        """Return the outputs for a batch, in the order of the model's."""
        given = self._named(batch)
        count = len(next(iter(given.values())))
        fixed = any(details["shape_signature"][0] == 1 for details in self._inputs.values())
        size = 1 if fixed else count
        parts = [
            self._run(**{name: self._as_input(name, values[start : start + size]) for name, values in given.items()})
            for start in range(0, count, size)
        ]
        return [np.concatenate([self._as_float(name, part[name]) for part in parts]) for name in sorted(parts[0])]

    def _named(self, batch: Any) -> dict[str, Array]:
        """Return the batch's arrays by the names of the file's inputs."""
        arrays = [np.asarray(one) for one in keras.tree.flatten(batch)]
        if len(self._inputs) == 1:
            return {next(iter(self._inputs)): arrays[0]}
        if isinstance(batch, Mapping) and set(batch) == set(self._inputs):
            return {name: np.asarray(batch[name]) for name in self._inputs}
        return dict(zip(self._names, arrays, strict=True))

    def _as_input(self, name: str, values: Array) -> Array:
        details = self._inputs[name]
        dtype, (scale, zero) = details["dtype"], details["quantization"]
        if scale and np.issubdtype(dtype, np.integer):
            limits = np.iinfo(dtype)
            values = np.clip(np.round(values / scale) + zero, limits.min, limits.max)
        return np.asarray(values, dtype)

    def _as_float(self, name: str, values: Array) -> Array:
        scale, zero = self._outputs[name]["quantization"]
        if scale and np.issubdtype(values.dtype, np.integer):
            return np.asarray((values.astype("float32") - zero) * np.float32(scale))
        return values


def _batches(data: Any) -> Iterator[Any]:
    """Yield batches of the inputs in `data`."""
    if isinstance(data, tf.data.Dataset):
        for batch in data:
            yield keras.utils.unpack_x_y_sample_weight(batch)[0]
        return
    count = len(keras.tree.flatten(data)[0])
    for start in range(0, count, _BATCH):
        stop = start + _BATCH
        yield keras.tree.map_structure(lambda one: np.asarray(one)[start:stop], data)  # noqa: B023
