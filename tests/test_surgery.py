import collections
import functools
import gc
import types
from collections import namedtuple
from dataclasses import dataclass

import keras
import numpy as np
import pytest
import tensorflow as tf

import kwrap
from kwrap import _follow, _keras, _model, _plan, _saving, _surgery, errors
from kwrap._surgery import Holders, fixed_layers, replace_layers
from kwrap._weights import WeightHooks
from kwrap._wrapper import Wrapper

from . import composites, specimens, zoo
from .specimens import Adapter, Idle, Mask, NonNegative, Times, branched, compiled, scale, sequential, snapshot

Pair = namedtuple("Pair", ["one", "two"])


class Holder(keras.layers.Layer):
    """Hold one layer in every way there is."""

    def __init__(self, held, other):
        super().__init__(name="holder")
        self.attribute = held
        self.in_list = [other, held, other]
        self.in_tuple = (other, held)
        self.in_named_tuple = Pair(other, held)
        self.in_dict = {"other": other, "held": held}
        self.in_set = {held, other}
        self.nested = {"list": [[other], [held, {"deep": (held,)}]]}
        self.untouched = (1, "two", [other])


NAMES = ("attribute", "in_list", "in_tuple", "in_named_tuple", "in_dict", "in_set", "nested", "untouched")


def held_in(holder: Holder) -> dict:
    """Return what stands in the holder's attributes, layers by name."""

    def plain(value):
        if isinstance(value, keras.Layer):
            return value.name
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, set | frozenset):
            return {plain(item) for item in value}
        if hasattr(value, "_fields"):
            return {field: plain(getattr(value, field)) for field in value._fields}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return {name: plain(getattr(holder, name)) for name in NAMES}


def dense(name: str) -> keras.layers.Dense:
    layer = keras.layers.Dense(2, name=name)
    layer.build((None, 2))
    return layer


# --- where a layer is held -------------------------------------------------------------------------------------------


def test_a_layer_is_replaced_in_every_attribute_and_container_at_its_place():
    old, new, other = dense("old"), dense("new"), dense("other")
    holder = Holder(old, other)
    replace_layers([holder], [(old, new)])
    assert held_in(holder) == {
        "attribute": "new",
        "in_list": ["other", "new", "other"],
        "in_tuple": ["other", "new"],
        "in_named_tuple": {"one": "other", "two": "new"},
        "in_dict": {"other": "other", "held": "new"},
        "in_set": {"other", "new"},
        "nested": {"list": [["other"], ["new", {"deep": ["new"]}]]},
        "untouched": [1, "two", ["other"]],
    }
    assert [layer.name for layer in holder._layers] == ["new", "other"]
    assert isinstance(holder.in_tuple, tuple)


def test_the_holder_tracks_the_new_layers_weights_where_it_tracked_the_olds():
    old, new, other = dense("old"), dense("new"), dense("other")
    holder = Holder(old, other)
    replace_layers([holder], [(old, new)])
    assert [variable.path for variable in holder.weights] == ["new/kernel", "new/bias", "other/kernel", "other/bias"]
    new.trainable = False
    assert [variable.path for variable in holder.trainable_weights] == ["other/kernel", "other/bias"]


def test_the_swapped_pair_undoes_it():
    old, new, other = dense("old"), dense("new"), dense("other")
    holder = Holder(old, other)
    before = held_in(holder), [id(layer) for layer in holder._layers], holder._tracker.stored_ids["layers"].copy()
    replace_layers([holder], [(old, new)])
    replace_layers([holder], [(new, old)])
    after = held_in(holder), [id(layer) for layer in holder._layers], holder._tracker.stored_ids["layers"]
    assert after == before


def test_several_layers_are_replaced_at_once_also_by_each_other():
    one, two = dense("one"), dense("two")
    holder = Holder(one, two)
    replace_layers([holder], [(one, two), (two, one)])
    assert held_in(holder)["in_list"] == ["one", "two", "one"]
    assert held_in(holder)["in_dict"] == {"other": "one", "held": "two"}


@pytest.mark.parametrize("kind", [dict, collections.OrderedDict, lambda items: collections.defaultdict(list, items)])
def test_a_layer_that_is_a_key_of_a_dict_is_replaced_there_too_and_the_items_stay_in_order(kind):
    old, new, other = dense("old"), dense("new"), dense("other")
    holder = Holder(old, other)
    holder.by_layer = kind([("first", [old]), (old, "a value"), (other, old), ("last", 1)])
    replace_layers([holder], [(old, new)])
    assert list(holder.by_layer.items()) == [("first", [new]), (new, "a value"), (other, new), ("last", 1)]
    assert holder.by_layer[new] == "a value"
    replace_layers([holder], [(new, old)])
    assert list(holder.by_layer.items()) == [("first", [old]), (old, "a value"), (other, old), ("last", 1)]


