import keras
import numpy as np
import pytest

import kwrap
from kwrap.errors import AbsentHookError, OptionValueError
from kwrap_lora import LoRA, adapters, use_adapters

INPUTS = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")


@pytest.fixture
def model() -> keras.Model:
    """Return a model with the adapters "fr" and "de", filled as if trained; `call_count` of its graph is 0."""
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8), keras.layers.Dense(3)])
    model.compile("sgd", "mse")
    kwrap.wrap_model(model, [LoRA(2, name="fr"), LoRA(1, name="de")])
    for index, (_, hook) in enumerate(kwrap.find_hooks(model)):
        generator = np.random.default_rng(index)
        for variable in hook.parts(hook.target_weights[0]).values():
            variable.assign(generator.normal(size=variable.shape))
    return model


def predict(model: keras.Model) -> np.ndarray:
    return model.predict(INPUTS, verbose=0)


def alone(model: keras.Model, *names: str, scale: float = 1.0) -> np.ndarray:
    """Return what a plain model of the weights that those adapters make, by NumPy, gives."""
    plain = kwrap.unwrap_model(kwrap.clone_model(model), merge=False)
    for (_, hook), index in zip(kwrap.find_hooks(model), (0, 0, 1, 1), strict=True):
        if hook.name in names:
            a, b = (np.array(part) for part in hook.parts(hook.target_weights[0]).values())
            kernel = plain.layers[index].kernel
            kernel.assign(np.array(kernel) + np.float32(scale) * a @ b)
    return predict(plain)


def close(one: np.ndarray, other: np.ndarray) -> None:
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_adapters_are_listed_with_their_scales(model):
    assert adapters(model) == {"fr": 1.0, "de": 1.0}
    use_adapters(model, {"de": 0.5})
    assert adapters(model) == {"fr": 0.0, "de": 0.5}
    assert adapters(keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])) == {}


def test_adapters_are_switched_and_combined_without_tracing_again(model):
    expected = predict(model)
    function = model.predict_function
    close(expected, alone(model, "fr", "de"))
    for chosen, result in (
        ("fr", alone(model, "fr")),
        (["de"], alone(model, "de")),
        ({"fr": 0.25, "de": 0.25}, alone(model, "fr", "de", scale=0.25)),
        (["fr", "de"], expected),
    ):
        assert use_adapters(model, chosen) is model
        close(predict(model), result)
    assert model.predict_function is function


def test_without_adapters_a_model_is_the_base_to_the_bit(model):
    use_adapters(model, [])
    assert np.array_equal(predict(model), alone(model))


def test_dora_too_is_switched_off_and_on():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    before = model(INPUTS)
    kwrap.wrap_model(model, LoRA(2, use_dora=True))
    hook = kwrap.find_hooks(model)[0][1]
    for variable in hook.trainable_variables:
        variable.assign(variable + 1)
    trained = model(INPUTS)
    use_adapters(model, [])
    np.testing.assert_array_equal(model(INPUTS), before)
    use_adapters(model, "lora")
    np.testing.assert_array_equal(model(INPUTS), trained)


def test_bypass_leaves_an_adapter_out_for_a_look(model):
    before = predict(model)
    with kwrap.bypass(model, "fr"):
        close(predict(model), alone(model, "de"))
    assert np.array_equal(predict(model), before)


def test_scales_are_merged_saved_and_copied(model, tmp_path):
    use_adapters(model, {"fr": 0.25, "de": 0.5})
    expected = predict(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert adapters(loaded) == adapters(kwrap.clone_model(model)) == {"fr": 0.25, "de": 0.5}
    assert np.array_equal(predict(loaded), expected)
    close(predict(kwrap.unwrap_model(loaded)), expected)


def test_one_trains_while_another_is_on_and_frozen(model):
    use_adapters(model, ["fr", "de"])
    for _, hook in kwrap.find_hooks(model, "fr"):
        hook.trainable = False
    model.compile("sgd", "mse")
    before = {hook: [np.array(part) for part in hook.weights] for _, hook in kwrap.find_hooks(model)}
    model.fit(INPUTS, np.ones((4, 3)), verbose=0)
    for hook, values in before.items():
        same = [np.array_equal(part, value) for part, value in zip(hook.weights, values, strict=True)]
        assert same == ([True] * 3 if hook.name == "fr" else [False, False, True])


def test_an_adapter_that_is_not_there_is_an_error_and_nothing_is_switched(model):
    with pytest.raises(AbsentHookError, match=r"no hook 'es' is on model .*; on it are 'fr', 'de'"):
        use_adapters(model, ["fr", "es"])
    assert adapters(model) == {"fr": 1.0, "de": 1.0}


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), "1", True])
def test_a_scale_that_is_no_finite_number_is_an_error_and_nothing_is_switched(model, scale):
    with pytest.raises(OptionValueError, match=r"use_adapters: de=.* is not a finite number"):
        use_adapters(model, {"fr": 0.5, "de": scale})
    assert adapters(model) == {"fr": 1.0, "de": 1.0}


@pytest.mark.parametrize("chosen", [None, 3, ["fr", 3]])
def test_what_is_no_name_is_an_error_and_nothing_is_switched(model, chosen):
    with pytest.raises(OptionValueError, match=r"use_adapters: chosen=.* is neither a name"):
        use_adapters(model, chosen)
    assert adapters(model) == {"fr": 1.0, "de": 1.0}
