"""The cases of tfmot's tests, of the names that kwrap_quantize.tfmot has in common with it."""

import inspect
import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import kwrap
from kwrap.errors import OptionValueError, PlanError, TargetError
from kwrap_quantize import QuantizeInput, QuantizeOutput, QuantizeWeights, tfmot
from kwrap_quantize.tfmot import (
    QuantizeConfig,
    quantize_annotate_layer,
    quantize_annotate_model,
    quantize_apply,
    quantize_model,
    quantize_scope,
    quantizers,
)

from .tfmot_quantizers import BATCHES
from .tfmot_scheme import IMAGES, STEPS, layers_of

HERE = pathlib.Path(__file__).parent
EIGHT = {"num_bits": 8, "per_axis": False, "symmetric": True, "narrow_range": True}
MOVING = quantizers.MovingAverageQuantizer(8, per_axis=False, symmetric=False, narrow_range=False)


class Nothing(QuantizeConfig):
    """Rounds nothing."""

    def get_weights_and_quantizers(self, layer):
        return []

    def get_activations_and_quantizers(self, layer):
        return []

    def get_output_quantizers(self, layer):
        return None  # as tfmot's own test

    def get_config(self):
        return {}


class DenseConfig(Nothing):
    """What tfmot's guide has for a Dense layer, with a quantizer for the kernel."""

    def __init__(self, quantizer=None):
        self.quantizer = quantizer or quantizers.LastValueQuantizer(**EIGHT)

    def get_weights_and_quantizers(self, layer):
        return [(layer.kernel, self.quantizer)]

    def get_activations_and_quantizers(self, layer):
        return [(layer.activation, MOVING)]

    def get_config(self):
        return {"quantizer": self.quantizer}


class FixedRange(quantizers.Quantizer):
    """The guide's: keeps values between -1 and 1, and has a variable that says so."""

    def build(self, tensor_shape, name, layer):
        self.shape = tuple(tensor_shape)
        return {"end": layer.add_weight(name + "_end", initializer=keras.initializers.Constant(1.0), trainable=False)}

    def __call__(self, inputs, training, weights, **kwargs):
        return keras.ops.clip(inputs, -weights["end"], weights["end"])

    def get_config(self):
        return {}


@keras.saving.register_keras_serializable("test_tfmot")
class CustomLayer(layers.Layer):
    """A layer of which nobody says how to quantize it; a dense one inside it."""

    def build(self, input_shape):
        self.inner = layers.Dense(3, name="inner")
        self.inner.build(input_shape)

    def call(self, inputs):
        return self.inner(inputs)


class InnerConfig(Nothing):
    """Names the weight of a layer inside the layer."""

    def get_weights_and_quantizers(self, layer):
        return [(layer.inner.kernel, quantizers.LastValueQuantizer(**EIGHT))]


@keras.saving.register_keras_serializable("test_tfmot")
def plus_one(x):
    return x + 1.0


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


def simple(*more) -> keras.Sequential:
    return keras.Sequential(
        [keras.Input((10,)), layers.Dense(6, activation="relu", name="hidden"), *more, layers.Dense(5, name="logits")]
    )


def hooks(model) -> list[tuple[str, str]]:
    return [(path, hook.hook_name) for path, hook in kwrap.find_hooks(model)]


def with_weights(model) -> list[str]:
    return [path for path, _ in kwrap.find_hooks(model, QuantizeWeights)]


def data(model, count=8):
    generator = np.random.default_rng(0)
    return tuple(
        generator.normal(size=(count, *shape[1:])).astype("float32")
        for shape in (model.input_shape, model.output_shape)
    )


def train(model, steps=2) -> None:
    model.compile("sgd", "mse")
    model.fit(*data(model, 4 * steps), batch_size=4, shuffle=False, verbose=0)


def equal(one, other) -> bool:
    inputs = data(one)[0]
    return np.array_equal(one.predict(inputs, verbose=0), other.predict(inputs, verbose=0))


# --- the names -------------------------------------------------------------------------------------------------------


