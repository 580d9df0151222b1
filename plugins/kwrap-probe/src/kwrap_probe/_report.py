"""Report: what the probes of a model have measured. Data, and shown as a table."""

import html
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kwrap.tables import Cell, Table, Tabular
from kwrap_probe._find import hooks_on
from kwrap_probe._hook import Probe, series
from kwrap_probe._measure import BIN_COUNT, Part, bin_edges, extremes
from kwrap_probe._plot import save_plot

__all__ = ["Report", "Statistics", "report"]

_COLUMNS = ("layer", "of", "calls", "mean", "spread", "minimum", "maximum", "zeros", "non-finite", "histogram")
_NUMBERS = _COLUMNS[2:-1]
_BARS = " ▁▂▃▄▅▆▇█"
_WIDTH, _HEIGHT = 24, 20  # of a histogram: bars, and pixels


@dataclass(frozen=True)
class Statistics:
    """What was measured of one thing.

    Attributes:
        path: the layer's.
        hook: the name of the probe.
        source: "inputs", "outputs", "output_gradients", "weights" or "weight_gradients".
        weight: the weight's name, or None.
        calls: the measured calls, of all replicas.
        non_finite: how many of the measured values are NaN or infinite.
        size: how many are finite; the rest is of these.
        minimum: the least of them.
        maximum: the greatest.
        mean: their mean.
        spread: their standard deviation.
        zeros: how many of them are zero.
        bins: (from, to, count) of each bin of the histogram from the first to the last with a count; none without
            histogram. A bin (0, 0) is of zeros.
    """

    path: str
    hook: str
    source: str
    weight: str | None
    calls: int
    size: int
    non_finite: int
    minimum: float
    maximum: float
    mean: float
    spread: float
    zeros: int
    bins: tuple[tuple[float, float, int], ...]

    @property
    def name(self) -> str:
        """What it is of, in short: "outputs", "kernel", "kernel_gradients"."""
        return series(self.source, self.weight)

    @property
    def zero_share(self) -> float:
        """The share of zeros, in [0, 1]."""
        return self.zeros / self.size if self.size else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            **vars(self),
            "name": self.name,
            "zero_share": self.zero_share,
            "bins": [list(bin) for bin in self.bins],
        }

    def histogram(self, count: int = _WIDTH) -> list[float]:
        """Return the histogram in `count` bins of equal width from the minimum to the maximum; zeros without one.

        Values count as spread evenly over the bins that they were counted in.
        """
        heights = np.zeros(count)
        width = (self.maximum - self.minimum) / count
        edges = self.minimum + width * np.arange(count + 1)
        for left, right, number in self.bins:
            left, right = max(left, self.minimum), min(right, self.maximum)
            if right > left and width > 0:
                heights += (
                    number
                    * np.clip(np.minimum(edges[1:], right) - np.maximum(edges[:-1], left), 0, None)
                    / (right - left)
                )
            else:  # zeros, or all values are one
                place = int((left - self.minimum) / width) if width > 0 else count // 2
                heights[min(max(place, 0), count - 1)] += number
        return [float(height) for height in heights]


