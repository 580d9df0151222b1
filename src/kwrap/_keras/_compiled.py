"""What kwrap touches of a compiled model, and of its optimizer."""

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import keras
from keras.src.utils.tracking import Tracker

__all__ = [
    "compile_arguments",
    "exclude_alike",
    "forget_traces",
    "optimized_variables",
    "optimizer_restorer",
    "optimizers_in",
    "rebuild_optimizer",
    "refresh_trainable_state",
    "shadows_in",
    "trainable_state",
    "trainable_state_restorer",
    "uncompiled",
]


def forget_traces(model: keras.Model) -> None:
    """Make a model trace its functions anew at their next use; `fit` may be running, and calls what it finds here."""
    for name in ("train", "test", "predict"):
        if getattr(model, f"{name}_function", None) is not None:
            setattr(model, f"{name}_function", None)
            getattr(model, f"make_{name}_function")()


def trainable_state(model: keras.Layer) -> Any:
    """Return what Keras compares in `fit`: whether each layer was trainable in `compile`; None if not compiled."""
    return getattr(model, "_compiled_trainable_state", None)


def refresh_trainable_state(model: keras.Model) -> None:
    """Add and drop the layers that kwrap put there from what Keras compares in `fit`, which warns of any change."""
    known = trainable_state(model)
    if known is not None:
        _refill(known, {layer: known.get(layer, layer.trainable) for layer in model._flatten_layers()})


def trainable_state_restorer(model: keras.Model) -> Callable[[], None]:
    """Return what undoes `refresh_trainable_state`."""
    known = trainable_state(model)
    return functools.partial(_refill, {} if known is None else known, dict(known or {}))


def _refill(known: dict[Any, Any], content: Mapping[Any, Any]) -> None:
    # In place: TensorFlow keeps the dict that `compile` set, and with it the layers that are its keys. And key by key:
    # after what goes past its own methods, as `clear` does, the model can be neither exported nor checkpointed.
    for key in [key for key in known if key not in content]:
        del known[key]
    known.update(content)


def optimized_variables(optimizer: keras.Optimizer) -> list[keras.Variable]:
    """Return the model's variables that a built optimizer has slots for."""
    return list(getattr(optimizer, "inner_optimizer", optimizer)._trainable_variables)


def shadows_in(optimizer: keras.Optimizer) -> list[tuple[keras.Variable, keras.Variable]]:
    """Return (variable, slot) for the slots that hold weights: moving averages, the iterates of ScheduleFreeAdamW."""
    found: list[tuple[keras.Variable, keras.Variable]] = []
    for part in optimizers_in(optimizer):
        averages = getattr(part, "_model_variables_moving_average", ())
        iterates = part._momentums if isinstance(part, keras.optimizers.ScheduleFreeAdamW) and part.built else ()
        for slots in (averages, iterates):
            found += zip(part._trainable_variables, slots, strict=False)
    return [(variable, slot) for variable, slot in found if slot is not None]


def optimizers_in(optimizer: keras.Optimizer) -> list[keras.Optimizer]:
    """Return `optimizer` and those that it hands its variables to: a LossScaleOptimizer's one, a MultiOptimizer's."""
    inner = getattr(optimizer, "inner_optimizer", None)
    handed = [*([] if inner is None else [inner]), *getattr(optimizer, "optimizers", ())]
    return [optimizer, *(part for held in handed for part in optimizers_in(held))]


def exclude_alike(
    source: keras.Optimizer, target: keras.Optimizer, pairs: Sequence[tuple[keras.Variable, keras.Variable]]
) -> None:
    """Exclude from weight decay in `target` what is in `source`, which is in no config.

    `pairs` are the variables of the model of `source`, each with that of the model of `target`.
    """
    for old, new in zip(optimizers_in(source), optimizers_in(target), strict=True):
        keys = vars(old).get("_exclude_from_weight_decay", ())
        pattern = vars(old).get("_exclude_from_weight_decay_pattern")
        if keys or pattern is not None:
            excluded = [counterpart for variable, counterpart in pairs if old._var_key(variable) in keys]
            new.exclude_from_weight_decay(excluded, [] if pattern is None else [pattern.pattern])


def optimizer_restorer(optimizer: keras.Optimizer) -> Callable[[], None]:
    """Return what undoes `rebuild_optimizer`."""
    before = [(vars(part), dict(vars(part))) for part in optimizers_in(optimizer)]

    def restore() -> None:
        for attributes, content in before:
            attributes.clear()
            attributes.update(content)

    return restore


