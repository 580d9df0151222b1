"""The values of a hook's options: text to values, by the types that the options are declared with."""

import ast
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Union, get_args, get_origin

import keras

import kwrap
from kwrap._captured import own_options
from kwrap.errors import OptionError, OptionValueError, listed, nearest

__all__ = [
    "Given",
    "default_text",
    "keras_object",
    "literal",
    "nearest_in_keras",
    "option_type",
    "option_values",
    "split",
    "type_text",
]

_EMPTY = inspect.Parameter.empty
_WORDS = {"true": True, "false": False, "none": None, "null": None}
_NUMBERS = (int, float)
_OPENING, _CLOSING, _QUOTES = "([{", ")]}", "'\""


@dataclass
class Given:
    """What a command line says of an option: a text, and texts for the fields of its value."""

    text: str | None = None
    fields: dict[str, "Given"] = field(default_factory=dict)


def option_values(hook_class: type[kwrap.Hook], given: Mapping[str, Given]) -> dict[str, Any]:
    """Return the options of a hook as Python values.

    Raises:
        OptionError: there is no such option or field.
        OptionValueError: a value is not of its type.
    """
    known = own_options(hook_class)
    _check_names(hook_class.hook_name, "", given, known)
    whole = {name: value for name, value in given.items() if value.text is not None}
    values = {name: _value(hook_class, hook_class.hook_name, known[name], one) for name, one in whole.items()}
    parts = {name: one for name, one in given.items() if one.text is None}
    if parts:
        present = hook_class(**values)  # whose own values are what the fields belong to
        for name, one in parts.items():
            values[name] = _changed(hook_class.hook_name, name, getattr(present, name, None), one.fields)
    return values


def _value(owner: type[Any], title: str, parameter: inspect.Parameter, given: Given) -> Any:
    """Return the value of an option or a field: what its text stands for, with the fields that are given of it."""
    text, wanted = given.text or "", option_type(owner, parameter)
    named = _registered(text)
    if given.fields and not inspect.isclass(named):
        raise OptionError(title, parameter.name, f"{text!r} has no fields: it is no class registered with Keras")
    if named is not None and (given.fields or not _fits(text, wanted) or wanted is Any):
        return _made(title, parameter.name, named, given.fields) if inspect.isclass(named) else named
    for value in (literal(text), text):
        if _fits(value, wanted):
            return value
    close = _nearest_classes(text, wanted)
    hint = f"; did you mean {listed(close)}?" if close else ""
    raise OptionValueError(title, parameter.name, literal(text), f"is no {type_text(wanted)}{hint}")


def _made(title: str, option: str, cls: type[Any], fields: Mapping[str, Given]) -> Any:
    """Return an instance of a class with these fields."""
    parameters = _parameters(cls)
    _check_names(title, f"{option}.", fields, parameters)
    missing = [name for name, one in parameters.items() if one.default is _EMPTY and name not in fields]
    if missing:
        shown = ", ".join(f"{option}.{name}=..." for name in missing)
        raise OptionError(title, option, f"{cls.__name__} needs {shown} too")
    return cls(**{name: _value(cls, cls.__name__, parameters[name], one) for name, one in fields.items()})


def _changed(title: str, option: str, value: Any, fields: Mapping[str, Given]) -> Any:
    """Return a copy of an option's present value with these fields changed."""
    if not hasattr(value, "get_config"):
        problem = f"its value is {value!r}, which has no fields; name a class with them: {option}=CLASS"
        raise OptionError(title, option, problem)
    cls, config = type(value), dict(value.get_config())
    parameters = {**{name: inspect.Parameter(name, _KEYWORD) for name in config}, **_parameters(cls)}
    _check_names(title, f"{option}.", fields, parameters)
    for name, one in fields.items():
        if one.text is None:
            changed = _changed(title, f"{option}.{name}", getattr(value, name, None), one.fields)
        else:
            changed = _value(cls, cls.__name__, parameters[name], one)
        config[name] = keras.saving.serialize_keras_object(changed) if hasattr(changed, "get_config") else changed
    return cls.from_config(config)


_KEYWORD = inspect.Parameter.KEYWORD_ONLY


def _parameters(cls: type[Any]) -> dict[str, inspect.Parameter]:
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {name: one for name, one in inspect.signature(cls).parameters.items() if one.kind not in variable}


def _check_names(title: str, prefix: str, given: Mapping[str, Given], known: Mapping[str, inspect.Parameter]) -> None:
    """Raise unless all that is given is an option, or a field of the option that `prefix` names."""
    names = [prefix + name for name in known]
    for name in (prefix + name for name in given):
        if name not in names:
            close = nearest(name, names)
            hint = f"did you mean {listed(close)}? " if close else ""
            raise OptionError(title, name, f"there is no such option; {hint}It has {listed(sorted(names))}")


