import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import kwrap
from kwrap._scope import ReadScope
from kwrap._surgery import replace_layers
from kwrap.errors import WrapperStateError


@kwrap.hook(layer_type=layers.Layer, name="scope_double")
class Double(kwrap.Hook):
    """Let the layer read twice its weights: as one whose weights are twice as large."""

    def parametrize(self, target, value):
        return value * 2


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def twins(make, *shape, targets=None):
    """Return a Wrapper whose layer reads twice its targets, and a bare layer of twice those weights."""
    layer, bare = make(), make()
    layer.build(shape)
    bare.build(shape)
    for source, target in zip(layer.variables, bare.variables, strict=True):
        target.assign(source)
    wrapper = kwrap.Wrapper(layer, [Double(targets=targets)])
    doubled = [target.variable.path for target in wrapper.hooks[0].target_weights]
    for source, target in zip(layer.variables, bare.variables, strict=True):
        if source.path in doubled:
            target.assign(source * 2)
    assert doubled
    return wrapper, bare


def values(layer):
    return [np.array(variable) for variable in layer.variables]


def assert_equal(one, other):
    keras.tree.map_structure(np.testing.assert_array_equal, one, other)


# --- the scope itself ------------------------------------------------------------------------------------------------


@pytest.fixture
def variables():
    return [keras.Variable(np.float32(number), name=f"v{number}") for number in (1, 10)]


def mapping(variable, value):
    return {id(variable): (variable, tf.constant(value))}


def read(*variables):
    return [float(variable.value) for variable in variables]


def test_inside_it_a_mapped_variable_reads_as_its_value_and_others_as_themselves(variables):
    one, ten = variables
    layer = layers.Layer()
    with ReadScope(layer, mapping(one, 5.0), "a hook"):
        assert read(one, ten) == [5.0, 10.0]
    assert read(one, ten) == [1.0, 10.0]


def test_a_scope_inside_another_reads_through_it(variables):
    one, ten = variables
    layer = layers.Layer()
    with ReadScope(layer, mapping(one, 5.0), "outer"):
        with ReadScope(layer, mapping(ten, 50.0), "inner"):
            assert read(one, ten) == [5.0, 50.0]
        with ReadScope(layer, mapping(one, one.value + 1.0), "inner"):
            assert read(one, ten) == [6.0, 10.0]
        assert read(one, ten) == [5.0, 10.0]


def test_it_reads_through_keras_stateless_scope(variables):
    one, ten = variables
    with (
        keras.StatelessScope(state_mapping=[(one, tf.constant(7.0))]),
        ReadScope(layers.Layer(), mapping(ten, 50.0), "a hook"),
    ):
        assert read(one, ten) == [7.0, 50.0]


def test_assigning_a_variable_that_is_not_mapped_is_done_at_once(variables):
    one, ten = variables
    with ReadScope(layers.Layer(), mapping(one, 5.0), "a hook"):
        ten.assign_add(1.0)
        assert read(ten) == [11.0]
    assert read(one, ten) == [1.0, 11.0]


def test_assigning_inside_keras_stateless_scope_stays_there(variables):
    one, ten = variables
    with keras.StatelessScope() as outer, ReadScope(layers.Layer(), mapping(one, 5.0), "a hook"):
        ten.assign_add(1.0)
        assert read(ten) == [11.0]
    assert read(one, ten) == [1.0, 10.0]
    assert float(outer.get_current_value(ten)) == 11.0


@pytest.mark.parametrize("inner", [False, True], ids=["its own", "of a scope around it"])
def test_assigning_a_mapped_variable_is_the_error_that_names_owner_weight_layer_and_way_out(variables, inner):
    one, ten = variables
    layer = layers.Layer(name="a_layer")
    with ReadScope(layer, mapping(one, 5.0), "double at 'a/dense'"):
        scope = ReadScope(layers.Layer(name="inside"), mapping(ten, 50.0), "inner")
        if inner:
            with scope, pytest.raises(WrapperStateError) as raised:
                one.assign(2.0)
        else:
            with pytest.raises(WrapperStateError) as raised:
                one.assign(2.0)
    for part in ("double at 'a/dense'", "'v1'", "layer 'a_layer'", "targets=..."):
        assert part in str(raised.value)
    assert read(one) == [1.0]


