import abc
import functools
import gc
import os
import pickle
import subprocess
import sys
import weakref
from typing import Any, ClassVar, Generic, TypeVar

import keras
import numpy as np
import pytest
import tensorflow as tf

import kwrap
from kwrap import errors

from . import composites, specimens
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
    data,
    predict,
    same,
    scale,
    sequential,
    shift,
    snapshot,
    train,
    values,
)

EVERY_KIND = [Idle, scale, shift, NonNegative, Mask, Jitter, Times]
# Adding and subtracting what an optimizer has not moved leaves a weight as it was only where nothing is stored anew.
LEAVE_WEIGHTS = [Idle, scale, shift, Jitter, Times, Plus, Adapter]


def dense(model: keras.Model, name: str) -> tuple[np.ndarray, np.ndarray]:
    layer = model.get_layer(name)
    return np.array(layer.kernel), np.array(layer.bias)


# --- wrapping in place -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [sequential, branched])
def test_the_same_model_comes_back_with_its_class_names_paths_and_layer_order(make):
    model = compiled(make())
    before = type(model), model.name, [layer.name for layer in model.layers], [v.path for v in model.weights]
    layers = [layer for layer in model._flatten_layers() if not isinstance(layer, keras.Model)]
    assert kwrap.wrap_model(model, Idle) is model
    assert (type(model), model.name, [layer.name for layer in model.layers], [v.path for v in model.weights]) == before
    assert model.compiled
    after = {id(layer) for layer in model._flatten_layers()}
    assert {id(layer) for layer in layers} <= after


@pytest.mark.parametrize("make", [sequential, branched])
def test_hooks_change_what_the_layers_give_as_numpy_says(make):
    model = make()
    name = "last" if make is sequential else "second"
    inner = keras.Model(specimens.input_of(model), model.get_layer(name).input)
    inputs, _ = data(model)
    incoming = np.asarray(inner(inputs, training=False))
    kernel, bias = dense(model, name)
    kwrap.wrap_model(model, [scale(factor=3.0), shift(amount=0.5), Times(factor=0.25), Plus()], where=name)
    result = predict(model)
    result = result["second"] if make is branched else result
    # The first hook is outermost; weight hooks run in list order. The order of a matrix product's sums is free.
    np.testing.assert_allclose(result, (incoming @ (kernel * 0.25 + 1.0) + bias + 0.5) * 3.0, rtol=1e-5, atol=1e-5)


def test_a_hook_on_a_shared_layer_acts_on_each_of_its_calls():
    model = branched()
    seen = []

    @kwrap.hook(layer_type=keras.layers.Dense, name="model_counted")
    def counted(call_next, inputs):
        seen.append(1)
        return call_next(inputs)

    kwrap.wrap_model(model, counted, where="shared")
    seen.clear()
    predict(model)
    assert len(seen) == 2
    assert len(kwrap.find_hooks(model)) == 1


def test_recursive_false_leaves_nested_models_alone():
    model = kwrap.wrap_model(branched(), Times, recursive=False)
    assert [path for path, _ in kwrap.find_hooks(model)] == ["shared", "first", "second"]


def test_a_dict_loss_by_layer_name_works_on_a_wrapped_model():
    model = compiled(kwrap.wrap_model(branched(), [Idle, Times]))
    losses = train(model, 30)
    assert losses[-1] < losses[0]
    assert {"first_loss", "second_loss", "first_mae"} <= set(model.get_metrics_result())


def test_wrapping_a_wrapped_model_appends_and_never_nests():
    model = kwrap.wrap_model(sequential(), Times(factor=0.5), where="last")
    wrapper = model.get_layer("last")
    kwrap.wrap_model(model, [Plus, shift], where="last")
    assert model.get_layer("last") is wrapper
    assert not isinstance(wrapper.layer, kwrap.Wrapper)
    assert [hook.name for hook in wrapper.hooks] == ["specimen_times", "specimen_plus", "specimen_shift"]
    once = kwrap.wrap_model(clone_of(sequential, model), [Times(factor=0.5), Plus(), shift()], where="last")
    assert same(predict(model), predict(once))


def clone_of(make, model: keras.Model) -> keras.Model:
    """Return a bare model with the weights of one of the same structure."""
    fresh = make()
    for new, old in zip(fresh.weights, [v for v in model.weights if "specimen" not in v.path], strict=True):
        new.assign(old)
    return fresh


def test_appending_keeps_the_state_and_the_work_of_the_hooks_that_are_there():
    model = compiled(kwrap.wrap_model(sequential(), [Mask, NonNegative]))
    masks = {path: values(hook.variables) for path, hook in kwrap.find_hooks(model, Mask)}
    steps = [int(hook.state(hook.target_weights[0], "step")) for _, hook in kwrap.find_hooks(model, NonNegative)]
    kwrap.wrap_model(model, Idle)
    assert {path: values(hook.variables) for path, hook in kwrap.find_hooks(model, Mask)}.keys() == masks.keys()
    train(model, 2)
    for path, hook in kwrap.find_hooks(model, Mask):
        assert same(values(hook.variables), masks[path])
    assert [int(h.state(h.target_weights[0], "step")) for _, h in kwrap.find_hooks(model, NonNegative)] == [
        step + 2 for step in steps
    ]


