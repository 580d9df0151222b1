"""The adapters on a model by their names: which there are, and how much each of them counts."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras

import kwrap
from kwrap.errors import AbsentHookError, OptionValueError
from kwrap.options import checked_number
from kwrap_lora._hook import LoRA

__all__ = ["adapters", "hooks_by_name", "use_adapters"]


def adapters(model: keras.Model) -> dict[str, float]:
    """Return the names of the LoRA hooks on `model`, in their order, each with its scale: 1 is on, 0 is off.

    Where an adapter's layers have scales of their own, the first layer's counts.
    """
    found = {name: hooks[0][1] for name, hooks in hooks_by_name(model).items()}
    return {name: float(keras.ops.convert_to_numpy(hook.scale)) for name, hook in found.items()}


def use_adapters(model: keras.Model, chosen: str | Sequence[str] | Mapping[str, float]) -> keras.Model:
    """Switch the adapters on `model`: those that are `chosen` on, all others off; return the model.

    Only variables are set, so nothing is traced again. An adapter that is off has no effect on what the model computes
    and no gradient, but its product is still computed, and what an optimizer does without a gradient (weight decay,
    momentum) is done to it too.

    Args:
        chosen: a name, several, whose effects add up, or a factor for each name. `[]`: the model without them.

    Raises:
        AbsentHookError: an adapter is not on the model; nothing was changed.
        OptionValueError: a factor is no finite number, or `chosen` is no names.
    """
    hooks, scales = hooks_by_name(model), _scales(chosen)
    for name, scale in scales.items():
        if name not in hooks:
            raise AbsentHookError(model.name, name, list(hooks))
        checked_number("use_adapters", name, scale)
    for name, those in hooks.items():
        for _, hook in those:
            hook.scale.assign(scales.get(name, 0.0))
    return model


def _scales(chosen: Any) -> dict[str, float]:
    """Return the factor of each adapter that is chosen, not checked; raise OptionValueError if these are no names."""
    names = [chosen] if isinstance(chosen, str) else chosen
    if not isinstance(names, Collection) or not all(isinstance(name, str) for name in names):
        problem = "is neither a name, nor several, nor a factor for each name"
        raise OptionValueError("use_adapters", "chosen", chosen, problem)
    return dict(names) if isinstance(names, Mapping) else dict.fromkeys(names, 1.0)


def hooks_by_name(model: keras.Model) -> dict[str, list[tuple[str, LoRA]]]:
    """Return the (path, hook) pairs of each adapter that is on `model` and has weights to act on."""
    found: dict[str, list[tuple[str, LoRA]]] = {}
    for path, hook in kwrap.find_hooks(model, LoRA):
        if isinstance(hook, LoRA) and hook.target_weights:
            found.setdefault(hook.name, []).append((path, hook))
    return found
