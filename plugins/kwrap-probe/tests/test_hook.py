import json
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import kwrap
from kwrap.errors import HookCallError, KwrapError, OptionValueError, TargetError
from kwrap_probe import NaNGuard, NoFloatingOutputsError, Probe, report, reset
from kwrap_probe._measure import Part
from kwrap_probe._watch import runs_all_ops, watched

from .references import InAFunction, X, Y, by_name, must_be, network, reference

EXACT = {"every": 1, "sample": None}


@pytest.mark.parametrize("how", [{"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": True}], ids=str)
def test_statistics_of_a_step_are_those_that_numpy_computes(how):
    model = network()
    expected = reference(model, X, Y)
    kwrap.wrap_model(model, Probe(**EXACT))
    model.compile(keras.optimizers.SGD(0.1), "mse", **how)
    model.train_on_batch(X, Y)
    found = by_name(model)
    assert list(found) == list(expected)
    for name, values in expected.items():
        must_be(found[name], values)


@pytest.mark.parametrize("how", [{"jit_compile": False}, {"jit_compile": True}], ids=str)
def test_training_gives_the_bare_models_outputs_and_weights_to_the_bit(how):
    bare, probed = network(), network()
    kwrap.wrap_model(probed, [Probe(every=2), NaNGuard(raises=True)])
    for model in (bare, probed):
        model.compile(keras.optimizers.Adam(0.05), "mse", **how)
        model.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    for one, other in zip(bare.weights, kwrap.unwrap_model(probed).weights, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(bare.predict(X, verbose=0), probed.predict(X, verbose=0))
    assert not kwrap.find_hooks(probed)
    assert [type(layer) for layer in probed.layers] == [keras.layers.Dense] * 2


@pytest.mark.parametrize(
    ("layer", "watch"),
    [
        (keras.layers.LSTM(3, name="layer"), ["inputs", "outputs", "output_gradients", "weights"]),
        (keras.layers.Embedding(9, 3, name="layer"), ["outputs", "output_gradients", "weights", "weight_gradients"]),
    ],
    ids=["lstm", "embedding"],
)
def test_recurrent_layers_and_embeddings_train_to_the_bare_ones_bits_too(layer, watch):
    is_embedding = isinstance(layer, keras.layers.Embedding)
    words = np.array([[1, 2, 1], [4, 4, 0]])
    x = words if is_embedding else np.random.default_rng(0).normal(size=(2, 3, 2)).astype("float32")
    trained = []
    for hooks in ([], [Probe(watch, **EXACT)]):
        keras.utils.set_random_seed(0)
        own = type(layer).from_config(layer.get_config())
        model = keras.Sequential([keras.Input(x.shape[1:], dtype=x.dtype), own])
        if hooks:
            kwrap.wrap_model(model, hooks)
        model.compile(keras.optimizers.Adam(0.05), "mse")
        y = np.ones((2, *model.output_shape[1:]), "float32")
        for _ in range(3):
            model.train_on_batch(x, y)
        trained.append(model)
    bare, probed = trained
    if is_embedding:  # the rows that were read, repeated ones apart
        assert by_name(probed)["layer/embeddings_gradients"].size == 3 * words.size * 3
    for one, other in zip(bare.weights, kwrap.unwrap_model(probed).weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_one_of_every_n_calls_is_measured_and_all_of_it_alone_counts():
    model = network()
    kwrap.wrap_model(model, Probe(every=3, sample=None))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    plain = kwrap.unwrap_model(kwrap.clone_model(model))
    model.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
    batches = [reference(plain, X[at : at + 4], Y[at : at + 4]) for at in (0, 12)]
    for name, statistics in by_name(model).items():
        must_be(statistics, *(batch[name] for batch in batches))


def test_a_probe_adds_few_ops_to_a_step_and_a_branch_for_each_time_to_look():
    def ops(hooks):
        layer = kwrap.Wrapper(keras.layers.Dense(2), hooks)
        layer.build((None, 6))

        def step(inputs):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                loss = tf.reduce_sum(layer(inputs, training=True))
            return tape.gradient(loss, [inputs, layer.kernel.value])

        graph = tf.function(step).get_concrete_function(tf.TensorSpec((None, 6))).graph
        free = {"Const", "Identity", "IdentityN", "NoOp", "Placeholder"}  # that TensorFlow drops, or nearly so
        return [op.type for op in graph.get_operations() if op.type not in free]

    bare, probed = ops([]), ops([Probe()])
    # Inputs, outputs and the kernel; the outputs' gradient; the kernel's.
    assert probed.count("If") == 3
    assert len(probed) - len(bare) <= 8  # a read, a sum, an assignment, a comparison; zeros that nothing uses


@pytest.mark.parametrize("watch", ["inputs", "outputs", "output_gradients", "weights", "weight_gradients"])
def test_each_source_alone_is_measured_as_among_the_others(watch):
    found = []
    for sources in (watch, Probe().watch):
        model = network()
        kwrap.wrap_model(model, Probe(sources, **EXACT))
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.train_on_batch(X, Y)
        found.append([each for each in report(model).statistics if each.source == watch])
    assert found[0] == found[1] != []


def test_an_input_that_is_not_floating_is_not_counted_and_the_rest_is():
    probe = Probe(["inputs", "outputs", "weights"], **EXACT)
    layer = kwrap.Wrapper(keras.layers.Embedding(9, 3), [probe])
    layer(tf.constant([[1, 2], [4, 4]]), training=True)
    calls = {source: int(np.array(matrix)[row, Part.CALLS]) for (source, _), (matrix, row) in probe.places().items()}
    assert calls == {"inputs": 0, "outputs": 1, "weights": 1}


def copies_of_the_first_kernel(hooks):
    """Return how often XLA copies it in a training step."""
    model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(64), keras.layers.Dense(4)])
    if hooks:
        kwrap.wrap_model(model, hooks)
    model.compile("adam", "mse", jit_compile=True)
    batch = tf.zeros((8, 784)), tf.zeros((8, 4))
    model.train_on_batch(*batch)
    step = tf.function(lambda *batch: model.train_step(batch), jit_compile=True)
    program = step.experimental_get_compiler_ir(*batch)(stage="optimized_hlo")
    assert "input_output_alias" in program  # else nothing is told here
    assert "f32[784,64]" in program
    return len(re.findall(r"f32\[784,64\]\S* copy\(", program))


