"""Tables of text: shown by `print`, by rich and in a notebook, on light pages and on dark ones.

A report is data, and `Tabular`: it says what its table is, and is shown in all three ways by it::

    @dataclass(frozen=True, repr=False)
    class Report(Tabular):
        norms: dict[str, float]

        def table(self) -> Table:
            rows = [(path, f"{norm:.3f}") for path, norm in self.norms.items()]
            return Table("norms", ("layer", "norm"), rows, right=("norm",))
"""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kwrap_files import printable

if TYPE_CHECKING:
    from rich.table import Table as RichTable

__all__ = ["Cell", "Table", "Tabular"]

# Styles are in the elements: a notebook that is not trusted loses a <style>, and a page's own rules for cells win over
# what cells inherit. No colours but the page's own and half-transparent grey: nothing here knows if the page is dark.
_GREY = "rgba(127, 127, 127, 0.35)"
_CELL = f"border: 0; border-bottom: 1px solid {_GREY}; padding: 0.25em 0.75em; vertical-align: top"
_TABLE = "border-collapse: collapse; margin: 0.3em 0; color: inherit"


@dataclass(frozen=True)
class Cell:
    """A cell that is more than a text.

    Attributes:
        text: what it says; with `drawing`, to print and rich only.
        depth: how far it is indented, as in a tree.
        tooltip: what a notebook says of it when it is pointed at.
        bar: how much of it a notebook fills with grey, from 0 to 1; None: nothing.
        drawing: HTML that a notebook shows instead of the text, such as an <svg>; nobody escapes it.
    """

    text: str
    depth: int = 0
    tooltip: str = ""
    bar: float | None = None
    drawing: str = ""


Row = Sequence[str | Cell]


@dataclass(frozen=True)
class Table:
    """A table of text, which may be anybody's: neither markup nor what commands a terminal does anything.

    Attributes:
        title: the line above it.
        columns: the columns' names.
        rows: a text or a `Cell` for each column.
        right: the names of columns of numbers, which are flush right.
        total: a last row, set apart.
        notes: lines below it.
        folded: the words that a notebook shows instead of the notes until it is asked for them.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Row]
    right: Sequence[str] = ()
    total: Row = ()
    notes: Sequence[str] = ()
    folded: str = ""

    def as_text(self) -> str:
        """Return it as lines of text."""
        totals = [self.total] if self.total else []
        rows = [[_text(cell) for cell in row] for row in (self.columns, *self.rows, *totals)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        sides = [">" if name in self.right else "<" for name in self.columns]
        form = "  ".join(f"{{:{side}{width}}}" for side, width in zip(sides, widths, strict=True))
        lines = [form.format(*row).rstrip() for row in rows]
        return "\n".join([printable(self.title), *lines, *map(printable, self.notes)])

    def as_rich(self) -> "RichTable":
        """Return it as a table of rich, which has to be installed."""
        from rich.table import Table as RichTable
        from rich.text import Text

        notes = Text("\n".join(map(printable, self.notes))) if self.notes else None
        table = RichTable(title=Text(printable(self.title)), caption=notes, show_footer=bool(self.total))
        for name, total in zip(self.columns, self.total or [""] * len(self.columns), strict=True):
            table.add_column(name, Text(_text(total)), justify="right" if name in self.right else "left")
        for row in self.rows:
            table.add_row(*(Text(_text(cell)) for cell in row))
        return table

    def as_html(self) -> str:
        """Return it as HTML, which takes nothing from elsewhere."""
        head, body = self._html([self.columns], "th"), self._html(self.rows)
        foot = f'<tfoot style="font-weight: bold">{self._html([self.total])}</tfoot>' if self.total else ""
        notes = [html.escape(printable(note)) for note in self.notes]
        if self.folded and notes:
            items = "".join(f"<li>{note}</li>" for note in notes)
            below = f"<details><summary>{html.escape(self.folded)}</summary><ul>{items}</ul></details>"
        else:
            below = "".join(f"<div>{note}</div>" for note in notes)
        return (
            f'<div style="overflow-x: auto; color: inherit"><strong>{html.escape(printable(self.title))}</strong>'
            f'<table style="{_TABLE}"><thead>{head}</thead><tbody>{body}</tbody>{foot}</table>{below}</div>'
        )

    def _html(self, rows: Iterable[Row], kind: str = "td") -> str:
        sides = ["right" if name in self.right else "left" for name in self.columns]
        found = ("".join(_html(*cell, kind) for cell in zip(row, sides, strict=True)) for row in rows)
        return "".join(f"<tr>{cells}</tr>" for cells in found)


class Tabular:
    """What is shown as a table, by `print`, by rich and in a notebook."""

    def table(self) -> Table:
        """Return the table."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return self.table().as_text()

    def __rich__(self) -> "RichTable":
        return self.table().as_rich()

    def _repr_html_(self) -> str:
        return self.table().as_html()


def _cell(cell: str | Cell) -> Cell:
    return cell if isinstance(cell, Cell) else Cell(cell)


def _text(cell: str | Cell) -> str:
    return "  " * _cell(cell).depth + printable(_cell(cell).text)


def _html(cell: str | Cell, side: str, kind: str) -> str:
    cell = _cell(cell)
    style = f"{_CELL}; text-align: {side}"
    if cell.bar is not None:
        style += f"; background: linear-gradient(to right, {_GREY} {cell.bar:.1%}, transparent 0)"
    if cell.depth or cell.tooltip:
        style += "; white-space: nowrap"
    tooltip = f' title="{html.escape(cell.tooltip)}"' if cell.tooltip else ""
    # Indented by spaces: a page that drops all styles, as GitHub does, still shows a tree.
    inside = cell.drawing or "&#160;" * 4 * cell.depth + html.escape(printable(cell.text))
    return f'<{kind} style="{style}"{tooltip}>{inside}</{kind}>'
