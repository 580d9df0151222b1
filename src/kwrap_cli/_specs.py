"""What `--hook`, `--where` and `--exclude` mean: text to hooks and rules.

A hook is written `name:option=value,option=value@where,where`; all but the name may be left out. A dot in an option's
name reaches into the option's own fields: `schedule.target_sparsity=0.8`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import keras

import kwrap
from kwrap._hook import Where
from kwrap._registry import resolve
from kwrap.errors import KwrapError, listed
from kwrap_cli._command import BadInput
from kwrap_cli._values import Given, keras_object, nearest_in_keras, option_values, split

__all__ = ["HookText", "read_hook", "rules"]


@dataclass(frozen=True)
class HookText:
    """A hook as it is written on the command line, in its parts."""

    name: str
    options: dict[str, Given] = field(default_factory=dict)
    where: tuple[str, ...] = ()

    def hook(self) -> kwrap.Hook:
        """Return the hook.

        Raises:
            KwrapError: there is no such hook or option, or a value cannot be.
        """
        hook_class = resolve(self.name)
        try:
            return hook_class(**option_values(hook_class, self.options))
        except KwrapError:
            raise
        except (TypeError, ValueError) as error:  # what a hook, or the class of an option's value, does not take
            raise BadInput(f"--hook {self.name}: {error}") from error


def rules(hooks: Sequence[str], where: Sequence[str], exclude: Sequence[str]) -> list[kwrap.Rule]:
    """Return the rules that the options of a command stand for; a hook's own place, after `@`, wins over `where`."""
    if not hooks and (where or exclude):
        raise BadInput("--where and --exclude choose layers for hooks, and there is no --hook.")
    texts = [read_hook(text) for text in hooks]
    if where and all(text.where for text in texts):
        raise BadInput("--where is for hooks without an @, and each --hook has one: leave out --where, or an @.")
    return [kwrap.Rule(text.hook(), _where(text.where or where), _where(exclude)) for text in texts]


def read_hook(text: str) -> HookText:
    """Return the parts of a hook as written; raise BadInput for what is not written as a hook."""
    head, *places = split(text, "@")
    name, _, rest = head.partition(":")
    if not name.strip() or len(places) > 1:
        raise BadInput(f"--hook {text!r} is not written as NAME:OPTION=VALUE,OPTION=VALUE@WHERE,WHERE.")
    where = tuple(part.strip() for part in places[0].split(",")) if places else ()
    return HookText(name.strip(), _read_options(text, split(rest, ",")), where)


def _read_options(text: str, parts: Iterable[str]) -> dict[str, Given]:
    options: dict[str, Given] = {}
    for part in filter(None, map(str.strip, parts)):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not all(name.split(".")):
            raise BadInput(f"--hook {text!r}: {part!r} is not written as OPTION=VALUE.")
        given = _at(options, name.split("."))
        if given.text is not None:
            raise BadInput(f"--hook {text!r}: {name!r} is given twice.")
        given.text = value
    return options


def _at(options: dict[str, Given], path: Sequence[str]) -> Given:
    """Return what is given of the option, or option's field, at `path`: nothing so far."""
    name, *rest = path
    given = options.setdefault(name, Given())
    return _at(given.fields, rest) if rest else given


def _where(given: Sequence[str]) -> Where | None:
    return [_place(text) for text in given] or None


def _place(text: str) -> Where:
    """Return a layer class where one is named, else the pattern itself."""
    if not text.startswith("keras."):
        return text
    found = keras_object(text)
    if not (isinstance(found, type) and issubclass(found, keras.Layer)):
        close = nearest_in_keras(text, keras.Layer)
        hint = f" Did you mean {listed(close)}?" if close else ""
        raise BadInput(f"{text!r} is no layer class of Keras, such as keras.layers.Dense.{hint}")
    return found
