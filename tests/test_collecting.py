import contextlib
import itertools
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import kwrap
from kwrap import errors

from . import composites, specimens
from .specimens import Idle, branched, data, same, sequential


@kwrap.hook(layer_type=keras.layers.Layer, name="collecting_outputs")
class Outputs(kwrap.Hook):
    """Emit what the layer gives."""

    def call(self, call_next, inputs):
        outputs = call_next(inputs)
        self.emit("outputs", outputs)
        return outputs


@kwrap.hook(layer_type=keras.layers.Dense, name="collecting_both")
class Both(kwrap.Hook):
    """Emit what goes in and what comes out, under two names, and the weights as read."""

    def call(self, call_next, inputs):
        self.emit("inputs", inputs)
        outputs = call_next(inputs)
        self.emit("outputs", outputs)
        return outputs

    def parametrize(self, target, value):
        self.emit("weights", {"kernel": (value, 2.0)})
        return value * 0.5


def features(model: keras.Model, *names: str) -> Callable[[Any], list[Any]]:
    """Return a function to the outputs of bare layers, as Keras extracts them."""
    extractor = keras.Model(model.input, [model.get_layer(name).output for name in names])
    return lambda inputs: keras.tree.flatten(extractor(inputs))


def functional() -> keras.Model:
    """Return a model of (n, 4) to (n, 2)."""
    inputs = keras.Input((4,), name="inputs")
    hidden = keras.layers.Dense(3, activation="tanh", name="first")(inputs)
    return keras.Model(inputs, keras.layers.Dense(2, name="last")(hidden), name="plain")


