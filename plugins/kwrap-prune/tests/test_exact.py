"""Exact sparsity after every step, whatever trains the model; and a byte a weight, no more, to keep it so."""

import gc
import json
import os
import subprocess
import sys
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

import kwrap
from kwrap.errors import PlanError
from kwrap_prune import ConstantSparsity, NonFiniteWeightsWarning, PolynomialDecay, Prune, report

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 3, 2, 1)).astype("float32")
Y = RNG.normal(size=(48, 3)).astype("float32")
BATCH = 4  # 12 steps an epoch
SIZES = {"conv": 12, "hidden": 24}


@keras.saving.register_keras_serializable("kwrap_prune_exact_tests")
def sixteenths(step):
    return keras.ops.minimum(keras.ops.cast(step, "float64"), 14) / 16


def bare(**layer_options) -> keras.Model:
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((3, 2, 1)),
            keras.layers.Conv2D(3, 2, activation="tanh", name="conv", **layer_options),
            keras.layers.Flatten(),
            keras.layers.Dense(4, activation="tanh", name="hidden", **layer_options),
            keras.layers.Dense(3, name="outputs"),
        ],
        name="network",
    )


def prune(model: keras.Model, **options) -> keras.Model:
    """Wrap two layers: a decay every other step with regrowth, and half a weight more or less at every step."""
    decay = PolynomialDecay(0.2, 0.9, begin_step=1, end_step=9, frequency=2)
    return kwrap.wrap_model(
        model, [Prune(decay, regrow=True, **options).at("conv"), Prune(sixteenths, **options).at("hidden")]
    )


def network(optimizer="adam", **compile_options) -> keras.Model:
    model = prune(bare())
    model.compile(optimizer, "mse", **compile_options)
    return model


