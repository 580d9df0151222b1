import keras
import numpy as np
import pytest
import tensorflow as tf

from kwrap_probe._measure import BIN_COUNT, Part, added, bin_edges, extremes, flat, measure, nothing, sampled

VALUES = np.random.default_rng(0).normal(2.0, 3.0, size=(40, 50)).astype("float32")
VALUES[:5] = 0.0


def measured(values, sample=None, histogram=False):
    (vector,) = measure(sample, histogram)(tf.reshape(tf.constant(values), [-1]), nothing(histogram))
    return np.array(vector)


def expected(values):
    finite = values[np.isfinite(values)].astype("float64")
    low, high = (finite.min(), finite.max()) if finite.size else (np.inf, -np.inf)
    sums = [finite.size, finite.sum(), (finite**2).sum(), np.sum(finite == 0), values.size]
    return np.array([-low, high, *sums, values.size > 0])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("broken", [[], [np.nan], [np.inf, -np.inf, np.nan]])
def test_a_vector_holds_what_numpy_computes(dtype, broken):
    values = VALUES.astype(dtype).reshape(-1)
    values[10 : 10 + len(broken)] = broken
    np.testing.assert_allclose(measured(values), expected(values), rtol=1e-12)


@pytest.mark.parametrize("values", [[], [np.nan, np.inf], [3e38, 3e38, 3e38], [1e-30, 3e-30]])
def test_empty_broken_huge_and_tiny_tensors_are_measured_too(values):
    values = np.array(values, "float32")
    np.testing.assert_allclose(measured(values), expected(values), rtol=1e-12)


def test_bfloat16_is_measured_as_the_float32_that_it_is():
    values = tf.cast(VALUES, tf.bfloat16)
    np.testing.assert_allclose(measured(values), expected(tf.cast(values, tf.float32).numpy()), rtol=1e-12)


