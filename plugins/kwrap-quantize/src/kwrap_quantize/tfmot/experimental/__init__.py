"""tfmot's way to its schemes for models that are pruned: `tfmot.experimental.combine`."""

from kwrap_quantize.tfmot.experimental import combine

__all__ = ["combine"]
