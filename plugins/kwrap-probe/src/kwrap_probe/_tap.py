"""FeatureTap: gives away what a layer gives, or gets."""

from collections.abc import Callable
from typing import Any, Literal

import keras

import kwrap
from kwrap.errors import OptionValueError
from kwrap.options import checked_choice

__all__ = ["FeatureTap"]


@kwrap.hook(layer_type=keras.layers.Layer)
class FeatureTap(kwrap.Hook):
    """Emit a layer's outputs, for `kwrap.collect`: the features that another model is to learn, as in distillation.

    Without a collector it does nothing, and adds no op.

    Args:
        key: the name to emit under, which `kwrap.collect(model, key)` asks for.
        of: "outputs", or "inputs": the layer's first argument.

    Raises:
        OptionValueError: `key` is no name, or `of` neither of the two.
    """

    observes = True

    def __init__(self, key: str = "features", *, of: Literal["inputs", "outputs"] = "outputs", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(key, str) or not key:
            raise OptionValueError(self.hook_name, "key", key, "is no name: a text that is not empty")
        self.key = key
        self.of = checked_choice(self.hook_name, "of", of, ("inputs", "outputs"))

    def call(self, call_next: Callable[..., Any], inputs: Any) -> Any:
        """Return the layer's outputs; emit them, or the inputs."""
        outputs = call_next(inputs)
        self.emit(self.key, inputs if self.of == "inputs" else outputs)
        return outputs
