"""The Wrapper is the layer itself in every other respect; its hooks are saved with it."""

import inspect
import logging
import pickle
import subprocess
import sys

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import kwrap
from kwrap import _registry, errors

DATA = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
TARGETS = np.random.default_rng(1).normal(size=(8, 4)).astype("float32")
SEQUENCES = np.random.default_rng(2).normal(size=(2, 5, 3)).astype("float32")


@kwrap.hook(layer_type=keras.Layer)
def wrapper_nothing(call_next, inputs):
    return call_next(inputs)


@kwrap.hook(layer_type=keras.Layer)
def wrapper_scale(call_next, inputs, *, factor=2.0):
    return call_next(inputs) * factor


@kwrap.hook(layer_type=keras.layers.Dense)
def wrapper_for_dense(call_next, inputs):
    return call_next(inputs)


@kwrap.hook(layer_type=keras.Layer)
class WrapperHalve(kwrap.Hook):
    def parametrize(self, target, value):
        return value * 0.5


@kwrap.hook(layer_type=keras.Layer)
class WrapperClip(kwrap.Hook):
    def constrain(self, target, value):
        return keras.ops.clip(value, -0.1, 0.1)


@kwrap.hook(layer_type=keras.Layer)
class WrapperCentre(kwrap.Hook):
    """Takes the mean of the trained weight off what the layer reads."""

    version = 3

    def __init__(self, scale=1.0, **kwargs):
        super().__init__(**kwargs)
        self.scale, self.initializations = scale, []

    def build(self, layer):
        for target in self.target_weights:
            self.add_state(target, "mean")

    def initialize(self, layer):
        self.initializations.append(tf.executing_eagerly())
        for target in self.target_weights:
            self.state(target, "mean").assign(keras.ops.mean(target.variable))

    def parametrize(self, target, value, *, training):
        return (value - self.state(target, "mean")) * self.scale


@kwrap.hook(layer_type=keras.Layer)
class WrapperTrained(kwrap.Hook):
    """Has a trainable gain."""

    def build(self, layer):
        self.gain = self.add_weight(shape=(), initializer="ones", name="gain")

    def call(self, call_next, inputs):
        return call_next(inputs) * self.gain


@kwrap.hook(layer_type=keras.Layer)
class WrapperWiden(kwrap.Hook):
    """Gives the outputs twice, side by side, in float16."""

    changes_output = True

    def call(self, call_next, inputs):
        outputs = call_next(inputs)
        return keras.ops.cast(keras.ops.concatenate([outputs, outputs], axis=-1), "float16")


def dense(**kwargs) -> keras.layers.Dense:
    layer = keras.layers.Dense(4, bias_initializer="normal", **kwargs)
    layer.build((None, 3))
    return layer


def compiled(*layers: keras.Layer, inputs: bool = True) -> keras.Model:
    model = keras.Sequential([*([keras.Input((3,))] if inputs else []), *layers])
    model.compile(keras.optimizers.SGD(0.1), loss="mse")
    return model


def centred(layer: keras.layers.Dense) -> np.ndarray:
    kernel = layer.kernel.numpy()
    return DATA @ (kernel - kernel.mean()) + layer.bias.numpy()


# --- by hand ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("built", [True, False])
def test_a_wrapper_by_hand_acts_on_built_and_unbuilt_layers(built):
    layer = dense() if built else keras.layers.Dense(4)
    wrapped = kwrap.Wrapper(layer, [WrapperCentre()])
    assert wrapped.built == built
    np.testing.assert_allclose(wrapped(DATA), centred(layer), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "inputs",
    [DATA, DATA.astype("float64"), np.ones((8, 3), int), tf.constant(DATA)],
    ids=lambda value: str(value.dtype),
)
def test_an_unbuilt_layer_takes_whatever_the_bare_one_takes(inputs):
    keras.utils.set_random_seed(1)
    expected = keras.layers.Dense(4)(inputs)
    keras.utils.set_random_seed(1)
    outputs = kwrap.Wrapper(keras.layers.Dense(4), [wrapper_nothing()])(inputs)
    assert outputs.dtype == expected.dtype
    np.testing.assert_array_equal(outputs, expected)


