"""Hooks around a layer's call: what they are given, what `call_next` keeps, in which order they act."""

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

import kwrap
from kwrap import errors

from .specimens import Idle

DATA = np.random.default_rng(0).normal(size=(2, 3)).astype("float32")
SEQUENCES = np.random.default_rng(1).normal(size=(2, 5, 3)).astype("float32")
TOKENS = np.array([[1, 2, 3, 0, 0], [4, 0, 0, 0, 0]])


def call_hook(name: str, **attributes: object) -> Callable[[Callable[..., object]], kwrap.Hook]:
    """Register the decorated method `call` as that of a Hook class; return an instance."""

    def define(call: Callable[..., object]) -> kwrap.Hook:
        hook_class = type(name, (kwrap.Hook,), {"call": call, "__module__": __name__, **attributes})
        return kwrap.hook(layer_type=keras.Layer, name=name)(hook_class)()

    return define


@kwrap.hook(layer_type=keras.Layer)
def chain_nothing(call_next, inputs):
    return call_next(inputs)


@kwrap.hook(layer_type=keras.Layer)
def chain_inputs(call_next, inputs, *, add=0.0, times=1.0):
    return call_next(inputs * times + add)


@kwrap.hook(layer_type=keras.Layer)
def chain_outputs(call_next, inputs, *, add=0.0, times=1.0):
    return call_next(inputs) * times + add


@kwrap.hook(layer_type=keras.Layer)
class ChainWeights(kwrap.Hook):
    """Overrides no `call`."""

    def constrain(self, target, value):
        return value

    def merge(self, target, value):
        return value


def graph_ops(layer: keras.Layer, *args: np.ndarray, **kwargs: object) -> list[str]:
    layer(*args, **kwargs)
    function = tf.function(lambda *tensors: layer(*tensors, **kwargs), autograph=False)
    return [op.type for op in function.get_concrete_function(*map(tf.constant, args)).graph.get_operations()]


# --- what call_next keeps --------------------------------------------------------------------------------------------


def test_a_hook_that_does_not_name_mask_leaves_an_lstm_behind_a_masking_embedding_as_it_was():
    def model(wrap: Callable[[keras.Layer], keras.Layer]) -> keras.Model:
        keras.utils.set_random_seed(3)
        layers = keras.layers.Embedding(5, 4, mask_zero=True), wrap(keras.layers.LSTM(3)), keras.layers.Dense(2)
        return keras.Sequential([keras.Input((5,), dtype="int32"), *layers])

    bare, wrapped = model(lambda layer: layer), model(lambda layer: kwrap.Wrapper(layer, [chain_nothing()]))
    unmasked = keras.Sequential([keras.layers.Embedding(5, 4), *bare.layers[1:]])
    unmasked.build((None, 5))
    unmasked.layers[0].set_weights(bare.layers[0].get_weights())
    np.testing.assert_array_equal(wrapped(TOKENS), bare(TOKENS))
    assert not np.allclose(unmasked(TOKENS), bare(TOKENS))


def test_a_mask_that_the_hook_gives_takes_the_place_of_the_original_one():
    @call_hook("chain_first_only")
    def first_only(self, call_next, inputs, *, mask):
        seen.append(mask)
        return call_next(inputs, mask=first)

    seen = []
    mask, first = np.ones((2, 5), bool), np.eye(5, dtype=bool)[[0, 0]]
    layer = keras.layers.LSTM(3)
    outputs = kwrap.Wrapper(layer, [first_only])(SEQUENCES, mask=mask)
    np.testing.assert_array_equal(seen[-1], mask)
    np.testing.assert_array_equal(outputs, layer(SEQUENCES, mask=first))


