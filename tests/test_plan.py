import io
import json
import types

import keras
import numpy as np
import pytest
from rich.console import Console

import kwrap
from kwrap import _plan, _selection, errors

from . import specimens
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
        "plan for 'line'",
        "path  layer  weights        hooks",
        "last  Dense  kernel (5, 3)  specimen_idle > +specimen_times > +specimen_shift",
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


def odd_name(name: str) -> keras.Sequential:
    layers = [keras.layers.Dense(2, name=name), keras.layers.Dense(2, name="last")]
    return keras.Sequential([keras.layers.Input((4,)), *layers], name=name)


def test_a_notebook_shows_the_same_rows_with_names_escaped():
    table = example()._repr_html_()
    assert table.count("<tr>") == 2
    assert "<td>kernel (5, 3)</td><td>specimen_idle &gt; +specimen_times &gt; +specimen_shift</td>" in table
    assert "<li>skipped first: excluded (specimen_shift)</li>" in table
    odd = kwrap.plan(odd_name("<script>&"), shift().at("*", exclude="<*"))._repr_html_()
    assert "<script>" not in odd
    assert "&lt;script&gt;&amp;: excluded" in odd


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


def test_an_empty_plan_is_shown_too():
    plan = kwrap.plan(sequential())
    assert repr(plan).splitlines()[0] == "plan for 'line'"
    assert "plan for line" in shown(plan)
    assert plan._repr_html_().count("<tr>") == 1
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


def test_a_hook_inside_a_composite_layer_or_subclassed_model_is_not_supported_yet():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__(name="whole")
            self.attention = keras.layers.MultiHeadAttention(2, 2, name="attention")

        def call(self, inputs):
            return self.attention(inputs, inputs)

        def get_config(self):
            return {}

        @classmethod
        def from_config(cls, config):
            return cls()

    model = Subclassed()
    model(keras.ops.ones((1, 3, 4)))
    with pytest.raises(
        errors.UnsupportedModelError, match=r"'attention' is held by 'whole', a subclassed model \(Subclassed\)"
    ):
        kwrap.wrap_model(model, scale, where="attention")
    inputs = keras.Input((3, 4))
    model = keras.Model(inputs, keras.layers.MultiHeadAttention(2, 2, name="attention")(inputs, inputs))
    before = snapshot(model)
    with pytest.raises(
        errors.UnsupportedModelError,
        match=r"'attention/query' is held by 'attention', a composite layer \(MultiHeadAttention\)",
    ):
        kwrap.wrap_model(model, Times)
    assert snapshot(model) == before


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
