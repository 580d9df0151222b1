"""Comparing what layers give and what variables hold, and saying where it differs."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from kwrap.testing._check import Wrong

__all__ = ["arrays", "must_be_close", "must_be_finite", "must_be_same", "signature_of", "values"]


def arrays(outputs: Any) -> list[np.ndarray[Any, Any]]:
    """Return nested tensors as a flat list of arrays."""
    return [np.asarray(keras.ops.convert_to_numpy(tensor)) for tensor in keras.tree.flatten(outputs)]


def values(variables: Iterable[keras.Variable]) -> list[np.ndarray[Any, Any]]:
    """Return copies of the values of variables."""
    return [np.array(keras.ops.convert_to_numpy(variable.value)) for variable in variables]


def signature_of(outputs: Any) -> list[tuple[str, tuple[int | None, ...]]]:
    """Return dtypes and shapes of nested tensors, KerasTensors included."""
    return [
        (keras.backend.standardize_dtype(tensor.dtype), tuple(tensor.shape)) for tensor in keras.tree.flatten(outputs)
    ]


def must_be_same(one: Any, other: Any, problem: str, names: Sequence[str] = ()) -> None:
    """Raise Wrong unless nested tensors are equal to the bit."""
    _compare(arrays(one), arrays(other), problem, names, rtol=0.0)


def must_be_close(one: Any, other: Any, problem: str, names: Sequence[str] = (), rtol: float = 1e-4) -> None:
    """Raise Wrong unless nested tensors are equal up to `rtol` of the largest value: sums in another order."""
    _compare(arrays(one), arrays(other), problem, names, rtol=rtol)


def must_be_finite(outputs: Any, problem: str) -> None:
    """Raise Wrong unless all floating values are finite."""
    for index, array in enumerate(arrays(outputs)):
        if keras.backend.is_float_dtype(keras.backend.standardize_dtype(array.dtype)):
            broken = int(np.sum(~np.isfinite(array.astype("float64"))))
            if broken:
                raise Wrong(f"{problem}: {broken} of {array.size} values are NaN or infinite (tensor {index})")


def _compare(
    one: Sequence[np.ndarray[Any, Any]],
    other: Sequence[np.ndarray[Any, Any]],
    problem: str,
    names: Sequence[str],
    rtol: float,
) -> None:
    if len(one) != len(other):
        raise Wrong(f"{problem}: {len(one)} tensors instead of {len(other)}")
    for index, (first, second) in enumerate(zip(one, other, strict=True)):
        name = names[index] if index < len(names) else f"tensor {index}"
        if (first.dtype, first.shape) != (second.dtype, second.shape):
            raise Wrong(f"{problem}: {name} is {first.dtype}{first.shape} instead of {second.dtype}{second.shape}")
        if first.dtype != bool:
            first, second = first.astype("float64"), second.astype("float64")
        allowed = rtol * max(1e-3, float(np.max(np.abs(second), initial=0.0))) if rtol else 0.0
        differing = _unequal(first, second) if not rtol else ~np.isclose(first, second, 0.0, allowed, equal_nan=True)
        if np.any(differing):
            far = np.max(np.abs(np.subtract(first, second, dtype="float64")), where=differing, initial=0.0)
            count = f"{int(np.sum(differing))} of {first.size}"
            raise Wrong(f"{problem}: {name} differs in {count} values, by up to {far:.3g}")


def _unequal(first: Any, second: Any) -> Any:
    return (first != second) & ~((first != first) & (second != second))  # NaN as it is
