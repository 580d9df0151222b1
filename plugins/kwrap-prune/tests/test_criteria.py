"""Criteria of one's own: a score that may be negative, and one threshold for several layers."""

import gc
import json
import math
import weakref

import keras
import numpy as np
import pytest

import kwrap
from kwrap.errors import HookCallError
from kwrap_prune import ConstantSparsity, Criterion, Magnitude, PolynomialDecay, Prune


@keras.saving.register_keras_serializable("kwrap_prune_tests")
class Signed(Criterion):
    """Prunes the lowest values: the most negative first."""

    def __init__(self, factor=1.0):
        self.factor = factor

    def score(self, target, value):
        return value * self.factor


@keras.saving.register_keras_serializable("kwrap_prune_tests")
class GlobalMagnitude(Criterion):
    """One threshold for several layers, which `share_threshold` tells it: the example of docs/pruning.md."""

    targets = ()  # with their hooks

    def score(self, target, value):
        return keras.ops.abs(value)

    def sparsity(self, target, scores, sparsity):
        if not self.targets:
            raise LookupError(
                "which layers share the threshold? Call share_threshold(model) once it is wrapped or loaded"
            )
        stored = [hook.constrain(each, each.variable, step=None) for hook, each in self.targets if each is not target]
        everyone = keras.ops.concatenate([keras.ops.ravel(scores), *map(keras.ops.ravel, map(keras.ops.abs, stored))])
        count = keras.ops.cast(keras.ops.round(sparsity * everyone.shape[0]), "int32")
        lowest = keras.ops.sort(everyone)[: keras.ops.maximum(count, 1)]
        below = keras.ops.where(count > 0, keras.ops.count_nonzero(scores <= lowest[-1]), 0)
        return keras.ops.cast(below, "float64") / math.prod(target.shape)

    def get_config(self):
        return {}


def share_threshold(model):
    """Let the layers of `model` with GlobalMagnitude share one threshold."""
    hooks = [hook for _, hook in kwrap.find_hooks(model, Prune) if isinstance(hook.criterion, GlobalMagnitude)]
    for hook in hooks:
        hook.criterion.targets = [(each, target) for each in hooks for target in each.target_weights]


def network(optimizer="sgd") -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(8, name="a"), keras.layers.Dense(5, name="b"), keras.layers.Dense(3)]
    )
    model.layers[0].kernel.assign(model.layers[0].kernel * 1.5)
    model.compile(optimizer, "mse")
    return model


def kernels(model: keras.Model) -> list[np.ndarray]:
    return [np.array(layer.kernel) for layer in model.layers[:2]]


def test_scores_of_ones_own_decide():
    model = network()
    before = kernels(model)
    kwrap.wrap_model(model, Prune(ConstantSparsity(0.25, begin_step=0), criterion=Signed()), where=["a", "b"])
    for kernel, was in zip(kernels(model), before, strict=True):
        expected = was.copy().ravel()
        expected[np.argsort(expected, kind="stable")[: expected.size // 4]] = 0
        np.testing.assert_array_equal(kernel.ravel(), expected)


def test_a_criterion_is_saved_with_the_model(tmp_path):
    model = network()
    kwrap.wrap_model(model, Prune(criterion=Signed(factor=-2.0)), where="a")
    model.train_on_batch(np.ones((2, 6)), np.ones((2, 3)))
    model.save(tmp_path / "model.keras")
    ((_, hook),) = kwrap.find_hooks(keras.models.load_model(tmp_path / "model.keras"), "prune")
    assert (type(hook.criterion), hook.criterion.factor) == (Signed, -2.0)


def test_magnitude_comes_back_from_its_config():
    stored = json.loads(json.dumps(keras.saving.serialize_keras_object(Magnitude())))
    assert keras.saving.deserialize_keras_object(stored) == Magnitude()


RULE = Prune(
    PolynomialDecay(0.25, 0.75, begin_step=1, end_step=5, power=1, frequency=1), criterion=GlobalMagnitude()
).at(["a", "b"])
X, Y = np.random.default_rng(0).normal(size=(2, 64, 6)).astype("float32")


def train(model: keras.Model, steps: int = 1) -> None:
    for _ in range(steps):
        model.train_on_batch(X, Y[:, :3])


def check(model: keras.Model, updates: int) -> list[int]:
    """See that as many as the schedule says are zero, of both layers together; return how many of each."""
    zeros = [int(np.sum(kernel == 0)) for kernel in kernels(model)]
    assert sum(zeros) == round(88 * min(0.25 + (updates - 1) / 8, 0.75))
    return zeros


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_one_threshold_serves_several_layers_in_training(optimizer):
    model, dense = network(optimizer), network(optimizer)
    kwrap.wrap_model(model, RULE)
    share_threshold(model)
    train(model)
    train(dense)
    # After one update, the lowest of all that a model without hooks has are zero, and the others as there.
    magnitudes = np.abs(np.concatenate([kernel.ravel() for kernel in kernels(dense)]))
    for kernel, reference in zip(kernels(model), kernels(dense), strict=True):
        np.testing.assert_array_equal(kernel, np.where(np.abs(reference) > np.sort(magnitudes)[21], reference, 0))
    for updates in range(2, 8):
        train(model)
        zeros = check(model, updates)
    assert zeros[0] / 48 < 0.75 < zeros[1] / 40


def test_two_models_with_the_same_rule_have_a_threshold_each():
    alone, one, other = network(), network(), network()
    for layer in other.layers[:2]:
        layer.kernel.assign(layer.kernel * 2.0)
    for model in (alone, one, other):
        kwrap.wrap_model(model, RULE)
        share_threshold(model)
    train(alone, 3)
    for _ in range(3):
        train(one)
        train(other)
    assert check(one, 3) == check(alone, 3)
    check(other, 3)
    for kernel, expected in zip(kernels(one), kernels(alone), strict=True):
        np.testing.assert_array_equal(kernel, expected)


def test_a_loaded_model_and_a_clone_share_a_threshold_again_once_they_are_told(tmp_path):
    model = network("adam")
    kwrap.wrap_model(model, RULE)
    share_threshold(model)
    train(model, 2)
    model.save(tmp_path / "model.keras")
    copies = [keras.models.load_model(tmp_path / "model.keras"), kwrap.clone_model(model)]
    train(model, 4)
    for copy in copies:
        share_threshold(copy)
        train(copy, 4)
        check(copy, 6)
        for kernel, expected in zip(kernels(copy), kernels(model), strict=True):
            np.testing.assert_array_equal(kernel, expected)


def test_a_criterion_that_was_not_told_of_the_others_can_say_so():
    model = network()
    kwrap.wrap_model(model, RULE)
    with pytest.raises(HookCallError, match=r"(?s)'prune' .* at 'a' .*which layers share the threshold\?"):
        train(model)


def test_what_a_criterion_knows_of_other_layers_is_gone_after_unwrapping():
    model = network()
    kwrap.wrap_model(model, RULE)
    share_threshold(model)
    train(model)
    hooks = [weakref.ref(hook) for _, hook in kwrap.find_hooks(model, Prune)]
    kwrap.unwrap_model(model)
    gc.collect()
    assert [hook() for hook in hooks] == [None, None]
