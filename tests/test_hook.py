"""What a hook may do, method by method, on layers and models of Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kwrap
from kwrap import errors

DATA = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
TARGETS = np.random.default_rng(1).normal(size=(8, 4)).astype("float32")


@kwrap.hook(layer_type=keras.Layer)
def hook_scale(call_next, inputs, *, factor=2.0):
    """Scale the inputs."""
    return call_next(inputs * factor)


@kwrap.hook(layer_type=keras.Layer)
class HookHalve(kwrap.Hook):
    def parametrize(self, target, value):
        return value * 0.5


@kwrap.hook(layer_type=keras.Layer)
class HookShift(kwrap.Hook):
    def __init__(self, amount=1.0, **kwargs):
        super().__init__(**kwargs)
        self.amount = amount

    def parametrize(self, target, value, *, training):
        return value + self.amount


@kwrap.hook(layer_type=keras.Layer)
class HookRecord(kwrap.Hook):
    """Keeps what it is given, by method."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seen = []

    def build(self, layer):
        self.seen.append(("build", layer.built, self.path))

    def initialize(self, layer):
        self.seen.append(("initialize", layer.kernel.numpy().sum()))

    def parametrize(self, target, value, *, training):
        self.seen.append(("parametrize", target.name, training, value.dtype))
        return value


