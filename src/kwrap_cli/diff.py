"""`kwrap diff`: what tells two models apart."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Group

from kwrap_cli._command import ModelCommand, as_json, imports, inputs_file
from kwrap_cli._output import print_result, table


@click.command(cls=ModelCommand)
@click.argument("a", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("b", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@inputs_file
@click.option("--batch", default=8, show_default=True, type=click.IntRange(1), help="How many random samples.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of the random inputs.")
@imports
@as_json
def diff(a: Path, b: Path, inputs: Path | None, batch: int, seed: int, modules: Sequence[str], as_json: bool) -> None:
    """Compare the models in files A and B: which weights and hooks differ, and by how much their outputs.

    Weights as they are stored; outputs in inference, hooks included. Exits with 0 if all are equal to the bit, with 1
    if something differs, with 2 if the files cannot be compared.
    """
    from kwrap_cli._compare import different_hooks, different_outputs, different_weights
    from kwrap_cli._files import import_modules, load_model
    from kwrap_cli._inputs import random_inputs, read_inputs

    import_modules(modules)
    one, other = load_model(a), load_model(b)
    given = random_inputs(one, batch, seed) if inputs is None else read_inputs(one, inputs)
    weights, hooks = different_weights(one, other), different_hooks(one, other)
    outputs = different_outputs(one, other, given)
    same = not weights and not hooks and all(output["largest"] == 0 for output in outputs)
    data = {"a": str(a), "b": str(b), "same": same, "weights": weights, "hooks": hooks, "outputs": outputs}
    tables = [
        table(("weight", "differs", "by at most"), map(_cells, weights), title="weights"),
        table(("layer", "hook", "differs"), map(_cells, hooks), title="hooks"),
        table(("output", "differs by at most"), map(_cells, outputs), title="outputs"),
    ]
    found = [one for one, rows in zip(tables, (weights, hooks, outputs), strict=True) if rows]
    print_result(Group(*found, f"same: {'yes' if same else 'no'}"), data, as_json=as_json)
    if not same:
        raise SystemExit(1)


def _cells(row: dict[str, Any]) -> list[str]:
    return [f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row.values()]