def test_a_name_finds_an_installed_hook():
    model = kwrap.wrap_model(sequential(), "specimen_times")
    assert {type(hook) for _, hook in kwrap.find_hooks(model)} == {Times}


# --- finding hooks ---------------------------------------------------------------------------------------------------


def test_find_hooks_by_name_registered_name_class_or_all():
    model = kwrap.wrap_model(sequential(), [Times(name="mine"), Idle()], where=keras.layers.Dense)
    assert [(path, hook.name) for path, hook in kwrap.find_hooks(model)] == [
        ("first", "mine"),
        ("first", "specimen_idle"),
        ("last", "mine"),
        ("last", "specimen_idle"),
    ]
    for given in ("mine", "specimen_times", Times):
        assert [(path, type(hook)) for path, hook in kwrap.find_hooks(model, given)] == [
            ("first", Times),
            ("last", Times),
        ]
    assert kwrap.find_hooks(model, "other") == []
    assert kwrap.find_hooks(sequential()) == []


def test_a_hook_knows_its_path():
    model = kwrap.wrap_model(branched(), Idle, where="**/inner")
    assert [(path, hook.path) for path, hook in kwrap.find_hooks(model)] == [
        ("encoder/inner", "encoder/inner"),
        ("tower/inner", "tower/inner"),
    ]


# --- feature extraction ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "name"), [(sequential, "first"), (sequential, "norm"), (branched, "both")])
def test_features_are_read_off_the_wrapped_model_and_off_the_unwrapped_one(make, name):
    model = make()
    inputs, _ = data(model)

    def features():
        return np.asarray(keras.Model(specimens.input_of(model), model.get_layer(name).output)(inputs, training=False))

    plain = features()
    kwrap.wrap_model(model, scale(factor=2.0), where=name)
    assert same(features(), plain * np.float32(2.0))
    kwrap.unwrap_model(model)
    assert same(features(), plain)


def test_features_made_before_wrapping_see_the_hooks_as_they_share_the_layers():
    model = sequential()
    features = keras.Model(specimens.input_of(model), model.get_layer("norm").output)
    inputs, _ = data(model)
    plain = np.asarray(features(inputs))
    kwrap.wrap_model(model, Idle)
    kwrap.unwrap_model(model)
    assert same(np.asarray(features(inputs)), plain)


# --- layers inside of layers, and classes of one's own ---------------------------------------------------------------


@keras.saving.register_keras_serializable("model")
class Rich(composites.Tagger):
    """A class with all that a class may have."""

    kind = "rich"

    @classmethod
    def small(cls):
        """Return another model of the class."""
        return cls(units=2)

    @staticmethod
    def twice(value):
        """Return the value, doubled."""
        return value * 2

    @functools.cached_property
    def names(self):
        """The names of the blocks."""
        return [block.name for block in self.blocks]

    def call(self, inputs, training=None):
        return self.twice(super().call(inputs, training=training))

    def describe(self):
        """Return the class and what a property of the parent says."""
        return f"{type(self).__name__} {self.__class__.kind} of {self.depth}"


def rich() -> Rich:
    model = Rich(name="rich")
    model(composites.inputs())
    return model


def test_a_subclassed_model_stays_itself():
    model = rich()
    before = composites.outputs(model)
    assert kwrap.wrap_model(model, Idle) is model
    assert isinstance(model, Rich)
    assert issubclass(type(model), composites.Tagger)
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        assert getattr(type(model), name) == getattr(Rich, name)
    assert (model.describe(), model.names, model.twice(2)) == ("Rich rich of 2", ["block_0", "block_1"], 4)
    assert same(composites.outputs(model), before)
    model.units = 7
    assert model.units == 7
    kwrap.unwrap_model(model)
    assert type(model) is Rich


def test_other_models_that_a_wrapped_one_makes_are_of_its_own_class():
    model = kwrap.wrap_model(rich(), Idle)
    for other in (model.small(), type(model)(units=2)):
        assert type(other) is Rich
        assert other.units == 2


