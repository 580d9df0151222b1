"""What quantize and to_litert raise: who, where, what, and the way out."""

from collections.abc import Mapping, Sequence

from kwrap.errors import KwrapError, listed
from kwrap_quantize._litert_report import as_text
from kwrap_quantize._operators import Operator

__all__ = [
    "AlreadyQuantizedError",
    "ConversionError",
    "FloatLayerError",
    "FloatOperatorError",
    "GraphNotSeenError",
    "LiteRTBitsError",
    "LiteRTDtypeError",
]


class GraphNotSeenError(KwrapError, TypeError):
    """A model has no graph that `quantize` could look at, as a subclassed one."""

    def __init__(self, model: str, kind: str) -> None:
        self.model, self.kind = model, kind
        super().__init__(
            f"quantize: model {model!r} (a {kind}) has no graph that can be seen: it is not built from calls of layers "
            "on keras.Input, or not built yet. Build it, or put the hooks on by hand: kwrap.wrap_model(model, "
            "[QuantizeWeights(), QuantizeOutput().at(...)]), with QuantizeOutput on each layer after which a number is "
            "to be rounded, none between a convolution and its BatchNormalization or ReLU, and QuantizeInput on the "
            "first layers."
        )


class AlreadyQuantizedError(KwrapError, ValueError):
    """`quantize` would put hooks on layers that have such ones; nothing was changed."""

    def __init__(self, model: str, path: str, hooks: Sequence[str]) -> None:
        self.model, self.path, self.hooks = model, path, list(hooks)
        super().__init__(
            f"quantize: layer {path!r} of {model!r} has such a hook already. To quantize anew, unwrap first: "
            f"kwrap.unwrap_model(model, {self.hooks}); or leave out such layers with exclude=..."
        )


class FloatLayerError(KwrapError, ValueError):
    """With `strict`, layers of a model would be left in float; nothing was changed."""

    def __init__(self, model: str, reasons: Mapping[str, str]) -> None:
        self.model, self.reasons = model, dict(reasons)
        shown = "; ".join(f"{path}: {reason}" for path, reason in list(self.reasons.items())[:8])
        more = f"; and {len(self.reasons) - 8} more" if len(self.reasons) > 8 else ""
        super().__init__(
            f"quantize: layers of {model!r} would stay in float: {shown}{more}. Leave them out yourself with "
            "exclude=..., replace them, or allow it: strict=False"
        )


class FloatOperatorError(KwrapError, ValueError):
    """With `strict`, operators of a LiteRT file are left in float; no file was written."""

    def __init__(self, model: str, operators: Sequence[Operator]) -> None:
        self.model, self.operators = model, list(operators)
        super().__init__(
            f"to_litert: {len(self.operators)} operators of {model!r} are left in float: {as_text(self.operators)}. "
            "See the plan of kwrap_quantize.quantize(model).skipped for the layers; or allow it: strict=False"
        )


class LiteRTBitsError(KwrapError, ValueError):
    """LiteRT, or its converter, does not compute right with so many bits; no file was written."""

    def __init__(self, model: str, what: str, names: Sequence[str], way_out: str) -> None:
        self.model, self.what, self.names, self.way_out = model, what, list(names), way_out
        super().__init__(f"to_litert: {what} of {model!r}: {listed(self.names, limit=6)}. {way_out}")


class LiteRTDtypeError(KwrapError, ValueError):
    """LiteRT has no integers, or no operators, of a dtype that is asked for; no file was written."""

    def __init__(self, model: str, what: str, names: Sequence[str], way_out: str) -> None:
        self.model, self.what, self.names, self.way_out = model, what, list(names), way_out
        super().__init__(f"to_litert: {what} of {model!r}: {listed(self.names, limit=6)}. {way_out}")


class ConversionError(KwrapError, RuntimeError):
    """TensorFlow's converter gave up; its own words are the cause (`__cause__`)."""

    def __init__(self, model: str, problem: str) -> None:
        self.model, self.problem = model, problem
        super().__init__(f"to_litert: the converter failed on {model!r}: {problem[:2000]}")