@pytest.mark.parametrize("watch", [None, "weights"])
def test_xla_copies_no_kernel_for_a_look_at_it(watch):
    assert copies_of_the_first_kernel([]) == copies_of_the_first_kernel([Probe(watch) if watch else Probe()]) == 0


def test_of_a_layer_that_is_called_twice_a_step_both_calls_are_measured():
    layer = kwrap.Wrapper(keras.layers.Dense(2), [Probe("inputs", every=10, sample=None)])
    for _ in range(100):
        layer(tf.zeros((1, 1)), training=True)
        layer(tf.ones((1, 1)), training=True)
    vector = np.array(layer.hooks[0].seen)[0]
    assert vector[Part.CALLS] == 20
    assert 5 <= vector[Part.ZEROS] <= 15


@kwrap.hook(layer_type=keras.layers.Layer)
class Branches(kwrap.Hook):
    """Call the layer in a branch of TensorFlow's."""

    def call(self, call_next, inputs):
        return tf.cond(tf.reduce_sum(inputs) > -1e9, lambda: call_next(inputs), lambda: 0.0 * call_next(inputs))


def test_weights_and_their_gradients_are_measured_where_a_hook_between_calls_in_a_branch():
    model = network()
    expected = reference(model, X, Y)
    kwrap.wrap_model(model, [Probe(["weights", "weight_gradients"], **EXACT), Branches()])
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    model.train_on_batch(X, Y)
    for name, statistics in by_name(model).items():
        must_be(statistics, expected[name])


@kwrap.hook(layer_type=keras.layers.Layer)
class Twice(kwrap.Hook):
    """Call the layer twice."""

    def call(self, call_next, inputs):
        return call_next(inputs) + call_next(inputs)


def calls_of_three_sources(hook: kwrap.Hook, *, compiled: bool, every: int, times: int) -> dict[str, int]:
    probe = Probe(["inputs", "weights", "weight_gradients"], every=every, sample=None)
    layer = kwrap.Wrapper(keras.layers.Dense(2), [probe, hook])
    layer.build((None, 6))

    def step(inputs):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(inputs, training=True))
        return tape.gradient(loss, layer.kernel.value)

    if compiled:
        step = tf.function(step, autograph=False)
    for _ in range(times):
        step(tf.constant(X))
    return {source: int(np.array(matrix)[row, Part.CALLS]) for (source, _), (matrix, row) in probe.places().items()}