@pytest.mark.parametrize("by_keyword", [True, False], ids=["all by keyword", "the query by position"])
def test_attention_by_keyword_works_and_keeps_what_the_hook_does_not_pass_on(by_keyword):
    layer = keras.layers.MultiHeadAttention(2, 3)
    value = SEQUENCES[:, :4] * 2
    causal = np.tri(5, 4, dtype=bool)
    keywords = {"value": value, "attention_mask": causal, "return_attention_scores": True}
    wrapped = kwrap.Wrapper(layer, [chain_inputs(times=3.0)])
    outputs = wrapped(query=SEQUENCES, **keywords) if by_keyword else wrapped(SEQUENCES, **keywords)
    expected = layer(SEQUENCES * np.float32(3.0), **keywords)
    for one, other in zip(outputs, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_first_input_comes_by_position_and_the_rest_by_keyword_however_the_layer_was_called():
    @call_hook("chain_see_arguments")
    def see(self, call_next, *args, **kwargs):
        seen.append((len(args), sorted(name for name, value in kwargs.items() if value is not None)))
        return call_next(*args, **kwargs)

    seen = []
    wrapped = kwrap.Wrapper(keras.layers.MultiHeadAttention(2, 3), [see])
    wrapped(SEQUENCES, SEQUENCES, SEQUENCES)
    wrapped(query=SEQUENCES, value=SEQUENCES, key=SEQUENCES)
    wrapped(SEQUENCES, key=SEQUENCES, value=SEQUENCES)
    assert len({str(call) for call in seen}) == 1
    assert seen[0][0] == 1
    assert {"value", "key"} <= set(seen[0][1])


def test_further_positional_inputs_are_kept_or_replaced_by_name():
    class Weighted(keras.layers.Layer):
        def call(self, left, right, scale=1.0):
            return left - 10 * right * scale

    @call_hook("chain_swap")
    def swap(self, call_next, left, *, right, scale):
        return call_next(right, right=left, scale=scale + 1)

    layer = Weighted()
    wrapped = kwrap.Wrapper(layer, [chain_inputs(add=1.0)])
    np.testing.assert_allclose(wrapped(DATA, DATA * 2, scale=3.0), DATA + 1 - 60 * DATA, rtol=1e-5)
    # The layer's own default where the caller gave none.
    np.testing.assert_allclose(kwrap.Wrapper(layer, [swap])(DATA, DATA * 2), DATA * 2 - 20 * DATA, rtol=1e-5)


def test_call_next_may_be_given_inputs_by_position_as_the_layer_takes_them():
    class Minus(keras.layers.Layer):
        def call(self, left, right):
            return left - right

    @call_hook("chain_both_by_position")
    def both(self, call_next, left, right):
        return call_next(right, left)

    np.testing.assert_allclose(kwrap.Wrapper(Minus(), [both])(DATA, DATA * 3), DATA * 2, rtol=1e-6)


def test_a_layer_of_any_number_of_inputs_keeps_those_that_are_not_given():
    class Sum(keras.layers.Layer):
        def call(self, *tensors):
            return sum((2.0**power * tensor for power, tensor in enumerate(tensors)), start=0.0)

    @call_hook("chain_first_of_many")
    def first_of_many(self, call_next, first, **kwargs):
        return call_next(first * 100.0)

    @call_hook("chain_all_of_many")
    def all_of_many(self, call_next, *tensors):
        return call_next(*reversed(tensors))

    inputs = DATA, DATA + 1, DATA + 2
    np.testing.assert_allclose(
        kwrap.Wrapper(Sum(), [first_of_many])(*inputs), 100 * DATA + 2 * (DATA + 1) + 4 * (DATA + 2), rtol=1e-5
    )
    np.testing.assert_allclose(
        kwrap.Wrapper(Sum(), [all_of_many])(*inputs), DATA + 2 + 2 * (DATA + 1) + 4 * DATA, rtol=1e-5
    )


def test_inputs_may_be_a_structure():
    layer = keras.layers.Add()

    @call_hook("chain_double_the_second")
    def double_the_second(self, call_next, inputs):
        return call_next([inputs[0], 2 * inputs[1]])

    np.testing.assert_allclose(kwrap.Wrapper(layer, [double_the_second])([DATA, DATA + 1]), 3 * DATA + 2, rtol=1e-5)


@pytest.mark.parametrize("times", [0, 1, 3])
def test_call_next_may_be_called_any_number_of_times(times):
    calls = []

    class Counted(keras.layers.Layer):
        def call(self, inputs):
            calls.append(1)
            return inputs * 2.0

    @call_hook("chain_repeat")
    def repeat(self, call_next, inputs):
        total = inputs
        for _ in range(times):
            total = call_next(total)
        return total

    wrapped = kwrap.Wrapper(Counted(), [repeat])
    wrapped(DATA)
    calls.clear()
    np.testing.assert_allclose(wrapped(DATA), DATA * 2.0**times, rtol=1e-6)
    assert len(calls) == times


def test_call_next_without_arguments_repeats_the_original_call():
    @call_hook("chain_again")
    def again(self, call_next, inputs):
        return (call_next() + call_next()) / 2

    layer = keras.layers.Dense(4)
    np.testing.assert_allclose(kwrap.Wrapper(layer, [again])(DATA), layer(DATA), rtol=1e-6)


def test_a_hook_may_take_no_input_at_all():
    @call_hook("chain_no_input")
    def no_input(self, call_next, *, training):
        seen.append(training)
        return call_next()

    seen = []
    layer = keras.layers.Dense(4)
    np.testing.assert_array_equal(kwrap.Wrapper(layer, [no_input])(DATA, training=True), layer(DATA))
    assert seen[-1] is True


# --- what a hook is given --------------------------------------------------------------------------------------------


def test_only_arguments_that_the_signature_names_are_passed():
    @call_hook("chain_initial_state")
    def initial_state(self, call_next, inputs, *, initial_state):
        seen.append(initial_state)
        return call_next(inputs)

    seen = []
    layer = keras.layers.LSTM(3)
    state = [np.ones((2, 3), "float32"), np.zeros((2, 3), "float32")]
    wrapped = kwrap.Wrapper(layer, [initial_state])
    outputs = wrapped(SEQUENCES, initial_state=state, mask=np.ones((2, 5), bool))
    np.testing.assert_array_equal(seen[-1], state)
    np.testing.assert_array_equal(outputs, layer(SEQUENCES, initial_state=state, mask=np.ones((2, 5), bool)))
    wrapped(SEQUENCES)
    assert seen[-1] is None


def test_an_argument_that_neither_caller_nor_layer_has_is_the_hooks_default_or_none():
    @call_hook("chain_unknown_arguments")
    def unknown(self, call_next, inputs, sizes=(1, 2), *, weights):
        seen.append((sizes, weights))
        return call_next(inputs)

    seen = []
    kwrap.Wrapper(keras.layers.Dense(4), [unknown])(DATA)
    assert seen[-1] == ((1, 2), None)


class NoTraining(keras.layers.Layer):
    """Has no argument `training`."""

    def call(self, inputs):
        return inputs


@pytest.mark.parametrize("layer_class", [NoTraining, lambda: keras.layers.Dropout(0.5)], ids=["without", "with"])
def test_training_is_that_of_the_call_whether_or_not_the_layer_has_the_argument(layer_class):
    @call_hook("chain_training")
    def told(self, call_next, inputs, *, training):
        seen.append(training)
        return call_next(inputs)

    seen = []
    model = keras.Sequential([keras.Input((3,)), kwrap.Wrapper(layer_class(), [told]), keras.layers.Dense(1)])
    model.compile("sgd", loss="mse")
    for run, expected in (
        (lambda: model(DATA), False),
        (lambda: model(DATA, training=True), True),
        (lambda: model.predict(DATA, verbose=0), False),
        (lambda: model.train_on_batch(DATA, DATA[:, :1]), True),
        (lambda: model.test_on_batch(DATA, DATA[:, :1]), False),
        (lambda: model.layers[0](DATA, training=True), True),
    ):
        seen.clear()
        run()
        assert (set(seen), {type(training) for training in seen}) == ({expected}, {bool})


def test_a_layer_that_takes_no_mask_leaves_the_one_of_its_inputs_to_hooks_that_name_it():
    @call_hook("chain_see_mask")
    def see_mask(self, call_next, inputs, *, mask):
        seen.append(mask)
        return call_next(inputs)

    seen = []
    embedding = keras.layers.Embedding(5, 4, mask_zero=True)
    wrapped = kwrap.Wrapper(keras.layers.Dense(3), [see_mask])
    outputs = wrapped(embedding(TOKENS))
    np.testing.assert_array_equal(seen[-1], TOKENS != 0)
    np.testing.assert_array_equal(outputs._keras_mask, TOKENS != 0)
    wrapped(SEQUENCES[..., :1] * np.ones(4, "float32"))
    assert seen[-1] is None


# --- order -----------------------------------------------------------------------------------------------------------


def test_the_first_hook_is_outermost():
    wrapped = kwrap.Wrapper(
        keras.layers.Identity(), [chain_inputs(add=1.0), chain_inputs(times=2.0, name="b"), chain_outputs(add=5.0)]
    )
    np.testing.assert_allclose(wrapped(DATA), (DATA + 1) * 2 + 5, rtol=1e-6)
    outputs = [chain_outputs(add=1.0), chain_outputs(times=2.0, name="b")]
    np.testing.assert_allclose(kwrap.Wrapper(keras.layers.Identity(), outputs)(DATA), DATA * 2 + 1, rtol=1e-6)


def test_many_hooks_compose():
    hooks = [chain_inputs(add=float(number), name=f"add_{number}") for number in range(20)]
    np.testing.assert_allclose(
        kwrap.Wrapper(keras.layers.Identity(), hooks)(DATA), DATA + sum(range(20)), rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize(("phase", "training", "inference"), [("training", 1, 0), ("inference", 0, 1)])
def test_phase_says_when_a_hook_is_in_the_path(phase, training, inference):
    wrapped = kwrap.Wrapper(keras.layers.Identity(), [chain_inputs(add=7.0, phase=phase), chain_outputs(times=2.0)])
    np.testing.assert_allclose(wrapped(DATA, training=True), 2 * (DATA + 7 * training), rtol=1e-5)
    np.testing.assert_allclose(wrapped(DATA, training=False), 2 * (DATA + 7 * inference), rtol=1e-5)
    np.testing.assert_allclose(wrapped(DATA), 2 * (DATA + 7 * inference), rtol=1e-5)


def test_training_that_a_hook_passes_on_is_what_hooks_further_in_and_the_layer_see():
    @call_hook("chain_inference_only")
    def inference_only(self, call_next, inputs):
        return call_next(inputs, training=False)

    @call_hook("chain_told_inside")
    def told(self, call_next, inputs, *, training):
        seen.append(training)
        return call_next(inputs)

    seen = []
    for layer in (keras.layers.Dropout(0.9), NoTraining()):
        wrapped = kwrap.Wrapper(layer, [type(inference_only)(), type(told)(), chain_inputs(add=7.0, phase="training")])
        np.testing.assert_allclose(wrapped(DATA, training=True), DATA)
        assert seen[-1] is False


# --- what is in the path ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (lambda: keras.layers.Dense(4, activation="relu"), DATA),
        (lambda: keras.layers.LSTM(3), SEQUENCES),
        (lambda: keras.layers.BatchNormalization(), DATA),
        (lambda: keras.layers.MultiHeadAttention(2, 2), SEQUENCES),
        (lambda: keras.layers.Dropout(0.5), DATA),
    ],
    ids=["Dense", "LSTM", "BatchNormalization", "MultiHeadAttention", "Dropout"],
)
def test_hooks_without_call_and_parametrize_add_no_op_to_the_graph(make, inputs):
    layer = make()
    args = (inputs, inputs) if isinstance(layer, keras.layers.MultiHeadAttention) else (inputs,)
    bare = graph_ops(layer, *args, training=True)
    wrapped = kwrap.Wrapper(layer, [ChainWeights(), ChainWeights(name="second")])
    assert graph_ops(wrapped, *args, training=True) == bare


