"""Saving what an adapter has learned, and putting it on a model."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import keras

import kwrap
from kwrap.errors import AbsentHookError, KwrapError, OptionValueError
from kwrap.options import checked_bool
from kwrap_lora._adapters import hooks_by_name
from kwrap_lora._errors import AdapterFileError
from kwrap_lora._file import Adapter, SavedLayer, SavedWeight, read, write
from kwrap_lora._hook import LoRA
from kwrap_lora._matching import Match, check, hash_of, layers_of, matches, structure_of

__all__ = ["load_adapter", "save_adapter"]

# What a file says of a hook. Not how A and B began, which is over, nor what kwrap puts in by itself.
_OPTIONS: Final = ("rank", "alpha", "dropout", "use_rslora", "use_dora", "phase")


def save_adapter(model: keras.Model, path: str | os.PathLike[str], name: str | None = None) -> None:
    """Write what an adapter on `model` has learned into a small file: A and B of each weight, and DoRA's magnitudes.

    And what `load_adapter` needs: the adapter's name and options, its layers' places, shapes, and a hash (SHA-256) of
    each weight beside it. The weights themselves are not in it, nor the scale, nor what else has trained, as biases
    that were not frozen. It is a zip file of arrays as `numpy.savez` writes them, and is written beside `path`, and
    then put in the place of what was there in one step. Values that are NaN or infinite are written as they are;
    `load_adapter` refuses them.

    Args:
        path: ends in `.npz`.
        name: that of its hooks; default: that of the only adapter on the model.

    Raises:
        AbsentHookError: there is no such adapter, or none at all.
        OptionValueError: the path ends otherwise; or there are several, and no name was given.
        SaveError: it cannot be written; what was there is as it was.
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
    layers = layers_of(model)
    positions = {place: position for position, place in enumerate(layers)}
    saved = (_saved(place, positions[place], hook) for place, hook in found[name])
    write(Adapter(name, structure_of(layers), tuple(saved)), path)


def _saved(path: str, position: int, hook: LoRA) -> SavedLayer:
    config = hook.get_config()
    weights = (
        SavedWeight(
            target.name,
            target.shape,
            hash_of(target),
            {part: keras.ops.convert_to_numpy(variable) for part, variable in hook.parts(target).items()},
        )
        for target in hook.target_weights
    )
    return SavedLayer(path, position, {option: config[option] for option in _OPTIONS}, tuple(weights))


def load_adapter(
    model: keras.Model, path: str | os.PathLike[str], *, name: str | None = None, other_base: bool = False
) -> keras.Model:
    """Put the adapter of a file on `model`, in place, beside those that are there; return the model.

    Its layers get hooks of the file's options. In a model of the same layer classes in the same order they are found by
    their positions, in any other by their paths, as `kwrap.plan` shows them. Everything is checked before anything
    changes, and if filling the hooks fails after all, they are taken off again. A file may be anyone's: nothing in it
    is run, and no array is made that it does not hold.

    Args:
        name: under which it is on the model; default: the one in the file.
        other_base: whether to load it beside weights of other values than those that it was trained beside, such as the
            same in another dtype.

    Raises:
        AdapterFileError: the file is no adapter, or damaged, or has values that are NaN or infinite.
        OptionValueError: `name` is no hook's name, or `other_base` not True or False.
        AdapterMismatchError: layers or weights are missing, have other shapes, or (unless `other_base`) other values.
        DuplicateHookError: one of the layers has a hook of this name.
        OSError: the file cannot be read.
    """
    if name is not None and not (isinstance(name, str) and name and "/" not in name):
        raise OptionValueError("load_adapter", "name", name, "is no hook's name: a text, not empty, without '/'")
    checked_bool("load_adapter", "other_base", other_base)
    adapter = read(Path(path))
    layers = layers_of(model)
    # Of more rows than the model has layers, one more is enough to be refused: one of them is of no layer.
    found = matches(adapter, layers)[: len(layers) + 1]
    hooks = [_hook(match.saved, adapter.name, str(path)) for match in found]
    check(found, model, layers, str(path), other_base)
    if name is not None:
        hooks = [LoRA.from_config({**hook.get_config(), "name": name}) for hook in hooks]
    _put_on(model, found, hooks)
    return model


def _put_on(model: keras.Model, found: Sequence[Match], hooks: Sequence[LoRA]) -> None:
    """Put hooks on their layers and fill them; if that fails, leave the model as it was."""
    before = _hooks_with_layers(model)
    kwrap.wrap_model(model, [hook.at(_only(match.layer)) for hook, match in zip(hooks, found, strict=True)])
    # A model gets copies of hooks: they are those that were not there before.
    known = {id(hook) for hook, _ in before}
    new = [(hook, layer) for hook, layer in _hooks_with_layers(model) if id(hook) not in known]
    saved_on = {id(match.layer): match.saved for match in found}
    try:
        for hook, layer in new:
            _fill(hook, saved_on[id(layer)])
    except BaseException:
        kwrap.unwrap_model(model, [hook for hook, _ in new], merge=False)
        raise


def _hooks_with_layers(model: keras.Model) -> list[tuple[kwrap.Hook, keras.Layer]]:
    return [(hook, entry.layer) for entry in kwrap.plan(model).entries for hook in entry.all_hooks]


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


def _only(wanted: keras.Layer | None) -> Callable[[keras.Layer, str], bool]:
    return lambda layer, path: layer is wanted


def _fill(hook: Any, saved: SavedLayer) -> None:
    parts = {weight.name: weight.parts for weight in saved.weights}
    for target in hook.target_weights:
        for part, variable in hook.parts(target).items():
            variable.assign(parts[target.name][part])