def test_the_names_and_their_arguments_are_those_of_tfmot():
    own = tfmot.quantization.keras
    arguments = {
        name: list(inspect.signature(getattr(own, name)).parameters)
        for name in own.__all__
        if inspect.isfunction(getattr(own, name))
    }
    assert arguments == {
        "quantize_annotate_layer": ["to_annotate", "quantize_config"],
        "quantize_annotate_model": ["to_annotate"],
        "quantize_apply": ["model", "scheme", "quantized_layer_name_prefix"],
        "quantize_model": ["to_quantize", "quantized_layer_name_prefix"],
        "quantize_scope": ["args"],
    }
    ranged = ["num_bits", "per_axis", "symmetric", "narrow_range"]
    assert {
        name: list(inspect.signature(getattr(own.quantizers, name)).parameters) for name in own.quantizers.__all__
    } == {
        "AllValuesQuantizer": ranged,
        "FixedQuantizer": ["num_bits", "init_min", "init_max", "narrow_range"],
        "LastValueQuantizer": ranged,
        "MovingAverageQuantizer": ranged,
        "Quantizer": [],
    }
    assert own.default_8bit.Default8BitQuantizeScheme is tfmot.Default8BitQuantizeScheme
    combine = tfmot.experimental.combine
    assert combine.Default8BitPrunePreserveQuantizeScheme is tfmot.Default8BitPrunePreserveQuantizeScheme


# --- quantize_test: marks --------------------------------------------------------------------------------------------


def test_a_marked_layer_works_as_before():
    layer = layers.Dense(6)
    wrapper = quantize_annotate_layer(layer, DenseConfig())
    assert wrapper.layer is layer
    assert isinstance(wrapper.hooks[0].quantize_config, DenseConfig)
    assert equal(keras.Sequential([keras.Input((10,)), layer]), keras.Sequential([keras.Input((10,)), wrapper]))


@pytest.mark.filterwarnings("ignore:Do not pass an `input_shape`")
def test_a_marked_layer_that_comes_first_builds_its_model():
    model = keras.Sequential([quantize_annotate_layer(layers.Dense(10, input_shape=(5,))), layers.Dropout(0.4)])
    assert (model.built, model.input_shape) == (True, (None, 5))


def test_a_marked_model_is_a_copy_that_works_as_before():
    model = simple(layers.Dropout(0.4, name="dropout"), quantize_annotate_layer(layers.Dense(6, name="own"), Nothing()))
    model.compile("sgd", "mse")
    marked = quantize_annotate_model(model)
    assert hooks(model) == [("own", "quantize_annotate")]
    assert hooks(marked) == [(name, "quantize_annotate") for name in ("hidden", "dropout", "own", "logits")]
    configs = [type(hook.quantize_config) for _, hook in kwrap.find_hooks(marked)]
    assert configs == [type(None), type(None), Nothing, type(None)]
    assert (equal(model, marked), model.compiled, marked.compiled) == (True, True, False)
    assert hooks(quantize_annotate_model(marked)) == hooks(marked)


def test_a_model_that_is_not_built_is_marked_and_quantized_once_it_is():
    marked = quantize_annotate_model(keras.Sequential([layers.Dense(6, name="hidden"), layers.Dense(5, name="logits")]))
    with pytest.raises(OptionValueError, match="is not built"):
        quantize_apply(marked)
    marked.build((None, 10))
    assert with_weights(quantize_apply(marked)) == ["hidden", "logits"]


def test_a_lambda_layer_is_left_out_with_a_warning():
    model = keras.Sequential([keras.Input((10,)), layers.Dense(5, name="dense"), layers.Lambda(plus_one)])
    with pytest.warns(UserWarning, match="is a Lambda layer, of which nobody knows what it does"):
        marked = quantize_annotate_model(model)
    assert hooks(marked) == [("dense", "quantize_annotate")]
    assert with_weights(quantize_apply(marked)) == ["dense"]


