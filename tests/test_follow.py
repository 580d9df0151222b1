import keras
import numpy as np
import pytest

import kwrap
from kwrap import _follow, _saving

from . import composites, specimens
from .specimens import (
    Adapter,
    Idle,
    Jitter,
    NonNegative,
    Times,
    branched,
    compiled,
    data,
    same,
    sequential,
    train,
    values,
)

# Warnings are errors in these tests: Keras warns in `fit` where a layer's `trainable` seems to have changed.


def slots(model: keras.Model) -> dict[str, np.ndarray]:
    return {variable.path: np.array(variable) for variable in model.optimizer.variables}


def kernel(model: keras.Model, name: str) -> np.ndarray:
    layer = model.get_layer(name)
    return np.array(layer.kernel)


# --- the optimizer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [sequential, branched])
def test_hooks_without_trainable_variables_leave_the_optimizer_and_its_state_as_they_are(make):
    model = compiled(make())
    optimizer, before = model.optimizer, slots(model)
    kwrap.wrap_model(model, [Idle, NonNegative])
    assert model.compiled
    assert model.optimizer is optimizer
    assert slots(model).keys() == before.keys()
    assert all(same(slots(model)[path], value) for path, value in before.items())
    assert int(model.optimizer.iterations) == 3


@pytest.mark.parametrize("make", [sequential, branched])
def test_training_goes_on_with_a_hook_that_does_nothing_as_it_would_without_it(make):
    keras.utils.set_random_seed(5)
    bare = compiled(make())
    keras.utils.set_random_seed(5)
    model = compiled(make())
    kwrap.wrap_model(model, Idle)
    assert train(model) == train(bare)
    kwrap.unwrap_model(model)
    assert train(model) == train(bare)
    assert same(values(model.weights), values(bare.weights))
    assert same(list(slots(model).values()), list(slots(bare).values()))


def test_hooks_with_trainable_variables_get_an_optimizer_with_the_iterations_and_slots_of_those_that_stay():
    model = compiled(sequential())
    before, optimizer = slots(model), model.optimizer
    kwrap.wrap_model(model, Adapter, where="last")
    after = slots(model)
    assert model.optimizer is optimizer
    assert int(model.optimizer.iterations) == 3
    shared = before.keys() & after.keys()
    assert {path for path in shared if "momentum" in path} == {
        path for path in before if "momentum" in path and "last_kernel" not in path
    }
    assert all(same(before[path], after[path]) for path in shared)
    assert any("delta" in path for path in after.keys() - before.keys())


def test_slots_stay_with_their_variables_where_two_layers_have_one_name():
    model = compiled(branched())
    optimizer, tower = model.optimizer, model.get_layer("tower").get_layer("inner").kernel
    position = [variable is tower for variable in optimizer._trainable_variables].index(True)
    momentum = np.array(optimizer._momentums[position])
    kwrap.wrap_model(model, Adapter, where="encoder/inner")
    position = [variable is tower for variable in model.optimizer._trainable_variables].index(True)
    assert same(np.array(model.optimizer._momentums[position]), momentum)


def test_the_new_variables_train_and_the_frozen_weights_stay():
    model = compiled(sequential())
    kwrap.wrap_model(model, Adapter, where="last")
    ((_, hook),) = kwrap.find_hooks(model)
    frozen, bias = kernel(model, "last"), np.array(model.get_layer("last").bias)
    train(model)
    assert same(kernel(model, "last"), frozen)
    assert not same(np.array(model.get_layer("last").bias), bias)
    assert np.abs(np.array(hook.delta)).min() > 0


def test_unwrapping_trains_the_weights_again_with_the_slots_of_those_that_stayed():
    model = compiled(sequential())
    kwrap.wrap_model(model, Adapter, where="last")
    train(model)
    before = slots(model)
    kwrap.unwrap_model(model)
    after = slots(model)
    assert not any("delta" in path for path in after)
    assert int(model.optimizer.iterations) == 6
    assert all(same(after[path], before[path]) for path in after.keys() & before.keys())
    merged = kernel(model, "last")
    train(model)
    assert not same(kernel(model, "last"), merged)


