"""Each structure against NumPy on kernels of several ranks: the matrix view is (inputs, outputs)."""

import keras
import numpy as np
import pytest

from kwrap import weight_targets
from kwrap_prune._structures import Blocks, Elements, Groups

LAYERS = {
    "Dense": (lambda: keras.layers.Dense(6), (8,)),
    "Conv2D": (lambda: keras.layers.Conv2D(6, (2, 2)), (5, 5, 4)),
    "EinsumDense": (lambda: keras.layers.EinsumDense("abc,cde->abde", (None, 2, 6)), (3, 8)),
    "Embedding": (lambda: keras.layers.Embedding(8, 6), ()),
    # The channels are of inputs and outputs: in the matrix they stand with the outputs.
    "DepthwiseConv2D": (lambda: keras.layers.DepthwiseConv2D((4, 2)), (5, 5, 6)),
}


@pytest.fixture(params=LAYERS)
def target(request):
    make, shape = LAYERS[request.param]
    layer = make()
    layer.build((None, *shape))
    return weight_targets(layer)[0]


def scores_of(target) -> tuple[np.ndarray, np.ndarray]:
    """Return few-valued scores, so that ties are common, and their matrix; of our layers the axes are in order."""
    scores = np.random.default_rng(0).integers(0, 9, target.shape).astype("float32")
    inputs = int(np.prod([target.shape[axis] for axis in target.input_axes]))
    assert target.input_axes == tuple(range(len(target.input_axes)))
    return scores, scores.reshape(inputs, -1)


def lowest_kept(scores: np.ndarray, count: int) -> np.ndarray:
    """Return the mask that a stable sort gives."""
    kept = np.ones(scores.size, bool)
    kept[np.argsort(scores.ravel(), kind="stable")[:count]] = False
    return kept.reshape(scores.shape)


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.999])
def test_elements_are_the_lowest_by_themselves(target, sparsity):
    scores, _ = scores_of(target)
    kept = Elements().kept(target, scores, sparsity)
    np.testing.assert_array_equal(kept, lowest_kept(scores, min(round(scores.size * sparsity), scores.size - 1)))


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.999])
@pytest.mark.parametrize("pooling", ["AVG", "MAX"])
@pytest.mark.parametrize("size", [(2, 3), (1, 6), (8, 1), (4, 2)])
def test_blocks_are_those_of_the_lowest_pooled_scores(target, size, pooling, sparsity):
    scores, matrix = scores_of(target)
    height, width = size
    rows, columns = matrix.shape[0] // height, matrix.shape[1] // width
    pool = {"AVG": np.mean, "MAX": np.max}[pooling]
    pooled = np.empty((rows, columns), "float32")
    for row, column in np.ndindex(rows, columns):
        pooled[row, column] = pool(matrix[row * height :, column * width :][:height, :width])
    kept = lowest_kept(pooled, min(round(pooled.size * sparsity), pooled.size - 1))
    expected = np.kron(kept, np.ones(size, bool)).reshape(target.shape)
    np.testing.assert_array_equal(Blocks(*size, pooling).kept(target, scores, sparsity), expected)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 4), (1, 2), (7, 8)])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_of_each_group_along_the_inputs_the_lowest_go(target, n, m, share):
    scores, matrix = scores_of(target)
    sparsity = share * (1 - n / m)
    expected = np.ones(matrix.shape, bool)
    for start in range(0, matrix.shape[0], m):
        for column in range(matrix.shape[1]):
            group = matrix[start : start + m, column]
            expected[start : start + m, column] = lowest_kept(group, round(m * sparsity))
    np.testing.assert_array_equal(Groups(n, m).kept(target, scores, sparsity), expected.reshape(target.shape))


def test_a_group_never_keeps_fewer_than_n(target):
    scores, _ = scores_of(target)
    kept = np.array(Groups(2, 4).kept(target, scores, 0.99))
    assert kept.mean() == 0.5


def test_what_does_not_divide_is_named_with_its_dimension(target):
    inputs, outputs = np.array(target.as_matrix(target.variable)).shape
    assert f"do not divide the {inputs} inputs of" in Blocks(inputs - 1, 1, "AVG").problem(target)
    assert f"do not divide the {outputs} outputs of" in Blocks(1, outputs - 1, "AVG").problem(target)
    assert f"groups of 3 do not divide the {inputs} inputs of" in (problem := Groups(1, 3).problem(target))
    assert f"as a matrix {inputs, outputs}: nothing is padded, so leave the layer out" in problem
    assert Blocks(inputs, outputs, "AVG").problem(target) is Groups(1, 8).problem(target) is None


@pytest.mark.parametrize("structure", [Elements(), Blocks(1, 1, "AVG"), Groups(4, 8)], ids=str)
def test_an_undefined_score_of_either_sign_is_the_highest(target, structure):
    scores, _ = scores_of(target)
    undefined = np.arange(scores.size).reshape(scores.shape) % 5 == 0
    scores[undefined] = np.copysign(np.float32("nan"), -1)  # as that of log(-1)
    assert np.signbit(scores[undefined]).all()
    assert np.array(structure.kept(target, scores, 0.5))[undefined].all()


def test_means_of_blocks_that_differ_in_less_than_bfloat16_tells_are_told_apart():
    value = np.ones((4, 2), "float32")
    value[0, 0] = 1.0078125  # the next bfloat16; the mean of its block of 2 x 2 is between two
    layer = keras.layers.Dense(2, use_bias=False, dtype="bfloat16")
    layer.build((None, 4))
    (target,) = weight_targets(layer)
    scores = keras.ops.cast(value, "bfloat16")
    kept = Blocks(2, 2, "AVG").kept(target, scores, 0.5)
    np.testing.assert_array_equal(kept, [[True, True]] * 2 + [[False, False]] * 2)
    kept = Blocks(2, 2, "AVG").kept(target, scores[::-1], 0.5)
    np.testing.assert_array_equal(kept, [[False, False]] * 2 + [[True, True]] * 2)