def counts(updates: int) -> dict[str, int]:
    """Return how many weights have to be zero after so many updates; NumPy rounds half to even."""
    left = 1 - np.clip((updates - 1) // 2 * 2 / 8, 0, 1)
    shares = {"conv": 0.9 - 0.7 * left**3 if updates else 0.0, "hidden": min(updates, 14) / 16}
    return {name: int(np.round(share * SIZES[name])) for name, share in shares.items()}


def kernels(model: keras.Model) -> dict[str, np.ndarray]:
    return {name: keras.ops.convert_to_numpy(model.get_layer(name).kernel) for name in SIZES}


def zeros(model: keras.Model) -> dict[str, int]:
    return {name: int(np.sum(kernel == 0)) for name, kernel in kernels(model).items()}


def states(model: keras.Model, name: str) -> dict[str, np.ndarray]:
    """Return the masks, or the steps, by layer."""
    return {
        path: keras.ops.convert_to_numpy(hook.state(hook.target_weights[0], name))
        for path, hook in kwrap.find_hooks(model, "prune")
    }


def steps(model: keras.Model) -> list[int]:
    return [int(step) for step in states(model, "step").values()]


class Observe(keras.callbacks.Callback):
    """Note the stored zeros after each step, and see that the masks are where they are."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(zeros(self.model))
        for name, mask in states(self.model, "mask").items():
            np.testing.assert_array_equal(kernels(self.model)[name] != 0, mask)


def fit(model: keras.Model, first: int, last: int, y=Y) -> list[dict[str, int]]:
    """Train the steps after the `first` one, up to the `last`; return the zeros after each."""
    observed = Observe()
    batches = slice(first * BATCH, last * BATCH)
    model.fit(X[batches], y[batches], batch_size=BATCH, shuffle=False, verbose=0, callbacks=[observed])
    return observed.seen


# --- after every step ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        keras.optimizers.RMSprop(0.01, momentum=0.5, centered=True),
        keras.optimizers.Adam(0.01, clipnorm=1.0),
        keras.optimizers.AdamW(0.01, weight_decay=0.1),
        keras.optimizers.Adafactor(0.01),
        keras.optimizers.Lion(0.01),
        keras.optimizers.Ftrl(0.1),
        keras.optimizers.Muon(0.01),
        keras.optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=3),
    ],
    ids=lambda optimizer: type(optimizer).__name__ + "-ema" * optimizer.use_ema,
)
def test_stored_zeros_are_exact_after_every_step_of(optimizer):
    model = network(type(optimizer).from_config(optimizer.get_config()))
    assert [zeros(model), *fit(model, 0, 12)] == [counts(step) for step in range(13)]


@pytest.mark.parametrize(
    ("compile_options", "every"),
    [({"jit_compile": True}, 1), ({"steps_per_execution": 4}, 4), ({"run_eagerly": True}, 1)],
)
def test_stored_zeros_are_exact_however_the_step_is_run(compile_options, every):
    model = network("sgd", **compile_options)
    assert fit(model, 0, 12) == [counts(step) for step in range(every, 13, every)]


@pytest.mark.parametrize(
    ("options", "together", "of"), [({}, 1, None), ({"block_size": (2, 2)}, 4, None), ({"n_m": (2, 4)}, 1, 4)]
)
def test_each_structure_is_exact_after_every_step_of_a_decay(options, together, of):
    model = keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            keras.layers.Embedding(20, 8),
            keras.layers.Conv1D(6, 2),
            keras.layers.Flatten(),
            keras.layers.Dense(4),
        ]
    )
    kwrap.wrap_model(model, Prune(PolynomialDecay(0.0, 0.5, 0, 6, power=1, frequency=1), **options))
    model.compile(keras.optimizers.AdamW(0.1, weight_decay=0.1), "mse")
    tokens = np.arange(40).reshape(8, 5) % 20
    for step in range(1, 9):
        model.train_on_batch(tokens, Y[:8, :1] * np.ones((8, 4)))
        share = min(step / 12, 0.5)
        for _, hook in kwrap.find_hooks(model, "prune"):
            (target,) = hook.target_weights
            kernel = keras.ops.convert_to_numpy(target.variable)
            units = kernel.size // together
            expected = np.round(of * share) * units // of if of else np.round(units * share) * together
            assert np.sum(kernel == 0) == expected


def test_the_average_that_fit_ends_with_is_read_pruned_and_unwrapped_pruned():
    model = network(keras.optimizers.Adam(0.01, use_ema=True))
    fit(model, 0, 5)
    averages = {name: kernel * states(model, "mask")[name] for name, kernel in kernels(model).items()}
    expected = bare()
    expected.set_weights(kwrap.unwrap_model(kwrap.clone_model(model), merge=False).get_weights())
    for name, kernel in averages.items():
        expected.get_layer(name).kernel.assign(kernel)
    np.testing.assert_allclose(model.predict(X, verbose=0), expected.predict(X, verbose=0), rtol=1e-5)
    kwrap.unwrap_model(model)
    assert zeros(model) == counts(5)
    for name, kernel in averages.items():
        np.testing.assert_array_equal(kernels(model)[name], kernel)


# --- where updates are fewer than calls ------------------------------------------------------------------------------


def test_on_a_frozen_layer_the_schedule_stands_still_and_goes_on_when_it_is_trained_again():
    model = network()
    fit(model, 0, 3)
    model.get_layer("hidden").trainable = False
    model.compile("adam", "mse")
    before = kernels(model)["hidden"], states(model, "mask")["hidden"]
    seen = fit(model, 3, 7)
    assert seen == [counts(step) | {"hidden": counts(3)["hidden"]} for step in range(4, 8)]
    np.testing.assert_array_equal((kernels(model)["hidden"], states(model, "mask")["hidden"]), before)
    assert zeros(kwrap.unwrap_model(kwrap.clone_model(model))) == seen[-1]
    model.get_layer("hidden").trainable = True
    model.compile("adam", "mse")
    assert [each["hidden"] for each in fit(model, 7, 12)] == [counts(step)["hidden"] for step in range(4, 9)]
    assert steps(model) == [12, 8]


def test_steps_that_loss_scaling_skips_change_neither_weights_nor_masks_nor_the_schedule():
    model = prune(bare(dtype="mixed_float16"))
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)), "mse")
    overflows = [1, 4, 5]
    y = Y.copy()
    for step in overflows:
        y[step * BATCH : (step + 1) * BATCH] = 1e6  # Times the loss scale, beyond float16.
    updates = 0
    for step in range(10):
        before = model.get_weights()
        seen = fit(model, step, step + 1, y)
        updates += step not in overflows
        assert (seen, steps(model)) == ([counts(updates)], [updates] * 2)
        unchanged = all(map(np.array_equal, before, model.get_weights()))
        assert unchanged == (step in overflows)


@pytest.mark.parametrize("every", [1, 3])
def test_where_gradients_accumulate_the_schedule_counts_every_nth_call(every):
    model = prune(bare(), gradient_accumulation_steps=every)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=3), "mse")
    assert fit(model, 0, 12) == [counts(call // every) for call in range(1, 13)]


def test_not_to_say_that_gradients_accumulate_is_an_error_before_anything_changes():
    model = bare()
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=3), "mse")
    layers, variables, optimizer = list(model.layers), list(model.variables), model.optimizer
    weights = model.get_weights()
    with pytest.raises(PlanError, match=r"Prune\(\.\.\., gradient_accumulation_steps=3\)"):
        prune(model)
    assert (model.layers, model.optimizer) == (layers, optimizer)
    assert all(now is before for now, before in zip(model.variables, variables, strict=True))
    assert all(variable.constraint is None for variable in variables)
    assert all(map(np.array_equal, model.get_weights(), weights))


# --- on two replicas -------------------------------------------------------------------------------------------------

# Logical devices are set before TensorFlow starts, so in a process of their own.
REPLICAS = """
import importlib.util, json, sys
import keras, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
spec = importlib.util.spec_from_file_location("test_exact", sys.argv[1])
test_exact = importlib.util.module_from_spec(spec)
spec.loader.exec_module(test_exact)

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    model = test_exact.network(keras.optimizers.AdamW(0.01))
hooks = [hook for _, hook in test_exact.kwrap.find_hooks(model, "prune")]
pairs = [(hook.target_weights[0].variable, hook.state(hook.target_weights[0], "mask")) for hook in hooks]

def copies(variable):
    return [copy.numpy().tolist() for copy in strategy.experimental_local_results(variable.value)]

seen = []
class Observe(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        seen.append([(copies(kernel), copies(mask)) for kernel, mask in pairs])

model.fit(test_exact.X, test_exact.Y, batch_size=4, shuffle=False, verbose=0, callbacks=[Observe()])
print(json.dumps(seen))
"""


def test_two_replicas_have_equal_masks_and_exact_zeros_after_every_step():
    command = [sys.executable, "-c", REPLICAS, __file__]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert len(seen) == 12
    for step, layers in enumerate(seen, start=1):
        for expected, ((first, second), masks) in zip(counts(step).values(), layers, strict=True):
            assert first == second
            assert [(np.array(first) != 0).tolist()] * 2 == masks
            assert np.sum(np.array(first) == 0) == expected


# --- non-finite weights ----------------------------------------------------------------------------------------------


def dense(kernel: np.ndarray) -> keras.Model:
    """Return a compiled model of one layer of this kernel."""
    model = keras.Sequential([keras.Input((kernel.shape[0],)), keras.layers.Dense(kernel.shape[1], name="dense")])
    model.get_layer("dense").kernel.assign(kernel)
    model.compile(keras.optimizers.SGD(0.01), "mse")
    return model


@pytest.mark.parametrize("regrow", [False, True])
@pytest.mark.parametrize("broken", [1, 7])
def test_non_finite_weights_stay_and_the_others_are_pruned_at_the_count(broken, regrow):
    kernel = np.arange(1, 11, dtype="float32").reshape(5, 2)
    kernel.flat[:broken] = [np.nan, -np.inf, np.inf, -np.nan, np.nan, np.inf, np.nan][:broken]
    model = dense(kernel)
    with pytest.warns(NonFiniteWeightsWarning, match=r"'prune' at 'dense': 'kernel' has NaN or infinite weights"):
        kwrap.wrap_model(model, Prune(ConstantSparsity(0.5, begin_step=0), regrow=regrow))
    expected = kernel.copy()
    expected.flat[broken : min(broken + 5, 10)] = 0  # The smallest of the finite ones: half of all, or all there are.
    np.testing.assert_array_equal(model.get_layer("dense").kernel, expected)
    x = np.arange(10, dtype="float32").reshape(2, 5)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(model(x), x @ expected)
    kwrap.unwrap_model(model)
    np.testing.assert_array_equal(model.get_layer("dense").kernel, expected)


@pytest.mark.parametrize(
    ("frequency", "regrow", "jit_compile"),
    [(1, False, False), (1, True, False), (100, False, False), (100, True, False), (100, True, True)],
)
def test_a_weight_that_becomes_nan_stays_so_and_a_pruned_one_only_where_it_may_regrow(frequency, regrow, jit_compile):
    model = dense(np.arange(-10, 10, dtype="float32").reshape(5, 4))
    kwrap.wrap_model(model, Prune(ConstantSparsity(0.5, begin_step=0, frequency=frequency), regrow=regrow))
    kernel, optimizer = model.get_layer("dense").kernel, model.optimizer
    broken = keras.ops.convert_to_numpy(kernel).copy()
    broken[0, 0] = broken[2, 1] = np.nan  # One that is kept, and one that is pruned.
    kernel.assign(broken)
    optimizer.build([kernel])
    update = tf.function(lambda: optimizer.apply([tf.zeros((5, 4))], [kernel]), jit_compile=jit_compile)
    for _ in range(2):
        update()
        stored = keras.ops.convert_to_numpy(kernel)
        np.testing.assert_array_equal(np.isnan(stored[[0, 2], [0, 1]]), [True, regrow])
        # Masks that are computed anew leave as many zeros beside it; before, it takes the place of one.
        assert np.sum(stored == 0) == (9 if regrow and frequency == 100 else 10)
    np.testing.assert_array_equal(np.isnan(model(np.ones((1, 5)))), [[True, regrow, False, False]])
    assert report(model).non_finite == 1 + regrow
    kwrap.unwrap_model(model)
    left = keras.ops.convert_to_numpy(model.get_layer("dense").kernel)
    np.testing.assert_array_equal(left, stored)


@pytest.mark.parametrize("frequency", [1, 100])
def test_a_nan_gradient_at_the_place_of_a_pruned_weight_is_not_masked_over_where_it_may_regrow(frequency):
    model = dense(np.array([[1.0, 2.0], [3.0, 4.0]], "float32"))
    kwrap.wrap_model(model, Prune(ConstantSparsity(0.5, begin_step=0, frequency=frequency), regrow=True))
    kernel = model.get_layer("dense").kernel
    np.testing.assert_array_equal(kernel, [[0, 0], [3, 4]])
    # As an input that is NaN would make those of its own weights, all of them pruned ones.
    model.optimizer.apply([np.array([[np.nan, np.nan], [0.0, 0.0]], "float32")], [kernel])
    np.testing.assert_array_equal(np.isnan(np.array(kernel)), [[True, True], [False, False]])


# --- memory ----------------------------------------------------------------------------------------------------------


def test_a_bool_mask_is_the_only_state_of_a_weights_size():
    model = prune(bare(), log_sparsity=True)
    for (path, hook), shape in zip(kwrap.find_hooks(model, "prune"), [(2, 2, 1, 3), (6, 4)], strict=True):
        assert path in SIZES
        assert [(each.dtype, each.shape) for each in hook.variables] == [("bool", shape), ("int32", ())]


def test_nothing_is_kept_after_unwrapping():
    model = network()
    fit(model, 0, 2)
    model.predict(X, verbose=0)
    hooks = [hook for _, hook in kwrap.find_hooks(model, "prune")]
    parts = [part for hook in hooks for part in (hook, *hook.variables, *(each.value for each in hook.variables))]
    alive = [weakref.ref(part) for part in parts]
    del hooks, parts
    kwrap.unwrap_model(model)
    gc.collect()
    assert [reference() for reference in alive] == [None] * 10
    plain = bare()
    assert [type(layer) for layer in model.layers] == [type(layer) for layer in plain.layers]
    described = [[(each.path, each.shape, each.dtype) for each in one.variables] for one in (model, plain)]
    assert described[0] == described[1]
    assert all(variable.constraint is None for variable in model.trainable_variables)
    assert [each.name for each in model.metrics] == ["loss"]
