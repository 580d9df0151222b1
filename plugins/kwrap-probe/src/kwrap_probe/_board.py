"""TensorBoardWriter: statistics of each epoch as scalars and histograms of TensorBoard."""

import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import kwrap
from kwrap.options import checked_bool
from kwrap_probe._hook import Probe
from kwrap_probe._report import Statistics, report

__all__ = ["TensorBoardWriter"]

_BUCKETS = 30  # as tf.summary.histogram has


class TensorBoardWriter(keras.callbacks.Callback):
    """Write what the probes of the model have measured to TensorBoard, at each epoch's end.

    Tags are "<path>/<what>/<statistic>", such as "encoder/dense/outputs/zeros", where zeros are a share; and
    "<path>/<what>" for the histogram. Probes with a name of their own have it before what. The step is the epoch. What
    was not called in an epoch is not written. It needs no TensorBoard to write.

    Args:
        log_dir: the folder; where Keras' own TensorBoard callback writes too, one in it, such as "<log_dir>/probes".
        reset: whether statistics begin anew at each epoch, to be of it alone; else they are of all so far. What guards
            have seen is kept.

    Raises:
        OptionValueError: `reset` is not True or False.
    """

    def __init__(self, log_dir: str | os.PathLike[str], *, reset: bool = True) -> None:
        super().__init__()
        self.log_dir = os.fspath(log_dir)
        self.reset = checked_bool("TensorBoardWriter", "reset", reset)
        self._writer: Any = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Open the file.

        Raises:
            AbsentHookError: no Probe is on the model.
        """
        report(self.model)
        self._writer = tf.summary.create_file_writer(self.log_dir)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Let statistics begin anew, if asked for; not at the end, so that `report` shows the last epoch."""
        if self.reset:
            for _, probe in kwrap.find_hooks(self.model, Probe):
                probe.reset()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write."""
        with self._writer.as_default(step=epoch):
            for each in report(self.model).statistics:
                if each.calls:
                    _write(each)
        self._writer.flush()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the file."""
        self._writer.close()


def _write(each: Statistics) -> None:
    own = "" if each.hook == "probe" else f"{each.hook}/"
    tag = f"{each.path}/{own}{each.name}"
    numbers = {
        "mean": each.mean,
        "spread": each.spread,
        "minimum": each.minimum,
        "maximum": each.maximum,
        "zeros": each.zero_share,
        "non_finite": float(each.non_finite),
    }
    for name, number in numbers.items():
        tf.summary.write(f"{tag}/{name}", tf.constant(number, tf.float32), metadata=_metadata("scalars"))
    if each.bins:
        edges = np.linspace(each.minimum, each.maximum, _BUCKETS + 1)
        buckets = np.stack([edges[:-1], edges[1:], each.histogram(_BUCKETS)], axis=1)
        tf.summary.write(tag, tf.constant(buckets, tf.float64), metadata=_metadata("histograms"))


def _metadata(plugin: str) -> Any:
    """Return what TensorBoard knows a tensor's kind by, as tf.summary.scalar and tf.summary.histogram write it.

    These need the package tensorboard, and a histogram's values, which are gone.
    """
    metadata = tf.compat.v1.SummaryMetadata()
    metadata.plugin_data.plugin_name = plugin
    metadata.data_class = 1 if plugin == "scalars" else 2  # scalar, tensor: of TensorBoard's DataClass
    return metadata