@pytest.mark.parametrize("compiled", [False, True])
def test_weights_count_each_time_that_a_hook_between_calls_the_layer(compiled):
    found = calls_of_three_sources(Twice(), compiled=compiled, every=1, times=3)
    assert found == {"inputs": 3, "weights": 6, "weight_gradients": 6}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("every", [2, 3])
def test_the_same_calls_are_measured_in_a_function_of_a_hook_between_that_is_traced_once(compiled, every):
    found = calls_of_three_sources(InAFunction(), compiled=compiled, every=every, times=6)
    assert found == dict.fromkeys(["inputs", "weights", "weight_gradients"], 6 // every)


@pytest.mark.parametrize("size", [0, 7, 8, 9, 17, 24])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_sample_is_the_same_eagerly_and_compiled(size, jit_compile):
    values, found = tf.constant(np.random.default_rng(size).normal(size=(size,))), []
    for compiled in (False, True):
        layer = kwrap.Wrapper(keras.layers.Identity(dtype="float64"), [Probe("inputs", every=1, sample=8)])

        def call(inputs, layer=layer):
            return layer(inputs, training=True)

        (tf.function(call, jit_compile=jit_compile, autograph=False) if compiled else call)(values)
        found.append(np.array(layer.hooks[0].seen)[0])
    assert found[0][Part.SIZE] == min(size, 8)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-12)


@kwrap.hook(layer_type=keras.layers.Layer)
class Trains(kwrap.Hook):
    """Call the layer as one that trains."""

    def call(self, call_next, inputs):
        return call_next(inputs, training=True)


def test_in_a_call_in_inference_weights_are_not_measured_either_though_a_hook_lets_the_layer_train():
    probe = Probe(["inputs", "weights"], targets="gamma", **EXACT)
    layer = kwrap.Wrapper(keras.layers.BatchNormalization(), [probe, Trains()])
    for training, calls in ((False, 0), (True, 1), (False, 1)):
        layer(X, training=training)
        assert {float(np.array(matrix)[row, Part.CALLS]) for matrix, row in probe.places().values()} == {calls}


def test_reset_forgets_all_and_measures_the_next_call():
    model = network()
    kwrap.wrap_model(model, Probe(every=5))
    model.compile("sgd", "mse")
    model.train_on_batch(X, Y)
    model.train_on_batch(X, Y)
    reset(model)
    assert {each.calls for each in report(model).statistics} == {0}
    model.train_on_batch(X, Y)
    assert {each.calls for each in report(model).statistics} == {1}


def test_inference_measures_nothing():
    model = network()
    kwrap.wrap_model(model, Probe(**EXACT))
    model.compile("sgd", "mse")
    model.predict(X, verbose=0)
    model.evaluate(X, Y, verbose=0)
    assert {each.calls for each in report(model).statistics} == {0}


def test_in_phase_inference_it_measures_what_a_trained_model_sees():
    model = network()
    expected = reference(model, X, Y)
    kwrap.wrap_model(model, Probe(["inputs", "outputs"], phase="inference", **EXACT))
    model.predict(X, batch_size=12, verbose=0)
    for name, statistics in by_name(model).items():
        must_be(statistics, expected[name][:12], expected[name][12:])


def test_values_that_are_not_finite_are_counted_and_left_out_of_the_rest():
    model = network()
    kwrap.wrap_model(model, Probe("inputs", **EXACT), where="hidden")
    broken = X.copy()
    broken[0, :3] = [np.nan, np.inf, -np.inf]
    model(broken, training=True)
    (found,) = report(model).statistics
    finite = broken[np.isfinite(broken)]
    assert found.non_finite == 3
    must_be(found, finite)


def test_all_floating_tensors_of_a_layers_outputs_count_together_and_others_do_not():
    class Many(keras.layers.Layer):
        def call(self, inputs):
            whole = keras.ops.cast(inputs, "int32")
            return {"scores": inputs, "index": whole, "more": [keras.ops.cast(2 * inputs, "float16")]}

    wrapper = kwrap.Wrapper(Many(name="many"), [Probe(["inputs", "outputs"], **EXACT)])
    outputs = wrapper(tf.constant(X), training=True)
    assert outputs["index"].dtype == tf.int32
    matrix, row = wrapper.hooks[0].places()["outputs", None]
    values = np.concatenate([X.reshape(-1), (2 * X).astype("float16").astype("float32").reshape(-1)])
    np.testing.assert_allclose(np.array(matrix)[row, :3], [-values.min(), values.max(), values.size], rtol=1e-6)