def test_attributes_and_containers_that_point_at_a_wrapped_layer_point_at_its_wrapper():
    model = kwrap.wrap_model(composites.tagger(), Idle)
    block = model.blocks[0]
    held = [
        model.embed,
        block.attention.query_dense,
        block.steps[1],
        block.parts["line"].layers[0],
        model.by_name["both"].forward_layer,
        model.heads[0].layer,
        model.heads[1],
        model.get_layer("embed"),
    ]
    assert all(isinstance(layer, kwrap.Wrapper) for layer in held)
    assert isinstance(model.heads, tuple)
    assert model.embed.kernel is model.embed.layer.kernel
    kwrap.unwrap_model(model)
    assert type(model.embed) is type(model.heads[1]) is type(block.steps[1]) is keras.layers.Dense


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("make", [composites.in_graph, composites.tower])
def test_models_around_a_composite_show_the_hooks_whenever_they_are_made_and_run_on_afterwards(make, when):
    model = make()
    block = "block" if make is composites.in_graph else "body"

    def parts() -> list[keras.Model]:
        """Return a feature extractor and a larger model."""
        extractor = keras.Model(model.input, model.get_layer(block).output)
        return [extractor, keras.Sequential([keras.Input((5, 4)), model.get_layer(block), keras.layers.ReLU()])]

    made, inputs = parts(), composites.inputs()
    plain = [part.predict(inputs, verbose=0) for part in made]
    kwrap.wrap_model(model, Times(factor=0.5))
    shown = made if when == "before" else parts()
    assert all(kwrap.find_hooks(part) for part in shown)
    wrapped = [part.predict(inputs, verbose=0) for part in shown]
    assert not any(same(one, other) for one, other in zip(wrapped, plain, strict=True))
    with kwrap.bypass(model):
        assert same([part.predict(inputs, verbose=0) for part in shown], plain)
    kwrap.unwrap_model(model, merge=False)
    assert same([part.predict(inputs, verbose=0) for part in shown], plain)
    assert not any(specimens.objects_of_kwrap(part) for part in shown)


def test_of_two_models_of_one_class_only_the_wrapped_one_has_hooks():
    one, other = composites.tagger(), composites.tagger()
    before = snapshot(other)
    kwrap.wrap_model(one, Times(factor=0.0))
    assert snapshot(other) == before
    assert type(other) is composites.Tagger
    assert type(one) is not composites.Tagger
    assert kwrap.find_hooks(other) == []


class Registering(keras.Model):
    """A base that enters its subclasses into a registry, and asks for a key."""

    known: ClassVar[dict[str, type]] = {}

    def __init_subclass__(cls, key, **kwargs):
        super().__init_subclass__(**kwargs)
        if key in cls.known:
            raise ValueError(f"{key} is taken")
        cls.known[key] = cls


class Registered(Registering, key="registered"):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2, name="dense")

    def call(self, inputs):
        return self.dense(inputs)


class Abstract(keras.Model, abc.ABC):
    @abc.abstractmethod
    def width(self):
        """Return the width."""


class Concrete(Abstract, Generic[TypeVar("T")]):
    __slots__ = ("extra",)

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2, name="dense")
        object.__setattr__(self, "extra", 5)

    def __setattr__(self, name, value):
        if name.startswith("__"):
            raise AttributeError(name)
        super().__setattr__(name, value)

    def call(self, inputs):
        return self.dense(inputs)

    def width(self):
        return self.dense.units + self.extra


@pytest.mark.parametrize("cls", [Registered, Concrete])
def test_a_class_of_any_make_is_wrapped_and_comes_back(cls):
    model = cls()
    inputs = batch()
    plain = np.array(model(inputs))
    kwrap.wrap_model(model, scale(factor=2.0))
    assert same(np.asarray(model(inputs)), plain * np.float32(2.0))
    assert isinstance(model, cls)
    if cls is Concrete:
        assert isinstance(model, Abstract)
        assert (model.width(), model.extra) == (7, 5)
    else:
        assert Registering.known == {"registered": Registered}
    kwrap.unwrap_model(model)
    assert type(model) is cls
    assert same(np.asarray(model(inputs)), plain)


def test_a_metaclass_that_refuses_another_class_stops_the_wrapping_and_the_model_is_as_it_was():
    class Once(type(keras.Model)):
        def __new__(cls, name, bases, namespace):
            if any(isinstance(base, Once) for base in bases):
                raise TypeError(f"no class may derive from {name}")
            return super().__new__(cls, name, bases, namespace)

    class Single(keras.layers.Layer, metaclass=Once):
        def __init__(self):
            super().__init__(name="single")
            self.dense = keras.layers.Dense(4, name="dense")

        def build(self, shape):
            self.dense.build(shape)

        def call(self, inputs):
            return self.dense(inputs)

        def get_config(self):
            return {}

    block = composites.Block(name="block")
    model = keras.Sequential([keras.Input((5, 4)), block, Single(), composites.Block(name="other")])
    before = snapshot(model)
    with pytest.raises(TypeError, match="no class may derive from Single"):
        kwrap.wrap_model(model, Idle)
    assert snapshot(model) == before
    assert type(block) is composites.Block
    kwrap.wrap_model(model, Idle, exclude="single/**")
    assert type(block) is not composites.Block


def batch() -> np.ndarray:
    """Return inputs of (n, 4)."""
    return np.random.default_rng(6).normal(size=(8, 4)).astype("float32")


