"""Criteria of one's own: a score that may be negative, and one threshold for several layers."""

import json
from collections import defaultdict

import keras
import numpy as np

import kwrap
from kwrap_prune import ConstantSparsity, Criterion, Magnitude, PolynomialDecay, Prune


@keras.saving.register_keras_serializable("kwrap_prune_tests")
class Signed(Criterion):
    """Prunes the lowest values: the most negative first."""

    def __init__(self, factor=1.0):
        self.factor = factor

    def score(self, target, value):
        return value * self.factor


_groups = defaultdict(list)


@keras.saving.register_keras_serializable("kwrap_prune_tests")
class GlobalMagnitude(Criterion):
    """One threshold for all targets of a group: the lowest magnitudes of all of them together are pruned."""

    def __init__(self, group):
        self.group = group

    def add_target(self, target):
        _groups[self.group].append(target)

    def score(self, target, value):
        return keras.ops.abs(value)

    def sparsity(self, target, scores, sparsity):
        others = [t for t in _groups[self.group] if t is not target]
        everyone = [scores, *(keras.ops.abs(keras.ops.convert_to_tensor(other.variable)) for other in others)]
        pooled = keras.ops.sort(keras.ops.concatenate([keras.ops.ravel(each) for each in everyone]))
        size = pooled.shape[0]
        count = keras.ops.cast(keras.ops.round(size * keras.ops.cast(sparsity, "float64")), "int32")
        threshold = keras.ops.where(count > 0, pooled[keras.ops.maximum(count - 1, 0)], -1.0)
        below = keras.ops.count_nonzero(scores <= threshold)
        return keras.ops.cast(below, "float64") / np.prod(target.shape)


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(8, name="a"), keras.layers.Dense(5, name="b"), keras.layers.Dense(3)]
    )
    model.layers[0].kernel.assign(model.layers[0].kernel * 1.5)
    # Without momentum: as one layer's masks are computed, those of the next still have what an optimizer left there.
    model.compile("sgd", "mse")
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


def test_one_threshold_serves_several_layers_in_training():
    model = network()
    schedule = PolynomialDecay(0.25, 0.75, begin_step=0, end_step=4, power=1, frequency=1)
    rule = Prune(schedule, criterion=GlobalMagnitude("in training"))
    before = np.concatenate([np.abs(kernel).ravel() for kernel in kernels(model)])
    kwrap.wrap_model(model, rule, where=["a", "b"])
    left = np.concatenate([np.abs(kernel).ravel() for kernel in kernels(model)])
    np.testing.assert_array_equal(np.sort(left)[22:], np.sort(before)[22:])
    x, y = np.random.default_rng(0).normal(size=(2, 64, 6)).astype("float32")
    for step in range(1, 7):
        model.train_on_batch(x, y[:, :3])
        zeros = [int(np.sum(kernel == 0)) for kernel in kernels(model)]
        assert sum(zeros) == round(88 * min(0.25 + step / 8, 0.75))
    assert zeros[0] / 48 < 0.75 < zeros[1] / 40
