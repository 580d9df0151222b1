"""`kwrap plugins`: the installed plugins, from their metadata alone; imports neither kwrap nor TensorFlow."""

import os
from importlib.metadata import EntryPoint, entry_points

import click
from rich.console import Console
from rich.table import Table


@click.command
def plugins() -> None:
    """List the installed plugins, and which of them KWRAP_PLUGINS and KWRAP_BLOCK switch off."""
    installed = sorted(entry_points(group="kwrap"), key=lambda entry: (entry.name, entry.value))
    if not installed:
        click.echo(
            "No plugins are installed. Try, in a clone of kwrap: pip install plugins/kwrap-prune plugins/kwrap-noise"
        )
        return
    table = Table("plugin", "package", "version", "module", "status")
    for entry in installed:
        table.add_row(entry.name, *_package(entry), entry.value, _status(entry.name))
    Console().print(table)


def _package(entry: EntryPoint) -> tuple[str, str]:
    return (entry.dist.name, entry.dist.version) if entry.dist else ("?", "?")


def _status(name: str) -> str:
    only = _names("KWRAP_PLUGINS")
    if only is not None and name not in only:
        return "off: not in KWRAP_PLUGINS"
    if name in (_names("KWRAP_BLOCK") or ()):
        return "blocked by KWRAP_BLOCK"
    return "on"


def _names(variable: str) -> set[str] | None:
    """Return the comma-separated names in an environment variable; None if it is not set."""
    value = os.environ.get(variable)
    return None if value is None else {name.strip() for name in value.split(",") if name.strip()}
