"""What a model has to follow when its layers changed: `trainable` above hooks that train, traces, the optimizer."""

from collections.abc import Iterable, Set
from contextlib import ExitStack

import keras

from kwrap import _keras
from kwrap._hook import Hook
from kwrap._saving import follow_classes, set_classes
from kwrap._wrapper import Wrapper

__all__ = ["follow", "forget_traces", "shadows"]


def follow(above: Iterable[keras.Layer], undo: ExitStack) -> None:
    """Make all that stands `above` changed layers see that these, or their trainable variables, have changed.

    Functions are traced anew. Where the set of trainable variables changed, the optimizer is built anew, and keeps its
    iterations and the slots of the variables that stayed.
    """
    above = tuple(above)
    undo.callback(set_classes, [(layer, type(layer)) for layer in above])
    follow_classes(above)
    _lift_frozen(above, undo)
    for model in (layer for layer in above if isinstance(layer, keras.Model)):
        undo.callback(_keras.trainable_state_restorer(model))
        _keras.refresh_trainable_state(model)
    _rebuild_optimizers(above, undo)
    undo.callback(forget_traces, above)
    forget_traces(above)


def forget_traces(above: Iterable[keras.Layer]) -> None:
    """Make the models among layers trace `fit`, `evaluate` and `predict` anew."""
    for layer in above:
        if isinstance(layer, keras.Model):
            _keras.forget_traces(layer)


def shadows(above: Iterable[keras.Layer]) -> dict[int, list[keras.Variable]]:
    """Return the slots that hold weights, as moving averages do, in optimizers of models; by the ids of the weights."""
    found: dict[int, list[keras.Variable]] = {}
    for optimizer, _ in _built_optimizers(above):
        for variable, slot in _keras.shadows_in(optimizer):
            found.setdefault(id(variable), []).append(slot)
    return found


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


def _rebuild_optimizers(above: Iterable[keras.Layer], undo: ExitStack) -> None:
    """Let the optimizers of compiled models have slots for the variables that train now."""
    for optimizer, models in _built_optimizers(above):
        # Outer models first: what a model and one inside it share is in the order of the outer's.
        trainable = list({id(v): v for model in reversed(models) for v in model.trainable_variables}.values())
        if not _fits(optimizer, trainable, {id(v) for model in models for v in model.variables}):
            undo.callback(_keras.optimizer_restorer(optimizer))
            _keras.rebuild_optimizer(optimizer, trainable)


def _built_optimizers(above: Iterable[keras.Layer]) -> list[tuple[keras.Optimizer, list[keras.Model]]]:
    """Return the optimizers that have slots already, each with the models that were compiled with it."""
    users: dict[int, tuple[keras.Optimizer, list[keras.Model]]] = {}
    for model in above:
        optimizer = getattr(model, "optimizer", None)
        if optimizer is not None and optimizer.built:
            users.setdefault(id(optimizer), (optimizer, []))[1].append(model)
    return list(users.values())


def _fits(optimizer: keras.Optimizer, trainable: Iterable[keras.Variable], there: Set[int]) -> bool:
    """Tell whether the optimizer has slots for all variables that are `trainable`, and for none that are gone."""
    wanted = [id(variable) for variable in trainable]
    known = [id(variable) for variable in _keras.optimized_variables(optimizer)]
    # Slots of what was frozen since may stay, but not where Keras pairs slots and trainable variables one by one.
    return known == wanted if _pairs(optimizer) else set(wanted) <= set(known) <= there


def _pairs(optimizer: keras.Optimizer) -> bool:
    parts = _keras.optimizers_in(optimizer)
    return any(part.use_ema or isinstance(part, keras.optimizers.MultiOptimizer) for part in parts)
