"""Which weights go together: single ones, blocks, or so many of each group."""

import abc
import dataclasses
import math
from typing import Any, Literal

import keras

import kwrap
from kwrap_prune._select import lowest, lowest_of_groups

__all__ = ["Blocks", "Elements", "Groups", "Structure", "highest"]


class Structure(abc.ABC):
    """Which weights of a target are pruned together, given a score for each."""

    @abc.abstractmethod
    def kept(self, target: kwrap.WeightTarget, scores: Any, sparsity: Any) -> Any:
        """Return a bool mask of the target's shape, False where the scores are lowest; `sparsity` is a float64."""

    def problem(self, target: kwrap.WeightTarget) -> str | None:
        """Return why the target cannot be pruned so, if it cannot."""
        return None


@dataclasses.dataclass(frozen=True)
class Elements(Structure):
    """Each weight by itself: of n, `round(sparsity * n)` are pruned (half to even), but one always stays."""

    def kept(self, target: kwrap.WeightTarget, scores: Any, sparsity: Any) -> Any:
        """Return the mask; ties take the earlier index."""
        return keras.ops.reshape(highest(keras.ops.reshape(scores, (-1,)), sparsity), target.shape)


@dataclasses.dataclass(frozen=True)
class Blocks(Structure):
    """Blocks of (height, width) in the target's matrix of (inputs, outputs).

    A block's score is the mean ("AVG") or the maximum ("MAX") of its weights' scores. Of n blocks,
    `round(sparsity * n)` are pruned, but one always stays.
    """

    height: int
    width: int
    pooling: Literal["AVG", "MAX"]

    def kept(self, target: kwrap.WeightTarget, scores: Any, sparsity: Any) -> Any:
        """Return the mask; ties take the earlier block, row by row."""
        rows, columns = _matrix_shape(target)
        grid = rows // self.height, columns // self.width
        blocks = keras.ops.reshape(target.as_matrix(scores), (grid[0], self.height, grid[1], self.width))
        if self.pooling == "AVG":
            # In float32 at least: in 16 bits, means that differ are rounded to the same.
            wide = keras.backend.result_type(blocks.dtype, "float32")
            scores = keras.ops.mean(keras.ops.cast(blocks, wide), axis=(1, 3))
        else:
            scores = keras.ops.max(blocks, axis=(1, 3))
        kept = highest(keras.ops.reshape(scores, (-1,)), sparsity)
        spread = keras.ops.broadcast_to(keras.ops.reshape(kept, (grid[0], 1, grid[1], 1)), blocks.shape)
        return target.from_matrix(keras.ops.reshape(spread, (rows, columns)))

    def problem(self, target: kwrap.WeightTarget) -> str | None:
        """Return which dimension the blocks do not divide."""
        rows, columns = _matrix_shape(target)
        block = f"blocks of {self.height} x {self.width} do not divide"
        if rows % self.height:
            return f"{block} the {rows} inputs of {_described(target)}"
        if columns % self.width:
            return f"{block} the {columns} outputs of {_described(target)}"
        return None


@dataclasses.dataclass(frozen=True)
class Groups(Structure):
    """N:M sparsity: of each group of M weights, consecutive along the inputs, N stay.

    Below the final sparsity 1 - N / M, `round(sparsity * M)` of each group are pruned. Zhou et al.,
    https://arxiv.org/abs/2102.04010, and on the way there Kao et al., https://arxiv.org/abs/2209.07617.
    """

    n: int
    m: int

    def kept(self, target: kwrap.WeightTarget, scores: Any, sparsity: Any) -> Any:
        """Return the mask; ties take the earlier input."""
        rows, columns = _matrix_shape(target)
        by_output = _ranked(keras.ops.reshape(keras.ops.transpose(target.as_matrix(scores)), (-1,)))
        pruned = keras.ops.minimum(keras.ops.round(self.m * keras.ops.cast(sparsity, "float64")), self.m - self.n)
        kept = keras.ops.logical_not(lowest_of_groups(by_output, self.m, keras.ops.cast(pruned, "int32")))
        return target.from_matrix(keras.ops.transpose(keras.ops.reshape(kept, (columns, rows))))

    def problem(self, target: kwrap.WeightTarget) -> str | None:
        """Return that groups do not divide the inputs, if so."""
        rows, _ = _matrix_shape(target)
        if rows % self.m:
            return f"groups of {self.m} do not divide the {rows} inputs of {_described(target)}"
        return None


def highest(scores: Any, sparsity: Any) -> Any:
    """Return a bool mask, False at the lowest of the flat `scores`: a share of them, but one always stays."""
    # In float64: the number of weights to prune, size times this, is then exact at any size.
    size = keras.ops.cast(keras.ops.size(scores), "float64")
    count = keras.ops.minimum(keras.ops.round(size * keras.ops.cast(sparsity, "float64")), size - 1)
    return keras.ops.logical_not(lowest(_ranked(scores), keras.ops.cast(count, "int32")))


def _ranked(scores: Any) -> Any:
    """Return the scores with NaN as the highest: that of log(-1) has a sign, and would be the lowest."""
    return keras.ops.where(keras.ops.isnan(scores), float("inf"), scores)


def _matrix_shape(target: kwrap.WeightTarget) -> tuple[int, int]:
    """Return the shape of `target.as_matrix`, where axes of inputs and outputs at once stand with the outputs."""
    rows = math.prod(target.shape[axis] for axis in target.input_axes)
    return rows, math.prod(size for axis, size in enumerate(target.shape) if axis not in target.input_axes)


def _described(target: kwrap.WeightTarget) -> str:
    return (
        f"{target.name!r}, whose shape is {target.shape} and as a matrix {_matrix_shape(target)}: "
        "nothing is padded, so leave the layer out, or prune it in another way"
    )
