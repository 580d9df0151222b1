"""The callbacks of tfmot: none of them is needed to prune."""

import os
from typing import Any

import keras
import tensorflow as tf

import kwrap
from kwrap.errors import OptionValueError
from kwrap_prune._hook import Prune

__all__ = ["PruningSummaries", "UpdatePruningStep"]


class UpdatePruningStep(keras.callbacks.Callback):
    """Do nothing: the hooks count the updates themselves."""

    def on_epoch_end(self, epoch: int = -1, logs: dict[str, Any] | None = None, *, batch: int = -1) -> None:
        """Do nothing; tfmot's guide to custom loops calls it with `batch`."""


class PruningSummaries(keras.callbacks.TensorBoard):
    """Keras' TensorBoard callback, which also writes the sparsity of each pruned weight, to `log_dir`/metrics.

    Written at the beginning of each epoch, and in the end, by the number of updates. As Keras' own, it needs the
    package tensorboard.

    Raises:
        OptionValueError: `log_dir` is no path.
    """

    def __init__(self, log_dir: str | os.PathLike[str], update_freq: str | int = "epoch", **kwargs: Any) -> None:
        if not isinstance(log_dir, str | os.PathLike) or not os.fspath(log_dir):
            raise OptionValueError("PruningSummaries", "log_dir", log_dir, "is no path to a folder")
        super().__init__(log_dir=log_dir, update_freq=update_freq, **kwargs)
        self._sparsity_writer: tf.summary.SummaryWriter | None = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the sparsities as they are before the epoch."""
        super().on_epoch_begin(epoch, logs)
        self._write_sparsity()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Write the sparsities as they are in the end."""
        super().on_train_end(logs)
        self._write_sparsity()
        self._sparsity_writer = None

    def _write_sparsity(self) -> None:
        if self._sparsity_writer is None:
            self._sparsity_writer = tf.summary.create_file_writer(os.path.join(self.log_dir, "metrics"))
        step = tf.cast(self.model.optimizer.iterations, tf.int64)
        with self._sparsity_writer.as_default():
            for path, hook in kwrap.find_hooks(self.model, Prune):
                for target in hook.target_weights:
                    kept = tf.cast(hook.state(target, "mask").value, tf.float32)
                    tf.summary.scalar(f"{path}/{target.name}/sparsity", 1 - tf.reduce_mean(kept), step)
        self._sparsity_writer.flush()
