"""Stand-ins for hooks of a file that cannot be had, while it is loaded without them."""

import types
from collections.abc import Mapping
from typing import Any

import keras

from kwrap._hook import Hook
from kwrap._targets import WeightTarget

__all__ = ["StandIn", "stand_in"]


class StandIn(Hook):
    """Acts on nothing, in a hook's place: what else is in the file, Keras then finds where it would with the hook.

    An optimizer's slots have no names in a file: those of the hook's variables come in their order among all.
    """

    _trainable: list[tuple[tuple[int, ...], str]]

    def build(self, layer: keras.Layer) -> None:
        """Create variables as the hook's trainable ones."""
        for shape, dtype in self._trainable:
            self.add_weight(shape=shape, dtype=dtype, initializer="zeros", autocast=False)

    def select_targets(self, layer: keras.Layer, path: str) -> tuple[WeightTarget, ...]:
        """Return the targets that the hook froze; none otherwise."""
        return super().select_targets(layer, path) if self.freezes else ()

    def load_own_variables(self, store: Mapping[str, Any]) -> None:
        """Leave the hook's state in the file."""
        self.initialized = True


def stand_in(saved: Mapping[str, Any], path: str) -> Hook:
    """Return what stands in for the hook of a saved record."""
    effect = saved.get("effect")
    effect = effect if isinstance(effect, Mapping) else {}
    options = saved["config"]
    name = str(options.get("name") or saved["hook"])
    cls: type[StandIn] = types.new_class("StandIn", (StandIn,))
    cls.layer_type, cls.hook_name, cls.freezes = (keras.layers.Layer,), saved["hook"], effect.get("freezes") is True
    targets = options.get("targets")
    named = isinstance(targets, list) and all(isinstance(target, str) for target in targets)
    hook = cls(name=name, targets=targets if named else None)
    trainable = effect.get("trainable")
    # Past Keras' tracking, as they are no state.
    hook.__dict__["_trainable"] = [(tuple(shape), dtype) for shape, dtype in trainable or []]
    return hook
