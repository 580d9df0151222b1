import keras
import numpy as np
import pytest

import kwrap
from kwrap import errors

from . import composites, specimens, zoo
from .specimens import (
    Adapter,
    Idle,
    Jitter,
    Mask,
    NonNegative,
    Plus,
    Times,
    branched,
    compiled,
    predict,
    same,
    scale,
    sequential,
    snapshot,
    train,
    values,
)

MANY = [Mask, NonNegative, Jitter, Times, Adapter().at("first")]


def twice(models, steps: int = 3) -> tuple[list[float], list[float]]:
    """Train two models by the same steps, each from the same global seed; return their losses."""
    results = []
    for model in models:
        keras.utils.set_random_seed(7)
        results.append(train(model, steps))
    return results[0], results[1]


def paths(model: keras.Model) -> list[str]:
    """Return the paths of the variables but for seeds', which Keras numbers anew in each copy."""
    return [variable.path for variable in model.variables if "seed_generator" not in variable.path]


def state(model: keras.Model) -> list[np.ndarray]:
    return values([*model.variables, *model.optimizer.variables])


# --- an exact copy ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [sequential, branched])
@pytest.mark.parametrize("hooks", [None, MANY], ids=["bare", "wrapped"])
def test_a_copy_in_mid_training_is_exact_and_trains_on_as_the_original_would(make, hooks):
    model = compiled(make(), steps=2)
    if hooks:
        train(kwrap.wrap_model(model, hooks), 2)
    before = snapshot(model)
    copy = kwrap.clone_model(model)
    assert snapshot(model) == before
    assert (type(copy), copy.name) == (type(model), model.name)
    assert paths(copy) == paths(model)
    assert same(values(copy.variables), values(model.variables))
    assert same(values(copy.optimizer.variables), values(model.optimizer.variables))
    assert copy.compiled
    assert same(predict(copy), predict(model))
    ours, theirs = twice((copy, model))
    assert ours == theirs
    assert same(values(copy.variables), values(model.variables))
    assert same(values(copy.optimizer.variables), values(model.optimizer.variables))


@pytest.mark.parametrize("make", [sequential, branched])
def test_the_original_stays_untouched_to_the_bit_whatever_the_copy_goes_through(make):
    model = compiled(make())
    predict(model)
    traced = model.train_function
    before = snapshot(model)
    copy = kwrap.clone_model(model, MANY)
    assert snapshot(model) == before
    train(copy)
    predict(copy)
    kwrap.unwrap_model(copy)
    train(copy)
    copy.trainable = False
    copy.compile("sgd", "mse")
    assert snapshot(model) == before
    assert model.train_function is traced


def test_nothing_of_the_copy_is_the_originals():
    model = compiled(kwrap.wrap_model(branched(), MANY))
    copy = kwrap.clone_model(model)
    for parts in (
        specimens.layers_of,
        specimens.all_variables,
        lambda m: [m.optimizer],
        lambda m: [hook for _, hook in kwrap.find_hooks(m)],
        lambda m: [node for layer in m._flatten_layers() for node in layer._inbound_nodes],
    ):
        assert not {id(part) for part in parts(model)} & {id(part) for part in parts(copy)}


@pytest.mark.parametrize("make", [sequential, branched])
def test_a_wrapped_copy_does_what_the_model_wrapped_in_place_does(make):
    model = compiled(make())
    copy = kwrap.clone_model(model, MANY)
    kwrap.wrap_model(model, MANY)
    assert [(path, hook.name) for path, hook in kwrap.find_hooks(copy)] == [
        (path, hook.name) for path, hook in kwrap.find_hooks(model)
    ]
    assert same(values(copy.variables), values(model.variables))
    ours, theirs = twice((copy, model))
    assert ours == theirs
    assert same(predict(copy), predict(model))


def test_hooks_are_added_to_a_copy_of_a_wrapped_model():
    model = kwrap.wrap_model(sequential(), Times(factor=0.5), where="last")
    before = snapshot(model)
    copy = kwrap.clone_model(model, Plus, where="last")
    assert [hook.name for _, hook in kwrap.find_hooks(copy)] == ["specimen_times", "specimen_plus"]
    assert snapshot(model) == before


