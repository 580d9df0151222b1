"""Freezing ranges, and BatchNormalization, for the last part of training."""

from typing import Any

import keras

import kwrap
from kwrap.errors import RuleError
from kwrap_quantize._activations import QuantizeOutput
from kwrap_quantize._errors import RangeNotSeenError
from kwrap_quantize._options import checked_bool, checked_count
from kwrap_quantize._ranges import activations, unseen

__all__ = ["FreezeRanges", "freeze_ranges", "unfreeze_ranges"]


def freeze_ranges(model: keras.Model) -> None:
    """Let the ranges of activations stay as they are in training from now on, also in a function traced already.

    It is state, and saved with the model.

    Raises:
        RangeNotSeenError: ranges have seen nothing yet; nothing is frozen then.
        AbsentHookError: no QuantizeOutput or QuantizeInput is on the model.
        ModelTypeError: this is no Keras model.
    """
    hooks = [hook for _, hook in activations(model) if hook.moves]
    if paths := unseen(model):
        raise RangeNotSeenError("freeze_ranges", paths)
    for hook in hooks:
        hook.frozen.assign(True)


def unfreeze_ranges(model: keras.Model) -> None:
    """Let the ranges of activations move in training again.

    Raises:
        AbsentHookError: no QuantizeOutput or QuantizeInput is on the model.
        ModelTypeError: this is no Keras model.
    """
    for _, hook in activations(model):
        if hook.moves:
            hook.frozen.assign(False)


class FreezeRanges(keras.callbacks.Callback):
    """Freeze the ranges of activations after so many steps of the optimizer, for the rest of training.

    Weights then settle for a grid that stays (Krishnamoorthi 2018, https://arxiv.org/abs/1806.08342). Steps are the
    optimizer's `iterations`, so that a run that goes on from a file freezes where the whole run would have. What is
    frozen stays so after `fit`: `unfreeze_ranges`.

    Args:
        after: the number of steps; after k epochs: k times the number of batches.
        batch_normalization: whether `trainable` becomes False, too, of all BatchNormalization layers, which then use
            their moving statistics in training, as they do at inference, and keep gamma and beta. Of a model that is
            saved after that, Keras does not load the optimizer's state, and says so: it had more variables to train.

    Raises:
        OptionValueError: an option has a value that it cannot have.
    """

    def __init__(self, after: int, *, batch_normalization: bool = False) -> None:
        super().__init__()
        self.after = checked_count("after", after, "FreezeRanges", least=0)
        self.batch_normalization = checked_bool("batch_normalization", batch_normalization, "FreezeRanges")
        self._is_done = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Freeze at once if that many steps were made before, and ranges have seen something.

        Raises:
            AbsentHookError: no QuantizeOutput or QuantizeInput is on the model.
        """
        activations(self.model)
        self._is_done = False
        if not unseen(self.model):
            self._freeze_if_due()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Freeze if it is time.

        Raises:
            RangeNotSeenError: it is, and ranges have seen nothing yet.
        """
        self._freeze_if_due()

    def _freeze_if_due(self) -> None:
        if self._is_done or int(self.model.optimizer.iterations) < self.after:
            return
        self._is_done = True
        freeze_ranges(self.model)
        if self.batch_normalization and _freeze_batch_normalization(self.model):
            self.model.make_train_function(force=True)  # the traced one takes batches' statistics


def _freeze_batch_normalization(model: keras.Model) -> bool:
    """Stop the training of all BatchNormalization layers; tell whether any was trained."""
    try:
        # Nothing is put on the model: a plan finds layers wherever they are.
        entries = kwrap.plan(
            model, QuantizeOutput(name="kwrap_quantize.freeze"), where=keras.layers.BatchNormalization
        ).entries
    except RuleError:  # there is none
        return False
    layers = [entry.layer for entry in entries if entry.layer.trainable]
    for layer in layers:
        layer.trainable = False
    return bool(layers)
