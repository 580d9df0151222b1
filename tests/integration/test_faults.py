"""A hook that raises in the middle of something leaves a model that works, can be unwrapped, and can be saved."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kwrap
from kwrap import errors
from kwrap_prune import Prune

from .. import composites
from ..specimens import Adapter, objects_of_kwrap, same, values

FAILING: list[str] = []


@kwrap.hook(layer_type=keras.layers.Layer, name="faults_fail")
class Fail(kwrap.Hook):
    """Raise in the methods that `FAILING` names, from the third call on."""

    def build(self, layer):
        self.calls = self.add_weight((), dtype="int32", initializer="zeros", trainable=False, name="calls")

    def _fail(self, method):
        if method in FAILING:
            if method == "merge" or int(self.calls) >= 2:
                raise ZeroDivisionError(method)
            self.calls.assign_add(1)

    def call(self, call_next, inputs, *, training):
        outputs = call_next(inputs)
        if training:
            self._fail("call")
        return outputs

    def parametrize(self, target, value, *, training):
        if training:
            self._fail("parametrize")
        return value

    def constrain(self, target, value):
        self._fail("constrain")
        return value

    def merge(self, target, value):
        self._fail("merge")
        return value


@pytest.fixture(autouse=True)
def _works_again():
    yield
    FAILING.clear()


def wrapped(make):
    model = composites.compiled(make(), run_eagerly=True)
    inner = "**/down" if make is composites.in_graph else "block_1/down"
    kwrap.wrap_model(model, [Prune(), Fail().at(inner), Adapter().at("**/up")])
    return model


def check_usable(model, tmp_path):
    """Check that a model trains on, is saved and loaded, and becomes a plain one that computes the same."""
    FAILING.clear()
    composites.train(model, 1)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    outputs = composites.outputs(model)
    assert same(composites.outputs(loaded), outputs)
    assert same(values(loaded.optimizer.variables), values(model.optimizer.variables))
    assert kwrap.unwrap_model(model) is model
    assert objects_of_kwrap(model) == []
    np.testing.assert_allclose(composites.outputs(model), outputs, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "method"),
    [(composites.in_graph, method) for method in ("call", "parametrize", "constrain")] + [(composites.tagger, "call")],
)
def test_a_hook_that_raises_in_the_middle_of_fit_leaves_the_model_whole(make, method, tmp_path):
    model = wrapped(make)
    FAILING.append(method)
    with pytest.raises(errors.HookCallError, match=f"'faults_fail' failed at '.*down' in {method}: ZeroDivisionError"):
        model.fit(composites.inputs(), composites.targets(), batch_size=1, epochs=9, verbose=0)
    assert int(model.optimizer.iterations) == 2
    check_usable(model, tmp_path)


def test_so_does_an_error_inside_of_a_compiled_step(tmp_path):
    @kwrap.hook(layer_type=keras.layers.Layer, name="faults_assert")
    def check(call_next, inputs, training):
        if training:
            with tf.control_dependencies([tf.debugging.assert_less(inputs, 1e6)]):
                inputs = tf.identity(inputs)
        return call_next(inputs)

    inputs = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="a"), keras.layers.Dense(2, name="b")])
    model.compile("adam", "mse")
    kwrap.wrap_model(model, [Prune(), check().at("a")])
    bad = np.where(np.arange(8)[:, None] == 5, np.float32(1e7), inputs)
    with pytest.raises(tf.errors.InvalidArgumentError):
        model.fit(bad, inputs[:, :2], batch_size=2, shuffle=False, verbose=0)
    assert int(model.optimizer.iterations) in (2, 3)  # TensorFlow may have done a part of the third step
    model.fit(inputs, inputs[:, :2], batch_size=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert same(loaded(inputs), model(inputs))
    before = np.asarray(model(inputs))
    assert same(kwrap.unwrap_model(model)(inputs), before)


@pytest.mark.parametrize("make", [composites.in_graph, composites.tagger])
def test_a_hook_that_raises_while_it_is_taken_off_leaves_the_model_wrapped_and_whole(make, tmp_path):
    model = wrapped(make)
    outputs, hooks = composites.outputs(model), [(path, hook.name) for path, hook in kwrap.find_hooks(model)]
    FAILING.append("merge")
    with pytest.raises(errors.HookCallError, match=r"'faults_fail' failed at '.*down' in merge: ZeroDivisionError"):
        kwrap.unwrap_model(model)
    assert [(path, hook.name) for path, hook in kwrap.find_hooks(model)] == hooks
    assert same(composites.outputs(model), outputs)
    check_usable(model, tmp_path)
