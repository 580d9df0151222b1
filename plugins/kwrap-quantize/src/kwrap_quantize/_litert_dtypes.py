"""Which dtypes a LiteRT file can have: those of its inputs and outputs, and those that layers compute in."""

from typing import Final, Literal, TypeAlias

import keras

import kwrap
from kwrap.errors import OptionValueError
from kwrap_quantize._activations import Activations
from kwrap_quantize._graph_errors import LiteRTDtypeError
from kwrap_quantize._operators import FLOATS, read_cut_off, read_ends

__all__ = ["IOType", "check_asked", "check_ends", "check_policies"]

IOType: TypeAlias = Literal["float32", "int8", "uint8", "int16"]
_IO_TYPES: Final = ("float32", "int8", "uint8", "int16")


def check_asked(model: keras.Model, input_dtype: str, output_dtype: str) -> None:
    """Raise unless the converter has these dtypes for the bits of the model's activations.

    Raises:
        OptionValueError: it has not.
    """
    bits = {hook.bits for _, hook in kwrap.find_hooks(model) if isinstance(hook, Activations)}
    for option, dtype in (("input_dtype", input_dtype), ("output_dtype", output_dtype)):
        if dtype not in _IO_TYPES:
            raise OptionValueError("to_litert", option, dtype, f"is none of {', '.join(_IO_TYPES)}")
        if dtype == "int16" and 16 not in bits:
            raise OptionValueError("to_litert", option, dtype, "is for activations of 16 bits: activation_bits=16")
        if dtype in ("int8", "uint8") and bits == {16}:
            raise OptionValueError("to_litert", option, dtype, 'is not for activations of 16 bits: take "int16"')


def check_policies(model: keras.Model) -> None:
    """Raise if layers compute in 16-bit floats, for which LiteRT has no operators.

    Raises:
        LiteRTDtypeError: there are; it names them.
    """
    found = kwrap.find_layers(model, "*")
    paths = [path for path, layer in found.items() if layer.compute_dtype in ("float16", "bfloat16")]
    if paths:
        way_out = (
            "A file is made of float32, which their variables have already: save_weights, "
            'keras.config.set_dtype_policy("float32"), build and quantize the model as before, and load_weights.'
        )
        raise LiteRTDtypeError(model.name, "LiteRT does not compute in 16-bit floats, as layers", paths, way_out)


def check_ends(model: str, content: bytes, input_dtype: str, output_dtype: str) -> None:
    """Raise if inputs or outputs stayed in float where integers were asked for.

    Raises:
        LiteRTDtypeError: they did; it names them. Or operators in float lost their input to integers.
    """
    if kinds := read_cut_off(content):
        way_out = 'An input goes to layers in float, too: quantize these, or take input_dtype="float32".'
        raise LiteRTDtypeError(model, f"input_dtype={input_dtype!r} leaves no input to operators", kinds, way_out)
    for what, asked, ends in zip(("input", "output"), (input_dtype, output_dtype), read_ends(content), strict=True):
        names = [name for name, dtype in ends.items() if dtype in FLOATS]
        if asked not in FLOATS and names:
            side = "takes" if what == "input" else "gives"
            way_out = f'What {side} them computes in float: quantize these layers, or take {what}_dtype="float32".'
            raise LiteRTDtypeError(model, f"{what}_dtype={asked!r} is not what came of {what}s", names, way_out)
