"""A hook's state in weight files: its variables by their names, whatever else the file holds or lacks."""

import re
import warnings
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from kwrap.errors import HookStateError, HookStateWarning

__all__ = ["named", "read_state", "warn_once"]

# What was said about the hooks of a file, while it is loaded: Keras hands the same store to all layers.
_said: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()


def named(variables: Sequence[keras.Variable]) -> dict[str, keras.Variable]:
    """Return variables by the names that files have for them, the same in every process.

    Names that Keras counted ("variable_3"), and those that come twice, are counted within the hook.
    """
    found: dict[str, keras.Variable] = {}
    for variable in variables:
        first = name = re.sub(r"^variable_\d+$", "variable", variable.name)
        count = 0
        while name in found:
            count += 1
            name = f"{first}:{count}"
        found[name] = variable
    return found


def read_state(
    hook: str,
    path: str | None,
    own: Mapping[str, keras.Variable],
    saved: Mapping[str, keras.Variable],
    store: Any,
) -> dict[str, Any]:
    """Return the values that a file has for a hook's variables, by name; assign nothing.

    `own` are those that every file has; `saved` are these and the states of seed generators, which older files lack.

    Raises:
        HookStateError: the file has a variable that is not among them, or one of another shape.
    """
    keys = list(store.keys())
    if keys and all(key.isdigit() for key in keys):
        # Written before variables were stored by name.
        if len(keys) != len(own):
            raise HookStateError(hook, path, f"{len(keys)} variables where the hook has {len(own)}: {list(own)}")
        values = {name: store[str(place)] for place, name in enumerate(own)}
    else:
        if unknown := sorted(set(keys) - set(saved)):
            raise HookStateError(hook, path, f"{unknown}, and the hook has {list(saved)}")
        values = {name: store[name] for name in saved if name in keys}
    for name, value in values.items():
        shape = tuple(saved[name].shape)
        if tuple(value.shape) != shape:
            problem = f"{name!r} of shape {tuple(value.shape)}, and the hook has it of shape {shape}"
            raise HookStateError(hook, path, problem)
    return values


def warn_once(hook: str, path: str | None, missing: Sequence[str], store: Any) -> None:
    """Say that a file lacks state of a hook; once for each hook's name in a file."""
    try:
        said = _said.setdefault(store, set())
    except TypeError:  # a plain dict
        said = set()
    if hook not in said:
        said.add(hook)
        warnings.warn(HookStateWarning(hook, path, missing), stacklevel=3)
