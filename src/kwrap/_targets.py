"""Weight targets: which weights of a layer hooks may change, and how each is read as a matrix."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from kwrap import _keras
from kwrap._plugins import plugins
from kwrap.errors import TargetError
from kwrap.hookspecs import hookimpl

__all__ = ["WeightTarget", "weight_targets"]


@dataclass(frozen=True, eq=False)
class WeightTarget:
    """A weight that hooks may change.

    Attributes:
        name: the weight's name, unique among its layer's targets.
        variable: the Keras variable, of floating dtype.
        input_axes: the axes of the variable that are summed over with the layer's input.
        output_axes: the axes that index the layer's output features.
        default: whether a hook takes it that does not name its targets. Kernels and embeddings are, biases and the
            weights of normalization layers are not.

    Axes in neither tuple (such as those of a grouped or batched kernel) are kept with the outputs in the matrix.
    """

    name: str
    variable: keras.Variable
    input_axes: tuple[int, ...] = ()
    output_axes: tuple[int, ...] = ()
    default: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """The variable's shape."""
        return tuple(self.variable.shape)

    @property
    def dtype(self) -> str:
        """The variable's dtype, also inside a layer of mixed precision."""
        return str(_keras.own_dtype(self.variable))

    def as_matrix(self, value: Any) -> Any:
        """Return `value`, of the variable's shape, as a matrix of shape (inputs, outputs)."""
        rows = math.prod(self.shape[axis] for axis in self.input_axes)
        return keras.ops.reshape(keras.ops.transpose(value, self._order()), (rows, -1))

    def from_matrix(self, matrix: Any) -> Any:
        """Return a matrix of shape (inputs, outputs) in the variable's shape: the inverse of `as_matrix`."""
        order = self._order()
        value = keras.ops.reshape(matrix, [self.shape[axis] for axis in order])
        return keras.ops.transpose(value, [order.index(axis) for axis in range(len(order))])

    def _order(self) -> list[int]:
        others = [axis for axis in range(len(self.shape)) if axis not in self.input_axes]
        return [*self.input_axes, *others]


def weight_targets(layer: keras.Layer) -> tuple[WeightTarget, ...]:
    """Return the weight targets of a built `layer`: none if it owns no weight that anybody answers for.

    Raises:
        TargetError: two plugins answer differently.
    """
    answers = plugins.answers("kwrap_weight_targets", layer=layer)
    if not answers:
        return ()
    first_plugin, first = answers[0]
    for other_plugin, other in answers[1:]:
        if [_key(target) for target in first] != [_key(target) for target in other]:
            raise TargetError(
                f"plugins {first_plugin!r} and {other_plugin!r} disagree on the weight targets of layer "
                f"{layer.name!r} (a {type(layer).__name__}): {[target.name for target in first]} and "
                f"{[target.name for target in other]}. Block one of them: kwrap.plugins.block({other_plugin!r})."
            )
    return tuple(first)


def _key(target: WeightTarget) -> tuple[Any, ...]:
    return target.name, id(target.variable), target.input_axes, target.output_axes, target.default


# --- Keras' own layers: a plugin like any other -----------------------------------------------------------------------

Axes = tuple[tuple[int, ...], tuple[int, ...]]


def _dense(layer: Any, rank: int) -> Axes:
    return (0,), (1,)


def _convolution(layer: Any, rank: int) -> Axes:
    return tuple(range(rank - 1)), (rank - 1,)


def _transposed_convolution(layer: Any, rank: int) -> Axes:
    return (*range(rank - 2), rank - 1), (rank - 2,)


def _depthwise_convolution(layer: Any, rank: int) -> Axes:
    return tuple(range(rank - 2)), (rank - 2, rank - 1)


def _einsum(layer: Any, rank: int) -> Axes:
    """Read the axes off the equation: those of the kernel that the output lacks are summed over."""
    operands, output = layer.equation.replace("...", "").split("->")
    kernel = operands.split(",")[1]
    inputs = tuple(axis for axis, letter in enumerate(kernel) if letter not in output)
    return inputs, tuple(axis for axis in range(rank) if axis not in inputs)


# By layer class: the kernels by variable name, and how their axes are told. Subclasses inherit their parent's row.
_KERNELS: dict[type[keras.Layer], dict[str, Callable[[Any, int], Axes]]] = {
    keras.layers.Dense: {"kernel": _dense},
    keras.layers.EinsumDense: {"kernel": _einsum},
    keras.layers.Embedding: {"embeddings": _dense},
    keras.layers.Conv1D: {"kernel": _convolution},
    keras.layers.Conv2D: {"kernel": _convolution},
    keras.layers.Conv3D: {"kernel": _convolution},
    keras.layers.Conv1DTranspose: {"kernel": _transposed_convolution},
    keras.layers.Conv2DTranspose: {"kernel": _transposed_convolution},
    keras.layers.Conv3DTranspose: {"kernel": _transposed_convolution},
    keras.layers.DepthwiseConv1D: {"kernel": _depthwise_convolution},
    keras.layers.DepthwiseConv2D: {"kernel": _depthwise_convolution},
    keras.layers.SeparableConv1D: {"depthwise_kernel": _depthwise_convolution, "pointwise_kernel": _convolution},
    keras.layers.SeparableConv2D: {"depthwise_kernel": _depthwise_convolution, "pointwise_kernel": _convolution},
    keras.layers.SimpleRNN: {"kernel": _dense, "recurrent_kernel": _dense},
    keras.layers.GRU: {"kernel": _dense, "recurrent_kernel": _dense},
    keras.layers.LSTM: {"kernel": _dense, "recurrent_kernel": _dense},
    keras.layers.ConvLSTM1D: {"kernel": _convolution, "recurrent_kernel": _convolution},
    keras.layers.ConvLSTM2D: {"kernel": _convolution, "recurrent_kernel": _convolution},
    keras.layers.ConvLSTM3D: {"kernel": _convolution, "recurrent_kernel": _convolution},
    keras.layers.BatchNormalization: {},
    keras.layers.LayerNormalization: {},
    keras.layers.RMSNormalization: {},
    keras.layers.GroupNormalization: {},
}


class KerasLayers:
    """The built-in plugin that answers for Keras' own layers."""

    @hookimpl
    def kwrap_weight_targets(self, layer: keras.Layer) -> Sequence[WeightTarget] | None:
        """Return kernels and embeddings as default targets; biases and norms' weights for those who name them."""
        kernels = next((_KERNELS[base] for base in type(layer).__mro__ if base in _KERNELS), None)
        if kernels is None:
            return None
        targets = []
        for variable in _keras.own_weights(layer):
            axes = kernels.get(variable.name)
            if variable.dtype not in ("float16", "bfloat16", "float32", "float64"):
                continue  # a quantized kernel has no values that a hook could change
            if axes is not None:
                targets.append(WeightTarget(variable.name, variable, *axes(layer, len(variable.shape))))
            elif variable.name in ("bias", "gamma", "beta", "scale"):
                targets.append(WeightTarget(variable.name, variable, default=False))
        return targets


plugins.register_builtin("keras", KerasLayers())
