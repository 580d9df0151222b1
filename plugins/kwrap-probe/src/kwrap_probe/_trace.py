"""Trace: prints what goes into layers and what comes out, in the order of the calls."""

import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import keras
import tensorflow as tf

import kwrap
from kwrap.errors import OptionValueError, WrapperStateError

__all__ = ["Trace", "shapes"]

Print = Callable[[str], Any]

# Calls that hold others print a line before these, and one behind; of those without, whose first line is not printed
# yet, one line is enough. Each entry prints such a first line, outermost first.
_open: ContextVar[tuple["_Call", ...]] = ContextVar("kwrap_probe_open", default=())
# Where lines of its own hooks go inside of `shapes`, where others are silent.
_lines: ContextVar[list[str] | None] = ContextVar("kwrap_probe_lines", default=None)
_SHAPES = "kwrap_probe.shapes"


@kwrap.hook(layer_type=keras.layers.Layer)
class Trace(kwrap.Hook):
    """Print a line for each call of a layer: its path, indented by its place, dtypes and shapes in and out.

    Python prints, so that a compiled function prints when it is traced, with None for sizes that are open, and not
    again when it runs; `run_eagerly=True` prints every call. A layer that holds layers with this hook prints a line
    before theirs and one behind.

    Args:
        to: where lines go: a function of one text that is registered with Keras, or the name of a logger, at the level
            INFO. Default: `print`.

    Raises:
        OptionValueError: `to` is neither.
    """

    observes = True

    def __init__(self, to: Print | str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if to is not None and not callable(to) and not (isinstance(to, str) and to):
            raise OptionValueError(self.hook_name, "to", to, "is neither a function nor the name of a logger")
        self.to = to

    def call(self, call_next: Callable[..., Any], inputs: Any) -> Any:
        """Return the layer's outputs; print."""
        if self.in_trial or (_lines.get() is not None and self.name != _SHAPES):
            return call_next(inputs)
        call = _Call(self._print, str(self.path), inputs)
        for outer in _open.get():
            outer.begin()
        token = _open.set((*_open.get(), call))
        try:
            outputs = call_next(inputs)
        except Exception as error:
            call.end(f"raises {type(error).__name__}")
            raise
        finally:
            _open.reset(token)
        call.end(described(outputs))
        return outputs

    def _print(self, line: str) -> None:
        lines = _lines.get()
        if lines is not None:
            lines.append(line)
        elif isinstance(self.to, str):
            logging.getLogger(self.to).info("%s", line)
        else:
            (self.to or print)(line)


class _Call:
    """A call of a layer that goes on."""

    def __init__(self, write: Print, path: str, inputs: Any) -> None:
        self._write, self._begun = write, False
        self._path, self._head = "  " * path.count("/") + path, described(inputs)

    def begin(self) -> None:
        """Print the line before those of the layers within, once."""
        if not self._begun:
            self._begun = True
            self._write(f"{self._path}: {self._head}")

    def end(self, outcome: str) -> None:
        """Print the one line, or that behind those of the layers within."""
        self._write(f"{self._path}: {'' if self._begun else self._head + ' '}-> {outcome}")


def described(tensors: Any) -> str:
    """Return nested tensors as text, such as "float32 (None, 3)"; of what is no tensor, the class's name."""
    if isinstance(tensors, dict):
        return "{" + ", ".join(f"{name!r}: {described(each)}" for name, each in tensors.items()) + "}"
    if isinstance(tensors, list | tuple):
        first, last = "[]" if isinstance(tensors, list) else "()"
        return first + ", ".join(map(described, tensors)) + last
    if not hasattr(tensors, "dtype") or not hasattr(tensors, "shape"):
        return type(tensors).__name__
    shape = "(?)" if getattr(tensors.shape, "rank", 0) is None else str(tuple(tensors.shape))
    return f"{keras.backend.standardize_dtype(tensors.dtype)} {shape}"


def shapes(model: keras.Model, inputs: Any = None, *, where: Any = None, training: bool = False) -> list[str]:
    """Trace a call of `model` and return the lines that `Trace` prints of it; afterwards the model is as it was.

    It is traced as a compiled function is, and nothing is computed: with training=True, too, no variable changes. A
    model that runs only eagerly is shown by the hook `Trace`.

    Args:
        inputs: what to call it on: arrays or tensors. Default: symbols of the shapes that a Functional or Sequential
            model says it takes.
        where: the layers to show, as in `kwrap.wrap_model`. Default: all that hold no layers.
        training: how to call it.

    Raises:
        ModelTypeError: this is no Keras model.
        WrapperStateError: the model is not built; or there are no inputs, and it does not say what it takes.
    """
    plan = kwrap.plan(model, Trace(name=_SHAPES), where=where)
    if inputs is None and not hasattr(model, "inputs"):
        raise WrapperStateError(
            f"model {model.name!r} does not say what it takes: give something to call it on, as in "
            "kwrap_probe.shapes(model, inputs)"
        )
    plan.apply()
    lines: list[str] = []
    token = _lines.set(lines)
    try:
        if inputs is None:
            symbols = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
            specs = keras.tree.map_structure(lambda each: tf.TensorSpec(each.shape, each.dtype), symbols)
            tf.function(lambda each: model(each, training=training), autograph=False).get_concrete_function(specs)
        else:
            tf.function(lambda: model(inputs, training=training), autograph=False).get_concrete_function()
    finally:
        _lines.reset(token)
        kwrap.unwrap_model(model, _SHAPES, merge=False)
    return lines