def test_adam_goes_on_as_the_formula_says():
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1, use_bias=False, name="only")])
    model.compile(keras.optimizers.Adam(0.1), "mse")
    inputs, targets = np.eye(2, dtype="float32"), np.ones((2, 1), "float32")
    model.train_on_batch(inputs, targets)
    kwrap.wrap_model(model, Times(factor=1.0))
    kwrap.wrap_model(model, NonNegative)
    weight, adam = kernel(model, "only").astype("float64"), model.optimizer
    moments = {v.path.split("_")[-1]: np.array(v, "float64") for v in adam.variables if "only" in v.path}
    gradient = (weight - 1.0) * 2 / 2
    momentum = moments["momentum"] * adam.beta_1 + gradient * (1 - adam.beta_1)
    velocity = moments["velocity"] * adam.beta_2 + gradient**2 * (1 - adam.beta_2)
    alpha = 0.1 * np.sqrt(1 - adam.beta_2**2) / (1 - adam.beta_1**2)
    model.train_on_batch(inputs, targets)
    expected = np.maximum(weight - alpha * momentum / (np.sqrt(velocity) + adam.epsilon), 0.0)
    np.testing.assert_allclose(kernel(model, "only"), expected, rtol=1e-4)  # float32 against float64


def test_a_loss_scale_optimizer_keeps_its_scale_and_its_inner_state():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = compiled(sequential())
    finally:
        keras.config.set_dtype_policy("float32")
    assert type(model.optimizer).__name__ == "LossScaleOptimizer"
    before, inner = slots(model), type(model.optimizer.inner_optimizer)
    iterations = int(model.optimizer.inner_optimizer.iterations)
    kwrap.wrap_model(model, Adapter, where="last")
    after = slots(model)
    assert type(model.optimizer.inner_optimizer) is inner
    # The scope in a slot's path depends on who built the optimizer: its last part tells.
    before = {path.rpartition("/")[2]: value for path, value in before.items() if "iteration" not in path}
    after = {path.rpartition("/")[2]: value for path, value in after.items() if "iteration" not in path}
    assert "dynamic_scale" in before
    assert {name for name in before if "last_kernel" not in name} == {name for name in after if "delta" not in name}
    assert all(same(after[name], before[name]) for name in after.keys() & before.keys())
    assert iterations > 0
    assert int(model.optimizer.inner_optimizer.iterations) == iterations
    train(model)
    ((_, hook),) = kwrap.find_hooks(model)
    assert np.abs(np.array(hook.delta)).max() > 0


def test_a_model_that_is_compiled_and_not_trained_yet_stays_so():
    model = sequential()
    model.compile("adam", "mse")
    optimizer = model.optimizer
    kwrap.wrap_model(model, Adapter, where="last")
    assert model.optimizer is optimizer
    train(model, 1)
    ((_, hook),) = kwrap.find_hooks(model)
    assert np.abs(np.array(hook.delta)).max() > 0


def test_a_model_that_is_not_compiled_stays_so():
    model = kwrap.wrap_model(sequential(), Adapter, where="last")
    assert not model.compiled
    kwrap.unwrap_model(model)
    assert not model.compiled
    assert getattr(model, "optimizer", None) is None


# --- frozen models ---------------------------------------------------------------------------------------------------


def frozen(make=sequential, part=None) -> keras.Model:
    model = make()
    (model.get_layer(part) if part else model).trainable = False
    return model


def test_a_hooks_variables_train_below_a_frozen_model_and_nothing_else_does():
    model = frozen()
    model.compile(keras.optimizers.Adam(0.05), "mse")
    kwrap.wrap_model(model, Adapter, where="last")
    ((_, hook),) = kwrap.find_hooks(model)
    assert [variable.path for variable in model.trainable_variables] == [hook.delta.path]
    before = values(v for v in model.variables if v is not hook.delta and "seed" not in v.path)
    inputs, targets = data(model)
    model.fit(inputs, targets, verbose=0)
    assert np.abs(np.array(hook.delta)).max() > 0
    assert same(values(v for v in model.variables if v is not hook.delta and "seed" not in v.path), before)


def test_frozen_models_are_lifted_up_to_the_root_and_lowered_again():
    model = branched()
    model.trainable = False
    flags = {layer.name: layer.trainable for layer in model._flatten_layers()}
    before = specimens.snapshot(model)
    kwrap.wrap_model(model, Adapter, where="encoder/inner")
    assert model.trainable
    assert model.get_layer("encoder").trainable
    assert not model.get_layer("tower").trainable
    assert len(model.trainable_variables) == 1
    kwrap.unwrap_model(model, merge=False)
    assert {layer.name: layer.trainable for layer in model._flatten_layers()} == flags
    assert specimens.snapshot(model) == before


