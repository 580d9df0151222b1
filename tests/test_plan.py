import io
import json
import re
import types
from xml.etree import ElementTree

import keras
import numpy as np
import pytest
from rich.console import Console

import kwrap
from kwrap import _plan, _selection, errors

from . import composites, specimens
from .specimens import Idle, Times, branched, scale, sequential, shift, snapshot


class Failing(kwrap.Hook):
    """Raise in one method."""

    def __init__(self, method="call", **kwargs):
        super().__init__(**kwargs)
        self.method = method

    def fail_in(self, method):
        if self.method == method:
            raise ArithmeticError(f"no {method}")

    def build(self, layer):
        self.fail_in("build")
        self.count = self.add_weight((), name="count")

    def initialize(self, layer):
        self.fail_in("initialize")

    def call(self, call_next, inputs):
        self.fail_in("call")
        return call_next(inputs)

    def constrain(self, target, value, *, step):
        self.fail_in("constrain")
        return value * 0.5


kwrap.hook(layer_type=keras.layers.Layer, name="plan_failing")(Failing)


@kwrap.hook(layer_type=keras.layers.Dense, name="plan_wider")
def wider(call_next, inputs, *, way="shape"):
    outputs = call_next(inputs)
    return keras.ops.concatenate([outputs, outputs], axis=-1) if way == "shape" else keras.ops.cast(outputs, "float16")


CHECKS = """
import kwrap

@kwrap.hookimpl
def kwrap_check_plan(model, plan):
    {body}
"""


@pytest.fixture
def checked_by(install, plugins, monkeypatch):
    """Return a function that installs a plugin whose check of a plan has the given body."""
    monkeypatch.setattr(_plan, "plugins", plugins)
    return lambda name, body, **options: install(name, CHECKS.format(body=body), **options)


def shown(plan: kwrap.Plan) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(plan)
    return console.export_text()


# --- what a plan is --------------------------------------------------------------------------------------------------


def test_a_plan_changes_nothing():
    model = specimens.compiled(branched())
    before = snapshot(model)
    plan = kwrap.plan(model, [Idle, Times], where="**/inner")
    assert [entry.path for entry in plan.entries] == ["encoder/inner", "tower/inner"]
    assert snapshot(model) == before


def test_a_plan_without_hooks_is_what_is_on_the_model_now():
    model = sequential()
    assert kwrap.plan(model).entries == ()
    kwrap.wrap_model(model, [Times(factor=0.25), shift], where="last")
    (entry,) = kwrap.plan(model).entries
    assert (entry.path, entry.layer, entry.hooks) == ("last", model.get_layer("last").layer, ())
    assert [hook.name for hook in entry.all_hooks] == ["specimen_times", "specimen_shift"]


def test_entries_come_in_the_models_order_and_hooks_in_the_order_given():
    plan = kwrap.plan(branched(), [Times().at("second"), Idle().at(["shared", "second"])])
    assert [(entry.path, [hook.name for hook in entry.hooks]) for entry in plan.entries] == [
        ("shared", ["specimen_idle"]),
        ("second", ["specimen_times", "specimen_idle"]),
    ]


def test_the_rules_of_a_plan_make_it_again_with_less_or_more():
    model = branched()
    plan = kwrap.plan(model, [Times(factor=3.0).at(["second", "**/inner"]), Idle().at("second")])
    again = kwrap.plan(model, plan.rules)
    assert again.as_dict() == plan.as_dict()
    fewer = [rule for rule in plan.rules if rule.hook.name != "specimen_idle"]
    more = kwrap.plan(model, [Idle().at("encoder/inner"), *fewer])
    assert [(entry.path, [hook.name for hook in entry.hooks]) for entry in more.entries] == [
        ("encoder/inner", ["specimen_idle", "specimen_times"]),
        ("tower/inner", ["specimen_times"]),
        ("second", ["specimen_times"]),
    ]
    kwrap.wrap_model(model, plan.rules)
    assert kwrap.plan(model).rules == []  # nothing is added


def test_hooks_that_are_there_come_before_those_that_are_added():
    model = kwrap.wrap_model(sequential(), Idle, where="last")
    (entry,) = kwrap.plan(model, Times, where="last").entries
    assert [hook.name for hook in entry.all_hooks] == ["specimen_idle", "specimen_times"]
    assert [hook.name for hook in entry.hooks] == ["specimen_times"]