@pytest.mark.parametrize("make", composites.MODELS.values(), ids=composites.MODELS)
def test_some_hooks_come_off_and_others_come_on_whatever_the_model(make):
    model = make()
    plain = composites.outputs(model)
    kwrap.wrap_model(model, [scale(factor=2.0).at("**/up"), Times(factor=0.5), Idle()])
    kwrap.wrap_model(model, shift(amount=0.25), where="**/up")
    wrapper = next(
        layer for layer in model._flatten_layers() if isinstance(layer, kwrap.Wrapper) and layer.name == "up"
    )
    assert [hook.hook_name for hook in wrapper.hooks] == [
        "specimen_scale",
        "specimen_times",
        "specimen_idle",
        "specimen_shift",
    ]
    wrapped = composites.outputs(model)
    kwrap.unwrap_model(model, [Times, "specimen_idle"])
    assert {hook.hook_name for _, hook in kwrap.find_hooks(model)} == {"specimen_scale", "specimen_shift"}
    assert same(composites.outputs(model), wrapped)  # merged
    kwrap.unwrap_model(model)
    assert specimens.objects_of_kwrap(model) == []
    assert not same(composites.outputs(model), plain)


def block_in_graph() -> keras.Model:
    """Return a Functional model around a composite."""
    line = [keras.Input((5, 4)), composites.Block(name="block"), keras.layers.Dense(2, name="head")]
    return keras.Sequential(line, name="line")


@pytest.mark.parametrize("make", [block_in_graph, composites.unconfigured])
def test_whatever_the_model_what_was_traced_sees_each_change(make):
    model = composites.compiled(make())
    model.optimizer.learning_rate = 0.0
    inputs, targets = composites.inputs(), composites.targets()

    def results() -> list[Any]:
        """Return what predict gives, and the loss that fit tells; both traced before the next change."""
        return [model.predict(inputs, verbose=0), model.fit(inputs, targets, verbose=0).history["loss"]]

    plain = results()
    kwrap.wrap_model(model, Times(factor=0.5), where="**/up")
    wrapped = results()
    kwrap.wrap_model(model, scale(factor=3.0), where="**/down")
    both = results()
    assert not same(wrapped, plain)
    assert not same(both, wrapped)
    with kwrap.bypass(model, Times):
        assert not any(same(results(), known) for known in (plain, wrapped, both))
    with kwrap.bypass(model):
        assert same(results(), plain)
    assert same(results(), both)
    kwrap.unwrap_model(model, scale)
    assert same(results(), wrapped)
    kwrap.unwrap_model(model, merge=False)
    assert same(results(), plain)


