import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import kwrap
from kwrap.errors import OptionValueError, PlanError, TargetError, WrapperStateError
from kwrap_lora import LoRA, use_adapters
from kwrap_prune import ConstantSparsity, Prune

RNG = np.random.default_rng(0)
FLAT = RNG.normal(size=(5, 6)).astype("float32")
STEPS = RNG.normal(size=(2, 7, 6)).astype("float32")
IMAGES = RNG.normal(size=(2, 6, 6, 4)).astype("float32")
WORDS = RNG.integers(0, 9, size=(2, 4))

# A layer, its inputs, and of each weight the axes that the inputs are summed over.
KINDS = {
    "Dense": (lambda: layers.Dense(5), FLAT, {"kernel": (0,)}),
    "EinsumDense to heads": (lambda: layers.EinsumDense("abc,cde->abde", (7, 2, 3)), STEPS, {"kernel": (0,)}),
    "EinsumDense from heads": (lambda: layers.EinsumDense("abc,bcd->ad", (5,)), STEPS, {"kernel": (0, 1)}),
    "Conv1D": (lambda: layers.Conv1D(5, 3), STEPS, {"kernel": (0, 1)}),
    "Conv2D": (lambda: layers.Conv2D(6, 2, groups=2), IMAGES, {"kernel": (0, 1, 2)}),
    "Conv2DTranspose": (lambda: layers.Conv2DTranspose(5, 2), IMAGES, {"kernel": (0, 1, 3)}),
    "DepthwiseConv2D": (lambda: layers.DepthwiseConv2D(2), IMAGES, {"kernel": (0, 1)}),
    "SeparableConv1D": (
        lambda: layers.SeparableConv1D(5, 3),
        STEPS,
        {"depthwise_kernel": (0,), "pointwise_kernel": (0, 1)},
    ),
    "Embedding": (lambda: layers.Embedding(9, 4), WORDS, {"embeddings": (0,)}),
    "LSTM": (lambda: layers.LSTM(3), STEPS, {"kernel": (0,), "recurrent_kernel": (0,)}),
    "GRU": (lambda: layers.GRU(3), STEPS, {"kernel": (0,), "recurrent_kernel": (0,)}),
}


def wrapped(layer: keras.Layer, inputs: np.ndarray, *hooks: kwrap.Hook) -> kwrap.Wrapper:
    layer(inputs)
    wrapper = kwrap.Wrapper(layer, list(hooks))
    wrapper(inputs)  # hooks begin with the first call
    return wrapper


def fill(hook: kwrap.Hook, seed: int = 1) -> None:
    """Give A, B and the magnitudes values as if trained."""
    generator = np.random.default_rng(seed)
    for target in hook.target_weights:
        for variable in hook.parts(target).values():
            variable.assign(variable + generator.normal(size=variable.shape))


def as_matrix(value: np.ndarray, inputs: tuple[int, ...]) -> np.ndarray:
    rows = int(np.prod([value.shape[axis] for axis in inputs]))
    return np.moveaxis(value, inputs, range(len(inputs))).reshape(rows, -1)


def from_matrix(matrix: np.ndarray, shape: tuple[int, ...], inputs: tuple[int, ...]) -> np.ndarray:
    others = [size for axis, size in enumerate(shape) if axis not in inputs]
    value = matrix.reshape(*[shape[axis] for axis in inputs], *others)
    return np.moveaxis(value, range(len(inputs)), inputs)


def dora(weight: np.ndarray, change: np.ndarray, magnitude: np.ndarray) -> np.ndarray:
    """The paper's equation 5."""
    direction = weight + change
    return magnitude * direction / np.sqrt((direction**2).sum(axis=0))


def model_of(*hooks, units=(8, 3), compiled=True) -> keras.Model:
    model = keras.Sequential([keras.Input((6,))], name="net")
    for index, count in enumerate(units):
        model.add(layers.Dense(count, activation="tanh", name=f"dense_{index}"))
    if compiled:
        model.compile(keras.optimizers.Adam(0.05), "mse")
    return kwrap.wrap_model(model, list(hooks)) if hooks else model