def test_what_a_holder_knows_untracked_of_a_layer_further_down_is_left_alone_whatever_else_is_replaced():
    model = specimens.keeping("list")
    keeper = model.get_layer("keeper")
    object.__setattr__(model, "known", first := keeper.steps[0])
    kwrap.wrap_model(model, Idle, where=["keeper", "keeper/first"])
    assert isinstance(keeper.steps[0], kwrap.Wrapper)
    assert model.known is first
    kwrap.unwrap_model(model)
    assert model.known is keeper.steps[0] is first


def test_containers_that_hold_themselves_are_gone_through_once():
    old, new = dense("old"), dense("new")
    holder = Holder(old, dense("other"))
    loop = [old]
    loop.append({"loop": loop})
    object.__setattr__(holder, "loop", loop)  # Keras, which would track it, never ends
    replace_layers([holder], [(old, new)])
    assert holder.loop[0] is new
    assert holder.loop[1]["loop"] is holder.loop


# --- there and back, wherever a layer is held ------------------------------------------------------------------------


def standing(model: keras.Model) -> dict[str, int]:
    """Return the ids of the layers that stand in the attributes of all of a model's own layers, and in containers."""
    found = {}

    def look(value, where):
        if isinstance(value, keras.Layer):
            found[where] = id(value)
        elif isinstance(value, dict):
            for key, item in value.items():
                look(item, f"{where}[{key if isinstance(key, str) else id(key)}]")
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                look(item, f"{where}[{index}]")
        elif isinstance(value, _keras.TrackableReference):  # what TensorFlow saves
            look(value.ref, f"{where}.ref")
        elif isinstance(value, set):
            found[where] = frozenset(id(item) for item in value if isinstance(item, keras.Layer))

    for holder in specimens.unique(specimens.layers_of(model)):
        if not isinstance(holder, kwrap.Wrapper | kwrap.Hook):
            for name, value in vars(holder).items():
                look(value, f"{holder.name}@{id(holder)}.{name}")
    return found


def batch_of(model: keras.Model) -> np.ndarray:
    """Return inputs for the models below."""
    graph = _keras.graph_of(model)
    shape = (5, 4) if graph is None else graph.inputs[0].shape[1:]
    return np.random.default_rng(0).normal(size=(3, *shape)).astype("float32")


ROUND_TRIPS = {
    **{f"held in {way}": functools.partial(specimens.keeping, way) for way in specimens.WAYS},
    **composites.MODELS,
    "unconfigured": lambda: composites._called(composites.Unconfigured(3)),
    **{
        name: functools.partial(zoo.build, name)
        for name in ("group_query_attention", "time_distributed", "bidirectional", "spectral_normalization")
    },
}


@pytest.mark.parametrize("make", ROUND_TRIPS.values(), ids=ROUND_TRIPS)
def test_from_wrapping_to_unwrapping_every_layer_stands_where_it_stood_and_its_wrapper_in_between(make):
    model = make()
    model.compile("sgd", "mse")
    outputs = np.asarray(model(batch_of(model)))
    for layer in specimens.layers_of(model):
        layer._called = True  # so says Keras of what was called; TimeDistributed goes past it
    before, stood, weights = snapshot(model), standing(model), [id(weight) for weight in model.weights]
    trainable = [variable.path for variable in model.trainable_variables]
    kwrap.wrap_model(model, [Idle().at("**"), Times(factor=1.0)])
    wrappers = {id(place.layer): id(place.wrapper) for place in _model.places(model)}
    assert wrappers
    in_between = {
        where: frozenset(wrappers.get(one, one) for one in what)
        if isinstance(what, frozenset)
        else wrappers.get(what, what)
        for where, what in stood.items()
    }
    assert standing(model) == in_between
    assert [id(weight) for weight in model.weights] == weights
    assert [variable.path for variable in model.trainable_variables] == trainable
    assert specimens.same(model(batch_of(model)), outputs)
    kwrap.unwrap_model(model, merge=False)
    assert standing(model) == stood
    assert snapshot(model) == before
    assert specimens.objects_of_kwrap(model) == []
    assert specimens.same(model(batch_of(model)), outputs)


