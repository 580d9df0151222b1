"""The release check finds what would be wrong with a release. All of it, on real wheels: `make release-check`."""

import importlib.util
import sys
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def load():
    spec = importlib.util.spec_from_file_location("release_check", ROOT / "tools" / "release_check.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses looks there
    spec.loader.exec_module(module)
    return module


check = load()
SOURCES = {"clip/__init__.py", "clip/py.typed"}
README = "# clip\n\nSee [Keras](https://keras.io) and [below](#below).\n\n```python\nimport clip\n```\n"
PROJECT = {
    "name": "clip",
    "version": "1.2",
    "description": "Clips",
    "license": "Apache-2.0",
    "license-files": ["LICENSE"],
    "classifiers": ["Typing :: Typed"],
    "scripts": {"clip": "clip_cli:main"},
    "entry-points": {"kwrap": {"clip": "clip"}},
    "dependencies": ["kwrap>=1.2,<1.3"],
}


def wheel(*extra: str, without: str = "") -> list[str]:
    return [*extra, "clip-1.2.dist-info/METADATA", *(name for name in sorted(SOURCES) if name != without)]


def metadata(description: str = README, **fields: str) -> Message:
    message = Message()
    given = {
        "Name": "clip",
        "Version": "1.2",
        "Summary": "Clips",
        "License-Expression": "Apache-2.0",
        "License-File": "LICENSE",
        "Description-Content-Type": "text/markdown",
        "Classifier": "Typing :: Typed",
    } | {name.replace("_", "-"): value for name, value in fields.items()}
    for name, value in given.items():
        message[name] = value
    message.set_payload(description)
    return message


def package(name: str, version: str, *dependencies: str):
    return check.Package(ROOT, {"name": name, "version": version, "dependencies": list(dependencies)})


def test_packages_of_one_version_that_accept_each_other_are_in_order():
    packages = [package("kwrap", "0.2.1", "keras>=3"), package("kwrap-prune", "0.2.1", "kwrap>=0.2,<0.3")]
    assert list(check.version_problems(packages)) == []


def test_a_plugin_of_another_version_and_one_that_refuses_this_kwrap_are_found():
    packages = [package("kwrap", "0.3.0"), package("kwrap-prune", "0.2.0", "kwrap>=0.2,<0.3")]
    assert list(check.version_problems(packages)) == [
        "kwrap-prune is 0.2.0, kwrap is 0.3.0",
        "kwrap-prune requires kwrap<0.3,>=0.2, kwrap is 0.3.0",
    ]


def test_the_versions_and_fragments_of_this_repository_are_in_order():
    packages = [check.package(folder) for folder in check.PACKAGES]
    assert {path.parent for path in ROOT.glob("plugins/*/pyproject.toml")} == set(check.PACKAGES[1:])
    assert list(check.version_problems(packages)) == []
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert list(check.changelog_problems(ROOT / "changelog.d", packages[0].project["version"], changelog)) == []


@pytest.mark.parametrize(
    ("fragments", "changelog", "problem"),
    [
        ({"8.added.30.md": "Text.", "+cli.fixed.md": "Text."}, "# Changelog", None),
        ({}, "## 1.2 (2026-11-25)\n", None),
        ({}, "## 1.20 (2026-11-25)\n", "nothing in changelog.d/, and CHANGELOG.md has no 1.2"),
        ({"8.added.md": "Text."}, "## 1.2 (x)\n", "CHANGELOG.md has 1.2, and yet 1 fragments are left in changelog.d/"),
        ({"8.added.md": " \n"}, "", "8.added.md is empty"),
        ({"8.new.md": "Text."}, "", "8.new.md is no name of a fragment, as 12.added.md or +name.fixed.2.md"),
        (
            {"8.added.tools.md": "Text."},
            "",
            "8.added.tools.md is no name of a fragment, as 12.added.md or +name.fixed.2.md",
        ),
    ],
)
def test_a_changelog_that_would_say_nothing_or_not_all_is_found(tmp_path, fragments, changelog, problem):
    folder = tmp_path / "changelog.d"
    folder.mkdir()
    for name, text in fragments.items():
        (folder / name).write_text(text)
    assert list(check.changelog_problems(folder, "1.2", changelog)) == ([problem] if problem else [])


@pytest.mark.parametrize(
    ("names", "problems"),
    [
        (wheel(), []),
        (wheel("tests/test_clip.py"), ["has tests/test_clip.py, which is no source of the package"]),
        (wheel("clip/test_clip.py"), ["has clip/test_clip.py, which is no source of the package"]),
        (wheel(without="clip/__init__.py"), ["lacks clip/__init__.py"]),
    ],
)
def test_a_wheel_holds_the_sources_and_nothing_else(names, problems):
    assert list(check.wheel_problems(names, SOURCES)) == problems


def test_sources_without_types_or_with_tests_are_found():
    problems = list(check.wheel_problems(["clip/__init__.py", "tests/a.py"], {"clip/__init__.py", "tests/a.py"}))
    assert problems == [
        "lacks clip/py.typed, so that type checkers ignore its types",
        "lacks tests/py.typed, so that type checkers ignore its types",
        "would install tests/ beside the package",
    ]


def test_metadata_as_in_pyproject_and_readme_are_in_order():
    assert list(check.metadata_problems(metadata(), PROJECT, README)) == []


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"Version": "1.1"}, "Version is '1.1', not '1.2'"),
        ({"License_Expression": "MIT"}, "License-Expression is 'MIT', not 'Apache-2.0'"),
        ({"License_File": "COPYING"}, "license files are ['COPYING'], not ['LICENSE']"),
        ({"Description_Content_Type": "text/plain"}, "Description-Content-Type is 'text/plain', not 'text/markdown'"),
        ({"description": "# other"}, "the description is not README.md"),
        ({"Classifier": "Typing :: Typd"}, "unknown classifier 'Typing :: Typd'"),
    ],
)
def test_metadata_that_differ_are_found(fields, problem):
    assert next(check.metadata_problems(metadata(**fields), PROJECT, README)) == problem


@pytest.mark.parametrize(
    ("readme", "problem"),
    [
        (README, None),
        ("clip\n\nText.\n", "README.md does not begin with a title"),
        ("# clip\n\n```python\nimport clip\n", "README.md has a code block that does not end"),
        (
            "# clip\n\n[more](docs/more.md)\n",
            "README.md has the relative link 'docs/more.md', dead outside the repository",
        ),
        (
            "# clip\n\n| a |\n|---|\n| ![](a.svg) |\n",
            "README.md has the relative link 'a.svg', dead outside the repository",
        ),
    ],
)
def test_a_readme_that_would_look_wrong_on_an_index_is_found(readme, problem):
    assert list(check.readme_problems(readme)) == ([problem] if problem else [])


def test_entry_points_that_a_wheel_lacks_are_found():
    text = "[console_scripts]\nclip = clip_cli:main\n\n[kwrap]\nclip = clip\n"
    assert list(check.entry_point_problems(text, PROJECT)) == []
    assert list(check.entry_point_problems(text.replace("\nclip = clip\n", ""), PROJECT)) == [
        "lacks the entry point clip = clip of kwrap"
    ]