def train(model: keras.Model, **options) -> None:
    model.fit(FLAT, np.ones((5, model.output_shape[-1])), epochs=3, verbose=0, **options)


def kernels(model: keras.Model) -> list[np.ndarray]:
    return [np.array(layer.kernel) for layer in model.layers]


# --- what the layer reads ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_computes_with_its_weights_and_a_times_b_of_their_matrices(kind, use_dora):
    make, inputs, axes = KINDS[kind]
    hook = LoRA(2, alpha=3.0, use_dora=use_dora)
    wrapper = wrapped(make(), inputs, hook)
    fill(hook)
    assert [target.name for target in hook.target_weights] == list(axes)
    reference = type(wrapper.layer).from_config(wrapper.layer.get_config())
    reference(inputs)
    reference.set_weights(wrapper.layer.get_weights())
    for target, (name, summed) in zip(hook.target_weights, axes.items(), strict=True):
        parts = {part: np.array(variable, "float64") for part, variable in hook.parts(target).items()}
        stored = next(variable for variable in reference.weights if variable.name == name)
        weight, change = as_matrix(np.array(stored, "float64"), summed), 3.0 / 2 * parts["a"] @ parts["b"]
        matrix = dora(weight, change, parts["magnitude"]) if use_dora else weight + change
        stored.assign(from_matrix(matrix, stored.shape, summed))
    # Sums in float32 in another order.
    np.testing.assert_allclose(wrapper(inputs), reference(inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_adapter_changes_nothing_to_the_bit(kind, use_dora):
    make, inputs, _ = KINDS[kind]
    wrapper = wrapped(make(), inputs, LoRA(2, use_dora=use_dora, dropout=0.5))
    np.testing.assert_array_equal(wrapper(inputs), wrapper.layer(inputs))
    np.testing.assert_array_equal(wrapper(inputs, training=True), wrapper.layer(inputs))


def test_the_factor_is_alpha_by_rank_and_of_rslora_by_its_root():
    assert LoRA(4).factor == 1.0
    assert LoRA(4, alpha=10).factor == 2.5
    assert LoRA(4, alpha=10, use_rslora=True).factor == 5.0
    hook = LoRA(4, alpha=10, use_rslora=True)
    wrapper = wrapped(layers.Dense(5, use_bias=False), FLAT, hook)
    fill(hook)
    a, b = (np.array(part) for part in hook.parts(hook.target_weights[0]).values())
    np.testing.assert_allclose(wrapper(FLAT), FLAT @ (np.array(wrapper.kernel) + 5 * a @ b), rtol=1e-5, atol=1e-5)


def test_matrices_begin_as_their_initializers_say_and_differ_by_layer_and_weight():
    hook = LoRA(2, a_initializer=keras.initializers.RandomUniform(1, 2), b_initializer="ones")
    lstm = wrapped(layers.LSTM(6), STEPS, hook)
    other = wrapped(layers.LSTM(6), STEPS, LoRA.from_config(hook.get_config())).hooks[0]
    firsts = [each.parts(target)["a"] for each in (hook, other) for target in each.target_weights]
    assert len({np.array(first).tobytes() for first in firsts}) == 4
    assert all(np.all((np.array(first) >= 1) & (np.array(first) <= 2)) for first in firsts)
    assert np.all(np.array(hook.parts(hook.target_weights[0])["b"]) == 1)
    assert lstm.trainable_variables


@pytest.mark.parametrize("policy", ["float16", "bfloat16"])
def test_half_weights_have_matrices_of_float32_and_are_added_to_in_it(policy):
    hook = LoRA(1, a_initializer="ones", b_initializer=keras.initializers.Constant(3e-8))  # 0 in float16
    wrapper = wrapped(layers.Dense(5, dtype=policy, kernel_initializer="zeros"), FLAT, hook)
    (target,) = hook.target_weights
    assert {variable.dtype for variable in hook.trainable_variables} == {"float32"}
    read = hook.parametrize(target, target.variable.value, training=False)
    assert keras.backend.standardize_dtype(read.dtype) == policy
    expected = keras.ops.convert_to_numpy(keras.ops.cast(np.full((6, 5), np.float32(3e-8)), policy))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(read), expected)
    assert wrapper(FLAT).dtype == policy


def test_float64_weights_have_matrices_of_float64():
    hook = LoRA(2)
    wrapped(layers.Dense(5, dtype="float64"), FLAT.astype("float64"), hook)
    assert {variable.dtype for variable in hook.trainable_variables} == {"float64"}


def test_dropout_leaves_inputs_of_a_out_in_training_and_scales_the_others():
    hook = LoRA(1, dropout=0.25, a_initializer="ones", b_initializer="ones")
    dense = layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    inputs = np.eye(4000, dtype="float32")
    wrapper = wrapped(dense, inputs, hook)
    one, two = (np.array(wrapper(inputs, training=True)) for _ in range(2))
    for drawn in (one, two):
        assert set(np.unique(drawn).tolist()) == {0.0, np.float32(1 / 0.75).item()}
        # Four standard errors of the share.
        assert abs(np.mean(drawn == 0) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 4000)
    assert np.any(one != two)
    np.testing.assert_array_equal(wrapper(inputs), np.ones((4000, 1)))


# --- DoRA -------------------------------------------------------------------------------------------------------------


def test_the_gradients_of_dora_are_those_of_the_papers_section_4_3():
    hook = LoRA(2, use_dora=True)
    wrapped(layers.Dense(5), FLAT, hook)
    fill(hook)
    (target,) = hook.target_weights
    parts = hook.parts(target)
    upstream = np.random.default_rng(2).normal(size=(6, 5)).astype("float32")
    with tf.GradientTape() as tape:
        loss = keras.ops.sum(hook.parametrize(target, target.variable.value, training=True) * upstream)
    found = dict(zip(parts, tape.gradient(loss, [variable.value for variable in parts.values()]), strict=True))
    a, b, magnitude = (np.array(variable, "float64") for variable in parts.values())
    direction = np.array(target.variable, "float64") + a @ b
    norms = np.sqrt((direction**2).sum(axis=0))
    of_direction = magnitude / norms * upstream
    expected = {"a": of_direction @ b.T, "b": a.T @ of_direction, "magnitude": (upstream * direction / norms).sum(0)}
    for part, value in expected.items():
        np.testing.assert_allclose(found[part], value, rtol=1e-4, atol=1e-5)


def test_a_column_of_zeros_is_no_nan_under_dora():
    hook = LoRA(2, use_dora=True)
    wrapper = wrapped(layers.Dense(5, kernel_initializer="zeros", use_bias=False), FLAT, hook)
    np.testing.assert_array_equal(wrapper(FLAT), np.zeros((5, 5)))
    fill(hook)
    assert np.all(np.isfinite(wrapper(FLAT)))


# --- training, taking off ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_dora", [False, True])
def test_only_the_adapter_trains_and_the_base_comes_back_to_the_bit(use_dora):
    model = model_of()
    before, predicted = kernels(model), model.predict(FLAT, verbose=0)
    model.trainable = False
    flags = [(variable.path, variable.trainable) for variable in model.variables]
    kwrap.wrap_model(model, LoRA(2, use_dora=use_dora, dropout=0.1))
    names = ["a", "b", "magnitude"] if use_dora else ["a", "b"]
    assert [variable.name for variable in model.trainable_variables] == [f"kernel_{name}" for name in names] * 2
    model.compile(keras.optimizers.Adam(0.05), "mse")
    train(model)
    assert np.any(model.predict(FLAT, verbose=0) != predicted)
    assert all(map(np.array_equal, kernels(model), before))
    kwrap.unwrap_model(model, merge=False)
    assert all(map(np.array_equal, kernels(model), before))
    assert np.array_equal(model.predict(FLAT, verbose=0), predicted)
    assert [(variable.path, variable.trainable) for variable in model.variables] == flags


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"use_rslora": True, "alpha": 7.0}])
def test_the_merged_model_computes_what_the_wrapped_one_did(options):
    model = model_of(LoRA(2, **options))
    train(model)
    expected = model.predict(FLAT, verbose=0)
    kwrap.unwrap_model(model)
    assert not kwrap.find_hooks(model)
    np.testing.assert_allclose(model.predict(FLAT, verbose=0), expected, rtol=1e-6, atol=1e-6)


