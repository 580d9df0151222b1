import keras
import numpy as np
import pytest
from keras import layers

import kwrap
from kwrap.errors import HookCallError, WrapperStateError

X = np.arange(12, dtype="float32").reshape(4, 3) / 10
Y = np.ones((4, 2), "float32")
ONES = np.ones((3, 2), "float32")


class Counted(kwrap.Hook):
    """Keep what `constrain` and `parametrize` are given."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seen = []


@kwrap.hook(layer_type=layers.Layer, name="weights_step")
class Step(Counted):
    """Store the number of the update, and -1 where none was made."""

    def constrain(self, target, value, *, step):
        self.seen.append(step)
        number = -1 if step is None else keras.ops.cast(step, value.dtype)
        return keras.ops.ones_like(value) * number


@kwrap.hook(layer_type=layers.Layer, name="weights_any_keyword")
class AnyKeyword(kwrap.Hook):
    def constrain(self, target, value, **kwargs):
        return value + (0 if kwargs["step"] is None else 1)


@kwrap.hook(layer_type=layers.Layer, name="weights_no_step")
class NoStep(kwrap.Hook):
    def constrain(self, target, value):
        return value


@kwrap.hook(layer_type=layers.Layer, name="weights_plus")
class Plus(kwrap.Hook):
    def parametrize(self, target, value):
        return value + 1


@kwrap.hook(layer_type=layers.Layer, name="weights_times")
class Times(kwrap.Hook):
    def parametrize(self, target, value, *, training):
        return value * 2


@kwrap.hook(layer_type=layers.Layer, name="weights_first_row")
class FirstRow(kwrap.Hook):
    """Hold the first row at zero, as stored and as read."""

    def parametrize(self, target, value):
        return value * np.float32([[0], [1], [1]])

    constrain = parametrize


@kwrap.hook(layer_type=layers.Layer, name="weights_mean")
class Mean(kwrap.Hook):
    """Add the mean of all rows."""

    def parametrize(self, target, value):
        return value + keras.ops.mean(value)


@kwrap.hook(layer_type=layers.Layer, name="weights_drawn")
class Drawn(kwrap.Hook):
    """Add noise, at inference too."""

    additive = True

    def build(self, layer):
        self.seed = keras.random.SeedGenerator(1)

    def parametrize(self, target, value):
        return value + keras.random.normal(value.shape, seed=self.seed)

    def merge(self, target, value):
        return value


@kwrap.hook(layer_type=layers.Layer, name="weights_add")
class Add(kwrap.Hook):
    """Add a number, whatever the weights are."""

    additive = True

    def __init__(self, amount=1.0, **kwargs):
        super().__init__(**kwargs)
        self.amount = amount

    def parametrize(self, target, value, *, training):
        return value + self.amount


@kwrap.hook(layer_type=layers.Layer, name="weights_by_phase")
class ByPhase(kwrap.Hook):
    """Read the weights in training, zeros in inference."""

    def parametrize(self, target, value, *, training):
        return value if training else value * 0


@kwrap.hook(layer_type=layers.Layer, name="weights_range")
class Range(kwrap.Hook):
    """Keep the largest magnitude that was read in training."""

    def build(self, layer):
        for target in self.target_weights:
            self.add_state(target, "largest")

    def parametrize(self, target, value, *, training):
        if training:
            largest = self.state(target, "largest")
            largest.assign(keras.ops.maximum(largest, keras.ops.max(keras.ops.abs(value))))
        return value


@kwrap.hook(layer_type=layers.Layer, name="weights_returns")
class Returns(kwrap.Hook):
    """Return what does not fit from one of the methods."""

    def __init__(self, method="parametrize", what="shape", **kwargs):
        super().__init__(**kwargs)
        self.method, self.what = method, what

    def _value(self, method, value):
        if method != self.method:
            return value
        return {
            "shape": lambda: value[:1],
            "dtype": lambda: keras.ops.cast(value, "float16"),
            "broadcast": lambda: keras.ops.ones(()),
            "none": lambda: None,
        }[self.what]()

    def parametrize(self, target, value):
        return self._value("parametrize", value)

    def constrain(self, target, value):
        return self._value("constrain", value)

    def merge(self, target, value):
        return self._value("merge", value)


@kwrap.hook(layer_type=layers.Layer, name="weights_adapter")
class Adapter(kwrap.Hook):
    """Freeze the targets, and train a difference."""

    freezes = True

    def build(self, layer):
        (target,) = self.target_weights
        self.difference = self.add_weight(target.shape, initializer="zeros", name="difference")

    def parametrize(self, target, value):
        return value + self.difference


def line(**options) -> keras.Sequential:
    """Return a compiled model of one linear Dense, of (n, 3) to (n, 2), its kernel all ones."""
    options = {"kernel_initializer": "ones", "name": "dense", **options}
    model = keras.Sequential([layers.Input((3,)), layers.Dense(2, **options)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def kernel_of(model: keras.Model) -> np.ndarray:
    return np.array(model.get_layer("dense").kernel)


def hook_of(model: keras.Model) -> kwrap.Hook:
    ((_, hook),) = kwrap.find_hooks(model)
    return hook


def trainable(model: keras.Model) -> list[str]:
    return [variable.name for variable in model.trainable_variables]


# --- as stored -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"run_eagerly": True}, {"jit_compile": True}], ids=["graph", "eager", "xla"])
def test_the_step_counts_the_optimizers_calls_from_zero(options):
    model = line()
    model.compile(keras.optimizers.SGD(0.1), "mse", **options)
    kwrap.wrap_model(model, Step())
    for step in range(3):
        model.train_on_batch(X, Y)
        np.testing.assert_array_equal(kernel_of(model), ONES * step)


def test_without_an_update_the_step_is_none_and_does_not_advance(tmp_path):
    model = kwrap.wrap_model(line(), Step())
    hook = hook_of(model)
    (target,) = hook.target_weights
    assert hook.seen == [None]
    np.testing.assert_array_equal(kernel_of(model), -ONES)
    model.train_on_batch(X, Y)
    del hook.seen[:]
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    assert set(hook.seen) == {None}
    assert int(hook.state(target, "step")) == 1
    model.train_on_batch(X, Y)
    np.testing.assert_array_equal(kernel_of(model), ONES)  # the second update
    kwrap.unwrap_model(model)
    np.testing.assert_array_equal(kernel_of(model), -ONES)


def test_the_step_is_saved_with_the_hook(tmp_path):
    model = kwrap.wrap_model(line(), Step())
    model.fit(X, Y, epochs=3, batch_size=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    loaded.train_on_batch(X, Y)
    np.testing.assert_array_equal(kernel_of(loaded), ONES * 6)


def test_there_is_one_int32_counter_a_target_for_hooks_that_name_step_and_no_variable_for_others():
    model = kwrap.wrap_model(line(), [Step(targets=["kernel", "bias"]), NoStep(), AnyKeyword()])
    hooks = {name: hook.variables for (_, hook) in kwrap.find_hooks(model) for name in [hook.name]}
    assert [(v.name, v.dtype, v.shape, v.trainable) for v in hooks["weights_step"]] == [
        ("kernel_step", "int32", (), False),
        ("bias_step", "int32", (), False),
    ]
    assert [variable.name for variable in hooks["weights_any_keyword"]] == ["kernel_step"]
    assert hooks["weights_no_step"] == []


def test_a_hook_with_any_keyword_gets_the_step_too():
    model = line(trainable=True)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    kwrap.wrap_model(model, AnyKeyword())
    np.testing.assert_array_equal(kernel_of(model), ONES)
    model.train_on_batch(X, Y)
    np.testing.assert_array_equal(kernel_of(model), ONES * 2)


def test_with_gradient_accumulation_every_call_of_the_optimizer_counts():
    model = line()
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=4), "mse")
    kwrap.wrap_model(model, Step())
    model.fit(X, Y, epochs=8, batch_size=4, verbose=0)
    hook = hook_of(model)
    assert int(hook.state(hook.target_weights[0], "step")) == 8


def test_a_step_that_loss_scaling_leaves_out_does_not_count():
    model = line()
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=2.0), "mse")
    kwrap.wrap_model(model, Step())
    hook = hook_of(model)
    for inputs, count in ((X, 1), (np.full_like(X, np.inf), 1), (X, 2)):
        model.train_on_batch(inputs, Y)
        assert int(hook.state(hook.target_weights[0], "step")) == count


def test_on_a_frozen_layer_the_step_stays():
    model = line()
    model.add(layers.Dense(2, name="last"))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.get_layer("dense").trainable = False
    kwrap.wrap_model(model, Step(), where="dense")
    model.train_on_batch(X, Y)
    hook = hook_of(model)
    assert int(hook.state(hook.target_weights[0], "step")) == 0


# --- as read ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hooks", "factor"), [([Plus(), Times()], 4), ([Times(), Plus()], 3)])
def test_hooks_act_in_list_order_on_what_the_one_before_gives(hooks, factor):
    model = kwrap.wrap_model(line(), hooks)
    np.testing.assert_allclose(model(X), X @ (ONES * factor), rtol=1e-6)
    np.testing.assert_array_equal(kernel_of(model), ONES)  # as stored
    kwrap.unwrap_model(model)
    np.testing.assert_array_equal(kernel_of(model), ONES * factor)


def test_each_hook_acts_on_its_own_targets():
    model = kwrap.wrap_model(line(), [Plus(targets=["bias", "kernel"]), Times(targets="kernel")])
    np.testing.assert_allclose(model(X), X @ (ONES * 4) + 1, rtol=1e-6)


def test_training_says_which_phase_it_is_in_calls_fit_and_predict():
    model = line()
    model.compile(keras.optimizers.SGD(0.0), "mse")
    kwrap.wrap_model(model, ByPhase())
    np.testing.assert_allclose(model(X, training=True), X @ ONES, rtol=1e-6)
    np.testing.assert_array_equal(model(X, training=False), np.zeros((4, 2)))
    np.testing.assert_array_equal(model(X), np.zeros((4, 2)))
    np.testing.assert_array_equal(model.predict(X, verbose=0), np.zeros((4, 2)))
    loss = model.train_on_batch(X, Y)
    np.testing.assert_allclose(loss, np.mean((X @ ONES - Y) ** 2), rtol=1e-6)
    np.testing.assert_allclose(model.test_on_batch(X, Y), 1.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("phase", "in_training", "in_inference", "left"),
    [("always", 2, 2, 2), ("training", 2, 1, 1), ("inference", 1, 2, 2)],
)
def test_outside_its_phase_a_hook_does_not_act(phase, in_training, in_inference, left):
    model = kwrap.wrap_model(line(), Times(phase=phase))
    np.testing.assert_allclose(model(X, training=True), X @ (ONES * in_training), rtol=1e-6)
    np.testing.assert_allclose(model(X, training=False), X @ (ONES * in_inference), rtol=1e-6)
    kwrap.unwrap_model(model)
    np.testing.assert_array_equal(kernel_of(model), ONES * left)


def test_of_hooks_that_add_one_is_merged_while_another_before_it_stays():
    model = kwrap.wrap_model(line(), [Add(amount=1.0, name="one"), Add(amount=2.0, name="two")])
    kwrap.unwrap_model(model, "two")
    np.testing.assert_array_equal(kernel_of(model), ONES + 2)
    kwrap.unwrap_model(model)
    np.testing.assert_array_equal(kernel_of(model), ONES + 3)


@pytest.mark.parametrize("hooks", [[Add(), Times()], [Times(), Add()], [Add(), Times(name="other"), Add(name="last")]])
def test_beside_a_hook_that_does_not_add_the_order_counts(hooks):
    model = kwrap.wrap_model(line(), hooks)
    with pytest.raises(WrapperStateError, match="cannot be merged into 'kernel' exactly while"):
        kwrap.unwrap_model(model, hooks[-1].name)
    np.testing.assert_array_equal(kernel_of(model), ONES)


def test_what_a_hook_draws_at_inference_does_not_hide_that_a_weight_is_read_the_same():
    hooks = [Drawn(), Add(amount=1.0), FirstRow()]  # which is read behind the draw, and stored before it
    model = kwrap.wrap_model(line(), hooks)
    drawn = next(hook for _, hook in kwrap.find_hooks(model) if hook.name == "weights_drawn")
    before = np.array(drawn.seed.state)
    kwrap.unwrap_model(model, "weights_add")
    np.testing.assert_array_equal(kernel_of(model), (ONES + 1) * [[0], [1], [1]])
    np.testing.assert_array_equal(drawn.seed.state, before)


def test_a_reader_behind_tells_whether_what_is_stored_is_read_the_same():
    model = kwrap.wrap_model(line(), [Add(amount=1.0), Mean(), FirstRow()])
    with pytest.raises(
        WrapperStateError, match=r"'weights_add' .* while 'weights_first_row', which would store another"
    ):
        kwrap.unwrap_model(model, "weights_add")
    np.testing.assert_array_equal(kernel_of(model), ONES * [[0], [1], [1]])


def test_dropped_hooks_leave_the_weights_as_stored():
    model = kwrap.wrap_model(line(), [Plus(), Times()])
    kwrap.unwrap_model(model, merge=False)
    np.testing.assert_array_equal(kernel_of(model), ONES)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_state_may_be_assigned_while_a_weight_is_read_in_training(jit_compile):
    model = line()
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=jit_compile)
    kwrap.wrap_model(model, Range())
    hook = hook_of(model)
    largest = hook.state(hook.target_weights[0], "largest")
    model.predict(X, verbose=0)
    assert float(largest) == 0
    model.train_on_batch(X, Y)
    assert float(largest) == 1
    model.get_layer("dense").kernel.assign(ONES * -3)
    model.train_on_batch(X, Y)
    model.get_layer("dense").kernel.assign(ONES)
    model.train_on_batch(X, Y)
    assert float(largest) == 3


class Outer(keras.Model):
    """A model whose layers are built in their first call, inside its own precision."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def call(self, inputs):
        return self.inner(inputs)


