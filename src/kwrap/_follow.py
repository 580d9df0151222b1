"""What a model has to follow when its layers changed: `trainable` above hooks that train, traces, the optimizer."""

from contextlib import ExitStack

import keras

from kwrap import _keras
from kwrap._wrapper import Wrapper

__all__ = ["follow", "forget_traces"]


def follow(model: keras.Model, undo: ExitStack) -> None:
    """Make `model`, and the models in it, see that its layers or its trainable variables have changed.

    Functions are traced anew. Where the set of trainable variables changed, the optimizer is replaced by one of the
    same config, with the iterations and the slots of the variables that stayed.
    """
    _lift_frozen(model, undo)
    for part in _models_in(model):
        undo.callback(_keras.trainable_state_restorer(part))
        _keras.refresh_trainable_state(part)
        optimizer = getattr(part, "optimizer", None)
        if optimizer is not None and optimizer.built and not _fits(optimizer, part):
            undo.callback(_keras.set_optimizer, part, optimizer)
            _keras.set_optimizer(part, _rebuilt(optimizer, part))
    undo.callback(forget_traces, model)
    forget_traces(model)


def forget_traces(model: keras.Model) -> None:
    """Make `model`, and the models in it, trace `fit`, `evaluate` and `predict` anew."""
    for part in _models_in(model):
        _keras.forget_traces(part)


def _models_in(model: keras.Model) -> list[keras.Model]:
    nested = [layer for layer in _keras.all_sublayers(model) if isinstance(layer, keras.Model)]
    return list({id(part): part for part in (model, *nested)}.values())


def _lift_frozen(model: keras.Model, undo: ExitStack) -> None:
    """Let variables of hooks train below a frozen model, without touching a variable; lower it when they are gone."""
    for part in {id(part): part for part in (model, *_keras.all_sublayers(model))}.values():
        if isinstance(part, Wrapper) or (part.trainable and not _keras.is_lifted(part)):
            continue
        trains = any(isinstance(inner, Wrapper) and inner.trains_beside for inner in _keras.all_sublayers(part))
        if trains != _keras.is_lifted(part):
            undo.callback(_keras.lift, part, not trains)
            _keras.lift(part, trains)


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