def test_a_callback_changes_the_hooks_while_fit_is_running():
    model = composites.compiled(composites.unconfigured())
    seen = []

    class Change(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(len(kwrap.find_hooks(model)))
            if epoch == 0:
                kwrap.wrap_model(model, [NonNegative(), Adapter().at("head")])
                with kwrap.bypass(model):
                    model.evaluate(composites.inputs(), composites.targets(), verbose=0)
            elif epoch == 2:
                kwrap.unwrap_model(model)

    model.fit(composites.inputs(), composites.targets(), epochs=4, verbose=0, callbacks=[Change()])
    assert seen[1] == seen[2] > 1
    assert seen[0] == seen[3] == 0
    assert int(model.optimizer.iterations) == 4
    assert type(model) is composites.Unconfigured


# --- unwrapping ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hooks", [LEAVE_WEIGHTS, [Adapter], [Idle]], ids=["many", "freezing", "idle"])
@pytest.mark.parametrize("make", [sequential, branched])
def test_what_was_wrapped_and_unwrapped_is_what_it_was_to_the_bit(make, hooks):
    model = make()
    model.get_layer("first").trainable = False
    ops = specimens.graph_ops(model)
    before = snapshot(model)
    rules = [hook().at(keras.layers.Dense) for hook in hooks]
    for _ in range(2):
        kwrap.wrap_model(model, rules)
        assert snapshot(model) != before
        assert kwrap.unwrap_model(model, merge=False) is model
    assert snapshot(model) == before
    assert specimens.graph_ops(model) == ops


@pytest.mark.parametrize("make", [sequential, branched])
def test_after_unwrapping_nothing_of_kwrap_is_in_the_model(make):
    model = compiled(make(), steps=1)
    kwrap.wrap_model(model, [*EVERY_KIND, Adapter()], where=keras.layers.Dense)
    train(model, 1)
    predict(model)
    wrapper = next(layer for layer in model._flatten_layers() if isinstance(layer, kwrap.Wrapper))
    assert wrapper in specimens.objects_of_kwrap(model)
    gone = [weakref.ref(part) for part in (wrapper, *wrapper.hooks)]
    del wrapper
    kwrap.unwrap_model(model)
    train(model, 1)
    assert specimens.objects_of_kwrap(model) == []
    assert not any("kwrap" in name for layer in model._flatten_layers() for name in vars(layer))
    # The traces of the wrapped model are garbage; nothing else holds the hooks.
    gc.collect()
    assert [ref() for ref in gone] == [None] * len(gone)


def test_the_users_constraint_comes_back():
    model = sequential()
    own = model.get_layer("first").kernel.constraint
    kwrap.wrap_model(model, [NonNegative, Mask])
    assert model.get_layer("first").kernel.constraint is not own
    kwrap.unwrap_model(model)
    assert model.get_layer("first").kernel.constraint is own
    assert model.get_layer("last").kernel.constraint is None


@pytest.mark.parametrize(
    ("make", "rules"),
    [
        (sequential, [Mask, Times, NonNegative, Adapter().at("last")]),
        (
            branched,
            [
                Times().at("shared"),
                Plus().at("encoder/inner"),
                Mask().at("tower/inner"),
                NonNegative().at("first"),
                Adapter().at("second"),
            ],
        ),
    ],
)
def test_merging_leaves_a_plain_model_that_gives_the_same_at_inference(make, rules):
    model = compiled(kwrap.wrap_model(make(), rules))
    wrapped = predict(model)
    kwrap.unwrap_model(model)
    assert not any(isinstance(layer, kwrap.Wrapper) for layer in model._flatten_layers())
    assert same(predict(model), wrapped)


def test_merging_leaves_the_weights_that_numpy_says():
    model = sequential()
    kernel, bias = dense(model, "last")
    kwrap.unwrap_model(kwrap.wrap_model(model, [Times(factor=0.5), Plus()], where="last"))
    assert same(dense(model, "last"), (kernel * np.float32(0.5) + np.float32(1.0), bias))


def test_without_merging_the_weights_stay_as_they_are_stored():
    model = sequential()
    before = values(model.weights)
    kwrap.unwrap_model(kwrap.wrap_model(model, [Times, Plus, Adapter], where="last"), merge=False)
    assert same(values(model.weights), before)


def test_a_hook_that_acts_in_training_only_merges_to_nothing():
    model = sequential()
    before = values(model.weights)
    kwrap.unwrap_model(kwrap.wrap_model(model, Times(phase="training")))
    assert same(values(model.weights), before)


def test_unwrapping_a_model_without_hooks_changes_nothing():
    model = compiled(sequential())
    before = snapshot(model)
    assert kwrap.unwrap_model(model) is model
    assert snapshot(model) == before


def test_a_model_made_in_the_scope_of_a_strategy_is_wrapped_and_unwrapped_outside_of_it():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        model = compiled(sequential())
    kwrap.wrap_model(model, Adapter(), where="last")
    (variable,) = (hook.delta for _, hook in kwrap.find_hooks(model))
    assert variable.value.distribute_strategy is strategy
    inputs, targets = data(model)
    model.fit(inputs, targets, verbose=0)
    trained = predict(model)
    assert np.any(variable)
    assert same(predict(kwrap.unwrap_model(model)), trained)
    model.fit(inputs, targets, verbose=0)


def test_a_hook_that_cannot_be_merged_is_named_and_the_model_stays_as_it_was():
    @kwrap.hook(layer_type=keras.layers.Dense, name="model_unmergeable")
    class Unmergeable(kwrap.Hook):
        def merge(self, target, value):
            raise ArithmeticError("no merge")

    model = compiled(kwrap.wrap_model(sequential(), [Times(), Unmergeable().at("last")]))
    before = snapshot(model)
    with pytest.raises(errors.HookCallError, match="'last' in merge: ArithmeticError: no merge"):
        kwrap.unwrap_model(model)
    assert snapshot(model) == before


# --- unwrapping some -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "chosen", [lambda m: "specimen_times", lambda m: Times, lambda m: [Times], lambda m: ["other"]]
)
def test_some_hooks_are_taken_off_by_name_class_or_list_and_the_rest_stays(chosen):
    model = kwrap.wrap_model(sequential(), [Times(name="other"), scale(factor=2.0)], where="last")
    wrapped = predict(model)
    kwrap.unwrap_model(model, chosen(model))
    assert [hook.name for _, hook in kwrap.find_hooks(model)] == ["specimen_scale"]
    assert same(predict(model), wrapped)


def test_one_instance_is_taken_off_its_layer_alone():
    model = kwrap.wrap_model(sequential(), Times, where=keras.layers.Dense)
    (_, first), _ = kwrap.find_hooks(model)
    wrapped = predict(model)
    kwrap.unwrap_model(model, first)
    assert [path for path, _ in kwrap.find_hooks(model)] == ["last"]
    assert type(model.get_layer("first")) is keras.layers.Dense
    assert same(predict(model), wrapped)