def test_a_copy_is_unwrapped_in_mid_training_and_the_original_trains_on():
    model = compiled(kwrap.wrap_model(sequential(), MANY))
    before = snapshot(model)
    wrapped = predict(model)
    plain = kwrap.unwrap_model(kwrap.clone_model(model))
    assert specimens.objects_of_kwrap(plain) == []
    # What Jitter does it does in training only; everything else is merged.
    assert same(predict(plain), wrapped)
    assert {type(layer).__module__.partition(".")[0] for layer in plain._flatten_layers()} == {"keras"}
    assert snapshot(model)["values"] == before["values"]
    train(model)


def test_where_and_exclude_and_recursive_are_those_of_wrap_model():
    copy = kwrap.clone_model(branched(), Times, where=["**/inner", "first"], exclude="tower/**")
    assert [path for path, _ in kwrap.find_hooks(copy)] == ["encoder/inner", "first"]
    copy = kwrap.clone_model(branched(), Times, recursive=False)
    assert [path for path, _ in kwrap.find_hooks(copy)] == ["shared", "first", "second"]


# --- what is copied --------------------------------------------------------------------------------------------------


def test_a_local_loss_the_iterations_and_adams_slots_go_with_the_copy():
    model = compiled(sequential())
    copy = kwrap.clone_model(model, Idle)
    assert copy.loss is model.loss
    assert "<locals>" in copy.loss.__qualname__
    assert type(copy.optimizer) is keras.optimizers.Adam
    assert int(copy.optimizer.iterations) == 3
    slots = [variable for variable in copy.optimizer.variables if "momentum" in variable.path]
    assert slots
    assert any(np.any(np.array(slot)) for slot in slots)


def test_metrics_of_the_copy_are_its_own():
    model = sequential()
    metric = keras.metrics.MeanAbsoluteError(name="error")
    model.compile("adam", "mse", metrics=[metric, "mse"], weighted_metrics=["mae"])
    train(model)
    copy = kwrap.clone_model(model)
    before = values(model.metrics_variables)
    train(copy, 1)
    assert same(values(model.metrics_variables), before)
    assert not {id(m) for m in model.metrics} & {id(m) for m in copy.metrics}
    assert copy.get_metrics_result().keys() == model.get_metrics_result().keys()


def test_a_loss_scale_optimizer_is_copied_with_its_scale():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = compiled(sequential())
    finally:
        keras.config.set_dtype_policy("float32")
    model.optimizer.dynamic_scale.assign(512.0)
    copy = kwrap.clone_model(model, Adapter, where="last")
    assert type(copy.optimizer) is keras.optimizers.LossScaleOptimizer
    assert float(copy.optimizer.dynamic_scale) == 512.0
    assert int(copy.optimizer.inner_optimizer.iterations) == int(model.optimizer.inner_optimizer.iterations) > 0
    assert copy.get_layer("last").layer.dtype_policy.name == "mixed_float16"
    train(copy)
    assert copy.optimizer is not model.optimizer


@pytest.mark.parametrize("frozen", [None, "line", "first", "norm"])
def test_the_trainable_flags_are_copied(frozen):
    model = sequential()
    if frozen:
        (model if frozen == "line" else model.get_layer(frozen)).trainable = False
    copy = kwrap.clone_model(model)
    flags = [
        [layer.trainable for layer in one._flatten_layers() if not isinstance(layer, keras.layers.InputLayer)]
        for one in (model, copy)
    ]
    assert flags[0] == flags[1]
    assert [v.path for v in copy.trainable_variables] == [v.path for v in model.trainable_variables]


def test_the_flags_of_single_weights_and_of_nested_models_are_copied():
    model = branched()
    model.get_layer("encoder").trainable = False
    model.get_layer("first").bias.trainable = False
    copy = kwrap.clone_model(model)
    assert [v.path for v in copy.trainable_variables] == [v.path for v in model.trainable_variables]
    assert [v.trainable for v in copy.variables] == [v.trainable for v in model.variables]


def test_what_was_frozen_after_compiling_does_not_disturb_the_optimizers_state():
    model = compiled(sequential())
    model.get_layer("first").trainable = False
    copy = kwrap.clone_model(model)
    assert same(values(copy.optimizer.variables), values(model.optimizer.variables))
    assert [v.path for v in copy.trainable_variables] == [v.path for v in model.trainable_variables]


def test_a_copy_of_a_wrapped_frozen_model_is_lowered_when_unwrapped():
    model = sequential()
    model.trainable = False
    kwrap.wrap_model(model, Adapter, where="last")
    copy = kwrap.clone_model(model)
    assert len(copy.trainable_variables) == 1
    kwrap.unwrap_model(copy)
    assert not copy.trainable
    assert copy.trainable_variables == []


