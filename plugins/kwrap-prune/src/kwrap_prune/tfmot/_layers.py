"""Which weights tfmot prunes: those that a layer of one's own names, and of Keras' layers all but depthwise kernels."""

import abc
from collections import Counter
from collections.abc import Sequence

import keras

import kwrap

__all__ = ["PrunableLayer", "is_prunable", "kwrap_weight_targets"]


class PrunableLayer(abc.ABC):
    """A layer of one's own that says which of its weights to prune.

    A layer with the method alone is one, too.
    """

    @abc.abstractmethod
    def get_prunable_weights(self) -> Sequence[keras.Variable]:
        """Return the weights, of any rank, once the layer is built."""


@kwrap.hookimpl
def kwrap_weight_targets(layer: keras.Layer) -> Sequence[kwrap.WeightTarget] | None:
    """Return what `get_prunable_weights` names of the layer's own weights; layers that it holds answer themselves."""
    if not hasattr(layer, "get_prunable_weights"):
        return None
    # Its own are in its attributes, those of the layers that it holds in theirs.
    own = {id(value) for value in keras.tree.flatten(list(vars(layer).values())) if isinstance(value, keras.Variable)}
    weights = [weight for weight in layer.get_prunable_weights() if id(weight) in own]
    names = Counter(weight.name for weight in weights)
    return [
        _target(weight.name if names[weight.name] == 1 else f"{weight.name}_{index}", weight)
        for index, weight in enumerate(weights)
    ]


def _target(name: str, weight: keras.Variable) -> kwrap.WeightTarget:
    """Return the target with the last axis for the outputs, as of a kernel."""
    axes = tuple(range(len(weight.shape)))
    return kwrap.WeightTarget(name, weight, input_axes=axes[:-1], output_axes=axes[-1:])


@keras.saving.register_keras_serializable(package="kwrap_prune")  # type: ignore[untyped-decorator]
def is_prunable(target: kwrap.WeightTarget) -> bool:
    """Tell whether tfmot prunes such a weight: a kernel or an embedding, with no axis of inputs and outputs at once."""
    return target.default and len(target.input_axes) + len(target.output_axes) == len(target.shape)
