"""`kwrap bench`: what the hooks of a model cost."""

from collections.abc import Sequence
from pathlib import Path

import click

from kwrap_cli._command import BadInput, ModelCommand, as_json, hooks_and_places, imports, inputs_file, model_file
from kwrap_cli._output import print_result, table


@click.command(cls=ModelCommand)
@model_file
@hooks_and_places
@click.option("--batch", default=32, show_default=True, type=click.IntRange(1), help="How many random samples a call.")
@inputs_file
@click.option("--repeats", default=20, show_default=True, type=click.IntRange(1), help="Measured calls of each model.")
@imports
@as_json
def bench(
    file: Path,
    hooks: Sequence[str],
    where: Sequence[str],
    exclude: Sequence[str],
    batch: int,
    inputs: Path | None,
    repeats: int,
    modules: Sequence[str],
    as_json: bool,
) -> None:
    """Measure the model in FILE with its hooks, and those of --hook, against the same model without any.

    Medians of compiled calls of both models in turn: `predict_on_batch`, and `train_on_batch` with plain SGD on the
    mean squared error. Nothing is written.
    """
    import kwrap
    from kwrap_cli._files import import_modules, load_model
    from kwrap_cli._inputs import random_inputs, read_inputs, samples
    from kwrap_cli._specs import rules
    from kwrap_cli._timing import measured

    import_modules(modules)
    chosen = rules(hooks, where, exclude)
    model = load_model(file)
    if chosen:
        kwrap.wrap_model(model, chosen)
    if not kwrap.find_hooks(model):
        raise BadInput(f"no hook is on the model in {file}: give some with --hook.")
    given = random_inputs(model, batch, 0) if inputs is None else read_inputs(model, inputs)
    rows, batch = measured(model, given, repeats), samples(given)
    cells = [(row["what"], f"{row['bare_ms']:.2f}", f"{row['wrapped_ms']:.2f}", f"{row['ratio']:.2f}") for row in rows]
    columns = ("what", "bare (ms)", "wrapped (ms)", "ratio")
    data = {"file": str(file), "batch": batch, "repeats": repeats, "medians": rows}
    shown = table(columns, cells, caption=f"medians of {repeats} calls, {batch} samples each", right=columns[1:])
    print_result(shown, data, as_json=as_json)
