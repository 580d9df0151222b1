"""Instead: another function in the place of a layer's own, for the time of a call."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras

__all__ = ["Instead"]


class Instead:
    """Puts another function in the place of an attribute of `layer` while calls run.

    The calls of replicas run into each other, in threads that take turns: they share the first one's function, and the
    last one puts the layer's own back. Past Keras' tracking: nothing of it is saved.
    """

    _lock = threading.Lock()

    def __init__(self, name: str) -> None:
        self.name, self._calls = name, 0
        self._own: list[Any] = []

    @contextmanager
    def __call__(self, layer: keras.Layer, function: Callable[..., Any]) -> Iterator[None]:
        """Inside the context, `layer` has `function`."""
        attributes = vars(layer)
        with self._lock:
            if self._calls == 0:
                self._own = [attributes[self.name]] if self.name in attributes else []
                attributes[self.name] = function
            self._calls += 1
        try:
            yield
        finally:
            with self._lock:
                self._calls -= 1
                if self._calls == 0:
                    attributes.pop(self.name)
                    attributes.update((self.name, own) for own in self._own)