def test_a_layer_built_in_a_call_of_a_mixed_precision_model_has_its_weights_changed_in_their_own_dtype():
    third = np.float32(1) / 3
    seen = []

    @kwrap.hook(layer_type=layers.Dense, name="weights_dtypes")
    class Dtypes(kwrap.Hook):
        def initialize(self, layer):
            seen.append(layer.kernel.dtype)

        def constrain(self, target, value):
            seen.append(value.dtype)
            return value * 1

    dense = layers.Dense(2, kernel_initializer=keras.initializers.Constant(third))
    model = Outer(kwrap.Wrapper(dense, [Dtypes()]), dtype="mixed_float16")
    model(X)
    assert {keras.backend.standardize_dtype(dtype) for dtype in seen} == {"float32"}
    np.testing.assert_array_equal(dense.kernel, ONES * third)


# --- what hooks return -----------------------------------------------------------------------------------------------

FITS_NOT = ["shape", "dtype", "broadcast", "none"]


@pytest.mark.parametrize("what", FITS_NOT)
def test_a_constrained_value_that_does_not_fit_is_the_named_error_before_anything_changed(what):
    model = line()
    with pytest.raises(HookCallError) as raised:
        kwrap.wrap_model(model, Returns("constrain", what))
    error = raised.value
    assert (error.hook, error.path, error.during) == ("weights_returns", "dense", "constrain")
    assert type(model.layers[0]) is layers.Dense
    assert model.layers[0].kernel.constraint is None
    np.testing.assert_array_equal(kernel_of(model), ONES)


