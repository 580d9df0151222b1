from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import TENSORS, EventAccumulator

import kwrap
from kwrap.errors import AbsentHookError
from kwrap_probe import NaNGuard, Probe, ProbeSteps, TensorBoardWriter, report, reset
from kwrap_probe._measure import Part

from .references import InAFunction, X, Y, by_name, must_be, network, reference

HOW = [{"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": True}]


def compiled(model: keras.Model, *hooks: kwrap.Hook, rate: float = 0.0, **how) -> keras.Model:
    if hooks:
        kwrap.wrap_model(model, list(hooks))
    model.compile(keras.optimizers.SGD(rate), "mse", **how)
    return model


def fit(model: keras.Model, *callbacks: keras.callbacks.Callback, batch_size: int = 4, epochs: int = 1, **options):
    """Fit in 6 steps an epoch, or so many as a batch's size makes."""
    return model.fit(
        X, Y, batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks), **options
    )


def calls(model: keras.Model) -> dict[str, int]:
    """Return how many calls were measured of each thing; of several probes, with their names."""
    return {f"{each.path}/{each.hook}/{each.name}": each.calls for each in report(model).statistics}


@pytest.mark.parametrize("how", HOW, ids=str)
def test_the_first_step_of_an_epoch_and_every_nth_are_measured_and_nothing_else(how):
    model = compiled(network(), Probe(every=4, sample=None), **how)
    plain = kwrap.unwrap_model(kwrap.clone_model(model))
    fit(model, ProbeSteps(), epochs=2)
    batches = [reference(plain, X[at : at + 4], Y[at : at + 4]) for at in (0, 16)] * 2
    for name, statistics in by_name(model).items():
        must_be(statistics, *(batch[name] for batch in batches))


@pytest.mark.parametrize("how", HOW, ids=str)
def test_training_gives_the_bare_models_losses_and_weights_to_the_bit(how):
    def dropping():
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(5, activation="relu"), keras.layers.Dropout(0.5, seed=1), keras.layers.Dense(2)]
        return keras.Sequential([keras.Input((6,)), *layers])

    bare, probed = compiled(dropping(), rate=0.1, **how), compiled(dropping(), Probe(every=3), rate=0.1, **how)
    losses = [fit(bare, epochs=2).history, fit(probed, ProbeSteps(), epochs=2).history]
    assert losses[0] == losses[1]
    for one, other in zip(bare.weights, kwrap.unwrap_model(probed).weights, strict=True):
        np.testing.assert_array_equal(one, other)


class Telling(keras.Sequential):
    """A model that tells the types of the ops of each train step that is traced."""

    def train_step(self, data):
        self.__dict__.setdefault("graphs", []).append(tf.compat.v1.get_default_graph())
        return super().train_step(data)

    @property
    def steps(self) -> list[list[str]]:
        return [sorted(op.type for op in graph.get_operations()) for graph in self.graphs]


def telling() -> keras.Model:
    return Telling(network().layers)


def test_a_step_that_measures_nothing_has_the_ops_of_the_bare_models_step():
    bare, probed = compiled(telling(), rate=0.1), compiled(telling(), Probe(every=3), rate=0.1)
    fit(bare)
    fit(probed, ProbeSteps())
    (ops,), (measured, other) = bare.steps, probed.steps
    assert Counter(other) - Counter(ops) == {"ReadVariableOp": 2}  # of a kernel, before it is handed to the hook
    assert not Counter(ops) - Counter(other)
    assert len(measured) > len(other)
    assert "If" not in measured  # nor has the other one to ask whether it is time


@pytest.mark.parametrize(("sample", "groups"), [(7, 4), (1024, 4), (2048, 6), (10_000, 15), (None, 15)])
def test_layers_are_measured_together_and_gradients_apart(sample, groups):
    def deep():
        return Telling([keras.Input((6,)), *(keras.layers.Dense(6, name=f"dense{place}") for place in range(5))])

    bare, probed = compiled(deep()), compiled(deep(), Probe(sample=sample))
    bare.fit(X, X, verbose=0)
    probed.fit(X, X, verbose=0, callbacks=[ProbeSteps()])
    (ops,), (measured,) = bare.steps, probed.steps
    # Of 1024 values each, of fifteen inputs, outputs and kernels nine, as soon as there are eight or more, and six; and
    # 8 + 2 gradients. Of 2048, whenever there are four or more: 6 + 6 + 3 and 4 + 4 + 2.
    assert Counter(measured)["PartitionedCall"] - Counter(ops)["PartitionedCall"] == groups
    assert set(calls(probed).values()) == {1}


