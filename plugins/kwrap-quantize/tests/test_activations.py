import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import kwrap
from kwrap.errors import NoFloatingTensorsError, PlanError
from kwrap_quantize import (
    NonFiniteRangeError,
    QuantizeInput,
    QuantizeOutput,
    QuantizeWeights,
    RangeNotSeenError,
    TensorCountError,
    ranges,
    require_ranges,
)

from .references import on_grid

GENERATOR = np.random.default_rng(0)
BATCHES = [GENERATOR.normal(size=(5, 3)).astype("float32") * scale for scale in (1, 3, 2)]


def identity(*hooks):
    return kwrap.Wrapper(keras.layers.Activation("linear", name="layer"), hooks)


def ends(hook):
    return [[float(low), float(high)] for low, high in zip(np.array(hook.minimum), np.array(hook.maximum), strict=True)]


def expected_ends(kind, batches, decay=0.999):
    """Return the range that NumPy computes of batches."""
    low, high = min(batches[0].min(), 0), max(batches[0].max(), 0)
    for batch in batches[1:]:
        new_low, new_high = min(batch.min(), 0), max(batch.max(), 0)
        if kind == "last":
            low, high = new_low, new_high
        elif kind == "all_time":
            low, high = min(low, new_low), max(high, new_high)
        else:
            low, high = (decay * old + (1 - decay) * new for old, new in ((low, new_low), (high, new_high)))
    return [low, high]


@pytest.mark.parametrize("kind", ["moving_average", "last", "all_time"])
def test_ranges_move_as_they_are_said_to_and_values_are_rounded_to_where_they_moved(kind):
    layer = identity(QuantizeOutput(4, range=kind, decay=0.75))
    (hook,) = layer.hooks
    for index, batch in enumerate(BATCHES):
        outputs = layer(batch, training=True)
        low, high = expected_ends(kind, BATCHES[: index + 1], 0.75)
        np.testing.assert_allclose(ends(hook), [[low, high]], rtol=1e-6)
        np.testing.assert_allclose(outputs, on_grid(batch, low, high, 4), atol=1e-5)
    again = layer(BATCHES[0], training=False)
    np.testing.assert_allclose(ends(hook), [[low, high]], rtol=1e-6)  # at inference they stay
    np.testing.assert_allclose(again, on_grid(BATCHES[0], low, high, 4), atol=1e-5)


def test_ranges_of_a_compiled_fit_are_those_of_the_batches():
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Activation("linear", name="layer"), keras.layers.Dense(2)]
    )
    kwrap.wrap_model(model, QuantizeOutput(range="all_time"), where="layer")
    model.compile("sgd", "mse")
    inputs = np.concatenate(BATCHES)
    model.fit(inputs, np.zeros((15, 2)), batch_size=5, verbose=0)
    ((_, hook),) = kwrap.find_hooks(model)
    np.testing.assert_allclose(ends(hook), [[inputs.min(), inputs.max()]], rtol=1e-6)


def test_zero_is_in_every_range():
    layer = identity(QuantizeOutput(range="last"))
    layer(np.abs(BATCHES[0]) + 1, training=True)
    assert ends(layer.hooks[0])[0][0] == 0
    layer(-np.abs(BATCHES[0]) - 1, training=True)
    assert ends(layer.hooks[0])[0][1] == 0


def test_inputs_are_rounded_before_the_layer_takes_them():
    dense = keras.layers.Dense(2)
    layer = kwrap.Wrapper(dense, [QuantizeInput(4, range=(-1, 2))])
    np.testing.assert_allclose(
        layer(BATCHES[0]), on_grid(BATCHES[0], -1, 2, 4) @ np.array(dense.kernel) + dense.bias, atol=1e-5
    )


def test_a_symmetric_range_reaches_as_far_below_zero_as_above():
    layer = identity(QuantizeOutput(8, range="last", symmetric=True))
    outputs = np.array(layer(np.array([[-3.0, 0.1, 1.27]], "float32"), training=True))
    step = 3 / 127
    np.testing.assert_allclose(outputs, np.round(np.array([[-3.0, 0.1, 1.27]]) / step) * step, rtol=1e-5)