def test_a_sequential_model_of_wrappers_trains_from_its_first_call_inside_fit():
    hook = WrapperCentre()
    model = compiled(kwrap.Wrapper(keras.layers.Dense(4), [hook]), inputs=False)
    reference = compiled(keras.layers.Dense(4))
    assert not model.built
    model.fit(DATA, TARGETS, epochs=2, verbose=0)
    assert hook.initializations == [True]  # once, and outside of the graph that fit traces
    layer = model.layers[0].layer
    state = float(hook.state(hook.target_weights[0], "mean"))
    np.testing.assert_allclose(
        model.predict(DATA, verbose=0), DATA @ (layer.kernel.numpy() - state) + layer.bias.numpy(), rtol=1e-4, atol=1e-5
    )
    # The bare model, begun at the centred kernel, trains to the same outputs: the shift has a gradient of one.
    first = compiled(kwrap.Wrapper(keras.layers.Dense(4), [WrapperCentre()]))
    kernel, bias = (value.numpy() for value in first.layers[0].layer.variables)
    reference.set_weights([kernel - kernel.mean(), bias])
    for trained in (first, reference):
        trained.fit(DATA, TARGETS, epochs=2, shuffle=False, verbose=0)
    np.testing.assert_allclose(first.predict(DATA, verbose=0), reference.predict(DATA, verbose=0), rtol=1e-4, atol=1e-5)


def test_the_first_call_inside_a_tf_function_is_as_outside_and_autograph_is_silent(caplog):
    layer = keras.layers.Dense(4)
    wrapped = kwrap.Wrapper(layer, [WrapperCentre(), WrapperClip(), wrapper_scale()])
    with caplog.at_level(logging.WARNING, logger="tensorflow"):
        outputs = tf.function(lambda inputs: wrapped(inputs))(DATA)
    # The hooks take their state from the trained weights, before they are projected.
    kernel, bias, mean = layer.kernel.numpy(), layer.bias.numpy(), float(wrapped.hooks[0].variables[0])
    np.testing.assert_allclose(outputs, 2 * (DATA @ (kernel - mean) + bias), rtol=1e-4, atol=1e-5)
    assert np.abs(kernel).max() == np.float32(0.1)
    assert caplog.records == []


def test_inside_a_stateless_scope_layer_and_hooks_are_built_and_initialized_at_the_first_call_outside():
    hook = WrapperCentre()
    wrapped = kwrap.Wrapper(keras.layers.Dense(4), [hook])
    with keras.StatelessScope():
        wrapped(DATA)
    assert wrapped.layer.built
    assert hook.initializations == []
    np.testing.assert_allclose(wrapped(DATA), centred(wrapped.layer), rtol=1e-5, atol=1e-6)
    assert hook.initializations == [True]


def test_stateless_calls_read_the_values_that_are_given():
    wrapped = kwrap.Wrapper(dense(), [WrapperHalve()])
    values = [np.full(variable.shape, 2.0, "float32") for variable in wrapped.trainable_variables]
    outputs, _ = wrapped.stateless_call(values, wrapped.non_trainable_variables, DATA)
    np.testing.assert_allclose(outputs, DATA @ np.ones((3, 4)) + 2, rtol=1e-5)


def test_symbolic_calls_do_not_initialize():
    hook = WrapperCentre()
    wrapped = kwrap.Wrapper(dense(), [hook])
    inputs = keras.Input((3,))
    model = keras.Model(inputs, wrapped(inputs))
    np.testing.assert_allclose(model(DATA), centred(wrapped.layer), rtol=1e-5, atol=1e-6)
    assert hook.initializations == [True]


def test_a_wrapper_around_a_wrapper_acts_outside_of_it():
    layer = dense()
    inner = kwrap.Wrapper(layer, [WrapperHalve(), wrapper_scale(factor=3.0)])
    outer = kwrap.Wrapper(inner, [wrapper_scale(factor=5.0)])
    kernel, bias = (variable.numpy() for variable in layer.variables)
    np.testing.assert_allclose(outer(DATA), 15 * (DATA @ (0.5 * kernel) + bias), rtol=1e-5, atol=1e-5)


def test_an_eager_call_of_hooks_that_act_on_no_call_is_the_layers_own_call_and_a_check():
    def python_calls(layer: keras.Layer) -> int:
        layer(inputs)
        calls: list[str] = []
        sys.setprofile(lambda frame, event, argument: calls.append(event) if event == "call" else None)
        try:
            layer(inputs)
        finally:
            sys.setprofile(None)
        return len(calls)

    inputs, layer = keras.ops.ones((2, 3)), keras.layers.Dense(4)
    bare = python_calls(layer)
    assert python_calls(kwrap.Wrapper(layer, [WrapperClip()])) < 1.2 * bare
    assert python_calls(kwrap.Wrapper(layer, [WrapperHalve()])) > 1.2 * bare


def test_a_shared_wrapper_is_one_layer():
    wrapped = kwrap.Wrapper(keras.layers.Dense(3), [wrapper_scale()])
    inputs = keras.Input((3,))
    model = keras.Model(inputs, wrapped(wrapped(inputs)))
    assert len(model.variables) == 2
    np.testing.assert_allclose(model(DATA), 2 * wrapped.layer(2 * wrapped.layer(DATA)), rtol=1e-5)


