"""The cases of tfmot's pruning_policy_test."""

import keras
import numpy as np
import pytest
from keras import layers

import kwrap
from kwrap.errors import OptionValueError, PlanError
from kwrap_prune import Prune
from kwrap_prune.tfmot import PruneForLatencyOnXNNPack, PruningPolicy, prune_low_magnitude


def head(tensor):
    """Return what XNNPACK's sparse inference starts after."""
    return layers.Conv2D(8, 3, strides=2, padding="valid")(layers.ZeroPadding2D(1)(tensor))


def point(tensor, name: str):
    return layers.Conv2D(8, 1, name=name)(tensor)


def mean(tensor):
    return layers.GlobalAveragePooling2D(keepdims=True)(tensor)


def network(*between) -> keras.Model:
    """Return a network with these layers after a 1x1 convolution."""
    i = keras.Input((8, 8, 3))
    x = point(head(i), "point")
    for layer in between:
        x = layer(x)
    return keras.Model(i, mean(x))


def pruned(model: keras.Model) -> list[str]:
    """Return the paths of the layers that the policy leaves to be pruned."""
    copy = prune_low_magnitude(model, pruning_policy=PruneForLatencyOnXNNPack())
    return [path for path, _ in kwrap.find_hooks(copy, Prune)]


def test_1x1_convolutions_are_pruned_and_nothing_else():
    assert pruned(network(layers.DepthwiseConv2D(3, padding="same"), layers.Conv2D(4, 1, name="last"))) == [
        "point",
        "last",
    ]


def test_a_model_without_any_is_left_as_it_is():
    i = keras.Input((8, 8, 3))
    o = layers.Activation("relu")(layers.DepthwiseConv2D(3, padding="same")(head(i)))
    assert pruned(keras.Model(i, mean(o))) == []


SUPPORTED = [
    layers.ReLU(),
    layers.LeakyReLU(),
    layers.ELU(),
    layers.Dropout(0.1),
    layers.Identity(),
    layers.BatchNormalization(),
    layers.UpSampling2D(interpolation="bilinear"),
    layers.Activation("relu"),
    layers.Activation("sigmoid"),
    layers.DepthwiseConv2D(3, padding="same"),
    layers.DepthwiseConv2D(5, padding="same"),
]
REFUSED = [
    layers.MaxPooling2D(),
    layers.Conv2D(4, 3, padding="same"),
    layers.Conv2D(4, 1, strides=2),
    layers.Conv2D(4, 1, groups=2),
    layers.GlobalAveragePooling2D(),
    layers.BatchNormalization(axis=1),
    layers.UpSampling2D(),
    layers.Activation("tanh"),
    layers.DepthwiseConv2D(3),  # no ZeroPadding2D before it
    layers.DepthwiseConv2D(3, strides=2, padding="same"),
    layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2),
    layers.DepthwiseConv2D(3, padding="same", dilation_rate=2),
    layers.DepthwiseConv2D(7, padding="same"),
]


def test_layers_that_xnnpack_knows_may_be_between():
    assert pruned(network(*SUPPORTED)) == ["point"]


@pytest.mark.parametrize("layer", REFUSED, ids=lambda layer: layer.name)
def test_another_layer_between_is_a_value_error_that_names_it(layer):
    after = [layers.Reshape((1, 1, -1))] if isinstance(layer, layers.GlobalAveragePooling2D) else []
    with pytest.raises(PlanError, match=rf"{layer.name}: a {type(layer).__name__} like this is not known"):
        pruned(network(layer, *after))


@pytest.mark.parametrize(("size", "padding", "strides"), [(3, 1, 1), (3, 1, 2), (5, 2, 1)])
def test_a_depthwise_convolution_may_have_its_padding_before_it(size, padding, strides):
    assert pruned(network(layers.ZeroPadding2D(padding), layers.DepthwiseConv2D(size, strides=strides))) == ["point"]


@pytest.mark.parametrize("padding", [2, ((1, 0), (1, 1))])
def test_a_depthwise_convolution_with_other_padding_before_it_is_a_value_error(padding):
    with pytest.raises(PlanError, match="DepthwiseConv2D"):
        pruned(network(layers.ZeroPadding2D(padding), layers.DepthwiseConv2D(3)))


@pytest.mark.parametrize("first", [{"padding": "same"}, {"strides": 1}, {"kernel_size": 5}])
def test_another_first_convolution_is_a_value_error(first):
    i = keras.Input((8, 8, 3))
    options = {"kernel_size": 3, "strides": 2, "padding": "valid"} | first
    o = layers.Conv2D(8, **options)(layers.ZeroPadding2D(1)(i))
    with pytest.raises(PlanError, match="not every input goes to a Conv2D with kernel_size=3"):
        pruned(keras.Model(i, mean(o)))


