"""Finding this plugin's hooks on a model."""

from typing import Any

import keras

import kwrap
from kwrap.errors import AbsentHookError

__all__ = ["hooks_on"]


def hooks_on(model: keras.Model, kind: type[kwrap.Hook]) -> list[tuple[str, Any]]:
    """Return the hooks of a kind, with the paths of their layers.

    Raises:
        AbsentHookError: there is none.
        ModelTypeError: this is no Keras model.
    """
    found = kwrap.find_hooks(model, kind)
    if not found:
        raise AbsentHookError(model.name, kind.hook_name, sorted({hook.name for _, hook in kwrap.find_hooks(model)}))
    return found
