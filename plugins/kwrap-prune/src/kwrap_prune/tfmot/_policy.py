"""PruningPolicy: which layers of a model are pruned, and PruneForLatencyOnXNNPack, tfmot's one policy."""

import abc
from typing import Any, NoReturn

import keras
from keras import layers

import kwrap
from kwrap.errors import PlanError
from kwrap_prune.tfmot._graph import Graph

__all__ = ["PruneForLatencyOnXNNPack", "PruningPolicy"]


class PruningPolicy(abc.ABC):
    """Chooses the layers of a model that `prune_low_magnitude` prunes."""

    @abc.abstractmethod
    def allow_pruning(self, layer: keras.Layer) -> bool:
        """Return whether to prune `layer`."""

    @abc.abstractmethod
    def ensure_model_supports_pruning(self, model: keras.Model) -> None:
        """Raise a ValueError if the model is not one for this policy."""


class PruneForLatencyOnXNNPack(PruningPolicy):
    """Prunes the 1x1 convolutions of a model that XNNPACK's sparse inference can run.

    That is one of layers that it knows, from a 3x3 convolution of three channels with stride 2, after zero padding by
    1, to a global average: Elsen et al., https://arxiv.org/abs/1911.09723.
    """

    def allow_pruning(self, layer: keras.Layer) -> bool:
        """Return whether it is a 1x1 convolution."""
        return isinstance(layer, layers.Conv2D) and layer.kernel_size == (1, 1)

    def ensure_model_supports_pruning(self, model: keras.Model) -> None:
        """Raise unless all that lies between first convolution and global average is known to XNNPACK.

        Raises:
            PlanError: it is not, or the model is not built, or neither Functional nor Sequential.
        """
        if not isinstance(model, keras.Function | keras.Sequential):
            _refuse(f"{model.name!r} is neither Functional nor Sequential, and its layers' order is not known")
        if not model.built:
            _refuse(f"{model.name!r} is not built: give it an Input")
        graph = Graph(model)
        first = graph.search(graph.inputs, lambda layer: _is_first(layer, graph), graph.consumers)
        if not first:
            _refuse(
                "not every input goes to a Conv2D with kernel_size=3, strides=2, padding='valid' and 3 input channels, "
                "after a ZeroPadding2D(1)"
            )
        last = graph.search(graph.outputs, _is_last, graph.producers)
        if not last:
            _refuse("not every output comes from a GlobalAveragePooling2D")
        between = {after for layer in first for after in graph.consumers[layer]}

        def stop(layer: keras.Operation) -> bool:
            if layer not in last and not _is_supported(layer, graph):
                _refuse(f"a {type(layer).__name__} like this is not known to XNNPACK's sparse inference", layer.name)
            return layer in last

        graph.search(between, stop, graph.consumers)


def _refuse(problem: str, path: str | None = None) -> NoReturn:
    raise PlanError([kwrap.Problem(problem, path, PruneForLatencyOnXNNPack.__name__)])


def _is_first(layer: keras.Operation, graph: Graph) -> bool:
    return (
        isinstance(layer, layers.Conv2D)
        and tuple(layer.kernel.shape[:3]) == (3, 3, 3)
        and tuple(layer.strides) == (2, 2)
        and layer.padding == "valid"
        and _zero_padding(layer, graph) == 1
    )


def _is_last(layer: keras.Operation) -> bool:
    return isinstance(layer, layers.GlobalAveragePooling2D)


def _zero_padding(layer: keras.Operation, graph: Graph) -> int:
    """Return by how much a ZeroPadding2D, alone before the layer, pads all sides; 0 if there is none."""
    producers = graph.producers[layer]
    padding = next(iter(producers)) if len(producers) == 1 else None
    if not isinstance(padding, layers.ZeroPadding2D):
        return 0
    sides = {side for pair in padding.padding for side in pair}
    return sides.pop() if len(sides) == 1 else 0


_ALWAYS = (
    layers.Add,
    layers.Multiply,
    layers.ZeroPadding2D,
    layers.ReLU,
    layers.LeakyReLU,
    layers.ELU,
    layers.Dropout,
    layers.Identity,
    layers.InputLayer,  # of a model inside the model
)
_ACTIVATIONS = ("relu", "relu6", "leaky_relu", "elu", "sigmoid")
_ARITHMETIC = ("Add", "Subtract", "Multiply")  # `x + y` on a model's tensors


def _is_supported(layer: Any, graph: Graph) -> bool:
    """Return whether XNNPACK's sparse inference knows such a layer."""
    if isinstance(layer, _ALWAYS):
        return True
    if isinstance(layer, layers.DepthwiseConv2D):
        return _is_supported_depthwise(layer, graph)
    if isinstance(layer, layers.Conv2D):
        return bool(
            layer.groups == 1
            and tuple(layer.dilation_rate) == (1, 1)
            and tuple(layer.kernel_size) == (1, 1)
            and tuple(layer.strides) == (1, 1)
        )
    if isinstance(layer, layers.GlobalAveragePooling2D):
        return bool(layer.keepdims)
    if isinstance(layer, layers.BatchNormalization):
        return layer.axis in (-1, 3)
    if isinstance(layer, layers.UpSampling2D):
        return bool(layer.interpolation == "bilinear")
    if isinstance(layer, layers.Activation):
        return keras.activations.serialize(layer.activation) in _ACTIVATIONS
    return not isinstance(layer, keras.Layer) and type(layer).__name__ in _ARITHMETIC


def _is_supported_depthwise(layer: layers.DepthwiseConv2D, graph: Graph) -> bool:
    """Return whether the kernel is 3x3 or 5x5, and pads by half of it: itself with stride 1, or a layer before it."""
    if layer.depth_multiplier != 1 or tuple(layer.dilation_rate) != (1, 1):
        return False
    size, strides = tuple(layer.kernel_size), tuple(layer.strides)
    if size not in ((3, 3), (5, 5)):
        return False
    if layer.padding == "same":
        return strides == (1, 1)
    return strides in ((1, 1), (2, 2)) and _zero_padding(layer, graph) == size[0] // 2
