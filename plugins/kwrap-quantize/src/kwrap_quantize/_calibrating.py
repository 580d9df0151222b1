"""Finding the ranges of activations from data, before training or in its place."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

import kwrap
from kwrap.options import checked_choice, checked_int, checked_number
from kwrap_quantize._activations import Activations
from kwrap_quantize._batches import batches
from kwrap_quantize._errors import CalibrationError, NonFiniteRangeError
from kwrap_quantize._histogram import Extremes, Histogram
from kwrap_quantize._modes import observed
from kwrap_quantize._ranges import Ranges, activations, ranges

__all__ = ["calibrate"]

Method = Literal["min_max", "percentile", "mse"]


def calibrate(
    model: keras.Model,
    data: Any,
    *,
    method: Method = "min_max",
    percentile: float = 99.99,
    steps: int | None = None,
    batch_size: int = 32,
) -> Ranges:
    """Set the ranges of the model's activations to what they are on `data`, and return all of its ranges.

    The model runs on the data at inference, eagerly, with nothing rounded, neither weights nor activations; other
    hooks act. Frozen ranges are set, too, and stay frozen; fixed ones stay. A range that nothing was seen for, of a
    layer that is not called at inference, stays as it is: look at what is returned. If anything fails, all ranges stay
    as they are.

    Args:
        data: x, which is an array, or a dict or list of one array for each of the model's inputs, taken in batches of
            `batch_size`; a tuple (x, y) or (x, y, sample_weight), of which x is taken; or anything that gives batches
            of x or of such tuples, such as a `tf.data.Dataset`, a `keras.utils.PyDataset` or a generator.
        method: "min_max": from the least to the largest value. "percentile": without the share of values beyond
            `percentile` on either side. "mse": the range whose grid has the least mean of squared errors.
        percentile: of 100, above 50.
        steps: how many batches at most. Default: all.

    Raises:
        OptionValueError: an option has a value that it cannot have.
        DataError: x has another number of arrays than the model has inputs, or arrays of different lengths; or `data`
            is nothing that gives batches.
        CalibrationError: the data gives no batch, or a layer is called inside of a function that the model compiles.
        NonFiniteRangeError: there are NaN or infinite values in what is to be rounded; it names the layer.
        AbsentHookError: no QuantizeOutput or QuantizeInput is on the model.
        ModelTypeError: this is no Keras model.
    """
    checked_choice("calibrate", "method", method, ("min_max", "percentile", "mse"))
    share = checked_number("calibrate", "percentile", percentile, above=50, most=100)
    limit = None if steps is None else checked_int("calibrate", "steps", steps)
    hooks = [hook for _, hook in activations(model) if hook.moves]
    given = batches(model, data, checked_int("calibrate", "batch_size", batch_size), "calibrate")
    looks = _looks(model, given, limit, Extremes if method == "min_max" else Histogram)
    for hook in hooks:
        if seen := looks.get(id(hook)):
            _set(hook, [_chosen(look, method, share, hook) for look in seen])
    return ranges(model)


def _looks(
    model: keras.Model, given: Iterable[Any], limit: int | None, kind: type[Extremes]
) -> dict[int, list[Extremes]]:
    """Return what was seen of each hook's tensors, by the hook's id."""
    found: dict[int, list[Extremes]] = {}

    def look(hook: kwrap.Hook, tensors: Sequence[Any]) -> None:
        if not tf.executing_eagerly():
            problem = (
                f"layer {hook.path!r} is called in a function that is compiled inside of the model: "
                "tf.config.run_functions_eagerly(True) while it is calibrated"
            )
            raise CalibrationError(model.name, problem)
        for place, tensor in zip(found.setdefault(id(hook), [kind() for _ in tensors]), tensors, strict=True):
            values = np.ravel(keras.ops.convert_to_numpy(tf.cast(tensor, tf.float32)))
            if not np.isfinite(values).all():
                raise NonFiniteRangeError("calibrate", [str(hook.path)])
            place.add(values)

    count = 0
    with observed(look):
        for batch in given:
            if count == limit:
                break
            count += 1
            model(batch, training=False)
    if not count:
        raise CalibrationError(model.name, "the data gives no batch")
    return found


def _chosen(look: Extremes, method: Method, percentile: float, hook: Activations) -> tuple[float, float]:
    if not isinstance(look, Histogram):
        return look.low, look.high
    return look.percentiles(percentile) if method == "percentile" else look.least_error(hook.bits, hook.symmetric)


def _set(hook: Activations, ends: Sequence[tuple[float, float]]) -> None:
    low, high = zip(*ends, strict=True)
    hook.minimum.assign(low)
    hook.maximum.assign(high)
    hook.seen.assign([True] * len(ends))
