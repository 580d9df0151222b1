"""Docstrings as they are written here, made what Sphinx reads: plain text, `code`, and code blocks after a colon."""

import functools
import re
from typing import Any

from sphinx.util.inspect import signature, stringify_signature
from sphinx.util.typing import stringify_annotation

__all__ = ["as_restructured_text", "with_options"]

_CODE = re.compile(r"(`[^`]+`)(\w)?")


def as_restructured_text(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Change `lines` in place; a handler of autodoc-process-docstring, before napoleon's."""
    for index, line in enumerate(lines):
        lines[index] = _with_literals(line)
        following = lines[index + 1 : index + 3]
        starts_block = len(following) == 2 and not following[0] and following[1].startswith(_indent(line) + " " * 4)
        if line.endswith(":") and starts_block:
            lines[index] += ":"


def _with_literals(line: str) -> str:
    """Return a line whose `code` is literal, also in a plural, and whose |magnitudes| are no substitutions."""
    parts = _CODE.split(line)  # text, code, letter, text, ...
    for index in range(0, len(parts), 3):
        parts[index] = parts[index].replace("|", r"\|")
    for index in range(1, len(parts), 3):
        parts[index] = f"`{parts[index]}`"
        parts[index + 1] = "\\ " + parts[index + 1] if parts[index + 1] else ""
    return "".join(parts)


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def with_options(
    app: Any, what: str, name: str, obj: Any, options: Any, arguments: str | None, returns: str | None
) -> Any:
    """Return the signature of a Hook class by its options, and others with the names of long types.

    A handler of autodoc-process-signature. Sphinx looks at `Hook.__new__`, which takes everything, for it captures the
    options.
    """
    import kwrap

    if what == "class" and issubclass(obj, kwrap.Hook):
        arguments = stringify_signature(signature(obj.__init__, bound_method=True), unqualified_typehints=True)
    for alias, text in _long_types().items():
        arguments = arguments and arguments.replace(text, alias)
    return arguments, returns


@functools.cache
def _long_types() -> dict[str, str]:
    """Return how Sphinx writes the types of `hooks` and `where`, by their names."""
    from kwrap._hook import Where
    from kwrap._model import Chosen
    from kwrap._plan import HooksLike

    aliases = {"HooksLike": HooksLike, "Where": Where, "Chosen": Chosen}
    return {name: stringify_annotation(alias, "smart") for name, alias in aliases.items()}
