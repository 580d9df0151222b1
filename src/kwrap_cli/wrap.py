"""`kwrap wrap`: a model file with hooks on."""

from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Group

from kwrap_cli._command import (
    BadInput,
    ModelCommand,
    as_json,
    force,
    hooks_and_places,
    imports,
    model_file,
    output_file,
)
from kwrap_cli._output import print_result, size


@click.command(cls=ModelCommand)
@model_file
@output_file
@hooks_and_places
@force
@imports
@as_json
def wrap(
    file: Path,
    output: Path,
    hooks: Sequence[str],
    where: Sequence[str],
    exclude: Sequence[str],
    force: bool,
    modules: Sequence[str],
    as_json: bool,
) -> None:
    """Put hooks on layers of the model in FILE and write it to OUTPUT; print the plan that was applied."""
    if not hooks:
        raise BadInput("nothing to put on: give --hook NAME, see `kwrap hooks`.")
    import kwrap
    from kwrap_cli._files import check_target, import_modules, load_model, save_model
    from kwrap_cli._specs import rules

    check_target(output, force=force)
    import_modules(modules)
    chosen = rules(hooks, where, exclude)
    plan = kwrap.plan(load_model(file), chosen)
    shown, data = plan.__rich__(), plan.as_dict()  # before it is applied: then nothing in it is new
    save_model(plan.apply(), output)
    written = output.stat().st_size
    last = f"written: {output}, {size(written)}"
    print_result(Group(shown, last), {"plan": data, "file": str(output), "bytes": written}, as_json=as_json)