@pytest.mark.parametrize("what", FITS_NOT)
def test_a_parametrized_value_that_does_not_fit_is_the_named_error(what):
    model = kwrap.wrap_model(line(), Returns("parametrize", what))
    for act in (lambda: model(X), lambda: model.predict(X, verbose=0), lambda: model.train_on_batch(X, Y)):
        with pytest.raises(HookCallError) as raised:
            act()
        error = raised.value
        assert (error.hook, error.path, error.during) == ("weights_returns", "dense", "parametrize")
        assert isinstance(error.__cause__, ValueError)


def test_the_error_says_what_was_returned_and_what_the_weight_is():
    model = kwrap.wrap_model(line(), Returns("parametrize", "shape"))
    with pytest.raises(HookCallError, match=r"\('float32', \(1, 2\)\) for weight 'kernel', .* \('float32', \(3, 2\)\)"):
        model(X)


@pytest.mark.parametrize("what", FITS_NOT)
def test_a_merged_value_that_does_not_fit_is_the_named_error_and_the_model_stays_wrapped(what):
    model = kwrap.wrap_model(line(), Returns("merge", what))
    with pytest.raises(HookCallError) as raised:
        kwrap.unwrap_model(model)
    assert raised.value.during == "merge"
    assert [path for path, _ in kwrap.find_hooks(model)] == ["dense"]
    np.testing.assert_array_equal(kernel_of(model), ONES)
    np.testing.assert_allclose(model(X), X @ ONES, rtol=1e-6)