def test_a_lifted_model_that_is_set_trainable_stays_so_when_unwrapped():
    model = frozen()
    kwrap.wrap_model(model, Adapter, where="last")
    model.trainable = False
    model.trainable = True
    kwrap.unwrap_model(model)
    assert model.trainable
    assert len(model.trainable_variables) == len(sequential().trainable_variables)


def test_another_model_that_holds_the_wrapped_one_traces_anew():
    inner = sequential()
    outer = keras.Sequential([keras.Input(inner.input_shape[1:]), inner])
    inputs, _ = data(outer)
    before = outer.predict(inputs, verbose=0)
    kwrap.wrap_model(inner, Times(factor=0.0))
    assert not same(outer.predict(inputs, verbose=0), before)
    with kwrap.bypass(inner):
        assert same(outer.predict(inputs, verbose=0), before)
    assert not same(outer.predict(inputs, verbose=0), before)


def test_what_is_frozen_under_a_lifted_model_stays_frozen_and_normalizes_as_frozen():
    model = frozen()
    kwrap.wrap_model(model, Adapter, where="last")
    norm = model.get_layer("norm")
    before = values(norm.variables)
    inputs, _ = data(model)
    model(inputs, training=True)
    assert not norm.trainable
    assert same(values(norm.variables), before)


def test_one_of_two_hooks_that_train_is_taken_off_and_the_model_stays_lifted():
    model = frozen()
    kwrap.wrap_model(model, [Adapter(), Adapter(name="other")], where="last")
    kwrap.unwrap_model(model, "other", merge=False)
    assert model.trainable
    kwrap.unwrap_model(model)
    assert not model.trainable
    assert model.trainable_variables == []


def test_a_hook_without_trainable_variables_lifts_nothing():
    model = frozen()
    kwrap.wrap_model(model, [Jitter, NonNegative])
    assert not model.trainable
    assert model.trainable_variables == []


@pytest.mark.parametrize("make", [sequential, branched])
def test_fit_does_not_warn_after_wrapping_and_after_unwrapping(make):
    model = compiled(make(), steps=1)
    inputs, targets = data(model)
    for change in (
        lambda: kwrap.wrap_model(model, Adapter),
        lambda: kwrap.wrap_model(model, Jitter),
        lambda: kwrap.unwrap_model(model, Adapter),
        lambda: kwrap.unwrap_model(model),
    ):
        change()
        model.fit(inputs, targets, verbose=0)
    assert int(model.optimizer.iterations) == 5


def test_fit_does_not_warn_below_a_lifted_model():
    model = frozen(branched, "encoder")
    compiled(model, steps=1)
    inputs, targets = data(model)
    kwrap.wrap_model(model, Adapter, where="encoder/inner")
    model.fit(inputs, targets, verbose=0)
    kwrap.unwrap_model(model)
    model.fit(inputs, targets, verbose=0)
    assert int(model.optimizer.iterations) == 3


# --- traces ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use", ["predict", "evaluate", "train_on_batch"])
def test_what_is_traced_already_sees_a_change_and_its_undo(use):
    model = sequential()
    model.compile(keras.optimizers.SGD(0.0), "mse")
    inputs, targets = data(model)
    # What would differ from call to call by itself.
    model.get_layer("drop").rate = 0.0
    model.get_layer("first").kernel.constraint = None

    def result():
        if use == "predict":
            return model.predict(inputs, verbose=0)
        return getattr(model, use)(inputs, targets, **({"verbose": 0} if use == "evaluate" else {}))

    plain = result()
    kwrap.wrap_model(model, Times(factor=0.0), where="last")
    wrapped = result()
    assert not same(wrapped, plain)
    kwrap.unwrap_model(model, merge=False)
    assert same(result(), plain)


