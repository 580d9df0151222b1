import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kwrap
from kwrap._constraint import ConstraintChain, constrain, project, release

X = np.ones((4, 3), "float32")
Y = np.zeros((4, 2), "float32")


@kwrap.hook(layer_type=keras.layers.Layer, name="constraint_plus")
class Plus(kwrap.Hook):
    """Add to the stored weights: what is applied twice, or not at all, shows."""

    def __init__(self, amount=1.0, **kwargs):
        super().__init__(**kwargs)
        self.amount = amount

    def constrain(self, target, value):
        return value + self.amount


@kwrap.hook(layer_type=keras.layers.Layer, name="constraint_times")
class Times(kwrap.Hook):
    """Multiply the stored weights."""

    def __init__(self, factor=2.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def constrain(self, target, value):
        return value * self.factor


@kwrap.hook(layer_type=keras.layers.Layer, name="constraint_first_row")
class FirstRow(kwrap.Hook):
    """Hold the first row of the stored weights at zero, and count the updates."""

    def constrain(self, target, value, *, step):
        return value * np.float32([[0]] + [[1]] * (value.shape[0] - 1))


class AddTen(keras.constraints.Constraint):
    def __call__(self, value):
        return value + 10.0


def line(**options) -> keras.Sequential:
    """Return a model of one linear Dense, of (n, 3) to (n, 2), its kernel all ones."""
    options = {"kernel_initializer": "ones", "use_bias": False, "name": "dense", **options}
    return keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2, **options)])


def kernel_of(model: keras.Model) -> np.ndarray:
    return np.array(model.get_layer("dense").kernel)


@pytest.fixture
def variable():
    return keras.Variable(np.ones((3, 2), "float32"))


# --- the chain -------------------------------------------------------------------------------------------------------


def test_the_users_own_constraint_comes_first_then_the_entries_in_order(variable):
    variable.constraint = AddTen()
    constrain(variable, "a", lambda value, updated: value * 2)
    constrain(variable, "b", lambda value, updated: value + 1)
    np.testing.assert_array_equal(variable.constraint(variable), np.full((3, 2), (1 + 10) * 2 + 1))
    np.testing.assert_array_equal(variable, np.ones((3, 2)))  # the optimizer assigns


def test_the_chain_takes_tensors_and_variables_alike(variable):
    constrain(variable, "a", lambda value, updated: value * 2)
    np.testing.assert_array_equal(variable.constraint(variable.value), variable.constraint(variable))


def test_a_projection_is_no_update_and_leaves_the_users_own_constraint_out(variable):
    seen = []
    variable.constraint = AddTen()
    constrain(variable, "a", lambda value, updated: seen.append(updated) or value * 2)
    project(variable)
    np.testing.assert_array_equal(variable, np.full((3, 2), 2.0))
    variable.constraint(variable)
    assert seen == [False, True]


def test_a_variable_without_a_chain_is_not_projected(variable):
    variable.constraint = AddTen()
    project(variable)
    np.testing.assert_array_equal(variable, np.ones((3, 2)))


def test_owners_are_told_apart_by_identity_not_by_equality(variable):
    one, equal = [1], [1]
    constrain(variable, one, lambda value, updated: value + 1)
    constrain(variable, equal, lambda value, updated: value * 5)
    release(variable, one)
    np.testing.assert_array_equal(variable.constraint(variable), np.full((3, 2), 5.0))


def test_releasing_who_owns_nothing_changes_nothing(variable):
    own = variable.constraint = AddTen()
    release(variable, "a")
    assert variable.constraint is own
    constrain(variable, "a", lambda value, updated: value)
    chain = variable.constraint
    release(variable, "b")
    assert variable.constraint is chain


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from("abcd"), max_size=8), st.permutations("abcd"), st.booleans())
def test_owners_leave_in_any_order_and_the_last_gives_the_own_constraint_back(owners, leaving, has_own):
    own = AddTen() if has_own else None
    variable = keras.Variable(np.zeros((2,), "float32"))
    variable.constraint = own
    for place, owner in enumerate(owners):
        constrain(variable, owner, lambda value, updated, place=place: value * 2 + place)
    for left in range(len(leaving)):
        expected = np.full((2,), 10.0 if has_own else 0.0)
        staying = [(place, owner) for place, owner in enumerate(owners) if owner in leaving[left:]]
        for place, _ in staying:
            expected = expected * 2 + place
        assert isinstance(variable.constraint, ConstraintChain) == bool(staying)
        if staying:
            np.testing.assert_array_equal(variable.constraint(variable), expected)
        release(variable, leaving[left])
    assert variable.constraint is own


