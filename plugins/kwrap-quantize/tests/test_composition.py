"""QuantizeWeights and QuantizeOutput together with hooks of other plugins on one layer."""

import keras
import numpy as np
import pytest

import kwrap
from kwrap.errors import PlanError
from kwrap_lora import LoRA
from kwrap_noise import Noise, WeightNoise
from kwrap_prune import ConstantSparsity, Prune, report
from kwrap_quantize import QuantizeOutput, QuantizeWeights

from .references import on_grid, on_symmetric_grid

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(8, 6)).astype("float32")
Y = GENERATOR.normal(size=(8, 10)).astype("float32")
RANDOM_B = keras.initializers.RandomNormal(stddev=0.5, seed=1)


def trained(*hooks):
    """Return a Dense layer in its Wrapper, after two steps of training, and the model that holds it."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(10, name="dense")])
    kwrap.wrap_model(model, hooks, where="dense")
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    model.fit(X, Y, batch_size=4, verbose=0)
    return model.layers[0], model


def read(layer):
    """Return the kernel as the layer reads it at inference."""
    bias = np.array(layer.bias)
    return np.array(layer(np.eye(6, dtype="float32"))) - bias


@pytest.mark.parametrize(
    "rounding",
    [QuantizeWeights(4), QuantizeWeights(4, symmetric=False, narrow_range=False), QuantizeWeights(4, method="learned")],
    ids=["symmetric", "asymmetric", "learned"],
)
def test_pruned_weights_are_exact_zeros_and_the_others_are_on_the_grid(rounding):
    layer, model = trained(Prune(ConstantSparsity(0.5, begin_step=0)), rounding)
    pruned = np.array(layer.kernel) == 0
    assert pruned.sum() == 30
    assert np.all(read(layer)[pruned] == 0)
    kwrap.unwrap_model(model)
    kernel = np.array(model.layers[0].kernel)
    assert np.all(kernel[pruned] == 0)
    assert np.count_nonzero(kernel) > 15
    assert len(np.unique(kernel)) <= 16


@pytest.mark.parametrize("is_quantized", [False, True])
def test_pruning_what_is_rounded_is_refused(is_quantized):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(10, name="dense")])
    hooks = [QuantizeWeights(), Prune()]
    if is_quantized:
        kwrap.wrap_model(model, hooks.pop(0))
    with pytest.raises(PlanError, match="put Prune on before quantize"):
        kwrap.wrap_model(model, hooks)


def test_a_pruned_and_rounded_model_is_reported():
    _, model = trained(Prune(), QuantizeWeights(4))
    (kernel,) = report(model).weights
    assert (kernel.path, kernel.weight, kernel.zeros) == ("dense", "kernel", 30)
    _, model = trained(QuantizeWeights(4))
    (kernel,) = report(model).weights
    assert (kernel.path, kernel.weight, kernel.zeros) == ("dense", "kernel", 0)


def test_lora_before_rounding_rounds_the_sum_and_after_it_the_base_alone():
    lora = {"rank": 2, "alpha": 1.0, "b_initializer": RANDOM_B}
    layer, model = trained(LoRA(**lora), QuantizeWeights(4))
    base, product = parts(layer)
    merged = on_symmetric_grid(base + product, np.abs(base + product).max(), 4)
    np.testing.assert_allclose(read(layer), merged, atol=1e-5)
    kwrap.unwrap_model(model)
    np.testing.assert_allclose(model.layers[0].kernel, merged, atol=1e-5)

    layer, model = trained(QuantizeWeights(4), LoRA(**lora))
    base, product = parts(layer)
    expected = on_symmetric_grid(base, np.abs(base).max(), 4) + product
    np.testing.assert_allclose(read(layer), expected, atol=1e-5)
    kwrap.unwrap_model(model)
    np.testing.assert_allclose(model.layers[0].kernel, expected, atol=1e-5)


def parts(layer):
    """Return the stored kernel, and what LoRA adds to it."""
    hook = next(hook for hook in layer.hooks if hook.name == "lora")
    (kernel,) = (target for target in kwrap.weight_targets(layer.layer) if target.name == "kernel")
    found = hook.parts(kernel)
    return np.array(layer.layer.kernel), 0.5 * np.array(found["a"]) @ np.array(found["b"])


def test_noise_before_rounding_is_rounded_and_after_it_is_not():
    noise = WeightNoise(0.1, seed=1)
    for hooks, on_a_grid in (((noise, QuantizeWeights(3)), True), ((QuantizeWeights(3), noise), False)):
        layer, _ = trained(*hooks)
        in_training = np.array(layer(np.eye(6, dtype="float32"), training=True)) - np.array(layer.bias)
        assert (len(np.unique(np.round(in_training, 5))) <= 8) == on_a_grid
        assert len(np.unique(np.round(read(layer), 5))) <= 7  # at inference there is no noise


def test_outputs_with_noise_are_rounded_where_rounding_is_outside():
    layer, _ = trained(QuantizeOutput(4, range=(-4, 4)), Noise(0.5))
    outputs = np.array(layer(X, training=True))
    np.testing.assert_allclose(outputs, on_grid(outputs, -4, 4, 4), atol=1e-5)
    assert not np.array_equal(outputs, layer(X, training=True))
