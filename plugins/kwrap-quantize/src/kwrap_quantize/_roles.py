"""Roles: what LiteRT makes of a Keras layer in integers, and so where rounding has to stand."""

from collections.abc import Sequence
from enum import Enum
from typing import Any, Final

import keras
from keras import layers

__all__ = [
    "CLIPS",
    "ONE_RANGE",
    "Role",
    "activation_name",
    "float_activation",
    "fuses_clip",
    "fuses_norm",
    "has_channels_last",
    "is_arithmetic",
    "is_fusable",
    "name_of",
    "role_of",
    "why_float",
    "why_taken",
]


class Role(Enum):
    """What a layer is to the integers around it."""

    # Weights and a sum: the kernel is rounded, and the result, after what the converter fuses into the operator.
    WEIGHTED = "weighted"
    # A normalization, fused into the weights before it; by itself it is multiplied and added a channel.
    NORM = "norm"
    # Clips what comes before it, within the same operator.
    FUSED = "fused"
    # Sums and products of activations: the result has a range of its own; what clips it is fused.
    ARITHMETIC = "arithmetic"
    # Gives the result a range of its own; nothing is fused.
    RANGED = "ranged"
    # Multiplied and added, all of it or a channel.
    SCALING = "scaling"
    # Puts tensors together on one grid: of what it takes, none has one of its own.
    JOINING = "joining"
    # Moves, leaves out or averages numbers: the result has the range of what it takes.
    MOVING = "moving"
    # Takes rows of a rounded table.
    LOOKUP = "lookup"
    # Computes in float.
    FLOAT = "float"


_WEIGHTED: Final = (
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv2DTranspose,
    layers.Dense,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
)
_ARITHMETIC: Final = (layers.Add, layers.Multiply, layers.Subtract)
_RANGED: Final = (
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.LeakyReLU,
    layers.Softmax,
)
_SCALING: Final = (layers.Normalization, layers.Rescaling)
_JOINING: Final = (layers.Concatenate, layers.Maximum, layers.Minimum)
_MOVING: Final = (
    layers.ActivityRegularization,
    layers.AlphaDropout,
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Dropout,
    layers.Flatten,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.Identity,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.Permute,
    layers.RepeatVector,
    layers.Reshape,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.UpSampling1D,
    layers.UpSampling2D,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
)
# The converter moves the axes of these kernels in ways that ranges of channels do not survive.
ONE_RANGE: Final = (
    layers.Conv1D,
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
    layers.ConvLSTM1D,
    layers.ConvLSTM2D,
    layers.DepthwiseConv1D,
    layers.SeparableConv1D,
)
_INTERPOLATIONS: Final = ("nearest", "bilinear")
_BY_ROLE: Final = (
    (Role.WEIGHTED, _WEIGHTED),
    (Role.NORM, (layers.BatchNormalization,)),
    (Role.ARITHMETIC, _ARITHMETIC),
    (Role.RANGED, _RANGED),
    (Role.SCALING, _SCALING),
    (Role.JOINING, _JOINING),
    (Role.MOVING, _MOVING),
    (Role.LOOKUP, (layers.Embedding,)),
)
# Activations of which LiteRT has an operator in integers, and those that it clips within the operator before them.
CLIPS: Final = ("linear", "relu", "relu6")
_INTEGER: Final = ("gelu", "hard_sigmoid", "hard_silu", "leaky_relu", "sigmoid", "silu", "softmax", "tanh")


def is_arithmetic(operation: keras.Operation) -> bool:
    """Tell whether `operation` is a sum, difference or product of tensors, and no layer: `x + y`."""
    return not isinstance(operation, keras.Layer) and type(operation).__name__ in ("Add", "Multiply", "Subtract")


def role_of(layer: keras.Operation) -> Role:
    """Return what `layer` is to the integers around it; FLOAT for what LiteRT has no integers for, see `why_float`."""
    if not isinstance(layer, keras.Layer) or why_float(layer):
        return Role.FLOAT
    if _is(layer, layers.ReLU):
        return Role.FUSED if is_fusable(layer) else Role.RANGED
    if _is(layer, layers.Activation):
        return Role.FUSED if is_fusable(layer) else Role.RANGED
    return next(role for role, classes in _BY_ROLE if _is(layer, *classes))