def test_before_anything_was_seen_inference_passes_values_on_and_an_exporter_is_told():
    layer = identity(QuantizeOutput(2))
    np.testing.assert_array_equal(layer(BATCHES[0]), BATCHES[0])
    compiled = tf.function(lambda x: layer(x, training=False))
    np.testing.assert_array_equal(compiled(BATCHES[0]), BATCHES[0])
    model = keras.Sequential([layer])
    with pytest.raises(RangeNotSeenError, match=r"^export: the ranges of 'layer' have seen nothing yet") as caught:
        require_ranges(model)
    assert caught.value.paths == ["layer"]
    (told,) = ranges(model).tensors
    assert told.state == "not seen"
    layer(BATCHES[0], training=True)
    assert len(np.unique(compiled(BATCHES[0]))) <= 4  # the function that was traced before sees it
    require_ranges(model)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_batch_with_values_that_are_not_finite_moves_no_range(bad):
    layer = identity(QuantizeOutput(range="last"))
    (hook,) = layer.hooks
    layer(BATCHES[0], training=True)
    before = ends(hook)
    for place in range(15):
        broken = BATCHES[1].ravel().copy()
        broken[place] = bad
        layer(broken.reshape(5, 3), training=True)
        assert ends(hook) == before
    layer(BATCHES[1], training=True)
    assert ends(hook) != before


def test_a_range_that_is_nan_is_told_by_check_and_to_an_exporter():
    layer = identity(QuantizeOutput())
    layer(BATCHES[0], training=True)
    layer.hooks[0].maximum.assign([np.nan])
    model = keras.Sequential([layer])
    (found,) = kwrap.check(model)
    assert (found.path, found.hook, found.state) == ("layer", "quantize_output", "maximum")
    with pytest.raises(NonFiniteRangeError, match="'layer'"):
        require_ranges(model)


def test_a_dead_layer_has_a_range_and_gives_zeros():
    layer = identity(QuantizeOutput())
    np.testing.assert_array_equal(layer(np.zeros((2, 3)), training=True), np.zeros((2, 3)))
    np.testing.assert_array_equal(layer(np.zeros((2, 3))), np.zeros((2, 3)))


def test_each_of_several_tensors_has_a_range_of_its_own():
    class Twice(keras.layers.Layer):
        def call(self, inputs):
            return {"one": inputs, "count": keras.ops.ones((2,), "int32"), "ten": inputs * 10}

    layer = kwrap.Wrapper(Twice(), [QuantizeOutput(4, range="last", tensors=2)])
    outputs = layer(BATCHES[0], training=True)
    low, high = BATCHES[0].min(), BATCHES[0].max()
    np.testing.assert_allclose(ends(layer.hooks[0]), [[low, high], [10 * low, 10 * high]], rtol=1e-6)
    np.testing.assert_allclose(outputs["ten"], 10 * on_grid(BATCHES[0], low, high, 4), atol=1e-4)
    np.testing.assert_array_equal(outputs["count"], [1, 1])


def test_another_number_of_tensors_is_an_error_that_names_the_option():
    layer = kwrap.Wrapper(keras.layers.Add(name="sum"), [QuantizeInput()])
    with pytest.raises(TensorCountError, match="give it the option tensors=2"):
        layer([BATCHES[0], BATCHES[0]])


def test_a_layer_without_floating_tensors_is_refused():
    layer = kwrap.Wrapper(keras.layers.Embedding(4, 2, name="words"), [QuantizeInput()])
    with pytest.raises(
        NoFloatingTensorsError, match="at 'words': there is no floating tensor among the layer's inputs"
    ):
        layer(np.zeros((1, 2), "int32"))


