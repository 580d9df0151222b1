"""The names of tensorflow-model-optimization's quantization-aware training, with its signatures, on Keras 3.

A script for tfmot works with `import kwrap_quantize.tfmot as tfmot` for `import tensorflow_model_optimization as
tfmot`. The page "From tfmot to kwrap-quantize" tells what differs.
"""

from kwrap_quantize.tfmot import experimental, quantization
from kwrap_quantize.tfmot.experimental.combine import Default8BitPrunePreserveQuantizeScheme
from kwrap_quantize.tfmot.quantization.keras import (
    QuantizeConfig,
    quantize_annotate_layer,
    quantize_annotate_model,
    quantize_apply,
    quantize_model,
    quantize_scope,
    quantizers,
)
from kwrap_quantize.tfmot.quantization.keras.default_8bit import Default8BitQuantizeScheme

__all__ = [
    "Default8BitPrunePreserveQuantizeScheme",
    "Default8BitQuantizeScheme",
    "QuantizeConfig",
    "experimental",
    "quantization",
    "quantize_annotate_layer",
    "quantize_annotate_model",
    "quantize_apply",
    "quantize_model",
    "quantize_scope",
    "quantizers",
]