class Placed(keras.Model):
    """A model whose layer is called twice, on a device that is named, and before on any."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(6, name="dense")

    def call(self, inputs, training=None):
        hidden = self.dense(inputs, training=training)
        with tf.device("CPU:0"):
            return self.dense(hidden, training=training)

    def train_step(self, data):
        self.__dict__["graph"] = tf.compat.v1.get_default_graph()
        return super().train_step(data)


def test_layers_are_measured_where_they_are_called():
    model = Placed()
    model(X)
    compiled(model, Probe(["inputs", "outputs"]), jit_compile=False)
    model.fit(X, X, batch_size=24, verbose=0, callbacks=[ProbeSteps()])
    assert set(calls(model).values()) == {2}
    devices = [op.device for op in model.graph.get_operations() if op.type == "PartitionedCall"]
    assert sorted(devices) == ["", "/device:CPU:0"]


class Resetting(keras.Sequential):
    """A model that forgets what its layers have measured, in the middle of a step or at its end."""

    at_end = True

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            outputs = self(x, training=True)
            if not self.at_end:
                reset(self)
                outputs = self(x, training=True)
            loss = keras.ops.mean((outputs - y) ** 2)
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        if self.at_end:
            reset(self)
        return {"loss": loss}


@pytest.mark.parametrize("how", HOW[:2], ids=str)
def test_what_is_reset_within_a_step_is_forgotten(how):
    model = compiled(Resetting([keras.Input((6,)), *network().layers]), Probe(["inputs", "outputs"]), **how)
    fit(model, ProbeSteps(), batch_size=24)
    assert set(calls(model).values()) == {0}
    model.at_end = False
    fit(model, ProbeSteps(), batch_size=24)
    assert set(calls(model).values()) == {1}


@keras.saving.register_keras_serializable("test_steps")
class Two(keras.layers.Layer):
    """Return two outputs, of two dtypes."""

    def call(self, inputs):
        return {"same": 2 * inputs, "wide": keras.ops.cast(inputs, "float64")}


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16", "float64"])
def test_measured_together_layers_of_all_kinds_and_dtypes_have_the_statistics_of_each_alone(dtype):
    def of(*callbacks):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((6,))
        values = keras.layers.Embedding(9, 4, name="embedding", dtype=dtype)(inputs)
        values = keras.layers.LSTM(5, return_sequences=True, name="lstm", dtype=dtype)(values)
        values = keras.layers.BatchNormalization(name="norm", dtype=dtype)(values)
        dense = keras.layers.Dense(5, name="dense", dtype=dtype)
        values = Two(name="two", dtype=dtype)(dense(keras.layers.ReLU(name="relu", dtype=dtype)(dense(values))))
        values = keras.layers.Concatenate(name="both", dtype=dtype)([values["same"], values["wide"]])
        model = keras.Model(inputs, keras.layers.Dense(2, name="head")(keras.layers.Flatten(name="flat")(values)))
        hooks = [Probe(every=1), Probe(every=1, sample=7, name="few"), Probe(every=1, histogram=False, name="slim")]
        kwrap.wrap_model(model, hooks)
        optimizer = keras.optimizers.SGD(0.01)
        model.compile(optimizer, "mse", jit_compile=False)
        model.fit(np.arange(24 * 6).reshape(24, 6) % 9, Y, batch_size=8, shuffle=False, verbose=0, callbacks=callbacks)
        return {
            (path, hook.name, variable.name): np.array(variable)
            for path, hook in kwrap.find_hooks(model, Probe)
            for variable in hook.variables
            if variable.name != "turn"
        }

    together, alone = of(ProbeSteps()), of()
    assert together.keys() == alone.keys()
    for key, matrix in together.items():
        assert matrix[:, Part.CALLS].min() >= 3
        np.testing.assert_allclose(matrix, alone[key], rtol=1e-12, err_msg=str(key))


class Logs(keras.callbacks.Callback):
    """Keep the logs of each batch."""

    def __init__(self):
        super().__init__()
        self.of_batches = []

    def on_train_batch_end(self, batch, logs=None):
        self.of_batches.append(logs)


@pytest.mark.parametrize("how", HOW, ids=str)
def test_logs_have_the_statistics_of_their_own_step(how):
    model = compiled(network(), Probe(every=1, log=["outputs/maximum", "weight_gradients/spread"]), **how)
    for _ in range(2):
        fit(model, ProbeSteps(), kept := Logs(), batch_size=24)
        (logs,), found = kept.of_batches, by_name(model)
        assert logs["hidden/outputs_maximum"] == pytest.approx(found["hidden/outputs"].maximum)
        assert logs["head/kernel_gradients_spread"] == pytest.approx(found["head/kernel_gradients"].spread)


class Stateless(keras.Sequential):
    """A model that is called without state, and assigns the new one, or not."""

    keeps = True

    def train_step(self, data):
        x, y = data
        trainable = [each.value for each in self.trainable_variables]
        others = [tf.convert_to_tensor(each) for each in self.non_trainable_variables]
        with tf.GradientTape() as tape:
            outputs, others = self.stateless_call(trainable, others, x, training=True)
            loss = keras.ops.mean((outputs - y) ** 2)
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        for variable, value in zip(self.non_trainable_variables, others, strict=True):
            if self.keeps:
                variable.assign(value)
        return {"loss": loss}


def test_in_a_call_without_state_what_is_measured_is_among_the_new_state():
    model = compiled(
        Stateless([keras.Input((6,)), *network().layers]), Probe(["inputs", "outputs"], every=4), jit_compile=False
    )
    fit(model, ProbeSteps(), epochs=2)
    assert set(calls(model).values()) == {2 * 2}
    model.keeps = False
    fit(model, ProbeSteps())
    assert set(calls(model).values()) == {2 * 2}


def test_functions_are_traced_once_for_all_epochs_and_for_every_fit_with_the_same_callback():
    model, callback = compiled(telling(), Probe(every=3)), ProbeSteps()
    for _ in range(2):
        fit(model, callback, epochs=2)
    assert len(model.steps) == 2
    model.compile("sgd", "mse")
    fit(model, callback)
    assert len(model.steps) == 4


@pytest.mark.parametrize("how", HOW[:2], ids=str)
def test_callbacks_take_turns_and_one_serves_several_models(how):
    models = [compiled(network(), Probe("outputs", every=4), **how) for _ in range(2)]
    callbacks = [ProbeSteps(), ProbeSteps()]
    for callback in callbacks:
        for model in models:
            fit(model, callback, batch_size=24)  # so that the function without probes is traced later
    for callback in (*callbacks, *callbacks):
        for model in models:
            fit(model, callback)
    for model in models:
        fit(model, *callbacks)  # two are as one
    assert [set(calls(model).values()) for model in models] == [{2 * 1 + 4 * 2 + 2}] * 2


def test_each_probe_has_its_own_every():
    model = compiled(network(), Probe("outputs", every=2), Probe("outputs", every=3, name="third"))
    kwrap.wrap_model(model, Probe("outputs", every=1, name="each"), where="hidden")
    model.compile("sgd", "mse")
    fit(model, ProbeSteps())
    assert calls(model) == {
        "hidden/probe/outputs": 3,
        "hidden/third/outputs": 2,
        "hidden/each/outputs": 6,
        "head/probe/outputs": 3,
        "head/third/outputs": 2,
    }


def test_statistics_of_a_layer_that_is_called_several_times_are_of_all_calls_of_a_step():
    shared = keras.layers.Dense(6, name="shared")
    inputs = keras.Input((6,))
    model = compiled(keras.Model(inputs, shared(shared(shared(inputs)))), Probe(every=2))
    model.fit(X, X, batch_size=4, verbose=0, callbacks=[ProbeSteps()])
    assert set(calls(model).values()) == {3 * 3}


def test_outside_of_its_fit_calls_are_counted():
    model = compiled(network(), Probe("outputs", every=2))
    fit(model, ProbeSteps())
    assert set(calls(model).values()) == {3}
    fit(model)
    assert set(calls(model).values()) == {3 + 3}
    for _ in range(4):
        model.train_on_batch(X, Y)
    assert set(calls(model).values()) == {3 + 3 + 2}
    fit(model, ProbeSteps(), batch_size=8)
    assert set(calls(model).values()) == {3 + 3 + 2 + 2}


def test_a_validation_within_fit_goes_by_calls():
    model = compiled(network(), Probe("outputs", every=3, phase="always"))
    fit(model, ProbeSteps(), validation_data=(X, Y), validation_batch_size=4)
    assert set(calls(model).values()) == {2 + 2}


def test_executions_of_several_steps_are_measured_as_a_whole():
    model = compiled(network(), Probe("outputs", every=2), steps_per_execution=2)
    fit(model, ProbeSteps())
    assert set(calls(model).values()) == {2 * 2}  # of three executions, the first and the third


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # Keras', of any data whose length it cannot know
@pytest.mark.parametrize("how", HOW[:2], ids=str)
def test_data_of_unknown_length_and_batches_of_other_sizes_are_measured_as_well(how):
    model = compiled(network(), Probe(every=2, sample=None), **how)
    plain = kwrap.unwrap_model(kwrap.clone_model(model))
    bounds = [(0, 4), (4, 9), (9, 11), (11, 12), (12, 20)]

    def batches():
        yield from ((X[start:stop], Y[start:stop]) for start, stop in bounds)

    spec = tf.TensorSpec((None, 6)), tf.TensorSpec((None, 2))
    data = tf.data.Dataset.from_generator(batches, output_signature=spec)
    model.fit(data, epochs=2, shuffle=False, verbose=0, callbacks=[ProbeSteps()])
    expected = [reference(plain, *batch) for batch in list(batches())[::2]] * 2
    for name, statistics in by_name(model).items():
        must_be(statistics, *(each[name] for each in expected))


def test_a_function_of_a_hook_between_that_is_traced_once_measures_in_the_same_steps():
    model = network()
    kwrap.wrap_model(model, [Probe(["inputs", "weights", "weight_gradients"], every=2), InAFunction()], where="head")
    ((_, hook),) = kwrap.find_hooks(model, InAFunction)
    del hook.function  # kwrap has tried the hook, and not on the layer
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
    fit(model, ProbeSteps())
    assert set(calls(model).values()) == {3}
    fit(model)
    assert set(calls(model).values()) == {3 + 3}


class CompiledCall(keras.Model):
    """A model whose call is a function of the program's own, traced once for all train functions."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2, name="dense")

    @tf.function
    def call(self, inputs, training=None):
        return self.dense(inputs, training=training)


