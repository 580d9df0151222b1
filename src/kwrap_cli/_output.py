"""How commands print: a table for people, or the same as JSON."""

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import click
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from kwrap_files import printable

__all__ = ["aside", "console", "print_result", "size", "table"]

# In a pipe or a file: what a table of paths and hooks needs, so that a row is a line.
_WIDTH_OF_FILES = 200


@contextmanager
def aside() -> Iterator[None]:
    """Print what hooks print, such as the lines of a trace, on stderr: stdout has the command's own result alone."""
    with redirect_stdout(sys.stderr):
        yield


def print_result(shown: RenderableType, data: Any, *, as_json: bool) -> None:
    """Print `data` as JSON, or else what is shown to people."""
    if as_json:
        click.echo(json.dumps(_json_values(data), indent=2))
    else:
        console().print(shown)


def console() -> Console:
    """Return the console to print on; its width is the terminal's, or what COLUMNS says."""
    limited = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if limited else _WIDTH_OF_FILES, highlight=False)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str | None = None,
    caption: str | None = None,
    right: Iterable[str] = (),
) -> Table:
    """Return a table; the columns named in `right` are of numbers."""
    made = Table(title=_text(title), caption=_text(caption))
    for name in columns:
        made.add_column(name, justify="right" if name in set(right) else "left")
    for row in rows:
        made.add_row(*(Text(printable(str(cell))) for cell in row))  # a name may look like markup
    return made


def _text(text: str | None) -> Text | None:
    return None if text is None else Text("\n".join(map(printable, text.split("\n"))))


def size(count: int) -> str:
    """Return a number of bytes for people: 512 B, 1.5 kB, 3.2 MB."""
    if count < 1000:
        return f"{count} B"
    power = min(int(math.log10(count) / 3), 4)
    return f"{count / 1000**power:.1f} {('kB', 'MB', 'GB', 'TB')[power - 1]}"


def _json_values(value: Any) -> Any:
    """Return `value` with numbers that JSON lacks, infinities and NaN, as text."""
    if isinstance(value, dict):
        return {key: _json_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_values(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