def test_a_composite_that_builds_and_calls_its_layer_itself_takes_a_wrapper():
    layer = keras.layers.Dense(4)
    outputs = keras.layers.TimeDistributed(kwrap.Wrapper(layer, [WrapperHalve(), wrapper_scale()]))(SEQUENCES)
    kernel, bias = (variable.numpy() for variable in layer.variables)
    np.testing.assert_allclose(outputs, 2 * (SEQUENCES @ (0.5 * kernel) + bias), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_weights_are_changed_in_their_own_dtype_inside_a_composite_of_mixed_precision(policy):
    layer = keras.layers.Dense(4, use_bias=False, dtype=policy)
    composite = keras.layers.TimeDistributed(kwrap.Wrapper(layer, [WrapperHalve()]), dtype=policy)
    outputs = composite(SEQUENCES)
    half = keras.layers.Dense(4, use_bias=False, dtype=policy)
    half.build((None, 3))
    half.kernel.assign(layer.kernel * 0.5)
    expected = keras.layers.TimeDistributed(half, dtype=policy)(SEQUENCES)
    np.testing.assert_array_equal(keras.ops.cast(outputs, "float32"), keras.ops.cast(expected, "float32"))


def test_bidirectional_is_refused_by_name():
    with pytest.raises(errors.WrapperStateError, match="'rnn' is wrapped, so that Bidirectional cannot"):
        keras.layers.Bidirectional(kwrap.Wrapper(keras.layers.LSTM(3, name="rnn"), [wrapper_nothing()]))


def test_in_two_replicas_an_unbuilt_wrapper_asks_to_be_built_first_and_one_that_was_built_or_loaded_works(tmp_path):
    script = """
import sys
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import kwrap
from kwrap import errors

@kwrap.hook(layer_type=keras.Layer)
class Count(kwrap.Hook):
    def build(self, layer):
        for target in self.target_weights:
            self.add_state(target, "calls", dtype="int32")
    def parametrize(self, target, value, *, training):
        if training:
            self.state(target, "calls").assign_add(1)
        return value

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    wrapped = kwrap.Wrapper(keras.layers.Dense(1, name="fc"), [Count()])
    data = np.ones((2, 3), "float32")
    try:
        strategy.run(lambda: wrapped(data, training=True))
    except errors.WrapperStateError as error:
        print(error)
    wrapped(data)
    strategy.run(lambda: wrapped(data, training=True))
    print("calls", int(wrapped.hooks[0].variables[0].value.values[0]))
    keras.Sequential([keras.Input((3,)), wrapped]).save(sys.argv[1])
    loaded = keras.models.load_model(sys.argv[1])
    strategy.run(lambda: loaded(data, training=True))
    print("loaded", int(loaded.layers[0].hooks[0].variables[0].value.values[0]))
"""
    command = [sys.executable, "-c", script, tmp_path / "model.keras"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "wrapped layer 'fc' is not built yet" in run.stdout
    assert "call the model once before" in run.stdout
    assert "calls 1" in run.stdout
    assert "loaded 2" in run.stdout


# --- the layer's face ------------------------------------------------------------------------------------------------


def test_a_wrapper_has_the_layers_name_signature_and_class_name():
    layer = keras.layers.MultiHeadAttention(2, 3, name="attention")
    wrapped = kwrap.Wrapper(layer, [wrapper_nothing()])
    assert (wrapped.name, type(wrapped).__name__) == ("attention", "MultiHeadAttention")
    assert inspect.signature(wrapped.call) == inspect.signature(layer.call)
    assert isinstance(wrapped, kwrap.Wrapper)
    assert repr(wrapped) == f"<Wrapper of {layer!r}, hooks: ['wrapper_nothing']>"


def test_attributes_and_methods_read_through_to_the_layer():
    layer = keras.layers.LSTM(3, stateful=True)
    wrapped = kwrap.Wrapper(layer, [wrapper_nothing()])
    wrapped(SEQUENCES)
    assert (wrapped.units, wrapped.cell, wrapped.return_sequences) == (3, layer.cell, False)
    assert np.any(layer.states[0])
    wrapped.reset_state()
    assert not np.any(layer.states[0])
    assert kwrap.Wrapper(dense(), []).kernel is not None
    with pytest.raises(AttributeError, match="'LSTM' object has no attribute 'kernle'"):
        _ = wrapped.kernle


def test_dir_lists_what_reads_through_and_each_hook_as_weight_files_name_it():
    wrapped = kwrap.Wrapper(dense(), [wrapper_nothing(), wrapper_nothing(name="again")])
    assert {"kernel", "units", "hooks/wrapper_nothing", "hooks/again"} <= set(dir(wrapped))
    assert getattr(wrapped, "hooks/again") is wrapped.hooks[1]
    assert {"enable_lora", "layer"}.isdisjoint(dir(wrapped))
    assert "layer" in dir(kwrap.Wrapper(keras.layers.TimeDistributed(dense()), []))


def test_the_weights_are_the_layers_and_then_the_hooks():
    wrapped = kwrap.Wrapper(dense(), [WrapperCentre(), WrapperTrained()])
    assert [variable.name for variable in wrapped.weights] == ["kernel", "bias", "gain", "kernel_mean"] or [
        variable.name for variable in wrapped.weights
    ] == ["kernel", "bias", "kernel_mean", "gain"]
    assert [variable.name for variable in wrapped.trainable_weights] == ["kernel", "bias", "gain"]
    assert [variable.name for variable in wrapped.non_trainable_weights] == ["kernel_mean"]
    assert kwrap.Wrapper(dense(), [wrapper_nothing()]).count_params() == 16


def test_trainable_is_that_of_the_layer_or_of_a_hook_with_trainable_variables():
    layer = dense()
    plain, trained = kwrap.Wrapper(layer, [wrapper_nothing()]), kwrap.Wrapper(dense(), [WrapperTrained()])
    layer.trainable = trained.layer.trainable = False
    assert (plain.trainable, trained.trainable) == (False, True)
    assert [variable.name for variable in trained.trainable_variables] == ["gain"]
    for wrapped in (plain, trained):
        wrapped.trainable = True  # although it reads True for the second already
        assert wrapped.layer.trainable
        wrapped.trainable = False
        assert not wrapped.layer.trainable
        assert wrapped.trainable_variables == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.layers.Masking(),
        lambda: keras.layers.LSTM(3, return_sequences=True),
        lambda: keras.layers.Embedding(5, 2, mask_zero=True),
        lambda: keras.layers.Dense(3),
        lambda: keras.layers.Flatten(),
        lambda: keras.layers.Concatenate(axis=1),
    ],
)
def test_masks_shapes_and_specs_are_the_layers(make):
    layer = make()
    wrapped = kwrap.Wrapper(layer, [wrapper_nothing()])
    embeds, joins = isinstance(layer, keras.layers.Embedding), isinstance(layer, keras.layers.Concatenate)
    data = np.array([[1, 0, 2]]) if embeds else [SEQUENCES, SEQUENCES] if joins else SEQUENCES
    shape = (None, 3) if embeds else [(None, 5, 3), (None, 5, 3)] if joins else (None, 5, 3)
    spec = keras.tree.map_shape_structure(lambda one: keras.KerasTensor(one, "int32" if embeds else "float32"), shape)
    assert wrapped.compute_output_shape(shape) == layer.compute_output_shape(shape)
    received, expected = wrapped.compute_output_spec(spec), layer.compute_output_spec(spec)
    assert (received.shape, received.dtype) == (expected.shape, expected.dtype)
    assert wrapped.supports_masking == layer.supports_masking
    outputs, bare = wrapped(data), layer(data)
    assert wrapped.input_spec is layer.input_spec
    mask, bare_mask = (getattr(tensor, "_keras_mask", None) for tensor in (outputs, bare))
    assert (mask is None) == (bare_mask is None)
    if mask is not None:
        np.testing.assert_array_equal(mask, bare_mask)
        np.testing.assert_array_equal(wrapped.compute_mask(data, None), layer.compute_mask(data, None))