def test_an_exception_inside_ends_the_scope(variables):
    one, _ = variables
    with pytest.raises(ZeroDivisionError), ReadScope(layers.Layer(), mapping(one, 5.0), "a hook"):
        1 / 0  # noqa: B018
    assert read(one) == [1.0]


# --- layers that read other weights ----------------------------------------------------------------------------------

CASES = {
    "dense": (lambda: layers.Dense(4, activation="tanh"), (None, 3)),
    "conv": (lambda: layers.Conv2D(2, 3, strides=2, padding="same"), (None, 5, 5, 3)),
    "embedding": (lambda: layers.Embedding(4, 3), (None, 5)),
    "lstm": (lambda: layers.LSTM(4, return_sequences=True), (None, 5, 3)),
    "lstm unrolled": (lambda: layers.LSTM(4, unroll=True), (None, 5, 3)),
    "lstm with dropout": (lambda: layers.LSTM(4, dropout=0.3, recurrent_dropout=0.3, seed=1), (None, 5, 3)),
    "stateful gru": (lambda: layers.GRU(4, stateful=True), (2, 5, 3)),
    "conv lstm": (lambda: layers.ConvLSTM1D(2, 3, dropout=0.3, seed=1), (None, 2, 5, 3)),
    "float16": (lambda: layers.Dense(4, dtype="mixed_float16"), (None, 3)),
    "bfloat16": (lambda: layers.LSTM(4, dtype="mixed_bfloat16"), (None, 5, 3)),
    "float64": (lambda: layers.Dense(4, dtype="float64"), (None, 3)),
}


WAYS = [
    *((case, training, "eager") for case in CASES for training in (False, True)),
    *((case, True, "graph") for case in CASES),
    *((case, True, "xla") for case in ("dense", "conv", "lstm", "float16")),
]


@pytest.mark.parametrize(("case", "training", "way"), WAYS)
def test_a_layer_works_as_a_bare_one_with_the_other_weights(rng, case, training, way):
    make, shape = CASES[case]
    wrapper, bare = twins(make, *shape)
    x = rng.integers(0, 4, (2, *shape[1:])) if case == "embedding" else rng.normal(size=(2, *shape[1:]))

    def run(layer):
        def call(inputs):
            return layer(inputs, training=training) if case != "embedding" else layer(inputs)

        function = call if way == "eager" else tf.function(call, jit_compile=way == "xla")
        outputs = [function(x), function(x)]  # the second has other states and seeds
        return outputs, [np.array(variable) for variable in layer.non_trainable_variables]

    outputs, state = run(wrapper)
    expected, expected_state = run(bare)
    assert [output.dtype for output in outputs] == [output.dtype for output in expected]
    assert_equal(outputs, expected)
    assert_equal(state, expected_state)


@pytest.mark.parametrize("case", ["dense", "conv", "embedding", "lstm", "float64"])
def test_gradients_are_those_of_a_bare_layer_with_the_other_weights(rng, case):
    make, shape = CASES[case]
    wrapper, bare = twins(make, *shape)
    x = rng.integers(0, 4, (2, *shape[1:])) if case == "embedding" else rng.normal(size=(2, *shape[1:]))
    x = tf.constant(x, tf.int32 if case == "embedding" else bare.dtype)

    def gradients(layer):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x) ** 2)
        sources = [variable.value for variable in layer.trainable_variables]
        sources += [x] if x.dtype.is_floating else []
        return [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, sources)]

    doubled = {id(target.variable) for target in wrapper.hooks[0].target_weights}
    factors = [2.0 if id(variable) in doubled else 1.0 for variable in wrapper.trainable_variables] + [1.0]
    actual, expected = gradients(wrapper), gradients(bare)
    assert len(actual) == len(expected)
    for gradient, factor, of_bare in zip(actual, factors, expected, strict=False):
        np.testing.assert_array_equal(gradient, factor * of_bare)


