"""The schemes that `quantize_apply` takes: tfmot's default one, and that for models that are pruned."""

__all__ = ["Default8BitPrunePreserveQuantizeScheme", "Default8BitQuantizeScheme"]


class Default8BitQuantizeScheme:
    """8 bits for weights and what layers give.

    With `disable_per_axis` kernels of convolutions have one range each, and not one an output channel.
    """

    keeps_zeros = False

    def __init__(self, disable_per_axis: bool = False) -> None:
        self.disable_per_axis = disable_per_axis


class Default8BitPrunePreserveQuantizeScheme(Default8BitQuantizeScheme):
    """The same, and weights that are zero stay zero: for models that were pruned, and are not any more."""

    keeps_zeros = True
