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

    A weight's score is its square, divided by the sum of its own and all squares of the tensor that are not smaller;
    the lowest scores of all tensors go. So layers that have weights to spare are pruned more, small ones hardly, and
    none is emptied: Lee et al. 2021, Layer-adaptive sparsity for the magnitude-based pruning,
    https://arxiv.org/abs/2010.07611. Nothing is put on the model here. With these sparsities and its default options
    `Prune` prunes those weights; of a layer with several tensors, as an LSTM, the same share of each.

    Args:
        model: a built Keras model. A pruned one counts with its masks; unwrap it before it is wrapped with the result.
        sparsity: the share of zeros in all these weights, in [0, 1). `round(sparsity * size)` of them are shared out;
            at most all but one of each tensor. A weight that several layers hold counts once.
        where: the layers, as `kwrap.wrap_model` takes them. Default: those that `Prune` takes. A frozen layer has its
            share, too, which no schedule advances: leave it out.
        exclude: the layers to leave out, told in the same ways.
        recursive: whether to look into nested models and into layers that hold layers.
        targets: the weights of a layer, as `Prune` takes them, which has to be given the same.

    Returns:
        By the layer's path, a float in [0, 1). NaN and infinite weights are none to prune.

    Raises:
        OptionValueError: the sparsity is not in [0, 1), or `targets` is neither names nor a function.
        RuleError: `where` or `exclude` names no layer, or none is left.
        TargetError: a layer has no weight of a name in `targets`: choose layers that have by `where`.
        ModelTypeError: this is no Keras model.
        WrapperStateError: the model is not built.
    """
    sparsity = checked_number("lamp_sparsities", "sparsity", sparsity, least=0, below=1)
    value_of = values_of(model)
    of_layers: dict[str, list[int]] = {}
    magnitudes: dict[int, Any] = {}
    for path, target in chosen_targets(
        model, "lamp_sparsities", targets, where=where, exclude=exclude, recursive=recursive
    ):
        of_layers.setdefault(path, []).append(id(target.variable))
        magnitudes[id(target.variable)] = np.abs(value_of(target.variable).astype("float64")).ravel()
    sizes = {variable: values.size for variable, values in magnitudes.items()}
    count = round(sparsity * sum(sizes.values()))
    pruned = dict(zip(sizes, _counts([_scores(values) for values in magnitudes.values()], count), strict=True))
    return {
        path: sum(pruned[each] for each in variables) / (sum(sizes[each] for each in variables) or 1)
        for path, variables in of_layers.items()
    }


def _scores(magnitudes: Any) -> Any:
    """Return the scores of all weights of a tensor that may be pruned, lowest first."""
    finite = np.sort(magnitudes[np.isfinite(magnitudes)])
    squares = np.square(finite)
    not_smaller = np.cumsum(squares[::-1])[::-1]
    scores = np.divide(squares, not_smaller, out=np.zeros_like(squares), where=not_smaller > 0)
    return scores if scores.size < magnitudes.size else scores[:-1]  # one stays


def _counts(scores: Sequence[Any], count: int) -> list[int]:
    """Return how many of each array are among the `count` lowest of all; of equal ones, the earlier array's."""
    owners = np.repeat(np.arange(len(scores)), [each.size for each in scores])
    lowest = owners[np.argsort(np.concatenate(scores), kind="stable")[:count]]
    return [int(number) for number in np.bincount(lowest, minlength=len(scores))]
