"""`kwrap hooks`: the hooks there are, and the options of one."""

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from kwrap_cli._command import ModelCommand, as_json, imports
from kwrap_cli._output import print_result, table

if TYPE_CHECKING:
    from kwrap._registry import RegisteredHook


@click.command(cls=ModelCommand)
@click.argument("name", required=False)
@imports
@as_json
def hooks(name: str | None, modules: Sequence[str], as_json: bool) -> None:
    """List the hooks there are, or describe the one of this NAME: its options, its layers, its documentation."""
    from kwrap import registered
    from kwrap._registry import resolve
    from kwrap_cli._files import import_modules

    import_modules(modules)
    if name is None:
        _print_list([_summary(one) for one in registered()], as_json=as_json)
        return
    hook_class = resolve(name)
    _print_one(next(one for one in registered() if one.hook is hook_class), as_json=as_json)


def _summary(registered: "RegisteredHook") -> dict[str, Any]:
    doc = inspect.getdoc(registered.hook) if registered.hook.__doc__ else ""
    return {
        "hook": registered.name,
        "plugin": registered.plugin,
        "layer_types": [cls.__name__ for cls in registered.layer_types],
        "doc": doc or "",
    }


def _print_list(found: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    rows = [
        (one["hook"], one["plugin"] or "", ", ".join(one["layer_types"]), one["doc"].partition("\n")[0])
        for one in found
    ]
    print_result(table(("hook", "plugin", "layers", "what it does"), rows), {"hooks": found}, as_json=as_json)


def _print_one(registered: "RegisteredHook", *, as_json: bool) -> None:
    options = _options(registered.hook)
    data = {**_summary(registered), "version": registered.hook.version, "options": options}
    if not as_json:
        owner = f" of plugin {registered.plugin}" if registered.plugin else ""
        layers = ", ".join(data["layer_types"])
        click.echo(f"hook {registered.name}{owner}, for layers of type {layers}\n\n{data['doc']}\n")
    rows = [tuple(one.values()) for one in options]
    print_result(table(("option", "type", "default"), rows), data, as_json=as_json)


def _options(hook_class: type) -> list[dict[str, str]]:
    from kwrap._captured import own_options
    from kwrap_cli._values import default_text, option_type, type_text

    return [
        {"option": name, "type": type_text(option_type(hook_class, one)), "default": default_text(one)}
        for name, one in own_options(hook_class).items()
    ]
