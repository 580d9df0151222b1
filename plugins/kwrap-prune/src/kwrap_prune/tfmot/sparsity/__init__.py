"""tfmot's way to its names: `tfmot.sparsity.keras`."""

from kwrap_prune.tfmot.sparsity import keras

__all__ = ["keras"]
