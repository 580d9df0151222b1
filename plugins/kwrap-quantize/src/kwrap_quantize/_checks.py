"""What kwrap asks of the plugin before hooks are put on a model."""

from collections.abc import Iterator
from typing import Any

import keras

import kwrap
from kwrap_quantize._activations import QuantizeInput, QuantizeOutput
from kwrap_quantize._errors import NoFloatingTensorsError, TensorCountError

__all__ = ["kwrap_check_plan"]


@kwrap.hookimpl
def kwrap_check_plan(model: keras.Model, plan: kwrap.Plan) -> Iterator[kwrap.Problem]:
    """Return which hooks of `plan` have another number of ranges than their layers have floating tensors.

    That of a layer that is in no graph, or at several places of one, is told when it is called.
    """
    for entry in plan.entries:
        for hook in (hook for hook in entry.hooks if isinstance(hook, QuantizeOutput | QuantizeInput)):
            tensors = _tensors(entry.layer, hook.what)
            if tensors is None:
                continue
            found = sum(keras.backend.is_float_dtype(tensor.dtype) for tensor in tensors)
            if not found:
                yield kwrap.Problem(str(NoFloatingTensorsError(hook.name, entry.path, hook.what)), entry.path)
            elif found != hook.tensors:
                error = TensorCountError(hook.name, entry.path, hook.what, found, hook.tensors)
                yield kwrap.Problem(str(error), entry.path)


def _tensors(layer: keras.Layer, what: str) -> list[Any] | None:
    """Return the symbolic tensors that a layer takes or gives in a graph; None: it is not known."""
    try:
        return list(keras.tree.flatten(layer.output if what == "outputs" else layer.input))
    except AttributeError:  # it was not called on such ones, or more than once
        return None