def test_the_first_of_two_weight_hooks_is_taken_off_exactly():
    model = kwrap.wrap_model(sequential(), [Times(factor=0.5), Plus()], where="last")
    wrapped, (kernel, _) = predict(model), dense(model, "last")
    kwrap.unwrap_model(model, Times)
    assert same(dense(model, "last")[0], kernel * np.float32(0.5))
    assert same(predict(model), wrapped)


def test_taking_off_a_weight_hook_behind_one_that_stays_is_an_error_with_the_way_out():
    model = compiled(kwrap.wrap_model(sequential(), [Times(factor=0.5), Plus()], where="last"))
    before = snapshot(model)
    with pytest.raises(
        errors.WrapperStateError, match=r"'specimen_plus' at 'last' cannot be merged into 'kernel' exactly while"
    ) as caught:
        kwrap.unwrap_model(model, Plus)
    assert "merge=False" in str(caught.value)
    assert snapshot(model) == before
    kwrap.unwrap_model(model, Plus, merge=False)
    assert [hook.name for _, hook in kwrap.find_hooks(model)] == ["specimen_times"]


@pytest.mark.parametrize("stays", [NonNegative, Idle, Jitter])
def test_a_hook_that_stays_and_does_not_change_what_is_read_is_no_obstacle(stays):
    model = kwrap.wrap_model(sequential(), [stays(), Mask()], where="last")
    wrapped = predict(model)
    kwrap.unwrap_model(model, Mask)
    assert same(predict(model), wrapped)


@pytest.mark.parametrize("order", [1, -1])
def test_a_weight_that_a_constraint_would_change_is_not_merged_while_that_stays(order):
    model = compiled(kwrap.wrap_model(sequential(), [NonNegative(), Times(factor=-1.0)][::order], where="last"))
    before, wrapped = snapshot(model), predict(model)
    with pytest.raises(
        errors.WrapperStateError,
        match=r"'specimen_times' at 'last' cannot be merged into 'kernel' exactly while 'specimen_non_negative', which "
        "would store another weight than the merged one, stays: .* merge=False",
    ):
        kwrap.unwrap_model(model, Times)
    assert snapshot(model) == before
    kwrap.unwrap_model(model, [Times, NonNegative])
    assert same(predict(model), wrapped)


@pytest.mark.parametrize("order", [1, -1])
def test_a_weight_that_a_constraint_leaves_is_merged_while_that_stays(order):
    model = kwrap.wrap_model(sequential(), [NonNegative(), Times(factor=0.5)][::order], where="last")
    wrapped = predict(model)
    kwrap.unwrap_model(model, Times)
    assert same(predict(model), wrapped)


def test_of_two_constraints_one_comes_off_where_the_other_leaves_the_weight():
    model = kwrap.wrap_model(sequential(), [NonNegative(), Mask()], where="last")
    wrapped = predict(model)
    kwrap.unwrap_model(model, NonNegative)
    assert same(predict(model), wrapped)


@pytest.mark.parametrize("given", ["specimen_tmies", Plus, ["nothing"]])
@pytest.mark.parametrize("function", [kwrap.unwrap_model, lambda m, h: kwrap.bypass(m, h).__enter__()])
def test_a_hook_that_is_not_on_the_model_is_an_error_with_those_that_are(function, given):
    model = kwrap.wrap_model(sequential(), Times)
    before = snapshot(model)
    with pytest.raises(errors.AbsentHookError, match=r"on it are 'specimen_times'") as caught:
        function(model, given)
    assert caught.value.present == ["specimen_times"]
    assert snapshot(model) == before


def test_one_of_several_hooks_that_is_not_on_the_model_is_an_error_too():
    model = kwrap.wrap_model(sequential(), Times)
    with pytest.raises(errors.AbsentHookError, match="'nothing'"):
        kwrap.unwrap_model(model, [Times, "nothing"])
    assert kwrap.find_hooks(model)


def test_hooks_on_different_weights_are_taken_off_in_any_order():
    model = kwrap.wrap_model(sequential(), [Times(factor=0.5, targets="bias"), Plus()], where="last")
    wrapped = predict(model)
    kwrap.unwrap_model(model, Plus)
    assert np.allclose(predict(model), wrapped, atol=1e-6)


@pytest.mark.parametrize("call", [kwrap.plan, kwrap.clone_model])
def test_layers_chosen_and_no_hooks_to_put_on_them_is_an_error(call):
    with pytest.raises(errors.NoHooksError):
        call(sequential(), where="first")


