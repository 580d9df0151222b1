"""What scripts for tfmot's guide do with kwrap_quantize.tfmot, and what goes wrong in them."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import kwrap
from kwrap.errors import OptionValueError, PlanError
from kwrap_quantize.tfmot import (
    QuantizeConfig,
    quantize_annotate_layer,
    quantize_annotate_model,
    quantize_apply,
    quantize_model,
    quantize_scope,
    quantizers,
)

LAST = quantizers.LastValueQuantizer(num_bits=8, per_axis=False, symmetric=True, narrow_range=True)
MOVING = quantizers.MovingAverageQuantizer(num_bits=8, per_axis=False, symmetric=False, narrow_range=False)
INPUTS = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
LABELS = np.random.default_rng(1).normal(size=(16, 3)).astype("float32")


class Config(QuantizeConfig):
    """Rounds what it is given for."""

    def __init__(self, kernel=False, activation=False, outputs=0):
        self.kernel, self.activation, self.outputs = kernel, activation, outputs

    def get_weights_and_quantizers(self, layer):
        return [(layer.kernel, LAST)] if self.kernel else []

    def get_activations_and_quantizers(self, layer):
        return [(layer.activation, MOVING)] if self.activation else []

    def get_output_quantizers(self, layer):
        return [MOVING] * self.outputs

    def get_config(self):
        return {"kernel": self.kernel, "activation": self.activation, "outputs": self.outputs}


@keras.saving.register_keras_serializable("test_tfmot_cases")
class Unknown(layers.Layer):
    """A layer of which nobody says how to quantize it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.activation = keras.activations.softmax
        self.second = keras.activations.relu

    def call(self, inputs):
        return self.second(self.activation(inputs) - 0.2)


def marked(layer, **what):
    return quantize_annotate_layer(layer, Config(**what))


def sequential(*more):
    return keras.Sequential([keras.Input((4,)), *more])


def hooks(model) -> list[tuple[str, str]]:
    return [(path, hook.hook_name.removeprefix("quantize_")) for path, hook in kwrap.find_hooks(model)]


def dense(name, units=4, **options):
    return layers.Dense(units, name=name, **options)


# --- configs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (lambda: [marked(dense("a"), kernel=True), marked(dense("b"), kernel=True)], ["a"]),
        (lambda: [marked(dense("a")), dense("b")], ["a"]),
        (lambda: [dense("a"), marked(dense("b"), activation=True), marked(dense("c"))], ["b"]),
        (lambda: [marked(Unknown(name="a"), outputs=1), marked(dense("b"))], ["a", "b"]),
        (lambda: [quantize_annotate_layer(dense("a")), marked(Unknown(name="b"))], ["a"]),
        (lambda: [marked(dense("a", activation=keras.activations.elu), activation=True)], ["a"]),
    ],
    ids=["all", "nothing of it", "in the middle", "unknown", "after a marked one", "activation in float"],
)
def test_what_a_layer_with_a_config_takes_is_rounded_unless_a_marked_one_gives_it(given, expected):
    quantized = quantize_apply(sequential(*given()))
    assert [path for path, hook in hooks(quantized) if hook == "input"] == expected
    assert {hook.range for _, hook in kwrap.find_hooks(quantized, "quantize_input")} == {"all_time"}


def test_of_several_quantizers_for_an_output_the_first_counts():
    assert hooks(quantize_apply(sequential(marked(dense("a"), outputs=2)))) == [("a", "input"), ("a", "output")]


def test_an_activation_that_hooks_cannot_round_is_an_error_that_says_so():
    class Second(Config):
        def get_activations_and_quantizers(self, layer):
            return [(layer.second, MOVING)]

    with pytest.raises(OptionValueError, match=r"relu.* is none of layer 'a'.*get_output_quantizers"):
        quantize_apply(sequential(quantize_annotate_layer(Unknown(name="a"), Second())))
    with pytest.raises(OptionValueError, match=r"before softmax of 'a', a Unknown.*get_output_quantizers"):
        quantize_apply(sequential(marked(Unknown(name="a"), activation=True)))


def test_a_config_that_does_not_come_back_is_an_error_when_it_is_given():
    class Needs(Config):
        def __init__(self, bits):
            super().__init__()

    with pytest.raises(OptionValueError, match="is not what its get_config says"):
        quantize_annotate_layer(dense("a"), Needs(4))


def test_a_config_of_a_class_that_was_defined_again_is_an_error():
    def define():
        class Again(Config):
            pass

        return Again

    first, second = define(), define()
    quantize_annotate_layer(dense("a"), second())
    with pytest.raises(OptionValueError, match="its class was defined again since"):
        quantize_annotate_layer(dense("a"), first())


