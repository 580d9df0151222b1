"""Quantization-aware training for Keras 3 models, down to an int8 LiteRT file, as a plugin of kwrap."""

import kwrap_quantize.tfmot  # noqa: F401 - its hooks have to be known where a file with them is loaded
from kwrap_quantize._activation import QuantizeActivation, QuantizeSteps
from kwrap_quantize._activations import QuantizeInput, QuantizeOutput
from kwrap_quantize._between import QuantizeBetween
from kwrap_quantize._calibrating import calibrate
from kwrap_quantize._checks import kwrap_check_plan
from kwrap_quantize._errors import (
    CalibrationError,
    DataError,
    NonFiniteRangeError,
    RangeNotSeenError,
    TensorCountError,
)
from kwrap_quantize._freezing import FreezeRanges, freeze_ranges, unfreeze_ranges
from kwrap_quantize._graph import quantize
from kwrap_quantize._graph_errors import (
    AlreadyQuantizedError,
    ConversionError,
    FloatLayerError,
    FloatOperatorError,
    GraphNotSeenError,
    LiteRTBitsError,
    LiteRTDtypeError,
)
from kwrap_quantize._litert import to_litert
from kwrap_quantize._litert_report import Comparison, LiteRTReport
from kwrap_quantize._normalization import QuantizeNormalization
from kwrap_quantize._operators import Operator
from kwrap_quantize._ranges import Ranges, TensorRange, ranges, require_ranges
from kwrap_quantize._weights import QuantizeWeights

__all__ = [
    "AlreadyQuantizedError",
    "CalibrationError",
    "Comparison",
    "ConversionError",
    "DataError",
    "FloatLayerError",
    "FloatOperatorError",
    "FreezeRanges",
    "GraphNotSeenError",
    "LiteRTBitsError",
    "LiteRTDtypeError",
    "LiteRTReport",
    "NonFiniteRangeError",
    "Operator",
    "QuantizeActivation",
    "QuantizeBetween",
    "QuantizeInput",
    "QuantizeNormalization",
    "QuantizeOutput",
    "QuantizeSteps",
    "QuantizeWeights",
    "RangeNotSeenError",
    "Ranges",
    "TensorCountError",
    "TensorRange",
    "calibrate",
    "freeze_ranges",
    "kwrap_check_plan",
    "quantize",
    "ranges",
    "require_ranges",
    "to_litert",
    "unfreeze_ranges",
]