def test_an_optimizer_has_slots_for_the_matrices_only():
    model = model_of()
    model.trainable = False
    kwrap.wrap_model(model, LoRA(2))
    model.compile("adam", "mse")
    train(model)
    sizes = [int(np.prod(variable.shape)) for variable in model.optimizer.variables]
    # Two moments of each matrix, the number of steps, the learning rate.
    assert sum(sizes) == 2 * (6 * 2 + 2 * 8 + 8 * 2 + 2 * 3) + 2


def test_weights_of_a_plain_model_begin_the_adapter_anew():
    model, plain = model_of(LoRA(2, use_dora=True)), model_of(units=(8, 3))
    train(model)
    hook = kwrap.find_hooks(model)[0][1]
    parts = hook.parts(hook.target_weights[0])
    model.get_layer("dense_0").layer.set_weights(plain.get_layer("dense_0").get_weights())
    hook.initialize(model.get_layer("dense_0").layer)
    assert not np.any(np.array(parts["b"]))
    np.testing.assert_allclose(parts["magnitude"], np.linalg.norm(kernels(plain)[0], axis=0), rtol=1e-6)


# --- several ----------------------------------------------------------------------------------------------------------


def two_adapters(**options) -> keras.Model:
    model = model_of(LoRA(2, name="one", **options), LoRA(3, name="two", alpha=6))
    for index, (_, hook) in enumerate(kwrap.find_hooks(model)):
        fill(hook, index)
    return model


