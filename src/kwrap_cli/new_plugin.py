"""`kwrap new-plugin`: a package with a hook, its tests and what else a plugin needs, from a template."""

import ast
import datetime
import json
import keyword
import os
import re
import tempfile
from contextlib import suppress
from importlib.metadata import entry_points, version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template

import click

from kwrap_cli._command import BadInput, Command

# Path in the package, with placeholders → file of the template.
_FILES = {
    ".github/workflows/ci.yml": "ci.yml.template",
    ".gitignore": "gitignore.template",
    "LICENSE": "licenses/$license",
    "README.md": "README.md.template",
    "pyproject.toml": "pyproject.toml.template",
    "src/$module/__init__.py": "init.py.template",
    "src/$module/_hook.py": "hook.py.template",
    "src/$module/py.typed": None,
    "tests/test_hook.py": "test_hook.py.template",
}
_LICENSES = ("Apache-2.0", "BSD-3-Clause", "MIT")
# The plugin that answers for Keras' own layers; kwrap's own packages kwrap_cli and kwrap_files.
_RESERVED = {"keras": "a plugin", "cli": "a package", "files": "a package"}


@click.command("new-plugin", cls=Command)
@click.argument("name")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to write it. Default: kwrap-NAME, here.")
@click.option("--license", "licence", type=click.Choice(_LICENSES), default=_LICENSES[0], show_default=True)
@click.option("--author", help="Who has the copyright. Default: The kwrap-NAME authors.")
def new_plugin(name: str, folder: Path | None, licence: str, author: str | None) -> None:
    """Write the package kwrap-NAME: a plugin with a hook NAME, which installs, works and passes its tests as it is.

    NAME consists of lower-case words, such as weight_clip.
    """
    words = _checked(name)
    package = "kwrap-" + words.replace("_", "-")
    folder = folder or Path(package)
    author = author or f"The {package} authors"
    if not author.isprintable():
        raise BadInput(f"--author {author!r} has to be one line, without control characters.")
    _write(
        folder,
        {
            "author": author,
            "author_in_toml": json.dumps(author, ensure_ascii=False),  # escapes quotes and backslashes as TOML does
            "class_name": _class_name(words),
            "kwrap": ".".join(version("kwrap").split(".")[:2]),
            "license": licence,
            "module": package.replace("-", "_"),
            "name": words,
            "package": package,
            "year": str(datetime.date.today().year),
        },
    )
    click.echo(f"{folder} holds the plugin {words!r}, of the package {package}; its hook is in {_hook_file(folder)}.")
    click.echo(f"Next: pip install -e '{folder}[dev]', then pytest {folder}")


def _class_name(words: str) -> str:
    return "".join(word.capitalize() for word in words.split("_"))


def _checked(name: str) -> str:
    """Return a name as it stands in Python; raise for one that a plugin cannot have."""
    words = name.replace("-", "_")
    meant = re.sub(r"\W+|_+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)).strip("_").lower()
    meant = re.sub(r"^(kwrap_)+", "", meant)
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", words) or words.startswith("kwrap_") or words == "kwrap":
        hint = f" Did you mean {meant}?" if re.fullmatch(r"[a-z][a-z0-9_]*", meant) and meant != "kwrap" else ""
        raise BadInput(
            f"{name!r} cannot be a plugin's name: it consists of lower-case words, such as weight_clip, and the "
            f"package adds kwrap- to it.{hint}"
        )
    for made, what in ((words, "it"), (_class_name(words), f"the name of its class, {_class_name(words)},")):
        if keyword.iskeyword(made):
            raise BadInput(f"{name!r} cannot be a plugin's name: {what} is a keyword of Python.")
    if words in _RESERVED:
        raise BadInput(f"{name!r} cannot be a plugin's name: kwrap has {_RESERVED[words]} of that name itself.")
    for plugin in entry_points(group="kwrap"):
        owner = f" (of {plugin.dist.name} {plugin.dist.version})" if plugin.dist else ""
        if plugin.name == words:
            raise BadInput(f"{name!r} is the name of a plugin that is installed{owner}: choose another name.")
        if words in _hooks_in(plugin.module.partition(".")[0]):
            raise BadInput(f"{name!r} is the name of a hook of plugin {plugin.name!r}{owner}: choose another name.")
    return words


def _hooks_in(package: str) -> set[str]:
    """Return the names of the hooks that an installed package defines, as far as its source tells.

    It is not imported: that would import TensorFlow.
    """
    found = set[str]()
    for path in _sources(package):
        with suppress(OSError, SyntaxError, ValueError):
            found |= {name for node in ast.walk(ast.parse(path.read_bytes())) if (name := _hook_name(node))}
    return found


def _sources(package: str) -> list[Path]:
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return []
    folders = (spec and spec.submodule_search_locations) or ()
    return [path for folder in folders for path in Path(folder).rglob("*.py")]


def _hook_name(node: ast.AST) -> str | None:
    """Return the name of the hook that a definition under `@kwrap.hook(...)` makes; None for all else."""
    if not isinstance(node, ast.ClassDef | ast.FunctionDef):
        return None
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) in ("hook", "kwrap.hook"):
            names = [each.value for each in decorator.keywords if each.arg == "name"]
            return str(ast.literal_eval(names[0])) if names else _snake_case(node.name)
    return None


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _write(folder: Path, values: dict[str, str]) -> None:
    """Write the files of the template, all or none."""
    if folder.exists():
        raise BadInput(f"{folder} is there already, and nothing in it is overwritten: choose another with --folder.")
    parent = folder.absolute().parent
    if not parent.is_dir():
        raise BadInput(f"{folder} cannot be written: {folder.parent} is no folder.")
    template = files("kwrap_cli") / "plugin_template"
    with tempfile.TemporaryDirectory(dir=parent, prefix=".kwrap-") as temporary:
        written = Path(temporary, "package")
        for path, source in _FILES.items():
            target = written / Template(path).substitute(values)
            target.parent.mkdir(parents=True, exist_ok=True)
            text = template.joinpath(Template(source).substitute(values)).read_text("utf-8") if source else ""
            target.write_text(Template(text).substitute(values), "utf-8")
        os.rename(written, folder)


def _hook_file(folder: Path) -> Path:
    return next(folder.glob("src/*/_hook.py"))
