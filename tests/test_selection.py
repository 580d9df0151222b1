import re

import keras
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kwrap
from kwrap import _keras, errors
from kwrap._hook import Rule
from kwrap._selection import Place, matches, places, select

from . import composites, specimens, zoo

BRANCHED = ["shared", "encoder", "encoder/inner", "encoder/drop", "tower", "tower/inner", "same", "both"]


class Block(keras.layers.Layer):
    """A composite layer: what it holds has paths, too."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(4, name="dense")
        self.others = [keras.layers.Dense(4, name="dense"), keras.layers.Dropout(0.1, name="drop")]

    def call(self, inputs):
        return self.others[1](self.others[0](self.dense(inputs)))


def paths(model: keras.Layer, **options) -> list[str]:
    return [place.path for place in places(model, **options)]


def chosen(model: keras.Model, hooks, **options) -> list[str]:
    return sorted(entry.path for entry in kwrap.plan(model, hooks, **options).entries)


def block() -> keras.Sequential:
    return keras.Sequential([keras.layers.Input((4,)), Block(name="block"), keras.layers.Dense(2, name="head")])


# --- places ----------------------------------------------------------------------------------------------------------


def test_paths_join_names_by_slashes_without_the_models_own_name_and_without_input_layers():
    found = paths(specimens.branched())
    assert set(BRANCHED) | {"first", "second"} <= set(found)
    assert not {"left", "right", "start", "tree"} & set(found)
    assert not any("input" in path for path in found)


def test_parents_come_before_what_they_hold():
    found = paths(specimens.branched())
    for path in found:
        if "/" in path:
            assert found.index(path.rpartition("/")[0]) < found.index(path)


def test_without_recursive_only_the_models_own_layers_are_looked_at():
    found = paths(specimens.branched(), recursive=False)
    assert found == [path for path in paths(specimens.branched()) if "/" not in path]
    assert "encoder" in found


def test_a_layer_that_is_called_twice_is_one_place():
    assert paths(specimens.branched()).count("shared") == 1


def test_a_layer_that_two_models_hold_is_one_place_with_both_as_holders():
    shared = keras.layers.Dense(4, name="shared")
    parts = [keras.Sequential([keras.layers.Input((4,)), shared], name=name) for name in ("one", "two")]
    model = keras.Sequential([keras.layers.Input((4,)), *parts])
    (place,) = [place for place in places(model) if place.layer is shared]
    assert place.path == "one/shared"
    assert list(place.holders) == parts


def test_a_path_that_stands_twice_is_told_apart_by_a_number():
    assert paths(block()) == ["block", "block/dense", "block/dense#2", "block/drop", "head"]


@pytest.mark.parametrize("way", specimens.WAYS)
def test_a_layer_has_a_place_however_it_is_held(way):
    model = specimens.keeping(way)
    assert sorted(paths(model)) == ["keeper", "keeper/first", "keeper/second", "last"]
    found = {place.path: place for place in places(model)}
    first, second = model.get_layer("keeper").steps_of()
    assert (found["keeper/first"].layer, found["keeper/second"].layer) == (first, second)
    assert found["keeper/second"].holders == (model.get_layer("keeper"),)


ATTENTION = ["query", "key", "value", "softmax", "dropout", "attention_output"]

# What holds layers, and their paths below it.
COMPOSITES = {
    "MultiHeadAttention": (keras.layers.MultiHeadAttention, {"num_heads": 1, "key_dim": 2, "dropout": 0.5}, ATTENTION),
    "GroupQueryAttention": (
        keras.layers.GroupQueryAttention,
        {"head_dim": 2, "num_query_heads": 2, "num_key_value_heads": 1, "dropout": 0.5},
        ATTENTION,
    ),
    "TimeDistributed": (keras.layers.TimeDistributed, {"layer": keras.layers.Dense(2, name="each")}, ["each"]),
    "Bidirectional": (
        keras.layers.Bidirectional,
        {"layer": keras.layers.LSTM(2, name="rnn")},
        ["forward_rnn", "backward_rnn"],
    ),
    "SpectralNormalization": (
        keras.layers.SpectralNormalization,
        {"layer": keras.layers.Dense(2, name="dense")},
        ["dense"],
    ),
}


@pytest.mark.parametrize("case", COMPOSITES)
def test_what_keras_own_composites_hold_has_places(case):
    cls, options, inside = COMPOSITES[case]
    layer = cls(name="it", **options)
    inputs = keras.Input((3, 4))
    model = keras.Model(inputs, layer(inputs, inputs) if inside is ATTENTION else layer(inputs))
    found = [re.sub(r"_\d+$", "", path) for path in paths(model)]  # Keras numbers what it names itself
    assert sorted(found) == sorted(["it", *(f"it/{name}" for name in inside)])


def test_a_sequential_model_in_a_layer_and_a_composite_in_a_sequential_model_have_places():
    class Outer(keras.layers.Layer):
        def __init__(self):
            super().__init__(name="outer")
            self.line = keras.Sequential([Block(name="block"), keras.layers.ReLU(name="relu")], name="line")

        def call(self, inputs):
            return self.line(inputs)

    model = keras.Sequential([keras.layers.Input((4,)), Outer()])
    inside = ["block", "block/dense", "block/dense#2", "block/drop", "relu"]
    assert paths(model) == ["outer", "outer/line", *(f"outer/line/{path}" for path in inside)]


def test_what_a_subclassed_model_holds_has_places():
    model = composites.deep_tagger()
    weighted = [place.path for place in places(model) if _keras.has_own_weights(place.layer)]
    inside = ["attention/query", "attention/key", "attention/value", "attention/attention_output", "up", "down"]
    blocks = [f"{block}/{path}" for block in ("block_0", "block_1") for path in [*inside, "line/inner"]]
    assert [re.sub(r"_\d+$", "", path) for path in weighted] == [
        "embed",
        *blocks,
        "both/forward_lstm",
        "both/backward_lstm",
        "apart/each",
        "head",
    ]


def test_what_a_subclass_of_functional_holds_beside_its_graph_has_places_too_after_those_of_the_graph():
    outermost = [path for path in paths(composites.tower()) if "/" not in path]
    assert outermost == ["body", "last", "beside"]
    assert "beside/corrected" in paths(composites.tower())


def test_paths_in_a_backbone_of_keras_hub_are_readable_and_equal_in_two_of_them():
    def weighted(backbone):
        return [place.path for place in places(backbone) if _keras.has_own_weights(place.layer)]

    first, second = (weighted(zoo.build("bert").backbone) for _ in range(2))
    assert "transformer_layer_0/self_attention_layer/query" in first
    assert "transformer_layer_1/feedforward_output_dense" in first
    assert first == second


def test_paths_are_equal_for_the_same_architecture_built_twice_with_names():
    class Named(keras.Model):
        def __init__(self):
            super().__init__()  # the model's own name is in no path
            self.blocks = {
                "a": [Block(name="block"), Block(name="block")],
                "b": (specimens.Keeper(specimens.WAYS["dict"]),),
            }
            self.attention = keras.layers.TimeDistributed(keras.layers.Dense(2, name="each"), name="apart")

        def call(self, inputs):
            for layer in (*self.blocks["a"], *self.blocks["b"], self.attention):
                inputs = layer(inputs)
            return inputs

    first, second = Named(), Named()
    second(keras.ops.ones((1, 3, 4)))
    first(keras.ops.ones((1, 3, 4)))
    assert first.name != second.name
    assert paths(first) == paths(second)
    assert {"block", "block/dense#2", "block#2", "block#2/dense#2", "keeper/first", "apart/each"} <= set(paths(first))


def test_what_lies_below_the_second_of_two_layers_of_one_name_lies_below_its_number():
    class Three(keras.layers.Layer):
        def __init__(self):
            super().__init__(name="three")
            self.blocks = [Block(name="block") for _ in range(3)]

        def call(self, inputs):
            return inputs

    assert paths(keras.Sequential([Three()])) == [
        "three",
        *(
            f"three/{block}{rest}"
            for block in ("block", "block#2", "block#3")
            for rest in ("", "/dense", "/dense#2", "/drop")
        ),
    ]


@pytest.mark.parametrize("make", [composites.in_graph, composites.tagger, composites.tower, composites.graph_in_class])
def test_no_two_places_have_a_path_in_common(make):
    found = [path for place in places(make()) for path in place.paths]
    assert len(found) == len(set(found)) > 10


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.LSTM(2, name="rnn"),
        keras.layers.RNN(keras.layers.GRUCell(2), name="rnn"),
        keras.layers.RNN([keras.layers.GRUCell(2), keras.layers.LSTMCell(2)], name="rnn"),
    ],
    ids=["LSTM", "a cell", "stacked cells"],
)
def test_the_cells_of_a_recurrent_layer_have_no_place(layer):
    assert paths(keras.Sequential([keras.layers.Input((3, 4)), layer])) == ["rnn"]


def test_wrapping_moves_no_path_and_a_place_has_the_layer_its_wrapper_and_its_hooks():
    model = specimens.branched()
    before = {place.path: place.layer for place in places(model)}
    kwrap.wrap_model(model, specimens.Idle, where="**/inner")
    after = places(model)
    assert {place.path: place.layer for place in after} == before
    for place in after:
        wrapped = place.path in ("encoder/inner", "tower/inner")
        assert isinstance(place.held, kwrap.Wrapper) == wrapped
        assert [hook.name for hook in place.hooks] == ["specimen_idle"] * wrapped


@pytest.mark.parametrize("make", composites.MODELS.values(), ids=composites.MODELS)
def test_paths_and_holders_are_the_same_before_between_and_after_also_where_composites_are_wrapped(make):
    def seen():
        return [(place.paths, id(place.layer), [id(holder) for holder in place.holders]) for place in places(model)]

    model = make()
    before = seen()
    kwrap.wrap_model(model, specimens.Idle, where="**")
    assert all(place.wrapper for place in places(model))
    assert seen() == before
    kwrap.unwrap_model(model)
    assert not any(place.wrapper for place in places(model))
    assert seen() == before


# --- a layer that is reached by two ways -----------------------------------------------------------------------------


class Branch(keras.layers.Layer):
    """Call a layer that is given to it."""

    def __init__(self, shared, name):
        super().__init__(name=name)
        self.shared = shared

    def call(self, inputs):
        return self.shared(inputs)


def two_ways() -> keras.Model:
    """Return a model where a block is reached through "left" and "right"."""
    block = Block(name="block")
    inputs = keras.Input((4,))
    return keras.Model(inputs, Branch(block, "right")(Branch(block, "left")(inputs)), name="two_ways")


def test_a_layer_that_is_reached_by_two_ways_is_one_place_with_both_paths():
    model = two_ways()
    found = {place.path: place.also for place in places(model)}
    assert found == {
        "left": (),
        "left/block": ("right/block",),
        "left/block/dense": ("right/block/dense",),
        "left/block/dense#2": ("right/block/dense#2",),
        "left/block/drop": ("right/block/drop",),
        "right": (),
    }
    (block,) = [place for place in places(model) if place.path == "left/block"]
    assert block.holders == (model.get_layer("left"), model.get_layer("right"))


def test_a_layer_that_is_reached_by_two_ways_gets_one_wrapper():
    model = kwrap.wrap_model(two_ways(), specimens.scale, where="*/block")
    left, right = (model.get_layer(name).shared for name in ("left", "right"))
    assert type(left).__mro__[1] is kwrap.Wrapper
    assert left is right
    assert [path for path, _ in kwrap.find_hooks(model)] == ["left/block"]


BOTH_WAYS = [
    "left/block/drop",
    "right/block/drop",
    "right/**/drop",
    re.compile("^right.*drop$"),
    re.compile("^left.*drop$"),
    lambda layer, path: path == "right/block/drop",
    lambda layer, path: path == "left/block/drop",
    ["right/block/drop"],
    keras.layers.Dropout,
]


@pytest.mark.parametrize("where", BOTH_WAYS, ids=[str(index) for index in range(len(BOTH_WAYS))])
def test_each_path_of_a_layer_names_it_and_excludes_it(where):
    assert chosen(two_ways(), specimens.Idle, where=where) == ["left/block/drop"]
    everything = chosen(two_ways(), specimens.Idle, where="**")
    left = chosen(two_ways(), specimens.Idle, where="**", exclude=where)
    assert left == [path for path in everything if path != "left/block/drop"]


def test_the_nearest_paths_of_an_error_are_also_those_besides_the_first():
    with pytest.raises(errors.RuleError) as caught:
        kwrap.plan(two_ways(), specimens.Idle, where="right/block/drp")
    assert caught.value.nearest[0] == "right/block/drop"


def test_a_layer_that_holds_one_that_holds_it_is_told_by_a_path_that_ends():
    outer = Branch(None, "outer")
    outer.shared = Branch(outer, "inner")
    model = keras.Sequential([outer], name="line")
    found = {place.path: place.also for place in places(model)}
    assert found == {"outer": ("outer/inner/outer",), "outer/inner": ()}


@pytest.mark.parametrize("order", [list, lambda layers: list(reversed(layers))], ids=["as built", "the last one first"])
def test_layers_that_each_hold_the_one_before_are_few_paths_each_and_looked_into_as_often(monkeypatch, order):
    class Chain(keras.Model):
        def __init__(self, count):
            super().__init__()
            layers = [keras.layers.Dense(1, name="layer_0")]
            for index in range(1, count):
                layers.append(Branch(layers[-1], f"layer_{index}"))
            self.chain = order(layers)

        def call(self, inputs):
            return inputs

    def work(count):
        calls = []
        with monkeypatch.context() as patch:
            sublayers = _keras.sublayers
            patch.setattr(_keras, "sublayers", lambda layer: calls.append(layer) or sublayers(layer))
            found = places(model := Chain(count))
        assert len(found) == count
        for place in found:
            branches = [holder for holder in model.chain if getattr(holder, "shared", None) is place.layer]
            assert set(place.holders) == {model, *branches}
        return len(calls), sum(len(place.paths) for place in found)

    (looks, all_paths), (more_looks, more_paths) = work(40), work(80)
    assert more_looks <= 2.1 * looks
    assert more_paths <= 2.1 * all_paths
    assert more_paths <= 8 * 80


# --- where: every form -----------------------------------------------------------------------------------------------

ALL_FORMS = [
    (keras.layers.Dropout, ["encoder/drop"]),
    ("first", ["first"]),
    ("*", ["both", "encoder", "first", "same", "second", "shared", "tower"]),
    ("*/inner", ["encoder/inner", "tower/inner"]),
    ("**/inner", ["encoder/inner", "tower/inner"]),
    ("**/s*", ["same", "second", "shared"]),
    ("encoder/**", ["encoder/drop", "encoder/inner"]),
    ("enc*", ["encoder"]),
    ("s????d", ["second", "shared"]),
    ("**drop", ["encoder/drop"]),
    (re.compile("inner$"), ["encoder/inner", "tower/inner"]),
    (re.compile("^s"), ["same", "second", "shared"]),
    (lambda layer, path: layer.name == "inner" and path.startswith("tower"), ["tower/inner"]),
    (["first", keras.layers.Dropout], ["encoder/drop", "first"]),
    (("first", [re.compile("cond")]), ["first", "second"]),
]


@pytest.mark.parametrize(("where", "expected"), ALL_FORMS, ids=[str(index) for index in range(len(ALL_FORMS))])
def test_where_takes_every_form(where, expected):
    assert chosen(specimens.branched(), specimens.Idle, where=where) == expected


@pytest.mark.parametrize(("where", "expected"), ALL_FORMS, ids=[str(index) for index in range(len(ALL_FORMS))])
def test_exclude_takes_every_form(where, expected):
    everything = set(chosen(specimens.branched(), specimens.Idle, where="**"))
    left = set(chosen(specimens.branched(), specimens.Idle, where="**", exclude=where))
    assert left == everything - set(expected)


def test_a_class_names_its_subclasses_too():
    assert matches(keras.layers.RNN, Place("rnn", keras.layers.LSTM(1), None, ()))
    assert not matches(keras.layers.LSTM, Place("rnn", keras.layers.GRU(1), None, ()))


def test_a_callable_gets_the_layer_itself_also_when_it_is_wrapped():
    model = kwrap.wrap_model(specimens.sequential(), specimens.Idle)
    seen = []
    kwrap.plan(model, specimens.shift, where=lambda layer, path: seen.append((type(layer), path)) or True)
    assert (keras.layers.Dense, "first") in seen
    assert not any(issubclass(kind, kwrap.Wrapper) for kind, _ in seen)


def test_characters_that_mean_something_in_a_regex_mean_themselves_in_a_pattern():
    place = Place("a.b/c+(d)[e]", keras.layers.Dense(1), None, ())
    assert matches("a.b/c+(d)[e]", place)
    assert not matches("a?c/c+(d)[e]", place)
    assert not matches("a.b/c(d)[e]", place)


def reference(pattern: str, path: str) -> bool:
    """Match by recursion over characters: `*` within a name, `**` across `/`, and `**/` also nothing."""
    if not pattern:
        return not path
    if pattern.startswith("**/"):
        starts = [0, *(index + 1 for index, letter in enumerate(path) if letter == "/")]
        return any(reference(pattern[3:], path[start:]) for start in starts)
    if pattern.startswith("**"):
        return any(reference(pattern[2:], path[start:]) for start in range(len(path) + 1))
    if pattern[0] == "*":
        name = path.partition("/")[0]
        return any(reference(pattern[1:], path[start:]) for start in range(len(name) + 1))
    if pattern[0] == "?":
        return bool(path) and path[0] != "/" and reference(pattern[1:], path[1:])
    return path[:1] == pattern[0] and reference(pattern[1:], path[1:])


@given(
    st.lists(st.sampled_from(["a", "b", "*", "**", "**/", "/", "?", "."]), max_size=7).map("".join),
    st.lists(st.sampled_from(["a", "b", "ab", "."]), min_size=1, max_size=4).map("/".join),
)
def test_a_pattern_matches_as_it_is_defined(pattern, path):
    if "***" not in pattern:
        assert matches(pattern, Place(path, keras.layers.Dense(1), None, ())) == reference(pattern, path)


@pytest.mark.parametrize("where", [3, keras.layers.Dense(1), {"first": True}])
def test_what_is_no_form_of_where_is_an_error_that_lists_the_forms(where):
    with pytest.raises(errors.RuleError, match=r"is not a layer class, a pattern on the path, .* or a list") as caught:
        kwrap.plan(specimens.sequential(), specimens.Idle, where=where)
    assert caught.value.rule == f"where={where!r}"


# --- a Rule's own win ------------------------------------------------------------------------------------------------


def test_a_rules_own_where_and_exclude_win_over_the_arguments():
    model = specimens.branched()
    own = specimens.Idle().at("**/inner", exclude="tower/**")
    assert chosen(model, own, where="first", exclude="encoder/**") == ["encoder/inner"]


def test_a_rule_takes_from_the_arguments_what_it_lacks():
    model = specimens.branched()
    assert chosen(model, specimens.Idle().at("**/inner"), where="first", exclude="tower/**") == ["encoder/inner"]
    assert chosen(model, Rule(specimens.Idle(), None, "tower/**"), where="**/inner") == ["encoder/inner"]


def test_each_rule_of_a_list_has_its_own_place():
    hooks = [specimens.Idle().at("first"), specimens.scale().at("same"), specimens.shift]
    plan = kwrap.plan(specimens.branched(), hooks, where="second")
    assert {entry.path: [hook.name for hook in entry.hooks] for entry in plan.entries} == {
        "first": ["specimen_idle"],
        "same": ["specimen_scale"],
        "second": ["specimen_shift"],
    }


def test_a_rule_is_frozen_and_says_what_it_is():
    rule = specimens.Idle().at("a*", exclude="b")
    with pytest.raises(AttributeError):
        rule.where = "c"
    assert str(rule) == "'specimen_idle' at where='a*', exclude='b'"


# --- without where ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", [specimens.Times, specimens.NonNegative, specimens.Mask])
def test_a_hook_that_changes_weights_only_goes_on_the_layers_with_weight_targets(hook):
    assert chosen(specimens.branched(), hook) == ["encoder/inner", "first", "second", "shared", "tower/inner"]


def test_any_other_hook_goes_on_the_leaves_of_its_layer_type():
    assert chosen(specimens.branched(), specimens.shift) == [
        "encoder/inner",
        "first",
        "second",
        "shared",
        "tower/inner",
    ]
    everywhere = chosen(specimens.sequential(), specimens.scale)
    assert everywhere == ["drop", "first", "last", "norm"]
    assert {"encoder", "tower"}.isdisjoint(chosen(specimens.branched(), specimens.scale))


def test_a_recurrent_layer_counts_as_a_leaf():
    model = keras.Sequential([keras.layers.Input((3, 4)), keras.layers.LSTM(2, name="rnn")])
    assert chosen(model, specimens.scale) == ["rnn"]
    assert chosen(model, specimens.Times) == ["rnn"]


def test_what_holds_layers_is_meant_where_the_rule_names_it():
    assert chosen(specimens.branched(), specimens.scale, where="encoder") == ["encoder"]
    assert chosen(specimens.branched(), specimens.scale, where=keras.Model) == ["encoder", "tower"]


def test_what_holds_layers_is_meant_where_the_layer_type_names_it():
    @kwrap.hook(layer_type=keras.Model, name="selection_models")
    def models(call_next, inputs):
        return call_next(inputs)

    assert chosen(specimens.branched(), models) == ["encoder", "tower"]


def test_a_target_belongs_to_the_layer_that_owns_it_and_never_to_its_parents():
    with pytest.raises(errors.RuleError, match="encoder: has no weights of its own"):
        kwrap.plan(specimens.branched(), specimens.Times, where="encoder")


def test_layers_of_weights_that_were_passed_over_are_told_with_the_reason():
    _, skipped = select(Rule(specimens.shift()), places(specimens.sequential()))
    assert [(one.path, one.hook, one.reason) for one in skipped] == [
        ("norm", "specimen_shift", "a BatchNormalization; the hook is made for Dense")
    ]


def test_what_a_pattern_matches_but_the_hook_is_not_made_for_is_skipped_with_the_reason():
    plan = kwrap.plan(specimens.sequential(), specimens.shift, where="*", exclude="last")
    assert [entry.path for entry in plan.entries] == ["first"]
    assert {one.path: one.reason for one in plan.skipped} == {
        "norm": "a BatchNormalization; the hook is made for Dense",
        "drop": "a Dropout; the hook is made for Dense",
        "last": "excluded",
    }


# --- bad input -------------------------------------------------------------------------------------------------------


def test_a_rule_that_matches_nothing_is_an_error_with_the_nearest_paths():
    model = specimens.branched()
    before = specimens.snapshot(model)
    with pytest.raises(errors.RuleError, match=r"matches no layer.*'encoder/inner'") as caught:
        kwrap.wrap_model(model, specimens.Idle, where="encoder/iner")
    assert caught.value.nearest[0] == "encoder/inner"
    assert caught.value.rule == "'specimen_idle' at where='encoder/iner'"
    assert specimens.snapshot(model) == before


def test_one_rule_of_several_that_matches_nothing_is_an_error_and_nothing_changes():
    model = specimens.branched()
    before = specimens.snapshot(model)
    with pytest.raises(errors.RuleError, match="matches no layer"):
        kwrap.wrap_model(model, [specimens.Idle().at("first"), specimens.scale().at("frist")])
    assert specimens.snapshot(model) == before


@pytest.mark.parametrize("given", [{"where": ["first", "frist"]}, {"exclude": "frist"}, {"exclude": ["last", "frist"]}])
def test_a_part_of_where_or_exclude_that_matches_nothing_is_an_error_with_the_nearest_path(given):
    with pytest.raises(errors.RuleError, match="'frist' matches no layer") as caught:
        kwrap.plan(specimens.sequential(), specimens.Idle, **given)
    assert caught.value.nearest[0] == "first"


@pytest.mark.parametrize("where", [keras.layers.Conv2D, re.compile("conv"), lambda layer, path: False, []])
def test_forms_other_than_patterns_that_match_nothing_name_the_paths_there_are(where):
    with pytest.raises(errors.RuleError, match="matches no layer") as caught:
        kwrap.plan(specimens.sequential(), specimens.Idle, where=where)
    assert caught.value.nearest == ["first", "norm", "drop", "last"]


def test_a_path_inside_a_nested_model_is_not_matched_without_recursive():
    with pytest.raises(errors.RuleError, match="matches no layer"):
        kwrap.plan(specimens.branched(), specimens.Idle, where="encoder/inner", recursive=False)


def test_a_hook_on_a_layer_that_it_is_not_made_for_is_an_error_that_says_what_it_is_for():
    with pytest.raises(errors.LayerTypeError, match="it is made for Dense") as caught:
        kwrap.plan(specimens.sequential(), specimens.shift, where="norm")
    error = caught.value
    assert (error.hook, error.path, error.layer) == ("specimen_shift", "norm", "BatchNormalization")
    assert error.layer_types == ["Dense"]


def test_a_layer_that_is_named_by_its_path_and_cannot_have_the_hook_is_an_error():
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(2, name="dense"), keras.layers.Activation("relu", name="relu")]
    )
    with pytest.raises(errors.RuleError, match="'relu' cannot have the hook: has no weights of its own"):
        kwrap.plan(model, specimens.Times, where=["dense", "relu"])
    assert [entry.path for entry in kwrap.plan(model, specimens.Times, where=["dense", "re*"]).entries] == ["dense"]
    assert kwrap.plan(model, specimens.Times, where=["dense", "relu"], exclude="relu").entries


def test_a_rule_that_excludes_all_that_it_means_is_an_error_with_the_reasons():
    with pytest.raises(errors.RuleError, match=r"leaves no layer \('first: excluded'\)"):
        kwrap.plan(specimens.sequential(), specimens.Idle, where="first", exclude=keras.layers.Dense)


def test_a_callable_that_raises_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        kwrap.plan(specimens.sequential(), specimens.Idle, where=lambda layer, path: 1 / 0)


def test_layers_are_found_by_all_that_where_may_be():
    model = kwrap.wrap_model(specimens.sequential(), specimens.Idle, where="first")
    first, last = model.get_layer("first").layer, model.get_layer("last")
    assert kwrap.find_layers(model, keras.layers.Dense) == {"first": first, "last": last}
    assert kwrap.find_layers(model, ["last", re.compile("^fir")]) == {"first": first, "last": last}
    with pytest.raises(errors.RuleError, match="find_layers: where='lost' matches no layer") as caught:
        kwrap.find_layers(model, ["first", "lost"])
    assert caught.value.nearest[0] == "last"
