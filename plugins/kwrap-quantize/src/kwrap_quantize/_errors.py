"""The errors of this plugin."""

from collections.abc import Sequence

from kwrap.errors import KwrapError, listed

__all__ = [
    "CalibrationError",
    "DataError",
    "NonFiniteRangeError",
    "RangeNotSeenError",
    "TensorCountError",
]


class RangeNotSeenError(KwrapError, RuntimeError):
    """Ranges are needed of tensors that no training step and no calibration has seen yet."""

    def __init__(self, what: str, paths: Sequence[str]) -> None:
        self.what, self.paths = what, list(paths)
        super().__init__(
            f"{what}: the ranges of {listed(self.paths)} have seen nothing yet, and none is invented. Train a step, or "
            "calibrate: kwrap_quantize.calibrate(model, data). A layer that is never called: leave it out with "
            "exclude=..."
        )


class NonFiniteRangeError(KwrapError, ArithmeticError):
    """A range is, or would become, NaN or infinite."""

    def __init__(self, what: str, paths: Sequence[str]) -> None:
        self.what, self.paths = what, list(paths)
        super().__init__(
            f"{what}: there are NaN or infinite values in what {listed(self.paths)} take, give, or have for a range. "
            "kwrap.check(model) names such weights; if they are finite, look at the data, or calibrate again: "
            "kwrap_quantize.calibrate(model, data)"
        )


class TensorCountError(KwrapError, ValueError):
    """A layer takes, or gives, another number of floating tensors than the hook has ranges for."""

    def __init__(self, hook: str, path: str | None, what: str, found: int, tensors: int) -> None:
        self.hook, self.path, self.what, self.found, self.tensors = hook, path, what, found, tensors
        super().__init__(
            f"hook {hook!r} at {path!r}: there are {found} floating tensors among the layer's {what}, and the hook "
            f"has ranges for {tensors}: give it the option tensors={found}"
        )


class CalibrationError(KwrapError, ValueError):
    """A model cannot be calibrated with this data, or as it is called."""

    def __init__(self, model: str, problem: str) -> None:
        self.model, self.problem = model, problem
        super().__init__(f"calibrate: model {model!r}: {problem}")


class DataError(KwrapError, ValueError):
    """Data is not what a model takes."""

    def __init__(self, what: str, model: str, problem: str) -> None:
        self.what, self.model, self.problem = what, model, problem
        super().__init__(f"{what}: the data is not for model {model!r}: {problem}")