def test_of_a_graph_it_is_told_before_anything_has_changed():
    words = keras.Input((3,), dtype="int32")
    hidden = keras.layers.Embedding(4, 2, name="words")(words)
    model = keras.Model(words, keras.layers.Add(name="sum")([hidden, hidden]))
    with pytest.raises(PlanError, match=r"'sum'.* tensors=2"):
        kwrap.wrap_model(model, QuantizeInput(), where="sum")
    with pytest.raises(PlanError, match="no floating tensor among the layer's inputs"):
        kwrap.wrap_model(model, [QuantizeOutput(), QuantizeInput()], where="words")
    assert not kwrap.find_hooks(model)
    kwrap.wrap_model(model, [QuantizeInput(tensors=2).at("sum"), QuantizeOutput().at("words")])


def test_a_subclassed_model_is_quantized_by_hand_saved_and_exported_with_its_rounding(tmp_path):
    model = Net()
    model(BATCHES[0])
    kwrap.wrap_model(
        model, [QuantizeInput(4).at("hidden"), QuantizeWeights(4), QuantizeOutput(4)], where=["hidden", "last"]
    )
    model.compile("sgd", "mse")
    model.fit(np.concatenate(BATCHES), np.zeros((15, 2)), batch_size=5, verbose=0)
    expected = np.array(model(BATCHES[1]))
    step = next(each.step for each in ranges(model).tensors if (each.path, each.of) == ("last", "outputs"))
    np.testing.assert_allclose(expected / step, np.round(expected / step), atol=1e-4)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", custom_objects={"Net": Net})
    np.testing.assert_array_equal(loaded(BATCHES[1]), expected)
    model.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(served.serve(BATCHES[1]), expected, atol=1e-6)


class Net(keras.Model):
    """Two Dense layers, which a Functional model would show."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(4, activation="relu", name="hidden")
        self.last = keras.layers.Dense(2, name="last")

    def call(self, inputs, training=None):
        return self.last(self.hidden(inputs, training=training), training=training)


def test_half_precision_stays_half_precision():
    layer = kwrap.Wrapper(keras.layers.Dense(3, dtype="mixed_float16"), [QuantizeOutput(range="last")])
    outputs = layer(BATCHES[0], training=True)
    assert outputs.dtype == tf.float16
    assert layer.hooks[0].minimum.dtype == "float32"
    low, high = ends(layer.hooks[0])[0]
    steps = np.array(outputs, "float64") * 255 / (high - low)
    np.testing.assert_allclose(steps, np.round(steps), atol=0.1)  # float16 has 11 bits


def test_gradients_stop_at_what_is_clipped():
    layer = identity(QuantizeOutput(range=(-1, 1)))
    inputs = tf.constant([[-2.0, 0.3, 2.0]])
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, training=True)
    np.testing.assert_array_equal(tape.gradient(outputs, inputs), [[0, 1, 0]])


REPLICAS = """
import numpy as np
import tensorflow as tf

(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

import keras
import kwrap
from kwrap.errors import PlanError
from kwrap_quantize import QuantizeInput, QuantizeOutput

x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32") * np.arange(1, 9)[:, None]
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="dense")])
    kwrap.wrap_model(model, [QuantizeInput(range="last"), QuantizeOutput(range="all_time")], where="dense")
    model.compile("sgd", "mse")
model.fit(tf.data.Dataset.from_tensor_slices((x, x[:, :2])).batch(8), verbose=0)
for _, hook in kwrap.find_hooks(model, QuantizeInput):
    copies = [np.array(copy) for each in (hook.minimum, hook.maximum, hook.seen) for copy in each.value.values]
    np.testing.assert_array_equal(copies[::2], copies[1::2])
    np.testing.assert_allclose([copies[0], copies[2]], [[x.min()], [x.max()]], rtol=1e-6)
print("done")
"""


def test_replicas_agree_on_the_range_of_the_whole_batch():
    run = subprocess.run([sys.executable, "-c", REPLICAS], capture_output=True, text=True, timeout=300)
    assert run.stdout.endswith("done\n"), run.stderr