def test_what_is_frozen_inside_is_frozen_with_a_hook_and_afterwards_and_nothing_else_is():
    model = composites.tagger()
    block = model.blocks[0]
    block.attention.query_dense.trainable = False
    block.parts["line"].trainable = False
    model.by_name["both"].forward_layer.trainable = False
    frozen = ["block_0/attention/query", "block_0/line", "block_0/line/inner", "both/forward_lstm"]

    def frozen_now():
        weighted = [place for place in _model.places(model) if place.layer.weights]
        return [place.path.rstrip("_0123456789") for place in weighted if not place.held.trainable]

    assert frozen_now() == frozen
    kwrap.wrap_model(model, Idle, where="**")
    assert frozen_now() == frozen
    kwrap.unwrap_model(model)
    assert frozen_now() == frozen


# --- who holds a layer -----------------------------------------------------------------------------------------------


def two_levels() -> tuple[keras.layers.Layer, specimens.Keeper, keras.Model]:
    """Return a layer, the composite that holds it, and a model around that."""
    model = specimens.keeping("list")
    keeper = model.get_layer("keeper")
    return keeper.steps[0], keeper, model


def test_holders_of_a_layer_hold_it_themselves_and_those_above_at_any_depth_whatever_model_they_belong_to():
    layer, keeper, model = two_levels()
    other = keras.Sequential([keras.Input((4,)), layer], name="other")
    extractor = keras.Model(model.input, model.get_layer("last").output)
    alive = Holders(model)
    assert set(alive.of([layer])) == {keeper, other, other._functional}
    assert set(alive.above([layer])) == {keeper, model, extractor, other, other._functional}


def test_holders_are_no_wrappers_but_what_is_in_them_and_around_them():
    layer, keeper, model = two_levels()
    kwrap.wrap_model(model, Idle, where=["keeper", "keeper/first"])
    alive = Holders(model)
    wrapped = keeper.steps[0]
    assert alive.of([wrapped]) == [keeper]
    assert set(alive.above([layer])) == {keeper, model}


def test_the_models_own_holders_are_known_also_when_pythons_collector_does_not_see_them():
    layer, keeper, model = two_levels()
    gc.freeze()
    try:
        assert Holders(model).of([layer]) == [keeper]
    finally:
        gc.unfreeze()


# --- what cannot be replaced -----------------------------------------------------------------------------------------


class Keeping(keras.layers.Layer):
    """Hold a layer in an attribute, and by a way besides."""

    def __init__(self, keep=None):
        super().__init__(name="block")
        self.dense = keras.layers.Dense(4, name="dense")
        self.other = keras.layers.Dense(4, name="other")
        if keep is not None:
            self.kept = keep(self)

    def build(self, input_shape):
        self.dense.build(input_shape)
        self.other.build(input_shape)

    def call(self, inputs):
        return self.other(self.dense(inputs))


@dataclass(frozen=True)
class Frozen:
    layers: tuple


class Slots:
    __slots__ = ("layer",)

    def __init__(self, layer):
        self.layer = layer


def over(layer):
    """Return a function that closes over the layer."""
    return lambda inputs: layer(inputs)


def over_its_list(block):
    """Return a function that closes over a list which the holder has in an attribute, too."""
    block.steps = [block.dense]
    return over(block.steps)


# How a holder keeps a layer besides, and what is said of it.
FIXED = {
    "closure": (lambda self: over(self.dense), "in a closure of over.<locals>.<lambda>"),
    "closure in a list": (lambda self: [1, {"a": over(self.dense)}], "in a closure of over.<locals>.<lambda>"),
    "closure over a list": (lambda self: over([self.dense]), "in a closure of over.<locals>.<lambda>"),
    "default": (lambda self: lambda inputs, layer=self.dense: inputs, "in a closure of <lambda>.<locals>.<lambda>"),
    "keyword default": (lambda self: lambda *, layer=self.dense: 1, "in a closure of <lambda>.<locals>.<lambda>"),
    "frozen dataclass": (lambda self: Frozen((self.dense, self.other)), "in a Frozen"),
    "object in a list": (lambda self: [Frozen((self.dense,))], "in a Frozen"),
    "slots": (lambda self: Slots(self.dense), "in a Slots"),
    "bound method": (lambda self: self.dense.compute_output_shape, "in a method"),
    "partial": (lambda self: functools.partial(self.dense, training=False), "in a partial"),
    "partial of a closure": (lambda self: functools.partial(over(self.dense)), "in a partial"),
    "frozenset": (lambda self: frozenset([self.dense]), "in a frozenset"),
    "deque": (lambda self: collections.deque([self.dense]), "in a deque"),
    "mapping proxy": (lambda self: types.MappingProxyType({"a": self.dense}), "in a mappingproxy"),
    "namespace": (lambda self: types.SimpleNamespace(layer=self.dense), "in a SimpleNamespace"),
    "cached function": (lambda self: functools.cache(over(self.dense)), "in a _lru_cache_wrapper"),
    "compiled function": (lambda self: tf.function(over(self.dense)), "in a Function"),
}


