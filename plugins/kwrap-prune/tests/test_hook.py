import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

import kwrap
from kwrap_prune import ConstantSparsity, Magnitude, PolynomialDecay, Prune, Schedule, lowest
from kwrap_prune._structures import Groups

STEPS_AN_EPOCH = 8


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    return images[: 32 * STEPS_AN_EPOCH, :].reshape(-1, 8, 8, 1).astype("float32") / 16, labels[: 32 * STEPS_AN_EPOCH]


@keras.saving.register_keras_serializable("kwrap_prune_tests")
def a_tenth_more(step):
    return keras.ops.minimum(keras.ops.cast(step, "float64") / 10, 0.9)


def network(schedule: Schedule, **compile_options) -> keras.Model:
    """Return a compiled network with two pruned layers, of 72 and 2560 weights."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            kwrap.Wrapper(keras.layers.Conv2D(8, 3, padding="same", activation="relu"), [Prune(schedule)]),
            keras.layers.MaxPooling2D(2),
            keras.layers.Flatten(),
            kwrap.Wrapper(keras.layers.Dense(20), [Prune(schedule)]),
            keras.layers.Dense(10),
        ]
    )
    options = {"optimizer": "adam", "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}
    model.compile(**options | compile_options)
    return model


def pruned(model: keras.Model) -> list[kwrap.Wrapper]:
    return [layer for layer in model.layers if isinstance(layer, kwrap.Wrapper)]


def zeros(model: keras.Model) -> list[int]:
    """Return how many stored weights are zero, in each pruned kernel."""
    return [int(np.sum(np.array(layer.kernel) == 0)) for layer in pruned(model)]


def masks(model: keras.Model) -> list[np.ndarray]:
    found = [(hook, hook.target_weights[0]) for layer in pruned(model) for hook in layer.hooks]
    return [np.array(hook.state(target, "mask")) for hook, target in found]


def steps(model: keras.Model) -> list[int]:
    found = [(hook, hook.target_weights[0]) for layer in pruned(model) for hook in layer.hooks]
    return [int(hook.state(target, "step")) for hook, target in found]


def dense(kernel: np.ndarray, hook: Prune) -> kwrap.Wrapper:
    """Return a wrapped Dense of this kernel, called once: a Wrapper made by hand acts from its first call on."""
    layer = keras.layers.Dense(kernel.shape[1], use_bias=False, name="dense")
    layer.build((None, kernel.shape[0]))
    layer.kernel.assign(kernel)
    wrapper = kwrap.Wrapper(layer, [hook])
    wrapper(np.ones((1, kernel.shape[0]), "float32"))
    return wrapper


def test_a_schedule_from_step_0_prunes_the_smallest_weights_on_wrapping():
    kernel = np.array([[3.0, -1.0, 0.5], [-0.25, 2.0, -4.0]], "float32")
    wrapper = dense(kernel, Prune())
    expected = [[3.0, 0.0, 0.0], [0.0, 2.0, -4.0]]
    np.testing.assert_array_equal(wrapper.kernel, expected)
    np.testing.assert_array_equal(wrapper(np.eye(2, dtype="float32")), expected)


def test_a_schedule_from_a_later_step_prunes_nothing_on_wrapping():
    kernel = np.array([[3.0, -1.0, 0.5]], "float32")
    wrapper = dense(kernel, Prune(ConstantSparsity(0.5, begin_step=1)))
    np.testing.assert_array_equal(wrapper.kernel, kernel)
    np.testing.assert_array_equal(wrapper(np.ones((1, 1), "float32")), kernel)


@pytest.mark.parametrize(
    ("size", "sparsity", "expected"),
    [(5, 0.5, 2), (7, 0.5, 4), (10, 0.0, 0), (3, 0.99, 2), (1, 0.9, 0), (1000, 0.7, 700), (9, 0.04, 0)],
)
def test_the_number_of_zeros_is_rounded_half_to_even_and_one_weight_stays(size, sparsity, expected):
    wrapper = dense(np.ones((1, size), "float32"), Prune(ConstantSparsity(sparsity, begin_step=0)))
    assert np.sum(np.array(wrapper.kernel) == 0) == expected


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_fit_keeps_a_constant_sparsity_exactly(digits, optimizer, jit_compile):
    model = network(ConstantSparsity(0.8, begin_step=0, frequency=3), optimizer=optimizer, jit_compile=jit_compile)
    for _ in range(2):
        model.fit(*digits, verbose=0)
        assert zeros(model) == [58, 2048]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_fit_follows_a_decay_step_by_step(digits, jit_compile):
    model = network(PolynomialDecay(0.2, 0.9, begin_step=2, end_step=10, power=2, frequency=4), jit_compile=jit_compile)
    x, y = digits
    counts = []
    for first in range(0, 32 * 14, 32):
        counts.append(zeros(model)[1])
        at = first % len(x)
        model.train_on_batch(x[at : at + 32], y[at : at + 32])
    share = [0.0] * 2 + [0.2] * 4 + [0.9 - 0.7 * 0.5**2] * 4 + [0.9] * 4
    assert counts == [round(2560 * each) for each in share]


def test_a_function_of_the_step_is_a_schedule(digits):
    model = network(a_tenth_more)
    counts = []
    for _ in range(3):
        model.train_on_batch(digits[0][:32], digits[1][:32])
        counts.append(zeros(model))
    assert counts == [[round(72 * 0.1 * step), round(2560 * 0.1 * step)] for step in (1, 2, 3)]


def test_with_an_end_the_masks_stay_as_they_were_there(digits):
    model = network(ConstantSparsity(0.5, begin_step=0, end_step=4, frequency=4))
    model.fit(*digits, verbose=0)
    before = masks(model)
    model.fit(*digits, verbose=0)
    for mask, earlier in zip(masks(model), before, strict=True):
        np.testing.assert_array_equal(mask, earlier)


def test_pruned_weights_have_no_gradient_and_others_the_layers_own():
    kernel = np.array([[3.0, -1.0], [0.5, 2.0]], "float32")
    wrapper = dense(kernel, Prune())
    x = tf.constant([[1.0, 10.0]])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(wrapper(x))
    np.testing.assert_array_equal(tape.gradient(loss, wrapper.layer.kernel.value), [[1.0, 0.0], [0.0, 10.0]])


def test_where_weights_may_regrow_pruned_ones_have_the_layers_own_gradient():
    wrapper = dense(np.array([[3.0, -1.0], [0.5, 2.0]], "float32"), Prune(regrow=True))
    x = tf.constant([[1.0, 10.0]])
    with tf.GradientTape() as tape:
        outputs = wrapper(x)
        loss = tf.reduce_sum(outputs)
    np.testing.assert_array_equal(outputs, [[3.0, 20.0]])
    np.testing.assert_array_equal(tape.gradient(loss, wrapper.layer.kernel.value), [[1.0, 1.0], [10.0, 10.0]])


def test_a_pruned_weight_comes_back_only_where_weights_may_regrow():
    # The loss asks for weights of 1 where the pruned ones are, and of 0 elsewhere.
    wanted = np.array([[0.0, 1.0], [1.0, 0.0]], "float32")
    kept = {}
    for regrow in (False, True):
        kernel = np.array([[0.2, -0.1], [0.1, 0.2]], "float32")
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, use_bias=False)])
        model.layers[0].kernel.assign(kernel)
        model.compile(keras.optimizers.SGD(1.0), "mse")
        kwrap.wrap_model(model, Prune(ConstantSparsity(0.5, begin_step=0, frequency=1), regrow=regrow))
        for _ in range(3):
            model.train_on_batch(np.eye(2, dtype="float32"), wanted)
            assert np.sum(np.array(model.layers[0].kernel) == 0) == 2
        kept[regrow] = np.array(model.layers[0].kernel) != 0
    np.testing.assert_array_equal(kept[False], wanted == 0)
    np.testing.assert_array_equal(kept[True], wanted == 1)


def test_infinite_and_undefined_gradients_do_not_reach_pruned_weights():
    wrapper = dense(np.array([[3.0, -1.0]], "float32"), Prune())
    (hook,) = wrapper.hooks
    (target,) = hook.target_weights
    value = hook.constrain(target, tf.constant([[3.0, np.nan]]), step=None)
    np.testing.assert_array_equal(value, [[3.0, 0.0]])


def test_one_trace_of_the_kernel_serves_all_layers_and_one_more_those_that_xla_compiles(digits):
    model = network(ConstantSparsity(0.5, begin_step=0, frequency=1))
    before = lowest.trace_count
    model.fit(*digits, verbose=0)
    network(ConstantSparsity(0.5, begin_step=0, frequency=1), jit_compile=True).fit(*digits, verbose=0)
    assert lowest.trace_count <= before + 1


def test_a_mask_is_one_byte_a_weight(digits):
    model = network(ConstantSparsity(0.5, begin_step=0))
    assert [(mask.dtype, mask.nbytes) for mask in masks(model)] == [(np.dtype(bool), 72), (np.dtype(bool), 2560)]


@pytest.mark.parametrize("policy", ["float16", "bfloat16", "mixed_float16", "float64"])
def test_other_dtypes_are_pruned_as_exactly(policy):
    layer = keras.layers.Dense(50, dtype=policy)
    layer.build((None, 20))
    expected = np.sort(np.abs(np.array(layer.kernel).astype("float64")).ravel())[700:]
    wrapper = kwrap.Wrapper(layer, [Prune(ConstantSparsity(0.7, begin_step=0))])
    outputs = wrapper(np.ones((1, 20), "float32"))
    kept = np.abs(np.array(wrapper.kernel).astype("float64")).ravel()
    np.testing.assert_array_equal(np.sort(kept[kept > 0]), expected)
    assert outputs.dtype == layer.compute_dtype


def test_a_saved_model_has_its_masks_and_its_place_in_the_schedule(digits, tmp_path):
    model = network(PolynomialDecay(0.1, 0.9, begin_step=0, end_step=4 * STEPS_AN_EPOCH, frequency=STEPS_AN_EPOCH))
    model.fit(*digits, epochs=2, verbose=0, shuffle=False)
    model.save(tmp_path / "pruned.keras")
    loaded = keras.models.load_model(tmp_path / "pruned.keras")
    np.testing.assert_array_equal(loaded.predict(digits[0], verbose=0), model.predict(digits[0], verbose=0))
    assert steps(loaded) == steps(model) == [2 * STEPS_AN_EPOCH] * 2
    assert masks(loaded)[0].tolist() == masks(model)[0].tolist()
    for each in (model, loaded):
        each.fit(*digits, epochs=3, verbose=0, shuffle=False)
    assert zeros(loaded) == zeros(model) == [round(0.9 * 72), round(0.9 * 2560)]
    assert masks(loaded)[1].tolist() == masks(model)[1].tolist()


def test_unwrapping_leaves_exact_zeros_in_a_plain_model(digits):
    x = digits[0]
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    kwrap.wrap_model(model, Prune(ConstantSparsity(0.75, begin_step=0)), where=keras.layers.Dense)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(*digits, verbose=0)
    before = model.predict(x, verbose=0)
    kwrap.unwrap_model(model)
    assert type(model.layers[-1]) is keras.layers.Dense
    assert np.sum(np.array(model.layers[-1].kernel) == 0) == 480
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    model.fit(*digits, verbose=0)
    assert np.sum(np.array(model.layers[-1].kernel) == 0) < 480


def test_the_weights_of_a_plain_file_get_masks_of_their_own(tmp_path):
    plain = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5)])
    plain.save_weights(tmp_path / "plain.weights.h5")
    expected = np.sort(np.abs(np.array(plain.layers[0].kernel)).ravel())[15:]
    model = keras.Sequential([keras.Input((6,)), kwrap.Wrapper(keras.layers.Dense(5), [Prune()])])
    model.load_weights(tmp_path / "plain.weights.h5")
    kept = np.abs(np.array(model(np.eye(6, dtype="float32")))).ravel()
    np.testing.assert_array_equal(np.sort(kept[kept > 0]), expected)


def test_every_option_is_in_the_config():
    options = {
        "schedule": PolynomialDecay(0.1, 0.6, 1, 9, 2, 4),
        "block_size": (4, 2),
        "block_pooling": "MAX",
        "criterion": Magnitude(),
        "regrow": True,
        "gradient_accumulation_steps": 3,
        "log_sparsity": True,
        "phase": "training",
        "targets": ["bias"],
        "name": "mine",
    }
    config = Prune(**options).get_config()
    serialized = {
        "schedule": keras.saving.serialize_keras_object(options["schedule"]),
        "criterion": keras.saving.serialize_keras_object(options["criterion"]),
    }
    assert config == {**options, **serialized, "block_size": [4, 2], "n_m": None}
    again = Prune.from_config(json.loads(json.dumps(config)))
    assert again.get_config() == config
    assert (again.schedule, again.criterion) == (options["schedule"], options["criterion"])
    assert Prune.from_config(Prune(n_m=(2, 4)).get_config()).structure == Groups(2, 4)
