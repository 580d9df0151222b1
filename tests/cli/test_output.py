import json

import pytest

from kwrap_cli._output import console, print_result, size, table


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (53_300, "53.3 kB"),
        (3_200_000, "3.2 MB"),
        (5 * 10**15, "5000.0 TB"),
    ],
)
def test_a_size_has_the_unit_that_people_read(count: int, text: str) -> None:
    assert size(count) == text


def test_json_has_what_json_lacks_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_result("", {"a": [float("inf"), float("nan"), 0.5], "b": (1, None, True)}, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"a": ["inf", "nan", 0.5], "b": [1, None, True]}


def test_a_name_that_looks_like_markup_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_result(table(("a [b]",), [("[red]x[/red]",)], title="[bold]"), None, as_json=False)
    shown = capsys.readouterr().out
    assert "[red]x[/red]" in shown
    assert "[bold]" in shown


def test_what_commands_a_terminal_is_shown_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("a\x1b[31mred", "b\x9bc", "c\nd")
    print_result(table(("a",), [names[:1]], title=names[1], caption=f"e\n{names[0]}"), None, as_json=False)
    shown = capsys.readouterr().out
    for name in (r"a\x1b[31mred", r"b\x9bc"):
        assert name in shown
    assert not {"\x1b", "\x9b"} & set(shown)


def test_in_a_pipe_a_row_is_not_folded_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert console().width == 200
    monkeypatch.setenv("COLUMNS", "66")
    assert console().width == 66