@pytest.mark.parametrize("built", [True, False])
def test_changes_output_shows_in_shape_spec_and_graph(built):
    wrapped = kwrap.Wrapper(dense() if built else keras.layers.Dense(4), [wrapper_scale(), WrapperWiden()])
    assert wrapped.compute_output_shape((None, 3)) == (None, 8)
    spec = wrapped.compute_output_spec(keras.KerasTensor((None, 3)))
    assert (spec.shape, spec.dtype) == ((None, 8), "float16")
    inputs = keras.Input((3,))
    outputs = wrapped(inputs)
    assert (outputs.shape, outputs.dtype) == ((None, 8), "float16")
    model = keras.Model(inputs, keras.layers.Dense(2)(outputs))
    assert model(DATA).shape == (8, 2)
    half = 2 * wrapped.layer(DATA)
    np.testing.assert_allclose(wrapped(DATA), np.concatenate([half, half], axis=-1), rtol=1e-3, atol=1e-3)


def test_losses_of_the_layer_count_once():
    layer = dense(activity_regularizer="l2", kernel_regularizer="l1")
    expected = [float(loss) for loss in (layer(DATA), layer.losses)[1]]
    model = keras.Sequential([keras.Input((3,)), kwrap.Wrapper(layer, [WrapperHalve(phase="training")])])
    model(DATA)
    assert sorted(map(float, model.losses)) == pytest.approx(sorted(expected), rel=1e-6)
    model(DATA, training=True)
    assert len(model.losses) == 2  # the activity's, of the halved kernel, and the regularizer's, which sees the raw one
    assert float(keras.ops.sum(keras.ops.abs(layer.kernel))) * 0.01 in [pytest.approx(float(x)) for x in model.losses]