@pytest.mark.parametrize(
    "hooks",
    ["specimen_times", Times, Times(), Times().at("last"), ["specimen_times"], (Times,), [Times().at("*")]],
    ids=["name", "class", "instance", "rule", "list of names", "tuple of classes", "list of rules"],
)
def test_hooks_are_given_in_every_form(hooks):
    (entry,) = [entry for entry in kwrap.plan(sequential(), hooks).entries if entry.path == "last"]
    assert [type(hook) for hook in entry.hooks] == [Times]


def test_applying_a_plan_puts_its_hooks_on_and_returns_the_model():
    model = sequential()
    plan = kwrap.plan(model, [Times(factor=0.25), shift], where="last")
    assert plan.apply() is model
    assert [(path, hook.name) for path, hook in kwrap.find_hooks(model)] == [
        ("last", "specimen_times"),
        ("last", "specimen_shift"),
    ]
    wrapped, inputs = model.get_layer("last"), np.ones((2, 5), "float32")
    expected = inputs @ (np.asarray(wrapped.layer.kernel) * np.float32(0.25)) + np.asarray(wrapped.layer.bias) + 1.0
    np.testing.assert_allclose(wrapped(inputs), expected, rtol=1e-6)  # the order of a matrix product's sums is free


def test_an_instance_is_copied_for_each_layer_and_stays_free():
    hook = Times()
    model = kwrap.wrap_model(sequential(), hook)
    found = [found for _, found in kwrap.find_hooks(model)]
    assert len({id(one) for one in [hook, *found]}) == 3
    assert hook.path is None
    assert [one.path for one in found] == ["first", "last"]


@pytest.mark.parametrize("change", ["applied", "wrapped", "unwrapped"])
def test_a_plan_of_a_model_that_has_changed_since_is_an_error_and_changes_nothing(change):
    model = sequential()
    if change == "unwrapped":
        kwrap.wrap_model(model, Idle, where="last")
    plan = kwrap.plan(model, Times, where="last")
    {
        "applied": plan.apply,
        "wrapped": lambda: kwrap.wrap_model(model, Idle, where="last"),
        "unwrapped": lambda: kwrap.unwrap_model(model),
    }[change]()
    before = snapshot(model)
    with pytest.raises(errors.WrapperStateError, match=r"'last' .* since the plan was made"):
        plan.apply()
    assert snapshot(model) == before


# --- how a plan is shown ---------------------------------------------------------------------------------------------


def example() -> kwrap.Plan:
    model = kwrap.wrap_model(sequential(), Idle, where="last")
    return kwrap.plan(model, [Times(factor=0.25), shift().at("*", exclude="first")], where="last")


def test_a_plan_prints_as_a_table_with_what_is_added_marked_and_what_was_skipped_with_its_reason():
    assert repr(example()).splitlines() == [
        "plan for line",
        "layer  type   weights        hooks",
        "last   Dense  kernel (5, 3)  specimen_idle > +specimen_times > +specimen_shift",
        "skipped first: excluded (specimen_shift)",
        "skipped norm: a BatchNormalization; the hook is made for Dense (specimen_shift)",
        "skipped drop: a Dropout; the hook is made for Dense (specimen_shift)",
    ]


def test_rich_shows_the_same_rows_and_what_was_skipped():
    text = shown(example())
    for row in example().rows():
        assert all(cell in text for cell in row)
    assert "skipped norm: a BatchNormalization" in text


def test_rich_does_not_read_markup_in_names():
    text = shown(kwrap.plan(odd_name("a[bold]b"), [shift().at("*", exclude="last")]))
    assert "a[bold]b" in text


def test_a_name_does_not_command_the_terminal():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="d\x1b[31mred")], name="m\x1b]0;x\x07")
    plan = kwrap.plan(model, Idle())
    for text in (str(plan), shown(plan)):
        assert r"d\x1b[31mred" in text
        assert not {"\x1b", "\x07"} & set(text)


def odd_name(name: str) -> keras.Sequential:
    layers = [keras.layers.Dense(2, name=name), keras.layers.Dense(2, name="last")]
    return keras.Sequential([keras.layers.Input((4,)), *layers], name=name)


