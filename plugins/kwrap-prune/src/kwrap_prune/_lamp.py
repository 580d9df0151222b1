"""How sparse to make each layer, for a sparsity of them all."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kwrap.options import checked_number
from kwrap_prune._targets import chosen_targets, values_of

__all__ = ["lamp_sparsities"]


def lamp_sparsities(
    model: keras.Model,
    sparsity: float,
    *,
    where: Any = None,
    exclude: Any = None,
    recursive: bool = True,
    targets: Any = None,
) -> dict[str, float]:
    """Return a sparsity for each layer of a trained model, so that all of them together have `sparsity`: LAMP.

    A weight's score is its square, divided by the squares of the layer's weights that are not smaller, added up; the
    lowest scores of all layers go. So layers that have weights to spare are pruned more, small ones hardly, and none is
    emptied: Lee et al. 2021, Layer-adaptive sparsity for the magnitude-based pruning, https://arxiv.org/abs/2010.07611.
    `Prune` with these sparsities and its default criterion prunes the same weights; nothing is put on the model here.

    Args:
        model: a built Keras model. A pruned one counts with its masks.
        sparsity: the share of zeros in all these weights, in [0, 1). `round(sparsity * size)` of them are shared out;
            at most all but one of each layer.
        where: the layers, as `kwrap.wrap_model` takes them. Default: those that `Prune` takes.
        exclude: the layers to leave out, told in the same ways.
        recursive: whether to look into nested models and into layers that hold layers.
        targets: the weights of a layer, as `Prune` takes them. All those of one layer count as one here.

    Returns:
        By the layer's path, a float in [0, 1). NaN and infinite weights are none to prune.

    Raises:
        OptionValueError: the sparsity is not in [0, 1).
        RuleError: no layer is left.
        ModelTypeError: this is no Keras model.
        WrapperStateError: the model is not built.
    """
    sparsity = checked_number("lamp_sparsities", "sparsity", sparsity, least=0, below=1)
    weights: dict[str, list[Any]] = {}
    value_of = values_of(model)
    for path, target in chosen_targets(
        model, "lamp_sparsities", targets, where=where, exclude=exclude, recursive=recursive
    ):
        weights.setdefault(path, []).append(np.abs(value_of(target.variable).astype("float64")).ravel())
    sizes = [sum(part.size for part in parts) for parts in weights.values()]
    counts = _counts([_scores(np.concatenate(parts)) for parts in weights.values()], round(sparsity * sum(sizes)))
    return {path: count / size for path, count, size in zip(weights, counts, sizes, strict=True)}


def _scores(magnitudes: Any) -> Any:
    """Return the scores of all weights that may be pruned, lowest first."""
    finite = np.sort(magnitudes[np.isfinite(magnitudes)])
    squares = np.square(finite / (finite[-1:].max(initial=0) or 1))  # within [0, 1]: none overflows
    not_smaller = np.cumsum(squares[::-1])[::-1]
    scores = np.divide(squares, not_smaller, out=np.zeros_like(squares), where=not_smaller > 0)
    return scores if scores.size < magnitudes.size else scores[:-1]  # one stays


def _counts(scores: Sequence[Any], count: int) -> list[int]:
    """Return how many of each ascending array are among the `count` lowest of all; of ties, the earlier array's."""
    everyone = np.concatenate(scores)
    if not 0 < count < everyone.size:
        return [each.size if count else 0 for each in scores]
    threshold = np.partition(everyone, count - 1)[count - 1]
    below = [int(np.searchsorted(each, threshold, "left")) for each in scores]
    left = count - sum(below)
    for place, each in enumerate(scores):
        tied = min(int(np.searchsorted(each, threshold, "right")) - below[place], left)
        below[place], left = below[place] + tied, left - tied
    return below
