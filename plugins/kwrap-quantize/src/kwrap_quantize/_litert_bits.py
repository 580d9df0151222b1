"""Which numbers of bits LiteRT computes right with, as tried with TensorFlow 2.21 and ai-edge-litert 2.3."""

from collections.abc import Sequence
from typing import Final

import keras

import kwrap
from kwrap_quantize._activations import Activations
from kwrap_quantize._graph_errors import LiteRTBitsError
from kwrap_quantize._operators import Operator, read_shifted
from kwrap_quantize._weights import QuantizeWeights

__all__ = ["check_bits", "check_operators", "check_zeros", "hint_at_bits"]

# 4 bits or fewer are stored in 4, more in 8. The converter takes another scale for 3; there are no kernels for 16.
_OF_WEIGHTS: Final = (2, 4, 5, 6, 7, 8)
# The converter has no operators that take weights of 4 bits for these: it gives up, or its file does not load.
_NOT_4: Final = (
    keras.layers.Conv2DTranspose,
    keras.layers.ConvLSTM1D,
    keras.layers.ConvLSTM2D,
    keras.layers.Embedding,
)
# Of other numbers of bits the converter makes another grid, or one that no kernel takes.
_OF_ACTIVATIONS: Final = (8, 16)
# For int16 the converter gives these a bias of int32, where their kernels read int64: the results are wrong.
_NOT_INT16: Final = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")


def check_bits(model: keras.Model) -> None:
    """Raise unless LiteRT has the bits of all hooks of `model`.

    Raises:
        LiteRTBitsError: it has not; it names the layers.
    """
    for kind, what, allowed in (
        (QuantizeWeights, "weights", _OF_WEIGHTS),
        (Activations, "activations", _OF_ACTIVATIONS),
    ):
        paths = [path for path, hook in kwrap.find_hooks(model) if isinstance(hook, kind) and hook.bits not in allowed]
        if paths:
            numbers = ", ".join(map(str, allowed))
            raise LiteRTBitsError(model.name, f"{what} with bits other than {numbers}", paths, "Use one of these.")
    found = kwrap.find_layers(model, "**")
    hooks = kwrap.find_hooks(model)
    fours = [path for path, hook in hooks if isinstance(hook, QuantizeWeights) and hook.bits <= 4]
    if paths := [path for path in fours if isinstance(found.get(path), _NOT_4)]:
        way_out = "LiteRT has no operator that takes them: use 5 to 8 bits there, with rules of their own."
        raise LiteRTBitsError(model.name, "weights of 4 bits or fewer in layers", paths, way_out)


def hint_at_bits(model: keras.Model) -> str:
    """Return what to say where the converter fails on a model of 16-bit activations; nothing of others."""
    if all(hook.bits != 16 for _, hook in kwrap.find_hooks(model) if isinstance(hook, Activations)):
        return ""
    return (
        "of activations of 16 bits it takes those of dense layers, ReLU, LeakyReLU, pooling, and with batch_size=None "
        "sums and products; not sigmoid, tanh, softmax, SiLU, GELU and Concatenate: use 8 bits. Its own words: "
    )


def check_zeros(model: str, content: bytes) -> None:
    """Raise if a file's weights have zeros that LiteRT's kernels do not take, so that it does not load.

    Raises:
        LiteRTBitsError: they have; it names the operators.
    """
    if names := read_shifted(content):
        way_out = "LiteRT does not load them: symmetric=True, and with other numbers of bits than 8 narrow_range=True."
        raise LiteRTBitsError(model, "weights whose zero is not the integer 0", names, way_out)


def check_operators(model: str, operators: Sequence[Operator]) -> None:
    """Raise if there are operators of whose int16 LiteRT makes wrong results.

    Raises:
        LiteRTBitsError: there are; it names them.
    """
    names = [one.name for one in operators if one.dtype == "int16" and one.kind in _NOT_INT16]
    if names:
        way_out = "The converter gives them a bias that their kernels misread: use 8 bits there, or dense layers alone."
        raise LiteRTBitsError(model, "convolutions of 16-bit activations", names, way_out)
