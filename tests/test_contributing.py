"""What is written for contributors is true of the repository."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
PYPROJECT = (ROOT / "pyproject.toml").read_text()


def makefile(name: str) -> list[str]:
    """Return the words of a variable of the Makefile."""
    return re.search(rf"^{name} := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()


def test_the_map_of_the_house_has_every_module_of_kwrap_and_no_other():
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.partition("| module |")[2], re.MULTILINE)
    modules = {path.stem for path in (ROOT / "src/kwrap").glob("*.py")}
    packages = {path.parent.name for path in (ROOT / "src/kwrap").glob("*/__init__.py")}
    assert sorted(rows) == sorted(modules | packages)


def test_the_map_lists_the_modules_as_imports_go():
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.partition("| module |")[2], re.MULTILINE)
    layers = re.search(r"exhaustive = true\nlayers = \[\n(.*?)\]", PYPROJECT, re.DOTALL)[1]
    ranks = {name: rank for rank, line in enumerate(layers.splitlines()) for name in re.findall(r"\w+", line)}
    assert [ranks[name] for name in rows[1:]] == sorted(ranks.values())


def test_the_map_has_every_folder_that_the_linters_read_and_none_that_is_not_there():
    named = re.findall(r"^\| `([\w/.]+)/` \|", PAGE.partition("| module |")[0], re.MULTILINE)
    linted = {path for path in makefile("LINTED") if not path.endswith(".py")} - {"src"}
    packages = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "src").glob("*/__init__.py")}
    assert linted | packages <= set(named)
    assert [folder for folder in named if not (ROOT / folder).is_dir()] == []


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "RELEASING.md", "SECURITY.md"])
def test_commands_files_and_targets_that_are_named_are_there(page):
    text = (ROOT / page).read_text()
    targets = set(re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^\$ |`)make ([\w./-]+)", text, re.MULTILINE)) <= targets
    files = re.findall(r"(?:^\$ .*? |`)((?:tests|docs|\.ci)/[\w./-]*\w)", text, re.MULTILINE)
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_the_names_of_fragments_that_are_given_as_examples_are_those_that_towncrier_takes():
    types = re.findall(r'\[\[tool.towncrier.type\]\]\ndirectory = "(\w+)"', PYPROJECT)
    examples = re.findall(r"`(?:changelog\.d/)?(?:12|\+name)\.(\w+)(?:\.\d)?\.md`", PAGE)
    assert len(examples) == 3
    assert set(examples) <= set(types)
    assert all(f"`{kind}`" in PAGE for kind in types)


def test_help_lists_every_target_that_is_meant_to_be_called():
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split()
    assert sorted(re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE)) == sorted(phony)


def test_pre_commit_runs_the_linters_of_make_lint_on_the_same_files_from_the_environment():
    (source,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert source["repo"] == "local"
    hooks = {hook["id"]: hook for hook in source["hooks"]}
    programs = [shlex.split(hook["entry"])[0] for hook in hooks.values()]
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    assert set(programs) == {f".venv/bin/{name}" for name in re.findall(r"\$\(BIN\)/([\w-]+)", lint)}
    assert {hook["language"] for hook in hooks.values()} == {"system"}
    files = [path for path in makefile("LINTED") if path.endswith(".py")]
    files += [f"{path}/some.py" for path in makefile("LINTED") if not path.endswith(".py")]
    for hook in ("ruff-check", "ruff-format"):
        assert all(re.search(hooks[hook]["files"], file) for file in files)
        assert not re.search(hooks[hook]["files"], "build/some.py")


@pytest.mark.parametrize("form", ["bug.yml", "wish.yml"])
def test_an_issue_template_is_a_form_that_forges_take(form):
    data = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE" / form).read_text())
    assert data.keys() == {"name", "description", "labels", "body"}
    asked = [element for element in data["body"] if element["type"] != "markdown"]
    assert len({element["id"] for element in asked}) == len(asked)
    assert all(element["attributes"]["label"] for element in asked)
    assert any(element.get("validations", {}).get("required") for element in asked)