# --- quantize_scope --------------------------------------------------------------------------------------------------


def clipping(module):
    """Return a Quantizer as `module` defines it."""

    class Clipping(quantizers.Quantizer):
        __module__, __qualname__ = module, "Clipping"

        def build(self, tensor_shape, name, layer):
            return {}

        def __call__(self, inputs, training, weights, **kwargs):
            return keras.ops.clip(inputs, -0.25, 0.25)

        def get_config(self):
            return {}

    return Clipping


def test_a_scope_finds_the_classes_of_the_script_that_saved_a_model(tmp_path):
    class Clipped(Config):
        def get_output_quantizers(self, layer):
            return [clipping("__main__")()]

    model = quantize_apply(sequential(quantize_annotate_layer(dense("a"), Clipped())))
    model.save(tmp_path / "model.keras")
    expected = model.predict(INPUTS, verbose=0)
    assert np.abs(expected).max() == 0.25
    keras.saving.get_custom_objects().pop("__main__>Clipping")  # as in another process
    with quantize_scope({"Clipping": clipping("training")}):
        loaded = keras.models.load_model(tmp_path / "model.keras")
    assert np.array_equal(loaded.predict(INPUTS, verbose=0), expected)


def test_a_scope_takes_dicts():
    with pytest.raises(OptionValueError, match="is no dict of classes by their names"):
        quantize_scope({"Config", Config})


# --- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [quantize_model, quantize_annotate_model])
def test_a_model_that_keras_cannot_copy_is_a_value_error(function):
    with pytest.raises(OptionValueError, match=r"cannot be copied: .*Lambda"):
        function(sequential(dense("a"), layers.Lambda(lambda x: x + 1.0)))


@pytest.mark.parametrize("function", [quantize_model, quantize_annotate_model, quantize_apply])
def test_a_model_without_layers_is_an_error(function):
    with pytest.raises(OptionValueError, match="has no layers"):
        function(keras.Sequential())


def test_a_model_is_quantized_once():
    quantized = quantize_model(sequential(dense("a")))
    with pytest.raises(ValueError, match="has such a hook already"):
        quantize_model(quantized)
    with pytest.raises(ValueError, match="has no marked layer"):
        quantize_apply(quantized)
    with pytest.raises(ValueError, match="has such a hook already"):
        quantize_apply(quantize_annotate_model(quantized))


def test_a_model_of_which_nobody_says_how_is_an_error_that_names_its_layers():
    with pytest.raises(PlanError, match=r"odd: LiteRT has no operator in integers for a Unknown.*Give it a Quant"):
        quantize_model(sequential(Unknown(name="odd")))


def test_a_lambda_layer_that_has_a_config_is_quantized_without_a_warning():
    given = quantize_annotate_layer(layers.Lambda(keras.activations.relu, name="relu"), Config(outputs=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantized = quantize_model(sequential(dense("a"), given))
    assert ("relu", "output") in hooks(quantized)


def test_layers_of_a_model_that_is_not_built_keep_their_weights_and_those_of_models_inside_are_marked():
    inner = sequential(dense("b"))
    first = dense("a")
    first.build((None, 4))
    model = keras.Sequential([layers.Dropout(0.1, name="dropout"), first, inner, layers.Lambda(keras.activations.relu)])
    with pytest.warns(UserWarning, match="is a Lambda layer"):
        annotated = quantize_annotate_model(model)
    annotated.build((None, 4))
    assert [path for path, _ in hooks(annotated)] == ["dropout", "a", f"{inner.name}/b"]
    for before, after in zip([first.kernel, inner.weights[0]], annotated.get_weights()[::2], strict=True):
        assert np.array_equal(before, after)


# --- training --------------------------------------------------------------------------------------------------------


def test_training_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(tmp_path):
    def train(model, **options):
        model.fit(INPUTS, LABELS, batch_size=8, shuffle=False, verbose=0, **options)

    model = sequential(dense("a", activation="relu"), layers.BatchNormalization(name="norm"), dense("b", 3))
    whole, half = quantize_model(model), quantize_model(model)
    for each in (whole, half):
        each.compile(keras.optimizers.Adam(0.01), "mse")
    train(whole, epochs=4)
    train(half, epochs=2, callbacks=[keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")])
    with quantize_scope():
        loaded = keras.models.load_model(tmp_path / "2.keras")
    train(loaded, initial_epoch=2, epochs=4)
    for one, other in zip(whole.weights, loaded.weights, strict=True):
        assert np.array_equal(one, other)
    assert np.array_equal(whole.predict(INPUTS, verbose=0), loaded.predict(INPUTS, verbose=0))
