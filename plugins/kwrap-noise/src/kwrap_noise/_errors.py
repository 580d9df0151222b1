"""The errors of this plugin."""

from kwrap.errors import KwrapError

__all__ = ["NoFloatingTensorsError", "NothingRandomError"]


class NothingRandomError(KwrapError, ValueError):
    """A model is to be sampled that draws nothing: all samples would be the same."""

    def __init__(self, model: str) -> None:
        self.model = model
        super().__init__(
            f"model {model!r} draws nothing: it has neither hooks of kwrap-noise nor dropout layers of Keras with a "
            "rate above 0. Put one on, such as kwrap.wrap_model(model, 'noise', where=...)"
        )


class NoFloatingTensorsError(KwrapError, TypeError):
    """A hook was put on a layer that takes, or gives, no floating tensor, so that there is nothing to draw for."""

    def __init__(self, hook: str, path: str | None, what: str) -> None:
        self.hook, self.path, self.what = hook, path, what
        super().__init__(
            f"hook {hook!r} at {path!r}: there is no floating tensor among the layer's {what}. Leave it out with "
            "exclude=..., or choose layers with where=..."
        )
