import keras
import numpy as np
import pytest
import tensorflow as tf

import kwrap
from kwrap.errors import AbsentHookError, OptionValueError
from kwrap_probe import (
    NaNGuard,
    NoFloatingOutputsError,
    NonFiniteError,
    Probe,
    StopOnNonFinite,
    first_non_finite,
    report,
    reset,
)

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


class Inside(keras.layers.Layer):
    """Calls a layer in a branch, in a loop of three rounds, or in a compiled function within or around a branch."""

    def __init__(self, kind, **kwargs):
        super().__init__(**kwargs)
        self.inner, self.kind = keras.layers.Dense(3, kernel_initializer="identity", name="inner"), kind

    def call(self, inputs):
        function = tf.function(self.inner)
        return {
            "branch": lambda: _branch(inputs, self.inner),
            "function in branch": lambda: _branch(inputs, function),
            "branch in function": lambda: tf.function(lambda inputs: _branch(inputs, self.inner))(inputs),
            "loop": lambda: keras.ops.while_loop(
                lambda index, _: index < 3,
                lambda index, x: (index + 1, self.inner(x)),
                (0, inputs),
                maximum_iterations=3,
            )[1],
        }[self.kind]()


def _branch(inputs, call):
    return keras.ops.cond(keras.ops.sum(inputs) < 1e9, lambda: call(inputs), lambda: inputs * 2)


@pytest.mark.parametrize(
    ("kind", "times", "jit"),
    [
        ("branch", 1, False),
        ("loop", 3, False),
        ("loop", 3, True),
        ("function in branch", 1, False),
        ("branch in function", 1, False),
    ],
)
def test_layers_inside_of_branches_and_loops_train_and_are_looked_at(kind, times, jit):
    first = keras.layers.Dense(3, name="first")
    model = keras.Sequential([keras.Input((3,)), first, Inside(kind, name="outer")])
    probe = Probe(["output_gradients", "weight_gradients"], every=1, sample=None, histogram=False)
    kwrap.wrap_model(model, [probe, NaNGuard()], where="outer/*")
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=jit)
    model.train_on_batch(X, X)
    gradients = {each.name: each for each in report(model).statistics}["output_gradients"]
    expected = 2 * (np.array(first(X)) - X) / X.size  # the same in each round, as the kernel is the identity
    assert (gradients.calls, gradients.size) == (times, times * X.size)
    np.testing.assert_allclose(gradients.mean, expected.mean(), rtol=1e-4)
    np.testing.assert_allclose(gradients.maximum, expected.max(), rtol=1e-4)
    assert first_non_finite(model) is None
    model.train_on_batch(X, np.full((16, 3), np.nan))
    found = first_non_finite(model)
    # In a loop, the last round's gradient is computed first.
    assert (found.path, found.what, found.call) == ("outer/inner", "gradient", 2 * times)


@tf.custom_gradient
def of_nan(values):
    return tf.identity(values), lambda gradient: gradient * np.nan


@keras.saving.register_keras_serializable("kwrap_probe_guard")
class OfNan(keras.layers.Layer):
    """Let the gradient be NaN."""

    def call(self, inputs):
        return of_nan(inputs)


@pytest.mark.parametrize("how", [{"run_eagerly": True}, {"jit_compile": False}], ids=str)
def test_where_a_gradient_raises_no_weight_is_updated(how):
    layers = [keras.layers.Dense(500, name=f"dense_{number}") for number in range(4)]
    model = keras.Sequential([keras.Input((6,)), *layers, OfNan()])
    kwrap.wrap_model(model, NaNGuard(raises=True))
    model.compile("adam", "mse", **how)
    before = [np.array(variable) for variable in model.trainable_variables]
    with pytest.raises((NonFiniteError, tf.errors.InvalidArgumentError), match="gradient of"):
        model.train_on_batch(np.ones((4, 6)), np.ones((4, 500)))
    for variable, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_calls_are_counted_in_a_function_within_a_function():
    model = guarded()
    inner = tf.function(lambda inputs: model(inputs, training=True))

    @tf.function
    def outer(inputs, labels):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((inner(inputs) - labels) ** 2)
        return tape.gradient(loss, model.trainable_variables[0].value)

    for labels in (Y, Y * np.nan):
        outer(POSITIVE.astype("float32"), labels)
    assert (first_non_finite(model).path, first_non_finite(model).call) == ("head", 2)