def test_state_that_the_layer_updates_is_as_without_hooks():
    bare, wrapped = keras.layers.BatchNormalization(), keras.layers.BatchNormalization()
    around = kwrap.Wrapper(wrapped, [wrapper_nothing(), WrapperHalve(targets="gamma")])
    for _ in range(3):
        bare(DATA, training=True)
        around(DATA, training=True)
    np.testing.assert_array_equal(wrapped.moving_mean.numpy(), bare.moving_mean.numpy())
    np.testing.assert_array_equal(wrapped.moving_variance.numpy(), bare.moving_variance.numpy())
    np.testing.assert_allclose(around(DATA), 0.5 * bare(DATA), rtol=1e-5, atol=1e-6)


def test_a_weight_that_the_layer_assigns_itself_cannot_be_parametrized():
    wrapped = kwrap.Wrapper(keras.layers.SpectralNormalization(dense()), [wrapper_nothing()])
    wrapped(DATA, training=True)

    class Assigning(keras.layers.Dense):
        def call(self, inputs):
            self.kernel.assign(self.kernel * 0.9)
            return super().call(inputs)

    with pytest.raises(errors.WrapperStateError, match=r"wrapper_halve at 'own' changes how .* would be lost"):
        kwrap.Wrapper(Assigning(4, name="own"), [WrapperHalve()])(DATA)


@kwrap.hook(layer_type=keras.Layer)
class WrapperLook(kwrap.Hook):
    """Hands on what it is given."""

    def call(self, call_next, inputs):
        LOOKS.append(self.in_trial)
        return call_next(inputs)

    def parametrize(self, target, value):
        return value


LOOKS: list[bool] = []


def test_weights_that_hooks_only_look_at_the_layer_reads_itself():
    inputs, targets = np.ones((2, 6, 3), "float32"), np.ones((2, 4), "float32")
    gradients = []
    for hooks in ([], [WrapperLook()]):
        keras.utils.set_random_seed(0)
        lstm = keras.layers.LSTM(4)
        layer = kwrap.Wrapper(lstm, hooks) if hooks else lstm
        layer(inputs)
        with tf.GradientTape() as tape:
            loss = keras.ops.sum((layer(inputs) - targets) ** 2)
        gradients.append(tape.gradient(loss, [variable.value for variable in lstm.trainable_variables]))
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_array_equal(one, other)  # read once and not at each step, sums would be in another order


def test_a_hook_knows_that_its_call_is_tried_before_it_is_on_the_model():
    LOOKS.clear()
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="dense")])
    kwrap.wrap_model(model, WrapperLook(), where="dense")
    assert LOOKS == [True]
    model(DATA)
    assert LOOKS == [True, False]


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_a_layers_precision_is_its_own(policy):
    layer = keras.layers.Dense(4, dtype=policy)
    wrapped = kwrap.Wrapper(layer, [WrapperHalve(), wrapper_scale()])
    outputs = wrapped(DATA)
    assert outputs.dtype == layer.compute_dtype
    assert wrapped.dtype_policy.name == "float32"
    assert wrapped.kernel.dtype == layer.variable_dtype
    half = keras.ops.cast(layer.kernel.numpy() * 0.5, layer.compute_dtype)
    expected = 2 * (keras.ops.cast(DATA, layer.compute_dtype) @ half)
    np.testing.assert_array_equal(keras.ops.cast(outputs, "float32"), keras.ops.cast(expected, "float32"))


