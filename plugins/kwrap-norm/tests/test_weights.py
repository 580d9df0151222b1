import keras
import numpy as np
import pytest

import kwrap
from kwrap.errors import OptionValueError, TargetError, WrapperStateError
from kwrap_norm import SpectralNorm, UnitNorm, WeightNorm, WeightStandardization

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(16, 5)).astype("float32")
Y = GENERATOR.normal(size=(16, 4)).astype("float32")

# A layer, the shape it is built for, and the axes of its kernel that are its inputs.
LAYERS = {
    "dense": (lambda: keras.layers.Dense(4), (None, 5), (0,)),
    "conv": (lambda: keras.layers.Conv2D(3, 2), (None, 5, 5, 2), (0, 1, 2)),
    "depthwise": (lambda: keras.layers.DepthwiseConv2D(2, depth_multiplier=2), (None, 5, 5, 3), (0, 1)),
    "transposed": (lambda: keras.layers.Conv2DTranspose(3, 2), (None, 5, 5, 2), (0, 1, 3)),
    "einsum": (lambda: keras.layers.EinsumDense("ab,bcd->acd", (2, 3)), (None, 5), (0,)),
}


def built(kind: str) -> tuple[keras.layers.Layer, np.ndarray, tuple[int, ...]]:
    make, shape, axes = LAYERS[kind]
    layer = make()
    layer.build(shape)
    return layer, np.array(layer.kernel), axes


def read(wrapper: kwrap.Wrapper) -> np.ndarray:
    """Return the kernel as the layer reads it."""
    wrapper.make_ready()
    (hook,) = wrapper.hooks
    (target,) = hook.target_weights
    return np.asarray(hook.parametrize(target, target.variable.value, training=False))


@pytest.mark.parametrize("kind", LAYERS)
def test_weight_norm_leaves_the_function_at_first_and_is_then_the_papers(kind):
    layer, kernel, axes = built(kind)
    wrapper = kwrap.Wrapper(layer, [WeightNorm()])
    np.testing.assert_allclose(read(wrapper), kernel, rtol=1e-5, atol=1e-7)
    norms = np.sqrt(np.sum(kernel**2, axis=axes, keepdims=True))
    (g,) = wrapper.hooks[0].trainable_variables
    np.testing.assert_allclose(g, norms, rtol=1e-5)
    lengths = GENERATOR.normal(size=norms.shape).astype("float32")
    g.assign(lengths)
    np.testing.assert_allclose(read(wrapper), lengths * kernel / norms, rtol=1e-5, atol=1e-7)


def test_weight_norms_gradients_are_the_papers():
    """Formula (3): dg = <G, v> / |v|; dv = g / |v| G - g dg / |v|^2 v, for each output."""
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, use_bias=False)])
    kwrap.wrap_model(model, WeightNorm())
    wrapper = model.layers[0]
    (length,) = wrapper.hooks[0].trainable_variables
    length.assign(length * 1.5)
    v, g = np.array(wrapper.kernel), np.array(length)
    model.compile(keras.optimizers.SGD(1.0), lambda labels, outputs: keras.ops.sum(labels * outputs))
    model.train_on_batch(X, Y)
    gradient, norm = X.T @ Y, np.linalg.norm(v, axis=0, keepdims=True)
    of_g = np.sum(gradient * v, axis=0, keepdims=True) / norm
    np.testing.assert_allclose(g - np.asarray(length), of_g, rtol=1e-4, atol=1e-5)
    expected = g / norm * gradient - g * of_g / norm**2 * v
    np.testing.assert_allclose(v - np.asarray(wrapper.kernel), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", LAYERS)
def test_weight_standardization_is_the_papers_formula(kind):
    layer, kernel, axes = built(kind)
    wrapper = kwrap.Wrapper(layer, [WeightStandardization(1e-3)])
    mean = np.mean(kernel, axis=axes, keepdims=True)
    # As printed: the mean of the squares, less the square of the mean.
    deviation = np.sqrt(np.mean(kernel**2, axis=axes, keepdims=True) - mean**2 + 1e-3)
    np.testing.assert_allclose(read(wrapper), (kernel - mean) / deviation, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(layer.kernel, kernel)


@pytest.mark.parametrize("kind", LAYERS)
def test_unit_norm_is_keras_constraint_over_the_input_axes(kind):
    layer, kernel, axes = built(kind)
    kwrap.Wrapper(layer, [UnitNorm()])(np.ones((1, *LAYERS[kind][1][1:]), "float32"))
    np.testing.assert_allclose(layer.kernel, keras.constraints.UnitNorm(axis=axes)(kernel), rtol=1e-5)


def test_training_with_unit_norm_is_that_with_keras_constraint():
    bare = keras.layers.Dense(4, kernel_constraint=keras.constraints.UnitNorm(axis=0))
    reference = keras.Sequential([keras.Input((5,)), bare])
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4)])
    bare.kernel.assign(keras.constraints.UnitNorm(axis=0)(bare.kernel))
    model.set_weights(reference.get_weights())
    kwrap.wrap_model(model, UnitNorm())
    for each in (reference, model):
        each.compile(keras.optimizers.Adam(0.05), "mse")
        each.fit(X, Y, batch_size=4, epochs=3, shuffle=False, verbose=0)
    np.testing.assert_allclose(model.layers[0].kernel, bare.kernel, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(model.layers[0].kernel, axis=0), np.ones(4), rtol=1e-5)


