"""An independent copy of a model: its structure by Keras, its state layer by layer."""

import tempfile
from typing import Any

import keras

from kwrap import _keras
from kwrap._hook import Hook, copies_of
from kwrap._wrapper import Wrapper
from kwrap.errors import CloneError, KwrapError

__all__ = ["copy_model"]


def copy_model(model: keras.Model) -> keras.Model:
    """Return a copy of `model`: weights, seeds, hooks, `trainable` flags, compile state and optimizer slots included.

    Raises:
        CloneError: Keras cannot rebuild a model of this class.
    """
    copy = _rebuild(model, {})
    pairs = [(model, copy), *zip(_keras.all_sublayers(model), _keras.all_sublayers(copy), strict=True)]
    for source, target in zip(_keras.flattened(model), _keras.flattened(copy), strict=True):
        target.trainable = source.trainable and not _keras.is_lifted(source)
    frozen = {
        id(variable) for source, _ in pairs if isinstance(source, Wrapper) for variable in source.weight_hooks.frozen
    }
    for old, new in zip(model.variables, copy.variables, strict=True):
        new.assign(old)
        new.trainable = old.trainable or id(old) in frozen
    for source, target in pairs:
        _copy_state(source, target)
        _keras.lift_like(target, source)
    for _, target in pairs:
        if isinstance(target, Wrapper):
            target.finish_loading()
    _copy_compilation(model, copy)
    return copy


def _rebuild(model: keras.Model, known: dict[int, keras.Layer]) -> keras.Model:
    """Return a model of the same class and structure with fresh layers; `known`: those that were rebuilt already."""

    def clone(layer: keras.Layer) -> keras.Layer:
        if id(layer) not in known:
            known[id(layer)] = _rebuild(layer, known) if isinstance(layer, keras.Model) else _from_config(layer)
        return known[id(layer)]

    if _keras.is_plain_graph(model):
        # Keras compiles the copy from a serialized config: a local loss raises, iterations start anew.
        with _keras.uncompiled(model):
            return keras.models.clone_model(model, clone_function=clone)
    copy = _from_config(model)
    if model.built and not copy.built:
        copy.build_from_config(model.get_build_config())
    return copy


def _from_config(layer: keras.Layer) -> keras.Layer:
    if isinstance(layer, Wrapper):
        # The very classes of its hooks, whatever their names mean by now.
        hooks = copies_of(layer.hooks)
        return Wrapper.loading(_from_config(layer.layer), hooks, name=layer.name, path=layer.place)
    try:
        return type(layer).from_config(layer.get_config())
    except KwrapError:
        raise
    except NotImplementedError as error:
        raise CloneError(layer.name, type(layer).__qualname__, "has no get_config") from error
    except (TypeError, ValueError) as error:
        raise CloneError(
            layer.name, type(layer).__qualname__, f"does not come back from its config: {error}"
        ) from error


def _copy_state(source: keras.Layer, target: keras.Layer) -> None:
    """Copy what is no variable: what a layer derives from its variables, vocabularies, a hook's being initialized."""
    if isinstance(source, Hook):
        target.initialized = source.initialized
    elif not isinstance(source, Wrapper):
        if isinstance(source, keras.Model):
            target.dtype_policy = source.dtype_policy  # in no config, and `compile` asks for it
        if type(source).load_own_variables is not keras.Layer.load_own_variables and source.built:
            store: dict[str, object] = {}
            source.save_own_variables(store)
            target.load_own_variables(store)
        for old, new in zip(_rnn_states(source), _rnn_states(target), strict=True):
            new.assign(old)
        if hasattr(source, "save_assets"):
            with tempfile.TemporaryDirectory() as folder:
                source.save_assets(folder)
                target.load_assets(folder)


def _rnn_states(layer: keras.Layer) -> list[keras.Variable]:
    """Return the states of a stateful recurrent layer, which are among nobody's variables."""
    return list(keras.tree.flatten(layer.states)) if isinstance(layer, keras.layers.RNN) and layer.stateful else []


def _copy_compilation(source: keras.Model, target: keras.Model) -> None:
    """Compile `target`, of the same structure, as `source` is: the same losses, an optimizer and metrics of its own."""
    if not source.compiled:
        return
    arguments = _keras.compile_arguments(source)
    arguments["optimizer"] = source.optimizer  # as `compile` made it of what it was given, or kwrap since
    for name in ("optimizer", "metrics", "weighted_metrics"):
        arguments[name] = keras.tree.map_structure(_own, arguments[name])
    target.compile(**arguments)
    if source.optimizer is not None and source.optimizer.built:
        # Not `trainable_variables`: layers may have been frozen since the optimizer was built.
        counterparts = {id(old): new for old, new in zip(source.variables, target.variables, strict=True)}
        target.optimizer.build([counterparts[id(old)] for old in _keras.optimized_variables(source.optimizer)])
        for old, new in zip(source.optimizer.variables, target.optimizer.variables, strict=True):
            new.assign(old)


def _own(part: Any) -> Any:
    """Return a copy of an optimizer or metric; names and functions stay."""
    return type(part).from_config(part.get_config()) if isinstance(part, keras.Metric | keras.Optimizer) else part