# --- in a model ------------------------------------------------------------------------------------------------------


def test_hooks_act_on_the_stored_weights_when_attached_in_list_order():
    model = kwrap.wrap_model(line(), [Plus(), Times()])
    np.testing.assert_array_equal(kernel_of(model), np.full((3, 2), (1 + 1) * 2))


def test_the_users_own_constraint_is_not_run_when_attached_but_first_at_an_update():
    model = line(kernel_constraint=AddTen())
    model.compile(keras.optimizers.SGD(0.0), "mse")
    kwrap.wrap_model(model, [Plus(), Times()])
    model.train_on_batch(X, Y)
    np.testing.assert_array_equal(kernel_of(model), np.full((3, 2), (4 + 10 + 1) * 2))


def optimizers():
    return {
        "sgd": keras.optimizers.SGD(0.1, momentum=0.9),
        "adam": keras.optimizers.Adam(0.1, weight_decay=0.01),
        "scaled": keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=8.0),
        "adafactor": keras.optimizers.Adafactor(0.1),
    }


@pytest.mark.parametrize("name", optimizers())
def test_every_optimizer_stores_what_the_hooks_want(name):
    bare, model = line(kernel_constraint=FirstRowIsZero()), line()
    kwrap.wrap_model(model, FirstRow())
    bare.get_layer("dense").kernel.assign(kernel_of(model))
    for each in (bare, model):
        each.compile(optimizers()[name], "mse")
        each.fit(X, Y, epochs=3, batch_size=2, verbose=0)
    assert not kernel_of(model)[0].any()
    assert (kernel_of(model)[1:] != 1).all()
    np.testing.assert_array_equal(kernel_of(model), kernel_of(bare))


class FirstRowIsZero(keras.constraints.Constraint):
    """What FirstRow does, as a constraint of Keras."""

    def __call__(self, value):
        return value * np.float32([[0], [1], [1]])


def test_a_custom_loop_stores_what_the_hooks_want():
    import tensorflow as tf

    model = kwrap.wrap_model(line(), FirstRow())
    optimizer = keras.optimizers.SGD(0.1)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(X) ** 2)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

    step()
    # By hand: y = 2 in both columns, dloss/dkernel = 2 * y / 2.
    np.testing.assert_allclose(kernel_of(model), [[0, 0], [0.8, 0.8], [0.8, 0.8]], rtol=1e-6)


def test_a_frozen_layer_is_projected_when_attached():
    model = line(trainable=False)
    kwrap.wrap_model(model, FirstRow())
    np.testing.assert_array_equal(kernel_of(model), [[0, 0], [1, 1], [1, 1]])


def test_whatever_was_assigned_what_is_saved_and_what_unwrapping_leaves_is_projected(tmp_path):
    model, bare = kwrap.wrap_model(line(), FirstRow()), line()
    model.get_layer("dense").kernel.assign(np.full((3, 2), 7.0))
    model.save_weights(tmp_path / "a.weights.h5")
    bare.load_weights(tmp_path / "a.weights.h5")
    np.testing.assert_array_equal(kernel_of(bare), [[0, 0], [7, 7], [7, 7]])
    model.get_layer("dense").kernel.assign(np.full((3, 2), 5.0))
    kwrap.unwrap_model(model)
    np.testing.assert_array_equal(kernel_of(model), [[0, 0], [5, 5], [5, 5]])


