"""What a model has to follow when its layers changed: `trainable` above hooks that train, traces, the optimizer."""

from collections.abc import Iterable
from contextlib import ExitStack

import keras

from kwrap import _keras
from kwrap._hook import Hook
from kwrap._saving import follow_classes
from kwrap._wrapper import Wrapper

__all__ = ["follow", "forget_traces"]


def follow(above: Iterable[keras.Layer], undo: ExitStack) -> None:
    """Make all that stands `above` changed layers see that these, or their trainable variables, have changed.

    Functions are traced anew. Where the set of trainable variables changed, the optimizer is replaced by one of the
    same config, with the iterations and the slots of the variables that stayed.
    """
    above = tuple(above)
    undo.callback(follow_classes, above)
    follow_classes(above)
    _lift_frozen(above, undo)
    for model in (layer for layer in above if isinstance(layer, keras.Model)):
        undo.callback(_keras.trainable_state_restorer(model))
        _keras.refresh_trainable_state(model)
        optimizer = getattr(model, "optimizer", None)
        if optimizer is not None and optimizer.built and not _fits(optimizer, model):
            undo.callback(_keras.set_optimizer, model, optimizer)
            _keras.set_optimizer(model, _rebuilt(optimizer, model))
    undo.callback(forget_traces, above)
    forget_traces(above)


def forget_traces(above: Iterable[keras.Layer]) -> None:
    """Make the models among layers trace `fit`, `evaluate` and `predict` anew."""
    for layer in above:
        if isinstance(layer, keras.Model) and _keras.has_traces(layer):
            _keras.forget_traces(layer)


def _lift_frozen(above: Iterable[keras.Layer], undo: ExitStack) -> None:
    """Let variables of hooks train below a frozen model, without touching a variable; lower it when they are gone.

    A model that was set trainable since, which sets all that it holds, stays so.
    """
    for part in above:
        if part.trainable and not _keras.is_lifted(part):
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
