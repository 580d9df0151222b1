"""Beginning anew."""

import keras

import kwrap
from kwrap_probe._guard import NaNGuard
from kwrap_probe._hook import Probe

__all__ = ["reset"]


def reset(model: keras.Model) -> None:
    """Let all Probe and NaNGuard hooks of `model` forget what they saw.

    Raises:
        ModelTypeError: this is no Keras model.
    """
    for kind in (Probe, NaNGuard):
        for _, hook in kwrap.find_hooks(model, kind):
            hook.reset()
