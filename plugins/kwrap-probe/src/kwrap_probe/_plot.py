"""The histograms of a report as a picture."""

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kwrap
from kwrap.errors import MissingPackageError, OptionValueError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["save_plot"]

MOST = 60  # of histograms: with more, the picture is taller than what shows it
_COLUMNS = 4
_BINS = 40


def save_plot(report: Any, path: str | os.PathLike[str]) -> Path:
    """Write the picture of a report to a file; see `Report.plot`."""
    path = Path(path)
    if not path.parent.is_dir():
        raise OptionValueError("Report.plot", "path", str(path), "is in a folder that does not exist")
    figure = _drawn(report)
    kind = path.suffix[1:].lower() or "png"
    known = sorted(figure.canvas.get_supported_filetypes())
    if kind not in known:
        problem = f"has a suffix that matplotlib does not write; there are: {', '.join(known)}"
        raise OptionValueError("Report.plot", "path", str(path), problem)
    with kwrap.atomic_write(path) as unfinished:
        figure.savefig(unfinished, format=kind)
    return path


def _drawn(report: Any) -> "Figure":
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError("Report.plot", "matplotlib") from error
    shown = report.statistics[:MOST]
    rows = max(1, math.ceil(len(shown) / _COLUMNS))
    figure = Figure(figsize=(3 * _COLUMNS, 1.8 * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)  # no window, whatever the user's settings
    left_out = f", the first {MOST} of {len(report.statistics)}" if len(report.statistics) > MOST else ""
    figure.suptitle(_plain(f"{report.model}{left_out}"))
    for place, each in enumerate(shown):
        axes = figure.add_subplot(rows, _COLUMNS, place + 1)
        axes.set_title(_plain(f"{each.path}\n{each.name}"), fontsize=8)
        axes.tick_params(labelsize=7, left=False, labelleft=False)
        width = (each.maximum - each.minimum) / _BINS
        if each.calls:
            lefts = [each.minimum + width * index for index in range(_BINS)]
            axes.bar(lefts, each.histogram(_BINS), width or 1.0, align="edge")
            axes.axvline(each.mean, color="tab:red", linewidth=0.8)
        else:
            axes.set_axis_off()
            axes.text(0.5, 0.4, "no calls", ha="center", fontsize=8)
    return figure


def _plain(text: str) -> str:
    """Return text that matplotlib does not take for mathematics."""
    return text.replace("$", r"\$")
