import keras
import numpy as np
import pytest

import kwrap
from kwrap.errors import AbsentHookError, OptionValueError
from kwrap_quantize import (
    FreezeRanges,
    QuantizeOutput,
    QuantizeWeights,
    RangeNotSeenError,
    calibrate,
    freeze_ranges,
    ranges,
    unfreeze_ranges,
)

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(12, 3)).astype("float32") * np.arange(1, 13)[:, None]
Y = GENERATOR.normal(size=(12, 2)).astype("float32")


def network():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(4, name="hidden"), keras.layers.BatchNormalization(name="norm")]
    model = keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(2, name="outputs")])
    kwrap.wrap_model(model, QuantizeWeights(), where=["hidden", "outputs"])
    kwrap.wrap_model(model, QuantizeOutput(range="last"), where=["norm", "outputs"])
    model.compile(keras.optimizers.SGD(0.05), "mse")
    return model


def fit(model, epochs=1, **options):
    model.fit(X, Y, batch_size=4, epochs=epochs, shuffle=False, verbose=0, **options)


def states(model):
    return [each.state for each in ranges(model).tensors if each.of == "outputs"]


def ends(model):
    return [(each.minimum, each.maximum) for each in ranges(model).tensors if each.of == "outputs"]


def test_frozen_ranges_stay_in_a_function_that_is_traced_already():
    model = network()
    fit(model)
    freeze_ranges(model)
    before = ends(model)
    fit(model)
    assert ends(model) == before
    assert states(model) == ["frozen", "frozen"]
    unfreeze_ranges(model)
    fit(model)
    assert ends(model) != before
    assert states(model) == ["moving", "moving"]


def test_ranges_that_have_seen_nothing_are_not_frozen():
    model = network()
    with pytest.raises(RangeNotSeenError, match="freeze_ranges: the ranges of 'norm', 'outputs'"):
        freeze_ranges(model)
    assert states(model) == ["not seen", "not seen"]


class Watch(keras.callbacks.Callback):
    """Note the states of the ranges after each step."""

    def __init__(self):
        super().__init__()
        self.states = []

    def on_train_batch_end(self, batch, logs=None):
        self.states.append(states(self.model)[0])


def test_the_callback_freezes_after_so_many_steps():
    watch = Watch()
    model = network()
    fit(model, epochs=2, callbacks=[FreezeRanges(after=4), watch])
    assert watch.states == ["moving"] * 3 + ["frozen"] * 3
    assert model.get_layer("norm").trainable


def test_a_run_that_goes_on_from_a_file_freezes_where_the_whole_would_have(tmp_path):
    whole = network()
    fit(whole, epochs=3, callbacks=[FreezeRanges(after=5)])
    model = network()
    fit(model, callbacks=[FreezeRanges(after=5)])
    model.save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    fit(model, callbacks=[FreezeRanges(after=5)])
    model.save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    assert states(model) == ["frozen", "frozen"]
    fit(model, callbacks=[FreezeRanges(after=5)])
    for one, other in zip(model.weights, whole.weights, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)


def test_calibrated_ranges_are_frozen_before_the_first_step_by_0():
    model = network()
    calibrate(model, X)
    before = ends(model)
    fit(model, callbacks=[FreezeRanges(after=0)])
    assert ends(model) == before


def test_batch_normalization_keeps_what_it_has_until_fit_ends_and_in_the_next_with_the_callback():
    model = network()
    norm = model.get_layer("norm")
    freeze = FreezeRanges(after=2, batch_normalization=True)
    fit(model, callbacks=[freeze])
    before = norm.get_weights()
    two = network()
    fit(two, callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: stop(two, batch))])
    for one, other in zip(before[:4], two.get_layer("norm").get_weights()[:4], strict=True):
        np.testing.assert_array_equal(one, other)
    fit(model, callbacks=[freeze])
    for one, other in zip(norm.get_weights()[:4], before[:4], strict=True):
        np.testing.assert_array_equal(one, other)
    fit(model)
    assert all((one != other).any() for one, other in zip(norm.get_weights()[:4], before[:4], strict=True))


def test_a_model_saved_after_batch_normalization_stood_still_goes_on_as_itself(tmp_path):
    model = network()
    model.compile(keras.optimizers.Adam(0.05), "mse")
    fit(model, callbacks=[FreezeRanges(after=2, batch_normalization=True)])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert int(loaded.optimizer.iterations) == 3
    fit(model)
    fit(loaded)
    for one, other in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)


def stop(model, batch):
    """Stop after the second batch."""
    if batch == 1:
        model.stop_training = True


def test_what_was_not_trained_before_is_not_afterwards():
    model = network()
    norm = model.get_layer("norm").layer
    norm.gamma.trainable = False
    fit(model, callbacks=[FreezeRanges(after=2, batch_normalization=True)])
    assert [variable.name for variable in norm.variables if variable.trainable] == ["beta"]


def test_a_bad_number_of_steps_and_a_model_without_ranges_are_refused():
    for options in ({"after": -1}, {"after": 1.5}, {"after": True}, {"after": 1, "batch_normalization": 1}):
        with pytest.raises(OptionValueError, match="FreezeRanges"):
            FreezeRanges(**options)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    for act in (freeze_ranges, unfreeze_ranges, lambda model: fit(model, callbacks=[FreezeRanges(1)])):
        with pytest.raises(AbsentHookError):
            act(model)