def scaled(hook: kwrap.Hook) -> keras.Model:
    """Return a model whose scaled loss overflows in float16 in the first steps, as the scale is made for."""
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense(1, dtype="mixed_float16", name="dense")
    model = keras.Sequential([keras.Input((3,)), dense])
    kwrap.wrap_model(model, hook)
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.001)), "mse", jit_compile=False)
    return model


def test_gradients_of_a_scaled_loss_that_overflow_do_not_stop_and_outputs_do():
    model = scaled(NaNGuard())
    labels = np.full((16, 1), 20.0)
    history = model.fit(X, labels, batch_size=16, epochs=2, verbose=0, callbacks=[StopOnNonFinite()]).history
    assert len(history["loss"]) == 2
    assert first_non_finite(model) is None
    assert first_non_finite(model, gradients=True).what == "gradient"
    with pytest.raises(NonFiniteError, match="the output of layer 'dense'"):
        model.fit(X * np.nan, labels, verbose=0, callbacks=[StopOnNonFinite()])


def test_a_guard_that_is_to_let_gradients_through_raises_for_outputs_only():
    model = scaled(NaNGuard(raises=True, gradients=False))
    model.train_on_batch(X, np.full((16, 1), 20.0))
    assert first_non_finite(model, gradients=True) is None
    with pytest.raises(tf.errors.InvalidArgumentError, match="the output of layer"):
        model.train_on_batch(X * np.nan, np.ones((16, 1)))


def test_a_layer_that_is_called_twice_a_step_is_compared_by_steps():
    inputs = keras.Input((3,))
    shared = keras.layers.Dense(3, name="shared")
    model = keras.Model(inputs, keras.layers.Dense(1, name="head")(shared(shared(inputs))))
    kwrap.wrap_model(model, NaNGuard())
    model.compile("sgd", "mse", jit_compile=False)
    model.train_on_batch(X, Y[:, :1])
    shared.kernel.assign(np.full((3, 3), np.nan))
    model.train_on_batch(X, Y[:, :1])
    found = first_non_finite(model)
    assert (found.path, found.call, found.inputs_finite) == ("shared", 3, True)


class Backwards(keras.Model):
    """Has its layers in another order than it calls them."""

    def __init__(self):
        super().__init__()
        self.head, self.body = keras.layers.Dense(2, name="head"), keras.layers.Dense(3, name="body")

    def call(self, inputs, training=None):
        return self.head(self.body(inputs))


def test_of_gradients_the_layer_called_last_is_named_whatever_the_order_of_layers():
    model = Backwards()
    model(X)
    kwrap.wrap_model(model, NaNGuard())
    model.compile("sgd", "mse", jit_compile=False)
    model.train_on_batch(X, np.full((16, 2), np.nan))
    assert first_non_finite(model).path == "head"


class Untold(Backwards):
    """Does not tell its layers that they train."""

    def call(self, inputs):
        return self.head(self.body(inputs))


def test_a_model_whose_call_takes_no_training_is_warned_of():
    model = Untold()
    model(X)
    kwrap.wrap_model(model, NaNGuard())
    model.compile("sgd", "mse")
    with pytest.warns(UserWarning, match="no NaNGuard of model .* has counted a call .* argument training"):
        model.fit(X, Y, verbose=0, callbacks=[StopOnNonFinite()])


def test_the_last_batches_are_looked_at_too_and_a_callback_begins_anew_in_each_fit():
    model = guarded()
    callback = StopOnNonFinite(raises=False, every=10)
    model.fit(NEGATIVE, Y, batch_size=8, epochs=3, shuffle=False, verbose=0, callbacks=[callback])
    assert callback.found.path == "root"
    history = guarded().fit(POSITIVE, Y, batch_size=8, epochs=2, verbose=0, callbacks=[callback])
    assert (callback.found, len(history.epoch)) == (None, 2)


def test_all_arguments_are_looked_at_to_tell_whether_inputs_are_finite():
    class Both(keras.layers.Layer):
        def call(self, query, value):
            return query + value

    model = keras.Model(inputs := [keras.Input((3,)), keras.Input((3,))], Both(name="both")(*inputs))
    kwrap.wrap_model(model, NaNGuard())
    model([X, X * np.nan], training=True)
    assert not first_non_finite(model).inputs_finite


def test_reset_leaves_hooks_of_others_alone():
    @kwrap.hook(layer_type=keras.layers.Dense)
    class Mine(kwrap.Hook):
        """Has a method of the same name."""

        def reset(self):
            raise ZeroDivisionError

        def call(self, call_next, inputs):
            return call_next(inputs)

    model = kwrap.wrap_model(network(), Mine(), where="head")
    reset(model)
