"""The options of a hook: captured from what `__init__` takes, checked, stored in the config and revived from it."""

import inspect
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kwrap._references import check_references
from kwrap.errors import OptionError, listed, nearest

__all__ = ["bind_options", "copied", "own_options", "revived", "stored"]

_EMPTY = inspect.Parameter.empty
_KINDS = inspect._ParameterKind
_REGISTER = "@keras.saving.register_keras_serializable()"
# The keys by which a dict is known as a serialized Keras object.
_SERIALIZED = {"class_name", "config"}


# Kept, as each layer of a model has a hook of its own; weakly, as a notebook defines a class again and again.
_known_options: weakref.WeakKeyDictionary[type[Any], dict[str, inspect.Parameter]] = weakref.WeakKeyDictionary()


def own_options(cls: type[Any]) -> Mapping[str, inspect.Parameter]:
    """Return the options of `cls`: those of its `__init__`, and of its parents' as far as `**kwargs` reaches."""
    known = _known_options.get(cls)
    if known is None:
        known = _known_options[cls] = _options_of(cls)
    return known


def _options_of(cls: type[Any]) -> dict[str, inspect.Parameter]:
    options: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" not in base.__dict__:
            continue
        parameters = list(inspect.signature(base.__dict__["__init__"]).parameters.values())[1:]
        for parameter in parameters:
            if parameter.kind is not _KINDS.VAR_KEYWORD:
                options.setdefault(parameter.name, parameter)
        if not any(p.kind is _KINDS.VAR_KEYWORD for p in parameters):
            break
    return options


def bind_options(cls: type[Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return every option of `cls` with its value, defaults included."""
    known = own_options(cls)
    positional = [name for name, p in known.items() if p.kind is _KINDS.POSITIONAL_OR_KEYWORD]
    if len(args) > len(positional):
        raise OptionError(cls.hook_name, repr(args[len(positional)]), f"takes {len(positional)} options by position")
    given = dict(zip(positional, args, strict=False))
    for name, value in kwargs.items():
        if name not in known:
            close = nearest(name, known)
            hint = f"did you mean {listed(close)}? " if close else ""
            raise OptionError(cls.hook_name, name, f"there is no such option; {hint}It has {listed(sorted(known))}")
        if name in given:
            raise OptionError(cls.hook_name, name, "given twice, by position and by name")
        given[name] = value
    for name, parameter in known.items():
        if name not in given and parameter.default is _EMPTY:
            raise OptionError(cls.hook_name, name, "has no default and was not given")
    return {name: given.get(name, parameter.default) for name, parameter in known.items()}


def stored(cls: type[Any], option: str, value: Any) -> Any:
    """Return `value` as it stands in a config; raise OptionError if it could not come back from a file."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.bool_ | np.integer | np.floating):
        return value.item()
    if isinstance(value, list | tuple):
        return [stored(cls, option, item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        if value.keys() >= _SERIALIZED:
            problem = "a dict with 'class_name' and 'config' stands for a Keras object: give the object itself"
            raise OptionError(cls.hook_name, option, problem)
        return {key: stored(cls, option, item) for key, item in value.items()}
    return _stored_object(cls, option, value)


def _stored_object(cls: type[Any], option: str, value: Any) -> Any:
    def refused(problem: str) -> OptionError:
        return OptionError(cls.hook_name, option, problem)

    if inspect.isfunction(value) and value.__name__ == "<lambda>":
        raise refused(f"a lambda cannot be saved: use a function registered with {_REGISTER}")
    if inspect.isclass(value):
        raise refused(f"{value.__name__} is a class, which cannot be saved: give an instance, {value.__name__}(...)")
    if not _has_a_name(value):
        raise refused(
            f"{value!r} cannot be saved: give JSON values, Keras objects, or a function or an object with get_config "
            f"that is registered with {_REGISTER}"
        )
    config = keras.saving.serialize_keras_object(value)
    try:
        check_references(config, cls.hook_name)
        back = keras.saving.deserialize_keras_object(config)
    except Exception as error:  # such as a lambda inside a layer
        raise refused(f"{value!r} cannot be loaded from its config: {error}") from error
    if inspect.isfunction(value) and back is not value:
        raise refused(f"{value!r} would come back from its config as {back!r}")
    return config


def _has_a_name(value: Any) -> bool:
    """Tell whether Keras can load `value` by name alone: one of Keras' own, or registered."""
    named = value if inspect.isfunction(value) else type(value)
    if not inspect.isfunction(value) and not hasattr(value, "get_config"):
        return False
    registered = keras.saving.get_registered_name(named)
    return named.__module__.partition(".")[0] == "keras" or keras.saving.get_registered_object(registered) is named


def revived(value: Any) -> Any:
    """Return a stored value as it was given; the inverse of `stored`, up to tuples, which come back as lists."""
    if isinstance(value, list):
        return [revived(item) for item in value]
    if isinstance(value, dict):
        if value.keys() >= _SERIALIZED:
            check_references(value, "an option of a hook")
            return keras.saving.deserialize_keras_object(value)
        return {key: revived(item) for key, item in value.items()}
    return value


def copied(value: Any) -> Any:
    """Return a copy of a stored value, so that a caller's changes do not reach the hook."""
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return [copied(item) for item in value] if isinstance(value, list) else value
