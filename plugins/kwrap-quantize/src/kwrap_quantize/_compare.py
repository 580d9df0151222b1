"""compare: the outputs of a LiteRT file beside those of Keras, on the same data."""

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from kwrap.errors import MissingPackageError
from kwrap_quantize._errors import DataError
from kwrap_quantize._litert_report import Comparison

__all__ = ["compare", "require_interpreter"]

Array = npt.NDArray[Any]


def require_interpreter() -> Any:
    """Return the class of LiteRT's interpreter.

    Raises:
        MissingPackageError: `ai-edge-litert` is not installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise MissingPackageError("to_litert(validate=...)", "ai-edge-litert") from error
    return Interpreter


def compare(model: keras.Model, content: bytes, given: Iterable[Any]) -> Comparison:
    """Run a file's content and the model on batches of inputs and return how their outputs compare.

    Raises:
        DataError: there is no sample.
        MissingPackageError: `ai-edge-litert` is not installed.
    """
    runner = _Runner(content, model)
    samples, same, largest = 0, [], 0.0
    for batch in given:
        predicted = model.predict_on_batch(batch)
        expected = [np.asarray(one) for one in keras.tree.flatten(predicted)]
        received = _in_order(runner(batch), predicted)
        samples += len(expected[0])
        for ours, theirs in zip(received, expected, strict=True):
            largest = float(np.maximum(largest, _difference(ours, theirs)))  # NaN stays NaN
            if theirs.ndim > 1 and theirs.shape[-1] > 1:
                same.append(np.ravel(_same_class(ours, theirs)))
    if not samples:
        raise DataError("to_litert(validate=...)", model.name, "it gives no batch")
    agreement = float(np.mean(np.concatenate(same))) if same else None
    return Comparison(samples, agreement, largest)


def _difference(ours: Array, theirs: Array) -> Any:
    """Return the largest difference; NaN if there is one, or where both are infinite."""
    with np.errstate(invalid="ignore"):
        return np.max(np.abs(np.subtract(ours, theirs, dtype="float64")), initial=0.0)


def _same_class(ours: Array, theirs: Array) -> Array:
    """Return where the last axis has its greatest value at the same place; never where values are not finite."""
    finite = np.isfinite(ours).all(axis=-1) & np.isfinite(theirs).all(axis=-1)
    return np.asarray(finite & (np.argmax(ours, axis=-1) == np.argmax(theirs, axis=-1)))


def _in_order(received: Mapping[str, Array], predicted: Any) -> list[Array]:
    """Return a file's outputs in the order of the model's: by their names in a dict, or as Keras counts them."""
    if isinstance(predicted, Mapping) and set(predicted) == set(received):
        return list(keras.tree.flatten({name: received[name] for name in predicted}))
    # "output_10" comes after "output_2".
    return [received[name] for name in sorted(received, key=lambda name: (len(name), name))]


class _Runner:
    """Runs a file's signature on inputs as the model takes them; integers are rounded and read by its scales."""

    def __init__(self, content: bytes, model: keras.Model) -> None:
        self._interpreter = require_interpreter()(model_content=content)
        self._run = self._interpreter.get_signature_runner()
        self._inputs = self._run.get_input_details()
        self._outputs = self._run.get_output_details()
        # How many samples a call takes; 0: any number.
        self._size = max(0, *(int(details["shape_signature"][0]) for details in self._inputs.values()))
        self._names = [tensor.name for tensor in keras.tree.flatten(getattr(model, "inputs", None) or [])]

    def __call__(self, batch: Any) -> dict[str, Array]:
        """Return the outputs for a batch, by their names in the file."""
        given = self._named(batch)
        count = len(next(iter(given.values())))
        size = self._size or count
        parts = [
            self._part({name: values[start : start + size] for name, values in given.items()}, size)
            for start in range(0, count, size)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in self._outputs}

    def _part(self, given: Mapping[str, Array], size: int) -> dict[str, Array]:
        """Return the outputs for up to `size` samples; the file gets `size`, the last one repeated."""
        count = len(next(iter(given.values())))
        filled = {name: np.concatenate([one, np.repeat(one[-1:], size - count, axis=0)]) for name, one in given.items()}
        part = self._run(**{name: self._as_input(name, values) for name, values in filled.items()})
        return {name: self._as_float(name, values[:count]) for name, values in part.items()}

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
