"""Docstrings as they are written here, made what Sphinx reads: plain text, `code`, and code blocks after a colon."""

import re
from typing import Any

from sphinx.util.inspect import signature, stringify_signature

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


def with_options(app: Any, what: str, name: str, obj: Any, options: Any, arguments: str, returns: str) -> Any:
    """Return what a Hook class takes as its options; a handler of autodoc-process-signature.

    Sphinx looks at `__new__`, which takes everything, for it captures the options.
    """
    import kwrap

    if what == "class" and issubclass(obj, kwrap.Hook):
        return stringify_signature(signature(obj.__init__, bound_method=True), unqualified_typehints=True), returns
    return None