def test_a_model_that_shares_the_graph_is_wrapped_too_and_can_be_saved_extracted_from_and_unwrapped(tmp_path):
    base = sequential()
    tuned = keras.Model(base.inputs, keras.layers.Dense(1)(base.outputs[0]))
    extractor = keras.Model(base.inputs, base.get_layer("first").output)
    bare = predict(base), predict(extractor)
    kwrap.wrap_model(tuned, Times(factor=0.0))
    assert [path for path, _ in kwrap.find_hooks(extractor)] == ["first"]
    assert not same(predict(extractor), bare[1])  # traced before
    for model in (base, extractor):
        model.save(tmp_path / "shared.keras")
        assert same(predict(keras.models.load_model(tmp_path / "shared.keras")), predict(model))
    assert keras.Model(base.inputs, base.get_layer("last").output).outputs
    kwrap.unwrap_model(tuned, merge=False)
    assert same(predict(base), bare[0])
    assert same(predict(extractor), bare[1])
    assert not any(kwrap.find_hooks(model) for model in (base, extractor))


def test_a_clone_of_a_model_that_shares_its_graph_leaves_the_others_alone():
    base = sequential()
    tuned = keras.Model(base.inputs, keras.layers.Dense(1)(base.outputs[0]))
    before = snapshot(base)
    kwrap.clone_model(tuned, Times)
    assert snapshot(base) == before


def test_without_recursive_a_layer_that_a_nested_model_shares_is_one_wrapper_in_both():
    shared = keras.layers.Dense(4, name="shared")
    inputs, outer = keras.Input((4,)), keras.Input((4,))
    inner = keras.Model(inputs, shared(inputs), name="inner")
    model = keras.Model(outer, keras.layers.Add()([inner(outer), shared(outer)]))
    kwrap.wrap_model(model, Times, where="shared", recursive=False)
    assert inner.get_layer("shared") is model.get_layer("shared")
    assert model.get_config()


def test_clone_function_keeps_the_hooks_that_a_layer_has_and_never_nests():
    model = kwrap.wrap_model(sequential(), Times, where="last")
    copy = keras.models.clone_model(model, clone_function=kwrap.clone_function(Plus, where="last"))
    assert [hook.hook_name for _, hook in kwrap.find_hooks(copy)] == ["specimen_times", "specimen_plus"]
    assert type(copy.get_layer("last").layer) is keras.layers.Dense


# --- bypass ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [sequential, branched])
def test_inside_bypass_the_model_works_as_without_hooks_and_afterwards_as_before(make):
    model = make()
    plain = predict(model)
    kwrap.wrap_model(model, [scale, Times, Plus, Jitter], where=keras.layers.Dense)
    wrapped, before = predict(model), snapshot(model)
    with kwrap.bypass(model) as same_model:
        assert same_model is model
        assert same(predict(model), plain)
    assert same(predict(model), wrapped)
    assert snapshot(model) == before


def test_bypass_of_some_leaves_the_others_on():
    model = sequential()
    plain = predict(model)
    kwrap.wrap_model(model, [scale(factor=2.0), Times(factor=0.0)], where="last")
    with kwrap.bypass(model, Times):
        np.testing.assert_array_equal(predict(model), plain * np.float32(2.0))
    with kwrap.bypass(model, "specimen_scale"):
        np.testing.assert_array_equal(predict(model), np.zeros_like(plain) + dense(model, "last")[1])


def test_bypasses_nest_and_an_exception_ends_one():
    model = sequential()
    plain = predict(model)
    kwrap.wrap_model(model, [scale(factor=2.0), shift(amount=1.0)], where="last")
    wrapped = predict(model)
    with kwrap.bypass(model, scale):
        one = predict(model)
        with kwrap.bypass(model, shift):
            assert same(predict(model), plain)
        assert same(predict(model), one)
        with kwrap.bypass(model):
            assert same(predict(model), plain)
        assert same(predict(model), one)
    assert same(predict(model), wrapped)
    with pytest.raises(ZeroDivisionError), kwrap.bypass(model):
        raise ZeroDivisionError
    assert same(predict(model), wrapped)


def test_a_traced_predict_sees_bypass_begin_and_end():
    model = kwrap.wrap_model(sequential(), Times(factor=0.0), where="last")
    inputs, _ = data(model)
    wrapped = model.predict(inputs, verbose=0)
    with kwrap.bypass(model):
        assert not same(model.predict(inputs, verbose=0), wrapped)
    assert same(model.predict(inputs, verbose=0), wrapped)


def test_what_is_stored_stays_stored_inside_bypass():
    model = kwrap.wrap_model(sequential(), NonNegative)
    with kwrap.bypass(model):
        assert (dense(model, "last")[0] >= 0).all()


# --- clone_function --------------------------------------------------------------------------------------------------


def test_clone_function_wraps_fresh_layers_where_the_name_matches():
    model = branched()
    hooks = [Times().at("s*"), Idle().at(keras.layers.Dense, exclude="second")]
    copy = keras.models.clone_model(model, clone_function=kwrap.clone_function(hooks))
    assert {path: hook.hook_name for path, hook in kwrap.find_hooks(copy)} == {
        "shared": "specimen_idle",
        "second": "specimen_times",
        "first": "specimen_idle",
    }
    assert [hook.hook_name for path, hook in kwrap.find_hooks(copy) if path == "shared"] == [
        "specimen_times",
        "specimen_idle",
    ]
    own = {id(layer) for layer in model._flatten_layers()}
    assert not [layer for layer in copy.layers if id(layer) in own and not isinstance(layer, keras.Model)]
    assert kwrap.find_hooks(model) == []