def test_under_mixed_precision_activations_are_of_float16_and_weights_of_float32():
    model = network("mixed_float16")
    kwrap.wrap_model(model, Probe(**EXACT))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    outputs = np.asarray(model(X), "float32")
    kernel = np.asarray(model.get_layer("head").layer.kernel)
    model.train_on_batch(X, Y)
    found = by_name(model)
    must_be(found["head/kernel"], kernel)
    must_be(found["head/outputs"], outputs)
    assert found["head/output_gradients"].spread > 0
    assert found["head/kernel_gradients"].spread > 0


def test_the_gradient_is_measured_where_a_compiled_call_is_differentiated_outside():
    model = network()
    expected = reference(model, X, Y)
    kwrap.wrap_model(model, Probe(**EXACT))
    compiled = tf.function(lambda inputs: model(inputs, training=True))
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((compiled(X) - Y) ** 2)
    tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    for name, statistics in by_name(model).items():
        must_be(statistics, expected[name])


def test_no_gradient_waits_in_a_compiled_step_and_where_its_ops_would_not_run_it_does():
    seen = []

    def looked_at(values):
        return watched(values, lambda gradient: (seen.append(runs_all_ops()), [])[1])

    def step(function):
        with tf.GradientTape() as tape:
            value = tf.constant(2.0)
            tape.watch(value)
            outputs = function(value)
        return tape.gradient(outputs, value)

    tf.function(lambda: step(looked_at))()
    assert seen == [True]  # TensorFlow's own mark of a graph whose ops all run: if it is gone, see runs_all_ops
    step(tf.function(looked_at))
    assert seen[1:]
    assert not any(seen[1:])


def test_a_layer_that_is_computed_again_is_measured_where_its_gradient_is_taken_outside_of_the_function():
    layer = kwrap.Wrapper(keras.layers.Dense(2), [Probe(every=1), NaNGuard()])
    layer.build((None, 6))
    block = keras.remat(lambda inputs: layer(inputs, training=True))
    compiled = tf.function(lambda inputs: block(inputs))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(compiled(tf.ones((3, 6))) ** 2)
    tape.gradient(loss, layer.kernel.value)
    found = {each.name: each.calls for each in report(keras.Sequential([layer])).statistics}
    assert found["output_gradients"] == found["kernel_gradients"] == 1


@pytest.mark.parametrize("watch", [None, "weights"])
def test_a_gradient_is_the_bare_layers_under_xla_to_the_bit_be_it_subnormal(watch):
    upstream = np.array([[1e-39, -1e-42, 0.0, -0.0], [np.inf, -np.inf, np.nan, 1.0]], "float32")
    gradients = []
    for hooks in ([], [Probe(watch) if watch else Probe()]):
        layer = kwrap.Wrapper(keras.layers.Embedding(9, 4), hooks)
        layer.build((None,))

        def step(words, layer=layer):
            with tf.GradientTape() as tape:
                outputs = layer(words, training=True)
            return tape.gradient(outputs, layer.embeddings.value, output_gradients=tf.constant(upstream)).values

        gradients.append(tf.function(step, jit_compile=True)(tf.constant([3, 5])).numpy().view("uint32"))
    np.testing.assert_array_equal(*gradients)


def test_a_probe_behind_another_hook_sees_the_weights_that_the_layer_reads():
    @kwrap.hook(layer_type=keras.layers.Dense)
    class Halve(kwrap.Hook):
        """Halve the kernel."""

        def parametrize(self, target, value):
            return value / 2

    model = network()
    kernel = np.array(model.get_layer("head").kernel)
    kwrap.wrap_model(
        model, [Probe("weights", name="stored", **EXACT), Halve(), Probe("weights", **EXACT)], where="head"
    )
    model(X, training=True)
    stored, read = report(model).statistics
    must_be(stored, kernel)
    must_be(read, kernel / 2)


def test_statistics_are_saved_with_the_model_and_go_on(tmp_path):
    model = network()
    kwrap.wrap_model(model, Probe(**EXACT))
    model.compile("sgd", "mse")
    model.train_on_batch(X, Y)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert report(loaded) == report(model)
    loaded.train_on_batch(X, Y)
    assert {each.calls for each in report(loaded).statistics} == {2}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"watch": ["outputs", "losses"]}, "watch=.* has 'losses'; there are 'inputs'"),
        ({"watch": []}, "is empty"),
        ({"watch": 3}, "is not a list of names"),
        ({"every": 0}, "every=0 is not an int that is at least 1"),
        ({"every": 1.5}, "is not an int"),
        ({"sample": -1}, "sample=-1"),
        ({"histogram": 1}, "is not True or False"),
        ({"log": ["outputs"]}, "not <source>/<statistic>"),
        ({"watch": "weights", "log": ["outputs/mean"]}, "leaves 'outputs' out"),
    ],
)
def test_options_that_cannot_be_are_errors(options, problem):
    with pytest.raises(OptionValueError, match=problem):
        Probe(**options)


