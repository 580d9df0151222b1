"""PruningHistory: how sparsity and metrics went while a model was trained, as data and as a plot."""

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

import kwrap
from kwrap.errors import AbsentHookError, MissingPackageError, OptionValueError
from kwrap.options import checked_int
from kwrap_prune._hook import Prune
from kwrap_prune._targets import pruned_targets, values_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PruningHistory", "PruningRecord"]

MOST_CURVES = 10  # of single layers: with more, none can be told from the others


@dataclasses.dataclass(frozen=True)
class PruningRecord:
    """How things stood at one moment.

    Attributes:
        step: the updates of the weights since the model was wrapped, as schedules count them; that of the furthest
            layer, for a frozen one's stands still.
        sparsity: the share of zeros in all weights that Prune hooks act on, with their masks, as `report` counts them.
        layers: the same of each layer, by its path.
        logs: the metrics, as Keras gives them to callbacks.
    """

    step: int
    sparsity: float
    layers: dict[str, float]
    logs: dict[str, float]


class PruningHistory(keras.callbacks.Callback):
    """Record the model's sparsity and metrics after training batches, and at each epoch's end with what it adds.

    `records` goes on growing if it is given to several `fit`s.

    Args:
        every: record after every so manieth batch. What `compile(steps_per_execution=...)` runs at once counts as one.

    Raises:
        OptionValueError: `every` is no positive int.
    """

    def __init__(self, every: int = 1) -> None:
        super().__init__()
        self.every = checked_int("PruningHistory", "every", every)
        self.records: list[PruningRecord] = []
        self._batches = 0
        self._recorded = -1  # after which batch the last record was made

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Raise if there is nothing to record.

        Raises:
            AbsentHookError: no Prune hook is on the model.
        """
        if not pruned_targets(self.model):
            present = {hook.name for _, hook in kwrap.find_hooks(self.model)}
            raise AbsentHookError(self.model.name, Prune.hook_name, sorted(present))

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Record, if it is time."""
        self._batches += 1
        if self._batches % self.every == 0:
            self._add(logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Record with the validation's metrics, in place of what was recorded after the last batch."""
        self._add(logs)

    def plot(self, path: str | os.PathLike[str], metric: str = "accuracy") -> Path:
        """Write the curves of sparsity and of `metric` over the steps to a file, and return its path.

        The path's suffix is the format, of those that matplotlib writes (.png, .pdf, .svg, ...); without one, PNG. The
        file appears as a whole, or, on a failure, not at all. Needs matplotlib, which is kwrap-prune's extra `plot`.

        Raises:
            OptionValueError: the metric was not recorded, the folder is not there, or matplotlib has no such format.
            MissingPackageError: matplotlib is not installed.
        """
        known = sorted({name for record in self.records for name in record.logs})
        if metric not in known:
            problem = f"was not recorded; there are: {', '.join(known) or 'no records at all'}"
            raise OptionValueError("PruningHistory.plot", "metric", metric, problem)
        path = Path(path)
        if not path.parent.is_dir():
            raise OptionValueError("PruningHistory.plot", "path", str(path), "is in a folder that does not exist")
        figure = _drawn(self.records, metric)
        kind = path.suffix[1:].lower() or "png"
        known = sorted(figure.canvas.get_supported_filetypes())
        if kind not in known:
            problem = f"has a suffix that matplotlib does not write; there are: {', '.join(known)}"
            raise OptionValueError("PruningHistory.plot", "path", str(path), problem)
        with kwrap.atomic_write(path) as unfinished:
            figure.savefig(unfinished, format=kind)
        return path

    def _add(self, logs: dict[str, Any] | None) -> None:
        if self._recorded == self._batches:
            self.records.pop()
        self.records.append(_record(self.model, logs))
        self._recorded = self._batches


def _record(model: keras.Model, logs: dict[str, Any] | None) -> PruningRecord:
    """Return how things stand now."""
    zeros: dict[str, int] = {}
    sizes: dict[str, int] = {}
    value_of = values_of(model)
    for path, target in pruned_targets(model):
        size = math.prod(target.shape)
        sizes[path] = sizes.get(path, 0) + size
        zeros[path] = zeros.get(path, 0) + size - int(np.count_nonzero(value_of(target.variable)))
    layers = {path: zeros[path] / size for path, size in sizes.items()}
    metrics = {name: float(value) for name, value in (logs or {}).items()}
    return PruningRecord(_step(model), sum(zeros.values()) / sum(sizes.values()), layers, metrics)


def _step(model: keras.Model) -> int:
    """Return how many updates the layer that has seen most of them has seen."""
    hooks = [hook for _, hook in kwrap.find_hooks(model, Prune)]
    return max(
        int(keras.ops.convert_to_numpy(hook.state(target, "step"))) // (hook.gradient_accumulation_steps or 1)
        for hook in hooks
        for target in hook.target_weights
    )


def _drawn(records: Sequence[PruningRecord], metric: str) -> "Figure":
    """Return the plot: sparsity by the axis on the left, the metric by that on the right."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError("PruningHistory.plot", "matplotlib") from error
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)  # no window, whatever the user's settings
    left = figure.add_subplot(xlabel="step", ylabel="sparsity", ylim=(0, 1))
    right = left.twinx()
    right.set_ylabel(metric)
    steps = [record.step for record in records]
    paths = list(dict.fromkeys(path for record in records for path in record.layers))
    for path in paths if 1 < len(paths) <= MOST_CURVES else []:
        left.plot(steps, [record.layers.get(path, math.nan) for record in records], linewidth=0.8, label=path)
    left.plot(steps, [record.sparsity for record in records], color="black", label="all")
    measured = [(record.step, record.logs[metric]) for record in records if metric in record.logs]
    right.plot(*zip(*measured, strict=True), color="tab:red", linestyle="--", marker=".", markersize=3, label=metric)
    figure.legend(loc="outside lower center", ncols=4)
    return figure
