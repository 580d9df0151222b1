import keras
import numpy as np
import pytest
import tensorflow as tf

import kwrap
from kwrap.errors import OptionValueError
from kwrap_norm import SpectralNorm

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(16, 5)).astype("float32")
Y = GENERATOR.normal(size=(16, 4)).astype("float32")
IMAGES = GENERATOR.normal(size=(8, 5, 5, 2)).astype("float32")


def iterated(matrix: np.ndarray, u: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Return u, v and the norm after power iterations: formulae (18) and (19) of Miyato et al., and their sigma."""
    for _ in range(count):
        v = matrix @ u / np.linalg.norm(matrix @ u)
        u = v @ matrix / np.linalg.norm(v @ matrix)
    return u, v, v @ matrix @ u


def wrapped(layer: keras.layers.Layer, x: np.ndarray, **options) -> kwrap.Wrapper:
    layer.build((None, *x.shape[1:]))
    wrapper = kwrap.Wrapper(layer, [SpectralNorm(**options)])
    wrapper.make_ready()
    return wrapper


def vectors(wrapper: kwrap.Wrapper) -> tuple[keras.Variable, keras.Variable]:
    hook = wrapper.hooks[0]
    return hook.state(hook.target_weights[0], "u"), hook.state(hook.target_weights[0], "v")


LAYERS = {
    "dense": (lambda: keras.layers.Dense(4), X),
    "conv": (lambda: keras.layers.Conv2D(3, 2), IMAGES),
    "embedding": (lambda: keras.layers.Embedding(6, 4), GENERATOR.integers(0, 6, size=(8, 3))),
    "transposed": (lambda: keras.layers.Conv2DTranspose(3, 2), IMAGES),
    "einsum": (lambda: keras.layers.EinsumDense("ab,bcd->acd", (2, 3)), X),
    "depthwise": (lambda: keras.layers.DepthwiseConv2D(2, depth_multiplier=2), IMAGES),
}
# The axes of each kernel that are its inputs.
INPUTS = {
    "dense": [0],
    "conv": [0, 1, 2],
    "embedding": [0],
    "transposed": [0, 1, 3],
    "einsum": [0],
    "depthwise": [0, 1],
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_newly_wrapped_weight_has_the_largest_singular_value_1_as_it_is_read(kind):
    make, x = LAYERS[kind]
    wrapper = wrapped(make(), x)
    (target,) = wrapper.hooks[0].target_weights
    read = wrapper.hooks[0].parametrize(target, target.variable.value, training=False)
    kernel = np.asarray(target.variable)
    inputs = INPUTS[kind]
    first = np.moveaxis(kernel, inputs, range(len(inputs)))
    matrix = first.reshape(np.prod([kernel.shape[axis] for axis in inputs]), -1)
    exact = np.linalg.svd(matrix, compute_uv=False)[0]
    np.testing.assert_allclose(read, kernel / exact, rtol=0.02)
    assert tuple(read.shape) == target.shape


def test_where_the_last_axis_is_not_the_outputs_keras_layer_takes_another_matrix():
    keras.utils.set_random_seed(0)
    theirs = keras.layers.SpectralNormalization(keras.layers.Conv2DTranspose(3, 2), power_iterations=200)
    theirs.build(IMAGES.shape)
    kernel = np.array(theirs.kernel)
    theirs(IMAGES, training=True)
    by_last_axis = np.linalg.norm(kernel.reshape(-1, kernel.shape[-1]), 2)
    ours = np.linalg.norm(kernel.transpose(0, 1, 3, 2).reshape(-1, kernel.shape[2]), 2)
    np.testing.assert_allclose(theirs.kernel, kernel / by_last_axis, rtol=1e-3)
    assert abs(by_last_axis / ours - 1) > 0.05


@pytest.mark.parametrize("iterations", [1, 3])
def test_a_training_call_iterates_as_the_paper_says_and_inference_does_not(iterations):
    keras.utils.set_random_seed(0)
    wrapper = wrapped(keras.layers.Dense(4), X, power_iterations=iterations)
    u, v = vectors(wrapper)
    start = np.array([1.0, 0, 0, 0], "float32")
    u.assign(start)
    kernel = np.asarray(wrapper.kernel)
    expected_u, expected_v, sigma = iterated(kernel, start, iterations)
    np.testing.assert_allclose(wrapper(X, training=True), X @ kernel / sigma, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(u, expected_u, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(v, expected_v, rtol=1e-4, atol=1e-6)
    kept = np.array(u)
    np.testing.assert_allclose(wrapper(X, training=False), X @ kernel / sigma, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(u, kept)
    np.testing.assert_array_equal(wrapper.kernel, kernel)


@pytest.mark.parametrize("shape", [(5, 4), (64, 64)])
def test_weights_that_are_assigned_keep_their_sign_and_are_divided_by_no_less_than_the_floor(shape):
    x = np.ones((1, shape[0]), "float32")
    wrapper = wrapped(keras.layers.Dense(shape[1]), x)
    (target,) = wrapper.hooks[0].target_weights
    for seed in range(10):
        wrapper.kernel.assign(np.random.default_rng(seed).normal(size=shape))
        kernel = np.asarray(wrapper.kernel)
        read = wrapper.hooks[0].parametrize(target, wrapper.kernel.value, training=False)
        ratio = np.median(np.asarray(read) / (kernel / np.linalg.norm(kernel, 2)))
        assert 1 - 1e-5 < ratio < 2 * np.sqrt(min(shape))
    # At a right angle to the vectors there is the floor alone.
    wrapper.kernel.assign(np.eye(*shape) * 3)
    vectors(wrapper)[1].assign(np.eye(shape[0])[-1] if shape[0] > shape[1] else np.zeros(shape[0]))
    np.testing.assert_allclose(wrapper(x) - wrapper.bias, 2 * x @ np.eye(*shape), rtol=1e-5)


def test_the_gradient_is_that_of_the_paper():
    """Formula (12): (G - <G, W/sigma> u v^T) / sigma for a gradient G of the divided weight."""
    wrapper = wrapped(keras.layers.Dense(4, use_bias=False), X)
    u, _ = vectors(wrapper)
    kernel, start = np.asarray(wrapper.kernel), np.array(u)
    model = keras.Sequential([keras.Input((5,)), wrapper])
    model.compile(keras.optimizers.SGD(1.0), lambda labels, outputs: keras.ops.sum(labels * outputs))
    model.train_on_batch(X, Y)
    new_u, v, sigma = iterated(kernel, start, 1)
    of_divided = X.T @ Y
    expected = (of_divided - np.sum(of_divided * kernel / sigma) * np.outer(v, new_u)) / sigma
    np.testing.assert_allclose(kernel - np.asarray(wrapper.kernel), expected, rtol=1e-3, atol=1e-4)


def trained(model: keras.Model, x: np.ndarray, steps: int, rate: float = 0.05) -> list[float]:
    model.compile(keras.optimizers.Adam(rate), "mse", jit_compile=False)
    y = np.random.default_rng(1).normal(size=(len(x), *model.output_shape[1:])).astype("float32")
    return [float(model.train_on_batch(x, y)) for _ in range(steps)]


# Not embeddings, which Keras' layer does not train: it casts what they give to the dtype of their inputs, an integer.
@pytest.mark.parametrize("kind", ["dense", "conv"])
@pytest.mark.parametrize("iterations", [1, 2])
def test_projected_training_is_that_of_keras(kind, iterations):
    """The same losses, vectors and outputs over Adam's steps as keras.layers.SpectralNormalization, to 1e-4."""
    make, x = LAYERS[kind]
    keras.utils.set_random_seed(3)
    ours, theirs = make(), keras.layers.SpectralNormalization(make(), power_iterations=iterations)
    inputs = keras.Input(x.shape[1:], dtype=str(x.dtype))
    reference, model = keras.Model(inputs, theirs(inputs)), keras.Model(inputs, ours(inputs))
    ours.set_weights(theirs.layer.get_weights())
    kwrap.wrap_model(model, SpectralNorm(iterations, project=True), where=ours.name)
    wrapper = model.layers[-1]
    # Keras divides at the beginning of its first step, and kwrap when it wraps: both from the same vector.
    kernel, start = np.asarray(theirs.kernel), np.asarray(theirs.vector_u)[0]
    new_u, new_v, sigma = iterated(kernel.reshape(-1, kernel.shape[-1]), start, iterations)
    u, v = vectors(wrapper)
    u.assign(new_u)
    v.assign(new_v)
    wrapper.hooks[0].target_weights[0].variable.assign(kernel / sigma)
    np.testing.assert_allclose(trained(model, x, 8), trained(reference, x, 8), rtol=1e-4)
    # And once more as Keras' next step would: its weight is not divided yet.
    np.testing.assert_allclose(wrapper(x), theirs(x, training=True), rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(u, np.asarray(theirs.vector_u)[0], rtol=2e-3, atol=1e-4)


def test_a_call_in_training_gives_what_keras_gives():
    theirs = keras.layers.SpectralNormalization(keras.layers.Dense(4))
    theirs.build(X.shape)
    layer = keras.layers.Dense(4)
    layer.build(X.shape)
    layer.set_weights(theirs.layer.get_weights())
    wrapper = kwrap.Wrapper(layer, [SpectralNorm()])
    wrapper.make_ready()
    vectors(wrapper)[0].assign(theirs.vector_u[0])
    np.testing.assert_allclose(wrapper(X, training=True), theirs(X, training=True), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(vectors(wrapper)[0], theirs.vector_u[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("project", [False, True])
def test_unwrapped_the_weights_are_divided_and_the_model_gives_what_it_gave(project):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(6, activation="tanh"), keras.layers.Dense(4)])
    kwrap.wrap_model(model, SpectralNorm(project=project))
    trained(model, X, 5, rate=0.002)  # so slowly that one iteration a step follows
    before = np.asarray(model(X))
    kwrap.unwrap_model(model)
    np.testing.assert_allclose(model(X), before, rtol=1e-5, atol=1e-6)
    for layer in model.layers:
        assert np.linalg.norm(np.asarray(layer.kernel), 2) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("project", [False, True])
def test_a_weight_of_zeros_stays_and_learns(project):
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, kernel_initializer="zeros")])
    kwrap.wrap_model(model, SpectralNorm(project=project))
    np.testing.assert_array_equal(model(X, training=True), np.zeros((16, 4)))
    trained(model, X, 3)
    assert np.all(np.isfinite(model(X)))
    assert np.all(np.asarray(model.layers[0].kernel) != 0)


