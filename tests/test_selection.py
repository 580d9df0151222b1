import re

import keras
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kwrap
from kwrap import errors
from kwrap._hook import Rule
from kwrap._selection import Place, matches, places, select

from . import specimens

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


def test_selection_sees_inside_composites_and_subclassed_models():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.attention = keras.layers.MultiHeadAttention(2, 2, name="attention")
            self.blocks = [Block(name="block")]

        def call(self, inputs):
            return self.blocks[0](self.attention(inputs, inputs))

    model = Subclassed()
    model(keras.ops.ones((1, 3, 4)))
    assert {"attention/query", "attention/key", "attention/value", "block/dense"} <= set(paths(model))


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.LSTM(2, name="rnn"),
        keras.layers.RNN([keras.layers.GRUCell(2), keras.layers.LSTMCell(2)], name="rnn"),
    ],
    ids=["LSTM", "stacked cells"],
)
def test_the_cells_of_a_recurrent_layer_have_no_place(layer):
    assert paths(keras.Sequential([keras.layers.Input((3, 4)), layer])) == ["rnn"]


def test_a_bidirectional_layers_halves_have_places():
    model = keras.Sequential(
        [keras.layers.Input((3, 4)), keras.layers.Bidirectional(keras.layers.LSTM(2, name="rnn"), name="both")]
    )
    assert paths(model) == ["both", "both/forward_rnn", "both/backward_rnn"]


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
    with pytest.raises(errors.RuleError, match="none of its own weights is a target"):
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


def test_a_rule_that_excludes_all_that_it_means_is_an_error_with_the_reasons():
    with pytest.raises(errors.RuleError, match=r"leaves no layer \('first: excluded'\)"):
        kwrap.plan(specimens.sequential(), specimens.Idle, where="first", exclude=keras.layers.Dense)


def test_a_callable_that_raises_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        kwrap.plan(specimens.sequential(), specimens.Idle, where=lambda layer, path: 1 / 0)