@pytest.mark.parametrize("function", [quantize_model, quantize_annotate_model, quantize_apply])
@pytest.mark.parametrize("given", [None, layers.Dense(3), Subclassed()], ids=["None", "layer", "subclassed"])
def test_only_functional_and_sequential_models_are_taken(function, given):
    with pytest.raises(ValueError, match=r"is no keras\.Model of Keras 3|is neither Functional nor Sequential"):
        function(given)


@pytest.mark.parametrize("given", [None, simple(), quantize_annotate_layer(layers.Dense(3))])
def test_only_layers_are_marked_that_are_no_models_and_not_wrapped(given):
    with pytest.raises(ValueError, match=r"is no Keras 3 layer, or a model|is wrapped already"):
        quantize_annotate_layer(given)


def test_a_config_that_is_none_is_an_error():
    with pytest.raises(
        OptionValueError, match=r"is no instance of a subclass of kwrap_quantize\.tfmot\.QuantizeConfig"
    ):
        quantize_annotate_layer(layers.Dense(3), quantize_config=object())


# --- quantize_test: quantizing ---------------------------------------------------------------------------------------


def test_a_model_is_quantized_in_a_copy_that_is_not_compiled():
    model = simple(layers.Dropout(0.4))
    model.compile("sgd", "mse")
    quantized = quantize_model(model)
    assert (hooks(model), with_weights(quantized), quantized.compiled) == ([], ["hidden", "logits"], False)
    for before, after in zip(model.trainable_weights, quantized.trainable_weights, strict=True):
        assert before is not after
        assert np.array_equal(before, after)
    ((path, hook),) = kwrap.find_hooks(quantized, QuantizeInput)
    assert (path, hook.range) == ("hidden", "all_time")


def test_quantizing_needs_a_marked_layer_and_a_scheme_of_this_package():
    with pytest.raises(OptionValueError, match="has no marked layer"):
        quantize_apply(simple())
    with pytest.raises(OptionValueError, match="is none of the schemes"):
        quantize_apply(quantize_annotate_model(simple()), scheme=object())


def test_only_marked_layers_are_quantized_and_what_they_take():
    model = simple(quantize_annotate_layer(layers.Dense(4, activation="relu", name="marked")))
    quantized = quantize_apply(model)
    assert with_weights(quantized) == ["marked"]
    assert [path for path, _ in kwrap.find_hooks(quantized, QuantizeInput)] == ["marked"]
    assert hooks(model) == [("marked", "quantize_annotate")]


def test_layers_chosen_by_a_clone_function_are_quantized():
    def mark(layer):
        return quantize_annotate_layer(layer) if layer.name == "logits" else layer

    model = simple()
    marked = keras.models.clone_model(model, clone_function=mark)
    quantized = quantize_apply(marked)
    assert with_weights(quantized) == ["logits"]
    assert np.array_equal(quantized.get_layer("hidden").kernel, model.get_layer("hidden").kernel)


def test_a_layer_of_which_nobody_says_how_is_an_error_that_names_it():
    model = keras.Sequential([keras.Input((10,)), quantize_annotate_layer(CustomLayer(name="custom"))])
    with pytest.raises(PlanError, match=r"custom.*Give it a QuantizeConfig"):
        quantize_apply(model)
    with pytest.raises(PlanError, match="custom"):
        quantize_model(keras.Sequential([keras.Input((10,)), CustomLayer(name="custom"), layers.Dense(3)]))


def test_models_inside_a_model_are_quantized():
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(6, name="dense")], name="inner")
    assert with_weights(quantize_model(simple(inner))) == ["hidden", "inner/dense", "logits"]


def test_without_ranges_per_axis_kernels_of_convolutions_have_one():
    model = keras.Sequential([keras.Input((6, 6, 2)), layers.Conv2D(3, 3, name="conv")])
    scheme = tfmot.quantization.keras.default_8bit.Default8BitQuantizeScheme(disable_per_axis=True)
    (default,), (one,) = (
        [hook.per_channel for _, hook in kwrap.find_hooks(quantized, QuantizeWeights)]
        for quantized in (quantize_model(model), quantize_apply(quantize_annotate_model(model), scheme))
    )
    assert (default, one) == (None, False)