def test_hooks_that_are_out_of_phase_or_pass_on_what_they_get_add_no_op_to_the_graph():
    layer = keras.layers.Dense(4)
    bare = graph_ops(layer, DATA)
    assert graph_ops(kwrap.Wrapper(layer, [chain_inputs(add=1.0, phase="training"), chain_nothing()]), DATA) == bare
    active = graph_ops(kwrap.Wrapper(layer, [chain_inputs(add=1.0)]), DATA)
    assert len(active) > len(bare)


@pytest.mark.parametrize(
    "hooks", [[Idle], [Idle(name="one"), Idle(name="other")], [chain_nothing]], ids=["idle", "two", "call"]
)
def test_a_training_step_has_the_ops_of_the_bare_one_where_hooks_do_nothing(hooks):
    def ops_of_step(hooks: list) -> list[str]:
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(2)])
        model.compile("adam", "mse")
        if hooks:
            kwrap.wrap_model(model, hooks)
        model.train_on_batch(DATA, DATA[:, :2])
        step = tf.function(lambda *batch: model.train_step(batch), autograph=False)
        return [op.type for op in step.get_concrete_function(DATA, DATA[:, :2]).graph.get_operations()]

    assert ops_of_step(hooks) == ops_of_step([])


def test_a_wrapped_model_has_as_many_graph_ops_as_the_bare_one():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
    )
    images = np.ones((2, 8, 8, 1), "float32")
    bare, outputs = graph_ops(model, images), model(images).numpy()
    kwrap.wrap_model(model, [chain_nothing, ChainWeights])
    assert len(kwrap.find_hooks(model, "chain_nothing")) == 5
    assert len(kwrap.find_hooks(model, "chain_weights")) == 2
    assert graph_ops(model, images) == bare
    np.testing.assert_array_equal(model(images), outputs)