@pytest.mark.parametrize(
    "holder", [lambda layer: layer, lambda layer: layers.TimeDistributed(layer, dtype="mixed_float16")]
)
def test_parametrize_is_given_the_variables_own_dtype_also_under_mixed_precision(holder):
    seen = []

    @kwrap.hook(layer_type=layers.Dense, name="scope_large")
    class Large(kwrap.Hook):
        def parametrize(self, target, value):
            seen.append(value.dtype)
            return value / keras.ops.norm(value * 1e6) * 1e6  # infinite in float16

    layer = layers.Dense(2, dtype="mixed_float16", kernel_initializer="ones")
    layer.build((None, 8))
    outputs = holder(kwrap.Wrapper(layer, [Large()]))(
        np.ones((1, 3, 8))
    )  # TimeDistributed calls the `call` of what it holds
    assert set(seen) == {tf.float32}
    assert outputs.dtype == "float16"
    np.testing.assert_allclose(outputs, np.full((1, 3, 2), 8 / 4), rtol=1e-2)


def inside(holder, layer):
    """Put a Wrapper where a composite holds `layer`."""
    replace_layers([holder], [(layer, kwrap.Wrapper(layer, [Double()]))])


def test_bidirectional_with_a_wrapped_layer_inside(rng):
    x = rng.normal(size=(2, 5, 3)).astype("float32")
    plain = layers.Bidirectional(layers.LSTM(3, return_sequences=True))
    plain.build((None, 5, 3))
    wrapped = layers.Bidirectional(layers.LSTM(3, return_sequences=True))
    wrapped.build((None, 5, 3))
    wrapped.set_weights(plain.get_weights())
    for name in ("forward_layer", "backward_layer"):
        inside(wrapped, getattr(wrapped, name))
    plain.set_weights([value * 2 if value.ndim == 2 else value for value in plain.get_weights()])
    assert_equal(wrapped(x), plain(x))


def test_attention_with_a_wrapped_projection_inside(rng):
    x = rng.normal(size=(2, 5, 4)).astype("float32")
    plain, wrapped = (layers.MultiHeadAttention(2, 3) for _ in range(2))
    plain.build((2, 5, 4), (2, 5, 4))
    wrapped.build((2, 5, 4), (2, 5, 4))
    wrapped.set_weights(plain.get_weights())
    inside(wrapped, wrapped.query_dense)
    plain.query_dense.kernel.assign(plain.query_dense.kernel * 2)
    expected = plain(x, x, use_causal_mask=True, return_attention_scores=True)
    assert_equal(wrapped(query=x, value=x, use_causal_mask=True, return_attention_scores=True), expected)


# --- wrapped in wrapped ----------------------------------------------------------------------------------------------


class Block(layers.Dense):
    """A Dense that holds another, and calls it with its own kernel open to reading."""

    def __init__(self, units, **kwargs):
        super().__init__(units, **kwargs)
        self.inner = layers.Dense(units, name="inner")

    def build(self, input_shape):
        self.inner.build(input_shape)
        super().build(input_shape)

    def call(self, inputs):
        return super().call(self.inner(inputs)) + keras.ops.sum(self.kernel)


def test_wrapped_inside_wrapped_each_reads_its_own_weights_once_changed(rng):
    x = rng.normal(size=(2, 3)).astype("float32")
    block, bare = Block(3), Block(3)
    block.build((None, 3))
    bare.build((None, 3))
    bare.set_weights([value * 2 if value.ndim == 2 else value for value in block.get_weights()])
    inside(block, block.inner)
    wrapper = kwrap.Wrapper(block, [Double()])
    assert_equal(wrapper(x), bare(x))