def test_zeros_stay_under_unit_norm():
    layer = keras.layers.Dense(4, kernel_initializer="zeros")
    np.testing.assert_array_equal(kwrap.Wrapper(layer, [UnitNorm()])(X), np.zeros((16, 4)))


@pytest.mark.parametrize("hook", [WeightNorm, WeightStandardization, UnitNorm])
def test_unwrapped_the_model_gives_what_it_gave(hook):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv1D(6, 2, activation="tanh"), keras.layers.Flatten(), keras.layers.Dense(4)]
    model = keras.Sequential([keras.Input((5, 1)), *layers])
    kwrap.wrap_model(model, hook())
    model.compile("adam", "mse")
    model.fit(X[..., None], Y, verbose=0)
    before = np.asarray(model(X[..., None]))
    kwrap.unwrap_model(model)
    np.testing.assert_allclose(model(X[..., None]), before, rtol=1e-4, atol=1e-6)
    assert type(model.layers[0]) is keras.layers.Conv1D


@pytest.mark.parametrize("hook", [WeightNorm, WeightStandardization, UnitNorm])
def test_recurrent_kernels_are_targets_too(hook):
    lstm = keras.layers.LSTM(3)
    lstm.build((None, 4, 2))
    wrapper = kwrap.Wrapper(lstm, [hook()])
    assert len(wrapper.hooks[0].target_weights) == 2
    assert np.all(np.isfinite(wrapper(np.ones((1, 4, 2), "float32"), training=True)))


@pytest.mark.parametrize("hook", [WeightNorm, WeightStandardization, UnitNorm])
def test_a_weight_without_inputs_is_an_error_that_says_the_way_out(hook):
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, name="dense")])
    with pytest.raises(TargetError, match=r"at 'dense': 'bias' of shape \(4,\) has no input axes .* targets="):
        kwrap.wrap_model(model, hook(targets=["kernel", "bias"]))


@pytest.mark.parametrize("hook", [WeightNorm, WeightStandardization, UnitNorm])
@pytest.mark.parametrize("policy", ["float16", "mixed_float16", "float64"])
def test_dtypes_stay_and_squares_do_not_overflow(hook, policy):
    layer = keras.layers.Dense(4, dtype=policy)
    layer.build((None, 5))
    layer.kernel.assign(layer.kernel * 300)
    wrapper = kwrap.Wrapper(layer, [hook()])
    outputs = wrapper(X / 100, training=True)
    assert outputs.dtype == layer.compute_dtype
    assert np.all(np.isfinite(np.asarray(outputs, "float32")))
    assert np.all(np.asarray(outputs) != 0)


def test_lengths_of_half_precision_weights_do_not_overflow():
    layer = keras.layers.Dense(4, dtype="float16", use_bias=False)
    layer.build((None, 5))
    layer.kernel.assign(np.full((5, 4), 50_000))  # norms of 111,803: float16 ends at 65,504
    wrapper = kwrap.Wrapper(layer, [WeightNorm()])
    np.testing.assert_allclose(read(wrapper), np.full((5, 4), 50_000), rtol=1e-3)
    (length,) = wrapper.hooks[0].trainable_variables
    assert length.dtype == "float32"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_unit_norm_is_as_near_as_the_dtype_allows_and_then_to_the_bit(dtype):
    layer = keras.layers.Dense(4, dtype=dtype)
    layer.build((None, 5))
    kernel = np.random.default_rng(2).normal(size=(5, 4))
    scales = np.array([1 + 1e-6, 1, 1e-3, 1e3])
    layer.kernel.assign(kernel / np.linalg.norm(kernel, axis=0) * scales)
    hook = UnitNorm()
    kwrap.Wrapper(layer, [hook]).make_ready()
    near = {"float32": 2e-6, "float64": 1e-14}[dtype]
    np.testing.assert_allclose(np.linalg.norm(np.asarray(layer.kernel), axis=0), np.ones(4), rtol=near)
    (target,) = hook.target_weights
    np.testing.assert_array_equal(hook.constrain(target, layer.kernel.value), layer.kernel)


