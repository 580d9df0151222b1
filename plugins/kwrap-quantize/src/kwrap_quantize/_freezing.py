"""Freezing ranges, and BatchNormalization, for the last part of training."""

from typing import Any, TypeAlias

import keras

import kwrap
from kwrap.errors import RuleError
from kwrap.options import checked_bool, checked_int
from kwrap_quantize._errors import RangeNotSeenError
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


# A layer, and which of its variables were not trained before.
_Stopped: TypeAlias = tuple[keras.Layer, list[keras.Variable]]


class FreezeRanges(keras.callbacks.Callback):
    """Freeze the ranges of activations after so many steps of the optimizer, for the rest of training.

    Weights then settle for a grid that stays (Krishnamoorthi 2018, https://arxiv.org/abs/1806.08342). Steps are the
    optimizer's `iterations`, so that a run that goes on from a file freezes where the whole run would have: updates of
    weights, one for `gradient_accumulation_steps` batches where gradients are accumulated. Ranges that are frozen stay
    so after `fit`: `unfreeze_ranges`.

    Args:
        after: the number of steps; after k epochs: k times the number of batches, or of updates.
        batch_normalization: whether all BatchNormalization layers, too, use their moving statistics in training, as
            they do at inference, and keep gamma and beta: `trainable` is False of them, until `fit` ends. Then it is
            what it was, so that the model is saved and loaded with its optimizer's state, which Keras leaves out if
            fewer variables are trained than before. The next `fit` trains them again, unless it gets the callback,
            too. What ModelCheckpoint writes meanwhile is loaded with them frozen, and without the optimizer's state;
            so is a model saved after a `fit` that an exception ended, before another with this callback.

    Raises:
        OptionValueError: an option has a value that it cannot have.
    """

    def __init__(self, after: int, *, batch_normalization: bool = False) -> None:
        super().__init__()
        self.after = checked_int("FreezeRanges", "after", after, least=0)
        self.batch_normalization = checked_bool("FreezeRanges", "batch_normalization", batch_normalization)
        self._is_done = False
        self._stopped: list[_Stopped] = []

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

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Let BatchNormalization train again, as before."""
        for layer, frozen in self._stopped:
            layer.trainable = True
            for variable in frozen:
                variable.trainable = False
        if self._stopped:
            self._stopped = []
            self.model.make_train_function(force=True)

    def _freeze_if_due(self) -> None:
        if self._is_done or int(self.model.optimizer.iterations) < self.after:
            return
        self._is_done = True
        freeze_ranges(self.model)
        if self.batch_normalization:
            self._stopped += _freeze_batch_normalization(self.model)  # to those of a fit that an exception ended
        if self._stopped:
            self.model.make_train_function(force=True)  # the traced one takes batches' statistics


def _freeze_batch_normalization(model: keras.Model) -> list[_Stopped]:
    """Stop the training of all BatchNormalization layers that are trained; return them."""
    try:
        found = kwrap.find_layers(model, keras.layers.BatchNormalization)
    except RuleError:  # there is none
        return []
    stopped = [
        (layer, [variable for variable in layer.variables if not variable.trainable])
        for layer in found.values()
        if layer.trainable
    ]
    for layer, _ in stopped:
        layer.trainable = False
    return stopped
