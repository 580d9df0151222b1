"""`kwrap inspect`: what the file of a saved model needs; imports neither Keras nor TensorFlow, and runs nothing."""

from importlib.metadata import entry_points
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from kwrap_cli._command import BadInput, Command, as_json
from kwrap_cli._output import console, print_result
from kwrap_files import (
    BadFileError,
    Contents,
    SavedHook,
    code_of,
    foreign_classes_of,
    format_of,
    hooks_of,
    in_bytes,
    printable,
    read_contents,
)


@click.command(cls=Command)
@click.argument("file", type=click.Path())
@as_json
@click.option("--max-size", type=int, help="How many bytes the file may declare.")
def inspect(file: str, as_json: bool, max_size: int | None) -> None:
    """Tell what a saved model's FILE (.keras, .h5, or an unpacked folder) needs; nothing in it is run.

    Plugins with their versions, hooks with their places and options, classes that are not Keras' own, and code in it.
    Exits with 2 if FILE is no saved model, a damaged or a forged one.
    """
    try:
        contents = read_contents(file, max_size)
        hooks = hooks_of(contents.configs)
    except BadFileError as error:
        raise BadInput(printable(f"{file!r} is no readable model: {error}")) from error
    except OSError as error:
        raise BadInput(f"{file!r} cannot be read: {error.strerror or error}") from error
    needs = _needs(file, contents, hooks)
    if as_json:
        print_result("", needs, as_json=True)
    else:
        _print(needs)


def _needs(file: str, contents: Contents, hooks: list[SavedHook]) -> dict[str, Any]:
    return {
        "file": file,
        "kind": contents.kind,
        "size": contents.size,
        "declared": contents.declared,
        "keras_version": contents.metadata.get("keras_version"),
        "saved": contents.metadata.get("date_saved"),
        "kwrap_format": format_of(contents.configs),
        "plugins": _plugins(hooks),
        "hooks": [
            {
                "path": hook.path,
                "name": hook.name,
                "hook": hook.hook,
                "version": hook.version,
                "plugin": hook.plugin,
                "options": hook.options,
                "without_it": hook.without_it,
            }
            for hook in hooks
        ],
        "classes": foreign_classes_of(contents.configs),
        "code": code_of(contents.configs),
    }


def _plugins(hooks: list[SavedHook]) -> list[dict[str, Any]]:
    """Return the plugins that the hooks are of, with what is installed of them, from metadata alone."""
    installed = {entry.name: entry.dist for entry in entry_points(group="kwrap")}
    saved = {hook.plugin: hook.plugin_version for hook in hooks if hook.plugin is not None}
    return [
        {
            "name": name,
            "saved with": version,
            "installed": f"{dist.name} {dist.version}" if (dist := installed.get(name)) else None,
        }
        for name, version in sorted(saved.items())
    ]


def _print(needs: dict[str, Any]) -> None:
    output = console()
    about = Table(show_header=False, box=None)
    for title, value in (
        ("file", f"{needs['file']} ({needs['kind']}, {in_bytes(needs['size'])})"),
        ("saved by", f"Keras {needs['keras_version'] or '?'}, {needs['saved'] or '?'}"),
        ("kwrap's format", needs["kwrap_format"] or "no hooks"),
        ("classes not Keras' own", ", ".join(needs["classes"]) or "none"),
        ("code in it", ", ".join(needs["code"]) or "none"),
    ):
        about.add_row(title, _text(value))
    output.print(about)
    for title, columns in (("plugins", _PLUGIN), ("hooks", _HOOK)):
        if needs[title]:
            table = Table(*columns, title=title)
            for row in needs[title]:
                table.add_row(*(_text(_cell(row[column])) for column in columns))
            output.print(table)
    for hook, meaning in dict.fromkeys((hook["hook"], hook["without_it"]) for hook in needs["hooks"]):
        output.print(_text(f"Without {hook}: {meaning}."))


_PLUGIN = ("name", "saved with", "installed")
_HOOK = ("path", "name", "hook", "version", "plugin", "options")


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        if value.keys() >= {"class_name", "config"}:
            return f"{value['class_name']}({_cell(value['config'])})"
        return ", ".join(f"{name}={_cell(item)}" for name, item in value.items() if item is not None)
    return "-" if value is None else str(value)


def _text(value: Any) -> Text:
    return Text(printable(str(value)))  # no markup: a file's names are anyone's
