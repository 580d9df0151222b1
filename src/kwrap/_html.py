"""HTML: a table of text as a notebook shows it, on light pages and on dark ones."""

import html
from collections.abc import Iterable, Sequence

__all__ = ["listing", "table"]

# Styles are in the elements: a notebook that is not trusted loses a <style>, and a page's own rules for cells win over
# what cells inherit. No colours but the page's own and half-transparent grey: nothing here knows if the page is dark.
_LINE = "1px solid rgba(127, 127, 127, 0.5)"
_CELL = f"border: 0; border-bottom: {_LINE}; padding: 0.25em 1.5em 0.25em 0; text-align: left; vertical-align: top"
_TABLE = "border-collapse: collapse; margin: 0.3em 0; color: inherit"


def table(title: str, columns: Sequence[str], rows: Iterable[tuple[int, str, Sequence[str]]], below: str = "") -> str:
    """Return a table, and the HTML `below` it; a row is (depth, tooltip, cells), its first cell indented by depth."""
    head = "".join(f'<th style="{_CELL}">{html.escape(name)}</th>' for name in columns)
    body = "".join(_row(*row) for row in rows)
    return (
        f'<div style="overflow-x: auto; color: inherit"><strong>{html.escape(title)}</strong>'
        f'<table style="{_TABLE}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}</div>'
    )


def listing(summary: str, lines: Iterable[str]) -> str:
    """Return a list that is closed at first, under its summary; nothing if there are no lines."""
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<details><summary>{html.escape(summary)}</summary><ul>{items}</ul></details>" if items else ""


def _row(depth: int, tooltip: str, cells: Sequence[str]) -> str:
    # By spaces: a page that drops all styles, as GitHub does, still shows a tree.
    name, *others = ("&#160;" * 4 * depth + html.escape(cells[0]), *map(html.escape, cells[1:]))
    first = f'<td style="{_CELL}; white-space: nowrap" title="{html.escape(tooltip)}">{name}</td>'
    return f"<tr>{first}" + "".join(f'<td style="{_CELL}">{cell}</td>' for cell in others) + "</tr>"