def test_the_average_of_use_ema_is_projected_when_it_is_saved(tmp_path):
    model = line()
    model.compile(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5), "mse")
    model.fit(X, Y, epochs=1, verbose=0)  # the average starts at values whose first row is not zero
    kwrap.wrap_model(model, FirstRow())
    model.fit(X, Y, epochs=1, verbose=0)
    assert kernel_of(model)[0].any()  # Keras' doing, and why saving projects
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert not kernel_of(loaded)[0].any()
    np.testing.assert_array_equal(kernel_of(loaded), kernel_of(model))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_wrapped_models_of_one_layer_each_takes_its_own_hooks_off(order):
    own = AddTen()
    shared = line(kernel_constraint=own).get_layer("dense")
    wrappers = [kwrap.Wrapper(shared, [Plus()]), kwrap.Wrapper(shared, [Times()])]
    models = [keras.Sequential([keras.layers.Input((3,)), wrapper]) for wrapper in wrappers]
    left = [lambda value: value + 1, lambda value: value * 2]
    kwrap.unwrap_model(models[order[0]], merge=False)
    assert isinstance(shared.kernel.constraint, ConstraintChain)
    value = left[order[1]](np.zeros((3, 2)) + 10)
    np.testing.assert_array_equal(shared.kernel.constraint(np.zeros((3, 2), "float32")), value)
    kwrap.unwrap_model(models[order[1]], merge=False)
    assert shared.kernel.constraint is own


@pytest.mark.parametrize("first", ["constraint_plus", "constraint_times"])
def test_hooks_of_one_layer_come_off_in_any_order(first):
    own = AddTen()
    model = kwrap.wrap_model(line(kernel_constraint=own), [Plus(), Times()])
    kernel = model.get_layer("dense").kernel
    kwrap.unwrap_model(model, first, merge=False)  # they change whatever they get, so none is merged exactly alone
    expected = 10 * 2 if first == "constraint_plus" else 10 + 1
    np.testing.assert_array_equal(kernel.constraint(np.zeros((3, 2), "float32")), np.full((3, 2), expected))
    kwrap.unwrap_model(model)
    assert kernel.constraint is own


def test_a_variable_that_is_no_target_keeps_its_constraint():
    own = AddTen()
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2, bias_constraint=own, name="dense")])
    kwrap.wrap_model(model, Plus())
    assert model.get_layer("dense").bias.constraint is own


# --- on two replicas -------------------------------------------------------------------------------------------------

# Logical devices are set before TensorFlow starts, so in a process of their own.
REPLICAS = """
import json
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import kwrap

@kwrap.hook(layer_type=keras.layers.Dense)
class Largest(kwrap.Hook):
    def build(self, layer):
        for target in self.target_weights:
            self.add_state(target, "mask", target.shape, dtype="bool", initializer="ones")
            self.add_state(target, "mean")

    def parametrize(self, target, value):
        return keras.ops.where(self.state(target, "mask"), value, 0)

    def constrain(self, target, value, *, step):
        if step is not None:
            size = keras.ops.abs(value)
            self.state(target, "mask").assign(size > keras.ops.mean(size))
            self.state(target, "mean").assign(keras.ops.mean(size))
        return keras.ops.where(self.state(target, "mask"), value, 0)

def train(replicas):
    keras.utils.set_random_seed(0)
    strategy = tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(replicas)])
    with strategy.scope():
        model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(4)])
        kwrap.wrap_model(model, Largest())
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    x, y = np.random.default_rng(0).normal(size=(2, 8, 4)).astype("float32")
    model.fit(x[:, :3], y, epochs=4, batch_size=4, shuffle=False, verbose=0)
    return [[copy.numpy().tolist() for copy in strategy.experimental_local_results(variable.value)]
            for variable in model.variables]

print(json.dumps([train(2), train(1)]))
"""


@pytest.fixture(scope="module")
def replicas():
    """Return the variables (kernel, bias, mask, mean, step) of a model trained on two replicas, and on one."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", REPLICAS], env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_replicas_agree_on_the_weights_and_on_the_state_of_constraints(replicas):
    two, _ = replicas
    assert [len(copies) for copies in two] == [2] * 5
    for first, second in two:
        assert first == second


def test_replicas_store_what_one_would(replicas):
    two, one = replicas
    for (first, _), (alone,) in zip(two, one, strict=True):
        np.testing.assert_allclose(first, alone, rtol=1e-5, atol=1e-6)
    kernel, _, mask, _, step = (first for first, _ in two)
    assert step == 8
    assert np.array_equal(np.array(kernel) != 0, mask)
    assert 0 < np.sum(mask) < 12
