"""The default scheme, where tfmot has it."""

from kwrap_quantize.tfmot._schemes import Default8BitQuantizeScheme

__all__ = ["Default8BitQuantizeScheme"]
