"""tfmot's way to its names: `tfmot.quantization.keras`."""

from kwrap_quantize.tfmot.quantization import keras

__all__ = ["keras"]