@pytest.mark.parametrize("mode", ["full", "activations"])
def test_gradients_of_a_layer_under_a_remat_scope_are_right(mode):
    with keras.RematScope(mode=mode):
        layer = keras.layers.Dense(4, use_bias=False, activation="relu")
        wrapped = kwrap.Wrapper(layer, [WrapperHalve()])
        wrapped(DATA)
    with tf.GradientTape() as tape:
        loss = keras.ops.sum(wrapped(DATA))
    kernel = layer.kernel.numpy()
    expected = 0.5 * DATA.T @ (DATA @ (0.5 * kernel) > 0).astype("float32")
    np.testing.assert_allclose(tape.gradient(loss, layer.kernel.value), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("jit_compile", [True, False])
def test_training_through_hooks_is_that_of_the_reference(jit_compile):
    keras.utils.set_random_seed(0)
    layer, plain = dense(use_bias=False), dense(use_bias=False)
    plain.kernel.assign(layer.kernel)
    model = keras.Sequential([keras.Input((3,)), kwrap.Wrapper(layer, [WrapperHalve(), WrapperClip()])])
    model.compile(keras.optimizers.SGD(0.1), loss="mse", jit_compile=jit_compile)
    model.fit(DATA, TARGETS, epochs=3, verbose=0)
    kernel = np.clip(plain.kernel.numpy(), -0.1, 0.1)
    for _ in range(3):
        gradient = 0.5 * DATA.T @ (2 * (DATA @ (0.5 * kernel) - TARGETS) / TARGETS.size)
        kernel = np.clip(kernel - 0.1 * gradient, -0.1, 0.1)
    np.testing.assert_allclose(layer.kernel.numpy(), kernel, rtol=1e-4, atol=1e-6)


# --- behind the Wrapper's back ---------------------------------------------------------------------------------------


def quantize(wrapped: kwrap.Wrapper) -> None:
    wrapped.layer.quantize("int8")


def enable_lora(wrapped: kwrap.Wrapper) -> None:
    wrapped.layer.enable_lora(2)


@pytest.mark.parametrize("change", [quantize, enable_lora])
@pytest.mark.parametrize("hook_class", [WrapperHalve, WrapperClip])
def test_quantizing_or_lora_behind_a_weight_hook_is_an_error_when_called_and_when_saved(change, hook_class, tmp_path):
    model = compiled(kwrap.Wrapper(dense(name="fc"), [hook_class()]))
    model(DATA)
    change(model.layers[0])
    for use in (lambda: model(DATA), lambda: model.save_weights(tmp_path / "changed.weights.h5")):
        with pytest.raises(errors.WrapperStateError) as caught:
            use()
        assert "layer 'fc' was quantized, or got Keras' LoRA, while it was wrapped" in str(caught.value)
        assert hook_class.hook_name in str(caught.value)
        assert "Unwrap, quantize, wrap again" in str(caught.value)


def test_quantizing_a_layer_whose_hooks_leave_its_weights_alone_is_no_error():
    wrapped = kwrap.Wrapper(dense(), [wrapper_scale()])
    wrapped(DATA)
    quantize(wrapped)
    np.testing.assert_array_equal(wrapped(DATA), 2 * wrapped.layer(DATA))


def test_a_quantized_layer_and_one_with_lora_can_be_wrapped():
    for change in (quantize, enable_lora):
        layer = dense()
        change(kwrap.Wrapper(layer, []))
        expected = layer(DATA)
        np.testing.assert_array_equal(kwrap.Wrapper(layer, [wrapper_scale()])(DATA), 2 * expected)


def test_enable_lora_is_hidden_and_says_why():
    wrapped = kwrap.Wrapper(dense(name="fc"), [WrapperHalve()])
    assert not hasattr(wrapped, "enable_lora")
    with pytest.raises(AttributeError, match="'fc' is wrapped: Keras' enable_lora reads its kernel past the hooks"):
        wrapped.enable_lora(2)


# --- errors ----------------------------------------------------------------------------------------------------------


def test_a_hook_that_is_not_made_for_the_layer_is_an_error_that_says_what_it_is_for():
    with pytest.raises(errors.LayerTypeError) as caught:
        kwrap.Wrapper(keras.layers.Flatten(name="flat"), [wrapper_for_dense()], path="encoder/flat")
    error = caught.value
    assert (error.hook, error.path, error.layer) == ("wrapper_for_dense", "encoder/flat", "Flatten")
    assert error.layer_types == ["Dense"]
    assert "'encoder/flat' (a Flatten): it is made for Dense" in str(error)
    assert isinstance(error, TypeError)


def test_the_same_hook_twice_is_an_error_that_gives_another_name():
    with pytest.raises(errors.DuplicateHookError) as caught:
        kwrap.Wrapper(dense(name="fc"), [wrapper_scale(), WrapperHalve(), wrapper_scale(factor=3.0)])
    error = caught.value
    assert (error.hook, error.path) == ("wrapper_scale", "fc")
    assert "name='wrapper_scale_2'" in str(error)
    layer = dense()
    twice = kwrap.Wrapper(layer, [wrapper_scale(), wrapper_scale(factor=3.0, name="wrapper_scale_2")])
    np.testing.assert_allclose(twice(DATA), 6 * layer(DATA), rtol=1e-6)


def test_a_refused_hook_leaves_the_layer_as_it_was():
    layer = dense()
    with pytest.raises(errors.DuplicateHookError):
        kwrap.Wrapper(layer, [WrapperClip(), WrapperClip()])
    assert layer.kernel.constraint is None
    assert np.abs(layer.kernel.numpy()).max() > 0.1


# --- saving ----------------------------------------------------------------------------------------------------------


def test_the_config_names_each_hook_with_version_options_and_plugin():
    wrapped = kwrap.Wrapper(dense(name="fc"), [WrapperCentre(scale=0.5, name="mine"), wrapper_scale()], path="a/fc")
    config = wrapped.get_config()
    assert (config["name"], config["path"], config["layer"]["class_name"]) == ("fc", "a/fc", "Dense")
    assert config["hooks"] == [
        {
            "hook": "wrapper_centre",
            "version": 3,
            "plugin": None,
            "plugin_version": None,
            "config": {"scale": 0.5, "name": "mine", "phase": "always", "targets": None},
            "effect": {
                "methods": ["parametrize"],
                "observes": False,
                "changes_output": False,
                "freezes": False,
                "trainable": [],
            },
        },
        {
            "hook": "wrapper_scale",
            "version": 1,
            "plugin": None,
            "plugin_version": None,
            "config": {"factor": 2.0, "name": "wrapper_scale", "phase": "always", "targets": None},
            "effect": {
                "methods": ["call"],
                "observes": False,
                "changes_output": False,
                "freezes": False,
                "trainable": [],
            },
        },
    ]
    back = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(wrapped))
    assert type(back) is type(wrapped)
    assert back.get_config() == config