# --- outputs that differ ---------------------------------------------------------------------------------------------


def cast_down(self, call_next, inputs):
    return keras.ops.cast(call_next(inputs), "float16")


def cut(self, call_next, inputs):
    return call_next(inputs)[:, :2]


def pair(self, call_next, inputs):
    outputs = call_next(inputs)
    return outputs, outputs


@pytest.mark.parametrize(
    ("call", "received"), [(cast_down, "float16(2, 4)"), (cut, "float32(2, 2)"), (pair, "float32(2, 4)")]
)
def test_another_shape_dtype_or_structure_without_changes_output_is_an_error(call, received):
    wrapped = kwrap.Wrapper(keras.layers.Dense(4, name="out"), [call_hook("chain_change")(call)])
    with pytest.raises(errors.OutputChangedError) as caught:
        wrapped(DATA)
    error = caught.value
    assert (error.hook, error.path, error.expected) == ("chain_change", "out", "float32(2, 4)")
    assert received in error.received
    assert "`changes_output = True`" in str(error)
    assert isinstance(error, ValueError)


def test_the_hook_that_changes_the_output_is_named_and_not_one_around_it():
    hooks = [chain_nothing(), call_hook("chain_culprit")(cut), chain_outputs()]
    with pytest.raises(errors.OutputChangedError) as caught:
        kwrap.Wrapper(keras.layers.Dense(4), hooks)(DATA)
    assert caught.value.hook == "chain_culprit"