def test_gradients_of_a_weight_of_zeros_are_finite_at_inference():
    wrapper = wrapped(keras.layers.Dense(4, kernel_initializer="zeros"), X)
    with tf.GradientTape() as tape:
        loss = keras.ops.sum(wrapper(X, training=False) * Y)
    gradient = tape.gradient(loss, wrapper.kernel.value)
    np.testing.assert_allclose(gradient, X.T @ Y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("project", [False, True])
@pytest.mark.parametrize("policy", ["float16", "mixed_float16", "float64"])
def test_dtypes_stay_and_squares_do_not_overflow(project, policy):
    layer = keras.layers.Dense(4, dtype=policy)
    layer.build((None, 5))
    layer.kernel.assign(layer.kernel * 300)
    wrapper = kwrap.Wrapper(layer, [SpectralNorm(project=project)])
    outputs = wrapper(X, training=True)
    assert outputs.dtype == layer.compute_dtype
    assert 0 < np.max(np.abs(np.asarray(outputs, "float32"))) < 10


@pytest.mark.parametrize("phase", ["training", "inference"])
def test_a_phase_that_would_do_nothing_is_an_error(phase):
    with pytest.raises(OptionValueError, match=f"spectral_norm: phase='{phase}' would do nothing"):
        SpectralNorm(project=True, phase=phase)
    assert SpectralNorm(phase=phase).phase == phase


def test_a_float64_weight_that_is_nearly_divided_is_divided():
    layer = keras.layers.Dense(4, dtype="float64")
    layer.build((None, 5))
    layer.kernel.assign(np.diag([1 + 1e-6, 0.2, 0.1, 0.05, 0.0])[:, :4])
    wrapper = kwrap.Wrapper(layer, [SpectralNorm(project=True)])
    wrapper.make_ready()
    assert np.linalg.norm(np.asarray(layer.kernel), 2) == pytest.approx(1, abs=1e-12)
