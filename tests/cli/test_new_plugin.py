"""What `kwrap new-plugin` writes and refuses; that it works when installed: tests/integration/test_new_plugin.py."""

import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from kwrap_cli import main, new_plugin

FILES = {
    ".github/workflows/ci.yml",
    ".gitignore",
    "LICENSE",
    "README.md",
    "pyproject.toml",
    "src/kwrap_my_norm/__init__.py",
    "src/kwrap_my_norm/_hook.py",
    "src/kwrap_my_norm/py.typed",
    "tests/test_hook.py",
}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["new-plugin", *arguments], catch_exceptions=False)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["my-norm", "my_norm"])
def test_it_writes_a_whole_package_and_says_what_comes_next(folder: Path, name: str) -> None:
    result = run(name)
    assert result.exit_code == 0
    assert written(folder / "kwrap-my-norm") == FILES
    assert "pip install -e 'kwrap-my-norm[dev]'" in result.output
    assert "kwrap-my-norm/src/kwrap_my_norm/_hook.py" in result.output


def test_the_metadata_name_the_plugin_its_module_and_the_kwrap_it_needs(folder: Path) -> None:
    run("my-norm")
    project = tomllib.loads((folder / "kwrap-my-norm/pyproject.toml").read_text())["project"]
    assert project["name"] == "kwrap-my-norm"
    assert project["entry-points"]["kwrap"] == {"my_norm": "kwrap_my_norm"}
    assert project["dependencies"] == ["kwrap>=0.1"]
    assert project["license"] == "Apache-2.0"


def test_no_placeholder_of_the_template_is_left(folder: Path) -> None:
    run("my-norm")
    for path in (folder / "kwrap-my-norm").rglob("*"):
        if path.is_file() and path.name != "LICENSE":
            text = path.read_text()
            assert "${{ matrix.python }}" in text if path.name == "ci.yml" else "${" not in text
            assert "$$" not in text
            assert not any(f"${name}" in text for name in ("name", "module", "package", "class_name", "kwrap"))


@pytest.mark.parametrize(
    ("licence", "line"),
    [
        ("Apache-2.0", "Apache License"),
        ("BSD-3-Clause", "BSD 3-Clause License"),
        ("MIT", "MIT License"),
    ],
)
def test_the_licence_may_be_chosen(folder: Path, licence: str, line: str) -> None:
    run("my-norm", "--license", licence, "--author", "Ada Lovelace", "--folder", "here")
    text = (folder / "here/LICENSE").read_text()
    assert text.strip().startswith(line)
    assert ("Ada Lovelace" in text) == (licence != "Apache-2.0")
    project = tomllib.loads((folder / "here/pyproject.toml").read_text())["project"]
    assert (project["license"], project["authors"]) == (licence, [{"name": "Ada Lovelace"}])


@pytest.mark.parametrize("author", ['A "B" C', "back\\slash", "Zoë O'Hara", "$name"])
def test_an_author_of_any_name_is_in_the_metadata_as_given(folder: Path, author: str) -> None:
    run("my-norm", "--author", author, "--license", "MIT")
    project = tomllib.loads((folder / "kwrap-my-norm/pyproject.toml").read_text("utf-8"))["project"]
    assert project["authors"] == [{"name": author}]
    assert author in (folder / "kwrap-my-norm/LICENSE").read_text("utf-8")


def test_an_author_of_two_lines_is_refused(folder: Path) -> None:
    result = run("my-norm", "--author", "Ada\nLovelace")
    assert result.exit_code == 2
    assert "has to be one line" in result.stderr
    assert list(folder.iterdir()) == []


def test_the_wheel_of_kwrap_holds_every_file_of_the_template() -> None:
    template = Path(new_plugin.__file__).parent / "plugin_template"
    used = {source for source in new_plugin._FILES.values() if source and "$" not in source}
    used |= {f"licenses/{name}" for name in new_plugin._LICENSES}
    assert {str(path.relative_to(template)) for path in template.rglob("*") if path.is_file()} == used


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("SpectralNorm", "Did you mean spectral_norm?"),
        ("kwrap-norm", "Did you mean norm?"),
        ("my norm", "Did you mean my_norm?"),
        ("2d", "it consists of lower-case words"),
        ("_norm", "Did you mean norm?"),
        ("../norm", "Did you mean norm?"),
        ("", "it consists of lower-case words"),
        ("kwrap", "it consists of lower-case words"),
        ("é", "it consists of lower-case words"),
        ("class", "it is a keyword of Python"),
        ("none", "the name of its class, None, is a keyword of Python"),
        ("true", "the name of its class, True, is a keyword of Python"),
        ("cli", "kwrap has a package of that name itself"),
        ("files", "kwrap has a package of that name itself"),
        ("keras", "kwrap has a plugin of that name itself"),
        ("prune", "is the name of a plugin that is installed (of kwrap-prune "),
        ("weight-noise", "'weight-noise' is the name of a hook of plugin 'noise' (of kwrap-noise "),
    ],
)
def test_a_name_that_a_plugin_cannot_have_is_refused_with_the_reason(folder: Path, name: str, said: str) -> None:
    result = run("--", name)
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_there_is_not_overwritten(folder: Path, kind: str) -> None:
    target = folder / "kwrap-my-norm"
    target.mkdir() if kind == "folder" else target.write_text("precious")
    result = run("my-norm")
    assert result.exit_code == 2
    assert "is there already, and nothing in it is overwritten" in result.stderr
    assert list(folder.iterdir()) == [target]
    assert target.is_dir() or target.read_text() == "precious"


def test_a_folder_in_no_folder_is_refused() -> None:
    assert "nowhere is no folder" in run("my-norm", "--folder", "nowhere/plugin").stderr


def test_a_failure_in_the_middle_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(new_plugin._FILES, "last", "no such template")
    assert run("my-norm").exit_code == 2
    assert list(folder.iterdir()) == []
    assert isinstance(new_plugin.new_plugin, click.Command)
