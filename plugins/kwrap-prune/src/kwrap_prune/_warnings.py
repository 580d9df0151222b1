"""What pruning warns of, and where the warning points."""

import inspect

__all__ = ["NonFiniteWeightsWarning", "UnreachedSparsityWarning", "stacklevel"]

_INSIDE = {"kwrap", "kwrap_prune", "keras", "tensorflow"}


class NonFiniteWeightsWarning(UserWarning):
    """Weights are NaN or infinite: pruning keeps them, whatever the sparsity."""


class UnreachedSparsityWarning(UserWarning):
    """A decay computes its last masks before its end, and so never reaches its final sparsity."""


def stacklevel() -> int:
    """Return the `stacklevel` with which the caller's warning points at the line of the user that led to it.

    How many frames of Keras and kwrap are between differs. (From Python 3.12 on, `skip_file_prefixes` does it.)
    """
    frame = inspect.currentframe()
    level = 0
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _INSIDE:
        frame, level = frame.f_back, level + 1
    return max(level, 1)