def test_a_notebook_shows_the_same_rows_with_names_escaped():
    _, (row,), skipped = notebook(example())
    hooks = "specimen_idle > +specimen_times > +specimen_shift"
    assert row == (0, "last", "last", "Dense", "kernel (5, 3)", hooks)
    assert "skipped first: excluded (specimen_shift)" in skipped
    name = "<script>&\"'"
    odd = odd_name(name)
    assert notebook(kwrap.plan(odd, shift().at("*", exclude="<*")))[2] == [f"skipped {name}: excluded (specimen_shift)"]
    assert notebook(kwrap.plan(odd, shift()))[1][0][1:3] == (name, name)


def test_a_notebook_needs_nothing_from_elsewhere_and_takes_no_colours_but_the_pages():
    page = nested()._repr_html_()
    assert {element.tag for element in ElementTree.fromstring(page).iter()} <= {
        *("div", "strong", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "ul", "li")
    }
    assert not re.search(r"http|url\(|@import|#[0-9a-f]{3}", page.replace("&#160;", ""))
    assert set(re.findall(r"(?<!-)color: (\w+)", page)) == {"inherit"}


def test_a_plan_is_data():
    plan = example()
    assert json.loads(plan.to_json()) == plan.as_dict()
    assert plan.as_dict()["model"] == "line"
    (entry,) = plan.as_dict()["entries"]
    assert (entry["path"], entry["layer"], entry["weights"]) == ("last", "Dense", {"kernel": [5, 3]})
    assert [(hook["name"], hook["added"]) for hook in entry["hooks"]] == [
        ("specimen_idle", False),
        ("specimen_times", True),
        ("specimen_shift", True),
    ]
    assert entry["hooks"][1]["config"]["factor"] == 0.25
    assert plan.as_dict()["skipped"][0] == {"path": "first", "hook": "specimen_shift", "reason": "excluded"}


class Branch(keras.layers.Layer):
    """Call a layer that is given to it."""

    def __init__(self, shared, name):
        super().__init__(name=name)
        self.shared = shared

    def call(self, inputs):
        return self.shared(inputs)


def nested() -> kwrap.Plan:
    """Return a plan for layers in a composite that two others hold, and for one of these."""
    keeper = specimens.Keeper(specimens.WAYS["list"])
    inputs = keras.Input((4,))
    hidden = Branch(keeper, "right")(Branch(keeper, "left")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, name="last")(hidden), name="two_ways")
    kwrap.wrap_model(model, Idle, where="left/keeper/first")
    return kwrap.plan(model, [Times().at("**", exclude="last"), scale().at(["right", "left/keeper/second"])])


NO_WEIGHTS = "has no weights of its own"

# (depth, name, type, weights, hooks) of each row.
NESTED = [
    (0, "left", "Branch", "", ""),
    (1, "keeper", "Keeper", "", ""),
    (2, "first = right/keeper/first", "Dense", "kernel (4, 4)", "specimen_idle > +specimen_times"),
    (2, "second = right/keeper/second", "Dense", "kernel (4, 4)", "+specimen_times > +specimen_scale"),
    (0, "right", "Branch", "", "+specimen_scale"),
]
NESTED_SKIPPED = [
    f"skipped left, left/keeper, right: {NO_WEIGHTS} (specimen_times)",
    "skipped last: excluded (specimen_times)",
]


def test_a_plan_is_a_tree_with_what_holds_its_layers_all_paths_of_each_and_what_was_skipped_grouped_by_reason():
    title, head, *rows = repr(nested()).splitlines()
    assert (title, head.split()) == ("plan for two_ways", ["layer", "type", "weights", "hooks"])
    assert rows[len(NESTED) :] == NESTED_SKIPPED
    starts = [head.index(column) for column in head.split()]
    spans = list(zip(starts, [*starts[1:], None], strict=True))
    cells = [tuple(row[start:end].rstrip() for start, end in spans) for row in rows[: len(NESTED)]]
    assert cells == [("  " * depth + name, *rest) for depth, name, *rest in NESTED]


