"""docs/command-line.md names every command and option; its sessions are replayed by the root's conftest."""

import re
from pathlib import Path
from types import ModuleType

import pytest

from kwrap_cli._group import COMMANDS, command_of

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "command-line.md").read_text("utf-8")


def test_each_command_has_a_section_and_each_section_a_command() -> None:
    assert sorted(re.findall(r"^## kwrap (\S+)$", PAGE, re.MULTILINE)) == sorted(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_section_of_a_command_has_its_help_and_an_example(name: str) -> None:
    section = re.split(r"^## ", PAGE.partition(f"\n## kwrap {name}\n")[2], flags=re.MULTILINE)[0]
    examples = re.findall(rf"^\$ kwrap {name}\b.*$", section, re.MULTILINE)
    assert f"$ kwrap {name} --help" in examples
    assert len(examples) > 1 or name == "demo"  # which takes a minute, and is run elsewhere
    for parameter in command_of(name).params:
        assert max(parameter.opts, key=len) in section or parameter.param_type_name == "argument"


# --- replaying -------------------------------------------------------------------------------------------------------


@pytest.fixture
def conftest(pytestconfig: pytest.Config) -> ModuleType:
    """Return the root's conftest.py, which replays sessions."""
    path = str(ROOT / "conftest.py")
    return next(
        plugin for plugin in pytestconfig.pluginmanager.get_plugins() if getattr(plugin, "__file__", "") == path
    )


NAME = "$ kwrap new-plugin class\nError: 'class' cannot be a plugin's name: it is a keyword of Python.\n"


@pytest.mark.parametrize(
    "session",
    [
        NAME,
        NAME.replace("cannot be a plugin's name", "..."),
        NAME.replace(" cannot", "    cannot"),
        NAME + "$ echo $?\n2\n",
        NAME.replace("new-plugin class", "new-plugin \\\n    class"),
        "$ make demo\nanything\n",
        "$ kwrap demo\nanything\n",
    ],
)
def test_a_session_that_prints_what_it_says_or_is_of_other_commands_passes(conftest: ModuleType, session: str) -> None:
    assert conftest.replay(session) is None


@pytest.mark.parametrize(
    "session",
    [
        NAME.replace("keyword", "key word"),
        NAME.splitlines()[0],
        NAME + "and more\n",
        NAME + "$ echo $?\n0\n",
        NAME.replace("class", "lambda", 1),
    ],
)
def test_a_session_that_prints_something_else_fails_and_shows_both(conftest: ModuleType, session: str) -> None:
    shown = conftest.replay(session)
    assert "$ " in shown
    assert "instead of" in shown
