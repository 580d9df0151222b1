"""The errors of this plugin."""

from kwrap.errors import KwrapError

__all__ = ["NoFloatingOutputsError", "NonFiniteError"]


class NoFloatingOutputsError(KwrapError, TypeError):
    """A hook was put on a layer that gives no floating tensor, so that there is nothing to look at."""

    def __init__(self, hook: str, path: str | None, given: str) -> None:
        self.hook, self.path, self.given = hook, path, given
        super().__init__(
            f"hook {hook!r} at {path!r}: the layer gives {given}, and no dense floating tensor to look at. Leave it "
            "out with exclude=..., or choose layers with where=..."
        )


class NonFiniteError(KwrapError, ArithmeticError):
    """A layer's output, or the gradient of it, is NaN or infinite."""

    def __init__(self, path: str, what: str, call: int, inputs_finite: bool) -> None:
        self.path, self.what, self.call, self.inputs_finite = path, what, call, inputs_finite
        super().__init__(told(path, what, call, inputs_finite))


def told(path: str, what: str, call: int | None = None, inputs_finite: bool | None = None) -> str:
    """Return where a value is not finite as a sentence; `call` or `inputs_finite` None: that is not known."""
    number = "" if call is None else f" in call {call} of the layer"
    if what == "gradient":
        return f"the gradient of the output of layer {path!r} is not finite{number}: look at what comes after the layer"
    looks = {
        True: ": its inputs are finite, so look at its weights",
        False: ": neither are its inputs, so look before it",
        None: "",
    }
    return f"the output of layer {path!r} is not finite{number}{looks[inputs_finite]}"