def test_rich_shows_the_same_tree():
    lines = shown(nested()).splitlines()
    rows = [[cell.rstrip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert [tuple(row) for row in rows] == [
        tuple(f" {cell}".rstrip() for cell in ("  " * depth + name, *rest)) for depth, name, *rest in NESTED
    ]
    assert [line.strip() for line in lines if "skipped" in line] == NESTED_SKIPPED


def notebook(plan: kwrap.Plan) -> tuple[str, list[tuple[int, str, *tuple[str, ...]]], list[str]]:
    """Return what a notebook shows: the title, the rows as (depth, tooltip, cells), and what is below."""
    page = ElementTree.fromstring(plan._repr_html_())  # an error unless it is well-formed
    rows = []
    for row in page.findall("./table/tbody/tr"):
        name, *cells = (cell.text or "" for cell in row)
        spaces = len(name) - len(name.lstrip("\u00a0"))
        rows.append((spaces // 4, row[0].get("title"), name.lstrip("\u00a0"), *cells))
    return page.findtext("strong"), rows, [line.text for line in page.iter("li")]


def test_a_notebook_shows_the_same_tree():
    title, rows, skipped = notebook(nested())
    assert title == "plan for two_ways"
    assert [(depth, *cells) for depth, _, *cells in rows] == NESTED
    assert skipped == NESTED_SKIPPED


def test_a_notebook_tells_each_layers_whole_path():
    plan = nested()
    paths = [path for _, path, *_ in notebook(plan)[1]]
    assert paths == ["left", "left/keeper", "left/keeper/first", "left/keeper/second", "right"]
    assert {entry.path for entry in plan.entries} <= set(paths)


def test_what_was_skipped_is_closed_in_a_notebook_until_it_is_asked_for():
    page = ElementTree.fromstring(nested()._repr_html_())
    assert page.find("details").attrib == {}
    assert page.findtext("./details/summary") == "skipped: 4"
    assert ElementTree.fromstring(kwrap.plan(sequential())._repr_html_()).find("details") is None


def test_json_has_all_paths_of_a_layer_and_each_that_was_skipped_alone():
    data = json.loads(nested().to_json())
    assert [(entry["path"], entry["also"]) for entry in data["entries"]] == [
        ("left/keeper/first", ["right/keeper/first"]),
        ("left/keeper/second", ["right/keeper/second"]),
        ("right", []),
    ]
    assert [(one["path"], one["reason"]) for one in data["skipped"]] == [
        *((path, NO_WEIGHTS) for path in ("left", "left/keeper", "right")),
        ("last", "excluded"),
    ]


@pytest.mark.parametrize("make", composites.MODELS.values(), ids=composites.MODELS)
def test_every_layer_that_a_plan_changes_is_a_row_below_those_that_hold_it(make):
    plan = kwrap.plan(make(), Times)
    rows = [row for row in repr(plan).splitlines()[2:] if not row.startswith("skipped")]
    above: list[str] = []
    found = []
    for row in rows:
        name = row.split()[0]
        depth = (len(row) - len(row.lstrip())) // 2
        above[depth:] = [name]
        if "+specimen_times" in row:
            found.append("/".join(above))
    assert found == [entry.path for entry in plan.entries]
    assert len(found) > 5


def test_an_empty_plan_is_shown_too():
    plan = kwrap.plan(sequential())
    assert repr(plan).splitlines()[0] == "plan for line"
    assert "plan for line" in shown(plan)
    assert notebook(plan) == ("plan for line", [], [])
    assert plan.as_dict()["entries"] == []


# --- what plugins have against a plan --------------------------------------------------------------------------------


def test_the_problems_of_all_plugins_stop_the_plan_and_nothing_changes(checked_by):
    checked_by("a", "return [kwrap.Problem('quantize before prune', path=plan.entries[0].path)]")
    checked_by("b", "return None")
    checked_by("c", "yield kwrap.Problem(f'{model.name} is too small')")
    model = sequential()
    before = snapshot(model)
    with pytest.raises(errors.PlanError) as caught:
        kwrap.wrap_model(model, Idle, where="last")
    assert caught.value.problems == [
        kwrap.Problem("quantize before prune", "last", "a"),
        kwrap.Problem("line is too small", None, "c"),
    ]
    assert "last: quantize before prune (says a)" in str(caught.value)
    assert "line is too small (says c)" in str(caught.value)
    assert snapshot(model) == before


def test_a_check_sees_what_is_there_and_what_is_added(checked_by):
    checked_by("a", "return [kwrap.Problem(', '.join(h.name for h in e.all_hooks)) for e in plan.entries if e.hooks]")
    with pytest.raises(errors.PlanError, match=r"not applied: specimen_idle \(says a\)"):
        kwrap.wrap_model(sequential(), Idle, where="last")


def test_a_problem_keeps_the_plugin_that_it_names_itself(checked_by):
    checked_by("a", "return [kwrap.Problem('no', plugin='a, for b')]")
    with pytest.raises(errors.PlanError, match=r"no \(says a, for b\)"):
        kwrap.plan(sequential(), Idle)


@pytest.mark.parametrize("body", ["return [1 / 0]", "yield 1 / 0"], ids=["list", "generator"])
def test_a_check_that_raises_is_named(checked_by, body):
    checked_by("a", body, version="0.5")
    with pytest.raises(
        errors.PluginAnswerError, match=r"a \(dist-a 0.5\) failed in kwrap_check_plan: ZeroDivisionError"
    ):
        kwrap.plan(sequential(), Idle)


def test_a_plan_without_problems_is_applied(checked_by):
    checked_by("a", "return []")
    assert kwrap.find_hooks(kwrap.wrap_model(sequential(), Idle, where="last"))


# --- bad input -------------------------------------------------------------------------------------------------------


def refused(error: type[Exception], match: str, *args, model=None, **kwargs) -> Exception:
    """Return the error that both `clone_model` and `wrap_model` raise; they are to leave the model as it was."""
    model = model or specimens.compiled(sequential())
    before = snapshot(model)
    for function in (kwrap.clone_model, kwrap.wrap_model):
        with pytest.raises(error, match=match) as caught:
            function(model, *args, **kwargs)
        assert isinstance(caught.value, errors.KwrapError)
        assert snapshot(model) == before
    return caught.value


def test_an_unknown_hook_name_is_an_error_with_the_nearest_names():
    error = refused(
        errors.UnknownHookError, r"no hook is named 'specimen_tmies'. Did you mean 'specimen_times'", "specimen_tmies"
    )
    assert error.nearest[0] == "specimen_times"


@pytest.mark.parametrize("function", [kwrap.wrap_model, kwrap.clone_function])
@pytest.mark.parametrize("hooks", [None, [], ()])
def test_no_hooks_is_an_error_with_the_names_there_are(function, hooks):
    arguments = (sequential(), hooks) if function is kwrap.wrap_model else (hooks,)
    with pytest.raises(errors.NoHooksError, match=rf"{function.__name__}\(\) needs at least one hook") as caught:
        function(*arguments)
    assert {"specimen_idle", "specimen_times"} <= set(caught.value.known)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize("hooks", [3, keras.layers.Dense(2), keras.layers.Dense, [Idle, 3], lambda call_next: None])
def test_what_is_no_form_of_a_hook_is_an_error_that_lists_the_forms(hooks):
    error = refused(errors.HookTypeError, "expected a hook's name, a Hook class, an instance, a Rule", hooks)
    assert isinstance(error, TypeError)


def test_a_class_that_is_not_registered_is_an_error_that_says_how():
    class Unregistered(kwrap.Hook):
        pass

    refused(errors.HookDefinitionError, "@kwrap.hook", Unregistered, where="last")


def test_the_same_hook_twice_on_a_layer_needs_two_names():
    error = refused(errors.DuplicateHookError, "name='specimen_times_2'", [Times, Times(factor=3.0)])
    assert (error.hook, error.path) == ("specimen_times", "first")
    model = kwrap.wrap_model(sequential(), Times)
    refused(errors.DuplicateHookError, "two hooks named 'specimen_times'", Times, where="last", model=model)
    kwrap.wrap_model(model, Times(name="specimen_times_2"), where="last")
    assert [hook.name for _, hook in kwrap.find_hooks(model, Times)] == [
        "specimen_times",
        "specimen_times",
        "specimen_times_2",
    ]


@pytest.mark.parametrize("function", [kwrap.plan, kwrap.wrap_model, kwrap.clone_model])
@pytest.mark.parametrize(
    "model", ["model", None, keras.layers.Dense(2), keras.Model], ids=["str", "None", "layer", "class"]
)
def test_what_is_no_model_is_an_error_that_says_what_it_is(function, model):
    with pytest.raises(errors.ModelTypeError, match=r"expected a keras.Model, got"):
        function(model, Idle)


@pytest.mark.parametrize("function", [kwrap.unwrap_model, kwrap.find_hooks, kwrap.clone_model, kwrap.plan])
def test_a_model_of_tf_keras_is_an_error_that_says_which_keras_it_is(function):
    module = types.ModuleType("tf_keras.src.engine.training")
    model = type("Model", (), {"__module__": module.__name__})()
    with pytest.raises(
        errors.ModelTypeError, match=rf"of tf_keras \(Keras 2\); kwrap works with Keras {keras.__version__}"
    ):
        function(model)


def test_a_subclass_of_a_tf_keras_model_is_told_by_its_parents():
    parent = type("Model", (), {"__module__": "tf_keras.src.engine.training"})
    with pytest.raises(errors.ModelTypeError, match=r"of tf_keras \(Keras 2\)"):
        kwrap.wrap_model(type("MyModel", (parent,), {"__module__": __name__})(), Idle)


@pytest.mark.parametrize("hook", [Idle, Times, scale])
def test_a_model_that_is_not_built_is_an_error_that_asks_to_build_it(hook):
    model = keras.Sequential([keras.layers.Dense(2, name="only")], name="line")
    with pytest.raises(errors.WrapperStateError, match=r"'line' is not built"):
        kwrap.wrap_model(model, hook)
    assert not model.built
    assert type(model.layers[0]) is keras.layers.Dense


@pytest.mark.parametrize("way", ["shape", "dtype"])
def test_an_output_of_another_shape_or_dtype_is_an_error_before_anything_changed(way):
    error = refused(errors.OutputChangedError, "changes_output = True", wider(way=way), where="first")
    assert (error.hook, error.path) == ("plan_wider", "first")
    assert (error.expected, error.received) == (
        "float32(None, 5)",
        "float32(None, 10)" if way == "shape" else "float16(None, 5)",
    )


@pytest.mark.parametrize("method", ["build", "initialize", "call", "constrain"])
def test_a_hook_that_raises_is_named_with_its_path_and_the_model_stays_as_it_was(method):
    hooks = [specimens.NonNegative, specimens.Mask, Failing(method=method).at("last")]
    error = refused(errors.HookCallError, f"ArithmeticError: no {method}", hooks)
    assert (error.hook, error.path, error.during, error.plugin) == ("plan_failing", "last", method, None)
    assert isinstance(error.__cause__, ArithmeticError)


@pytest.mark.parametrize("method", ["build", "initialize", "call", "constrain"])
def test_a_hook_that_raises_leaves_the_hooks_that_were_there_as_they_were(method):
    model = specimens.compiled(kwrap.wrap_model(branched(), [specimens.NonNegative, specimens.Mask, scale]))
    refused(errors.HookCallError, f"no {method}", Failing(method=method), where="second", model=model)


@pytest.mark.parametrize("method", ["build", "initialize", "constrain"])
@pytest.mark.parametrize(
    "make", [composites.in_graph, composites.tagger, composites.tower], ids=lambda make: make.__name__
)
def test_a_hook_that_raises_inside_a_composite_leaves_the_model_as_it_was(make, method):
    model = kwrap.wrap_model(composites.compiled(make()), specimens.NonNegative, where="**/up")
    before = snapshot(model)
    with pytest.raises(errors.HookCallError, match=f"no {method}") as caught:
        kwrap.wrap_model(model, [specimens.Mask, Idle().at("*"), Failing(method=method).at("**/down")])
    assert (caught.value.path.rpartition("/")[2], caught.value.during) == ("down", method)
    assert snapshot(model) == before


def test_a_plan_of_a_composite_whose_inside_has_changed_since_is_an_error():
    model = composites.in_graph()
    plan = kwrap.plan(model, Times, where="block/**")
    kwrap.wrap_model(model, Idle, where="block/attention/query")
    before = snapshot(model)
    with pytest.raises(errors.WrapperStateError, match=r"'block/attention/query' .* since the plan was made"):
        plan.apply()
    assert snapshot(model) == before


class Unused(keras.Model):
    """A subclassed model with layers that its call does not reach."""

    def __init__(self):
        super().__init__(name="whole")
        self.used = keras.layers.Dense(4, name="used")
        self.spare = keras.layers.Dense(4, name="spare")
        self.block = specimens.Keeper(specimens.WAYS["list"], name="block")

    def build(self, input_shape):
        self.used.build(input_shape)

    def call(self, inputs):
        return self.used(inputs)


def with_unbuilt() -> keras.Model:
    model = Unused()
    model(np.ones((2, 4), "float32"))
    return model


@pytest.mark.parametrize("hook", [Times, specimens.Mask, specimens.NonNegative, Idle, scale, shift])
@pytest.mark.parametrize(
    ("where", "path"),
    [
        (None, "spare"),
        ("**", "spare"),
        ("spare", "spare"),
        ("**/second", "block/second"),
        (keras.layers.Dense, "spare"),
    ],
)
def test_a_layer_that_is_not_built_is_an_error_that_names_it_and_asks_to_call_the_model_once(hook, where, path):
    model = with_unbuilt()
    before = snapshot(model)
    with pytest.raises(
        errors.WrapperStateError, match=f"layer {path!r} is not built: .* call it once on data"
    ) as caught:
        kwrap.wrap_model(model, hook, where=where)
    assert "one that is never called: exclude=" in str(caught.value)
    assert snapshot(model) == before


@pytest.mark.parametrize("hook", [Idle, scale])
def test_a_composite_that_is_not_built_is_an_error_where_it_is_named(hook):
    with pytest.raises(errors.WrapperStateError, match="layer 'block' is not built"):
        kwrap.wrap_model(with_unbuilt(), hook, where="block")


@pytest.mark.parametrize("hook", [Times, scale])
def test_what_is_never_called_can_be_left_out(hook):
    model = kwrap.wrap_model(with_unbuilt(), hook, exclude=["spare", "block/**"])
    assert [path for path, _ in kwrap.find_hooks(model)] == ["used"]


def test_after_one_call_what_was_not_built_is_wrapped():
    model = with_unbuilt()
    model.block(model.spare(np.ones((2, 4), "float32")))
    kwrap.wrap_model(model, Times)
    assert [path for path, _ in kwrap.find_hooks(model)] == ["used", "spare", "block/first", "block/second"]


class Closed(keras.layers.Layer):
    """Hold two layers, and call one of them by a function that closes over it."""

    def __init__(self):
        super().__init__(name="closed")
        kept = self.kept = keras.layers.Dense(4, name="kept")
        self.free = keras.layers.Dense(4, name="free")
        self.function = lambda inputs: kept(inputs)

    def call(self, inputs):
        return self.free(self.function(inputs))


def closed() -> keras.Model:
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(2, name="last")(Closed()(inputs)), name="around")


@pytest.mark.parametrize("hook", [Times, scale, Idle])
@pytest.mark.parametrize(
    "where", ["closed/kept", "**", "**/kept", keras.layers.Dense, lambda layer, path: "kept" in path]
)
def test_a_rule_for_a_layer_that_cannot_be_replaced_is_an_error_and_nothing_changes(hook, where):
    model = compiled_around(closed())
    before = snapshot(model)
    with pytest.raises(errors.FixedLayerError, match=r"'closed/kept' is held by 'closed' \(a Closed\)") as caught:
        kwrap.wrap_model(model, [Idle(name="other").at("last"), hook().at(where)])
    error = caught.value
    assert (error.path, error.holder, error.kind) == ("closed/kept", "closed", "Closed")
    assert error.how == "in a closure of Closed.__init__.<locals>.<lambda>"
    assert snapshot(model) == before


def compiled_around(model: keras.Model) -> keras.Model:
    model.compile("adam", "mse", jit_compile=False)
    model.train_on_batch(np.ones((2, 4), "float32"), np.ones((2, 2), "float32"))
    return model


@pytest.mark.parametrize("hook", [Times, scale, shift])
def test_a_rule_without_where_leaves_out_what_cannot_be_replaced_and_says_so(hook):
    model = closed()
    plan = kwrap.plan(model, hook)
    assert [entry.path for entry in plan.entries] == ["closed/free", "last"]
    (skipped,) = [one for one in plan.skipped if one.path == "closed/kept"]
    assert skipped.reason == (
        "held in a closure of Closed.__init__.<locals>.<lambda>; hold it in an attribute, list, tuple or dict alone, "
        "so that a Wrapper can be put in its place"
    )
    plan.apply()
    assert type(model.get_layer("closed").kept) is keras.layers.Dense
    assert isinstance(model.get_layer("closed").free, kwrap.Wrapper)


def test_what_holds_a_layer_that_cannot_be_replaced_can_be_wrapped_itself_and_the_layer_left_out():
    model = closed()
    kwrap.wrap_model(model, [scale().at("closed"), Times().at("closed/**", exclude="**/kept")])
    assert [path for path, _ in kwrap.find_hooks(model)] == ["closed", "closed/free"]


def test_a_layer_that_is_wrapped_takes_more_hooks_whoever_keeps_it_by_then_for_nothing_is_replaced():
    model = closed()
    layer = model.get_layer("closed")
    kwrap.wrap_model(model, Idle, where="closed/free")
    bare = layer.free.layer
    layer.look = lambda: bare.kernel
    kwrap.wrap_model(model, Times, where="closed/free")
    assert [hook.name for hook in layer.free.hooks] == ["specimen_idle", "specimen_times"]


def test_a_layer_that_nobody_taught_is_skipped_with_how_to_teach_it():
    class Gate(keras.layers.Layer):
        def build(self, input_shape):
            self.gate = self.add_weight((input_shape[-1],), name="gate")

        def call(self, inputs):
            return inputs * self.gate

    model = keras.Sequential([keras.layers.Input((4,)), Gate(name="gate"), keras.layers.Dense(2, name="last")])
    (skipped,) = kwrap.plan(model, Times).skipped
    assert skipped.path == "gate"
    assert "@kwrap.weight_targets.register(Gate)" in skipped.reason
    assert "get_weight_targets()" in skipped.reason
    with pytest.raises(errors.RuleError, match=r"gate: nobody says which of its own weights .*register\(Gate\)"):
        kwrap.plan(model, Times, where="gate")


def test_layers_that_hold_layers_are_skipped_by_a_call_hook_unless_they_are_named():
    class Weighted(specimens.Keeper):
        def build(self, input_shape):
            super().build(input_shape)
            self.own = self.add_weight((), initializer="ones", name="own")

    model = keras.Sequential([keras.layers.Input((4,)), Weighted(specimens.WAYS["list"], name="block")])
    plan = kwrap.plan(model, scale)
    assert [entry.path for entry in plan.entries] == ["block/first", "block/second"]
    assert [(one.path, one.reason) for one in plan.skipped] == [
        ("block", "holds layers; name it with where=... to put the hook on it")
    ]
    assert [entry.path for entry in kwrap.plan(model, scale, where="block").entries] == ["block"]


def test_selection_of_a_plan_is_that_of_the_rules():
    model = branched()
    rule = Times().at("**/inner")
    meant, _ = _selection.select(rule, _selection.places(model))
    assert [entry.path for entry in kwrap.plan(model, rule).entries] == [place.path for place in meant]


@pytest.mark.parametrize("structure", [lambda x: {"out": x}, lambda x: [x]])
def test_a_call_hook_sees_the_structure_of_a_single_output(structure):
    class Structured(keras.layers.Layer):
        def call(self, inputs):
            return structure(inputs * 2)

    @kwrap.hook(layer_type=Structured)
    def specimen_structured(call_next, inputs):
        return keras.tree.map_structure(lambda x: x + 1, call_next(inputs))

    inputs = keras.Input((2,))
    model = keras.Model(inputs, Structured(name="structured")(inputs))
    kwrap.wrap_model(model, specimen_structured)
    (output,) = keras.tree.flatten(model(np.ones((1, 2))))
    assert np.array_equal(output, [[3, 3]])


def test_a_plugin_adds_what_it_left_alone_and_why():
    model = sequential()
    plan = kwrap.plan(model, scale(), where="last")
    more = plan.left_out("quantize", {"drop": "no int8"})
    assert [(item.path, item.hook, item.reason) for item in more.skipped[len(plan.skipped) :]] == [
        ("drop", "quantize", "no int8")
    ]
    assert (more.entries, len(plan.skipped)) == (plan.entries, len(more.skipped) - 1)
    assert "skipped drop: no int8 (quantize)" in str(more)
    assert more.apply() is model
