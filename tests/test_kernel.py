import logging

import numpy as np
import pytest
import tensorflow as tf

from kwrap import errors
from kwrap._kernel import Kernel, is_jit_compiled, kernel

DEFAULT = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"


@pytest.fixture
def traced():
    """Return the list of what was traced: each implementation of `add` appends its name."""
    return []


@pytest.fixture
def add(traced):
    @kernel
    def add(values, amount=1.0):
        """Add."""
        traced.append("add")
        return values + tf.cast(amount, values.dtype)

    return add


def calls(function: tf.types.experimental.GenericFunction, *args) -> list[str]:
    """Return the names of the functions that the graph of `function` calls, in its branches too."""
    graph = function.get_concrete_function(*args).graph.as_graph_def()
    nodes = [*graph.node, *(node for each in graph.library.function for node in each.node_def)]
    return [node.attr["f"].func.name for node in nodes if node.op in ("PartitionedCall", "StatefulPartitionedCall")]


def test_a_kernel_computes_what_its_function_does(add):
    assert isinstance(add, Kernel)
    np.testing.assert_array_equal(add(tf.constant([1.0, 2.0]), 3.0), [4.0, 5.0])
    np.testing.assert_array_equal(add(np.float32([1, 2])), [2.0, 3.0])
    np.testing.assert_array_equal(add(amount=3.0, values=[1.0]), [4.0])


def test_a_kernel_looks_like_its_function(add):
    assert (add.__name__, add.__doc__, add.__module__) == ("add", "Add.", __name__)
    assert "add" in repr(add)


def test_one_trace_serves_all_lengths_and_all_callers(add, traced):
    @tf.function
    def model(x, y):
        return add(x), add(y, 2.0), tf.cond(y[0] > 0, lambda: add(y, 3.0), lambda: y)

    add(tf.zeros([7]))
    outputs = model(tf.zeros([3]), tf.ones([5]))
    tf.function(lambda x: add(x), jit_compile=True)(tf.zeros([2]))
    tf.function(lambda x: add(x), jit_compile=True)(tf.zeros([4]))
    assert [len(each) for each in outputs] == [3, 5, 5]
    assert (add.trace_count, traced) == (1, ["add"])


def test_autograph_of_a_callers_function_is_silent_and_leaves_the_kernel_alone(add, traced, caplog):
    def caller(values):
        return add(values)

    with caplog.at_level(logging.WARNING, logger="tensorflow"):
        np.testing.assert_array_equal(tf.function(caller)(tf.constant([1.0, 2.0])), [2.0, 3.0])
    assert caplog.records == []
    assert traced == ["add"]


def test_each_dtype_is_one_trace(add, traced):
    for dtype in ("float32", "float16", "float32", "float16"):
        assert add(tf.zeros([2], dtype)).dtype == dtype
    assert (add.trace_count, traced) == (2, ["add"] * 2)


def test_a_call_inside_a_function_is_one_op_that_calls_the_shared_trace(add):
    called = calls(tf.function(lambda x, y: add(x) + add(y)), tf.zeros([3]), tf.zeros([3]))
    assert len(called) == 2
    assert len(set(called)) == 1


def test_the_cost_of_a_call_is_its_ops_and_what_they_read_and_write_at_the_lengths_given():
    @kernel
    def positive_or_doubled(values):
        doubled = tf.reshape(tf.reshape(values, [-1, 1]) * 2.0, [-1])  # writes and reads all
        return tf.cond(values[0] > 0, lambda: values, lambda: -doubled)  # and so does the branch

    vector, scalar, boolean = 4 * 1000, 4, 1
    of_ops = {
        "Mul": 2 * vector + scalar,
        "StridedSlice": vector + 4 * scalar,
        "Greater": 2 * scalar + boolean,
        "StatelessIf": boolean + 3 * vector,
        "Neg": 2 * vector,
    }
    cost = positive_or_doubled.cost(tf.TensorSpec([1000]))
    assert cost == (len(of_ops), sum(of_ops.values()))
    assert cost == positive_or_doubled.cost(np.zeros(1000, "float32"))
    assert positive_or_doubled.trace_count == 0


def test_the_cost_is_that_of_the_implementation_for_the_caller(add):
    @add.variant(jit_compile=True)
    def add_twice(values, amount):
        return add_once(values, amount / 2) + tf.cast(amount / 2, values.dtype)

    def add_once(values, amount):
        return values + tf.cast(amount, values.dtype)

    costs = []
    for jit_compile in (False, True):
        tf.function(lambda x: (costs.append(add.cost(x, 1.0)), x)[1], jit_compile=jit_compile)(tf.zeros([8]))
    assert [cost.ops for cost in costs] == [1, 4]
    assert costs[1].bytes > costs[0].bytes


