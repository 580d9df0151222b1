import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import kwrap
from kwrap_prune import ConstantSparsity, Magnitude, PolynomialDecay, Prune
from kwrap_prune._schedules import Schedule
from kwrap_prune._update import Timing, update_of_magnitudes

EACH_STEP = ConstantSparsity(0.5, begin_step=0, frequency=1)


@keras.saving.register_keras_serializable("kwrap_prune_tests")
class Same(Magnitude):
    """Score as Magnitude does, but not known to."""


SPARSITY = [0.5]


@keras.saving.register_keras_serializable("kwrap_prune_tests")
def changing(step):
    """Return what is to be had at the time of tracing."""
    return keras.ops.full((), SPARSITY[0], "float64")


@keras.saving.register_keras_serializable("kwrap_prune_tests")
@dataclasses.dataclass(frozen=True)
class Milestones(Schedule):
    """A schedule with a field that has no hash once it was saved and loaded: a tuple comes back as a list."""

    at: tuple[int, ...]

    def __call__(self, step):
        due = keras.ops.any(keras.ops.equal(step, keras.ops.convert_to_tensor(list(self.at))))
        return due, keras.ops.convert_to_tensor(0.5, "float64")


@keras.saving.register_keras_serializable("kwrap_prune_tests")
class Unequal(Schedule):
    """A schedule whose copies do not compare."""

    def __call__(self, step):
        return EACH_STEP(step)


def deep(depth: int, schedule=EACH_STEP, **options) -> keras.Model:
    """Return a pruned network of so many layers of several sizes."""
    model = keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(4 + i % 3) for i in range(depth))])
    model.compile("sgd", "mse")
    return kwrap.wrap_model(model, Prune(schedule, **options))


def graph_of_step(model: keras.Model) -> tf.compat.v1.GraphDef:
    """Return the graph of a training step."""
    data = tf.ones((2, 4)), tf.ones((2, model.output_shape[-1]))
    return tf.function(lambda *batch: model.train_step(batch)).get_concrete_function(*data).graph.as_graph_def()


def conditions(model: keras.Model) -> int:
    """Return how many conditions a step has, whose branches are functions that TensorFlow optimizes one by one."""
    graph = graph_of_step(model)
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return sum(node.op in ("If", "StatelessIf") for node in nodes)


@pytest.mark.parametrize(
    "schedule", [EACH_STEP, PolynomialDecay(0.0, 0.5, 0, 10, frequency=10)], ids=["constant", "decay"]
)
def test_a_deeper_model_has_no_more_conditions(schedule):
    assert conditions(deep(6, schedule)) == conditions(deep(2, schedule))


def test_a_step_has_so_many_ops_more_for_each_kernel():
    """A guard without timing: reading it, its gradient, the call of the shared update, storing mask and step."""

    def ops(model: keras.Model) -> int:
        nodes = graph_of_step(model).node
        taken = {name.lstrip("^").partition(":")[0] for node in nodes for name in node.input}
        # A kernel that has to know its caller's device, as one has variants for some, makes a constant for nobody.
        return sum(node.op != "Const" or node.name in taken for node in nodes)

    for depth in (2, 4):
        pruned = deep(depth)
        more = ops(pruned) - ops(kwrap.unwrap_model(kwrap.clone_model(pruned)))
        assert more == 31 * depth


def test_hooks_with_equal_options_share_a_trace_and_others_do_not():
    kernel = update_of_magnitudes(Timing(EACH_STEP, 1), regrow=False)
    deep(1).fit(np.ones((2, 4)), np.ones((2, 4)), verbose=0)
    traced = kernel.trace_count
    deep(5).fit(np.ones((2, 4)), np.ones((2, 5)), verbose=0)
    assert kernel.trace_count == traced
    equal = ConstantSparsity(0.5, begin_step=0, frequency=1)
    assert update_of_magnitudes(Timing(equal, 1), regrow=False) is kernel
    assert update_of_magnitudes(Timing(equal, 2), regrow=False) is not kernel
    assert update_of_magnitudes(Timing(equal, 1), regrow=True) is not kernel


def test_a_function_that_reads_what_changes_is_read_for_each_model():
    sparsities = []
    for SPARSITY[0] in (0.5, 0.75):
        kernel = deep(1, changing).layers[0].kernel
        sparsities.append(1 - np.count_nonzero(kernel) / np.size(kernel))
    assert sparsities == [0.5, 0.75]


def test_a_schedule_with_a_field_that_has_no_hash_trains_also_when_loaded(tmp_path):
    model = deep(1, Milestones((0, 1)))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    loaded.fit(np.ones((2, 4)), np.ones((2, 4)), verbose=0)
    assert np.count_nonzero(loaded.layers[0].kernel) == 8


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("regrow", [False, True])
@pytest.mark.parametrize("options", [{"criterion": Same()}, {"schedule": Unequal()}], ids=["criterion", "schedule"])
def test_what_is_shared_computes_what_is_computed_for_each_layer_alone(options, regrow, jit_compile):
    keras.utils.set_random_seed(1)
    shared = deep(3, regrow=regrow)
    alone = deep(3, **{"schedule": EACH_STEP, "regrow": regrow} | options)
    alone.set_weights(shared.get_weights())
    inputs, outputs = np.random.default_rng(0).normal(size=(2, 8, 4)).astype("float32")
    outputs = np.concatenate([outputs, outputs], axis=1)[:, : shared.output_shape[-1]]
    for model in (shared, alone):
        model.compile(keras.optimizers.SGD(0.5), "mse", jit_compile=jit_compile)
        model.fit(inputs, outputs, batch_size=2, shuffle=False, verbose=0)
    assert shared.count_params() == alone.count_params()
    for one, other in zip(shared.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_update_goes_over_the_weights_as_often_as_ever():
    """A guard without timing: bytes a weight that an update reads and writes, masks computed, beside the selection.

    Of float32 weights: nine passes that read or write 4 bytes or 8, and some over bools of one.
    """
    kernel = update_of_magnitudes(Timing(EACH_STEP, 1), regrow=False)
    costs = [kernel.cost(tf.TensorSpec([length]), tf.TensorSpec([length], tf.bool), 1) for length in (1000, 2000)]
    assert (costs[1].bytes - costs[0].bytes) / 1000 == 62
    assert costs[0].ops == costs[1].ops