def rebuild_optimizer(optimizer: keras.Optimizer, variables: Sequence[keras.Variable]) -> None:
    """Build a built optimizer for other variables; it keeps its iterations and the slots of variables that stay.

    In place: training loops, callbacks and a MultiOptimizer's function hold it. And its config does not tell all: what
    is excluded from weight decay, functions.
    """
    before = [(part, _slots(part)) for part in optimizers_in(optimizer)]
    choosing = [(part, part._optimizer_map) for part, _ in before if isinstance(part, keras.optimizers.MultiOptimizer)]
    for part, choice in choosing:
        vars(part)["_optimizer_map"] = _chosen_as_before(part)
        own = [*choice.values(), choice.default_optimizer] if isinstance(choice, keras.optimizers.OptimizerMap) else []
        part._inner_optimizers = list(dict.fromkeys(own))
    for part, slots in before:
        _unbuild(part, slots)
    optimizer.build(list(variables))
    for part, choice in choosing:
        vars(part)["_optimizer_map"] = choice
    for part, slots in before:
        _refill_slots(part, slots)


# The variables of an optimizer by what they are there for: an attribute, and a key in it.
_Slots = dict[tuple[str, Hashable], keras.Variable]


def _slots(optimizer: keras.Optimizer) -> _Slots:
    """Return an optimizer's own variables; those in a list, which has one for each of the model's, by the model's.

    Paths do not tell: those of two layers of one name are equal, and a LossScaleOptimizer's depend on who built it.
    """
    optimized = [id(variable) for variable in optimizer._trainable_variables]
    found: _Slots = {}
    for name, value in vars(optimizer).items():
        if isinstance(value, keras.Variable):
            found[name, None] = value
        elif isinstance(value, dict):
            found.update({(name, key): slot for key, slot in value.items() if isinstance(slot, keras.Variable)})
        elif isinstance(value, list) and len(value) == len(optimized) and name not in _LISTS:
            slots = zip(optimized, value, strict=True)
            found.update({(name, key): slot for key, slot in slots if isinstance(slot, keras.Variable)})
    return found


_LISTS = ("_variables", "_trainable_variables")


def _unbuild(optimizer: keras.Optimizer, slots: _Slots) -> None:
    """Make a built optimizer look as it did before, but for the variables that are attributes: its iterations."""
    attributes = vars(optimizer)
    for name, value in attributes.items():
        if name.startswith("_self_") and isinstance(value, dict | list | set):
            # TensorFlow changes them in place; plain copies, for Keras' tracker tracks what comes into its own.
            plain = next(kind for kind in (dict, list, set) if isinstance(value, kind))
            attributes[name] = plain(value)
    tracker = attributes.pop("_tracker")  # which would track what comes into the lists
    optimizer._trainable_variables, optimizer._trainable_variables_indices = [], {}
    attributes["_tracker"] = tracker
    _track_only(optimizer, [slot for (_, key), slot in slots.items() if key is None])
    for name, key in slots:
        if key is not None:
            setattr(optimizer, name, {} if isinstance(attributes[name], dict) else [])
    optimizer.built = False


def _track_only(optimizer: keras.Optimizer, variables: Sequence[keras.Variable]) -> None:
    """Let an optimizer have these variables of its own, in a new list: TensorFlow saves none that something left."""
    is_variable, _ = vars(optimizer).pop("_tracker").config["variables"]
    optimizer._variables = []
    optimizer._tracker = Tracker({"variables": (is_variable, optimizer._variables)})
    for variable in variables:
        optimizer._track_variable(variable)


def _refill_slots(optimizer: keras.Optimizer, before: _Slots) -> None:
    """Give the slots of an optimizer that was built anew what they held before."""
    slots = _slots(optimizer)
    for purpose in before.keys() & slots.keys():
        if slots[purpose] is not before[purpose]:
            slots[purpose].assign(before[purpose])
    # Those of which `build` made another one, as a LossScaleOptimizer's does.
    gone = {id(old) for purpose, old in before.items() if purpose[1] is None and slots[purpose] is not old}
    if gone:
        _track_only(optimizer, [variable for variable in optimizer._variables if id(variable) not in gone])
    # From zero, and past the first step, an average would take long to come near the variable.
    for variable in optimizer._trainable_variables:
        average = "_model_variables_moving_average", id(variable)
        if average in slots.keys() - before.keys():
            slots[average].assign(variable)


def _chosen_as_before(multi: keras.optimizers.MultiOptimizer) -> Callable[[keras.Variable], keras.Optimizer]:
    """Return the choice of a MultiOptimizer; its own, which may make an optimizer a call, for new variables only."""
    choose = multi._optimizer_map
    chosen = {
        id(variable): multi.optimizers[multi._var_to_optimizer_idx[multi._var_key(variable)]]
        for variable in multi._trainable_variables
    }
    return lambda variable: chosen[id(variable)] if id(variable) in chosen else choose(variable)


def uncompiled(model: keras.Model) -> keras.Model:
    """Return what shares all with `model`, and is not compiled, for `keras.models.clone_model`.

    The flag of the model itself stays: another thread may save it.
    """
    view: keras.Model = object.__new__(type(model))
    vars(view).update(vars(model), compiled=False)
    return view


def compile_arguments(model: keras.Model) -> dict[str, Any]:
    """Return the arguments that `model.compile` was last called with: the objects themselves, not their configs."""
    return dict(model._compile_config.config)
