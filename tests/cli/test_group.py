import subprocess
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import entry_points, version
from pathlib import Path

import click
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from kwrap import _plugins
from kwrap_cli import main
from kwrap_cli._group import COMMANDS, command_of

HEAVY = ("kwrap", "keras", "tensorflow")


LIGHT = [
    ["--help"],
    ["--version"],
    ["plugins"],
    ["plugins", "--json"],
    ["new-plugin", "made_in_a_test"],
    *([name, "--help"] for name in COMMANDS),
]


def test_what_needs_no_model_imports_neither_kwrap_nor_tensorflow(tmp_path: Path) -> None:
    code = f"""
import sys
from kwrap_cli import main
for arguments in {LIGHT!r}:
    main(arguments, standalone_mode=False)
    print("imported:", [name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    imported = [line for line in done.stdout.splitlines() if line.startswith("imported:")]
    assert imported == ["imported: []"] * len(LIGHT)


@pytest.mark.parametrize(
    ("words", "incomplete", "completed"),
    [
        ([], "pl", ["plan", "plugins"]),
        (["wrap"], "--h", ["--hook", "--help"]),
        (["new-plugin", "--license"], "", ["Apache-2.0", "BSD-3-Clause", "MIT"]),
    ],
)
def test_a_shell_completes_commands_options_and_choices(
    words: list[str], incomplete: str, completed: list[str]
) -> None:
    complete = BashComplete(main, {}, "kwrap", "_KWRAP_COMPLETE")
    assert [item.value for item in complete.get_completions(words, incomplete)] == completed


def test_a_shell_is_given_a_script_that_asks_for_completions() -> None:
    result = CliRunner(env={"_KWRAP_COMPLETE": "zsh_source"}).invoke(main, prog_name="kwrap")
    assert result.output.startswith("#compdef kwrap")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_prints_json_where_it_has_a_table_and_shows_tracebacks(name: str) -> None:
    options = {option for parameter in command_of(name).params for option in parameter.opts}
    assert "--debug" in options
    assert ("--json" in options) == (name != "new-plugin")


def test_help_lists_every_command_with_what_it_does() -> None:
    output = CliRunner().invoke(main, ["--help"]).output
    assert COMMANDS
    for name, summary in COMMANDS.items():
        assert f"{name} {summary}" in " ".join(output.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_in_the_module_of_its_name(name: str) -> None:
    command = command_of(name)
    assert command.callback is not None
    assert command.callback.__module__ == f"kwrap_cli.{name.replace('-', '_')}"
    assert command.name == name


def test_invoking_a_command_runs_the_one_in_its_module() -> None:
    assert "Usage: kwrap plugins" in CliRunner().invoke(main, ["plugins", "--help"], prog_name="kwrap").output


def test_an_unknown_command_is_an_error_that_shows_the_nearest() -> None:
    result = CliRunner().invoke(main, ["plugin"])
    assert result.exit_code == 2
    assert "'plugins'" in result.output


COMMAND = """
import click
import kwrap

@click.command
def greet():
    click.echo("hello")

@kwrap.hookimpl
def kwrap_commands(cli):
    cli.add_command(greet)
"""


@pytest.fixture
def group(plugins: _plugins.Plugins, monkeypatch: pytest.MonkeyPatch) -> click.Group:
    """Return the group as in a new process: no plugin has been asked."""
    monkeypatch.setattr(_plugins, "plugins", plugins)
    monkeypatch.setattr(main, "commands", dict(main.commands))
    return main


def test_a_command_that_kwrap_lacks_is_a_plugins(group: click.Group, install: Callable[..., str]) -> None:
    install("greeting", COMMAND)
    result = CliRunner().invoke(group, ["greet"], catch_exceptions=False)
    assert (result.exit_code, result.output) == (0, "hello\n")


@pytest.mark.parametrize("arguments", [["--help"], ["plugins"]])
def test_what_kwrap_has_itself_loads_no_plugin(
    group: click.Group, install: Callable[..., str], arguments: list[str]
) -> None:
    module = install("greeting", COMMAND)
    assert CliRunner().invoke(group, arguments).exit_code == 0
    assert module not in sys.modules


def test_a_command_that_no_plugin_has_either_is_an_error_that_shows_the_nearest_of_them(
    group: click.Group, install: Callable[..., str]
) -> None:
    install("greeting", COMMAND)
    result = CliRunner().invoke(group, ["gret"])
    assert result.exit_code == 2
    assert "'greet'" in result.output


def test_a_plugin_cannot_take_the_place_of_kwraps_own_command(group: click.Group, install: Callable[..., str]) -> None:
    install("greeting", COMMAND.replace("@click.command", '@click.command("plugins")'))
    assert CliRunner().invoke(group, ["greet"]).exit_code == 2
    assert "hello" not in CliRunner().invoke(group, ["plugins"]).output


@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_what_a_plugins_command_raises_of_kwraps_errors_is_one_line(
    group: click.Group, install: Callable[..., str], debug: list[str]
) -> None:
    install("greeting", COMMAND.replace('click.echo("hello")', 'raise kwrap.errors.KwrapError("not\\ntoday")'))
    result = CliRunner().invoke(group, [*debug, "greet"])
    assert result.exit_code == 2
    assert result.stderr.endswith("Error: not today\n")
    assert ("Traceback" in result.stderr) == bool(debug)


def test_a_plugin_that_fails_to_add_its_commands_is_named_with_the_way_out(
    group: click.Group, install: Callable[..., str]
) -> None:
    install("greeting", COMMAND.replace("cli.add_command(greet)", "raise ValueError('not today')"))
    result = CliRunner().invoke(group, ["greet"])
    assert result.exit_code == 1
    for said in ("greeting (dist-greeting 1.0)", "ValueError: not today", "KWRAP_BLOCK=greeting"):
        assert said in result.output


LATE = """
import warnings

warnings.simplefilter("always")
warnings.warn("late\\nand loud", stacklevel=1)
"""


@pytest.mark.parametrize("command", ["greet", "gret"])
def test_what_plugins_warn_of_is_one_line_on_stderr(
    group: click.Group, install: Callable[..., str], command: str
) -> None:
    install("greeting", LATE + COMMAND)
    with warnings.catch_warnings():
        stderr = CliRunner().invoke(group, [command]).stderr
    assert stderr.splitlines()[0] == "Warning: late and loud"
    assert "warnings.warn" not in stderr


def test_version_is_that_of_the_installed_package() -> None:
    assert version("kwrap") in CliRunner().invoke(main, ["--version"]).output.split()


def test_the_installed_script_is_this_group() -> None:
    (script,) = entry_points(group="console_scripts", name="kwrap")
    assert script.load() is main