def test_zeros_of_a_pruned_model_stay_if_the_scheme_says_so():
    model = simple()
    kernel = model.get_layer("hidden").kernel
    kernel.assign(keras.ops.where(keras.ops.abs(kernel) < 0.2, 0.0, kernel))
    zeros = np.array(kernel) == 0
    scheme = tfmot.experimental.combine.Default8BitPrunePreserveQuantizeScheme()
    for quantized, stay in (
        (quantize_apply(quantize_annotate_model(model), scheme), True),
        (quantize_model(model), False),
    ):
        train(quantized)
        assert np.array_equal(np.array(quantized.get_layer("hidden").kernel) == 0, zeros) == stay
        rounded = np.array(kwrap.unwrap_model(quantized).get_layer("hidden").kernel) == 0
        assert np.all(rounded[zeros]) == stay or not stay


# --- quantize_test: QuantizeConfig -----------------------------------------------------------------------------------


def test_a_config_says_what_is_rounded_instead_of_the_default():
    four = quantizers.LastValueQuantizer(4, per_axis=False, symmetric=True, narrow_range=False)
    marked = quantize_annotate_model(simple(quantize_annotate_layer(layers.Dense(4, name="own"), DenseConfig(four))))
    quantized = quantize_apply(marked)
    (weights,) = (hook for path, hook in kwrap.find_hooks(quantized, QuantizeWeights) if path == "own")
    assert (weights.bits, weights.symmetric, weights.narrow_range, weights.per_channel) == (4, True, False, False)
    (output,) = (hook for path, hook in kwrap.find_hooks(quantized, QuantizeOutput) if path == "own")
    assert (output.bits, output.range, output.symmetric) == (8, "moving_average", False)
    marked = quantize_annotate_model(simple(quantize_annotate_layer(layers.Dense(4, name="own"), Nothing())))
    assert "own" not in [path for path, _ in hooks(quantize_apply(marked))]


def test_a_config_rounds_before_a_softmax_and_on_both_sides_of_gelu():
    def marked(name):
        return quantize_annotate_layer(layers.Dense(4, activation=name, name=name), DenseConfig())

    model = keras.Sequential([keras.Input((4,)), *map(marked, ("gelu", "relu", "softmax"))])
    found = [(path, hook) for path, hook in hooks(quantize_apply(model)) if hook != "quantize_weights"]
    assert found == [
        ("gelu", "quantize_input"),
        ("gelu", "quantize_activation"),
        ("gelu", "quantize_output"),
        ("relu", "quantize_output"),
        ("softmax", "quantize_activation"),
    ]


def test_a_config_quantizes_a_layer_of_which_nobody_else_says_how():
    model = keras.Sequential([keras.Input((10,)), quantize_annotate_layer(CustomLayer(name="custom"), InnerConfig())])
    quantized = quantize_apply(model)
    assert with_weights(quantized) == ["custom/inner"]
    for before, after in zip(model.trainable_weights, quantized.trainable_weights, strict=True):
        assert np.array_equal(before, after)
    kernel = np.array(kwrap.unwrap_model(quantized).layers[0].inner.kernel)
    unit = np.abs(np.array(model.layers[0].layer.inner.kernel)).max() / 127
    np.testing.assert_allclose(kernel / unit, np.round(kernel / unit), atol=1e-4)


def test_a_config_that_names_what_is_no_weight_of_the_model_is_an_error():
    class Stray(Nothing):
        def get_weights_and_quantizers(self, layer):
            return [(keras.Variable([1.0]), quantizers.LastValueQuantizer(**EIGHT))]

    with pytest.raises(TargetError, match=r"get_weights_and_quantizers of Stray names .*'own'"):
        quantize_apply(simple(quantize_annotate_layer(layers.Dense(4, name="own"), Stray())))