@kwrap.hook(layer_type=keras.Layer)
class HookStep(kwrap.Hook):
    """Adds step + 1 to the weight after an update; keeps the steps that were no update."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.projections = []

    def constrain(self, target, value, *, step):
        if step is None:
            self.projections.append(target.name)
            return value
        return value + keras.ops.cast(step + 1, value.dtype)


@kwrap.hook(layer_type=keras.Layer)
class HookClip(kwrap.Hook):
    def constrain(self, target, value):
        return keras.ops.clip(value, -0.1, 0.1)


@kwrap.hook(layer_type=keras.Layer)
class HookAnyKeywords(kwrap.Hook):
    def constrain(self, target, value, **kwargs):
        return value if kwargs["step"] is None else keras.ops.zeros_like(value)


@kwrap.hook(layer_type=keras.Layer)
class HookMean(kwrap.Hook):
    """Keeps the mean of the trained kernel, and a moving one of what it sees in training."""

    def build(self, layer):
        for target in self.target_weights:
            self.add_state(target, "mean")
            self.add_state(target, "count", dtype="int32", initializer="ones")

    def initialize(self, layer):
        for target in self.target_weights:
            self.state(target, "mean").assign(keras.ops.mean(target.variable))

    def parametrize(self, target, value, *, training):
        if training:
            self.state(target, "count").assign_add(1)
        return value - self.state(target, "mean")


@kwrap.hook(layer_type=keras.Layer)
class HookGain(kwrap.Hook):
    """Trains a gain of its own beside a frozen weight."""

    freezes = True

    def build(self, layer):
        self.gain = self.add_weight(shape=(), initializer="ones", name="gain")

    def call(self, call_next, inputs):
        return call_next(inputs) * self.gain


@keras.saving.register_keras_serializable("kwrap-tests")
def biases(target):
    return target.name == "bias"


def dense(units: int = 4, **kwargs) -> keras.layers.Dense:
    layer = keras.layers.Dense(units, bias_initializer="normal", **kwargs)
    layer.build((None, 3))
    return layer


def model(*layers: keras.Layer, optimizer: object = None, **kwargs) -> keras.Model:
    built = keras.Sequential([keras.Input((3,)), *(layers or [dense()])])
    built.compile(optimizer or keras.optimizers.SGD(0.1), loss="mse", **kwargs)
    return built


def hooks_on(wrapped: keras.Model, name: str) -> list[kwrap.Hook]:
    return [hook for _, hook in kwrap.find_hooks(wrapped, name)]


def layer_of(wrapped: keras.Model) -> keras.Layer:
    return wrapped.layers[-1]


# --- definition ------------------------------------------------------------------------------------------------------


def definition_error(define) -> errors.HookDefinitionError:
    with pytest.raises(errors.HookDefinitionError) as caught:
        define()
    return caught.value


def test_a_call_without_call_next_is_an_error_that_shows_the_signature():
    def define():
        class Broken(kwrap.Hook):
            def call(self, inputs, training):
                return inputs

    error = definition_error(define)
    assert error.hook == "broken"
    assert "call(self, inputs, training) has to take `call_next` first" in str(error)
    assert isinstance(error, TypeError)


def test_a_call_argument_in_the_place_of_the_inputs_is_an_error():
    def of_class():
        class Broken(kwrap.Hook):
            def call(self, call_next, training, inputs):
                return call_next(inputs)

    @kwrap.hook(layer_type=keras.Layer)
    def fine(call_next, *, training):
        return call_next()

    def broken(call_next, mask=None):
        return call_next()

    for define, name in ((of_class, "training"), (lambda: kwrap.hook(layer_type=keras.Layer)(broken), "mask")):
        error = definition_error(define)
        assert error.hook == "broken"
        assert f"name these first, as in (call_next, inputs, {name})" in str(error)


@pytest.mark.parametrize("option", ["path", "state", "dtype", "build", "losses", "initialized", "_layer"])
def test_an_option_with_a_name_of_the_hooks_own_is_an_error(option):
    init = {}
    exec(f"def init(self, *, {option}=None, **kwargs): ...", init)
    exec(f"def broken(call_next, inputs, *, {option}=None): ...", init)
    for define in (
        lambda: type("Broken", (kwrap.Hook,), {"__init__": init["init"]}),
        lambda: kwrap.hook(layer_type=keras.Layer)(init["broken"]),
    ):
        error = definition_error(define)
        assert error.hook == "broken"
        assert f"has {option!r} of its own" in str(error)


def test_a_class_may_take_the_options_of_every_hook_by_name():
    class Named(kwrap.Hook):
        def __init__(self, name="mine", phase="training", targets=None, **state):
            super().__init__(name=name, phase=phase, targets=targets, **state)

    assert (Named().name, Named().phase) == ("mine", "training")


def test_an_init_that_takes_any_number_of_options_by_position_is_an_error():
    def define():
        class Broken(kwrap.Hook):
            def __init__(self, *rates):
                super().__init__()

    assert "*rates" in str(definition_error(define))


def test_a_hook_that_is_not_registered_cannot_go_on_a_layer():
    class Bare(kwrap.Hook):
        pass

    class Heir(HookHalve):
        pass

    for hook_class in (Bare, Heir):
        error = definition_error(lambda hook_class=hook_class: kwrap.Wrapper(dense(), [hook_class()]))
        assert "@kwrap.hook(layer_type=...)" in str(error)


def test_a_hook_is_not_called_itself():
    with pytest.raises(errors.WrapperStateError, match="'hook_halve' is not called itself"):
        HookHalve()(DATA)


def test_a_hook_overrides_what_its_class_or_a_parent_of_it_defines():
    class Heir(HookHalve):
        def merge(self, target, value):
            return value

    methods = ("call", "parametrize", "constrain", "merge")
    assert [Heir.overrides(method) for method in methods] == [False, True, False, True]
    assert [hook_scale.overrides(method) for method in methods] == [True, False, False, False]


def test_the_repr_shows_the_options():
    assert (
        repr(HookShift(2.0, phase="training")) == "<hook_shift hook: amount=2.0, name='hook_shift', phase='training'>"
    )


def test_a_rule_is_a_frozen_pair_of_hook_and_place():
    hook = HookHalve()
    rule = hook.at("block_*", exclude=keras.layers.Conv2D)
    assert (rule.hook, rule.where, rule.exclude) == (hook, "block_*", keras.layers.Conv2D)
    assert str(rule) == f"'hook_halve' at where='block_*', exclude={keras.layers.Conv2D!r}"
    with pytest.raises(AttributeError):
        rule.where = "other"


# --- parametrize -----------------------------------------------------------------------------------------------------


def test_parametrize_gives_the_value_that_the_layer_reads():
    layer = dense()
    kernel, bias = (variable.numpy() for variable in layer.variables)
    wrapped = kwrap.Wrapper(layer, [HookHalve()])
    np.testing.assert_allclose(wrapped(DATA), DATA @ (kernel * 0.5) + bias, rtol=1e-6)
    np.testing.assert_array_equal(layer.kernel.numpy(), kernel)


def test_gradients_flow_through_parametrize_to_the_stored_value():
    layer = dense()
    wrapped = kwrap.Wrapper(layer, [HookHalve()])
    with tf.GradientTape() as tape:
        loss = keras.ops.sum(wrapped(DATA))
    gradient = tape.gradient(loss, layer.kernel.value)
    expected = 0.5 * np.repeat(DATA.sum(axis=0)[:, None], 4, axis=1)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


def test_parametrize_runs_in_list_order():
    layer = dense(use_bias=False)
    kernel = layer.kernel.numpy()
    halved_first = kwrap.Wrapper(layer, [HookHalve(), HookShift()])
    np.testing.assert_allclose(halved_first(DATA), DATA @ (kernel * 0.5 + 1), rtol=1e-5, atol=1e-6)
    shifted_first = kwrap.Wrapper(layer, [HookShift(), HookHalve()])
    np.testing.assert_allclose(shifted_first(DATA), DATA @ ((kernel + 1) * 0.5), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_parametrize_sees_the_value_in_the_variables_own_dtype_under_mixed_precision(policy):
    layer = dense(dtype=policy)
    record = HookRecord()
    outputs = kwrap.Wrapper(layer, [record])(DATA)
    assert ("parametrize", "kernel", False, tf.float32) in record.seen
    assert outputs.dtype == policy.removeprefix("mixed_")
    np.testing.assert_array_equal(keras.ops.cast(outputs, "float32"), keras.ops.cast(layer(DATA), "float32"))


def test_parametrize_is_told_whether_it_is_training_also_for_a_layer_without_the_argument():
    class Plain(keras.layers.Dense):
        def call(self, inputs):
            return inputs @ self.kernel

    wrapped = model(Plain(4, use_bias=False))
    kwrap.wrap_model(wrapped, HookRecord)
    (record,) = hooks_on(wrapped, "hook_record")
    for run, expected in (
        (lambda: wrapped.predict(DATA, verbose=0), {False}),
        (lambda: wrapped.train_on_batch(DATA, TARGETS), {True}),
        (lambda: wrapped(DATA, training=True), {True}),
        (lambda: wrapped(DATA), {False}),
    ):
        record.seen.clear()
        run()
        told = [seen[2] for seen in record.seen if seen[0] == "parametrize"]
        assert (set(told), {type(training) for training in told}) == (expected, {bool})


@pytest.mark.parametrize(
    ("phase", "in_training", "in_inference"), [("always", 1, 1), ("training", 1, 0), ("inference", 0, 1)]
)
def test_phase_says_when_parametrize_acts(phase, in_training, in_inference):
    layer = dense(use_bias=False)
    wrapped = kwrap.Wrapper(layer, [HookShift(phase=phase)])
    kernel = layer.kernel.numpy()
    for training, shift in ((True, in_training), (False, in_inference)):
        np.testing.assert_allclose(wrapped(DATA, training=training), DATA @ (kernel + shift), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        (lambda value: value[0], "'float32', (4,)"),
        (lambda value: keras.ops.cast(value, "float16"), "'float16', (3, 4)"),
    ],
)
def test_a_value_of_another_shape_or_dtype_is_an_error(broken, text):
    @kwrap.hook(layer_type=keras.Layer)
    class Misshapen(kwrap.Hook):
        def parametrize(self, target, value):
            return broken(value)

    wrapped = kwrap.Wrapper(dense(), [Misshapen()])
    with pytest.raises(errors.HookCallError, match="misshapen") as caught:
        wrapped(DATA)
    assert caught.value.during == "parametrize"
    assert text in str(caught.value)
    assert "'kernel'" in str(caught.value)


# --- constrain -------------------------------------------------------------------------------------------------------


def test_constrain_gives_the_value_that_is_stored_after_each_update():
    wrapped, reference = model(), model()
    reference.set_weights(wrapped.get_weights())
    kwrap.wrap_model(wrapped, HookClip)
    layer_of(reference).kernel.assign(np.clip(layer_of(reference).kernel, -0.1, 0.1))
    for _ in range(3):
        wrapped.train_on_batch(DATA, TARGETS)
        reference.train_on_batch(DATA, TARGETS)
        layer_of(reference).kernel.assign(np.clip(layer_of(reference).kernel, -0.1, 0.1))
    np.testing.assert_allclose(layer_of(wrapped).kernel.numpy(), layer_of(reference).kernel.numpy(), rtol=1e-5)
    np.testing.assert_allclose(layer_of(wrapped).bias.numpy(), layer_of(reference).bias.numpy(), rtol=1e-5)


def test_constrain_runs_once_when_attached():
    wrapped = model()
    kernel = layer_of(wrapped).kernel.numpy()
    kwrap.wrap_model(wrapped, HookClip)
    np.testing.assert_array_equal(layer_of(wrapped).kernel.numpy(), np.clip(kernel, -0.1, 0.1))


def test_constrain_runs_before_saving_and_on_unwrapping(tmp_path):
    wrapped = model()
    kwrap.wrap_model(wrapped, HookClip)
    layer_of(wrapped).kernel.assign(np.full((3, 4), 7.0))  # Keras constrains no assigned value.
    wrapped.save_weights(tmp_path / "clipped.weights.h5")
    assert layer_of(wrapped).kernel.numpy().max() == np.float32(0.1)
    layer_of(wrapped).kernel.assign(np.full((3, 4), 7.0))
    kwrap.unwrap_model(wrapped)
    assert layer_of(wrapped).kernel.numpy().max() == np.float32(0.1)


def test_step_counts_the_optimizers_calls_from_zero():
    wrapped = model(dense(use_bias=False), optimizer=keras.optimizers.SGD(0.0))
    kernel = layer_of(wrapped).kernel.numpy()
    kwrap.wrap_model(wrapped, HookStep)
    wrapped.fit(DATA, TARGETS, batch_size=4, epochs=2, verbose=0)  # 4 updates
    np.testing.assert_allclose(layer_of(wrapped).kernel.numpy(), kernel + 1 + 2 + 3 + 4, rtol=1e-6)


def test_step_is_one_int32_counter_a_target_that_only_updates_advance():
    wrapped = model()
    kwrap.wrap_model(wrapped, HookStep(targets=["kernel", "bias"]))
    (hook,) = hooks_on(wrapped, "hook_step")
    assert [(variable.dtype, tuple(variable.shape)) for variable in hook.variables] == [("int32", ())] * 2
    wrapped.train_on_batch(DATA, TARGETS)
    wrapped.get_layer(index=-1).finish_loading()
    assert [int(variable) for variable in hook.variables] == [1, 1]
    assert hook.projections == ["kernel", "bias"]


def test_a_projection_that_is_no_update_leaves_the_step_and_the_users_own_constraint_alone(tmp_path):
    calls = []

    class Own(keras.constraints.Constraint):
        def __call__(self, value):
            calls.append("own")
            return value

    wrapped = model(dense(kernel_constraint=Own()))
    kwrap.wrap_model(wrapped, HookStep)
    (hook,) = hooks_on(wrapped, "hook_step")
    wrapped.save_weights(tmp_path / "steps.weights.h5")
    assert calls == []
    assert hook.projections == ["kernel", "kernel"]  # attached, saved
    assert int(hook.state(hook.target_weights[0], "step")) == 0
    wrapped.train_on_batch(DATA, TARGETS)
    assert len(calls) > 0
    assert int(hook.state(hook.target_weights[0], "step")) == 1


def test_the_users_own_constraint_runs_before_the_hooks():
    wrapped = model(dense(kernel_constraint=lambda value: value * 0 + 5.0), optimizer=keras.optimizers.SGD(0.0))
    kwrap.wrap_model(wrapped, HookStep)
    wrapped.train_on_batch(DATA, TARGETS)
    np.testing.assert_array_equal(layer_of(wrapped).kernel.numpy(), np.full((3, 4), 6.0))


def test_a_hook_that_does_not_name_step_gets_no_variable():
    wrapped = kwrap.Wrapper(dense(), [HookClip()])
    assert wrapped.hooks[0].variables == []


def test_a_hook_that_takes_any_keyword_is_given_the_step():
    wrapped = model()
    kwrap.wrap_model(wrapped, HookAnyKeywords)
    wrapped.train_on_batch(DATA, TARGETS)
    np.testing.assert_array_equal(layer_of(wrapped).kernel.numpy(), np.zeros((3, 4)))


def test_the_step_is_saved_and_loaded(tmp_path):
    wrapped = model()
    kwrap.wrap_model(wrapped, HookStep)
    for _ in range(3):
        wrapped.train_on_batch(DATA, TARGETS)
    wrapped.save(tmp_path / "steps.keras")
    (loaded,) = hooks_on(keras.models.load_model(tmp_path / "steps.keras"), "hook_step")
    assert [int(variable) for variable in loaded.variables] == [3]


# --- state: build, add_state, initialize -----------------------------------------------------------------------------


def test_build_is_called_once_with_the_built_layer_and_the_path_known():
    record = HookRecord()
    wrapped = kwrap.Wrapper(keras.layers.Dense(4), [record], path="encoder/out")
    wrapped(DATA)
    wrapped(DATA)
    assert [seen for seen in record.seen if seen[0] == "build"] == [("build", True, "encoder/out")]


def test_initialize_sees_the_trained_weights_once():
    layer = dense()
    record = HookRecord()
    wrapped = kwrap.Wrapper(layer, [record])
    layer.kernel.assign(np.ones((3, 4)))
    wrapped(DATA)
    wrapped(DATA)
    assert [seen for seen in record.seen if seen[0] == "initialize"] == [("initialize", 12.0)]


def test_state_is_not_trainable_and_has_the_dtype_and_aggregation_of_its_kind():
    @kwrap.hook(layer_type=keras.Layer)
    class States(kwrap.Hook):
        def build(self, layer):
            (target,) = self.target_weights
            self.add_state(target, "own")
            self.add_state(target, "half", (2, 3), dtype="float16")
            self.add_state(target, "mask", (2,), dtype="bool")
            self.add_state(target, "count", dtype="int64", initializer="ones")
            self.add_state(target, "sum", aggregation="sum")

    (hook,) = kwrap.Wrapper(dense(dtype="mixed_float16"), [States()]).hooks
    target = hook.target_weights[0]
    found = {
        name: (variable.dtype, tuple(variable.shape), variable.aggregation, variable.trainable)
        for name in ("own", "half", "mask", "count", "sum")
        for variable in [hook.state(target, name)]
    }
    assert found == {
        "own": ("float32", (), "mean", False),
        "half": ("float16", (2, 3), "mean", False),
        "mask": ("bool", (2,), "only_first_replica", False),
        "count": ("int64", (), "only_first_replica", False),
        "sum": ("float32", (), "sum", False),
    }
    assert int(hook.state(target, "count")) == 1
    assert [variable.name for variable in hook.variables][:2] == ["kernel_own", "kernel_half"]


def test_a_hooks_variables_are_float32_whatever_the_global_policy():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float16")
    try:
        (hook,) = kwrap.Wrapper(dense(), [HookGain()]).hooks
    finally:
        keras.config.set_dtype_policy(before)
    assert hook.gain.dtype == "float32"


def test_state_that_is_not_there_is_an_error_with_the_names_that_are():
    (hook,) = kwrap.Wrapper(dense(), [HookMean()]).hooks
    with pytest.raises(LookupError, match=r"no state 'median' for target 'kernel': 'count', 'mean'"):
        hook.state(hook.target_weights[0], "median")


def test_a_state_of_a_name_that_is_taken_is_an_error():
    @kwrap.hook(layer_type=keras.Layer)
    class Twice(kwrap.Hook):
        def build(self, layer):
            for target in self.target_weights:
                self.add_state(target, "step")
                self.add_state(target, "step")

    error = definition_error(lambda: kwrap.Wrapper(dense(), [Twice()]))
    assert error.hook == "twice"
    assert "the state 'step' of target 'kernel' is there already; choose another name" in str(error)


def test_a_state_of_the_name_of_the_step_counter_is_an_error_that_says_whose_it_is():
    @kwrap.hook(layer_type=keras.Layer)
    class Counts(HookStep):
        def build(self, layer):
            self.add_state(self.target_weights[0], "step", dtype="int32")

    error = definition_error(lambda: kwrap.Wrapper(dense(), [Counts()]))
    assert error.hook == "counts"
    assert "the state 'step' of target 'kernel' is kwrap's counter" in str(error)
    assert "choose another name" in str(error)


def test_state_may_be_assigned_in_training_and_is_kept_for_each_target():
    wrapped = model()
    kwrap.wrap_model(wrapped, HookMean(targets=["kernel", "bias"]))
    (hook,) = hooks_on(wrapped, "hook_mean")
    wrapped.fit(DATA, TARGETS, batch_size=2, verbose=0)  # 4 steps
    wrapped.predict(DATA, verbose=0)
    assert [int(hook.state(target, "count")) for target in hook.target_weights] == [5, 5]


def test_a_hooks_variables_lie_below_the_layers_path_and_never_hold_the_layers():
    wrapped = kwrap.Wrapper(dense(name="fc"), [HookMean()])
    assert [variable.path for variable in wrapped.hooks[0].variables] == [
        "fc/hook_mean/kernel_mean",
        "fc/hook_mean/kernel_count",
    ]
    wrapped.hooks[0].trainable = False
    assert wrapped.layer.kernel.trainable


def test_state_is_loaded_and_not_initialized_again(tmp_path):
    wrapped = model()
    kwrap.wrap_model(wrapped, HookMean)
    (hook,) = hooks_on(wrapped, "hook_mean")
    hook.state(hook.target_weights[0], "mean").assign(0.75)
    expected = wrapped.predict(DATA, verbose=0)
    wrapped.save(tmp_path / "mean.keras")
    loaded = keras.models.load_model(tmp_path / "mean.keras")
    np.testing.assert_array_equal(loaded.predict(DATA, verbose=0), expected)
    (again,) = hooks_on(loaded, "hook_mean")
    assert float(again.state(again.target_weights[0], "mean")) == 0.75


@pytest.mark.filterwarnings("ignore:You are saving a model that has not yet been built")
def test_a_hook_that_was_saved_before_it_was_on_a_built_layer_is_initialized_after_loading(tmp_path):
    keras.Sequential([kwrap.Wrapper(keras.layers.Dense(4), [HookMean()])]).save(tmp_path / "unbuilt.keras")
    loaded = keras.models.load_model(tmp_path / "unbuilt.keras")
    outputs = loaded(DATA)
    (hook,) = hooks_on(loaded, "hook_mean")
    kernel = hook.target_weights[0].variable.numpy()
    np.testing.assert_allclose(outputs, DATA @ (kernel - kernel.mean()), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("traced", [False, True], ids=["untraced", "after predict was traced"])
def test_initialize_runs_again_when_weights_of_a_plain_file_were_loaded(tmp_path, traced):
    plain = model(dense(use_bias=False))
    plain.save_weights(tmp_path / "plain.weights.h5")
    wrapped = model(dense(use_bias=False))
    kwrap.wrap_model(wrapped, HookMean)
    if traced:
        wrapped.predict(DATA, verbose=0)
    wrapped.load_weights(tmp_path / "plain.weights.h5")
    kernel = layer_of(plain).kernel.numpy()
    np.testing.assert_allclose(wrapped.predict(DATA, verbose=0), DATA @ (kernel - kernel.mean()), rtol=1e-4, atol=1e-6)


def test_losses_and_seeds_of_a_hook_are_its_models():
    @kwrap.hook(layer_type=keras.Layer)
    class Penalty(kwrap.Hook):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.seed = keras.random.SeedGenerator(3)

        def call(self, call_next, inputs):
            self.add_loss(0.5 * keras.ops.sum(inputs))
            return call_next(inputs)

    wrapped = model()
    kwrap.wrap_model(wrapped, Penalty)
    wrapped(DATA)
    assert [float(loss) for loss in wrapped.losses] == pytest.approx([0.5 * DATA.sum()], rel=1e-5)
    assert hooks_on(wrapped, "penalty")[0].seed.state in wrapped.non_trainable_variables + wrapped.variables


# --- targets ---------------------------------------------------------------------------------------------------------


def targets_on(layer: keras.Layer, targets: object) -> list[str]:
    (hook,) = kwrap.Wrapper(layer, [HookShift(targets=targets)]).hooks
    return [target.name for target in hook.target_weights]


def test_a_hooks_targets_are_kernels_and_embeddings_unless_it_names_others():
    embedding = keras.layers.Embedding(5, 2)
    embedding.build()
    norm = keras.layers.BatchNormalization()
    norm.build((None, 3))
    assert targets_on(dense(), None) == ["kernel"]
    assert targets_on(embedding, None) == ["embeddings"]
    assert targets_on(norm, None) == []
    assert targets_on(norm, "gamma") == ["gamma"]
    assert targets_on(dense(), ["bias", "kernel"]) == ["bias", "kernel"]
    assert targets_on(dense(), biases) == ["bias"]


def test_only_the_targets_are_changed():
    layer = dense()
    kernel, bias = (variable.numpy() for variable in layer.variables)
    wrapped = kwrap.Wrapper(layer, [HookShift(targets="bias")])
    np.testing.assert_allclose(wrapped(DATA), DATA @ kernel + bias + 1, rtol=1e-5, atol=1e-6)


def test_a_target_that_the_layer_has_not_is_an_error_with_those_it_has():
    wrapped = model()
    with pytest.raises(
        errors.TargetError, match=r"'hook_shift' at '\w+': no weight is named 'kernle'.*'kernel', 'bias'"
    ):
        kwrap.wrap_model(wrapped, HookShift(targets="kernle"))
    assert type(layer_of(wrapped)) is keras.layers.Dense


def test_targets_that_are_neither_names_nor_a_function_are_refused():
    with pytest.raises(errors.OptionValueError, match=r"^hook_shift: targets=3 is no weight's name, nor several"):
        HookShift(targets=3)


def test_a_weight_that_two_hooks_change_is_one_value_and_others_stay_apart():
    layer = dense()
    kernel, bias = (variable.numpy() for variable in layer.variables)
    hooks = [HookShift(targets=["kernel", "bias"]), HookHalve(targets="kernel")]
    np.testing.assert_allclose(
        kwrap.Wrapper(layer, hooks)(DATA), DATA @ ((kernel + 1) * 0.5) + bias + 1, rtol=1e-5, atol=1e-6
    )


# --- merge, freezes, path --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("phase", "factor"), [("always", 0.5), ("inference", 0.5), ("training", 1.0)])
def test_unwrapping_leaves_the_value_of_inference_by_default(phase, factor):
    wrapped = model()
    kernel = layer_of(wrapped).kernel.numpy()
    kwrap.unwrap_model(kwrap.wrap_model(wrapped, HookHalve(phase=phase)))
    np.testing.assert_array_equal(layer_of(wrapped).kernel.numpy(), kernel * np.float32(factor))


def test_merge_says_what_unwrapping_leaves_and_the_default_asks_parametrize_outside_training():
    asked = []

    @kwrap.hook(layer_type=keras.Layer)
    class Merged(kwrap.Hook):
        def parametrize(self, target, value, *, training):
            asked.append(training)
            return value

        def merge(self, target, value):
            return super().merge(target, value) + 3.0

    wrapped = model()
    kernel = layer_of(wrapped).kernel.numpy()
    kwrap.wrap_model(wrapped, Merged)
    asked.clear()
    kwrap.unwrap_model(wrapped)
    np.testing.assert_array_equal(layer_of(wrapped).kernel.numpy(), kernel + np.float32(3.0))
    assert asked == [False]


def test_a_hook_that_freezes_stops_the_training_of_its_targets_until_it_is_taken_off():
    wrapped = model()
    kernel, bias = (variable.numpy() for variable in layer_of(wrapped).variables)
    kwrap.wrap_model(wrapped, HookGain)
    wrapped.fit(DATA, TARGETS, epochs=2, verbose=0)
    np.testing.assert_array_equal(layer_of(wrapped).kernel.numpy(), kernel)
    assert not np.array_equal(layer_of(wrapped).bias.numpy(), bias)
    assert float(hooks_on(wrapped, "hook_gain")[0].gain) != 1.0
    kwrap.unwrap_model(wrapped)
    assert [variable.name for variable in wrapped.trainable_variables] == ["kernel", "bias"]


def test_making_the_model_trainable_again_does_not_thaw_what_a_hook_freezes():
    wrapped = model()
    kwrap.wrap_model(wrapped, HookGain)
    wrapped.trainable = False
    assert wrapped.trainable_variables == []
    wrapped.trainable = True
    assert [variable.name for variable in wrapped.trainable_variables] == ["bias", "gain"]


def test_what_a_hook_freezes_in_a_frozen_layer_stays_frozen_when_the_layer_is_trained_and_comes_back_after():
    layer = dense()
    layer.trainable = False
    wrapped = kwrap.wrap_model(model(layer), HookGain)
    assert [variable.name for variable in wrapped.trainable_variables] == ["gain"]
    layer_of(wrapped).trainable = True
    assert [variable.name for variable in wrapped.trainable_variables] == ["bias", "gain"]
    kwrap.unwrap_model(wrapped)
    assert [variable.name for variable in wrapped.trainable_variables] == ["kernel", "bias"]


def test_a_frozen_layer_stays_frozen_after_a_hook_that_freezes():
    layer = dense()
    layer.trainable = False
    wrapped = kwrap.unwrap_model(kwrap.wrap_model(model(layer), HookGain))
    assert wrapped.trainable_variables == []
    assert not any(variable.trainable for variable in layer.variables)


def test_the_path_is_the_layers_place_in_the_model_and_none_before():
    inner = keras.Sequential([keras.Input((3,)), dense(name="query")], name="encoder")
    wrapped = keras.Sequential([keras.Input((3,)), inner])
    given = HookHalve()
    kwrap.wrap_model(wrapped, given)
    assert given.path is None
    assert [hook.path for hook in hooks_on(wrapped, "hook_halve")] == ["encoder/query"]


def test_one_instance_given_to_a_model_is_copied_for_each_layer():
    given = HookShift(3.0, name="mine")
    wrapped = kwrap.wrap_model(model(dense(5), keras.layers.Dense(4)), given)
    copies = hooks_on(wrapped, "mine")
    assert len({id(hook) for hook in [given, *copies]}) == 3
    assert [hook.get_config() for hook in copies] == [given.get_config()] * 2


def test_one_instance_on_two_layers_by_hand_is_an_error_that_names_the_first():
    hook = HookHalve()
    kwrap.Wrapper(dense(name="one"), [hook])
    with pytest.raises(errors.WrapperStateError, match="'hook_halve' is on 'one' already"):
        kwrap.Wrapper(dense(name="two"), [hook])