def made_in_a_function(kind):
    """Return a `Keeping` whose class has a method over what is its layer."""
    layers = []
    function = kind(lambda *args: layers[0])
    block = type("Local", (Keeping,), {"method": function})()
    layers.append(block.dense)
    return block


METHODS = {
    "method": (lambda function: function, "in a closure of made_in_a_function.<locals>.<lambda>"),
    "property": (property, "in a property"),
    "cached property": (functools.cached_property, "in a cached_property"),
    "static method": (staticmethod, "in a staticmethod"),
    "class method": (classmethod, "in a classmethod"),
    "compiled method": (tf.function, "in a Function"),
}


@pytest.mark.parametrize("case", FIXED)
def test_a_layer_that_is_kept_where_nothing_can_be_put_is_found(case):
    keep, how = FIXED[case]
    block = Keeping(keep)
    assert fixed_layers([block])[id(block), id(block.dense)] == ("block", "Keeping", how)


@pytest.mark.parametrize("case", METHODS)
def test_a_layer_that_a_method_of_a_class_made_in_a_function_closes_over_is_found(case):
    kind, how = METHODS[case]
    block = made_in_a_function(kind)
    assert fixed_layers([block])[id(block), id(block.dense)] == ("block", "Local", how)
    assert (id(block), id(block.other)) not in fixed_layers([block])


REPLACEABLE = {
    "nothing besides": None,
    "list, tuple, dict": lambda self: [self.dense, (self.dense, {"a": self.dense, self.dense: 1})],
    "lambda over the holder": lambda self: lambda inputs: self.dense(inputs),
    "method of the holder": lambda self: self.call,
    "partial of a method of the holder": lambda self: functools.partial(self.call, 1),
    "object with the holder": lambda self: Slots(self),
    "compiled function over the holder": lambda self: tf.function(lambda inputs: self.dense(inputs)),
    "closure over a list of the holder's": over_its_list,
    "an option of the layer": lambda self: lambda inputs, units=self.dense.units: units,
}


@pytest.mark.parametrize("case", REPLACEABLE)
def test_there_is_no_false_alarm(case):
    block = Keeping(REPLACEABLE[case])
    held = {(id(block), id(layer)) for layer in (block.dense, block.other)}
    assert not held & fixed_layers([block]).keys()


def test_functions_that_use_a_layer_by_their_module_are_not_looked_into():
    namespace = {"block": Keeping()}
    exec("dense = block.dense\nblock.kept = lambda inputs: dense(inputs)", namespace)
    assert (id(namespace["block"]), id(namespace["dense"])) not in fixed_layers([namespace["block"]])


@pytest.mark.parametrize(
    "name",
    [
        "multi_head_attention",
        "group_query_attention",
        "time_distributed",
        "bidirectional",
        "spectral_normalization",
        "sequence_to_sequence",
        "frozen_behind_augmentation",
        "bert",
        "gpt2",
        "gemma",
        "vit",
        "resnet",
    ],
)
def test_no_layer_of_keras_or_keras_hub_is_kept_where_nothing_can_be_put(name):
    holders = specimens.unique(specimens.layers_of(zoo.build(name)))
    held = {(id(holder), id(layer)) for holder in holders for layer in _keras.sublayers(holder)}
    assert len(held) > 2
    found = fixed_layers(holders)
    assert [found[key] for key in held & found.keys()] == []


def test_looking_for_them_is_work_in_proportion_to_what_a_layer_holds(monkeypatch):
    def work(count):
        block = Keeping(lambda self: [[index, "text", print] for index in range(count)])
        steps = []
        with monkeypatch.context() as patch:
            for name in ("_not_in_containers", "_referenced"):
                patch.setattr(_surgery, name, counted(getattr(_surgery, name), steps))
            fixed_layers([block])
        return len(steps)

    assert work(400) <= 2.1 * work(200)


