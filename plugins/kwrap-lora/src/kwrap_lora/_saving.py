"""Saving what an adapter has learned, and putting it on a model."""

import contextlib
import difflib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any, Final

import keras

import kwrap
from kwrap.errors import AbsentHookError, KwrapError, OptionValueError, RuleError
from kwrap_lora._adapters import hooks_by_name
from kwrap_lora._errors import AdapterFileError, AdapterMismatchError
from kwrap_lora._file import Adapter, SavedLayer, SavedWeight, read, write
from kwrap_lora._hook import LoRA
from kwrap_lora._options import matrix_shape

__all__ = ["load_adapter", "save_adapter"]

# What a file says of a hook. Not how A and B began, which is over, nor what kwrap puts in by itself.
_OPTIONS: Final = ("rank", "alpha", "dropout", "use_rslora", "use_dora", "phase")


def save_adapter(model: keras.Model, path: str | os.PathLike[str], name: str | None = None) -> None:
    """Write what an adapter on `model` has learned into a small file: A and B of each weight, and DoRA's magnitudes.

    And what `load_adapter` needs: the adapter's name and options, its layers' paths, shapes, and a hash (SHA-256) of
    each weight beside it. The weights themselves are not in it, nor the scale. It is a zip file of arrays as
    `numpy.savez` writes them, and is written beside `path`, and then put in the place of what was there in one step.

    Args:
        path: ends in `.npz`.
        name: that of its hooks; default: that of the only adapter on the model.

    Raises:
        AbsentHookError: there is no such adapter, or none at all.
        OptionValueError: the path ends otherwise; or there are several, and no name was given.
        OSError: it cannot be written; what was there is as it was.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise OptionValueError("save_adapter", "path", str(path), "does not end in .npz")
    found = hooks_by_name(model)
    if name is None and len(found) > 1:
        raise OptionValueError("save_adapter", "name", name, f"does not say which adapter: there are {list(found)}")
    name = next(iter(found), LoRA.hook_name) if name is None else name
    if name not in found:
        raise AbsentHookError(model.name, name, list(found))
    layers = (_saved(place, hook) for place, hook in found[name])
    write(Adapter(name, tuple(layers)), path)


def _saved(path: str, hook: LoRA) -> SavedLayer:
    config = hook.get_config()
    weights = (
        SavedWeight(
            target.name,
            target.shape,
            _hash(target),
            {part: keras.ops.convert_to_numpy(variable) for part, variable in hook.parts(target).items()},
        )
        for target in hook.target_weights
    )
    return SavedLayer(path, {option: config[option] for option in _OPTIONS}, tuple(weights))


def _hash(target: kwrap.WeightTarget) -> str:
    """Return a hash of a weight's values, as they are stored."""
    value = keras.ops.convert_to_numpy(target.variable)
    return hashlib.sha256(f"{target.dtype} {target.shape}".encode() + value.tobytes()).hexdigest()


def load_adapter(
    model: keras.Model, path: str | os.PathLike[str], *, name: str | None = None, other_base: bool = False
) -> keras.Model:
    """Put the adapter of a file on `model`, in place, beside those that are there; return the model.

    Its layers are found by their paths, as `kwrap.plan` shows them, and get hooks of the file's options. Everything is
    checked before anything changes. A file may be anyone's: nothing in it is run, and no array is made that it does not
    hold.

    Args:
        name: under which it is on the model; default: the one in the file.
        other_base: whether to load it beside weights of other values than those that it was trained beside, such as the
            same in another dtype.

    Raises:
        AdapterFileError: the file is no adapter, or damaged.
        AdapterMismatchError: layers or weights are missing, have other shapes, or (unless `other_base`) other values.
        DuplicateHookError: the model has an adapter of this name.
        OSError: the file cannot be read.
    """
    adapter = read(Path(path))
    name = adapter.name if name is None else name
    hooks = [_hook(layer, adapter.name, str(path)).get_config() for layer in adapter.layers]
    layers = _layers(model, {layer.path for layer in adapter.layers}, name)
    _check(adapter, model, layers, str(path), other_base)
    rules = [
        LoRA.from_config({**config, "name": name}).at(_only(layers[saved.path]))
        for saved, config in zip(adapter.layers, hooks, strict=True)
    ]
    kwrap.wrap_model(model, rules)
    saved_on = {id(layers[saved.path]): saved for saved in adapter.layers}
    for entry in kwrap.plan(model).entries:
        if saved := saved_on.get(id(entry.layer)):
            _fill(next(hook for hook in entry.all_hooks if hook.name == name), saved)
    return model


