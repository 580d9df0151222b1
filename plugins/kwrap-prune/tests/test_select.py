from collections.abc import Callable

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kwrap_prune import lowest, lowest_of_groups

EAGER = lowest
GRAPH = tf.function(lambda scores, count: lowest(scores, count))
XLA = tf.function(lambda scores, count: lowest(scores, count), jit_compile=True)
OF_GROUPS = [
    tf.function(lambda scores, size, count: lowest_of_groups(scores, size, count), jit_compile=jit_compile)
    for jit_compile in (False, True)
]
MODES = pytest.mark.parametrize("compute", [EAGER, GRAPH, XLA], ids=["eager", "graph", "xla"])

TINY, NORMAL = np.finfo(np.float32).smallest_subnormal, np.finfo(np.float32).smallest_normal
# Few values, so that ties are common; denormals, which float comparison may take for zeros; neighbours in the last bit.
VALUES = [
    0.0,
    TINY,
    2 * TINY,
    NORMAL - TINY,
    NORMAL,
    0.5,
    np.nextafter(np.float32(0.5), np.float32(1)),
    1.0,
    3e38,
    np.inf,
]
FLOATS = st.sampled_from(VALUES).flatmap(lambda value: st.sampled_from([value, -value]))
ANY_FLOATS = st.floats(width=32, allow_nan=False)


def reference(scores: np.ndarray, count: int) -> np.ndarray:
    """Sort, stably: float64 has no denormals among float32's values, so NumPy compares them all."""
    mask = np.zeros(scores.shape, bool)
    mask[np.lexsort((~np.signbit(scores), scores.astype(np.float64)))[:count]] = True  # -0 before 0
    return mask


@MODES
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_the_mask_is_that_of_a_stable_sort(compute, data):
    elements = data.draw(st.sampled_from([FLOATS, ANY_FLOATS]))
    dtype = data.draw(st.sampled_from([np.float32, np.float32, np.float16, ml_dtypes.bfloat16]))
    # Few lengths: XLA compiles each anew.
    scores = data.draw(hnp.arrays(np.float32, st.sampled_from([1, 2, 9, 40]), elements=elements))
    with np.errstate(over="ignore"):
        scores = scores.astype(dtype)
    count = data.draw(st.integers(0, scores.size))
    np.testing.assert_array_equal(compute(tf.constant(scores), tf.constant(count)), reference(scores, count))


@MODES
@pytest.mark.parametrize("count", [0, 1, 4_999, 5_000, 9_999, 10_000])
@pytest.mark.parametrize("scale", [1.0, 1e-40], ids=["normal", "denormal"])
def test_many_scores_at_the_counts_edges(compute, count, scale):
    scores = (np.random.default_rng(0).normal(size=10_000) * scale).astype(np.float32)
    np.testing.assert_array_equal(compute(tf.constant(scores), tf.constant(count)), reference(scores, count))


@MODES
def test_equal_scores_are_taken_in_order(compute):
    np.testing.assert_array_equal(compute(tf.ones([1000]), tf.constant(300)), np.arange(1000) < 300)


@MODES
def test_negative_scores_are_lower_than_positive_ones(compute):
    np.testing.assert_array_equal(compute(tf.constant([1.0, -2.0, 0.0, -1.0]), tf.constant(2)), [0, 1, 0, 1])


@MODES
def test_nan_is_higher_than_infinity(compute):
    scores = tf.constant([np.nan, np.inf, 1.0])
    np.testing.assert_array_equal(compute(scores, tf.constant(2)), [False, True, True])


@MODES
@pytest.mark.parametrize(("count", "expected"), [(-1, [False, False]), (3, [True, True])])
def test_a_count_beyond_the_scores_is_clipped(compute, count, expected):
    np.testing.assert_array_equal(compute(tf.constant([1.0, 2.0]), tf.constant(count)), expected)


@MODES
def test_a_count_of_zero_takes_nothing_not_even_what_is_lowest_of_all_bits(compute):
    scores = tf.bitcast(tf.constant([-1, 0], tf.int32), tf.float32)  # a NaN with a sign, and 0
    np.testing.assert_array_equal(compute(scores, tf.constant(0)), [False, False])
    np.testing.assert_array_equal(compute(scores, tf.constant(1)), [True, False])


@MODES
def test_no_scores_give_an_empty_mask(compute):
    assert compute(tf.zeros([0]), tf.constant(0)).shape == (0,)


@MODES
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_floating_dtypes_are_selected_as_exactly(compute, dtype):
    scores = np.random.default_rng(0).normal(size=999).astype(dtype)
    for count in (0, 1, 500, 998, 999):
        np.testing.assert_array_equal(compute(tf.constant(scores), tf.constant(count)), reference(scores, count))


def test_float64_is_compared_to_its_last_bit():
    scores = np.array([1.0, np.nextafter(1.0, 0.0), np.nextafter(1.0, 2.0)])
    np.testing.assert_array_equal(lowest(scores, 1), [False, True, False])


def test_one_trace_serves_every_layer_of_a_model_and_one_more_those_that_xla_compiles():
    weights = [keras.random.normal((size,), dtype="float32") for size in (3, 17, 170)]
    traced = []
    for jit_compile in (False, True, False, True):
        tf.function(lambda *each: [lowest(kernel, 2) for kernel in each], jit_compile=jit_compile)(*weights)
        traced.append(lowest.trace_count)
    assert traced[1] <= traced[0] + 1
    assert traced[1:] == traced[1:2] * 3


@pytest.mark.parametrize("jit_compile", [False, True])
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_the_lowest_of_groups_are_those_of_a_stable_sort_of_each(jit_compile, data):
    size, groups = data.draw(st.sampled_from([(1, 3), (2, 1), (4, 5), (5, 4)]))
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    scores = data.draw(hnp.arrays(np.float32, size * groups, elements=FLOATS)).astype(dtype)
    count = data.draw(st.integers(-1, size + 1))
    mask = OF_GROUPS[jit_compile](tf.constant(scores), size, count)
    expected = [reference(group, max(count, 0)) for group in scores.reshape(groups, size)]
    np.testing.assert_array_equal(mask, np.concatenate(expected))


def bytes_a_score(cost_of: Callable[[int], tuple[int, int]]) -> float:
    return (cost_of(2000)[1] - cost_of(1000)[1]) / 1000


def test_the_passes_over_the_scores_are_so_many_and_none_is_a_sort():
    def cost_of(length: int) -> tuple[int, int]:
        return lowest.cost(tf.TensorSpec([length]), 1)

    # In bytes a score, of float32: read 4, or two of 4, write 4, or a bool of 1.
    ordering = 8 + 8 + 12
    digit, histogram, same_digit, taking_them_out = 8, 4, 5, 1 + 4
    branching, all_ties, some_ties = 5, 5, 5 + 5 + 5 + 8 + 5 + 3 + 3
    selecting = digit + histogram + same_digit + taking_them_out
    assert bytes_a_score(cost_of) == ordering + selecting + branching + all_ties + some_ties
