"""The names of `kwrap_quantize.tfmot`, where tfmot has them."""

from kwrap_quantize.tfmot._config import QuantizeConfig
from kwrap_quantize.tfmot._quantize import (
    quantize_annotate_layer,
    quantize_annotate_model,
    quantize_apply,
    quantize_model,
    quantize_scope,
)
from kwrap_quantize.tfmot.quantization.keras import default_8bit, quantizers

__all__ = [
    "QuantizeConfig",
    "default_8bit",
    "quantize_annotate_layer",
    "quantize_annotate_model",
    "quantize_apply",
    "quantize_model",
    "quantize_scope",
    "quantizers",
]
