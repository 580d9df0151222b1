"""The hook of spectral normalization."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

import kwrap
from kwrap.options import checked_bool, checked_int
from kwrap_norm._numbers import require_always, rounding, wide, wide_dtype

__all__ = ["SpectralNorm"]

# Power iterations when the hook is put on trained weights, so that the norm is near from the first call on.
_FIRST_ITERATIONS = 15
# Of squared norms, below which a vector has no direction.
_TINY = 1e-30


@kwrap.hook(layer_type=keras.layers.Layer)
class SpectralNorm(kwrap.Hook):
    """Divide each of a layer's weights by its spectral norm (Miyato et al. 2018, https://arxiv.org/abs/1802.05957).

    The norm is the largest singular value of the weight's matrix view, (inputs, outputs). Power iterations estimate it:
    two vectors a weight, `u` of its outputs and `v` of its inputs, are kept as state, and go on in training only. They
    begin with 15 iterations on the stored weight: how near the estimate then is depends on how far the two largest
    singular values are apart (2 to 3 % below for a random weight of 512 x 512); and where another hook changes the
    weight before this one, they begin with those of another weight. A weight of zeros stays as it is.

    A weight that is assigned, as `set_weights` does, has other vectors, and at inference a norm that is too small until
    training has gone on: the length of `v` times the matrix, never negative, and at least half of the root mean square
    of the singular values. `load_weights` of a file without the hook's state finds the vectors anew.

    Args:
        power_iterations: how many a training step, 1 or more.
        project: how training sees the norm. False: as in the paper, the stored weight keeps its own scale, is divided
            as the layer reads it, and gradients flow through the norm. True: as `keras.layers.SpectralNormalization`
            has it, the stored weight itself is divided, when the hook is put on and after each update, and gradients
            are those of the weight so divided. Keras divides at the beginning of the next step, so that between steps,
            and in files, its weight is not divided yet; and it takes the last axis for the outputs of every weight,
            which for kernels of Conv2DTranspose, DepthwiseConv2D and EinsumDense (of several output axes) is another
            matrix. Weights that are loaded from a model without the hook are read as they are until the next update, or
            saving; and the original weights are gone, also for `unwrap_model(merge=False)`.

    Raises:
        OptionValueError: an option has a value that it cannot have; or `phase` is not "always" with `project`, which
            has no other.
    """

    def __init__(self, power_iterations: int = 1, *, project: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.power_iterations = checked_int(self.hook_name, "power_iterations", power_iterations)
        self.project = checked_bool(self.hook_name, "project", project)
        if self.project:
            require_always(self)

    def build(self, layer: keras.Layer) -> None:
        """Create the singular vectors of each target."""
        for target in self.target_weights:
            rows = math.prod(target.shape[axis] for axis in target.input_axes)
            columns = math.prod(target.shape) // max(rows, 1)
            for name, size in (("u", columns), ("v", rows)):
                # Replicas iterate alike, from the same weights.
                self.add_state(target, name, (size,), dtype=wide_dtype(target.dtype), aggregation="only_first_replica")

    def initialize(self, layer: keras.Layer) -> None:
        """Find the singular vectors of the stored weights, from a fixed start: the same in every process."""
        for target in self.target_weights:
            u, v = self.state(target, "u"), self.state(target, "v")
            for vector in (u, v):
                start = np.random.default_rng(0).normal(size=tuple(vector.shape))
                vector.assign(start / np.linalg.norm(start))
            self._iterate(target, wide(target, target.variable.value), _FIRST_ITERATIONS)

    def parametrize(self, target: kwrap.WeightTarget, value: Any, *, training: Any) -> Any:
        """Return `value` divided by its norm; with `project`, the stored weight is divided already."""
        if self.project:
            return value
        full = wide(target, value)
        norm = self._iterate(target, full, self.power_iterations) if training else self._norm(target, full)
        return _divided(target, full, norm)

    def constrain(self, target: kwrap.WeightTarget, value: Any, *, step: Any) -> Any:
        """Return `value` divided by its norm, with `project`; iterate where it was updated."""
        if not self.project:
            return value
        full = wide(target, value)
        if step is not None:
            return _divided(target, full, self._iterate(target, full, self.power_iterations))
        norm = self._norm(target, full)
        # What is divided already stays, to the bit.
        return ops.where(ops.abs(norm - 1) <= rounding(target.dtype), value, _divided(target, full, norm))

    def _norm(self, target: kwrap.WeightTarget, value: Any) -> Any:
        """Return the norm by the vectors as they are: what the last training call had, of the same weight.

        Other weights may be at a right angle to the vectors. No spectral norm is below the root mean square of the
        singular values; one iteration from a random start finds more than half of it.
        """
        matrix = target.as_matrix(value)
        product = ops.matmul(ops.convert_to_tensor(self.state(target, "v")), matrix)
        floor = ops.sum(ops.square(matrix)) / (4 * max(1, min(matrix.shape)))
        # Above 0, where the root has a gradient.
        return ops.sqrt(ops.maximum(ops.maximum(ops.sum(ops.square(product)), floor), _TINY / 4))

    def _iterate(self, target: kwrap.WeightTarget, value: Any, count: int) -> Any:
        """Make power iterations, store the vectors, and return the norm; gradients see the vectors as constants."""
        matrix = target.as_matrix(value)
        u, v = (ops.convert_to_tensor(self.state(target, name)) for name in ("u", "v"))
        for _ in range(count):
            v = _unit(ops.stop_gradient(ops.matmul(matrix, u)), v)
            product = ops.matmul(v, matrix)
            u = _unit(ops.stop_gradient(product), u)
        self.state(target, "u").assign(u)
        self.state(target, "v").assign(v)
        return ops.sum(product * u)


def _unit(vector: Any, before: Any) -> Any:
    """Return `vector` at length 1; of zeros, `before`."""
    square = ops.sum(ops.square(vector))
    return ops.where(square > _TINY, vector * ops.rsqrt(ops.maximum(square, _TINY)), before)


def _divided(target: kwrap.WeightTarget, value: Any, norm: Any) -> Any:
    """Return `value` over `norm`, in the target's dtype; as it is where there is no norm."""
    return ops.cast(value / ops.where(norm > math.sqrt(_TINY), norm, 1.0), target.dtype)