def counted(function, calls):
    """Return the function, which notes its calls."""

    def counting(*args):
        calls.append(1)
        return function(*args)

    return counting


# --- the graph -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [sequential, branched])
def test_the_wrapper_stands_where_the_layer_stood_and_the_layer_is_in_no_graph(make):
    model = make()
    before = [layer.name for layer in model.layers], [variable.path for variable in model.weights]
    kwrap.wrap_model(model, Idle)
    assert ([layer.name for layer in model.layers], [variable.path for variable in model.weights]) == before
    for place in _model.places(model):
        if place.wrapper is None:
            continue
        assert place.layer._inbound_nodes == []
        assert place.layer._outbound_nodes == []
        assert all(node.operation is place.wrapper for node in place.wrapper._inbound_nodes)
        for index, node in enumerate(place.wrapper._inbound_nodes):
            assert [tensor._keras_history[:2] for tensor in node.outputs] == [(place.wrapper, index)]


def test_a_layer_called_twice_is_one_wrapper_with_both_calls():
    model = kwrap.wrap_model(branched(), scale(factor=3.0), where="shared")
    wrapper = model.get_layer("shared")
    assert len(wrapper._inbound_nodes) == 2
    inputs, _ = specimens.data(model)
    kernel, bias = (np.asarray(weight) for weight in wrapper.layer.weights)
    part = keras.Model(model.input, [node.outputs[0] for node in wrapper._inbound_nodes])
    for name, output in zip(("left", "right"), part(inputs), strict=True):
        # A matrix product's sums may be taken in another order.
        np.testing.assert_allclose(output, (inputs[name] @ kernel + bias) * 3.0, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [sequential, branched])
def test_the_graph_of_a_wrapped_model_has_as_many_ops_as_the_bare_one(make):
    model = make()
    bare, outputs = specimens.graph_ops(model), specimens.predict(model)
    kwrap.wrap_model(model, [Idle, NonNegative().at(keras.layers.Dense)])
    assert specimens.graph_ops(model) == bare
    kwrap.unwrap_model(model, merge=False)
    assert specimens.graph_ops(model) == bare
    assert [x.shape for x in keras.tree.flatten(specimens.predict(model))] == [
        x.shape for x in keras.tree.flatten(outputs)
    ]


def test_a_nested_model_is_wrapped_as_any_layer_and_what_it_holds_inside_of_it():
    model = branched()
    plain = specimens.predict(model)
    kwrap.wrap_model(model, [scale(factor=1.0).at("encoder"), Idle().at("encoder/inner")])
    assert type(model.get_layer("encoder").layer) is keras.Sequential
    assert [path for path, _ in kwrap.find_hooks(model)] == ["encoder", "encoder/inner"]
    assert specimens.same(specimens.predict(model), plain)


# --- a failure in the middle -----------------------------------------------------------------------------------------

STEPS = [
    (Holders, "of"),
    (Holders, "above"),
    (_surgery, "_replace_in_attributes"),
    (_surgery, "_replaced"),
    (_surgery, "_replace_in_dict"),
    (_keras, "retrack"),
    (_keras, "move_nodes"),
    (_keras, "rename_nodes"),
    (_keras, "lift"),
    (_keras, "lower"),
    (_keras, "trainable_state_restorer"),
    (_keras, "refresh_trainable_state"),
    (_keras, "rebuild_optimizer"),
    (_keras, "forget_traces"),
    (_keras, "move_remat"),
    (_keras._compiled, "_unbuild"),
    (_keras._compiled, "_refill_slots"),
    (_saving, "_wanted_class"),
    (_saving, "set_classes"),
    (_follow, "follow_classes"),
    (_follow, "_rebuild_optimizers"),
    (_plan, "_engage"),
    (WeightHooks, "engage"),
    (WeightHooks, "disengage"),
    (WeightHooks, "project"),
    (Wrapper, "set_hooks"),
]


class Interrupted(BaseException):
    """As a keyboard interrupt: nothing of ours may catch and keep it."""


def interrupt(monkeypatch, owner, name: str, call: int | None = None, *, after: bool = False) -> list[int]:
    """Let the function raise at its `call`-th call, before or after it has done its work; return the list of calls."""
    original, calls = getattr(owner, name), []

    def interrupted(*args, **kwargs):
        calls.append(1)
        number = len(calls)
        if number == call and not after:
            raise Interrupted
        result = original(*args, **kwargs)
        if number == call:
            raise Interrupted
        return result

    monkeypatch.setattr(owner, name, interrupted)
    return calls


