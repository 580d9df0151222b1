"""What the hooks of one Wrapper do to the weights of its layer: as read, as stored, on being taken off."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kwrap import _keras
from kwrap._blame import blaming
from kwrap._constraint import constrain, project, release
from kwrap._hook import Hook, accepts
from kwrap._targets import WeightTarget
from kwrap.errors import WrapperStateError

__all__ = ["WeightHooks", "stored_targets"]


class WeightHooks:
    """Lets hooks act on the weights of a layer, from `engage` to `disengage`.

    Attributes:
        frozen: the variables that stopped training because of a hook that `freezes`.
    """

    def __init__(self, layer: keras.Layer) -> None:
        self.layer = layer
        self.engaged = False
        self.frozen: list[keras.Variable] = []
        self._hooks: tuple[Hook, ...] = ()
        self._quantization = _keras.quantization(layer)

    def engage(self, hooks: Sequence[Hook]) -> None:
        """Let `hooks` act instead of those before: entries in the constraints' chains, in order, and frozen targets."""
        self.disengage()
        self.engaged, self._hooks = True, tuple(hooks)
        self._quantization = _keras.quantization(self.layer)
        for hook in hooks:
            for target in hook.target_weights:
                if hook.overrides("constrain"):
                    constrain(target.variable, hook, functools.partial(_constrained, hook, target))
        self.freeze_for(hooks)

    def freeze_for(self, hooks: Sequence[Hook]) -> None:
        """Stop the training of the weights that `hooks` freeze, until `disengage`."""
        for target in (target for hook in hooks if hook.freezes for target in hook.target_weights):
            # Those of a frozen layer too: it may become trainable, and they with it.
            if target.variable.trainable or not self.layer.trainable:
                self.frozen.append(target.variable)
        self.freeze()

    def freeze(self) -> None:
        """Stop the training of the weights that hooks freeze; setting the layer's `trainable` sets them too."""
        for variable in self.frozen:
            variable.trainable = False

    def disengage(self) -> None:
        """Undo `engage`; values stay."""
        for hook in self._hooks:
            for target in hook.target_weights:
                release(target.variable, hook)
        for variable in self.frozen:
            variable.trainable = self.layer.trainable
        self.frozen.clear()
        self.engaged, self._hooks = False, ()

    def project(self) -> None:
        """Store each target as the hooks want it stored."""
        for target in stored_targets(self._hooks):
            project(target.variable)

    def check(self) -> None:
        """Raise WrapperStateError if the layer was quantized, or got Keras' LoRA, since `engage`."""
        if _keras.quantization(self.layer) == self._quantization:
            return
        hooks = [hook.name for hook in self._hooks if hook.target_weights and hook.acts_on_weights()]
        if hooks:
            raise WrapperStateError(
                f"layer {self.layer.name!r} was quantized, or got Keras' LoRA, while it was wrapped: its hooks "
                f"{hooks} would act on weights that are no longer read. Unwrap, quantize, wrap again."
            )

    def read(self, hooks: Sequence[Hook], training: Any) -> dict[int, tuple[keras.Variable, Any]]:
        """Return (variable, value that the layer is to read) by the variable's id, for the targets that `hooks` change.

        A target that they hand back as it is, the layer reads itself, as without them: a recurrent layer at each step.

        Raises:
            HookCallError: a hook raised, or returned a value of another shape or dtype.
        """
        # In the variables' own dtype, also inside a layer of mixed precision.
        with _keras.AutocastScope(None):
            stored = [(target, _keras.read(target.variable)) for target in targets_of(hooks)]
            read = [(target, value, _parametrized(target, value, hooks, bool(training))) for target, value in stored]
            return {id(target.variable): (target.variable, new) for target, value, new in read if new is not value}

    def merged(
        self, hooks: Sequence[Hook], shadows: Mapping[int, Sequence[keras.Variable]]
    ) -> list[tuple[keras.Variable, Any]]:
        """Return (variable, value) that `hooks` leave in their targets, and in the targets' `shadows`, by their ids.

        Raises:
            WrapperStateError: one of them changes a weight that a hook before it, which stays, acts on as it is read;
                or of which a hook that stays would store something else, so that the layer reads another weight.
        """
        merging = (hook for hook in hooks if hook.acts_on_weights() or hook.overrides("merge"))
        return [
            (variable, _merged(target, variable, self._hooks, hooks))
            for target in targets_of(merging)
            for variable in (target.variable, *shadows.get(id(target.variable), ()))
        ]


def stored_targets(hooks: Iterable[Hook]) -> list[WeightTarget]:
    """Return the targets that `hooks` change as they are stored, each once."""
    return targets_of(hook for hook in hooks if hook.overrides("constrain"))


