"""What a model has to follow when its layers changed: `trainable` above hooks that train, traces, the optimizer."""

from collections.abc import Iterable
from contextlib import ExitStack

import keras

from kwrap import _keras
from kwrap._hook import Hook
from kwrap._wrapper import Wrapper

__all__ = ["follow", "forget_traces"]


def follow(model: keras.Model, changed: Iterable[keras.Layer], undo: ExitStack) -> None:
    """Make `model` and the models in it see that its layers or its trainable variables have changed.

    Functions are traced anew, also those of other models that hold one of the `changed` layers. Where the set of
    trainable variables changed, the optimizer is replaced by one of the same config, with the iterations and the slots
    of the variables that stayed.
    """
    _lift_frozen(model, undo)
    for part in _models_in(model):
        undo.callback(_keras.trainable_state_restorer(part))
        _keras.refresh_trainable_state(part)
        optimizer = getattr(part, "optimizer", None)
        if optimizer is not None and optimizer.built and not _fits(optimizer, part):
            undo.callback(_keras.set_optimizer, part, optimizer)
            _keras.set_optimizer(part, _rebuilt(optimizer, part))
    changed = tuple(changed)
    undo.callback(forget_traces, changed)
    forget_traces(changed)


def forget_traces(changed: Iterable[keras.Layer]) -> None:
    """Make every model that holds one of the `changed` layers trace `fit`, `evaluate` and `predict` anew."""
    ids = {id(layer) for layer in changed}
    for model in _keras.living_layers():
        traced = isinstance(model, keras.Model) and _keras.has_traces(model)
        if traced and any(id(layer) in ids for layer in _keras.all_sublayers(model)):
            _keras.forget_traces(model)


def _models_in(model: keras.Model) -> list[keras.Model]:
    nested = [layer for layer in _keras.all_sublayers(model) if isinstance(layer, keras.Model)]
    return list({id(part): part for part in (model, *nested)}.values())


def _lift_frozen(model: keras.Model, undo: ExitStack) -> None:
    """Let variables of hooks train below a frozen model, without touching a variable; lower it when they are gone.

    A model that was set trainable since, which sets all that it holds, stays so.
    """
    for part in {id(part): part for part in (model, *_keras.all_sublayers(model))}.values():
        if isinstance(part, Wrapper) or (part.trainable and not _keras.is_lifted(part)):
            continue
        inner = _keras.all_sublayers(part)
        beneath = sum(layer.trainable for layer in inner if _is_plain(layer))
        trains = any(isinstance(layer, Wrapper) and layer.trains_beside for layer in inner)
        if trains and not _keras.is_lifted(part):
            undo.callback(_keras.lower, part, beneath)
            _keras.lift(part, beneath)
        elif _keras.is_lifted(part) and not trains:
            undo.callback(_keras.lift, part, beneath)
            _keras.lower(part, beneath)


def _is_plain(layer: keras.Layer) -> bool:
    return not isinstance(layer, Wrapper | Hook) and not _keras.is_lifted(layer)


def _fits(optimizer: keras.Optimizer, model: keras.Model) -> bool:
    """Tell whether the optimizer has slots for all variables that are trainable, and for none that are gone."""
    known = {id(variable) for variable in _keras.optimized_variables(optimizer)}
    return {id(v) for v in model.trainable_variables} <= known <= {id(v) for v in model.variables}


def _rebuilt(optimizer: keras.Optimizer, model: keras.Model) -> keras.Optimizer:
    _, purposes = _keras.built_like(optimizer, _keras.optimized_variables(optimizer))
    state = dict(zip(purposes, optimizer.variables, strict=True))
    rebuilt, purposes = _keras.built_like(optimizer, model.trainable_variables)
    for purpose, variable in zip(purposes, rebuilt.variables, strict=True):
        if purpose in state:
            variable.assign(state[purpose])
    return rebuilt
