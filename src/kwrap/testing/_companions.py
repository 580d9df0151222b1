"""What checks put beside and around a hook: another hook, holders of its layer, a layer that looks at its calls."""

import inspect
from collections.abc import Callable
from typing import Any

import keras

from kwrap._hook import Hook

__all__ = ["Companion", "Holder", "HolderModel", "probe"]


class Companion(Hook):
    """Another hook: acts on calls and on weights, as read and as stored, and changes nothing that can be told."""

    def __init__(self, factor: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor = factor
        self.__dict__["calls"] = []

    def call(self, call_next: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Pass on, and take a note of it."""
        self.__dict__["calls"].append(kwargs.get("training"))
        return call_next(*args, **kwargs)

    def parametrize(self, target: Any, value: Any, *, training: Any) -> Any:
        """Return the value times the factor."""
        return value * self.factor

    def constrain(self, target: Any, value: Any, *, step: Any) -> Any:
        """Return the value."""
        return value


Companion.layer_type = (keras.Layer,)  # Not registered: no model with it is saved, and nobody shall find it by name.


@keras.saving.register_keras_serializable("kwrap_testing")
class Holder(keras.layers.Layer):
    """A composite: holds a layer, which no config of Keras' own shows."""

    def __init__(self, inner: keras.Layer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inner = inner

    def call(self, inputs: Any, **kwargs: Any) -> Any:
        """Call what it holds."""
        return self.inner(inputs, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Return what it holds, as config."""
        return {**super().get_config(), "inner": keras.saving.serialize_keras_object(self.inner)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Holder":
        """Return one that holds a new layer."""
        return cls(keras.saving.deserialize_keras_object(config.pop("inner")), **config)


@keras.saving.register_keras_serializable("kwrap_testing")
class HolderModel(keras.Model):
    """A subclassed model: holds a layer in a list."""

    def __init__(self, inner: keras.Layer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.steps = [inner]

    def call(self, inputs: Any, training: Any = None, **kwargs: Any) -> Any:
        """Call what it holds."""
        return self.steps[0](inputs, **kwargs)


def probe(kind: type[keras.Layer], look: Callable[[dict[str, Any]], None]) -> type[keras.Layer]:
    """Return a subclass of a layer's class that shows its calls' arguments to `look`, and takes masks and training."""
    own = inspect.signature(kind.call)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
        for name in ("mask", "training")
        if name not in own.parameters
    ]

    def call(self: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        look(kwargs)
        own_kwargs = {name: value for name, value in kwargs.items() if name not in {p.name for p in added}}
        return kind.call(self, *args, **own_kwargs)

    variable = [p for p in own.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
    fixed = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    call.__signature__ = inspect.Signature([*fixed, *added, *variable])  # type: ignore[attr-defined]
    return type(kind.__name__, (kind,), {"call": call, "supports_masking": True, "__module__": __name__})
