from typing import Any

import keras
import pytest

import kwrap
from kwrap.errors import OptionError, OptionValueError, UnknownHookError
from kwrap_cli._command import BadInput
from kwrap_cli._specs import read_hook, rules
from kwrap_cli._values import Given


def test_the_parts_of_a_hook_are_its_name_options_and_places():
    text = read_hook("lora:rank=4, schedule.end_step=10,block=(4,1),name='a,b@c'@encoder/**/query,block_*")
    assert text.name == "lora"
    assert text.options == {
        "rank": Given("4"),
        "schedule": Given(None, {"end_step": Given("10")}),
        "block": Given("(4,1)"),
        "name": Given("'a,b@c'"),
    }
    assert text.where == ("encoder/**/query", "block_*")


@pytest.mark.parametrize("text", ["noise", "noise:", "noise@logits"])
def test_all_but_the_name_may_be_left_out(text):
    assert (read_hook(text).name, read_hook(text).options) == ("noise", {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not written as NAME:OPTION=VALUE"),
        (":rank=4", "is not written as NAME:OPTION=VALUE"),
        ("a@b@c", "is not written as NAME:OPTION=VALUE"),
        ("noise:stddev", "'stddev' is not written as OPTION=VALUE"),
        ("noise:=4", "'=4' is not written as OPTION=VALUE"),
        ("prune:schedule..end=4", "'schedule..end=4' is not written as OPTION=VALUE"),
        ("noise:seed=1,seed=2", "'seed' is given twice"),
    ],
)
def test_what_is_not_written_as_a_hook_is_an_error_that_says_how(text, said):
    with pytest.raises(BadInput, match=r".*") as raised:
        read_hook(text)
    assert said in str(raised.value)


def test_options_of_rules_are_values_of_their_types():
    (rule,) = rules(["weight_noise:stddev=1,seed=7,phase=always,name=loud,targets=[kernel,bias]"], [], [])
    config = rule.hook.get_config()
    given = {"stddev": 1, "seed": 7, "phase": "always", "name": "loud", "targets": ["kernel", "bias"]}
    assert config | given == config


class Free(kwrap.Hook):
    """Have options without types, whose defaults tell none."""

    def __init__(self, needed, limit=None, pair=(1, 2), typed: Any = 1, **kwargs):
        super().__init__(**kwargs)
        self.needed, self.limit, self.pair, self.typed = needed, limit, pair, typed


@pytest.fixture(scope="module")
def free():
    """Return a function that gives the hook of a class with untyped options, as the command line makes it."""
    kwrap.hook(layer_type=keras.layers.Layer, name="cli_free")(Free)

    @kwrap.hook(layer_type=keras.layers.Layer, name="cli_free_function")
    def _free(call_next, inputs, *, mode=None):
        return call_next(inputs)

    return lambda text: rules([text], [], [])[0].hook


@pytest.mark.parametrize("option", ["needed", "limit", "pair", "typed"])
@pytest.mark.parametrize(("text", "value"), [("3", 3), ("x", "x"), ("[1,b]", [1, "b"]), ("none", None)])
def test_an_option_without_a_type_takes_any_value(free, option, text, value):
    needed = "" if option == "needed" else "needed=1,"
    assert getattr(free(f"cli_free:{needed}{option}={text}"), option) == value


def test_an_option_of_a_function_without_a_type_takes_any_value(free):
    assert free("cli_free_function:mode=x").get_config()["mode"] == "x"


def test_a_hooks_own_place_wins_over_where_and_exclude_is_for_all():
    first, second = rules(["noise@conv", "prune"], ["logits", "keras.layers.Dense"], ["x*"])
    assert (first.hook.name, first.where, first.exclude) == ("noise", ["conv"], ["x*"])
    assert (second.hook.name, second.where, second.exclude) == ("prune", ["logits", keras.layers.Dense], ["x*"])


def test_without_a_place_a_rule_has_none():
    (rule,) = rules(["noise"], [], [])
    assert (rule.where, rule.exclude) == (None, None)


@pytest.mark.parametrize("where", ["keras.layers.Dens", "keras.ops.add", "keras.src.layers.Dense", "keras._tf_keras"])
def test_a_place_in_keras_that_is_no_layer_class_is_an_error(where):
    with pytest.raises(BadInput, match="is no layer class of Keras"):
        rules(["noise"], [where], [])


def test_a_misspelt_class_of_keras_is_an_error_with_the_nearest_names():
    with pytest.raises(BadInput, match=r"Did you mean 'keras\.layers\.Dense'"):
        rules(["noise"], ["keras.layers.Dnse"], [])


def test_an_unknown_hook_is_an_error_with_the_nearest_name():
    with pytest.raises(UnknownHookError, match="Did you mean 'prune'"):
        rules(["prun"], [], [])


# --- objects ---------------------------------------------------------------------------------------------------------


def schedule_of(text):
    (rule,) = rules([text], [], [])
    return rule.hook.schedule


def test_a_dot_reaches_into_the_value_that_the_hook_has_anyway():
    changed = schedule_of("prune:schedule.target_sparsity=0.8,schedule.frequency=5")
    default = kwrap.use("prune").schedule
    assert vars(changed) == {**vars(default), "target_sparsity": 0.8, "frequency": 5}


def test_the_value_that_a_dot_reaches_into_follows_from_the_other_options():
    assert schedule_of("prune:n_m=(1,4),schedule.frequency=5").target_sparsity == 0.75