def test_in_a_function_of_the_program_probes_go_on_counting_calls():
    model = CompiledCall()
    model(X)
    compiled(model, Probe(every=3), jit_compile=False)
    fit(model, ProbeSteps(), epochs=2)
    assert set(calls(model).values()) == {4}
    fit(model)
    assert set(calls(model).values()) == {6}


def test_a_train_step_of_the_models_own_is_put_back():
    model = compiled(network(), Probe("outputs", every=3))
    own, steps = model.train_step, []

    def train_step(data):
        steps.append(data)
        return own(data)

    model.train_step = train_step
    fit(model, ProbeSteps())
    assert len(steps) == 2
    assert model.train_step is train_step
    assert set(calls(model).values()) == {2}
    other = compiled(network(), Probe())
    fit(other, ProbeSteps())
    assert "train_step" not in vars(other)


class Branching(keras.Model):
    """A model whose layer is called in a branch."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2, name="dense")

    def call(self, inputs, training=None):
        def branch():
            return self.dense(inputs, training=training)

        return keras.ops.cond(keras.ops.sum(inputs) > -1e9, branch, lambda: 2 * branch())


@pytest.mark.parametrize("how", HOW, ids=str)
def test_a_layer_in_a_branch_is_measured_in_the_same_steps(how):
    model = Branching()
    model(X)
    compiled(model, Probe(every=4, sample=None), **how)
    dense = model.dense
    kernel, bias = np.array(dense.kernel), np.array(dense.bias)
    fit(model, ProbeSteps())
    found = by_name(model)
    must_be(found["dense/outputs"], *(X[at : at + 4] @ kernel + bias for at in (0, 16)))
    gradients = [X[at : at + 4].T @ ((X[at : at + 4] @ kernel + bias - Y[at : at + 4]) / 4) for at in (0, 16)]
    must_be(found["dense/kernel_gradients"], *gradients)


class Again(keras.Model):
    """A model whose layer is computed again for its gradient."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2, name="dense")

    def call(self, inputs, training=None):
        return keras.remat(lambda values: self.dense(values, training=training))(inputs)


