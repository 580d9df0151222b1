"""What hooks cost: a wrapped model and a bare one, called in turn."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import kwrap
from kwrap_cli._command import BadInput, short_line
from kwrap_cli._inputs import call
from kwrap_cli._output import aside

__all__ = ["interleaved", "measured"]

_WARM_UP = 2


def measured(wrapped: keras.Model, inputs: Any, repeats: int) -> list[dict[str, Any]]:
    """Return the medians of prediction and training of a wrapped model and of the same without hooks."""
    bare = kwrap.unwrap_model(kwrap.clone_model(wrapped))
    rows = [_row("predict", *interleaved(_predict(bare, inputs), _predict(wrapped, inputs), repeats))]
    if any(model.trainable_variables for model in (bare, wrapped)):
        rows.append(_row("train", *interleaved(_train(bare, inputs), _train(wrapped, inputs), repeats)))
    return rows


def interleaved(one: Callable[[], object], other: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Return the median times of two functions in milliseconds, called in turn; which is first alternates."""
    try:
        with aside():  # what is traced prints then
            for _ in range(_WARM_UP):
                one(), other()
    except Exception as error:  # of any kind: not every model runs on random inputs, or trains
        raise BadInput(f"the model cannot be run: {type(error).__name__}: {short_line(error)}") from error
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats):
        for which in (0, 1) if repeat % 2 == 0 else (1, 0):
            start = time.perf_counter()
            (one, other)[which]()
            times[which].append(1000 * (time.perf_counter() - start))
    return statistics.median(times[0]), statistics.median(times[1])


def _predict(model: keras.Model, inputs: Any) -> Callable[[], object]:
    return lambda: model.predict_on_batch(inputs)


def _train(model: keras.Model, inputs: Any) -> Callable[[], object]:
    targets = [np.zeros(output.shape, "float32") for output in call(model, inputs)]
    # Whatever the model was compiled with: its own loss would ask for targets that nobody gave.
    model.compile(keras.optimizers.SGD(1e-6), ["mse"] * len(targets) if len(targets) > 1 else "mse")
    aim = targets if len(targets) > 1 else targets[0]
    return lambda: model.train_on_batch(inputs, aim)


def _row(what: str, bare: float, wrapped: float) -> dict[str, Any]:
    return {"what": what, "bare_ms": bare, "wrapped_ms": wrapped, "ratio": wrapped / bare}
