import keras
import numpy as np
import pytest
import tensorflow as tf

import kwrap
from kwrap.errors import AbsentHookError, OptionValueError
from kwrap_probe import NaNGuard, NoFloatingOutputsError, NonFiniteError, StopOnNonFinite, first_non_finite, reset

X = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")
Y = np.ones((16, 2), "float32")


@keras.saving.register_keras_serializable("test_guard")
class Root(keras.layers.Layer):
    """The square root: of a negative input NaN, and at zero of an infinite gradient."""

    def call(self, inputs):
        return keras.ops.sqrt(inputs)


def network() -> keras.Model:
    """Return a chain whose second layer is finite for what is positive only."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(3, kernel_initializer="identity", name="first"),
            Root(name="root"),
            keras.layers.Dense(3, name="third"),
            keras.layers.Dense(2, name="head"),
        ]
    )


def guarded(hook: kwrap.Hook | None = None, **options) -> keras.Model:
    model = network()
    kwrap.wrap_model(model, hook or NaNGuard())
    model.compile(keras.optimizers.SGD(0.0), "mse", **options)
    return model


POSITIVE = np.abs(X) + 1
NEGATIVE = np.where(np.arange(16)[:, None] == 9, -POSITIVE, POSITIVE)  # in the second of two batches of 8
ZERO = np.where(np.arange(16)[:, None] == 9, 0.0, POSITIVE).astype("float32")
HOWS = [{"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": True}]


@pytest.mark.parametrize("how", HOWS, ids=str)
def test_the_callback_names_the_layer_whose_output_is_the_first(how):
    model = guarded(**how)
    with pytest.raises(
        NonFiniteError, match=r"the output of layer 'root' is not finite in call 2 .*look at its"
    ) as told:
        model.fit(NEGATIVE, Y, batch_size=8, shuffle=False, verbose=0, callbacks=[StopOnNonFinite()])
    error = told.value
    assert (error.path, error.what, error.call, error.inputs_finite) == ("root", "output", 2, True)


@pytest.mark.parametrize("how", HOWS, ids=str)
def test_the_callback_names_the_layer_whose_outputs_gradient_is_the_first(how):
    # The root of zero is finite, its gradient infinite: that is the gradient of what the layer before gives.
    model = guarded(**how)
    with pytest.raises(NonFiniteError, match=r"the gradient of the output of layer 'first' .* in call 2"):
        model.fit(ZERO, Y, batch_size=8, shuffle=False, verbose=0, callbacks=[StopOnNonFinite()])


def test_training_stops_without_an_error_if_asked_so():
    model = guarded()
    callback = StopOnNonFinite(raises=False)
    history = model.fit(NEGATIVE, Y, batch_size=8, epochs=5, shuffle=False, verbose=0, callbacks=[callback])
    assert len(history.epoch) == 1
    assert callback.found == first_non_finite(model)
    assert callback.found.path == "root"


def test_of_several_batches_that_run_at_once_the_first_bad_one_is_named():
    model = guarded(steps_per_execution=4)
    inputs = np.concatenate([POSITIVE, NEGATIVE[8:], -POSITIVE[:8]])
    labels = np.ones((32, 2))
    with pytest.raises(NonFiniteError, match="layer 'root' is not finite in call 3"):
        model.fit(inputs, labels, batch_size=8, shuffle=False, verbose=0, callbacks=[StopOnNonFinite(every=1)])


def test_what_comes_into_the_first_layer_is_told_of():
    model = guarded()
    model.train_on_batch(np.full((4, 3), np.inf), Y[:4])
    found = first_non_finite(model)
    assert (found.path, found.inputs_finite) == ("first", False)
    assert str(found).endswith("neither are its inputs, so look before it")


def test_a_loss_that_is_not_finite_shows_in_the_last_layers_gradient():
    model = guarded()
    model.train_on_batch(POSITIVE, np.full((16, 2), np.nan))
    assert (first_non_finite(model).path, first_non_finite(model).what) == ("head", "gradient")


def test_finite_training_has_nothing_to_tell_and_reset_forgets():
    model = guarded()
    model.train_on_batch(POSITIVE, Y)
    assert first_non_finite(model) is None
    model.train_on_batch(NEGATIVE, Y)
    reset(model)
    assert first_non_finite(model) is None


def test_large_values_whose_sum_overflows_are_finite():
    model = guarded()
    model(np.full((4, 3), 3e38, "float32"), training=True)
    assert first_non_finite(model) is None  # the root of it is small


@pytest.mark.parametrize(("inputs", "path"), [(-POSITIVE, "output of layer 'root'"), (0 * X, "layer 'first'")])
def test_eagerly_it_raises_in_the_call_itself(inputs, path):
    model = guarded(NaNGuard(raises=True), run_eagerly=True)
    with pytest.raises(NonFiniteError, match=path):
        model.train_on_batch(inputs, Y)


# TensorFlow puts a backslash before quotes.
@pytest.mark.parametrize(("inputs", "path"), [(-POSITIVE, "output of layer .{1,3}root"), (0 * X, "layer .{1,3}first")])
def test_a_compiled_function_stops_with_the_same_sentence(inputs, path):
    model = guarded(NaNGuard(raises=True), jit_compile=False)
    with pytest.raises(tf.errors.InvalidArgumentError, match=path):
        model.train_on_batch(inputs, Y)


def test_under_xla_nothing_can_be_raised_and_it_is_noted():
    model = guarded(NaNGuard(raises=True), jit_compile=True)
    model.train_on_batch(-POSITIVE, Y)
    assert first_non_finite(model).path == "root"


def test_a_model_without_guards_is_an_error():
    model = network()
    with pytest.raises(AbsentHookError, match="nan_guard"):
        first_non_finite(model)
    model.compile("sgd", "mse")
    with pytest.raises(AbsentHookError, match="nan_guard"):
        model.fit(POSITIVE, Y, verbose=0, callbacks=[StopOnNonFinite()])


def test_a_layer_without_floating_outputs_is_an_error():
    class Ids(keras.layers.Layer):
        def call(self, inputs):
            return keras.ops.cast(inputs, "int32")

    with pytest.raises(NoFloatingOutputsError, match="'nan_guard' at 'ids'"):
        kwrap.Wrapper(Ids(name="ids"), [NaNGuard()])(X, training=True)


@pytest.mark.parametrize("options", [{"raises": 1}, {"every": 0}])
def test_options_that_cannot_be_are_errors(options):
    with pytest.raises(OptionValueError, match="StopOnNonFinite"):
        StopOnNonFinite(**options)
    with pytest.raises(OptionValueError, match="nan_guard: raises"):
        NaNGuard(raises=None)