def test_gradients_flow_through_a_kernel():
    @kernel
    def cube(values):
        return values**3

    x = tf.constant([1.0, 2.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.function(cube)(x)
    np.testing.assert_allclose(tape.gradient(y, x), [3.0, 12.0])


def test_a_trace_made_under_a_device_scope_is_not_bound_to_it():
    devices = []

    @kernel
    def where(values):
        result = tf.identity(values)
        devices.append(result.device)
        return result

    with tf.device("CPU:0"):
        tf.function(where)(tf.zeros([1]))
    assert devices == [""]


def test_a_kernel_is_one_function_to_tensorflow_whatever_the_number_of_its_callers(add):
    def runtime_graph(*inputs):
        function = tf.function(lambda *each: [add(x) for x in each]).get_concrete_function(*inputs)
        metadata = tf.compat.v1.RunMetadata()
        with tf.compat.v1.Session(graph=tf.Graph()) as session:
            tf.graph_util.import_graph_def(function.graph.as_graph_def(), name="")
            names = [tensor.name for tensor in (*function.inputs, *function.outputs)]
            feeds = {name: np.zeros(3, "float32") for name in names[: len(inputs)]}
            options = tf.compat.v1.RunOptions(output_partition_graphs=True)
            session.run(names[len(inputs) :], feeds, options=options, run_metadata=metadata)
        return [node.op for graph in metadata.partition_graphs for node in graph.node]

    x = tf.zeros([3])
    ops = runtime_graph(x, x, x)
    assert ops.count("PartitionedCall") == 3
    assert not {"AddV2", "Add"} & set(ops)


@pytest.mark.parametrize("xla_first", [False, True])
def test_kernels_that_a_kernel_calls_are_chosen_for_its_caller(add, xla_first):
    @add.variant(jit_compile=True)
    def add_xla(values, amount=1.0):
        return values + tf.cast(amount, values.dtype) + 100

    @kernel
    def double(values):
        return 2 * add(values)

    x = tf.ones([1])
    results = dict.fromkeys(sorted([False, True], reverse=xla_first))
    for jit_compile in results:
        results[jit_compile] = float(tf.function(double, jit_compile=jit_compile)(x)[0])
    assert results == {False: 4, True: 204}
    assert double(x) == 4
    assert double.trace_count == 2


def test_a_variant_that_comes_late_is_taken_inside_other_kernels_too(add):
    @kernel
    def double(values):
        return 2 * add(values)

    x = tf.ones([1])
    assert double(x) == 4

    @add.variant(device=DEFAULT)
    def add_there(values, amount=1.0):
        return values + tf.cast(amount, values.dtype) + 10

    assert double(x) == 24


def test_a_caller_that_xla_compiles_gets_the_variant_for_it(add, traced):
    @add.variant(jit_compile=True)
    def add_xla(values, amount=1.0):
        traced.append("xla")
        return values + tf.cast(amount, values.dtype) + 100

    def branch(x):
        return tf.cond(x[0] > 0, lambda: add(x), lambda: x)

    x = tf.ones([1])
    assert add(x) == 2
    assert tf.function(branch)(x) == 2
    assert tf.function(branch, jit_compile=True)(x) == 102
    assert tf.function(tf.function(branch), jit_compile=True)(x) == 102
    assert add(x) == 2
    assert (add.trace_count, traced) == (2, ["add", "xla"])


@pytest.mark.parametrize(
    ("device", "expected"), [(None, DEFAULT), ("CPU:0", "CPU"), ("GPU:0", "GPU"), ("TPU:0", "any")]
)
def test_the_variant_is_chosen_by_the_device_of_the_caller(device, expected):
    @kernel
    def on_any(values):
        return values

    @on_any.variant(device="cpu")
    def on_CPU(values):  # noqa: N802
        return values

    @on_any.variant(device="GPU")
    def on_GPU(values):  # noqa: N802
        return values

    @tf.function
    def caller(x):
        with tf.device(device):
            return on_any(x)

    (called,) = calls(caller, tf.zeros([1]))  # traced, not run: the machine need not have the device
    assert f"on_{expected}_" in called


def test_the_variant_with_most_conditions_wins_then_the_later_one(add):
    x = tf.zeros([1])
    add.variant(device=DEFAULT)(lambda values, amount: values + 10)
    assert add(x) == 10
    add.variant(jit_compile=False)(lambda values, amount: values + 20)
    assert add(x) == 20
    add.variant(device=DEFAULT, jit_compile=False)(lambda values, amount: values + 30)
    assert add(x) == 30
    assert tf.function(add, jit_compile=True)(x) == 10


def test_a_variant_defined_again_replaces_its_former_definition(add):
    def define(result):
        @add.variant(jit_compile=False)
        def same(values, amount):
            return values + result

    define(10)
    assert add([0.0]) == 10
    define(20)
    assert add([0.0]) == 20


def test_the_decorated_variant_stays_a_plain_function(add):
    def other(values, amount):
        return values

    assert add.variant(jit_compile=True)(other) is other


def test_a_tensor_that_is_not_flat_is_an_error_with_the_way_out(add):
    with pytest.raises(errors.KernelError, match=r"kernel 'add': 'values' has shape \(2, 3\); .*tf\.reshape") as raised:
        add(tf.zeros([2, 3]))
    assert raised.value.kernel == "add"


def test_a_tensor_of_unknown_rank_is_an_error(add):
    with pytest.raises(errors.KernelError, match="<unknown>"):
        tf.function(add, input_signature=[tf.TensorSpec(None)], autograph=False).get_concrete_function()


def test_an_argument_that_does_not_exist_is_a_type_error(add):
    with pytest.raises(TypeError, match="factor"):
        add(tf.zeros([2]), factor=2)


def test_a_kernel_with_parameters_that_cannot_be_tensors_is_an_error():
    with pytest.raises(errors.KernelError, match=r"\['factor', 'options'\]"):

        @kernel
        def bad(values, *, factor, **options):
            return values


def test_a_default_before_any_number_of_tensors_is_an_error():
    with pytest.raises(errors.KernelError, match=r"\['factor'\] have defaults, before"):

        @kernel
        def bad(factor=2.0, *values):
            return values


def test_any_number_of_tensors_is_taken_with_a_trace_for_each_number():
    @kernel
    def sums(factor, *values):
        return [factor * tf.reduce_sum(each) for each in values]

    for size in (2, 3):
        assert [float(each) for each in sums(2.0, tf.ones([size]), [1.0, 4.0])] == [2 * size, 10]
    assert sums.trace_count == 1
    assert sums(2.0) == []
    assert sums.trace_count == 2
    assert sums.cost(2.0, tf.TensorSpec([8]), tf.TensorSpec([8])).ops == 4
    with pytest.raises(errors.KernelError, match=r"'values' has shape \(2, 2\)"):
        sums(2.0, [1.0], tf.ones([2, 2]))


def test_what_is_traced_is_compiled_by_xla_in_a_function_that_says_so_and_in_those_it_calls():
    seen = []

    def look():
        seen.append(is_jit_compiled())
        return tf.cond(tf.constant(True), lambda: (seen.append(is_jit_compiled()), 1)[1], lambda: 2)

    look()
    for jit_compile in (None, True):
        tf.function(look, jit_compile=jit_compile)()
        tf.function(lambda: tf.function(look)(), jit_compile=jit_compile)()
    assert seen == [False] * 6 + [True] * 4


def test_a_variant_without_a_condition_is_an_error(add):
    with pytest.raises(errors.KernelError, match=r"device=\.\.\. or jit_compile=\.\.\."):
        add.variant()


@pytest.mark.parametrize("condition", [{"device": 3}, {"jit_compile": "yes"}, {"device": "GPU", "jit_compile": 1}])
def test_a_condition_that_is_none_is_an_error(add, condition):
    with pytest.raises(errors.KernelError, match='device type, such as "GPU", or True or False: device='):
        add.variant(**condition)


@pytest.mark.parametrize(
    "other", [lambda values, *amount: values, lambda values, *, amount: values], ids=["any number", "by name alone"]
)
def test_a_variant_with_parameters_of_another_kind_is_an_error(add, other):
    with pytest.raises(
        errors.KernelError, match=r"takes \(values, \*.*amount\), where the kernel takes \(values, amount"
    ):
        add.variant(jit_compile=True)(other)


def test_a_variant_with_other_parameters_is_an_error(add):
    with pytest.raises(errors.KernelError, match=r"takes \(x\), where the kernel takes \(values, amount\)"):
        add.variant(jit_compile=True)(lambda x: x)


def test_two_variants_for_the_same_callers_are_an_error_that_names_both(add):
    def one(values, amount):
        return values

    def two(values, amount):
        return values

    add.variant(device="GPU")(one)
    with pytest.raises(errors.KernelError, match=r"one and .*two are both its variant for device='GPU'"):
        add.variant(device="gpu")(two)
