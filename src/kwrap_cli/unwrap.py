"""`kwrap unwrap`: a model file with hooks off."""

from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Group

from kwrap_cli._command import ModelCommand, as_json, force, imports, model_file, output_file
from kwrap_cli._output import print_result, size, table


@click.command(cls=ModelCommand)
@model_file
@output_file
@click.option("--hook", "hooks", multiple=True, metavar="NAME", help="A hook to take off; default: all. Repeatable.")
@click.option("--merge/--no-merge", default=True, help="Keep the hooks' effect in the weights (default), or drop it.")
@force
@imports
@as_json
def unwrap(
    file: Path,
    output: Path,
    hooks: Sequence[str],
    merge: bool,
    force: bool,
    modules: Sequence[str],
    as_json: bool,
) -> None:
    """Take hooks off the model in FILE and write it to OUTPUT; print which were on which layers."""
    import kwrap
    from kwrap_cli._files import check_target, import_modules, load_model, save_model

    check_target(output, force=force)
    import_modules(modules)
    model = load_model(file)
    before = kwrap.find_hooks(model)
    kwrap.unwrap_model(model, list(hooks) or None, merge=merge)
    stay = {id(hook) for _, hook in kwrap.find_hooks(model)}
    save_model(model, output)
    written = output.stat().st_size
    removed = [{"path": path, "hook": hook.name} for path, hook in before if id(hook) not in stay]
    data = {"removed": removed, "left": len(stay), "file": str(output), "bytes": written}
    rows = [tuple(one.values()) for one in removed]
    last = f"written: {output}, {size(written)}; {len(stay)} hooks left on it"
    print_result(Group(table(("layer", "hook taken off"), rows), last), data, as_json=as_json)