def test_what_a_hook_freezes_is_frozen_in_the_copy_and_trains_again_when_unwrapped():
    copy = kwrap.clone_model(kwrap.wrap_model(sequential(), Adapter, where="last"))
    assert not copy.get_layer("last").layer.kernel.trainable
    kwrap.unwrap_model(copy)
    assert copy.get_layer("last").kernel.trainable


def test_constraints_of_the_copy_are_its_own_and_the_same():
    model = kwrap.wrap_model(sequential(), NonNegative)
    copy = kwrap.clone_model(model)
    kwrap.unwrap_model(copy)
    assert type(copy.get_layer("first").kernel.constraint) is keras.constraints.MaxNorm
    assert copy.get_layer("last").kernel.constraint is None
    kernel = model.get_layer("last").kernel
    assert (np.asarray(kernel.constraint(keras.ops.full(kernel.shape, -1.0))) == 0).all()


def test_seeds_are_copied_so_that_noise_is_the_same():
    model = kwrap.wrap_model(sequential(), Jitter)
    inputs, _ = specimens.data(model)
    model(inputs, training=True)
    copy = kwrap.clone_model(model)
    for _ in range(2):
        assert same(np.asarray(copy(inputs, training=True)), np.asarray(model(inputs, training=True)))


def test_what_preprocessing_layers_learned_is_copied():
    inputs, words = keras.Input((2,), name="numbers"), keras.Input((1,), dtype="string", name="words")
    normal = keras.layers.Normalization(name="normal")
    normal.adapt(np.array([[1.0, 2.0], [3.0, 6.0]]))
    lookup = keras.layers.StringLookup(name="lookup", output_mode="one_hot")
    lookup.adapt(np.array(["a", "b", "b"]))
    both = keras.layers.Concatenate(name="both")([normal(inputs), lookup(words)])
    model = keras.Model([inputs, words], keras.layers.Dense(1, name="out")(both))
    copy = kwrap.clone_model(model, scale(factor=1.0), where="out")
    given = [keras.ops.convert_to_tensor([[1.0, 4.0]]), keras.ops.convert_to_tensor([["b"]])]
    assert same(np.asarray(copy(given)), np.asarray(model(given)))
    assert copy.get_layer("lookup").get_vocabulary() == ["[UNK]", "b", "a"]


def test_a_subclass_of_a_functional_model_keeps_its_class_also_nested():
    @keras.saving.register_keras_serializable("cloning")
    class Tower(keras.Model):
        def __init__(self, units=4, **kwargs):
            inputs = keras.Input((4,))
            super().__init__(inputs, keras.layers.Dense(units, name="inner")(inputs), **kwargs)
            self.units = units

        def get_config(self):
            return {"units": self.units, "name": self.name}

        @classmethod
        def from_config(cls, config):
            return cls(**config)

    model = keras.Sequential(
        [keras.layers.Input((4,)), Tower(units=3, name="tower"), keras.layers.Dense(2, name="out")]
    )
    copy = kwrap.clone_model(model, Idle, where="out")
    assert type(copy.get_layer("tower")) is Tower
    assert copy.get_layer("tower").units == 3
    assert same(predict(copy), predict(model))


def test_a_layer_that_two_nested_models_share_is_shared_in_the_copy():
    shared = keras.layers.Dense(4, name="shared")
    parts = [keras.Sequential([keras.layers.Input((4,)), shared], name=name) for name in ("one", "two")]
    model = keras.Sequential([keras.layers.Input((4,)), *parts])
    copy = kwrap.clone_model(model, Times, where="one/shared")
    one, two = (copy.get_layer(name).layers[-1] for name in ("one", "two"))
    assert one is two
    assert isinstance(one, kwrap.Wrapper)
    assert len(copy.weights) == 2
    assert same(predict(kwrap.clone_model(model)), predict(model))


def test_a_model_that_is_not_compiled_is_not_compiled_in_the_copy():
    copy = kwrap.clone_model(sequential(), Idle)
    assert not copy.compiled
    assert getattr(copy, "optimizer", None) is None


def test_an_exact_copy_of_an_exact_copy_is_exact():
    model = compiled(kwrap.wrap_model(branched(), MANY))
    assert same(state(kwrap.clone_model(kwrap.clone_model(model))), state(model))


# --- layers inside of layers, and classes of one's own ---------------------------------------------------------------

