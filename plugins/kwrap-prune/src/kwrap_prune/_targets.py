"""The weights of a model that are pruned, or could be."""

import itertools
import operator
from collections.abc import Callable, Iterable
from typing import Any

import keras

import kwrap
from kwrap.errors import RuleError
from kwrap_prune._hook import Prune

__all__ = ["chosen_targets", "prunable_targets", "pruned_targets", "values_of"]

# (path, target) pairs.
Targets = list[tuple[str, kwrap.WeightTarget]]


class _Sought(kwrap.Hook):
    """Acts on the weights that Prune would, in plans that nobody applies: no plugin has anything to say of it."""

    hook_name = "kwrap_prune"  # in errors of `targets`; not "prune", which kwrap-quantize refuses behind its hooks

    def parametrize(self, target: kwrap.WeightTarget, value: Any, *, training: Any) -> Any:
        return value


_Sought.layer_type = Prune.layer_type  # what `kwrap.hook` would set; but it would list the class among the hooks, too


def pruned_targets(model: keras.Model) -> Targets:
    """Return the targets of the model's Prune hooks, with their layers' paths; a shared weight once."""
    return _once((path, target) for path, hook in kwrap.find_hooks(model, Prune) for target in hook.target_weights)


def prunable_targets(model: keras.Model) -> Targets:
    """Return what Prune takes where it is not told which weights, and the targets of the model's Prune hooks.

    In the order of the model's layers, with their paths; a shared weight once.

    Raises:
        ModelTypeError: this is no Keras model.
        WrapperStateError: the model is not built.
    """
    pruned = pruned_targets(model)
    try:
        by_default = chosen_targets(model, "report")
    except RuleError:  # no layer has any
        return pruned
    found: Targets = []
    for path, of_layer in itertools.groupby(by_default, key=operator.itemgetter(0)):
        found.extend([*of_layer, *(each for each in pruned if each[0] == path)])
    return _once([*found, *pruned])


def chosen_targets(model: keras.Model, owner: str, targets: Any = None, **choice: Any) -> Targets:
    """Return what a hook with `targets` would take as Prune does in the layers of a choice, as `kwrap.plan` takes it.

    Raises:
        KwrapError: what `kwrap.plan` raises.
    """
    hook = _Sought(name=f"kwrap_prune.{owner}", targets=targets)
    return [
        (entry.path, target)
        for entry in kwrap.plan(model, hook, **choice).entries
        for target in hook.select_targets(entry.layer, entry.path)
    ]


def values_of(model: keras.Model) -> Callable[[keras.Variable], Any]:
    """Return a function that gives a variable's value as a NumPy array, with the masks of the model's Prune hooks.

    That is what is left when the model is saved or unwrapped. What is stored is the same after each optimizer step, and
    may be another after `set_weights`, or Keras' averages at the end of `fit`.
    """
    masking: dict[int, list[tuple[Prune, kwrap.WeightTarget]]] = {}
    for _, hook in kwrap.find_hooks(model, Prune):
        for target in hook.target_weights:
            masking.setdefault(id(target.variable), []).append((hook, target))

    def value_of(variable: keras.Variable) -> Any:
        value = keras.ops.convert_to_tensor(variable)
        for hook, target in masking.get(id(variable), []):
            value = hook.constrain(target, value, step=None)
        return keras.ops.convert_to_numpy(value)

    return value_of


def _once(targets: Iterable[tuple[str, kwrap.WeightTarget]]) -> Targets:
    """Return each weight where it comes first."""
    once: dict[int, tuple[str, kwrap.WeightTarget]] = {}
    for path, target in targets:
        once.setdefault(id(target.variable), (path, target))
    return list(once.values())
