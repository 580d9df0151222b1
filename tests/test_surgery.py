from collections import namedtuple

import keras
import numpy as np
import pytest

import kwrap
from kwrap import _follow, _keras, _model, _plan, _surgery, errors
from kwrap._surgery import replace_layers
from kwrap._weights import WeightHooks
from kwrap._wrapper import Wrapper

from . import specimens
from .specimens import Adapter, Idle, Mask, NonNegative, branched, compiled, scale, sequential, snapshot

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
    (_surgery, "_replace_in_attributes"),
    (_surgery, "_replaced"),
    (_keras, "retrack"),
    (_keras, "move_nodes"),
    (_keras, "rename_nodes"),
    (_keras, "lift"),
    (_keras, "lower"),
    (_keras, "refresh_trainable_state"),
    (_keras, "set_optimizer"),
    (_keras, "forget_traces"),
    (_keras, "move_remat"),
    (_follow, "_rebuilt"),
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


def wrapped() -> keras.Model:
    model = frozen_and_compiled()
    wrap(model)
    return model


ACTS = {
    "wrap": (frozen_and_compiled, wrap),
    "unwrap": (wrapped, kwrap.unwrap_model),
    "unwrap some": (wrapped, lambda model: kwrap.unwrap_model(model, [Adapter, Mask])),
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
    for call in sorted({1, (counts[name] + 1) // 2, counts[name]} - {0}) if counts[name] else ():
        with monkeypatch.context() as patch:
            interrupt(patch, owner, name, call, after=after)
            with pytest.raises(Interrupted):
                function(model)
        assert snapshot(model) == before


def test_every_step_is_taken_by_one_of_the_acts(monkeypatch):
    taken = {name: interrupt(monkeypatch, owner, name) for owner, name in STEPS}
    kwrap.unwrap_model(wrapped())
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