def test_quantizers_of_ones_own_work_on_weights_and_outputs_and_are_saved(tmp_path):
    class Both(DenseConfig):
        def get_activations_and_quantizers(self, layer):
            return []

        def get_output_quantizers(self, layer):
            return [FixedRange()]

    model = simple(quantize_annotate_layer(layers.Dense(6, kernel_initializer="ones", name="own"), Both(FixedRange())))
    quantized = quantize_apply(model)
    for _, hook in kwrap.find_hooks(quantized, "quantize_weights_by"):
        (end,) = hook.weights
        end.assign(0.25)
    own = quantized.get_layer("own")
    inputs = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    expected = np.clip(inputs @ np.full((6, 6), 0.25, "float32"), -1, 1)
    np.testing.assert_allclose(own(inputs), expected, atol=1e-6)
    train(quantized)
    quantized.save(tmp_path / "model.keras")
    assert equal(quantized, keras.models.load_model(tmp_path / "model.keras"))


# --- quantizers_test, quant_ops_test ---------------------------------------------------------------------------------


class Owner:
    def add_weight(self, name, shape=(), initializer=None, trainable=True):
        return keras.Variable(initializer(shape), name=name, trainable=trainable)


@pytest.mark.parametrize("row", json.loads((HERE / "tfmot_quantizers.json").read_text())["rows"], ids=str)
def test_quantizers_give_what_tfmots_give(row):
    quantizer = getattr(quantizers, row["quantizer"])(**row["options"])
    variables = quantizer.build(BATCHES.shape[1:], "x", Owner())
    batches = [tf.constant(batch, tf.float32) for batch in BATCHES]
    outputs = [quantizer(batch, True, variables) for batch in batches]
    np.testing.assert_allclose(outputs, row["outputs"], atol=1e-6)
    np.testing.assert_allclose([variables["min_var"], variables["max_var"]], row["range"], rtol=1e-6)
    np.testing.assert_allclose(quantizer(batches[0], False, variables), row["inference"], atol=1e-6)


def test_a_fixed_quantizer_rounds_to_its_grid():
    quantizer = quantizers.FixedQuantizer(4, 0.0, 15.0, narrow_range=False)
    inputs = tf.constant([-3.0, 0.4, 7.6, 20.0])
    assert quantizer(inputs, True, quantizer.build(None, "x", None)).numpy().tolist() == [0.0, 0.0, 8.0, 15.0]


@pytest.mark.parametrize(
    "quantizer",
    [quantizers.LastValueQuantizer(**EIGHT), quantizers.FixedQuantizer(8, -1, 1, True)],
    ids=["last", "fixed"],
)
def test_quantizers_come_back_from_their_config_and_are_equal(quantizer):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(quantizer))
    assert (again, hash(again)) == (quantizer, hash(quantizer))
    assert quantizer not in (MOVING, FixedRange())


@pytest.mark.parametrize("bits", [1, 17, 8.0, True, None])
def test_bits_outside_2_to_16_are_an_error(bits):
    with pytest.raises(OptionValueError, match="is not an int that is at least 2 and at most 16"):
        quantizers.AllValuesQuantizer(bits, False, False, False)
    with pytest.raises(OptionValueError, match="is not an int that is at least 2 and at most 16"):
        quantizers.FixedQuantizer(bits, 0.0, 1.0, False)


# --- the default scheme ----------------------------------------------------------------------------------------------


SAVED = json.loads((HERE / "tfmot_scheme.json").read_text())


def of_tfmot(weights):
    """Return the network of SAVED, plain and quantized, with the weights and ranges that it has in tfmot."""
    model = keras.Sequential([keras.Input((6, 6, 2)), *layers_of(layers)])
    for layer in model.layers:
        for variable in layer.weights:
            variable.assign(np.array(weights[f"quant_{layer.name}/{variable.name}"]).reshape(variable.shape))
    quantized = quantize_model(model)
    for hook, name in with_ranges(quantized):
        hook.minimum.assign([weights[f"{name}_min"]])
        hook.maximum.assign([weights[f"{name}_max"]])
        hook.seen.assign([True])
    return model, quantized