@pytest.mark.parametrize("name", ["PolynomialDecay", "kwrap_prune>PolynomialDecay"])
def test_a_class_registered_with_keras_goes_by_its_name_with_its_fields(name):
    fields = {"initial_sparsity": 0, "final_sparsity": 0.9, "begin_step": 2, "end_step": 10, "frequency": 4}
    text = ",".join(f"schedule.{field}={value}" for field, value in fields.items())
    schedule = schedule_of(f"prune:schedule={name},{text}")
    assert type(schedule).__name__ == "PolynomialDecay"
    assert (schedule.final_sparsity, schedule.begin_step, schedule.end_step) == (0.9, 2, 10)


@pytest.fixture
def penalty():
    """Return a hook with an unannotated option that is an object, and one with an object inside."""

    @keras.saving.register_keras_serializable(package="cli_test")
    class Penalty:
        def __init__(self, weight=1.0, norm=None):
            self.weight, self.norm = weight, norm or keras.regularizers.L2(0.5)

        def get_config(self):
            return {"weight": self.weight, "norm": keras.saving.serialize_keras_object(self.norm)}

        @classmethod
        def from_config(cls, config):
            return cls(config["weight"], keras.saving.deserialize_keras_object(config["norm"]))

    @kwrap.hook(layer_type=keras.layers.Layer, name="cli_penalty")
    class _Penalized(kwrap.Hook):
        def __init__(self, penalty=None, count=1, rate=0.5, label="x", **kwargs):
            super().__init__(**kwargs)
            self.penalty = penalty if penalty is not None else Penalty()
            self.count, self.rate, self.label = count, rate, label

    return lambda options: rules([f"cli_penalty:{options}"], [], [])[0].hook


def test_dots_reach_into_objects_inside_objects(penalty):
    hook = penalty("penalty.norm.l2=0.125,penalty.weight=3")
    assert float(hook.penalty.norm.l2) == 0.125
    assert hook.penalty.weight == 3
    assert float(penalty("penalty.weight=3").penalty.norm.l2) == 0.5


def test_keras_own_classes_go_by_their_dotted_names(penalty):
    norm = penalty("penalty=Penalty,penalty.norm=keras.regularizers.L1,penalty.norm.l1=0.25").penalty.norm
    assert isinstance(norm, keras.regularizers.L1)
    assert float(norm.l1) == 0.25


def test_an_option_without_annotation_takes_what_its_default_is_of(penalty):
    hook = penalty("count=3,rate=2,label=5")
    assert (hook.count, hook.rate, hook.label) == (3, 2, "5")
    with pytest.raises(OptionValueError, match="rate='much' is no float"):
        penalty("rate=much")


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("noise:stdev=1", OptionError, "option 'stdev': there is no such option; did you mean 'stddev'"),
        ("noise:stddev.x=1", OptionError, "its value is 0.1, which has no fields"),
        ("noise:stddev=[1]", OptionValueError, "stddev=[1] is no float"),
        ("noise:seed=1.5", OptionValueError, "seed=1.5 is no int | None"),
        ("noise:seed=true", OptionValueError, "seed=True is no int | None"),
        (
            "noise:phase=sometimes",
            OptionValueError,
            "phase='sometimes' is no Literal['always', 'training', 'inference']",
        ),
        ("noise:stddev=-1", OptionValueError, "stddev=-1 is not a finite number"),
        ("prune:block_size=[4,x]", OptionValueError, "block_size=[4, 'x'] is no Sequence[int]"),
        ("prune:regrow=1", OptionValueError, "regrow=1 is no bool"),
        ("prune:schedule=Polynomial", OptionValueError, "schedule='Polynomial' is no Schedule"),
        ("prune:schedule=ConstantSparsit", OptionValueError, "; did you mean 'ConstantSparsity'"),
        ("prune:schedule=0.5", OptionValueError, "schedule=0.5 is no Schedule"),
        ("prune:schedule=PolynomialDecay", OptionError, "PolynomialDecay needs schedule.initial_sparsity=..., "),
        (
            "prune:schedule.sparsity=1",
            OptionError,
            "option 'schedule.sparsity': there is no such option; did you mean ",
        ),
        ("prune:schedule=ConstantSparsity,schedule.x=1", OptionError, "option 'schedule.x': there is no such option"),
        ("prune:schedule.frequency=often", OptionValueError, "ConstantSparsity: frequency='often' is no int"),
        ("prune:schedule.target_sparsity=2", OptionValueError, "target_sparsity=2"),
        ("prune:schedule=os.system", OptionValueError, "schedule='os.system' is no Schedule"),
        ("prune:schedule=keras.ops.nothing", OptionValueError, "schedule='keras.ops.nothing' is no Schedule"),
    ],
)
def test_an_option_that_cannot_be_is_an_error_that_says_what_is_wrong(text, error, said):
    with pytest.raises(error) as raised:
        rules([text], [], [])
    assert said in str(raised.value)


def test_what_an_options_class_raises_by_itself_names_the_hook(penalty):
    with pytest.raises(BadInput, match=r"--hook cli_penalty: "):
        penalty("penalty=Penalty,penalty.norm=keras.regularizers.L2,penalty.norm.l2=-1")


def test_the_text_of_a_value_is_never_run(penalty, tmp_path):
    made = tmp_path / "made"
    assert penalty(f"label=\"__import__('pathlib').Path('{made}').touch()\"").label
    assert not made.exists()
