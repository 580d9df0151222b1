"""Keras' own LoRA is the reference: the same function of the same A and B, the same gradients, the same optimizer."""

import keras
import numpy as np
import pytest
from keras import layers

import kwrap
from kwrap_lora import LoRA

RNG = np.random.default_rng(0)
FLAT = RNG.normal(size=(5, 6)).astype("float32")
STEPS = RNG.normal(size=(2, 7, 6)).astype("float32")
IMAGES = RNG.normal(size=(2, 6, 6, 4)).astype("float32")
WORDS = RNG.integers(0, 9, size=(2, 4))

KINDS = {
    "Dense": (lambda: layers.Dense(5, activation="relu"), FLAT),
    "EinsumDense": (lambda: layers.EinsumDense("abc,cd->abd", (7, 5), bias_axes="d"), STEPS),
    "EinsumDense from heads": (lambda: layers.EinsumDense("abc,bcd->ad", (5,)), STEPS),
    "Embedding": (lambda: layers.Embedding(9, 4), WORDS),
    "Conv1D": (lambda: layers.Conv1D(5, 3), STEPS),
    "Conv2D": (lambda: layers.Conv2D(5, 2, strides=2), IMAGES),
    "Conv3D": (lambda: layers.Conv3D(5, 2), IMAGES[..., None]),
}


def pair(make, inputs: np.ndarray, rank: int = 3, alpha: float = 5.0) -> tuple[keras.Model, keras.Model]:
    """Return a model of a layer with kwrap's LoRA and one with Keras', of the same weights, A and B."""
    models = []
    for _ in range(2):
        tensor = keras.Input(batch_shape=(None, *inputs.shape[1:]), dtype=str(inputs.dtype))
        models.append(keras.Model(tensor, make()(tensor)))
    ours, theirs = models
    theirs.set_weights(ours.get_weights())
    layer = theirs.layers[1]
    layer.enable_lora(rank, lora_alpha=alpha)
    kwrap.wrap_model(ours, LoRA(rank, alpha=alpha))
    hook = kwrap.find_hooks(ours)[0][1]
    generator = np.random.default_rng(1)
    for part, name in zip(hook.parts(hook.target_weights[0]).values(), ("a", "b"), strict=True):
        its = next(variable for variable in layer.trainable_variables if variable.name.endswith(f"_{name}"))
        its.assign(0.3 * generator.normal(size=its.shape))
        part.assign(np.array(its).reshape(part.shape))
    return ours, theirs


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_those_of_keras_own_lora(kind):
    make, inputs = KINDS[kind]
    ours, theirs = pair(make, inputs)
    for training in (False, True):
        np.testing.assert_allclose(
            ours(inputs, training=training), theirs(inputs, training=training), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_that_of_keras_own_lora_and_the_optimizer_as_large(kind):
    make, inputs = KINDS[kind]
    ours, theirs = pair(make, inputs)
    for model in (ours, theirs):
        model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse", run_eagerly=True)
        targets = np.ones((len(inputs), *ours.output_shape[1:]), "float32")
        model.fit(inputs, targets, epochs=3, batch_size=len(inputs), verbose=0)
    np.testing.assert_allclose(ours(inputs), theirs(inputs), rtol=1e-4, atol=1e-5)
    sizes = [sorted(int(np.prod(variable.shape)) for variable in model.optimizer.variables) for model in (ours, theirs)]
    assert sizes[0] == sizes[1]
    assert len(ours.trainable_variables) == len(theirs.trainable_variables)


def test_keras_matrices_for_each_head_are_block_matrices_here():
    """Beside a projection to heads, Keras' B is one for all heads, and A has columns of each head's own."""

    def make():
        return layers.EinsumDense("abc,cde->abde", (7, 2, 4))

    tensor = keras.Input((7, 6))
    theirs, ours = (keras.Model(tensor, make()(tensor)) for _ in range(2))
    ours.set_weights(theirs.get_weights())
    theirs.layers[1].enable_lora(2)
    a, b = (RNG.normal(size=shape).astype("float32") for shape in ((6, 2, 2), (2, 4)))
    theirs.layers[1].lora_kernel_a.assign(a)
    theirs.layers[1].lora_kernel_b.assign(b)
    kwrap.wrap_model(ours, LoRA(4))
    hook = kwrap.find_hooks(ours)[0][1]
    parts = hook.parts(hook.target_weights[0])
    parts["a"].assign(a.reshape(6, 4))
    parts["b"].assign(np.kron(np.eye(2), b))
    np.testing.assert_allclose(ours(STEPS), theirs(STEPS), rtol=1e-4, atol=1e-5)


def test_merging_gives_the_kernel_that_keras_saves():
    ours, theirs = pair(*KINDS["Dense"])
    expected = np.array(theirs.layers[1].kernel)
    kwrap.unwrap_model(ours)
    np.testing.assert_allclose(ours.layers[1].kernel, expected, rtol=1e-6, atol=1e-6)
