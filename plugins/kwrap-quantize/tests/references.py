"""What the tests compare with: the grid of a quantized tensor, computed by NumPy in float64."""

import numpy as np


def on_grid(values, low, high, bits=8, narrow=False):
    """Return `values` on the affine grid of a range, whose ends are moved so that zero is on it (arXiv:1712.05877)."""
    least, most = int(narrow), 2**bits - 1
    low, high = np.float64(low), np.float64(high)
    step = (high - low) / (most - least)
    zero = np.floor(least - low / step + 0.5)
    integers = np.clip(np.floor(np.asarray(values, "float64") / step + 0.5), least - zero, most - zero)
    return integers * step


def on_symmetric_grid(values, size, bits=8, narrow=True):
    """Return `values` on the grid of integers with a sign; `size` is where the largest one is."""
    most = 2 ** (bits - 1) - 1
    step = np.asarray(size, "float64") / most
    return np.clip(np.round(np.asarray(values, "float64") / step), -most - (not narrow), most) * step


def inside(values, low, high, bits=8):
    """Return which values are not clipped."""
    step = (high - low) / (2**bits - 1)
    zero = np.floor(-low / step + 0.5)
    return (values >= -zero * step) & (values <= (2**bits - 1 - zero) * step)