def with_ranges(quantized):
    """Return the hooks with ranges, and the names that these have in tfmot."""
    rounded = dict(kwrap.find_hooks(quantized, QuantizeOutput))
    assert list(rounded) == ["relu", "second", "hidden", "logits"]
    ranges = {name: f"quant_{name}/post_activation" for name in rounded} | {"relu": "quant_relu/output"}
    ((_, entrance),) = kwrap.find_hooks(quantized, QuantizeInput)
    return [(entrance, "quantize_layer/quantize_layer"), *((rounded[at], ranges[at]) for at in rounded)]


def test_a_network_with_tfmots_weights_and_ranges_gives_what_it_gives_in_tfmot():
    weights = SAVED["weights"]
    model, quantized = of_tfmot(weights)
    step = (weights["quant_logits/post_activation_max"] - weights["quant_logits/post_activation_min"]) / 255
    outputs = quantized.predict(IMAGES, verbose=0)
    # A sum that lies between two points of a grid may go to the other one, as Keras 2 and 3 sum in another order.
    assert np.mean(np.abs(outputs - SAVED["outputs"]) < 1e-5) > 0.9
    np.testing.assert_allclose(outputs, SAVED["outputs"], atol=1.01 * step)
    assert not np.allclose(model.predict(IMAGES, verbose=0), SAVED["outputs"], atol=1e-3)


def test_a_networks_first_steps_lose_and_move_ranges_and_weights_as_in_tfmot():
    _, quantized = of_tfmot(SAVED["start"])
    quantized.compile("sgd", "mse")
    batches = IMAGES.reshape(-1, 4, 6, 6, 2)[:STEPS]
    losses = [float(quantized.train_on_batch(batch, np.zeros((4, 2)))) for batch in batches]
    np.testing.assert_allclose(losses, SAVED["losses"], rtol=1e-4)
    end = SAVED["end"]
    for hook, name in with_ranges(quantized):
        np.testing.assert_allclose(
            [hook.minimum[0], hook.maximum[0]], [end[f"{name}_min"], end[f"{name}_max"]], rtol=1e-5
        )
    for variable in quantized.trainable_weights:
        layer, name = variable.path.split("/")[-2:]
        expected = np.array(end[f"quant_{layer}/{name}"]).reshape(variable.shape)
        np.testing.assert_allclose(variable, expected, atol=1e-5)
        assert name != "kernel" or not np.allclose(
            variable, np.array(SAVED["start"][f"quant_{layer}/{name}"]).reshape(variable.shape), atol=1e-5
        )


# --- quantize_integration_test, quantize_functional_test -------------------------------------------------------------


def test_a_trained_model_is_saved_and_loads_in_a_scope_and_without(tmp_path):
    model = quantize_model(simple())
    train(model)
    model.save(tmp_path / "model.keras")
    with quantize_scope({"CustomLayer": CustomLayer}, {"FixedRange": FixedRange}):
        assert equal(model, keras.models.load_model(tmp_path / "model.keras"))
    assert equal(model, keras.models.load_model(tmp_path / "model.keras"))
    model.save_weights(tmp_path / "model.weights.h5")
    other = quantize_model(simple())
    other.load_weights(tmp_path / "model.weights.h5")
    assert equal(model, other)
    model.save(tmp_path / "model.h5")
    with quantize_scope():
        assert equal(model, keras.models.load_model(tmp_path / "model.h5", compile=False))


@pytest.mark.filterwarnings("ignore:Statistics for quantized inputs")  # tfmot's guide does not say them, either
def test_the_converter_makes_an_int8_file_of_a_quantized_model(tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    model = quantize_model(simple())
    train(model)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    interpreter = Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()
    matrices = [one for one in interpreter.get_tensor_details() if len(one["shape"]) == 2 and one["shape"][0] > 1]
    assert [one["dtype"] for one in matrices] == [np.int8, np.int8]
    inputs = data(model)[0][:1]
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], inputs)
    interpreter.invoke()
    outputs = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(outputs, model.predict(inputs, verbose=0), atol=1e-5)
