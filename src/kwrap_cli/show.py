"""`kwrap show`: what is in a model file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kwrap_cli._command import ModelCommand, as_json, imports, model_file
from kwrap_cli._output import print_result, size, table

if TYPE_CHECKING:
    import keras

    from kwrap_cli._contents import LayerContents

_COLUMNS = ("layer", "type", "hooks", "parameters", "sparsity", "size", "hooks' size")


@click.command(cls=ModelCommand)
@model_file
@imports
@as_json
def show(file: Path, modules: Sequence[str], as_json: bool) -> None:
    """Show the layers of the model in FILE as a tree, with their hooks, sparsity and sizes.

    Sparsity is the share of zeros, as stored, in the weights that hooks change by default: kernels and embeddings.
    """
    from kwrap_cli._contents import contents
    from kwrap_cli._files import import_modules, load_model

    import_modules(modules)
    model = load_model(file)
    layers = contents(model)
    data = _data(file, model, layers)
    rows = [_row(model.name, layer, shown) for layer, shown in zip(layers, data["layers"], strict=True)]
    total = data["total"]
    rows.append(("total", "", "", *_numbers(total)))
    title = f"{data['model']} ({data['type']}) in {file}, {size(data['bytes'])}"
    print_result(table(_COLUMNS, rows, title=title, right=_COLUMNS[3:]), data, as_json=as_json)


def _data(file: Path, model: "keras.Model", layers: Sequence["LayerContents"]) -> dict[str, Any]:
    import kwrap

    hooks = {entry["path"]: entry["hooks"] for entry in kwrap.plan(model).as_dict()["entries"]}
    shown = [_layer_data(layer, hooks.get(layer.place.path, [])) for layer in layers]
    summed = ("parameters", "targets", "zeros", "bytes", "hook_bytes")
    return {
        "file": str(file),
        "bytes": file.stat().st_size,
        "model": model.name,
        "type": type(model).__name__,
        "layers": shown,
        "total": {name: sum(layer[name] for layer in shown) for name in summed},
    }


def _layer_data(layer: "LayerContents", hooks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    zeros, targets = layer.zeros()
    return {
        "path": layer.place.path,
        "also": list(layer.place.also),
        "type": type(layer.place.layer).__name__,
        "weights": {name: list(weight.shape) for name, weight in layer.weights.items()},
        "parameters": layer.parameters,
        "targets": targets,
        "zeros": zeros,
        "bytes": layer.bytes,
        "hook_bytes": layer.hook_bytes,
        "hooks": [{"name": hook["name"], "config": hook["config"]} for hook in hooks],
    }


def _row(model: str, layer: "LayerContents", data: dict[str, Any]) -> tuple[str, ...]:
    *above, name = data["path"].split("/")
    also = f" = {', '.join(data['also'])}" if data["also"] else ""
    shown = "  " * len(above) + (name or model) + also
    return (shown, data["type"], " > ".join(hook["name"] for hook in data["hooks"]), *_numbers(data))


def _numbers(data: dict[str, Any]) -> tuple[str, ...]:
    """Return parameters, sparsity, size and hooks' size as text; what there is none of is left blank."""
    sparsity = f"{data['zeros'] / data['targets']:.1%}" if data["targets"] else ""
    sizes = (size(data[name]) if data[name] else "" for name in ("bytes", "hook_bytes"))
    return (f"{data['parameters']:,}" if data["parameters"] else "", sparsity, *sizes)