def frozen_and_compiled() -> keras.Model:
    """Return a model where every step of `follow` has something to do, with hooks on it already."""
    model = branched()
    model.get_layer("encoder").trainable = False
    compiled(model, steps=1)
    return kwrap.wrap_model(model, [NonNegative().at("first"), Mask().at("tower/inner")])


def wrap(model: keras.Model) -> None:
    kwrap.wrap_model(
        model, [Adapter().at(["encoder/inner", "second"]), Mask().at(["shared", "first"]), Idle().at("both")]
    )


class Small(keras.Model):
    """A subclassed model: a composite in a tuple, one of its layers in a dict too, and a Functional model."""

    def __init__(self):
        super().__init__(name="small")
        block = specimens.Keeper(specimens.WAYS["nested"], name="block")
        inputs = keras.Input((4,))
        self.blocks = (block, keras.Model(inputs, keras.layers.Dense(4, name="inner")(inputs), name="graph"))
        self.by_layer = {block.steps_of()[0]: 1.0}

    def call(self, inputs):
        for block in self.blocks:
            inputs = block(inputs)
        return inputs


def small_and_compiled() -> keras.Model:
    """Return the same of a subclassed model, with hooks inside."""
    model = Small()
    model(np.ones((2, 4), "float32"))
    model.blocks[1].trainable = False
    model.compile("adam", "mse", jit_compile=False)
    model.train_on_batch(np.ones((2, 4), "float32"), np.ones((2, 4), "float32"))
    return kwrap.wrap_model(model, [NonNegative().at("block/first"), Mask().at("graph/inner")])


def wrap_inside(model: keras.Model) -> None:
    kwrap.wrap_model(
        model, [Adapter().at(["block/second", "graph/inner"]), Mask().at("block/first"), Idle().at("block")]
    )


def then(make, act):
    """Return a function that makes a model on which something was done."""

    def made():
        model = make()
        act(model)
        return model

    return made


def unwrap_some(model: keras.Model) -> None:
    kwrap.unwrap_model(model, [Adapter, Mask])


ACTS = {
    "wrap": (frozen_and_compiled, wrap),
    "unwrap": (then(frozen_and_compiled, wrap), kwrap.unwrap_model),
    "unwrap some": (then(frozen_and_compiled, wrap), unwrap_some),
    "wrap inside": (small_and_compiled, wrap_inside),
    "unwrap inside": (then(small_and_compiled, wrap_inside), kwrap.unwrap_model),
    "unwrap some inside": (then(small_and_compiled, wrap_inside), unwrap_some),
}


@pytest.fixture(scope="module", params=ACTS)
def act(request):
    """Return a model, what is done to it, and how often that calls each step; the model serves all steps."""
    make, function = ACTS[request.param]
    model = make()
    with pytest.MonkeyPatch.context() as patch:
        calls = {name: interrupt(patch, owner, name) for owner, name in STEPS}
        function(model)
    return make(), function, {name: len(made) for name, made in calls.items()}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("owner", "name"), STEPS, ids=[name for _, name in STEPS])
def test_whichever_step_is_interrupted_the_model_is_as_it_was(monkeypatch, act, owner, name, after):
    model, function, counts = act
    before = snapshot(model)
    every = range(1, counts[name] + 1)
    for call in every if len(every) <= 8 else (1, len(every) // 2, len(every)):
        with monkeypatch.context() as patch:
            interrupt(patch, owner, name, call, after=after)
            with pytest.raises(Interrupted):
                function(model)
        assert snapshot(model) == before


def test_every_step_is_taken_by_one_of_the_acts(monkeypatch):
    taken = {name: interrupt(monkeypatch, owner, name) for owner, name in STEPS}
    kwrap.unwrap_model(then(frozen_and_compiled, wrap)())
    assert [name for name, calls in taken.items() if not calls] == []


def test_a_failed_wrap_can_be_tried_again(monkeypatch):
    model = compiled(branched())
    with monkeypatch.context() as patch:
        interrupt(patch, _keras, "rename_nodes", 1, after=True)
        with pytest.raises(Interrupted):
            kwrap.wrap_model(model, scale(factor=1.0))
    plain = specimens.predict(model)
    kwrap.wrap_model(model, scale(factor=1.0))
    assert specimens.same(specimens.predict(model), plain)
    assert kwrap.find_hooks(model)
    with pytest.raises(errors.DuplicateHookError):
        kwrap.wrap_model(model, scale(factor=1.0))
