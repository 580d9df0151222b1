"""Keras' own layers: which of their weights hooks may change. A plugin like any other, but built in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple, TypeAlias

import keras
from keras import layers

from kwrap import _keras
from kwrap._plugins import plugins
from kwrap._targets import BUILTIN, WeightTarget, cell_parts, weight_targets
from kwrap.hookspecs import hookimpl

__all__ = ["KerasLayers"]


class KerasLayers:
    """The plugin that answers for Keras' own layers, and for their subclasses where no other plugin does."""

    @hookimpl
    def kwrap_weight_targets(self, layer: keras.Layer) -> Sequence[WeightTarget] | None:
        """Return kernels and embeddings as default targets; biases, scales and the like for those who name them."""
        if isinstance(layer, layers.RNN):
            return _targets_of_cells(layer)
        rows = next((_WEIGHTS[base] for base in type(layer).__mro__ if base in _WEIGHTS), None)
        if rows is None:
            return None
        return [
            _target(rows[variable.name], layer, variable)
            for variable in _keras.own_weights(layer)
            # A quantized kernel has no values that a hook could change.
            if variable.name in rows and keras.backend.is_float_dtype(_keras.own_dtype(variable))
        ]


def _targets_of_cells(layer: layers.RNN) -> list[WeightTarget] | None:
    """Return the targets of all that is in a recurrent layer's cell; `None` if a part of it is untaught."""
    targets: dict[int, WeightTarget] = {}
    for prefix, part in cell_parts(layer):
        answer = weight_targets.find(part)
        if answer is None and _keras.own_weights(part):
            return None
        for target in answer or ():
            targets.setdefault(id(target.variable), replace(target, name=f"{prefix}{target.name}"))
    return list(targets.values())


# --- axes ----------------------------------------------------------------------------------------------------------

Axes: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]


def _features(layer: Any, rank: int) -> Axes:
    """Return the axes of a weight that stands beside the output features, as a bias does."""
    return (), tuple(range(rank))


def _gates(layer: Any, rank: int) -> Axes:
    """Return the axes of a cell's bias; a GRU's may have one row for the inputs and one for the state."""
    return (), (rank - 1,)


def _dense(layer: Any, rank: int) -> Axes:
    return (0,), (1,)


def _scores(layer: Any, rank: int) -> Axes:
    """Return the axes of AdditiveAttention's scale: the sum over it is the score."""
    return (0,), ()


def _convolution(layer: Any, rank: int) -> Axes:
    return tuple(range(rank - 1)), (rank - 1,)


def _transposed_convolution(layer: Any, rank: int) -> Axes:
    return (*range(rank - 2), rank - 1), (rank - 2,)


def _depthwise_convolution(layer: Any, rank: int) -> Axes:
    return tuple(range(rank - 2)), (rank - 1,)


def _einsum(layer: Any, rank: int) -> Axes:
    """Read the axes off the equation: what the output lacks is summed over, what the input lacks is new in it."""
    operands, output = layer.equation.split("->")
    inputs, kernel = operands.split(",")
    return (
        tuple(axis for axis, letter in enumerate(kernel) if letter not in output),
        tuple(axis for axis, letter in enumerate(kernel) if letter not in inputs),
    )


# --- the table -----------------------------------------------------------------------------------------------------


class _Weight(NamedTuple):
    """How a weight's axes are told from its layer and its rank, and whether it is a default target."""

    axes: Callable[[Any, int], Axes]
    default: bool = True


def _target(weight: _Weight, layer: keras.Layer, variable: keras.Variable) -> WeightTarget:
    inputs, outputs = weight.axes(layer, len(variable.shape))
    return WeightTarget(variable.name, variable, inputs, outputs, weight.default)


Weights: TypeAlias = Mapping[str, _Weight]

_BIAS: Final[Weights] = {"bias": _Weight(_features, default=False)}
_SCALE: Final[Weights] = {name: _Weight(_features, default=False) for name in ("gamma", "beta")}
_CONVOLUTION: Final[Weights] = {"kernel": _Weight(_convolution), **_BIAS}
_TRANSPOSED: Final[Weights] = {"kernel": _Weight(_transposed_convolution), **_BIAS}
_DEPTHWISE: Final[Weights] = {"kernel": _Weight(_depthwise_convolution), **_BIAS}
_SEPARABLE: Final[Weights] = {
    "depthwise_kernel": _Weight(_depthwise_convolution),
    "pointwise_kernel": _Weight(_convolution),
    **_BIAS,
}
_CELL: Final[Weights] = {
    "kernel": _Weight(_dense),
    "recurrent_kernel": _Weight(_dense),
    "bias": _Weight(_gates, default=False),
}

# By layer class, the weights by variable name. Subclasses inherit their parent's row. What is in no row is no target:
# statistics, scales of quantization, the matrices of Keras' own LoRA.
_WEIGHTS: Final[Mapping[type[keras.Layer], Weights]] = {
    layers.Dense: {"kernel": _Weight(_dense), **_BIAS},
    layers.EinsumDense: {"kernel": _Weight(_einsum), **_BIAS},
    layers.Embedding: {"embeddings": _Weight(_dense)},
    layers.ReversibleEmbedding: {"embeddings": _Weight(_dense), "reverse_embeddings": _Weight(_dense)},
    layers.Conv1D: _CONVOLUTION,
    layers.Conv2D: _CONVOLUTION,
    layers.Conv3D: _CONVOLUTION,
    layers.Conv1DTranspose: _TRANSPOSED,
    layers.Conv2DTranspose: _TRANSPOSED,
    layers.Conv3DTranspose: _TRANSPOSED,
    layers.DepthwiseConv1D: _DEPTHWISE,
    layers.DepthwiseConv2D: _DEPTHWISE,
    layers.SeparableConv1D: _SEPARABLE,
    layers.SeparableConv2D: _SEPARABLE,
    # Of a recurrent layer, the cell is asked for.
    layers.SimpleRNNCell: _CELL,
    layers.GRUCell: _CELL,
    layers.LSTMCell: _CELL,
    _keras.ConvLSTMCell: {
        "kernel": _Weight(_convolution),
        "recurrent_kernel": _Weight(_convolution),
        "bias": _Weight(_gates, default=False),
    },
    layers.BatchNormalization: _SCALE,
    layers.LayerNormalization: _SCALE,
    layers.GroupNormalization: _SCALE,
    layers.RMSNormalization: {"scale": _Weight(_features, default=False)},
    layers.PReLU: {"alpha": _Weight(_features, default=False)},
    layers.Attention: {name: _Weight(_features, default=False) for name in ("scale", "concat_score_weight")},
    layers.AdditiveAttention: {"scale": _Weight(_scores, default=False)},
    # Not learned, but a Fourier transform.
    layers.STFTSpectrogram: {name: _Weight(_convolution, default=False) for name in ("real_kernel", "imag_kernel")},
    # Its statistics.
    layers.Normalization: {},
    # Its vector; the kernel is the layer's that it holds.
    layers.SpectralNormalization: {},
    # Copies of weights that the saved function reads by itself.
    layers.TFSMLayer: {},
}

plugins.register_builtin(BUILTIN, KerasLayers())