@pytest.mark.parametrize("how", HOW, ids=str)
def test_a_layer_that_is_computed_again_for_its_gradient_counts_twice(how):
    model = Again()
    model(X)
    compiled(model, Probe("outputs", every=3), **how)
    fit(model, ProbeSteps())
    assert set(calls(model).values()) == {2 * 2}


def test_each_epoch_of_tensorboard_is_of_its_own_steps(tmp_path):
    model = compiled(network(), Probe("outputs", every=5, log=["outputs/maximum"]))
    history = fit(model, TensorBoardWriter(tmp_path), ProbeSteps(), epochs=3, batch_size=8).history
    assert set(calls(model).values()) == {1}
    events = EventAccumulator(str(tmp_path), {TENSORS: 0})
    events.Reload()
    assert [each.step for each in events.Tensors("hidden/outputs/maximum")] == [0, 1, 2]
    assert history["hidden/outputs_maximum"][-1] == pytest.approx(by_name(model)["hidden/outputs"].maximum)


class At(keras.callbacks.Callback):
    """Do something to the model after a batch."""

    def __init__(self, batch, act):
        super().__init__()
        self.batch, self.act = batch, act

    def on_train_batch_end(self, batch, logs=None):
        if batch == self.batch:
            self.act(self.model)


def interrupt(model):
    raise KeyboardInterrupt