def _registered(name: str) -> Any:
    """Return what is registered with Keras under a name, with or without its package; or Keras' own by dotted name."""
    if name.startswith("keras."):
        return keras_object(name)
    registered = keras.saving.get_custom_objects()
    if name in registered:
        return registered[name]
    found = {id(one): one for key, one in registered.items() if name and key.rpartition(">")[2] == name}
    return next(iter(found.values())) if len(found) == 1 else None


def keras_object(name: str) -> Any:
    """Return what is public in Keras under a dotted name, such as keras.layers.Dense; None if there is nothing."""
    found: Any = keras
    for part in name.split(".")[1:]:
        found = None if part.startswith("_") or part == "src" else getattr(found, part, None)
    return None if inspect.ismodule(found) else found


def nearest_in_keras(name: str, kind: type[Any]) -> list[str]:
    """Return the dotted names that look most like `name` among the public classes of a kind in the module it names."""
    module: Any = keras
    for part in name.split(".")[1:-1]:
        module = None if part.startswith("_") or part == "src" else getattr(module, part, None)
    if not inspect.ismodule(module):
        return []
    above, _, last = name.rpartition(".")
    classes = [one for one, found in vars(module).items() if inspect.isclass(found) and issubclass(found, kind)]
    return [f"{above}.{one}" for one in nearest(last, classes)]


def _nearest_classes(text: str, wanted: Any) -> list[str]:
    """Return the names that look most like `text` among the classes of a type: those registered, or Keras' own."""
    kinds = [one for one in (get_args(wanted) or (wanted,)) if isinstance(one, type)]
    if text.startswith("keras."):
        return [name for kind in kinds for name in nearest_in_keras(text, kind)]
    registered = keras.saving.get_custom_objects().items()
    classes = {key.rpartition(">")[2]: one for key, one in registered if inspect.isclass(one)}
    return nearest(text, [name for name, one in classes.items() if issubclass(one, tuple(kinds))])


def literal(text: str) -> Any:
    """Return the Python value that `text` is written as, or the text itself; words in brackets need no quotes."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if text[:1] in ("[", "(") and text[-1:] in ("]", ")"):
        return [literal(part.strip()) for part in split(text[1:-1], ",") if part.strip()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def split(text: str, separator: str) -> list[str]:
    """Split at a separator, but not inside brackets or quotes."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in _QUOTES:
            quote = character
        elif character == separator and depth == 0:
            parts.append("")
            continue
        depth += 0 if quote else (character in _OPENING) - (character in _CLOSING)
        parts[-1] += character
    return parts


# --- types -----------------------------------------------------------------------------------------------------------


def option_type(owner: type[Any], parameter: inspect.Parameter) -> Any:
    """Return the type that an option is declared with, or that its default has; Any if neither tells."""
    annotation = parameter.annotation
    if isinstance(annotation, str):
        annotation = _evaluated(owner, annotation)
    if annotation is not _EMPTY:
        return annotation
    plain = isinstance(parameter.default, bool | int | float | str)
    default_type = type(parameter.default) if plain else Any
    return float if default_type is int else default_type


def _evaluated(owner: type[Any], annotation: str) -> Any:
    """Return what an annotation that is a string stands for in the module of a class or of its parents."""
    holder = types.SimpleNamespace(__annotations__={"option": annotation})
    for base in owner.__mro__:
        try:
            return typing.get_type_hints(holder, vars(sys.modules[base.__module__]))["option"]
        except (NameError, AttributeError, TypeError):
            continue
    return Any


def _fits(value: Any, wanted: Any) -> bool:
    """Tell whether a value is of a type; of one that is not understood, every value is."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin is Literal:
        return value in arguments
    if wanted is Any:
        return True
    if wanted is None:
        return value is None
    if origin is Callable or wanted is Callable:
        return callable(value)
    kind = origin or wanted
    if not isinstance(kind, type):
        return True
    if kind in _NUMBERS:
        return isinstance(value, kind if kind is int else _NUMBERS) and not isinstance(value, bool)
    if kind is tuple or kind is set:
        kind = list
    if kind is not str and isinstance(value, str):
        return issubclass(str, kind) and not arguments
    if not isinstance(value, kind):
        return False
    items = [one for one in arguments if one is not Ellipsis]
    return not isinstance(value, list) or len(items) != 1 or all(_fits(item, items[0]) for item in value)


def type_text(wanted: Any) -> str:
    """Return a type as people write it."""
    if wanted is Any:
        return ""
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", inspect.formatannotation(wanted))  # without the modules


def default_text(parameter: inspect.Parameter) -> str:
    """Return an option's default as it is written; nothing if there is none."""
    return "" if parameter.default is _EMPTY else repr(parameter.default)
