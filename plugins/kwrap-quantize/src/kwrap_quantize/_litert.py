"""to_litert: a quantized model as an integer LiteRT file, with the ranges that it was trained with and no others."""

import os
import tempfile
from typing import Any

import keras
import tensorflow as tf

import kwrap
from kwrap.options import checked_int
from kwrap_quantize._batches import batches
from kwrap_quantize._compare import compare, require_interpreter
from kwrap_quantize._graph_errors import ConversionError, FloatOperatorError
from kwrap_quantize._litert_bits import check_bits, check_operators, check_zeros, hint_at_bits
from kwrap_quantize._litert_dtypes import IOType, check_asked, check_ends, check_policies
from kwrap_quantize._litert_report import LiteRTReport
from kwrap_quantize._modes import constant_ranges
from kwrap_quantize._operators import read_operators
from kwrap_quantize._ranges import require_ranges

__all__ = ["to_litert"]

_BATCH = 256


def to_litert(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    input_dtype: IOType = "float32",
    output_dtype: IOType = "float32",
    batch_size: int | None = 1,
    strict: bool = False,
    validate: Any = None,
) -> LiteRTReport:
    """Write `model` as a LiteRT file that computes in integers, and return what is in it.

    The ranges are those of the model's hooks: no data is looked at, and none is invented. Where a range is missing, as
    between layers that were left in float, the file computes in float there, and the report names these operators. The
    model itself stays as it is. The file appears when it is whole.

    Args:
        path: where the file goes; one that is there is replaced. The folder has to be there.
        input_dtype: the dtype of floating inputs: "float32", or rounded by the caller with the scale and zero point in
            the file: "int8" or "uint8", or "int16" where activations have 16 bits.
        output_dtype: the same of the outputs.
        batch_size: the number of samples in a call, fixed in the file; None: any number, told at each call.
        strict: whether an operator that is left in float is an error.
        validate: data on which the file is run beside Keras, told as for `calibrate`. Needs `ai-edge-litert`.

    Raises:
        OptionValueError: a dtype is none of these, or not for the bits of the model's activations; or `batch_size` is
            no number of samples.
        SaveError: `path` is a folder or a device, or in no folder that is there; or the file cannot be written.
        MissingPackageError: with `validate`, `ai-edge-litert` is not installed.
        DataError: `validate` is not what the model takes, or gives no batch; no file is written then.
        RangeNotSeenError: a hook has seen no data yet, so that its range is not known.
        NonFiniteRangeError: a range is NaN or infinite.
        LiteRTBitsError: LiteRT does not compute right with as many bits as a hook has.
        LiteRTDtypeError: layers compute in 16-bit floats, as those of mixed precision; or integers are asked for where
            an input or output is left in float. No file is written then.
        FloatOperatorError: with `strict`, an operator is left in float; no file is written then.
        ConversionError: the converter of TensorFlow gave up.
    """
    check_asked(model, input_dtype, output_dtype)
    if batch_size is not None:
        batch_size = checked_int("to_litert", "batch_size", batch_size)
    with kwrap.atomic_write(path) as beside:
        given = None
        if validate is not None:
            require_interpreter()
            given = batches(model, validate, _BATCH, "to_litert(validate=...)")
        require_ranges(model, "to_litert")
        check_bits(model)
        check_policies(model)
        content = _convert(model, input_dtype, output_dtype, batch_size)
        check_ends(model.name, content, input_dtype, output_dtype)
        check_zeros(model.name, content)
        operators = tuple(read_operators(content))
        check_operators(model.name, operators)
        if strict and (floats := [one for one in operators if one.is_float]):
            raise FloatOperatorError(model.name, floats)
        comparison = None if given is None else compare(model, content, given)
        beside.write_bytes(content)
    return LiteRTReport(os.fspath(path), len(content), operators, comparison)


def _convert(model: keras.Model, input_dtype: IOType, output_dtype: IOType, batch_size: int | None) -> bytes:
    """Return the content of the file."""
    with tempfile.TemporaryDirectory() as folder:
        with constant_ranges():
            model.export(folder, format="tf_saved_model", verbose=False, input_signature=_signature(model, batch_size))
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.inference_input_type = tf.as_dtype(input_dtype)
        converter.inference_output_type = tf.as_dtype(output_dtype)
        try:
            content: bytes = converter.convert()
        except Exception as error:
            raise ConversionError(model.name, f"{hint_at_bits(model)}{error}") from error
    return content


def _signature(model: keras.Model, batch_size: int | None) -> Any:
    """Return what the model is exported for; None, for Keras to say it, where its inputs are not known."""
    try:
        inputs = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    except AttributeError:
        return None

    def spec(tensor: keras.KerasTensor) -> keras.InputSpec:
        return keras.InputSpec(dtype=tensor.dtype, shape=(batch_size, *tensor.shape[1:]), name=tensor.name)

    return [keras.tree.map_structure(spec, inputs)]