INSIDE = [Mask(), NonNegative(), Times(factor=0.75), Adapter().at(keras.layers.Dense)]
# Tower has a layer beside its graph, which the loss does not see.
quiet = pytest.mark.filterwarnings("ignore:Gradients do not exist for variables:UserWarning")


def trained(make, hooks=()) -> keras.Model:
    """Return a model of the module `composites`, trained and wrapped and trained on."""
    model = composites.compiled(make(), run_eagerly=True)
    composites.train(model, 1)
    if hooks:
        composites.train(kwrap.wrap_model(model, list(hooks)), 1)
    return model


@quiet
@pytest.mark.parametrize("hooks", [(), INSIDE], ids=["bare", "wrapped"])
@pytest.mark.parametrize("make", composites.MODELS.values(), ids=composites.MODELS)
def test_a_copy_of_any_model_is_exact_and_nothing_of_it_is_the_originals(make, hooks):
    model = trained(make, hooks)
    before = snapshot(model)
    copy = kwrap.clone_model(model)
    assert snapshot(model) == before
    assert [layer.__class__.__mro__ for layer in copy._flatten_layers()] == [
        layer.__class__.__mro__ for layer in model._flatten_layers()
    ]
    assert same(values(copy.weights), values(model.weights))
    assert same(values(copy.optimizer.variables), values(model.optimizer.variables))
    assert [variable.trainable for variable in copy.variables] == [variable.trainable for variable in model.variables]
    assert same(composites.outputs(copy), composites.outputs(model))
    for parts in (specimens.layers_of, specimens.all_variables, lambda m: [hook for _, hook in kwrap.find_hooks(m)]):
        assert {id(part) for part in parts(model)}.isdisjoint(id(part) for part in parts(copy))


@quiet
@pytest.mark.parametrize("make", composites.MODELS.values(), ids=composites.MODELS)
def test_a_copy_of_any_model_trains_on_as_the_original_would_and_leaves_it_alone(make):
    model = trained(make, INSIDE)
    model.reset_metrics()
    copy = kwrap.clone_model(model)
    before = snapshot(model)
    losses = composites.train(copy, 2)
    trained_copy, outputs = values(copy.weights), composites.outputs(copy)
    kwrap.unwrap_model(copy)
    assert not same(values(copy.weights), values(model.weights))
    assert snapshot(model) == before
    assert composites.train(model, 2) == losses
    assert same(values(model.weights), trained_copy)
    assert same(composites.outputs(model), outputs)


@pytest.mark.parametrize("make", composites.MODELS.values(), ids=composites.MODELS)
def test_a_wrapped_copy_of_any_model_is_as_the_model_wrapped_in_place(make):
    model = make()
    copy = kwrap.clone_model(model, INSIDE)
    assert kwrap.find_hooks(model) == []
    kwrap.wrap_model(model, INSIDE)
    named = [[path for path, hook in kwrap.find_hooks(one, Adapter)] for one in (copy, model)]
    assert named[0] == named[1]
    assert len(kwrap.find_hooks(copy)) == len(kwrap.find_hooks(model))
    assert same(values(copy.weights), values(model.weights))
    assert same(composites.outputs(copy), composites.outputs(model))


@pytest.mark.parametrize("name", ["bert", "gemma"])
def test_a_copy_of_a_task_and_of_a_backbone_of_keras_hub_is_of_its_class_and_exact(name):
    model = zoo.build(name)
    kwrap.wrap_model(model, [Mask, NonNegative])
    inputs = zoo.ZOO[name].batch()[0]
    copy = kwrap.clone_model(model)
    assert type(copy).__mro__ == type(model).__mro__
    assert same(copy(inputs, training=False), model(inputs, training=False))
    assert same(values(copy.optimizer.variables), values(model.optimizer.variables))
    before = values(model.weights)
    kwrap.unwrap_model(copy, merge=False)
    zoo.train(copy, name, 1)
    assert same(values(model.weights), before)
    assert type(copy) is type(zoo.build(name))


def test_a_copy_of_a_composite_with_a_hook_on_it_and_hooks_inside_has_both():
    rules = [scale(factor=0.5).at(["block", "pair"]), Times(factor=0.75).at("**/up")]
    model = kwrap.wrap_model(composites.in_graph(), rules)
    copy = kwrap.clone_model(model)
    assert [(path, hook.name) for path, hook in kwrap.find_hooks(copy)] == [
        (path, hook.name) for path, hook in kwrap.find_hooks(model)
    ]
    assert same(composites.outputs(copy), composites.outputs(model))