def test_another_last_layer_is_a_value_error():
    i = keras.Input((8, 8, 3))
    with pytest.raises(PlanError, match="not every output comes from a GlobalAveragePooling2D"):
        pruned(keras.Model(i, layers.AveragePooling2D(2)(point(head(i), "point"))))


def test_a_sequential_model_needs_to_be_built():
    parts = [
        layers.ZeroPadding2D(1),
        layers.Conv2D(4, 3, strides=2),
        layers.DepthwiseConv2D(3, padding="same"),
        layers.Conv2D(8, 1, name="point"),
        layers.GlobalAveragePooling2D(),
    ]
    with pytest.raises(PlanError, match="is not built: give it an Input"):
        pruned(keras.Sequential(parts))
    assert pruned(keras.Sequential([keras.Input((8, 8, 3)), *parts])) == ["point"]


def test_a_model_of_unknown_order_is_a_value_error():
    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(PlanError, match="is neither Functional nor Sequential"):
        PruneForLatencyOnXNNPack().ensure_model_supports_pruning(Subclassed(name="model"))


@pytest.mark.parametrize("functional", [True, False])
def test_models_inside_the_model_are_looked_into(functional):
    def inner(*parts):
        model = keras.Sequential([keras.Input((4, 4, 8)), *parts])
        i = keras.Input((4, 4, 8))
        return keras.Model(i, model(i), name="inner") if functional else model

    good = inner(layers.Conv2D(8, 1), layers.ReLU(), layers.Conv2D(16, 1))
    assert len(pruned(network(good, layers.ReLU()))) == 3
    for bad in (network(inner(layers.MaxPooling2D(name="pool"))), network(good, layers.MaxPooling2D(name="pool"))):
        with pytest.raises(PlanError, match="pool: a MaxPooling2D"):
            pruned(bad)


def test_a_layer_that_is_called_twice_is_pruned_once():
    conv = layers.Conv2D(8, 1, name="twice")
    assert pruned(network(conv, conv)) == ["point", "twice"]


def test_two_inputs_and_two_outputs():
    i1, i2 = keras.Input((16, 16, 3)), keras.Input((16, 16, 3))
    x1 = head(i1)
    x1 = layers.Add()([layers.DepthwiseConv2D(3, padding="same")(x1), point(x1, "a")])
    x2 = layers.DepthwiseConv2D(3, strides=2)(layers.ZeroPadding2D(1)(head(i2)))
    gate = layers.Activation("sigmoid")(point(mean(x2), "b"))
    x2 = layers.Multiply()([gate, layers.UpSampling2D(interpolation="bilinear")(point(x2, "c"))])
    x = mean(layers.Add()([x1, point(x2, "d")]))
    assert sorted(pruned(keras.Model([i1, i2], [point(x, "e"), point(x, "f")]))) == ["a", "b", "c", "d", "e", "f"]


def test_arithmetic_on_tensors_may_be_between():
    i = keras.Input((8, 8, 3))
    x = head(i)
    residual = point(x, "point")
    assert pruned(keras.Model(i, mean((x + residual - residual) * residual))) == ["point"]
    with pytest.raises(PlanError, match="a Exp like this"):
        pruned(keras.Model(i, mean(keras.ops.exp(residual))))


def test_a_clone_and_a_pruned_model_are_as_good():
    model = network()
    assert pruned(keras.models.clone_model(model)) == ["point"]
    assert pruned(prune_low_magnitude(model, pruning_policy=PruneForLatencyOnXNNPack())) == ["point"]


class WideOnly(PruningPolicy):
    """A policy of one's own."""

    def allow_pruning(self, layer):
        return getattr(layer, "units", 0) > 4

    def ensure_model_supports_pruning(self, model):
        if not model.built:
            raise ValueError("not built")


@pytest.mark.parametrize("build", [True, False])
def test_a_policy_of_ones_own_chooses_the_layers(build):
    parts = [layers.Dense(8, name="wide"), layers.Dense(4, name="narrow")]
    given = keras.Sequential([keras.Input((6,)), *parts])
    if build:
        model = prune_low_magnitude(given, pruning_policy=WideOnly())
    else:
        model = keras.Sequential(prune_low_magnitude(parts, pruning_policy=WideOnly()))
        model.build((None, 6))
    assert [path for path, _ in kwrap.find_hooks(model, Prune)] == ["wide"]
    assert [np.mean(keras.ops.convert_to_numpy(layer.kernel) == 0) for layer in model.layers] == [0.5, 0.0]


@pytest.mark.parametrize("given", [WideOnly, "wide"])
def test_what_is_no_policy_is_a_value_error(given):
    with pytest.raises(OptionValueError, match=r"prune_low_magnitude: pruning_policy=.* is no PruningPolicy, such as"):
        prune_low_magnitude(layers.Dense(8), pruning_policy=given)


def test_a_policy_of_ones_own_may_refuse_a_model():
    with pytest.raises(ValueError, match="not built"):
        prune_low_magnitude(keras.Sequential([layers.Dense(8)]), pruning_policy=WideOnly())
