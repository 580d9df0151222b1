"""Which numbers of bits LiteRT computes right with, as tried with TensorFlow 2.21 and ai-edge-litert 2.3."""

from collections.abc import Sequence
from typing import Final

import keras

import kwrap
from kwrap_quantize._activations import Activations
from kwrap_quantize._graph_errors import LiteRTBitsError
from kwrap_quantize._operators import Operator
from kwrap_quantize._weights import QuantizeWeights

__all__ = ["check_bits", "check_operators"]

# 4 bits or fewer are stored in 4, more in 8. The converter takes another scale for 3; there are no kernels for 16.
_OF_WEIGHTS: Final = (2, 4, 5, 6, 7, 8)
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


def check_operators(model: str, operators: Sequence[Operator]) -> None:
    """Raise if there are operators of whose int16 LiteRT makes wrong results.

    Raises:
        LiteRTBitsError: there are; it names them.
    """
    names = [one.name for one in operators if one.dtype == "int16" and one.kind in _NOT_INT16]
    if names:
        way_out = "The converter gives them a bias that their kernels misread: use 8 bits there, or dense layers alone."
        raise LiteRTBitsError(model, "convolutions of 16-bit activations", names, way_out)
