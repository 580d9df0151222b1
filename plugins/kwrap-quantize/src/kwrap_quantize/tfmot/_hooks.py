"""Hooks of this facade: the mark of what is to be quantized, quantizers of one's own, and zeros that stay."""

from collections.abc import Callable
from typing import Any

import keras

import kwrap
from kwrap.errors import OptionValueError
from kwrap_quantize.tfmot._config import QuantizeConfig
from kwrap_quantize.tfmot._quantizers import Quantizer

__all__ = ["KeepZeros", "QuantizeAnnotate", "QuantizeOutputBy", "QuantizeWeightsBy", "checked_config"]


@kwrap.hook(layer_type=keras.layers.Layer)
class QuantizeAnnotate(kwrap.Hook):
    """Marks a layer for `quantize_apply`; the layer works as before.

    Args:
        quantize_config: what of the layer is rounded; None: what is by default.
        **kwargs: those of every hook.
    """

    def __init__(self, quantize_config: QuantizeConfig | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.quantize_config = checked_config(self.hook_name, quantize_config)


def checked_config(owner: str, config: Any) -> QuantizeConfig | None:
    """Return `config`; raise if it is something else."""
    if config is not None and not isinstance(config, QuantizeConfig):
        problem = "is no instance of a subclass of kwrap_quantize.tfmot.QuantizeConfig"
        raise OptionValueError(owner, "quantize_config", config, problem)
    return config


class _Variables:
    """What a quantizer's `build` takes for the layer: it makes the variables of a hook."""

    def __init__(self, hook: kwrap.Hook) -> None:
        self._hook = hook

    def add_weight(self, name: str | None = None, shape: Any = (), **options: Any) -> keras.Variable:
        """Return a variable of the hook; as in Keras 2, the name comes first and a shape may be left out."""
        averaged = keras.backend.is_float_dtype(options.get("dtype") or "float32")
        defaults = {"aggregation": "mean" if averaged else "only_first_replica", "autocast": False}
        return self._hook.add_weight(name=name, shape=() if shape is None else shape, **defaults | options)


class _By(kwrap.Hook):
    """A hook that has a quantizer work."""

    def __init__(self, quantizer: Quantizer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(quantizer, Quantizer):
            problem = "is no instance of a subclass of kwrap_quantize.tfmot.quantizers.Quantizer"
            raise OptionValueError(self.hook_name, "quantizer", quantizer, problem)
        self.quantizer = quantizer
        self._made: dict[str, dict[str, keras.Variable]] = {}

    def _make(self, shape: Any, name: str) -> None:
        self._made[name] = self.quantizer.build(shape, name, _Variables(self)) or {}


@kwrap.hook(layer_type=keras.layers.Layer)
class QuantizeWeightsBy(_By):
    """Gives weights to a quantizer of one's own as they are read.

    Args:
        quantizer: a registered Quantizer.
        **kwargs: those of every hook.
    """

    def build(self, layer: keras.Layer) -> None:
        """Let the quantizer make its variables, for each weight."""
        for target in self.target_weights:
            self._make(target.shape, target.name)

    def parametrize(self, target: kwrap.WeightTarget, value: Any, *, training: bool) -> Any:
        """Return what the quantizer makes of `value`."""
        return self.quantizer(value, bool(training), weights=self._made[target.name])


@kwrap.hook(layer_type=keras.layers.Layer)
class QuantizeOutputBy(_By):
    """Gives what the layer gives, one tensor, to a quantizer of one's own.

    Args:
        quantizer: a registered Quantizer.
        **kwargs: those of every hook.
    """

    def build(self, layer: keras.Layer) -> None:
        """Let the quantizer make its variables."""
        # From what it was built for: a layer that is being loaded has no outputs yet.
        given = (layer.get_build_config() or {}).get("input_shape")
        self._make(None if given is None else layer.compute_output_shape(given), "output")

    def call(self, call_next: Callable[..., Any], inputs: Any, training: Any) -> Any:
        """Return what the quantizer makes of the output."""
        outputs = call_next(inputs)
        if not hasattr(outputs, "shape"):
            problem = f"rounds one tensor, and {self.path!r} gives {type(outputs).__name__}"
            raise OptionValueError(self.hook_name, "quantizer", self.quantizer, problem)
        return self.quantizer(outputs, bool(training), weights=self._made["output"])


@kwrap.hook(layer_type=keras.layers.Layer)
class KeepZeros(kwrap.Hook):
    """Keeps weights that are zero when it is put on at zero, whatever the optimizer does.

    It has no options but those of every hook.
    """

    def build(self, layer: keras.Layer) -> None:
        """Make a mask for each weight."""
        for target in self.target_weights:
            self.add_state(target, "kept", target.shape, dtype="bool", initializer="ones")

    def initialize(self, layer: keras.Layer) -> None:
        """Keep what is not zero now."""
        for target in self.target_weights:
            self.state(target, "kept").assign(keras.ops.not_equal(target.variable, 0))

    def constrain(self, target: kwrap.WeightTarget, value: Any) -> Any:  # type: ignore[override]  # no step, no counter
        """Return `value` with the zeros that were there."""
        return keras.ops.where(self.state(target, "kept"), value, keras.ops.zeros_like(value))
