"""The scheme for models that are pruned, where tfmot has it."""

from kwrap_quantize.tfmot._schemes import Default8BitPrunePreserveQuantizeScheme

__all__ = ["Default8BitPrunePreserveQuantizeScheme"]