def test_a_model_cloned_so_trains_and_unwraps_and_the_original_stays_as_it_was():
    model = sequential()
    before = snapshot(model)
    copy = keras.models.clone_model(model, clone_function=kwrap.clone_function([Mask, Adapter]))
    compiled(copy)
    wrapped = predict(copy)
    kwrap.unwrap_model(copy)
    assert same(predict(copy), wrapped)
    assert snapshot(model) == before


def test_clone_function_makes_hooks_of_their_own_for_each_model():
    function = kwrap.clone_function(Times)
    one, two = (keras.models.clone_model(sequential(), clone_function=function) for _ in range(2))
    hooks = [hook for model in (one, two) for _, hook in kwrap.find_hooks(model)]
    assert len({id(hook) for hook in hooks}) == len(hooks) == 4


# --- saving ----------------------------------------------------------------------------------------------------------

LOAD = """
import sys
import keras
sys.path.insert(0, {folder!r})
import specimens
import kwrap

for path in {paths!r}:
    model = keras.models.load_model(path, compile=False)
    hooks = [(where, hook.name, specimens.values(hook.variables)) for where, hook in kwrap.find_hooks(model)]
    wrapped = specimens.predict(model)
    specimens.keep(path + ".pickle", hooks, wrapped, specimens.predict(kwrap.unwrap_model(model)))
"""


def test_plain_saves_are_loaded_by_keras_in_a_process_of_its_own(tmp_path):
    models, paths = [], []
    for make in (sequential, branched):
        model = compiled(make(), steps=1)
        kwrap.wrap_model(model, [Mask, Times, NonNegative, Adapter().at("first"), scale().at("first")])
        train(model)
        models.append(model)
        paths.append(str(tmp_path / f"{model.name}.keras"))
        model.save(paths[-1])
    code = LOAD.format(folder=os.path.dirname(specimens.__file__), paths=paths)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    for model, path in zip(models, paths, strict=True):
        with open(path + ".pickle", "rb") as file:
            hooks, wrapped, unwrapped = pickle.load(file)
        expected = [(where, hook.name, values(hook.variables)) for where, hook in kwrap.find_hooks(model)]
        assert [hook[:2] for hook in hooks] == [hook[:2] for hook in expected]
        assert same([hook[2] for hook in hooks], [hook[2] for hook in expected])
        assert same(wrapped, predict(model))
        assert same(unwrapped, predict(kwrap.unwrap_model(model)))


def test_a_compiled_model_is_loaded_with_its_optimizers_state_and_trains_on_as_the_saved_one(tmp_path):
    model = sequential()
    model.get_layer("drop").rate = 0.0
    model.compile(keras.optimizers.Adam(0.05), "mse")
    train(model, 2)
    kwrap.wrap_model(model, [Mask, NonNegative, Adapter().at("last")])
    train(model, 2)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.compiled
    assert same(values(loaded.optimizer.variables), values(model.optimizer.variables))
    assert train(loaded) == train(model)
    assert same(values(loaded.weights), values(model.weights))


def test_a_model_without_a_call_trains_and_comes_back_as_it_was():
    bare, model = composites.gan(), composites.gan()
    for one, other in zip(model.variables, bare.variables, strict=True):
        one.assign(other)
    before = specimens.snapshot(model)
    kwrap.wrap_model(model, specimens.Idle())
    assert [path for path, _ in kwrap.find_hooks(model)] == [
        "maker/hidden",
        "maker/image",
        "judge/hidden",
        "judge/verdict",
    ]
    kwrap.unwrap_model(model)
    assert specimens.snapshot(model) == before
    kwrap.wrap_model(model, specimens.Idle())
    for one in (bare, model):
        one.fit(np.ones((4, 3), "float32"), verbose=0)
    assert specimens.same(specimens.values(model.weights), specimens.values(bare.weights))


@pytest.mark.parametrize(
    ("build", "inputs"),
    [(specimens.sequential, np.ones((2, 4), "float32")), (composites.tagger, composites.inputs())],
)
def test_a_compiled_model_is_checkpointed_and_exported_with_hooks_and_after_them(build, inputs, tmp_path):
    model = build()
    model.compile("adam", "mse")
    for change in (lambda: kwrap.wrap_model(model, specimens.Times()), lambda: kwrap.unwrap_model(model)):
        change()
        tf.train.Checkpoint(model=model).save(tmp_path / "checkpoint")
        model.export(tmp_path / "export", verbose=False)
        served = tf.saved_model.load(tmp_path / "export")
        np.testing.assert_allclose(
            served.serve(inputs), model(inputs), rtol=1e-5
        )  # another graph may sum in another order