def why_float(layer: keras.Operation) -> str | None:
    """Return why `layer` is left in float; None if it is not."""
    kind = type(layer).__name__
    if not isinstance(layer, keras.Layer):
        instead = f": use keras.layers.{kind}, or Rescaling for numbers" if is_arithmetic(layer) else ""
        return f"the operation {kind} is no layer, and has no place for a hook: its result is not rounded{instead}"
    known = any(_is(layer, *classes) for _, classes in _BY_ROLE) or _is(layer, layers.ReLU, layers.Activation)
    if not known:
        return f"LiteRT has no operator in integers for a {kind} that kwrap-quantize knows of"
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return "its data format is channels_first; LiteRT's operators are channels_last"
    if _is(layer, layers.BatchNormalization, layers.Normalization, layers.Rescaling) and not has_channels_last(layer):
        axis = f"axis {layer.axis}" if hasattr(layer, "axis") else "other axes"
        return f"it normalizes {axis}; LiteRT multiplies and adds in integers along the last one"
    if _is(layer, layers.ReLU) and layer.max_value not in (None, 6):
        return f"LiteRT has no operator in integers that clips at {layer.max_value:g}; it has one that clips at 6"
    if _is(layer, layers.ReLU) and (layer.max_value is not None or layer.threshold) and layer.negative_slope:
        return "LiteRT has no operator in integers that clips, and has a slope below"
    if _is(layer, layers.Softmax) and isinstance(layer.axis, list | tuple) and len(layer.axis) > 1:
        return "LiteRT has a softmax in integers along one axis, and not along several"
    if _is(layer, layers.UpSampling2D) and layer.interpolation not in _INTERPOLATIONS:
        return f"LiteRT has no operator in integers for the interpolation {layer.interpolation}"
    return float_activation(layer) if _is(layer, layers.Activation) else None


def why_taken(layer: keras.Operation, are_float: Sequence[bool]) -> str | None:
    """Return why `layer` is left in float because of what it takes: whether each tensor is floating; None if not."""
    if not isinstance(layer, keras.Layer) or why_float(layer):
        return None
    if len(are_float) > 2 and _is(layer, layers.Add, layers.Multiply):
        kind = type(layer).__name__
        return f"LiteRT takes two tensors at a time, and what is between has no range: use one {kind} after another"
    if len(are_float) > 1 and _is(layer, layers.GlobalAveragePooling1D):
        return "it takes a mask; LiteRT averages in float what is not masked"
    if not any(are_float) and _is(layer, *_WEIGHTED, *_RANGED, *_SCALING, layers.BatchNormalization):
        return "it takes integers, of which LiteRT makes floats: let the model take floats"
    return None


def float_activation(layer: keras.Operation) -> str | None:
    """Return why the activation within `layer` is computed in float; None if it is not, or there is none."""
    activation = getattr(layer, "activation", None)
    if isinstance(activation, (layers.ReLU, layers.LeakyReLU)):
        return why_float(activation)
    name = activation_name(layer)
    known = name in CLIPS or name in _INTEGER
    return None if known else f"LiteRT has no operator in integers for the activation {name}"


def has_channels_last(layer: keras.Layer) -> bool:
    """Tell whether a built normalization multiplies and adds along the last axis, or all by one number."""
    if isinstance(layer, layers.BatchNormalization):
        return layer.axis == -1 or (layer.input_spec is not None and layer.axis == layer.input_spec.ndim - 1)
    both = (layer.scale, layer.offset) if isinstance(layer, layers.Rescaling) else (layer.mean, layer.variance)
    return all(size == 1 for each in both for size in keras.ops.convert_to_tensor(each).shape[:-1])


def fuses_norm(layer: keras.Operation) -> bool:
    """Tell whether a BatchNormalization after `layer` becomes part of its kernel, rounded as this is."""
    return _is(layer, layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)


def fuses_clip(layer: keras.Operation) -> bool:
    """Tell whether a ReLU after the sums of `layer` becomes part of its operator: not of a transposed convolution."""
    return not isinstance(layer, layers.Conv2DTranspose)


def activation_name(layer: keras.Layer) -> str:
    """Return the name of the activation that a layer applies within its call: "linear" for none."""
    activation = getattr(layer, "activation", None)
    return "linear" if activation is None else name_of(activation)


def name_of(activation: Any) -> str:
    """Return the name of an activation, a function or a layer."""
    return str(getattr(activation, "__name__", type(activation).__name__))


def is_fusable(layer: keras.Layer) -> bool:
    """Tell whether what a ReLU or Activation does is done within the operator before it."""
    if _is(layer, layers.ReLU):
        return layer.max_value in (None, 6) and not layer.negative_slope and not layer.threshold
    return activation_name(layer) in CLIPS


def _is(layer: keras.Layer, *classes: type[keras.Layer]) -> bool:
    """Tell whether `layer` computes as one of these classes: a subclass with a `call` of its own does not."""
    return any(isinstance(layer, cls) and type(layer).call is cls.call for cls in classes)