def test_an_exception_of_a_step_leaves_the_train_function_of_keras():
    model = compiled(network(), Probe("outputs", every=2), NaNGuard(raises=True), jit_compile=False)
    fit(model)
    plain, before = model.train_function, calls(model)["head/probe/outputs"]
    broken = np.where(np.arange(24)[:, None] == 6, np.nan, Y)  # in the second batch
    with pytest.raises(tf.errors.InvalidArgumentError, match="not finite"):
        model.fit(X, broken, batch_size=4, shuffle=False, verbose=0, callbacks=[ProbeSteps()])
    assert model.train_function is plain
    fit(model, ProbeSteps())
    assert calls(model)["head/probe/outputs"] == before + 1 + 3


def test_after_a_fit_that_ended_between_two_steps_the_next_is_as_any():
    model = compiled(telling(), Probe("outputs", every=2))
    with pytest.raises(KeyboardInterrupt):
        fit(model, ProbeSteps(), At(2, interrupt))
    assert set(calls(model).values()) == {2}
    fit(model)  # goes on as that one
    assert len(model.steps) == 2
    callback = ProbeSteps()
    before = calls(model)["hidden/probe/outputs"]
    fit(model, callback)
    assert set(calls(model).values()) == {before + 3}
    plain = model.train_function
    fit(model, callback)
    assert model.train_function is plain
    model.train_on_batch(X, Y)
    assert set(calls(model).values()) == {before + 3 + 3 + 1}


def test_probes_that_a_callback_takes_off_are_gone_in_the_next_epoch():
    model = compiled(network(), Probe("outputs", every=2))

    class TakeOff(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                kwrap.unwrap_model(self.model)

    history = fit(model, ProbeSteps(), TakeOff(), epochs=3).history
    assert len(history["loss"]) == 3
    assert [type(layer) for layer in model.layers] == [keras.layers.Dense] * 2
    fit(model)


def test_a_callback_that_keeps_the_train_function_over_an_epoch_leaves_nothing_of_it():
    class Timed(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            kept = self.kept = self.model.train_function
            self.model.train_function = lambda iterator: kept(iterator)

        def on_epoch_end(self, epoch, logs=None):
            self.model.train_function = self.kept

    model = compiled(network(), Probe("outputs", every=2))
    model.make_train_function()
    plain = model.train_function
    fit(model, ProbeSteps(), Timed(), epochs=2)
    assert set(calls(model).values()) == {2 * 3}
    assert model.train_function is plain


class OwnFunction(keras.Sequential):
    """A model that makes its train function, whether one is there or not."""

    def make_train_function(self):
        if self.train_function is None:
            step = tf.function(self.train_step)
            self.train_function = lambda iterator: step(next(iterator))


def test_a_train_function_of_the_models_own_is_traced_for_both():
    model = compiled(OwnFunction(network().layers), Probe("outputs", every=4))
    fit(model, ProbeSteps(), epochs=2)
    assert set(calls(model).values()) == {2 * 2}


def test_what_another_callback_makes_of_the_train_function_is_used_and_kept():
    model = compiled(telling(), Probe("outputs", every=2))
    made = []

    def remake(model):
        model.make_train_function(force=True)
        made.append(model.train_function)

    fit(model, ProbeSteps(), At(3, remake), epochs=1)
    assert model.train_function is made[0]
    assert len(model.steps) == 3  # a measured one and another, and the new one, which asks at each call
    assert "If" in model.steps[2]
    fit(model, ProbeSteps())
    assert model.train_function is made[0]


def test_a_model_without_probes_is_an_error_before_any_step():
    model = compiled(network(), NaNGuard(), rate=0.1)
    before = model.get_weights()
    with pytest.raises(AbsentHookError, match="nan_guard"):
        fit(model, ProbeSteps())
    np.testing.assert_equal(model.get_weights(), before)