def test_the_config_names_plugin_and_version_of_an_installed_hook(plugins, install, monkeypatch):
    monkeypatch.setattr(_registry, "plugins", plugins)
    source = """
import keras, kwrap

@kwrap.hook(layer_type=keras.Layer)
def installed(call_next, inputs):
    return call_next(inputs)
"""
    install("wrapping", source, distribution="kwrap-wrapping", version="0.2")
    (saved,) = kwrap.Wrapper(dense(), [_registry.use("installed")]).get_config()["hooks"]
    assert (saved["hook"], saved["plugin"], saved["plugin_version"]) == ("installed", "wrapping", "kwrap-wrapping 0.2")


@pytest.mark.parametrize("built", [True, False], ids=["built", "built by fit"])
def test_a_saved_model_is_loaded_with_its_hooks_and_trains_on_as_the_original_would(tmp_path, built):
    hooks = [WrapperCentre(scale=0.5), wrapper_scale(), WrapperClip(), WrapperTrained()]
    model = keras.Sequential([kwrap.Wrapper(keras.layers.Dense(4), hooks), keras.layers.Dense(4)])
    if built:
        model.build((None, 3))
    model.compile(keras.optimizers.Adam(0.01), loss="mse")
    model.fit(DATA, TARGETS, epochs=2, verbose=0)
    model.save(tmp_path / "wrapped.keras")
    loaded = keras.models.load_model(tmp_path / "wrapped.keras")
    assert [type(hook) for hook in loaded.layers[0].hooks] == [type(hook) for hook in hooks]
    assert [hook.get_config() for hook in loaded.layers[0].hooks] == [hook.get_config() for hook in hooks]
    np.testing.assert_array_equal(loaded.predict(DATA, verbose=0), model.predict(DATA, verbose=0))
    assert loaded.layers[0].hooks[0].initializations == []
    for trained in (model, loaded):
        trained.fit(DATA, TARGETS, epochs=2, shuffle=False, verbose=0)
    for one, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.abs(loaded.layers[0].kernel.numpy()).max() <= np.float32(0.1)


def test_loading_weights_of_a_wrapped_model_does_not_initialize(tmp_path):
    def model():
        return compiled(kwrap.Wrapper(keras.layers.Dense(4), [WrapperCentre()]))

    source, target = model(), model()
    source(DATA)
    (mean,) = source.layers[0].hooks[0].variables
    mean.assign(0.75)
    source.save_weights(tmp_path / "wrapped.weights.h5")
    target(DATA)
    target.load_weights(tmp_path / "wrapped.weights.h5")
    np.testing.assert_array_equal(target.predict(DATA, verbose=0), source.predict(DATA, verbose=0))
    assert len(target.layers[0].hooks[0].initializations) == 1


