import keras
import numpy as np
import pytest
import tensorflow as tf

import kwrap
from kwrap.errors import OptionValueError
from kwrap_probe import FeatureTap

X = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")


def network() -> keras.Model:
    return keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(5, name="hidden"), keras.layers.Dense(2, name="head")]
    )


@pytest.mark.parametrize(("of", "place"), [("outputs", "hidden"), ("inputs", "head")])
def test_features_are_collected_eagerly_and_in_a_compiled_step(of, place):
    model = network()
    expected = model.get_layer("hidden")(X)
    kwrap.wrap_model(model, FeatureTap("mine", of=of), where=place)

    def features():
        with kwrap.collect(model, "mine") as found:
            model(X)
        return found

    for found in (features(), tf.function(features)()):
        assert list(found) == [place]
        np.testing.assert_allclose(found[place][0], expected, rtol=1e-6)


def test_gradients_flow_through_features():
    model = network()
    kwrap.wrap_model(model, FeatureTap(), where="hidden")
    kernel = model.get_layer("hidden").kernel.value
    with tf.GradientTape() as tape, kwrap.collect(model, "features") as found:
        model(X)
        loss = tf.reduce_sum(found["hidden"][0])
    np.testing.assert_allclose(tape.gradient(loss, kernel), np.tile(X.sum(0)[:, None], 5), rtol=1e-5)


def test_without_a_collector_it_adds_no_op():
    model, bare = network(), network()
    kwrap.wrap_model(model, FeatureTap(), where="hidden")
    counts = [
        len(tf.function(each).get_concrete_function(tf.TensorSpec((None, 3))).graph.get_operations())
        for each in (model, bare)
    ]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("options", [{"key": ""}, {"key": 3}, {"of": "weights"}])
def test_options_that_cannot_be_are_errors(options):
    with pytest.raises(OptionValueError, match="feature_tap"):
        FeatureTap(**options)
