"""`kwrap plugins`: the installed plugins, from their metadata alone; imports neither kwrap nor TensorFlow."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import EntryPoint, entry_points, version

import click
from packaging.requirements import InvalidRequirement, Requirement

from kwrap_cli._command import Command, as_json, import_kwrap
from kwrap_cli._output import print_result, table

_COLUMNS = ("plugin", "package", "version", "module", "status")
_NONE = "No plugins are installed. Try, in a clone of kwrap: pip install plugins/kwrap-prune plugins/kwrap-noise"


@click.command(cls=Command)
@click.option("--check", is_flag=True, help="Load them: their hooks, what is broken, and a quick check of each hook.")
@as_json
def plugins(check: bool, as_json: bool) -> None:
    """List the installed plugins, and which of them KWRAP_PLUGINS and KWRAP_BLOCK switch off.

    From their metadata alone, unless --check loads them. With --check, exits with 1 if one is broken.
    """
    installed = sorted(entry_points(group="kwrap"), key=lambda entry: (entry.name, entry.value))
    rows = [dict(zip(_COLUMNS, _row(entry), strict=True)) for entry in installed]
    if check:
        import_kwrap()
        from kwrap_cli._check import print_checked

        print_checked(rows, as_json=as_json)
    elif not rows and not as_json:
        click.echo(_NONE)
    else:
        print_result(table(_COLUMNS, [tuple(row.values()) for row in rows]), {"plugins": rows}, as_json=as_json)


def _row(entry: EntryPoint) -> Sequence[str]:
    return (entry.name, *_package(entry), entry.value, _status(entry))


def _package(entry: EntryPoint) -> tuple[str, str]:
    return (entry.dist.name, entry.dist.version) if entry.dist else ("?", "?")


def _status(entry: EntryPoint) -> str:
    only = _names("KWRAP_PLUGINS")
    if only is not None and entry.name not in only:
        return "off: not in KWRAP_PLUGINS"
    if entry.name in (_names("KWRAP_BLOCK") or ()):
        return "blocked by KWRAP_BLOCK"
    needed = _unmet(entry)
    return f"off: needs kwrap{needed}, and this is {version('kwrap')}" if needed else "on"


def _names(variable: str) -> set[str] | None:
    """Return the comma-separated names in an environment variable; None if it is not set."""
    value = os.environ.get(variable)
    return None if value is None else {name.strip() for name in value.split(",") if name.strip()}


def _unmet(entry: EntryPoint) -> str:
    """Return which kwrap the plugin's package needs, if not this one; `kwrap._plugins` looks in the same way."""
    for needed in _requirements((entry.dist.requires if entry.dist else None) or ()):
        counts = needed.name.lower() == "kwrap" and (needed.marker is None or needed.marker.evaluate({"extra": ""}))
        if counts and not needed.specifier.contains(version("kwrap"), prereleases=True):
            return str(needed.specifier)
    return ""


def _requirements(texts: Iterable[str]) -> Iterator[Requirement]:
    for text in texts:
        with suppress(InvalidRequirement):  # of an old package; pip has its own opinion of it
            yield Requirement(text)