def test_every_option_is_in_the_config():
    hook = Probe("outputs", every=3, sample=9, histogram=False, log=["outputs/mean"], phase="always", name="mine")
    config = hook.get_config()
    assert config == {
        "watch": "outputs",
        "every": 3,
        "sample": 9,
        "histogram": False,
        "log": ["outputs/mean"],
        "phase": "always",
        "targets": None,
        "name": "mine",
    }
    assert Probe.from_config(config).get_config() == config


class Ids(keras.layers.Layer):
    """Gives ints."""

    def call(self, inputs):
        return keras.ops.cast(inputs, "int32")


class Nothing(keras.layers.Layer):
    """Gives nothing."""

    def call(self, inputs):
        return None


def test_a_layer_without_floating_outputs_is_an_error_before_anything_changes():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, Ids(name="ids")(inputs))
    with pytest.raises(NoFloatingOutputsError, match=r"'probe' at 'ids': the layer gives int32, .*exclude="):
        kwrap.wrap_model(model, Probe())
    assert not kwrap.find_hooks(model)
    kwrap.wrap_model(model, Probe("inputs"))


def test_a_layer_without_outputs_is_an_error_at_its_call():
    with pytest.raises(NoFloatingOutputsError, match="gives NoneType"):
        kwrap.Wrapper(Nothing(name="nothing"), [Probe("outputs")])(X, training=True)


def test_weights_of_a_layer_that_has_none_are_an_error():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.5, name="drop")])
    with pytest.raises(TargetError, match=r"'probe' at 'drop': nothing but weights"):
        kwrap.wrap_model(model, Probe(["weights", "weight_gradients"]), where="drop")


# Logical devices are set before TensorFlow starts, so in a process of their own.
REPLICAS = """
import json
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import kwrap
from kwrap_probe import NaNGuard, Probe, first_non_finite, report

x = np.random.default_rng(0).normal(size=(24, 6)).astype("float32")
y = np.random.default_rng(1).normal(size=(24, 2)).astype("float32")

def run(strategy):
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.layers.Input((6,)), keras.layers.Dense(5, activation="tanh", name="hidden"),
                                  keras.layers.Dense(2, name="head")])
        kwrap.wrap_model(model, [Probe(every=2, sample=None), NaNGuard()])
        model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    before = first_non_finite(model)
    broken = np.where(np.arange(24)[:, None] == 7, np.nan, x)  # in the second replica's half
    found = report(model).as_dict()["statistics"]
    model.fit(broken, y, batch_size=8, shuffle=False, verbose=0)
    return found, str(before), str(first_non_finite(model))

of_one, of_two = (tf.distribute.MirroredStrategy(devices) for devices in (["CPU:0"], ["CPU:0", "CPU:1"]))
print(json.dumps([run(strategy) for strategy in (tf.distribute.get_strategy(), of_one, of_two)]))
"""


def test_two_replicas_count_as_one_that_saw_all_of_both_and_one_alone_as_no_replica():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", REPLICAS],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (alone, *guards), of_one, (together, *of_two) = json.loads(done.stdout.splitlines()[-1])
    assert of_one == [alone, *guards]
    assert guards == of_two
    assert guards[0] == "None"
    assert "output of layer 'hidden'" in guards[1]
    for one, two in zip(alone, together, strict=True):
        # Both replicas have the weights, so that these are seen twice; gradients of weights are those of a half each.
        times = 2 if one["weight"] else 1
        assert (two["calls"], two["size"]) == (2 * one["calls"], times * one["size"])
        if one["source"] in ("inputs", "outputs", "weights"):
            for name in ("mean", "spread", "minimum", "maximum", "zero_share"):
                assert two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-6), (one["name"], name)
            assert sum(each[2] for each in two["bins"]) == times * sum(each[2] for each in one["bins"])


def test_errors_are_kwraps_and_of_the_kind_that_a_caller_expects():
    assert issubclass(NoFloatingOutputsError, KwrapError)
    assert issubclass(NoFloatingOutputsError, TypeError)
    assert not issubclass(NoFloatingOutputsError, HookCallError)