@keras.saving.register_keras_serializable("cloning")
class Lazy(keras.layers.Layer):
    """A composite without a `build`: what attention holds is made when the layer is called."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention, self.last = keras.layers.MultiHeadAttention(2, 2), keras.layers.Dense(4, name="last")

    def call(self, query, value):
        return self.last(self.attention(query, value))


def test_a_composite_that_makes_layers_when_it_is_called_is_copied():
    one, two = keras.Input((5, 4)), keras.Input((3, 4))
    model = keras.Model([one, two], Lazy(name="lazy")(one, value=two))
    kwrap.wrap_model(model, [Mask, Times(factor=0.5)])
    copy = kwrap.clone_model(model)
    given = [composites.inputs(), composites.inputs()[:, :3]]
    assert len(kwrap.find_hooks(copy)) == len(kwrap.find_hooks(model))
    assert same(copy(given), model(given))


# --- bad input -------------------------------------------------------------------------------------------------------


class Subclassed(keras.Model):
    """A model that Keras cannot rebuild."""

    def __init__(self, units):
        super().__init__(name="whole")
        self.dense = keras.layers.Dense(units, name="dense")

    def call(self, inputs):
        return self.dense(inputs)


def test_a_class_that_keras_cannot_rebuild_is_named_with_the_way_out():
    model = Subclassed(2)
    model(np.ones((1, 4), "float32"))
    before = snapshot_without_config(model)
    with pytest.raises(
        errors.CloneError, match="cannot rebuild 'whole': its class Subclassed has no get_config"
    ) as caught:
        kwrap.clone_model(model)
    assert "kwrap.wrap_model(model, ...) works in place" in str(caught.value)
    assert (caught.value.name, caught.value.kind) == ("whole", "Subclassed")
    assert isinstance(caught.value, TypeError)
    assert snapshot_without_config(model) == before


def test_a_nested_class_that_keras_cannot_rebuild_is_named_too():
    inner = Subclassed(4)
    inner(np.ones((1, 4), "float32"))
    model = keras.Sequential([keras.layers.Input((4,)), inner, keras.layers.Dense(2, name="out")])
    with pytest.raises(errors.CloneError, match="'whole': its class Subclassed"):
        kwrap.clone_model(model, Idle, where="out")
    assert kwrap.find_hooks(kwrap.wrap_model(model, Idle, where="out"))


def test_a_layer_that_keras_cannot_rebuild_is_named_too():
    class Custom(keras.layers.Layer):
        def __init__(self, units):
            super().__init__(name="custom")
            self.units = units

        def call(self, inputs):
            return inputs[:, : self.units]

    model = keras.Sequential([keras.layers.Input((4,)), Custom(3), keras.layers.Dense(2, name="out")])
    with pytest.raises(errors.CloneError, match=r"'custom': its class .*Custom does not come back") as caught:
        kwrap.clone_model(model, Idle, where="out")
    assert isinstance(caught.value.__cause__, TypeError)


def snapshot_without_config(model: keras.Model) -> list:
    return [values(model.variables)[0].tobytes(), [id(layer) for layer in model._flatten_layers()], model.built]


def test_a_copy_has_the_very_hook_class_of_the_model_though_its_name_means_another_by_now():
    def define(factor: float) -> type[kwrap.Hook]:
        @kwrap.hook(layer_type=keras.layers.Dense)
        def specimen_redefined(call_next, inputs):
            return call_next(inputs * factor)

        return specimen_redefined

    model = kwrap.wrap_model(sequential(), define(2.0)())
    define(3.0)
    assert same(predict(kwrap.clone_model(model)), predict(model))


def test_the_states_of_a_stateful_recurrent_layer_are_copied():
    model = keras.Sequential([keras.Input((3, 2), batch_size=2), keras.layers.LSTM(4, stateful=True)])
    inputs = np.ones((2, 3, 2), "float32")
    model(inputs)
    copy = kwrap.clone_model(model)
    assert np.array_equal(copy(inputs), model(inputs))


def test_a_wrapped_class_that_keras_cannot_rebuild_is_named_and_stays_as_it_was():
    model = composites.compiled(composites.Unconfigured(3))
    model(composites.inputs())
    kwrap.wrap_model(model, [Mask, scale().at("block")])
    before = snapshot(model)
    with pytest.raises(errors.CloneError, match="'unconfigured': its class Unconfigured has no get_config"):
        kwrap.clone_model(model)
    assert snapshot(model) == before


@keras.saving.register_keras_serializable("cloning")
class Forgetful(keras.layers.Layer):
    """A composite whose config lacks how many layers it holds, and of how many units."""

    def __init__(self, count=1, units=4, **kwargs):
        super().__init__(**kwargs)
        self.held = [keras.layers.Dense(units, name=f"step_{index}") for index in range(count)]

    def build(self, shape):
        for layer in self.held:
            layer.build(shape)

    def call(self, inputs):
        return sum(layer(inputs) for layer in self.held)

    def get_config(self):
        return {"name": self.name}


@pytest.mark.parametrize("hooks", [[], [Times]], ids=["bare", "wrapped"])
@pytest.mark.parametrize(
    ("options", "problem"),
    [({"count": 2}, "comes back from its config with other layers in it"), ({"units": 3}, "or of other shapes")],
    ids=["layers", "shapes"],
)
def test_a_class_that_comes_back_with_other_layers_or_weights_is_an_error_and_nothing_changes(options, problem, hooks):
    model = keras.Sequential([keras.Input((4,)), Forgetful(name="composite", **options)], name="around")
    if hooks:
        kwrap.wrap_model(model, hooks)
    before = snapshot(model)
    with pytest.raises(errors.CloneError, match=f"'around': its class Sequential .*{problem}"):
        kwrap.clone_model(model)
    assert snapshot(model) == before


def test_what_is_excluded_from_weight_decay_is_excluded_in_the_copy():
    model = specimens.sequential()
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.5)
    optimizer.exclude_from_weight_decay([model.get_layer("first").kernel], ["bias"])
    specimens.compiled(model, steps=1, optimizer=optimizer)
    copy = kwrap.clone_model(model)
    specimens.train(model), specimens.train(copy)
    assert specimens.same(specimens.values(copy.weights), specimens.values(model.weights))


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`:UserWarning")
def test_a_learning_rate_that_is_a_lambda_is_an_error_that_names_the_model():
    model = specimens.sequential()
    model.compile(keras.optimizers.SGD(lambda: 0.1), "mse")
    with pytest.raises(errors.CloneError, match=r"'line'.*compiled with what does not come back.*compile=False"):
        kwrap.clone_model(model)
    copy = kwrap.clone_model(model, compile=False)
    assert (copy.compiled, model.compiled) == (False, True)
    assert same(values(copy.weights), values(model.weights))


def test_a_copy_that_is_not_compiled_has_the_weights_and_hooks_and_is_compiled_anew():
    model = compiled(kwrap.wrap_model(sequential(), MANY), steps=2)
    before = snapshot(model)
    copy = kwrap.clone_model(model, Plus, where="last", compile=False)
    assert snapshot(model) == before
    assert not copy.compiled
    names = [(path, hook.name) for path, hook in kwrap.find_hooks(copy)]
    assert names == [*((path, hook.name) for path, hook in kwrap.find_hooks(model)), ("last", Plus.hook_name)]
    kwrap.unwrap_model(copy, Plus, merge=False)
    assert same(values(copy.weights), values(model.weights))
    train(compiled(copy), 1)


def test_a_copy_that_is_not_compiled_is_not_measured_by_the_originals_optimizer():
    model = sequential()
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=4), "mse")
    with pytest.raises(errors.PlanError, match="once in 4 calls"):
        kwrap.clone_model(model, "prune")
    assert kwrap.find_hooks(kwrap.clone_model(model, "prune", compile=False))


def test_a_model_whose_compile_is_its_own_is_copied_uncompiled_with_a_warning():
    model = kwrap.wrap_model(composites.gan(), Times())
    with pytest.warns(errors.UncompiledCopyWarning, match="the copy of 'gan' is not compiled: Gan.compile takes"):
        copy = kwrap.clone_model(model)
    assert not copy.compiled
    assert same(values(copy.weights), values(model.weights))
    assert [path for path, _ in kwrap.find_hooks(copy)] == [path for path, _ in kwrap.find_hooks(model)]


def test_a_sequential_that_shares_the_input_of_the_model_around_it_is_cloned():
    inputs = keras.Input((4,))
    inner = keras.Sequential([inputs, keras.layers.Dense(3)], name="inner")
    model = keras.Model(inputs, keras.layers.Dense(2)(inner(inputs)))
    model.layers[-1].trainable = False
    copy = kwrap.clone_model(model)
    x = np.ones((2, 4), "float32")
    np.testing.assert_array_equal(copy(x), model(x))
    assert [variable.trainable for variable in copy.variables] == [variable.trainable for variable in model.variables]
