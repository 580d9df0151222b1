"""What the benchmarks share: ways of doing the same, timed in turn, and tables of their ratios."""

import datetime
import gc
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["Ratio", "environment", "interleaved", "paired", "ratio", "ratios", "table", "target"]

Times = Mapping[str, Sequence[float]]


class Ratio(float):
    """A median of ratios; as text, with the quartiles."""

    def __new__(cls, values: Iterable[float]) -> "Ratio":
        """Take the median of `values`."""
        ratios = list(values)
        self = super().__new__(cls, statistics.median(ratios))
        self.quartiles = statistics.quantiles(ratios, n=4)[::2] if len(ratios) > 1 else ratios * 2
        return self

    def __str__(self) -> str:
        low, high = self.quartiles
        return f"{float(self):.4g} ({low:.3g} to {high:.3g})"


def interleaved(
    ways: Mapping[str, Callable[[], object]], repeats: int, turns: int = 1, *, freeze: bool = True
) -> dict[str, list[float]]:
    """Return the seconds that each way took in each repeat, in `turns` runs, after one run that does not count.

    The ways take turns, each round begins with another one, and the garbage collector waits: what else the machine
    does falls on all alike, the more so the shorter a run is. `freeze` hides what is there before from the collector,
    which else takes longer than a run to look at all of TensorFlow: not where objects are looked at.
    """
    times: dict[str, list[float]] = {name: [0.0] * repeats for name in ways}
    names = list(ways)
    for run in ways.values():
        run()
    gc.collect()
    if freeze:
        gc.freeze()
    for turn in range(repeats * turns):
        gc.collect()
        gc.disable()
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.perf_counter()
            ways[name]()
            times[name][turn // turns] += time.perf_counter() - start
        gc.enable()
    gc.unfreeze()
    return times


def ratios(times: Times, name: str, to: str) -> list[float]:
    """Return how long one way takes in relation to another, in each repeat."""
    return [one / other for one, other in zip(times[name], times[to], strict=True)]


def ratio(times: Times, name: str, to: str) -> Ratio:
    """Return how long one way takes in relation to another, by the ratios of each repeat."""
    return Ratio(ratios(times, name, to))


def paired(pairs: Sequence[tuple[Callable[[], object], Callable[[], object]]], repeats: int, turns: int = 1) -> Ratio:
    """Return how long the second of each pair takes in relation to its first, by the ratios of each in each repeat."""
    # The two of a pair are no neighbours, unless it is the only one: none finds in the caches what the other has left.
    ways = {f"{which} {n}": pair[which] for which in (0, 1) for n, pair in enumerate(pairs)}
    times = interleaved(ways, repeats, turns)
    return Ratio(each for n in range(len(pairs)) for each in ratios(times, f"1 {n}", f"0 {n}"))


def target(what: str, measured: float, limit: float) -> list[str]:
    """Return a row of a table of targets; `measured` is to be at most `limit`."""
    return [what, f"≤ {limit:g}", str(measured), "yes" if measured <= limit else "**no**"]


TARGETS = ("", "target", "measured", "met")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def environment(*packages: str) -> str:
    """Return where and when this is measured, and with which versions."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    machine = f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores"
    return f"{datetime.date.today()}; {versions}, Python {platform.python_version()}; {machine}"
