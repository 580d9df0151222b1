"""Tables: the same cells by `print`, by rich and in a notebook, whatever they say."""

import inspect
import io
import re
from xml.etree import ElementTree

import pytest
from rich.console import Console

import kwrap.tables
from kwrap.tables import Cell, Table, Tabular

ODD = "[b]<script>&\"'"  # markup, of rich and of HTML
COMMAND = "\x1b[2J"  # clears a terminal
COLUMNS = ("layer", "count", "note")
ROWS = [("a", "1", ODD), (Cell("b", depth=1, tooltip="a/b"), "20", ""), (Cell(COMMAND, depth=2), "3", "x")]


def example(**options) -> Table:
    return Table("title of <i>net", COLUMNS, ROWS, right=("count",), **options)


def by_rich(table: Table) -> list[str]:
    shown = io.StringIO()
    Console(file=shown, width=120).print(table.as_rich())
    return shown.getvalue().splitlines()


def test_text_is_in_columns_and_numbers_are_flush_right():
    lines = example(total=("all", "24", ""), notes=["one", "two"]).as_text().splitlines()
    assert lines == [
        "title of <i>net",
        "layer        count  note",
        f"a                1  {ODD}",
        "  b             20",
        "    \\x1b[2J      3  x",
        "all             24",
        "one",
        "two",
    ]


def test_rich_shows_the_same_cells():
    lines = by_rich(example(total=("all", "24", ""), notes=["one", "two"]))
    rows = [[cell[1:-1] for cell in re.split("[│┃]", line)[1:-1]] for line in lines if re.match("[│┃]", line)]
    assert rows == [
        ["layer      ", "count", f"{'note':14}"],
        ["a          ", "    1", f"{ODD:14}"],
        ["  b        ", "   20", " " * 14],
        ["    \\x1b[2J", "    3", f"{'x':14}"],
        ["all        ", "   24", " " * 14],
    ]
    assert "title of <i>net" in lines[0]
    assert [line.strip() for line in lines[-2:]] == ["one", "two"]


def test_a_notebook_shows_the_same_cells():
    page = ElementTree.fromstring(example(total=("all", "24", ""), notes=["one", ODD]).as_html())
    assert page.findtext("strong") == "title of <i>net"
    rows = [[cell.text or "" for cell in row] for row in page.iter("tr")]
    assert rows == [
        [*COLUMNS],
        ["a", "1", ODD],
        ["\u00a0" * 4 + "b", "20", ""],
        ["\u00a0" * 8 + "\\x1b[2J", "3", "x"],
        ["all", "24", ""],
    ]
    assert [line.text for line in page.findall("div")] == ["one", ODD]
    assert [cell.get("title") for cell in page.iter("td")] == [None, None, None, "a/b", *[None] * 8]
    sides = [re.search("text-align: ([a-z]+)", cell.get("style")).group(1) for cell in page.iter("td")]
    assert sides == ["left", "right", "left"] * 4


def test_a_notebook_folds_notes_under_the_words_for_them():
    page = ElementTree.fromstring(example(notes=["one", "two"], folded="two <notes>").as_html())
    assert page.find("details").attrib == {}
    assert page.findtext("./details/summary") == "two <notes>"
    assert [item.text for item in page.iter("li")] == ["one", "two"]
    assert ElementTree.fromstring(example(folded="none").as_html()).find("details") is None


def test_a_cell_has_a_bar_or_a_drawing_in_a_notebook_and_a_text_elsewhere():
    table = Table("t", ("share", "drawing"), [(Cell("0.25", bar=0.25), Cell("###", drawing="<svg></svg>"))])
    share, drawing = ElementTree.fromstring(table.as_html()).iter("td")
    assert re.search(r"gradient\(to right, \S+ \S+ \S+ \S+ 25\.0%, transparent 0\)", share.get("style"))
    assert (drawing.text, drawing[0].tag) == (None, "svg")
    assert table.as_text().splitlines()[2] == "0.25   ###"
    assert any("###" in line for line in by_rich(table))


def test_a_table_without_rows_is_one():
    table = Table("nothing", COLUMNS, [])
    assert table.as_text() == "nothing\nlayer  count  note"
    assert by_rich(table)
    assert not ElementTree.fromstring(table.as_html()).findall("./table/tbody/tr")


@pytest.mark.parametrize("form", ["as_text", "as_rich", "as_html"])
def test_a_row_with_another_number_of_cells_is_an_error(form):
    with pytest.raises(ValueError, match=r"zip|columns"):
        getattr(Table("t", COLUMNS, [("a", "b", "c"), ("a", "b")], total=("x", "y")), form)()


def test_the_example_in_the_documentation_of_the_module_is_shown_in_all_three_ways():
    _, code = kwrap.tables.__doc__.split("by it::\n")
    names = {"Table": Table, "Tabular": Tabular}
    exec("from dataclasses import dataclass\n" + inspect.cleandoc(f"\n{code}"), names)
    report = names["Report"]({"hidden": 1.5})
    assert repr(report) == "norms\nlayer    norm\nhidden  1.500"
    assert ElementTree.fromstring(report._repr_html_()).findtext("./table/tbody/tr/td") == "hidden"
    shown = io.StringIO()
    Console(file=shown, width=60).print(report)
    assert "hidden" in shown.getvalue()