def test_two_adapters_add_up():
    model = two_adapters()
    expected = kernels(model)
    for path, hook in kwrap.find_hooks(model):
        a, b = (np.array(part) for part in hook.parts(hook.target_weights[0]).values())
        expected[int(path[-1])] = expected[int(path[-1])] + hook.factor * a @ b
    kwrap.unwrap_model(model)
    for kernel, value in zip(kernels(model), expected, strict=True):
        np.testing.assert_allclose(kernel, value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("first", ["one", "two"])
def test_either_of_two_adapters_is_merged_alone_with_the_same_sum(first):
    model = two_adapters()
    expected = model.predict(FLAT, verbose=0)
    kwrap.unwrap_model(model, first)
    assert len(kwrap.find_hooks(model)) == 2
    np.testing.assert_allclose(model.predict(FLAT, verbose=0), expected, rtol=1e-5, atol=1e-6)
    kwrap.unwrap_model(model)
    np.testing.assert_allclose(model.predict(FLAT, verbose=0), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dropped", ["one", "two"])
def test_a_dropped_adapter_leaves_what_the_other_makes_alone(dropped):
    model, other = two_adapters(), "two" if dropped == "one" else "one"
    use_adapters(model, other)
    expected = model.predict(FLAT, verbose=0)
    kwrap.unwrap_model(model, [dropped], merge=False)
    assert {hook.name for _, hook in kwrap.find_hooks(model)} == {other}
    np.testing.assert_allclose(model.predict(FLAT, verbose=0), expected, rtol=1e-6, atol=1e-6)


def test_beside_dora_the_order_counts_and_a_merge_that_is_not_exact_is_an_error():
    model = two_adapters(use_dora=True)
    with pytest.raises(
        WrapperStateError, match="'two' at 'dense_0' cannot be merged into 'kernel' exactly while 'one'"
    ):
        kwrap.unwrap_model(model, "two")
    expected = model.predict(FLAT, verbose=0)
    kwrap.unwrap_model(model, "one")
    np.testing.assert_allclose(model.predict(FLAT, verbose=0), expected, rtol=1e-5, atol=1e-6)


def test_pruning_after_it_keeps_the_masks_of_a_pruned_model_in_the_merged_weights():
    model = model_of(Prune(ConstantSparsity(0.5, begin_step=0)))
    train(model)
    kwrap.unwrap_model(model)
    zeros = [kernel == 0 for kernel in kernels(model)]
    assert [zero.mean() for zero in zeros] == [0.5, 0.5]
    kwrap.wrap_model(model, [LoRA(2), Prune(ConstantSparsity(0.5, begin_step=0))])
    train(model)
    expected = model.predict(FLAT, verbose=0)
    kwrap.unwrap_model(model)
    assert all(map(np.array_equal, [kernel == 0 for kernel in kernels(model)], zeros))
    np.testing.assert_allclose(model.predict(FLAT, verbose=0), expected, rtol=1e-6, atol=1e-6)


# --- options ----------------------------------------------------------------------------------------------------------


def test_numbers_may_be_of_numpy():
    hook = LoRA(np.int64(2), alpha=np.float32(3), dropout=np.float64(0.5))
    assert (hook.rank, hook.factor, hook.dropout) == (2, 1.5, 0.5)
    assert LoRA.from_config(hook.get_config()).get_config() == hook.get_config()


def test_every_option_is_in_the_config():
    expected = {
        "rank": 3,
        "alpha": 6,
        "dropout": 0.1,
        "use_rslora": True,
        "use_dora": True,
        "a_initializer": "ones",
        "b_initializer": "he_uniform",
        "phase": "training",
        "targets": ["kernel"],
        "name": "mine",
    }
    hook = LoRA(**expected)
    assert LoRA.from_config(hook.get_config()).get_config() == hook.get_config() == expected


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rank": 0}, "lora: rank=0 is not an int that is at least 1"),
        ({"rank": 2.0}, "lora: rank=2.0 is not"),
        ({"rank": True}, "lora: rank=True is not"),
        ({"alpha": 0}, "lora: alpha=0 is not a finite number that is above 0"),
        ({"alpha": float("nan")}, "lora: alpha=nan is not"),
        ({"alpha": 10**400}, "lora: alpha=1000"),
        ({"dropout": 1.0}, "lora: dropout=1.0 is not a finite number that is at least 0 and below 1: the share"),
        ({"dropout": -0.1}, "lora: dropout=-0.1 is not"),
        ({"dropout": float("nan")}, "lora: dropout=nan is not"),
        ({"use_dora": 1}, "lora: use_dora=1 is not True or False"),
        ({"use_rslora": None}, "lora: use_rslora=None is not"),
        ({"a_initializer": "no_such"}, "lora: a_initializer='no_such' is neither the name of an initializer"),
        ({"b_initializer": "no_such"}, "lora: b_initializer='no_such' is neither"),
    ],
)
def test_an_option_that_cannot_be_is_an_error(options, text):
    with pytest.raises(OptionValueError, match=text):
        LoRA(**{"rank": 2, **options})


