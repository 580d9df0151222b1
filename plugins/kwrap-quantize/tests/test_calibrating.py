import keras
import numpy as np
import pytest
import tensorflow as tf

import kwrap
from kwrap.errors import AbsentHookError, OptionValueError
from kwrap_quantize import (
    CalibrationError,
    DataError,
    NonFiniteRangeError,
    QuantizeInput,
    QuantizeOutput,
    QuantizeWeights,
    calibrate,
    ranges,
    require_ranges,
)
from kwrap_quantize._histogram import Histogram

from .references import on_grid, on_symmetric_grid

GENERATOR = np.random.default_rng(0)
INPUTS = GENERATOR.normal(size=(96, 3)).astype("float32")


def network(**options):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="one"), keras.layers.Dense(2, name="two")])
    model.layers[0].bias.assign([1, -1, 2, 0])
    rules = [QuantizeInput(**options).at("one"), QuantizeWeights(2), QuantizeOutput(**options)]
    return kwrap.wrap_model(model, rules, where=["one", "two"])


def told(model):
    """Return (minimum, maximum) of each range of activations."""
    return {(each.path, each.of): (each.minimum, each.maximum) for each in ranges(model).tensors if each.of != "kernel"}


def of_float_model(model, inputs):
    """Return what the model's layers take and give without its hooks, by NumPy."""
    one, two = (layer.get_weights()[:2] for layer in kwrap.unwrap_model(kwrap.clone_model(model), merge=False).layers)
    hidden = inputs @ one[0] + one[1]
    return {("one", "inputs"): inputs, ("one", "outputs"): hidden, ("two", "outputs"): hidden @ two[0] + two[1]}


def test_ranges_are_those_of_the_model_in_float():
    model = network()
    report = calibrate(model, INPUTS)
    assert str(report) == str(ranges(model))
    require_ranges(model)
    found = told(model)
    for name, values in of_float_model(model, INPUTS).items():
        np.testing.assert_allclose(found[name], (values.min(), values.max()), rtol=1e-5)


def batched(inputs):
    return [(inputs[start : start + 24], np.zeros(24)) for start in range(0, len(inputs), 24)]


class Sequence(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return batched(INPUTS)[index % 4]


@pytest.mark.parametrize(
    "data",
    [
        tf.constant(INPUTS),
        tf.data.Dataset.from_tensor_slices(INPUTS).batch(40),
        tf.data.Dataset.from_tensor_slices((INPUTS, INPUTS)).batch(40),
        (INPUTS, np.zeros(96)),
        batched(INPUTS),
        iter(batched(INPUTS)),
        Sequence(),
    ],
    ids=["tensor", "dataset", "pairs", "x and y", "list", "generator", "PyDataset"],
)
def test_data_is_taken_as_it_comes(data):
    model, expected = network(), network()
    calibrate(model, data)
    calibrate(expected, INPUTS)
    for name, ends in told(expected).items():
        np.testing.assert_allclose(told(model)[name], ends, rtol=1e-5)


def test_so_many_batches_are_looked_at_as_steps_says():
    model = network()
    calibrate(model, batched(INPUTS), steps=2)
    np.testing.assert_allclose(told(model)["one", "inputs"], (INPUTS[:48].min(), INPUTS[:48].max()))


@pytest.mark.parametrize("form", [dict, list, tuple])
def test_models_of_several_inputs_take_a_dict_or_a_list(form):
    inputs = {name: keras.Input((3,), name=name) for name in ("a", "b")}
    model = keras.Model(inputs, keras.layers.Add(name="sum")([inputs["a"], inputs["b"]]))
    kwrap.wrap_model(model, QuantizeInput(tensors=2), where="sum")
    given = {"a": INPUTS, "b": 2 * INPUTS}
    if form is list:
        model = keras.Model(list(inputs.values()), model.output)
    calibrate(model, {dict: given, list: list(given.values()), tuple: (given, np.zeros(96))}[form])
    low, high = INPUTS.min(), INPUTS.max()
    np.testing.assert_allclose(told(model)["sum", "inputs 0"], (low, high))
    np.testing.assert_allclose(told(model)["sum", "inputs 1"], (2 * low, 2 * high))


def test_percentiles_leave_out_the_share_beyond_them():
    model, values = network(), np.tile(GENERATOR.normal(size=(2000, 1)).astype("float32"), 3)
    values[0] = 100
    calibrate(model, values, method="percentile", percentile=99)
    expected = np.percentile(values, [1, 99])
    np.testing.assert_allclose(told(model)["one", "inputs"], expected, atol=0.1)
    calibrate(model, values, method="percentile", percentile=100)
    np.testing.assert_allclose(told(model)["one", "inputs"], (values.min(), 100), rtol=1e-6)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [3, 4])
