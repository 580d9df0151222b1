"""`kwrap plan`: where hooks would go, or are."""

from collections.abc import Sequence
from pathlib import Path

import click

from kwrap_cli._command import ModelCommand, as_json, hooks_and_places, imports, model_file
from kwrap_cli._output import print_result


@click.command(cls=ModelCommand)
@model_file
@hooks_and_places
@imports
@as_json
def plan(
    file: Path,
    hooks: Sequence[str],
    where: Sequence[str],
    exclude: Sequence[str],
    modules: Sequence[str],
    as_json: bool,
) -> None:
    """Show on which layers of the model in FILE the hooks would go; without --hook, on which they are.

    Everything is checked as `kwrap wrap` would; nothing is written.
    """
    import kwrap
    from kwrap_cli._files import import_modules, load_model
    from kwrap_cli._specs import rules

    import_modules(modules)
    chosen = rules(hooks, where, exclude) or None
    made = kwrap.plan(load_model(file), chosen)
    print_result(made.__rich__(), made.as_dict(), as_json=as_json)