def test_a_hook_around_one_that_changes_the_output_has_to_keep_what_that_one_gives():
    changing = call_hook("chain_announced", changes_output=True)(cut)
    layer = keras.layers.Dense(4)
    wrapped = kwrap.Wrapper(layer, [chain_outputs(times=2.0), changing])
    np.testing.assert_allclose(wrapped(DATA), 2 * layer(DATA)[:, :2], rtol=1e-6)


def test_a_model_is_not_wrapped_with_a_hook_that_would_change_its_output():
    for call in (cast_down, cut):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
        with pytest.raises(errors.OutputChangedError, match="chain_change"):
            kwrap.wrap_model(model, call_hook("chain_change")(call))
        assert type(model.layers[0]) is keras.layers.Dense


def test_an_output_of_another_shape_without_a_call_of_call_next_is_an_error():
    @call_hook("chain_instead")
    def instead(self, call_next, inputs):
        return keras.ops.zeros((2, 7))

    model = keras.Sequential([keras.Input((3,), batch_size=2), keras.layers.Dense(4)])
    with pytest.raises(errors.OutputChangedError, match="chain_instead"):
        kwrap.wrap_model(model, instead)
    assert type(model.layers[0]) is keras.layers.Dense


def test_dimensions_that_a_graph_does_not_know_are_no_change():
    @call_hook("chain_numpy")
    def through_numpy(self, call_next, inputs):
        outputs = call_next(inputs)
        return outputs + tf.numpy_function(np.zeros_like, [outputs], tf.float32)

    @call_hook("chain_unknown")
    def unknown(self, call_next, inputs):
        return tf.numpy_function(np.negative, [call_next(inputs)], tf.float32)

    layer = keras.layers.Dense(4)
    for hook, sign in ((through_numpy, 1), (unknown, -1)):
        wrapped = kwrap.Wrapper(layer, [hook])
        wrapped(DATA)
        np.testing.assert_array_equal(tf.function(wrapped, autograph=False)(tf.constant(DATA)), sign * layer(DATA))