def test_the_least_squares_range_is_near_the_best_that_a_search_of_all_values_finds(bits, symmetric):
    values = GENERATOR.standard_t(3, size=(4000, 1)).astype("float32") + (0 if symmetric else 1)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Activation("linear", name="layer")])
    kwrap.wrap_model(model, QuantizeOutput(bits, symmetric=symmetric), where="layer")
    calibrate(model, values, method="mse")
    ends = told(model)["layer", "outputs"]

    def error(low, high):
        grid = on_symmetric_grid(values, high, bits, narrow=False) if symmetric else on_grid(values, low, high, bits)
        return np.mean((values - grid) ** 2)

    shares = np.linspace(0.05, 1, 60)
    lows = [-1.0] if symmetric else values.min() * shares
    size = np.abs(values).max() if symmetric else values.max()
    best = min(error(low, high) for low in lows for high in size * shares)
    assert error(*ends) < 1.05 * best
    assert best < 0.7 * error(values.min(), size)


def test_a_histogram_that_has_to_grow_counts_as_one_of_all_values():
    small, large = Histogram(), Histogram()
    values = np.concatenate([GENERATOR.normal(size=1000) * scale for scale in (1e-3, 1, 50)]).astype("float32")
    large.add(values[::-1])
    for part in np.split(values, 3):
        small.add(part)
    assert (small.low, small.high) == (large.low, large.high) == (values.min(), values.max())
    np.testing.assert_allclose(small.percentiles(95), large.percentiles(95), atol=0.05)
    np.testing.assert_allclose(small.percentiles(95), np.percentile(values, [5, 95]), atol=0.05)


def test_zeros_of_a_relu_count_and_the_lower_end_is_zero():
    histogram = Histogram()
    histogram.add(np.maximum(GENERATOR.normal(size=10000), 0))
    for ends in (histogram.percentiles(99.9), histogram.least_error(4, False)):
        assert ends[0] == 0
        assert ends[1] > 1


def test_values_that_are_not_finite_are_refused_and_nothing_has_changed():
    model = network()
    calibrate(model, INPUTS)
    before = told(model)
    broken = 10 * INPUTS
    broken[-1, 0] = np.nan
    with pytest.raises(NonFiniteRangeError, match="'one'"):
        calibrate(model, broken)
    assert told(model) == before


@pytest.mark.parametrize("data", [[], np.zeros((0, 3), "float32"), tf.data.Dataset.range(0)], ids=str)
def test_no_data_is_an_error(data):
    with pytest.raises(CalibrationError, match="the data gives no batch"):
        calibrate(network(), data)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ([INPUTS, INPUTS], "takes 1 inputs, and x has 2 arrays"),
        ((INPUTS, INPUTS, INPUTS, INPUTS), "a tuple of 4"),
        ({"a": INPUTS, "b": INPUTS}, "takes 1 inputs, and x has 2 arrays"),
        (None, "None is neither an array"),
        (np.float32(3), "neither an array"),
        ("file.npy", "neither an array"),
    ],
)
def test_arrays_that_the_model_does_not_take_are_refused(data, problem):
    model = network()
    with pytest.raises(DataError, match=problem):
        calibrate(model, data)
    assert {each.state for each in ranges(model).tensors} == {"not seen", "of weights"}


def test_arrays_of_different_lengths_are_refused():
    a, b = keras.Input((3,)), keras.Input((3,))
    model = keras.Model([a, b], keras.layers.Add(name="sum")([a, b]))
    kwrap.wrap_model(model, QuantizeOutput(), where="sum")
    with pytest.raises(DataError, match=r"different lengths: \[9, 96\]"):
        calibrate(model, [INPUTS, INPUTS[:9]])


def test_options_that_cannot_be_are_refused_and_a_model_without_ranges_too():
    for options in ({"method": "mean"}, {"percentile": 50}, {"percentile": 101}, {"steps": 0}, {"batch_size": 0}):
        with pytest.raises(OptionValueError, match=next(iter(options))):
            calibrate(network(), INPUTS, **options)
    with pytest.raises(AbsentHookError):
        calibrate(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), INPUTS)


def test_a_model_that_compiles_its_own_call_is_told_how():
    class Compiled(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2, name="dense")
            self.function = tf.function(lambda inputs: self.dense(inputs))

        def call(self, inputs):
            return self.function(inputs)

    model = Compiled()
    model(INPUTS[:2])
    kwrap.wrap_model(model, QuantizeOutput(), where="dense")
    with pytest.raises(CalibrationError, match="run_functions_eagerly"):
        calibrate(model, INPUTS)


def test_fixed_ranges_stay():
    model = network(range=(-2, 2))
    calibrate(model, INPUTS)
    assert set(told(model).values()) == {(-2, 2)}