def _hook(layer: SavedLayer, name: str, file: str) -> LoRA:
    """Return a hook of a layer's options.

    Raises:
        AdapterFileError: there is none of such options.
    """
    if sorted(layer.options) != sorted(_OPTIONS):
        raise AdapterFileError(file, f"the options of layer {layer.path!r} are {sorted(layer.options)}")
    try:
        return LoRA(**layer.options, targets=[weight.name for weight in layer.weights], name=name)
    except (KwrapError, ValueError) as error:
        raise AdapterFileError(file, f"the options of layer {layer.path!r} cannot be: {error}") from error


def _layers(model: keras.Model, wanted: Set[str], name: str) -> dict[str, keras.Layer]:
    """Return the layers of a model by their paths; raise if a hook of that name cannot go on those `wanted`."""
    found: dict[str, keras.Layer] = {}

    def note(layer: keras.Layer, path: str) -> bool:
        found[path] = layer
        return path in wanted

    with contextlib.suppress(RuleError):  # None of them is there, or has weights to train beside.
        kwrap.plan(model, LoRA(rank=1, name=name), where=note)
    return found


def _only(wanted: keras.Layer) -> Callable[[keras.Layer, str], bool]:
    return lambda layer, path: layer is wanted


def _fill(hook: Any, saved: SavedLayer) -> None:
    parts = {weight.name: weight.parts for weight in saved.weights}
    for target in hook.target_weights:
        for part, variable in hook.parts(target).items():
            variable.assign(parts[target.name][part])


def _check(
    adapter: Adapter, model: keras.Model, layers: Mapping[str, keras.Layer], file: str, other_base: bool
) -> None:
    """Raise AdapterMismatchError unless the adapter's layers, weights and shapes are those of the model."""
    pairs = [(saved, layers.get(saved.path)) for saved in adapter.layers]
    problems = [problem for saved, layer in pairs for problem in _problems(saved, layer, layers)]
    if problems:
        raise AdapterMismatchError(file, model.name, problems, "Load it on the model that it was trained on.")
    if other_base:
        return
    others = [problem for saved, layer in pairs for problem in _other_values(saved, layer)]
    if others:
        way_out = "It adds up to something else there; if that is meant: other_base=True."
        raise AdapterMismatchError(file, model.name, others, way_out)


def _problems(saved: SavedLayer, layer: keras.Layer | None, layers: Mapping[str, keras.Layer]) -> Iterator[str]:
    if layer is None:
        near = difflib.get_close_matches(saved.path, layers, cutoff=0.4)
        yield f"there is no layer {saved.path!r}" + (f" (near: {', '.join(map(repr, near))})" if near else "")
        return
    targets = {target.name: target for target in kwrap.weight_targets(layer)}
    for weight in saved.weights:
        target = targets.get(weight.name)
        if target is None:
            yield f"{saved.path!r}, a {type(layer).__name__}, has no weight {weight.name!r}"
        elif target.shape != weight.shape:
            yield f"{weight.name!r} of {saved.path!r} has the shape {target.shape}, and {weight.shape} in the file"
        else:
            yield from _wrong_parts(saved, weight, target)


def _wrong_parts(saved: SavedLayer, weight: SavedWeight, target: kwrap.WeightTarget) -> Iterator[str]:
    inputs, outputs = matrix_shape(target)
    rank = saved.options["rank"]
    due = {
        "a": (inputs, rank),
        "b": (rank, outputs),
        **({"magnitude": (outputs,)} if saved.options["use_dora"] else {}),
    }
    for part in sorted({*due, *weight.parts}):
        given = weight.parts[part].shape if part in weight.parts else None
        if given != due.get(part):
            what = f"{part!r} beside {weight.name!r} of {saved.path!r}"
            yield f"{what} has the shape {due.get(part)}, and {given} in the file"


def _other_values(saved: SavedLayer, layer: keras.Layer | None) -> Iterator[str]:
    targets = {target.name: target for target in kwrap.weight_targets(layer)}
    for weight in saved.weights:
        if _hash(targets[weight.name]) != weight.base:
            yield f"{weight.name!r} of {saved.path!r} has other values than when the adapter was trained"
