"""What kwrap asks of the plugin before hooks are put on a model."""

from collections.abc import Iterator
from typing import Any

import keras

import kwrap
from kwrap.errors import NoFloatingTensorsError
from kwrap_quantize._activations import QuantizeInput, QuantizeOutput
from kwrap_quantize._errors import TensorCountError
from kwrap_quantize._weights import QuantizeWeights

__all__ = ["kwrap_check_plan"]


@kwrap.hookimpl
def kwrap_check_plan(model: keras.Model, plan: kwrap.Plan) -> Iterator[kwrap.Problem]:
    """Return which hooks of `plan` have another number of ranges than their layers have floating tensors; and masks.

    The number of tensors of a layer that is in no graph, or at several places of one, is told when it is called. Masks
    of kwrap-prune after rounding would leave the file's kernels in float: the converter reads grids off at the end.
    """
    yield from _masked_after_rounding(plan)
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


def _masked_after_rounding(plan: kwrap.Plan) -> Iterator[kwrap.Problem]:
    for entry in plan.entries:
        is_rounded = False
        for hook in entry.all_hooks:
            is_rounded |= isinstance(hook, QuantizeWeights)
            if is_rounded and hook.hook_name == "prune" and hook in entry.hooks:
                yield kwrap.Problem(
                    f"{hook.name!r} would mask weights that are rounded already, and LiteRT keep them in float: put "
                    "Prune on before quantize(), or before QuantizeWeights in the list of hooks",
                    entry.path,
                )


def _tensors(layer: keras.Layer, what: str) -> list[Any] | None:
    """Return the symbolic tensors that a layer takes or gives in a graph; None: it is not known."""
    try:
        return list(keras.tree.flatten(layer.output if what == "outputs" else layer.input))
    except AttributeError:  # it was not called on such ones, or more than once
        return None
