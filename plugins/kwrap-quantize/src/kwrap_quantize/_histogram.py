"""What is seen of a tensor over many batches, and the ranges that are chosen from it."""

from typing import Any

import numpy as np

__all__ = ["Extremes", "Histogram"]

# On each side of zero.
_BINS = 4096
# A range below it is one of zeros.
_FIRST_EDGE = 2.0**-40
_CANDIDATES = np.linspace(0.02, 1.0, 99)
# Below it, bins are finer than the grid: errors of rounding can be told.
_FINEST_BITS = 10


class Extremes:
    """The least and the largest of all values that are added.

    Attributes:
        low: the least, or 0 if all are above.
        high: the largest, or 0 if all are below.
    """

    def __init__(self) -> None:
        self.low = self.high = 0.0

    def add(self, values: Any) -> None:
        """Look at the values of a flat array, all finite."""
        if values.size:
            self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))


class Histogram(Extremes):
    """Counts of values in equal bins between -edge and edge, a power of two that doubles as larger ones come."""

    def __init__(self) -> None:
        super().__init__()
        self._edge = _FIRST_EDGE
        self._counts = np.zeros(2 * _BINS, np.int64)

    def add(self, values: Any) -> None:
        """Count the values of a flat array, all finite."""
        super().add(values)
        while self._edge < max(-self.low, self.high):
            self._double()
        self._counts += np.histogram(values, bins=2 * _BINS, range=(-self._edge, self._edge))[0]

    def percentiles(self, percentile: float) -> tuple[float, float]:
        """Return the range that leaves out the share above `percentile` of 100, and the same share below.

        The ends are edges of bins: of 4096 on the way from zero to the power of two above the largest magnitude.
        """
        upto, edges = np.cumsum(self._counts), self._edges()
        left = upto[-1] * (1 - percentile / 100)
        # At 100 all count, whatever a sum rounds to.
        low = edges[np.searchsorted(upto, left, side="right")] if left >= 1 else self.low
        high = edges[np.searchsorted(upto, upto[-1] - left) + 1] if left >= 1 else self.high
        return float(np.clip(low, self.low, 0.0)), float(np.clip(high, 0.0, self.high))

    def least_error(self, bits: int, symmetric: bool) -> tuple[float, float]:
        """Return the range whose grid of 2**bits values has the least mean of squared errors.

        Tried are shares of the extremes, 0.02 to 1. Above 10 bits nothing is gained by clipping: the extremes.
        """
        low, high = self.low, self.high
        if bits > _FINEST_BITS or low == high:
            return low, high
        if symmetric:
            size = max(-low, high)
            ends = [(-size * share, size * share) for share in _CANDIDATES]
            return self._best(ends, bits)
        for _ in range(2):  # one end after the other, and once more
            low, high = self._best([(low, self.high * share) for share in _CANDIDATES], bits)
            low, high = self._best([(self.low * share, high) for share in _CANDIDATES], bits)
        return low, high

    def _best(self, ends: list[tuple[float, float]], bits: int) -> tuple[float, float]:
        edges = self._edges()
        used = self._counts > 0
        centres, counts = ((edges[1:] + edges[:-1]) / 2)[used], self._counts[used]
        errors = [_error(centres, counts, low, high, bits) if low < high else np.inf for low, high in ends]
        return ends[int(np.argmin(errors))]

    def _edges(self) -> Any:
        return np.linspace(-self._edge, self._edge, 2 * _BINS + 1)

    def _double(self) -> None:
        """Make two neighbouring bins one, on each side of zero."""
        pairs = self._counts.reshape(-1, 2).sum(1)
        self._counts = np.pad(pairs, _BINS // 2)
        self._edge *= 2


def _error(values: Any, counts: Any, low: float, high: float, bits: int) -> float:
    """Return the mean of the squared errors of rounding values, each counted so many times."""
    step = (high - low) / (2**bits - 1)
    least = np.round(low / step)
    rounded = np.clip(np.round(values / step), least, least + 2**bits - 1) * step
    return float(np.average((values - rounded) ** 2, weights=counts))