def test_values_are_in_the_bins_whose_edges_they_are_between():
    values = np.array([-3.0, -1e-3, 0.0, -0.0, 1e-3, 1.0, 1.1, 1.25, 7.9, 1e-20, 1e20, -3e38, np.nan], "float32")
    counts = measured(values, histogram=True)[len(Part) :]
    left, right = bin_edges().T
    reference = np.zeros(BIN_COUNT)
    for value in values[np.isfinite(values)]:
        if value == 0:
            reference[BIN_COUNT // 2] += 1
        elif abs(value) > 1e10:
            reference[-1 if value > 0 else 0] += 1
        else:  # the edge that is nearer to zero belongs to a bin
            inside = (left <= value) & (value < right) if value > 0 else (left < value) & (value <= right)
            reference[np.flatnonzero(inside)] += 1
    np.testing.assert_array_equal(counts, reference)
    assert counts.sum() == 12


def test_bins_are_a_quarter_of_an_octave_each_and_in_order():
    edges = bin_edges()
    assert edges.shape == (BIN_COUNT, 2)
    assert np.all(edges[1:, 0] == edges[:-1, 1])
    from_one = edges[np.searchsorted(edges[:, 0], 1.0) :][:5]
    np.testing.assert_array_equal(from_one, [[1, 1.25], [1.25, 1.5], [1.5, 1.75], [1.75, 2], [2, 2.5]])


def test_what_two_vectors_make_is_the_vector_of_both_tensors():
    one, other = VALUES[:7], VALUES[7:]
    vectors = [measured(each, histogram=True) for each in (one, other, VALUES)]
    both = np.array(added(*map(tf.constant, vectors[:2])))
    both[Part.CALLS] = 1
    np.testing.assert_allclose(both, vectors[2], rtol=1e-12)


def test_nothing_and_a_vector_are_the_vector():
    vector = measured(VALUES - 100.0)  # whose extremes are far from those of nothing
    none = nothing(False)
    assert extremes(none) == (0, 0)
    for pair in ((none, vector), (vector, none)):
        np.testing.assert_array_equal(added(*map(tf.constant, pair)), vector)


def test_a_sample_is_from_all_over_and_follows_no_axis():
    # Of 12 channels each has a value of its own; a stride of a multiple of 2, 3 or 4 would miss some.
    values = np.tile(np.arange(12, dtype="float32"), 4000)
    vector = measured(values, sample=4096)
    assert (*extremes(vector), vector[Part.SIZE]) == (0, 11, 4096)
    # Four standard errors of a mean of 4096 values: an even spread is better than chance.
    assert abs(vector[Part.TOTAL] / 4096 - 5.5) < 4 * values.std() / 64
    assert abs(vector[Part.ZEROS] / 4096 - 1 / 12) < 0.02
    assert measured(np.arange(90_000, dtype="float32"), sample=1000)[Part.HIGH] > 89_000


@pytest.mark.parametrize("size", [101, 117, 150, 161, 166, 167, 200, 250])
def test_a_sample_takes_no_value_twice(size):
    values = bin_edges()[-size:, 0].astype("float32")  # each in a bin of its own
    counts = measured(values, 100, histogram=True)[len(Part) :]
    assert (counts.sum(), counts.max()) == (100, 1)


@pytest.mark.parametrize("size", [*range(4096, 4200), 5000, 6143, 6144, 6827, 8191, 123_457, 2**24 + 1])
def test_the_places_of_a_sample_rise_from_the_first_part_to_the_last(size):
    part = size / 4096
    (places,) = np.array(sampled([tf.range(size, dtype="float64")], 4096)[0])
    assert np.all(np.diff(places) > 0)
    assert np.all(np.abs(places - np.arange(4096) * part) <= part)


def test_a_sample_of_two_of_three_values_leaves_no_channel_of_three_out():
    (taken,) = np.array(sampled([tf.tile([0.0, 1.0, 2.0], [2048])], 4096)[0])
    assert np.bincount(taken.astype(int)).min() > 4096 / 4


def test_a_sample_at_a_multiple_of_the_channels_sees_all_channels():
    values = np.tile(np.arange(16, dtype="float32"), 400)  # 64 for each of the sample
    vector = measured(values, sample=100)
    assert extremes(vector) == (0, 15)
    assert abs(vector[Part.TOTAL] / 100 - 7.5) < 4 * values.std() / 10


def test_a_tensor_no_larger_than_the_sample_is_measured_whole():
    np.testing.assert_allclose(measured(VALUES, sample=VALUES.size), expected(VALUES), rtol=1e-12)


@pytest.mark.parametrize("values", [VALUES, np.where(VALUES > 5, np.nan, VALUES)], ids=["finite", "broken"])
def test_xla_measures_the_same(values):
    values = values.astype("float32").reshape(-1)
    kernel = measure(500, True)
    (compiled,) = tf.function(lambda: kernel(tf.constant(values), nothing(True)), jit_compile=True)()
    assert compiled.shape == nothing(True).shape
    np.testing.assert_allclose(compiled, measured(values, 500, True), rtol=1e-6)


@pytest.mark.parametrize(("tensors", "most"), [(1, 42), (3, 48), (7, 60)])
def test_a_measurement_takes_few_ops_and_no_branch(tensors, most):
    kernel, matrix = measure(1024, True), tf.TensorSpec([tensors * nothing(True).size], tf.float64)
    # Each op takes longer to start than a sample's values take.
    assert kernel.cost(*[tf.TensorSpec([10**6])] * tensors, matrix).ops <= most
    body = tf.function(lambda *given: kernel(*given)).get_concrete_function(*[tf.TensorSpec([9])] * tensors, matrix)
    (called,) = body.graph.as_graph_def().library.function
    assert {"If", "StatelessIf", "Where", "FloorDiv"}.isdisjoint(node.op for node in called.node_def)


def test_one_trace_serves_all_lengths():
    kernel = measure(77, False)
    for size in (3, 4, 500):
        kernel(tf.ones([size]), nothing(False))
    assert kernel.trace_count == 1


@pytest.mark.parametrize("sample", [None, 50])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_several_tensors_at_once_are_measured_as_each_alone(sample, dtype):
    values = VALUES.reshape(-1)
    parts = [values[:7], values[7:], values[:0], values, values[:50]]
    tensors = [tf.cast(part, dtype if place else "float32") for place, part in enumerate(parts)]
    matrix = measure(sample, True)(*tensors, np.tile(nothing(True), len(parts)))
    for vector, tensor in zip(matrix, tensors, strict=True):
        np.testing.assert_allclose(vector, measured(tensor, sample, True), rtol=1e-12)
        np.testing.assert_array_equal(vector[Part.SIZE :], measured(tensor, sample, True)[Part.SIZE :])


def test_tensors_of_several_dtypes_become_one_of_the_widest():
    tensors = [tf.ones([2, 2], tf.float16), tf.zeros([3], tf.bfloat16)]
    assert flat(tensors).dtype == tf.float32
    assert flat([*tensors, tf.ones([1], tf.float64)]).dtype == tf.float64
    assert keras.ops.convert_to_numpy(flat(tensors)).tolist() == [1.0] * 4 + [0.0] * 3