def test_a_wrapper_is_pickled_by_itself_as_its_layer_is():
    wrapper = kwrap.Wrapper(dense(), [WrapperCentre(), WrapperTrained()])
    wrapper(DATA)
    for variable in wrapper.hooks[0].variables:
        variable.assign(variable + 0.25)
    expected = wrapper(DATA)
    back = pickle.loads(pickle.dumps(wrapper))
    assert [hook.name for hook in back.hooks] == ["wrapper_centre", "wrapper_trained"]
    np.testing.assert_array_equal(back(DATA), expected)


def test_a_model_is_pickled_with_its_hooks():
    model = compiled(kwrap.Wrapper(keras.layers.Dense(4), [WrapperCentre(), wrapper_scale()]))
    expected = model.predict(DATA, verbose=0)
    back = pickle.loads(pickle.dumps(model))
    assert [hook.name for _, hook in kwrap.find_hooks(back)] == ["wrapper_centre", "wrapper_scale"]
    np.testing.assert_array_equal(back.predict(DATA, verbose=0), expected)


def test_the_average_that_is_saved_satisfies_the_hooks(tmp_path):
    model = keras.Sequential([keras.Input((3,)), kwrap.Wrapper(dense(), [WrapperClip()])])
    model.compile(keras.optimizers.SGD(5.0, use_ema=True, ema_momentum=0.5), loss="mse")
    model.fit(DATA, TARGETS, epochs=3, verbose=0)
    model.save(tmp_path / "averaged.keras")
    loaded = keras.models.load_model(tmp_path / "averaged.keras")
    assert np.abs(loaded.layers[0].kernel.numpy()).max() <= np.float32(0.1)


def zoo(wrap: bool) -> keras.Model:
    """Return a model with layers that keep weights of their own, in sublayers, and in a nested model."""

    def on(layer: keras.Layer) -> keras.Layer:
        return kwrap.Wrapper(layer, [wrapper_nothing(), WrapperHalve()]) if wrap else layer

    inputs = keras.Input((5, 3))
    hidden = on(keras.layers.LSTM(4, return_sequences=True))(inputs)
    hidden = on(keras.layers.MultiHeadAttention(2, 2))(hidden, hidden)
    hidden = on(keras.layers.BatchNormalization())(hidden)
    hidden = on(keras.layers.Bidirectional(keras.layers.GRU(2, return_sequences=True)))(hidden)
    hidden = keras.Sequential([keras.Input((5, 4)), on(keras.layers.Dense(4)), on(keras.layers.Dropout(0.5))])(hidden)
    return keras.Model(inputs, on(keras.layers.Dense(2))(keras.layers.Flatten()(hidden)))


def keys(path) -> dict[str, tuple[int, ...]]:
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item.shape}) if isinstance(item, h5py.Dataset) else None)
    return found


def test_weight_files_of_plain_and_wrapped_models_have_the_same_keys_and_load_into_each_other(tmp_path):
    plain, wrapped = zoo(wrap=False), zoo(wrap=True)
    plain.save_weights(tmp_path / "plain.weights.h5")
    wrapped.save_weights(tmp_path / "wrapped.weights.h5")
    assert keys(tmp_path / "wrapped.weights.h5") == keys(tmp_path / "plain.weights.h5")
    wrapped.load_weights(tmp_path / "plain.weights.h5")
    for one, other in zip(wrapped.weights, plain.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    wrapped.save_weights(tmp_path / "again.weights.h5")
    other = zoo(wrap=False)
    other.load_weights(tmp_path / "again.weights.h5")
    np.testing.assert_array_equal(other(SEQUENCES), plain(SEQUENCES))


def test_a_hooks_state_lies_in_a_weight_file_beside_keys_that_are_the_plain_models(tmp_path):
    compiled(dense()).save_weights(tmp_path / "plain.weights.h5")
    compiled(kwrap.Wrapper(dense(), [WrapperCentre(), WrapperTrained()])).save_weights(tmp_path / "wrapped.weights.h5")
    plain, wrapped = keys(tmp_path / "plain.weights.h5"), keys(tmp_path / "wrapped.weights.h5")
    assert plain.items() <= wrapped.items()
    assert {key for key in wrapped if key not in plain} == {
        "layers/dense/hooks/wrapper_centre/vars/kernel_mean",
        "layers/dense/hooks/wrapper_trained/vars/gain",
    }


def test_an_attribute_of_the_layer_is_set_on_the_layer():
    layer = keras.layers.Dense(2, activation="relu")
    wrapper = kwrap.Wrapper(layer, [])
    wrapper.activation = keras.activations.linear
    wrapper.remark = "the wrapper's own"
    assert layer.activation is keras.activations.linear
    assert not hasattr(layer, "remark")