def batch(count: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and targets of `functional`."""
    generator = np.random.default_rng(4)
    return generator.normal(size=(count, 4)).astype("float32"), generator.normal(size=(count, 2)).astype("float32")


# --- calls -----------------------------------------------------------------------------------------------------------


def test_a_call_gives_one_value_for_each_layer_under_its_path():
    model = functional()
    expected = features(model, "first", "last")(batch()[0])
    kwrap.wrap_model(model, Outputs)
    with kwrap.collect(model, "outputs") as found:
        assert found == {}
        model(batch()[0])
    assert list(found) == ["first", "last"]
    assert same(list(found.values()), [[value] for value in expected])


def test_values_come_in_the_order_of_the_calls_and_stay_after_the_context():
    model = kwrap.wrap_model(functional(), Outputs, where="last")
    inputs = batch()[0]
    with kwrap.collect(model, "outputs") as found:
        outputs = [model(inputs * factor) for factor in (1.0, 2.0, 3.0)]
    model(inputs)
    assert same(found["last"], outputs)


def test_a_layer_that_is_called_twice_gives_a_value_for_each_call():
    model = branched()
    inputs, _ = data(model)
    shared = model.get_layer("shared")
    expected = [shared(inputs["left"]), shared(inputs["right"])]
    kwrap.wrap_model(model, Outputs, where="shared")
    with kwrap.collect(model, "outputs") as found:
        model(inputs)
    assert same(found, {"shared": expected})


def test_each_name_is_collected_by_itself_and_values_may_be_nested():
    model = functional()
    kernel = np.array(model.get_layer("last").kernel)
    kwrap.wrap_model(model, Both, where="last")
    inputs = batch()[0]
    with kwrap.collect(model, "inputs") as entering, kwrap.collect(model, "weights") as weights:
        with kwrap.collect(model, "outputs") as leaving:
            outputs = model(inputs)
        again = model(inputs)
    assert same(leaving, {"last": [outputs]})
    assert same(entering, {"last": features(model, "first")(inputs) * 2})
    assert same(weights, {"last": [{"kernel": (kernel, np.float64(2.0))}] * 2})
    assert same(again, outputs)


def test_two_collectors_of_one_name_both_get_the_values():
    model = kwrap.wrap_model(functional(), Outputs)
    inputs = batch()[0]
    with kwrap.collect(model, "outputs") as outer:
        model(inputs)
        with kwrap.collect(model, "outputs") as inner:
            model(inputs)
    assert {path: len(values) for path, values in outer.items()} == {"first": 2, "last": 2}
    assert {path: len(values) for path, values in inner.items()} == {"first": 1, "last": 1}


@pytest.mark.parametrize("make", composites.MODELS.values(), ids=composites.MODELS)
def test_hooks_inside_composites_and_classes_emit_under_the_paths_of_the_model(make):
    model = kwrap.wrap_model(make(), Outputs, where=keras.layers.Dense)
    with kwrap.collect(model, "outputs") as found:
        model(composites.inputs())
    called = {path for path, _ in kwrap.find_hooks(model) if "beside" not in path}
    assert set(found) == called
    for path, layer in ((place, hook) for place, hook in kwrap.find_hooks(model) if place in called):
        assert layer.path == path


def test_what_a_part_of_the_model_emits_is_collected_under_paths_in_that_part():
    model = branched()
    inputs, _ = data(model)
    kwrap.wrap_model(model, Outputs, where=["encoder/inner", "first"])
    with kwrap.collect(model.get_layer("encoder"), "outputs") as part, kwrap.collect(model, "outputs") as whole:
        model(inputs)
    assert list(part) == ["inner"]
    assert set(whole) == {"encoder/inner", "first"}
    assert same(part["inner"], whole["encoder/inner"])


def test_hooks_of_other_models_are_not_collected():
    one, other = (kwrap.wrap_model(functional(), Outputs) for _ in range(2))
    with kwrap.collect(one, "outputs") as found:
        other(batch()[0])
    assert found == {}


def test_a_bypassed_hook_and_one_that_is_not_in_its_phase_emit_nothing():
    model = kwrap.wrap_model(functional(), [Outputs().at("first"), Outputs(phase="training").at("last")])
    with kwrap.collect(model, "outputs") as found:
        with kwrap.bypass(model, Outputs):
            model(batch()[0], training=True)
        assert found == {}
        model(batch()[0])
        assert list(found) == ["first"]
        model(batch()[0], training=True)
    assert {path: len(values) for path, values in found.items()} == {"first": 2, "last": 1}


def test_gradients_flow_through_what_was_collected():
    model = functional()
    inputs, kernel = batch()[0], model.get_layer("first").kernel
    bare = features(model, "first")

    def gradient(call: Callable[[], Any]) -> Any:
        with tf.GradientTape() as tape:
            loss = keras.ops.sum(call() ** 2)
        return tape.gradient(loss, kernel.value)

    def collected() -> Any:
        with kwrap.collect(model, "outputs") as found:
            model(inputs)
        return found["first"][0]

    expected = gradient(lambda: bare(inputs)[0])
    kwrap.wrap_model(model, Outputs)
    assert same(gradient(collected), expected)


def test_the_symbolic_calls_of_keras_give_no_values():
    model = kwrap.wrap_model(composites.in_graph(), Outputs, where=keras.layers.Dense)
    with kwrap.collect(model, "outputs") as found:
        above = keras.Model(model.input, keras.layers.Dense(1)(model.output))
        model.get_layer("pair")(keras.Input((5, 4)))
        assert found == {}
        above(composites.inputs())
    assert set(found) == {path for path, _ in kwrap.find_hooks(model)}


def test_another_thread_collects_by_itself():
    model = kwrap.wrap_model(functional(), Outputs, where="last")
    inputs, results = batch()[0], {}
    both_open = threading.Barrier(2)

    def work(factor: float) -> None:
        with kwrap.collect(model, "outputs") as found:
            both_open.wait()
            output = model(inputs * factor)
            both_open.wait()
        results[factor] = found, output

    threads = [threading.Thread(target=work, args=(factor,)) for factor in (1.0, 2.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for found, output in results.values():
        assert same(found, {"last": [output]})
    assert len(results) == 2


def test_contexts_of_two_threads_that_overlap_leave_the_model_compiled_when_both_are_closed():
    model = functional()
    model.compile("sgd", "mse")
    kwrap.wrap_model(model, Outputs, where="last")
    opened, to_close = threading.Event(), threading.Event()

    def hold() -> None:
        with kwrap.collect(model, "outputs"):
            opened.set()
            to_close.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    opened.wait()
    with kwrap.collect(model, "outputs") as found:
        to_close.set()
        thread.join()
        assert model.run_eagerly
        model.predict(batch()[0], verbose=0)
    assert len(found["last"]) == 1
    assert not model.run_eagerly


def test_a_model_without_hooks_gives_nothing():
    model = functional()
    with kwrap.collect(model, "outputs") as found:
        model(batch()[0])
    assert found == {}


# --- fit, evaluate, predict ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"jit_compile": True}, {"steps_per_execution": 2}, {"run_eagerly": True}])
def test_predict_gives_a_value_for_each_batch_also_after_it_was_traced(options):
    model = functional()
    model.compile("sgd", "mse", **options)
    inputs = batch()[0]
    bare = features(model, "first")
    kwrap.wrap_model(model, Outputs)
    before = model.predict(inputs, batch_size=4, verbose=0)
    with kwrap.collect(model, "outputs") as found:
        inside = model.predict(inputs, batch_size=4, verbose=0)
    assert same(inside, np.concatenate(found["last"]))
    assert same(found["first"], [bare(inputs[:4])[0], bare(inputs[4:])[0]])
    np.testing.assert_allclose(inside, before, rtol=1e-5)  # XLA's own order of sums
    assert same(model.predict(inputs, batch_size=4, verbose=0), before)
    assert len(found["last"]) == 2


@pytest.mark.parametrize("use", ["fit", "evaluate", "train_on_batch"])
def test_training_and_evaluating_give_a_value_for_each_step(use):
    model = functional()
    model.compile(keras.optimizers.SGD(0.0), "mse")
    inputs, targets = batch()
    options = {} if use == "train_on_batch" else {"batch_size": 4, "verbose": 0}
    if use == "fit":
        options["shuffle"] = False
    kwrap.wrap_model(model, Outputs, where="last")
    outputs = np.asarray(model(inputs))
    getattr(model, use)(inputs, targets, **options)  # traced
    with kwrap.collect(model, "outputs") as found:
        getattr(model, use)(inputs, targets, **options)
    assert len(found["last"]) == (1 if use == "train_on_batch" else 2)
    assert np.allclose(np.concatenate(found["last"]), outputs)


def test_training_goes_on_inside_the_context_as_outside_of_it():
    def trained(collect: Callable[..., Any]) -> list[np.ndarray]:
        keras.utils.set_random_seed(2)
        model = functional()
        model.compile(keras.optimizers.Adam(0.1), "mse", run_eagerly=True)
        kwrap.wrap_model(model, Outputs)
        with collect(model, "outputs"):
            model.fit(*batch(), epochs=2, batch_size=4, verbose=0)
        model.fit(*batch(), epochs=2, batch_size=4, verbose=0)
        return specimens.values([*model.weights, *model.optimizer.variables])

    assert same(trained(kwrap.collect), trained(lambda *_: contextlib.nullcontext()))


def test_a_model_around_the_collected_one_runs_eagerly_too():
    inner = kwrap.wrap_model(functional(), Outputs, where="last")
    outer = keras.Sequential([keras.Input((4,)), inner, keras.layers.Dense(1)])
    inputs = batch()[0]
    outer.predict(inputs, verbose=0)
    with kwrap.collect(inner, "outputs") as found:
        outer.predict(inputs, verbose=0)
    assert same(found, {"last": [inner(inputs)]})
    assert not outer.run_eagerly


@pytest.mark.parametrize("eager", [False, True])
def test_an_exception_inside_the_context_leaves_the_model_running_as_before(eager):
    model = functional()
    model.compile("sgd", "mse", run_eagerly=eager)
    kwrap.wrap_model(model, Outputs)
    inputs = batch()[0]
    before = model.predict(inputs, verbose=0)
    with pytest.raises(ZeroDivisionError), kwrap.collect(model, "outputs") as found:
        raise ZeroDivisionError
    assert model.run_eagerly is eager
    assert same(model.predict(inputs, verbose=0), before)
    model(inputs)
    assert found == {}


def test_a_callback_collects_while_fit_is_running():
    model = functional()
    model.compile("sgd", "mse")
    kwrap.wrap_model(model, Outputs, where="last")
    inputs, targets = batch()
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            with kwrap.collect(model, "outputs") as found:
                seen.append(np.asarray(model(inputs)))
            assert same(found, {"last": [seen[-1]]})

    model.fit(inputs, targets, batch_size=4, epochs=2, verbose=0, callbacks=[Watch()])
    assert len(seen) == 4
    assert int(model.optimizer.iterations) == 4
    assert all(not same(one, other) for one, other in itertools.pairwise(seen))


# --- inside a compiled function --------------------------------------------------------------------------------------


class Regularized(keras.Model):
    """Trains on what its hooks emit, and tells the sum of it."""

    def train_step(self, data):
        inputs, targets = data
        with tf.GradientTape() as tape:
            with kwrap.collect(self, "outputs") as found:
                outputs = self(inputs, training=True)
            seen = keras.ops.sum(found["first"][0] ** 2)
            loss = self.compute_loss(inputs, targets, outputs) + seen
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"seen": seen, "count": len(found["first"])}


def regularized() -> keras.Model:
    plain = functional()
    return Regularized(plain.input, plain.output, name="regularized")


def train_by_hand(model: keras.Model, inputs: np.ndarray, targets: np.ndarray, rate: float) -> float:
    """Train a bare model as `Regularized` trains; return the sum."""
    extract = features(model, "first", "last")
    with tf.GradientTape() as tape:
        first, outputs = extract(inputs)
        seen = keras.ops.sum(first**2)
        loss = keras.ops.mean((outputs - targets) ** 2) + seen
    for variable, gradient in zip(
        model.trainable_variables,
        tape.gradient(loss, [variable.value for variable in model.trainable_variables]),
        strict=True,
    ):
        variable.assign(variable - rate * gradient)
    return float(seen)


@pytest.mark.parametrize("options", [{}, {"jit_compile": True}, {"steps_per_execution": 2}, {"run_eagerly": True}])
def test_a_train_step_of_ones_own_trains_on_what_it_collects(options):
    model, bare = regularized(), functional()
    bare.set_weights(model.get_weights())
    model.compile(keras.optimizers.SGD(0.01), "mse", **options)
    kwrap.wrap_model(model, [Outputs, Idle])
    inputs, targets = batch()
    history = model.fit(inputs, targets, batch_size=4, epochs=2, shuffle=False, verbose=0).history
    seen = [train_by_hand(bare, inputs[at : at + 4], targets[at : at + 4], 0.01) for at in (0, 4, 0, 4)]
    assert history["count"] == [1, 1]
    # Keras tells what the last step of an epoch returned. XLA sums in an order of its own.
    np.testing.assert_allclose(history["seen"], seen[1::2], rtol=1e-4)
    np.testing.assert_allclose(model.get_layer("first").kernel, bare.get_layer("first").kernel, rtol=1e-4, atol=1e-6)
    assert model.run_eagerly is bool(options.get("run_eagerly"))


def test_a_collector_around_fit_and_one_in_its_train_step_both_get_the_values():
    model = regularized()
    model.compile(keras.optimizers.SGD(0.01), "mse")
    kwrap.wrap_model(model, Outputs, where="first")
    with kwrap.collect(model, "outputs") as found:
        history = model.fit(*batch(), batch_size=4, shuffle=False, verbose=0).history
    assert len(found["first"]) == 2
    np.testing.assert_allclose(history["seen"], [np.sum(np.square(found["first"][-1]))], rtol=1e-6)


@pytest.mark.parametrize("autograph", [True, False])
def test_a_function_of_ones_own_collects_inside_of_it(autograph):
    model = functional()
    inputs = batch()[0]
    expected = features(model, "first")(inputs)
    kwrap.wrap_model(model, Outputs)

    @tf.function(autograph=autograph)
    def function(given):
        with kwrap.collect(model, "outputs") as found:
            outputs = model(given)
        return outputs, found["first"][0], len(found["first"])

    outputs, first, count = function(inputs)
    assert count == 1
    for one, other in ((first, expected[0]), (outputs, model(inputs))):  # a graph's last bit may differ
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert function.experimental_get_tracing_count() == 1


def test_a_value_in_an_inner_function_of_who_collects_outside_is_an_error_that_says_where_to_open_it():
    model = kwrap.wrap_model(functional(), Outputs, where="last")
    inputs = batch()[0]

    @tf.function(autograph=False)
    def function(given):
        return model(given)

    message = "'collecting_outputs' at 'last' emits 'outputs' inside"
    with pytest.raises(errors.WrapperStateError, match=message) as caught, kwrap.collect(model, "outputs"):
        function(inputs)
    assert "Open kwrap.collect(model, 'outputs') inside" in str(caught.value)
    np.testing.assert_allclose(function(inputs), model(inputs), rtol=1e-5, atol=1e-6)  # a graph's last bit may differ


@pytest.mark.parametrize("where", ["branch", "loop"])
def test_so_is_one_in_a_branch_or_a_loop_of_a_function(where):
    model = kwrap.wrap_model(functional(), Outputs, where="last")

    @tf.function(autograph=False)
    def function(given):
        with kwrap.collect(model, "outputs"):
            if where == "branch":
                return tf.cond(tf.reduce_sum(given) > 0, lambda: model(given), lambda: model(-given))
            return tf.while_loop(lambda value: tf.reduce_sum(value) > 0, lambda value: [model(value[:, :4])], [given])

    with pytest.raises(errors.WrapperStateError, match="or a branch or loop"):
        function(tf.constant(batch()[0]))
    assert not model.run_eagerly


def test_without_a_collector_the_graph_has_not_one_op_more():
    model = functional()
    ops = specimens.graph_ops(model)
    kwrap.wrap_model(model, Outputs)
    assert specimens.graph_ops(model) == ops
    with kwrap.collect(model, "outputs"):
        pass
    assert specimens.graph_ops(model) == ops


def test_emit_without_a_collector_returns_nothing_and_keeps_nothing():
    model = kwrap.wrap_model(sequential(), Outputs)
    ((_, hook), *_) = kwrap.find_hooks(model)
    before = dict(vars(hook))
    assert hook.emit("outputs", object()) is None
    assert vars(hook) == before


# --- replicas --------------------------------------------------------------------------------------------------------

REPLICAS = """
import keras, numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
import kwrap
from kwrap import errors

@kwrap.hook(layer_type=keras.layers.Dense)
class Outputs(kwrap.Hook):
    def call(self, call_next, inputs):
        outputs = call_next(inputs)
        self.emit("outputs", outputs)
        return outputs

class Summing(keras.Model):
    def train_step(self, data):
        with kwrap.collect(self, "outputs") as found:
            outputs = self(data[0], training=True)
        ((value,),) = found.values()
        return {"seen": keras.ops.sum(value), "given": keras.ops.sum(outputs)}

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    inputs = keras.Input((3,))
    model = Summing(inputs, keras.layers.Dense(2, name="only")(inputs), name="mirrored")
    kwrap.wrap_model(model, Outputs())
    model.compile("sgd", "mse", jit_compile=False)
rows = np.arange(12, dtype="float32").reshape(4, 3)
try:
    with kwrap.collect(model, "outputs"):
        pass
except errors.WrapperStateError as error:
    print(error)
print("eager", model.run_eagerly)
logs = model.train_on_batch(rows, np.zeros((4, 2)), return_dict=True)
print("equal", np.allclose(logs["seen"], logs["given"]), float(logs["seen"]) != 0)
model.compile("sgd", "mse", run_eagerly=True)
eager = model.train_on_batch(rows, np.zeros((4, 2)), return_dict=True)
print("equal", np.allclose(eager["seen"], eager["given"]), np.allclose(eager["seen"], logs["seen"]))
"""


def test_with_replicas_it_is_an_error_outside_and_works_in_the_train_step_compiled_or_not():
    run = subprocess.run([sys.executable, "-c", REPLICAS], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    message, eager, equal, equal_eagerly = run.stdout.splitlines()[-4:]
    assert message.startswith(
        "model 'mirrored' runs on 2 replicas, each with values of its own: open kwrap.collect inside"
    )
    assert eager == "eager False"
    assert equal == equal_eagerly == "equal True True"