def test_float16_weights_are_changed_in_float16():
    model = line(dtype="float16")
    kwrap.wrap_model(model, Plus())
    np.testing.assert_allclose(model(X), (X @ (ONES * 2)).astype("float16"), rtol=1e-2)


# --- freezing --------------------------------------------------------------------------------------------------------


def test_a_hook_that_freezes_stops_its_targets_and_trains_its_own():
    model = kwrap.wrap_model(line(), Adapter())
    assert trainable(model) == ["bias", "difference"]
    before, outputs = kernel_of(model), np.array(model(X))
    model.fit(X, Y, epochs=3, verbose=0)
    np.testing.assert_array_equal(kernel_of(model), before)
    assert (np.array(model(X)) != outputs).any()
    outputs = np.array(model(X))
    kwrap.unwrap_model(model)
    assert trainable(model) == ["kernel", "bias"]
    np.testing.assert_allclose(model(X), outputs, rtol=1e-6)


def test_frozen_targets_stay_frozen_when_the_model_is_frozen_and_thawed():
    model = kwrap.wrap_model(line(), Adapter())
    model.trainable = False
    assert trainable(model) == []
    model.trainable = True
    assert trainable(model) == ["bias", "difference"]
    kwrap.unwrap_model(model)
    assert trainable(model) == ["kernel", "bias"]