def test_a_rank_above_that_of_weights_names_every_layer_and_changes_nothing():
    model = model_of(units=(8, 3, 8))
    with pytest.raises(PlanError) as caught:
        kwrap.wrap_model(model, LoRA(4))
    text = str(caught.value)
    assert "dense_1: rank 4 is above 3, the most that the 8 x 3 matrix of 'kernel' has" in text
    assert "dense_2: rank 4 is above 3" in text
    assert "dense_0" not in text
    assert not kwrap.find_hooks(model)
    kwrap.wrap_model(model, [LoRA(4).at("dense_0"), LoRA(3).at(layers.Dense, exclude="dense_0")])


def test_a_kernel_of_no_inputs_has_no_rank():
    model = keras.Sequential([keras.Input((0,)), layers.Dense(5, name="dense")])
    with pytest.raises(PlanError, match="dense: rank 1 is above 0, the most that the 0 x 5 matrix of 'kernel' has"):
        kwrap.wrap_model(model, LoRA(1))


def test_by_hand_a_rank_above_that_of_a_weight_is_an_error_too():
    with pytest.raises(TargetError, match="'lora' at 'dense': rank 6 is above 5, the most that the 6 x 5 matrix"):
        wrapped(layers.Dense(5, name="dense"), FLAT, LoRA(6))


def test_a_layer_of_which_no_weight_is_known_is_an_error_that_says_what_to_do():
    attention = layers.MultiHeadAttention(2, 3, name="attention")
    attention(STEPS, STEPS)
    with pytest.raises(TargetError, match="'lora' at 'attention': nobody says beside which of its weights to train"):
        kwrap.Wrapper(attention, [LoRA(2)])