def targets_of(hooks: Iterable[Hook]) -> list[WeightTarget]:
    """Return the targets of `hooks`, each once."""
    return list({id(target.variable): target for hook in hooks for target in hook.target_weights}.values())


def _changes(hook: Hook, target: WeightTarget) -> bool:
    return any(target.variable is own.variable for own in hook.target_weights)


def _constrained(hook: Hook, target: WeightTarget, value: Any, updated: bool) -> Any:
    keywords = {}
    if accepts(type(hook).constrain, "step"):
        step = _keras.read(hook.state(target, "step"))
        keywords["step"] = step if updated else None
    with blaming(hook, "constrain"):
        value = _checked(hook.constrain(target, value, **keywords), target)
    if updated and keywords:
        hook.state(target, "step").assign(step + 1)
    return value


def _parametrized(target: WeightTarget, value: Any, hooks: Iterable[Hook], training: bool) -> Any:
    for hook in hooks:
        if _changes(hook, target):
            keywords = {"training": training} if accepts(type(hook).parametrize, "training") else {}
            with blaming(hook, "parametrize"):
                value = _checked(hook.parametrize(target, value, **keywords), target)
    return value


def _projected(target: WeightTarget, value: Any, hooks: Iterable[Hook]) -> Any:
    """Return a value as hooks want it stored where no update was made."""
    for hook in hooks:
        if hook.overrides("constrain"):
            value = _constrained(hook, target, value, updated=False)
    return value


def _merged(target: WeightTarget, variable: keras.Variable, hooks: Iterable[Hook], leaving: Sequence[Hook]) -> Any:
    """Return a variable with the effect on the target of those `hooks` that are `leaving`; exact, or an error."""
    changing = [hook for hook in hooks if _changes(hook, target)]
    # Before any is merged: they see the weight as it is stored, each after those before it.
    value = _projected(target, _keras.read(variable), changing)
    readers: list[Hook] = []
    last = None
    for hook in changing:
        if hook not in leaving:
            # What it makes of a weight as it is read, it would make of the merged weight again.
            if hook.overrides("parametrize") and hook.phase != "training":
                readers.append(hook)
            continue
        with blaming(hook, "merge"):
            new = _checked(hook.merge(target, value), target)
        # What two hooks add to whatever they are given is the same in either order.
        staying = next((reader for reader in readers if not (reader.additive and hook.additive)), None)
        if new is not value and staying is not None:
            raise _inexact(hook, target, staying, "acts on it before")
        if new is not value or hook.overrides("constrain"):
            last = hook
        value = new
    if last is not None and variable is target.variable:
        staying = _replacing(target, value, [hook for hook in changing if hook not in leaving], readers)
        if staying is not None:
            raise _inexact(last, target, staying, "would store another weight than the merged one")
    return value


def _replacing(target: WeightTarget, value: Any, hooks: Iterable[Hook], readers: Iterable[Hook]) -> Hook | None:
    """Return the first of `hooks` that stores something else in the place of a value; None if it is read the same."""
    first, stored = None, value
    for hook in hooks:
        stored = _projected(target, stored, [hook])
        if first is None and not _is_equal(stored, value):
            first = hook
    for reader in readers:
        if _is_equal(stored, value):
            break
        stored, value = (_tried(target, each, reader) for each in (stored, value))
    return None if _is_equal(stored, value) else first


def _tried(target: WeightTarget, value: Any, hook: Hook) -> Any:
    """Return what a hook makes of a value as it is read, of the same random numbers each time; its state stays."""
    with keras.StatelessScope():
        return _parametrized(target, value, [hook], training=False)


def _is_equal(one: Any, other: Any) -> bool:
    return np.array_equal(keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other), equal_nan=True)


def _inexact(hook: Hook, target: WeightTarget, staying: Hook, why: str) -> WrapperStateError:
    return WrapperStateError(
        f"hook {hook.name!r} at {hook.path!r} cannot be merged into {target.name!r} exactly while {staying.name!r}, "
        f"which {why}, stays: take {staying.name!r} off too, or drop the effect of {hook.name!r} with merge=False."
    )


def _checked(value: Any, target: WeightTarget) -> Any:
    """Return a hook's `value` for a weight; raise unless it has the weight's shape and dtype."""
    value = keras.ops.convert_to_tensor(value)
    expected = keras.backend.standardize_dtype(target.dtype), target.shape
    received = keras.backend.standardize_dtype(value.dtype), tuple(value.shape)
    if received != expected:
        raise ValueError(f"it returned {received} for weight {target.name!r}, which is {expected}")
    return value