def test_targets_of_a_frozen_layer_stay_as_they_were_when_the_hook_is_gone():
    model = kwrap.wrap_model(line(trainable=False), Adapter())
    assert trainable(model) == ["difference"]
    kwrap.unwrap_model(model)
    dense = model.get_layer("dense")
    assert (dense.trainable, trainable(model)) == (False, [])
    dense.trainable = True
    assert trainable(model) == ["kernel", "bias"]


def test_targets_of_a_frozen_layer_that_is_thawed_stay_frozen_while_the_hook_is_on():
    model = kwrap.wrap_model(line(trainable=False), Adapter())
    model.get_layer("dense").trainable = True
    assert trainable(model) == ["bias", "difference"]
    kwrap.unwrap_model(model)
    assert trainable(model) == ["kernel", "bias"]


def test_a_weight_that_was_frozen_by_hand_stays_so_when_the_hook_is_gone():
    model = line()
    model.get_layer("dense").kernel.trainable = False
    kwrap.wrap_model(model, Adapter())
    kwrap.unwrap_model(model)
    assert trainable(model) == ["bias"]


def test_of_two_hooks_that_freeze_a_weight_the_last_lets_it_go():
    model = kwrap.wrap_model(line(), [Adapter(), Adapter(name="second")])
    (_, first), _ = kwrap.find_hooks(model)
    kwrap.unwrap_model(model, first)
    assert trainable(model) == ["bias", "difference"]
    kwrap.unwrap_model(model)
    assert trainable(model) == ["kernel", "bias"]


# --- behind the Wrapper's back ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [lambda layer: layer.quantize("int8"), lambda layer: layer.enable_lora(2)])
@pytest.mark.parametrize("hook", [Plus, NoStep])
def test_a_layer_quantized_while_wrapped_is_the_named_error_at_the_next_call_and_save(change, hook, tmp_path):
    model = kwrap.wrap_model(line(), hook())
    change(model.layers[0].layer)
    for act in (lambda: model(X), lambda: model.save(tmp_path / "model.keras")):
        with pytest.raises(WrapperStateError, match=rf"'dense' was quantized, .*'{hook.hook_name}'.*Unwrap, quantize"):
            act()