def test_the_columns_of_an_embedding_get_norm_1():
    layer = keras.layers.Embedding(6, 4)
    layer.build((None,))
    kwrap.Wrapper(layer, [UnitNorm()]).make_ready()
    np.testing.assert_allclose(np.linalg.norm(layer.embeddings, axis=0), np.ones(4), rtol=1e-5)


def test_weight_norm_trains_lengths_of_a_model_that_was_frozen_before():
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4)])
    model.trainable = False
    kwrap.wrap_model(model, WeightNorm())
    assert [weight.shape for weight in model.trainable_weights] == [(1, 4)]
    model.trainable = False
    assert not model.trainable_weights


def test_an_epsilon_may_be_one_of_numpy():
    assert WeightStandardization(np.float32(1e-3)).get_config()["epsilon"] == pytest.approx(1e-3)


@pytest.mark.parametrize("phase", ["training", "inference"])
def test_a_phase_that_would_do_nothing_is_an_error(phase):
    with pytest.raises(OptionValueError, match=f"unit_norm: phase='{phase}' would do nothing"):
        UnitNorm(phase=phase)


@pytest.mark.filterwarnings("ignore::kwrap.errors.HookStateWarning")
@pytest.mark.parametrize("hook", [UnitNorm(), SpectralNorm(project=True)])
def test_plain_weights_that_are_loaded_are_normalized_when_they_are_saved(hook, tmp_path):
    model, plain = (keras.Sequential([keras.Input((5,)), keras.layers.Dense(4)]) for _ in range(2))
    plain.layers[0].kernel.assign(plain.layers[0].kernel * 10)
    plain.save_weights(tmp_path / "plain.weights.h5")
    kwrap.wrap_model(model, hook)
    model.load_weights(tmp_path / "plain.weights.h5")
    np.testing.assert_array_equal(model.layers[0].kernel, plain.layers[0].kernel)
    model.save_weights(tmp_path / "saved.weights.h5")
    kernel = np.asarray(model.layers[0].kernel)
    norm = np.linalg.norm(kernel[:, 0]) if isinstance(hook, UnitNorm) else np.linalg.norm(kernel, 2)
    assert norm == pytest.approx(1, abs=0.05)


def of_two(*hooks: kwrap.Hook) -> tuple[keras.Model, np.ndarray]:
    """Return a trained model with two hooks on a layer, and what it gives."""
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, name="dense")])
    kwrap.wrap_model(model, hooks)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(X, Y, verbose=0)
    return model, model.predict(X, verbose=0)


TWO = {"unit_norm": UnitNorm, "weight_norm": WeightNorm, "spectral_norm": lambda: SpectralNorm(project=True)}


@pytest.mark.parametrize(
    ("names", "leaving"),
    [
        (("weight_norm", "unit_norm"), "weight_norm"),
        (("unit_norm", "weight_norm"), "weight_norm"),
        (("unit_norm", "spectral_norm"), "spectral_norm"),
        (("spectral_norm", "unit_norm"), "unit_norm"),
    ],
)
def test_a_norm_does_not_come_off_alone_where_the_other_would_store_another_weight(names, leaving):
    model, before = of_two(*(TWO[name]() for name in names))
    (staying,) = set(names) - {leaving}
    match = rf"'{leaving}' at 'dense' .* while '{staying}', which would store another"
    with pytest.raises(WrapperStateError, match=match):
        kwrap.unwrap_model(model, leaving)
    np.testing.assert_array_equal(model.predict(X, verbose=0), before)
    kwrap.unwrap_model(model)
    np.testing.assert_allclose(model.predict(X, verbose=0), before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("names", [("unit_norm", "spectral_norm"), ("spectral_norm", "unit_norm")])
def test_of_two_norms_the_first_comes_off_alone_as_the_other_stores_the_same(names):
    model, before = of_two(*(TWO[name]() for name in names))
    kwrap.unwrap_model(model, names[0])
    np.testing.assert_allclose(model.predict(X, verbose=0), before, rtol=1e-5, atol=1e-6)