def test_a_nested_model_that_is_used_by_itself_is_traced_anew_too():
    model = branched()
    encoder = model.get_layer("encoder")
    inputs, _ = data(encoder)
    plain = encoder.predict(inputs, verbose=0)
    kwrap.wrap_model(model, Times(factor=0.5), where="encoder/inner")
    assert not same(encoder.predict(inputs, verbose=0), plain)
    kwrap.unwrap_model(model, merge=False)
    assert same(encoder.predict(inputs, verbose=0), plain)


# --- classes of one's own --------------------------------------------------------------------------------------------


def train_blocks(model: keras.Model) -> None:
    """Train a model of blocks for a step."""
    model.train_on_batch(composites.inputs(), composites.inputs())


def sharing() -> tuple[keras.Model, keras.Model, keras.layers.Layer]:
    """Return two compiled subclassed models that hold one composite, trained for a step, and the composite."""
    block = composites.Block(name="block")
    models = [composites.Twin(block, composites.Block(name="own"), name=name) for name in ("left", "right")]
    for model in models:
        composites.compiled(model, run_eagerly=True)
        train_blocks(model)
    return *models, block


def test_hooks_in_a_layer_that_two_classes_share_are_in_both_and_both_save_train_and_trace_anew(tmp_path):
    left, right, block = sharing()
    right.run_eagerly = False
    inputs = composites.inputs()
    plain = right.predict(inputs, verbose=0)
    kwrap.wrap_model(left, [Times(factor=0.5), Adapter().at(keras.layers.Dense)], exclude="own/**")
    deltas = [hook.delta for _, hook in kwrap.find_hooks(right, Adapter)]
    assert deltas
    assert not same(right.predict(inputs, verbose=0), plain)
    for model in (left, right):
        known = {id(variable) for variable in model.optimizer._trainable_variables}
        assert {id(delta) for delta in deltas} <= known
        assert int(model.optimizer.iterations) == 1
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert [path for path, _ in kwrap.find_hooks(loaded)] == [path for path, _ in kwrap.find_hooks(model)]
        assert same(loaded(inputs), model(inputs))
    train_blocks(right)
    assert all(np.abs(np.array(delta)).max() > 0 for delta in deltas)
    kwrap.unwrap_model(right, merge=False)
    assert type(left) is type(right) is composites.Twin
    assert type(block) is composites.Block
    assert not any(specimens.objects_of_kwrap(model) for model in (left, right))
    assert not {id(delta) for delta in deltas} & {id(v) for v in left.optimizer._trainable_variables}


def twin() -> keras.Model:
    """Return a subclassed model around two of another class."""
    model = composites.Twin(composites.Tower(name="tower"), composites.Tower(name="second"), name="twin")
    model(composites.inputs())
    return model


@pytest.mark.parametrize("part", ["model", "class", "composite"])
def test_hooks_train_below_what_is_frozen_in_classes_of_ones_own_and_it_is_lowered_again(part):
    model = twin()
    frozen = {"model": model, "class": model.left, "composite": model.left.get_layer("body")}[part]
    frozen.trainable = False
    before = specimens.snapshot(model)
    bare = [variable.path for variable in model.trainable_variables]
    kwrap.wrap_model(model, Adapter, where="tower/body/up")
    ((_, hook),) = kwrap.find_hooks(model)
    trained = [variable for variable in model.trainable_variables if variable is not hook.delta]
    assert len(model.trainable_variables) == len(trained) + 1
    assert [variable.path for variable in trained] == bare
    assert model.left.get_layer("body").trainable
    kwrap.unwrap_model(model, merge=False)
    assert specimens.snapshot(model) == before


class Interrupted(BaseException):
    """As a keyboard interrupt."""


@pytest.mark.parametrize("step", ["set_classes", "_lift_frozen", "_rebuild_optimizers", "forget_traces"])
@pytest.mark.parametrize("act", ["wrap", "unwrap"])
def test_an_interruption_leaves_every_class_as_it_was(act, step, monkeypatch):
    model = twin()
    if act == "unwrap":
        kwrap.wrap_model(model, Idle)
    before = specimens.snapshot(model)

    def interrupt(*_):
        monkeypatch.undo()
        raise Interrupted

    owner = _saving if step == "set_classes" else _follow
    monkeypatch.setattr(owner, step, interrupt)
    with pytest.raises(Interrupted):
        kwrap.wrap_model(model, Idle) if act == "wrap" else kwrap.unwrap_model(model)
    assert specimens.snapshot(model) == before
