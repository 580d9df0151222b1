"""The errors of this plugin."""

from kwrap.errors import KwrapError

__all__ = ["NothingRandomError"]


class NothingRandomError(KwrapError, ValueError):
    """A model is to be sampled that draws nothing: all samples would be the same."""

    def __init__(self, model: str) -> None:
        self.model = model
        super().__init__(
            f"model {model!r} draws nothing: it has neither hooks of kwrap-noise nor dropout layers of Keras with a "
            "rate above 0. Put one on, such as kwrap.wrap_model(model, 'noise', where=...)"
        )
