"""What the hooks that draw random numbers share: a seed generator a layer."""

import zlib
from typing import Any, Literal

import keras

import kwrap
from kwrap.errors import NoFloatingTensorsError
from kwrap.options import checked_int

__all__ = ["Drawing", "is_floating"]


class Drawing(kwrap.Hook):
    """Draw random numbers.

    Layers draw independently of each other. With a `seed`, what a layer draws follows from the seed, its path and the
    hook's name, and is the same in every run; in a model that is built once more in one process, if its layers have
    names of their own, as those that Keras gives (`dense_3`) go on counting. Without, it follows from Keras' global
    seed (`keras.utils.set_random_seed`). The generator is saved with the model, so that training that goes on draws
    what would have come.
    """

    # Whether it acts at inference, whatever its phase: see `sampling`.
    samples: bool = False

    def __init__(
        self,
        *,
        seed: int | None = None,
        phase: Literal["always", "training", "inference"] = "training",
        **kwargs: Any,
    ) -> None:
        super().__init__(phase=phase, **kwargs)
        self.seed = None if seed is None else checked_int(self.hook_name, "seed", seed, least=None)

    def build(self, layer: keras.Layer) -> None:
        """Create the random generator."""
        own = None if self.seed is None else zlib.crc32(f"{self.seed} {self.path} {self.name}".encode())
        self.generator = keras.random.SeedGenerator(own)

    @property
    def draws(self) -> bool:
        """Whether what it draws is ever other than nothing."""
        raise NotImplementedError

    def active(self, training: Any) -> bool:
        """Tell whether it acts in this phase: at inference, too, while samples are drawn."""
        return self.samples or super().active(training)

    def merge(self, target: kwrap.WeightTarget, value: Any) -> Any:
        """Return `value` itself, also with `phase="always"`: no single draw is to stay in the weights."""
        return value

    def require_floating(self, tensors: Any, what: str) -> None:
        """Raise unless one of nested `tensors`, the layer's `what`, is floating.

        Raises:
            NoFloatingTensorsError: none is.
        """
        if not any(map(is_floating, keras.tree.flatten(tensors))):
            raise NoFloatingTensorsError(self.name, self.path, what)


def is_floating(value: Any) -> bool:
    """Tell whether `value` is a floating tensor."""
    return hasattr(value, "dtype") and bool(keras.backend.is_float_dtype(keras.backend.standardize_dtype(value.dtype)))