class Late(layers.Dense):
    """A Dense that holds another, which is built in the first call."""

    def __init__(self, units, inner, **kwargs):
        super().__init__(units, **kwargs)
        self.inner = inner

    def call(self, inputs):
        return super().call(self.inner(inputs))


@kwrap.hook(layer_type=layers.Dense, name="scope_positive")
class Positive(kwrap.Hook):
    """Keep the stored weights at their first magnitudes."""

    def build(self, layer):
        for target in self.target_weights:
            self.add_state(target, "size", target.shape)

    def initialize(self, layer):
        for target in self.target_weights:
            self.state(target, "size").assign(keras.ops.abs(target.variable))

    def constrain(self, target, value):
        return self.state(target, "size") * 1


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_a_layer_that_is_built_during_a_wrapped_call_has_its_weights_from_then_on(rng, graph):
    inner = layers.Dense(3)
    wrapper = kwrap.Wrapper(Late(3, inner), [Double()])
    x = rng.normal(size=(2, 3)).astype("float32")
    call = tf.function(lambda inputs: wrapper(inputs)) if graph else wrapper
    first, second = call(x), call(x)
    assert_equal(first, second)
    np.testing.assert_allclose(first, (x @ inner.kernel) @ wrapper.layer.kernel * 2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_a_wrapped_layer_that_is_built_during_a_wrapped_call_is_ready_from_then_on(rng, graph):
    inner = kwrap.Wrapper(layers.Dense(3), [Positive()])
    wrapper = kwrap.Wrapper(Late(3, inner), [Double()])
    x = rng.normal(size=(2, 3)).astype("float32")
    call = tf.function(lambda inputs: wrapper(inputs)) if graph else wrapper
    outputs = [call(x), call(x)]
    (hook,) = inner.hooks
    size = np.array(hook.state(hook.target_weights[0], "size"))
    assert (size > 0).all()
    assert_equal(np.array(inner.kernel), size)
    assert_equal(np.asarray(inner.kernel.constraint(-size)), size)
    for output in outputs:
        np.testing.assert_allclose(output, (x @ size) @ wrapper.layer.kernel * 2, rtol=1e-5, atol=1e-6)


class Tied(layers.Dense):
    """A Dense that calls another, which has the same kernel."""

    def build(self, input_shape):
        super().build(input_shape)
        self.other = layers.Dense(self.units, use_bias=False)
        self.other._kernel, self.other.bias = self._kernel, None
        self.other.built = True

    def call(self, inputs):
        return self.other(inputs)


def test_a_weight_of_two_wrapped_layers_one_in_the_other_is_the_inner_ones():
    tied = Tied(1, kernel_initializer="ones", use_bias=False)
    tied.build((None, 1))
    wrapper = kwrap.Wrapper(tied, [Double()])
    assert wrapper(np.ones((1, 1)))[0, 0] == 1.0
    inside(tied, tied.other)
    assert wrapper(np.ones((1, 1)))[0, 0] == 2.0


# --- updates ---------------------------------------------------------------------------------------------------------


def test_moving_averages_of_a_wrapped_normalization_move(rng):
    wrapper, bare = twins(layers.BatchNormalization, None, 3, targets="gamma")
    bare.gamma.assign(wrapper.layer.gamma * 2)
    x = rng.normal(size=(8, 3)).astype("float32")
    for training in (True, True, False):
        assert_equal(wrapper(x, training=training), bare(x, training=training))
    assert bare.moving_mean.numpy().any()
    assert_equal(wrapper.layer.moving_mean.numpy(), bare.moving_mean.numpy())
    assert_equal(wrapper.layer.moving_variance.numpy(), bare.moving_variance.numpy())


class Counting(layers.Dense):
    """Count the calls, in a branch and on top; a global seed is state of nobody."""

    def build(self, input_shape):
        super().build(input_shape)
        self.positive = self.add_weight((), dtype="int32", initializer="zeros", trainable=False)
        self.calls = self.add_weight((), dtype="int32", initializer="zeros", trainable=False)

    def call(self, inputs):
        self.calls.assign_add(1)
        outputs = super().call(inputs)

        def count():
            self.positive.assign_add(1)
            return outputs

        return keras.ops.cond(keras.ops.sum(inputs) > 0, count, lambda: outputs) + keras.random.uniform(())


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_an_assignment_in_a_branch_is_made_when_the_branch_is_taken(jit_compile):
    wrapper, bare = twins(lambda: Counting(2), None, 3)
    x = np.ones((1, 3), "float32")

    def run(layer):
        keras.utils.set_random_seed(5)
        function = tf.function(lambda inputs: layer(inputs), jit_compile=jit_compile)
        return [function(inputs).numpy() for inputs in (x, -x, x)]

    assert_equal(run(wrapper), run(bare))
    assert [int(wrapper.layer.calls), int(wrapper.layer.positive)] == [3, 2]


def test_the_seed_that_all_layers_share_goes_on_as_for_a_bare_layer():
    wrapper, bare = twins(lambda: Counting(2), None, 3)
    x = np.ones((1, 3), "float32")

    def run(layer):
        keras.utils.set_random_seed(5)  # The seed's variable is created in the call.
        return [np.asarray(layer(x)), np.asarray(layer(x)), np.asarray(keras.random.uniform(()))]

    outputs = run(wrapper)
    assert_equal(outputs, run(bare))
    assert (outputs[0] != outputs[1]).all()


def test_a_stateless_call_returns_what_a_bare_layer_would_and_changes_nothing(rng):
    wrapper, bare = twins(lambda: layers.LSTM(4, dropout=0.5, seed=1), None, 5, 3)
    x = rng.normal(size=(2, 5, 3)).astype("float32")
    before = values(wrapper)
    trainable = [variable * 1.5 for variable in wrapper.trainable_variables]
    of_bare = [variable * 1.5 for variable in bare.trainable_variables]
    outputs, state = wrapper.stateless_call(trainable, wrapper.non_trainable_variables, x, training=True)
    expected, of_state = bare.stateless_call(of_bare, bare.non_trainable_variables, x, training=True)
    assert_equal(np.asarray(outputs), np.asarray(expected))
    assert_equal([np.asarray(value) for value in state], [np.asarray(value) for value in of_state])
    assert_equal(values(wrapper), before)


def test_a_layer_that_assigns_a_weight_that_a_hook_changes_is_the_named_error():
    class Decays(layers.Dense):
        def call(self, inputs):
            self._kernel.assign(self._kernel * 0.9)
            return super().call(inputs)

    model = keras.Sequential([layers.Input((3,)), Decays(2, name="decays"), layers.Dense(2, name="last")])
    before = np.array(model.get_layer("decays").kernel)
    kwrap.wrap_model(model, Double())
    for call in (model, model.predict_step):
        with pytest.raises(WrapperStateError, match=r"^scope_double at 'decays' .*/decays/kernel'.*targets=\.\.\.$"):
            call(np.ones((1, 3), "float32"))
    assert_equal(np.array(model.get_layer("decays").kernel), before)
    kwrap.unwrap_model(model, merge=False)
    kwrap.wrap_model(model, Double(targets="bias"))
    model(np.ones((1, 3), "float32"))
    assert_equal(np.array(model.get_layer("decays").kernel), before * np.float32(0.9))


# --- losses ----------------------------------------------------------------------------------------------------------


class Penalized(layers.Dense):
    """Have losses of every kind: of an inner layer, of its own, of its activity and of its weights."""

    def __init__(self, units, **kwargs):
        super().__init__(units, activity_regularizer="l2", **kwargs)
        self.inner = layers.ActivityRegularization(l1=0.1)

    def call(self, inputs):
        outputs = super().call(self.inner(inputs))
        self.add_loss(keras.ops.sum(outputs))
        return outputs


def regularized(layer):
    inputs = keras.Input((3,))
    return keras.Model(inputs, layers.Dense(1, activity_regularizer="l1", name="last")(layer(layer(inputs))))


@pytest.mark.parametrize("make", [lambda: layers.Dense(3, activity_regularizer="l2"), lambda: Penalized(3)])
def test_losses_of_a_call_are_those_of_a_bare_layer(rng, make):
    wrapper, bare = twins(make, None, 3)
    x = rng.normal(size=(2, 3)).astype("float32")
    for _ in range(2):
        wrapper(x)
        bare(x)
        assert len(bare.losses) > 0
        assert_equal([np.asarray(loss) for loss in wrapper.losses], [np.asarray(loss) for loss in bare.losses])


def test_losses_of_a_models_stateless_call_are_those_with_a_bare_layer(rng):
    wrapper, bare = twins(lambda: Penalized(3), None, 3)
    x = rng.normal(size=(2, 3)).astype("float32")

    def run(layer):
        model = keras.Sequential([layers.Input((3,)), layer])
        _, _, losses = model.stateless_call(
            model.trainable_variables, model.non_trainable_variables, x, return_losses=True
        )
        return [np.asarray(loss) for loss in losses]

    assert len(run(bare)) == 3
    assert_equal(run(wrapper), run(bare))


def test_a_layer_sees_its_losses_during_its_call(rng):
    class Reports(Penalized):
        def call(self, inputs):
            outputs = super().call(inputs)
            return outputs + sum(self.losses)

    wrapper, bare = twins(lambda: Reports(3, bias_regularizer="l2", bias_initializer="ones"), None, 3)
    x = rng.normal(size=(2, 3)).astype("float32")
    assert_equal(wrapper(x), bare(x))
    outer = Block(3)
    outer.build((None, 3))
    replace_layers([outer], [(outer.inner, wrapper)])
    expected = layers.Dense.call(outer, bare(x)) + keras.ops.sum(outer.kernel)
    assert_equal(kwrap.Wrapper(outer, [Same()])(x), expected)


@kwrap.hook(layer_type=layers.Layer, name="scope_same")
class Same(kwrap.Hook):
    def parametrize(self, target, value):
        return value * 1


@pytest.mark.parametrize("how", ["eager", "graph", "xla"])
def test_training_with_losses_of_a_layer_that_is_called_twice_is_as_with_a_bare_layer(rng, how):
    wrapper, bare = twins(lambda: Penalized(3), None, 3)
    models = [regularized(layer) for layer in (wrapper, bare)]
    models[1].get_layer("last").set_weights(models[0].get_layer("last").get_weights())
    x, y = rng.normal(size=(4, 3)).astype("float32"), np.ones((4, 1), "float32")
    losses = []
    for model in models:
        model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=how == "eager", jit_compile=how == "xla")
        losses.append([model.train_on_batch(x, y), model.evaluate(x, y, verbose=0)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)
    without = keras.losses.MeanSquaredError()(y, models[1].predict(x, verbose=0))
    assert abs(losses[1][0] - float(without)) > 0.01  # the losses of the layers are in it


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_a_step_of_training_moves_the_stored_weight_by_the_gradient_through_the_hook(rng, jit_compile):
    model = keras.Sequential([layers.Input((3,)), layers.Dense(2, use_bias=False, name="dense")])
    kernel = np.array(model.get_layer("dense").kernel)
    x, y = rng.normal(size=(4, 3)).astype("float32"), rng.normal(size=(4, 2)).astype("float32")
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=jit_compile)
    kwrap.wrap_model(model, Double())
    model.train_on_batch(x, y)
    # d mean((2 x k - y)^2) / dk
    expected = kernel - 0.1 * (2 * x.T @ (x @ (2 * kernel) - y) * 2 / y.size)
    np.testing.assert_allclose(model.get_layer("dense").kernel, expected, rtol=1e-5, atol=1e-6)