@dataclass(frozen=True, repr=False)
class Report(Tabular):
    """What the probes of a model have measured, made by `report`; shown as a table by `print`, rich and notebooks.

    Attributes:
        model: the model's name.
        statistics: one for each thing that is watched, in the order of the model's layers.
    """

    model: str
    statistics: tuple[Statistics, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {"model": self.model, "statistics": [each.as_dict() for each in self.statistics]}

    def rows(self) -> list[tuple[str, ...]]:
        """Return (layer, of, calls, mean, spread, minimum, maximum, zeros, non-finite, histogram) as text."""
        return [(*_cells(each), _as_text(each)) for each in self.statistics]

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """Write the histograms to a file, and return its path.

        The path's suffix is the format, of those that matplotlib writes (.png, .pdf, .svg, ...); without one, PNG. The
        file appears as a whole, or, on a failure, not at all. Needs matplotlib, which is kwrap-probe's extra `plot`.

        Raises:
            OptionValueError: the folder is not there, or matplotlib has no such format.
            MissingPackageError: matplotlib is not installed.
        """
        return save_plot(self, path)

    def table(self) -> Table:
        """Return the statistics; in a notebook, histograms are drawn."""
        rows: list[tuple[str | Cell, ...]] = [
            (*_cells(each), Cell(_as_text(each), drawing=_svg(each))) for each in self.statistics
        ]
        return Table(f"what probes saw in {self.model}", _COLUMNS, rows, right=_NUMBERS)


def report(model: keras.Model) -> Report:
    """Return what the Probe hooks of `model` have measured since they were put on, or since `reset`.

    Raises:
        AbsentHookError: no Probe is on the model.
        ModelTypeError: this is no Keras model.
    """
    return Report(
        model.name,
        tuple(
            _statistics(path, hook.name, source, weight, keras.ops.convert_to_numpy(matrix.value)[row])
            for path, hook in hooks_on(model, Probe)
            for (source, weight), (matrix, row) in hook.places().items()
        ),
    )


def _statistics(path: str, hook: str, source: str, weight: str | None, vector: Any) -> Statistics:
    size = float(vector[Part.SIZE])
    minimum, maximum = extremes(vector)
    mean = float(vector[Part.TOTAL]) / size if size else 0.0
    mean_square = float(vector[Part.SQUARES]) / size if size else 0.0
    counts = vector[len(Part) :]
    return Statistics(
        path=path,
        hook=hook,
        source=source,
        weight=weight,
        calls=int(vector[Part.CALLS]),
        size=int(size),
        non_finite=int(vector[Part.VALUES] - vector[Part.SIZE]),
        minimum=minimum,
        maximum=maximum,
        mean=mean,
        spread=math.sqrt(max(mean_square - mean**2, 0.0)),
        zeros=int(vector[Part.ZEROS]),
        bins=_bins(counts, minimum, maximum) if len(counts) == BIN_COUNT else (),
    )


def _bins(counts: Any, minimum: float, maximum: float) -> tuple[tuple[float, float, int], ...]:
    edges = bin_edges()
    # The outermost ones take what is beyond them.
    edges[0, 0], edges[-1, 1] = min(edges[0, 0], minimum), max(edges[-1, 1], maximum)
    (places,) = np.nonzero(counts)
    if not len(places):
        return ()
    chosen = slice(places[0], places[-1] + 1)
    pairs = zip(edges[chosen].tolist(), counts[chosen].tolist(), strict=True)
    return tuple((left, right, int(count)) for (left, right), count in pairs)


def _cells(each: Statistics) -> tuple[str, ...]:
    """Return all cells of a row but the histogram."""
    of = each.name if each.hook == Probe.hook_name else f"{each.hook}: {each.name}"
    if not each.calls:
        return (each.path, of, "0", *("",) * 6)
    numbers = (f"{number:.3g}" for number in (each.mean, each.spread, each.minimum, each.maximum))
    return (each.path, of, str(each.calls), *numbers, f"{each.zero_share:.1%}", str(each.non_finite))


def _heights(each: Statistics) -> list[float]:
    """Return the heights of a histogram's bars, the highest 1; none without a count."""
    heights = each.histogram()
    highest = max(heights)
    return [height / highest for height in heights] if highest else []


def _as_text(each: Statistics) -> str:
    return "".join(_BARS[math.ceil(height * (len(_BARS) - 1))] for height in _heights(each))


def _svg(each: Statistics) -> str:
    """Return a histogram as a drawing in the page's own colour."""
    heights = _heights(each)
    if not heights:
        return ""
    steps = "".join(f"V{_HEIGHT * (1 - height):.2f}H{5 * (place + 1)}" for place, height in enumerate(heights))
    size = f'width="{5 * _WIDTH}" height="{_HEIGHT}" viewBox="0 0 {5 * _WIDTH} {_HEIGHT}"'
    told = html.escape(f"histogram from {each.minimum:.3g} to {each.maximum:.3g}")
    path = f'<path d="M0 {_HEIGHT}{steps}V{_HEIGHT}Z" fill="currentColor" fill-opacity="0.6"></path>'
    return f'<svg {size} role="img" aria-label="{told}"><title>{told}</title>{path}</svg>'
