"""What may be an option of a hook, and that it comes back from a config as it was."""

import json

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kwrap
from kwrap import errors


@keras.saving.register_keras_serializable("kwrap-tests")
def smooth(step):
    return step / (1 + step)


@keras.saving.register_keras_serializable("kwrap-tests")
class Ramp:
    def __init__(self, stop: int):
        self.stop = stop

    def get_config(self):
        return {"stop": self.stop}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable("kwrap-tests")
class OneWay:
    """Keras stores it, and cannot load it."""

    def get_config(self):
        return {}


class Unregistered:
    def get_config(self):
        return {}


def unregistered(step):
    return step


@kwrap.hook(layer_type=keras.Layer, name="options_holder")
class Holder(kwrap.Hook):
    def __init__(self, value=None, **kwargs):
        super().__init__(**kwargs)
        self.value = value


@kwrap.hook(layer_type=keras.Layer, name="options_whole")
class Whole(kwrap.Hook):
    def __init__(self, rate=0.1, steps=10, shape=(1, 2), schedule=None, curve=smooth, **kwargs):
        super().__init__(**kwargs)
        self.given = rate, steps, shape, schedule, curve


@kwrap.hook(layer_type=keras.Layer, name="options_child")
class Child(Whole):
    def __init__(self, rate, *, sign=1, **kwargs):
        super().__init__(rate=sign * rate, **kwargs)
        self.sign = sign


@kwrap.hook(layer_type=keras.Layer, name="options_closed")
class Closed(kwrap.Hook):
    """Takes no `**kwargs`, so that the options of every hook are none of its own."""

    def __init__(self, rate=0.1):
        super().__init__(name="a_name_of_its_own", phase="training")
        self.rate = rate


@kwrap.hook(layer_type=keras.Layer)
def options_function(call_next, inputs, extra=None, *, training, rate=0.1, sizes=(1, 2)):
    return call_next(inputs)


def stored(value):
    return Holder(value).get_config()["value"]


def through_json(hook: kwrap.Hook) -> kwrap.Hook:
    return type(hook).from_config(json.loads(json.dumps(hook.get_config())))


# --- round trips -----------------------------------------------------------------------------------------------------

WHOLE = {
    "rate": 0.5,
    "steps": 3,
    "shape": [4, 5],
    "schedule": {
        "module": "keras.optimizers.schedules",
        "class_name": "ExponentialDecay",
        "config": {
            "initial_learning_rate": 0.1,
            "decay_steps": 7,
            "decay_rate": 0.9,
            "staircase": True,
            "name": "ExponentialDecay",
        },
        "registered_name": None,
    },
    "curve": {
        "module": "builtins",
        "class_name": "function",
        "config": "kwrap-tests>ramp_down",
        "registered_name": "function",
    },
    "name": "mine",
    "phase": "training",
    "targets": ["kernel", "bias"],
}


@keras.saving.register_keras_serializable("kwrap-tests")
def ramp_down(step):
    return 1 - step


def test_every_option_off_its_default_comes_back_from_the_config():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 7, 0.9, staircase=True)
    hook = Whole(0.5, 3, (4, 5), schedule, ramp_down, name="mine", phase="training", targets=("kernel", "bias"))
    assert hook.get_config() == WHOLE
    back = through_json(hook)
    assert back.get_config() == WHOLE
    rate, steps, shape, decay, curve = back.given
    assert (rate, steps, shape, curve) == (0.5, 3, [4, 5], ramp_down)
    assert float(decay(7)) == pytest.approx(0.09)
    assert (back.name, back.phase, list(back.targets)) == ("mine", "training", ["kernel", "bias"])


def test_defaults_are_in_the_config_whole_so_that_a_later_version_with_others_loads_it_as_it_was():
    assert Whole().get_config() == {
        "rate": 0.1,
        "steps": 10,
        "shape": [1, 2],
        "schedule": None,
        "curve": {
            "module": "builtins",
            "class_name": "function",
            "config": "kwrap-tests>smooth",
            "registered_name": "function",
        },
        "name": "options_whole",
        "phase": "always",
        "targets": None,
    }


def test_the_options_of_a_function_are_its_keyword_only_parameters_with_a_default():
    assert options_function(rate=0.5).get_config() == {
        "rate": 0.5,
        "sizes": [1, 2],
        "name": "options_function",
        "phase": "always",
        "targets": None,
    }


def test_options_of_the_parent_classes_are_captured_as_far_as_kwargs_reach():
    hook = Child(0.5, sign=-1, steps=3)
    assert hook.given[:2] == (-0.5, 3)
    back = through_json(hook)
    assert back.given[:2] == (-0.5, 3)
    # `rate` as it was given to the child, which passes another on: the config is of the child's own options.
    assert (back.get_config()["rate"], back.get_config()["sign"]) == (0.5, -1)


def test_a_hook_without_kwargs_has_its_own_options_only_and_comes_back():
    back = through_json(Closed(0.5))
    assert back.get_config() == {"rate": 0.5}
    assert (back.name, back.phase) == ("a_name_of_its_own", "training")


@pytest.mark.parametrize(
    "value",
    [
        keras.initializers.HeNormal(seed=3),
        keras.regularizers.L1L2(0.1, 0.2),
        keras.constraints.MaxNorm(2.0),
        keras.losses.Huber(delta=0.5),
        keras.DTypePolicy("mixed_float16"),
        Ramp(7),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_object_with_a_config_comes_back_as_one_of_its_class_and_config(value):
    back = through_json(Holder(value)).value
    assert type(back) is type(value)
    assert back.get_config() == value.get_config()
    assert back is not value


@pytest.mark.parametrize("value", [keras.activations.gelu, keras.losses.mean_squared_error, smooth])
def test_a_function_of_keras_or_a_registered_one_comes_back_itself(value):
    assert through_json(Holder(value)).value is value


def test_objects_inside_lists_and_dicts_come_back():
    back = through_json(Holder({"ramps": [Ramp(1), (Ramp(2), smooth)]})).value
    assert [back["ramps"][0].stop, back["ramps"][1][0].stop, back["ramps"][1][1]] == [1, 2, smooth]


def test_numpy_scalars_are_stored_as_plain_numbers():
    config = stored([np.float32(0.5), np.int64(3), np.bool_(True), np.float64(0.25)])
    assert json.dumps(config) == "[0.5, 3, true, 0.25]"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
@settings(max_examples=50, deadline=None)
def test_any_json_value_comes_back_as_it_was(value):
    hook = Holder(value)
    assert hook.get_config()["value"] == value
    assert type(hook).from_config(hook.get_config())._options["value"] == value


def test_the_config_is_that_of_construction_whatever_is_done_to_the_value_afterwards():
    sizes = {"a": [1, 2]}
    hook = Holder(sizes)
    sizes["a"].append(3)
    hook.get_config()["value"]["a"].append(4)
    assert hook.get_config()["value"] == {"a": [1, 2]}


def test_an_option_is_captured_as_given_although_the_hook_changes_the_attribute():
    hook = Holder(1)
    hook.value = 2
    assert hook.get_config()["value"] == 1


# --- what is refused -------------------------------------------------------------------------------------------------


def refusal(make) -> errors.OptionError:
    with pytest.raises(errors.OptionError) as caught:
        make()
    return caught.value


@pytest.mark.parametrize("value", [lambda step: step, [lambda step: step], {"a": (lambda step: step,)}])
def test_a_lambda_is_an_error_at_construction_that_names_hook_option_and_the_way_out(value):
    error = refusal(lambda: Holder(value))
    assert (error.hook, error.option) == ("options_holder", "value")
    assert "a lambda cannot be saved" in str(error)
    assert "@keras.saving.register_keras_serializable()" in str(error)


def test_a_lambda_as_the_callable_of_targets_is_an_error_too():
    assert refusal(lambda: Holder(targets=lambda target: True)).option == "targets"


def test_a_layer_that_holds_a_lambda_is_an_error_since_keras_would_not_load_it():
    error = refusal(lambda: Holder(keras.layers.Lambda(lambda inputs: inputs)))
    assert "cannot be loaded" in str(error)
    assert isinstance(error.__cause__, ValueError)


@pytest.mark.parametrize(
    "value",
    [
        unregistered,
        Unregistered(),
        Unregistered,
        keras.layers.Dense,
        print,
        object(),
        np.ones(2),
        keras.ops.ones(2),
        b"bytes",
        1j,
        {1: "a key that is no string"},
        {"a", "set"},
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_could_not_be_loaded_again_is_an_error_at_construction(value):
    error = refusal(lambda: Holder(value))
    assert (error.hook, error.option) == ("options_holder", "value")
    assert "cannot be saved" in str(error)
    assert isinstance(error, TypeError)


def test_an_object_that_keras_stores_and_cannot_load_is_an_error():
    assert "missing a `from_config()`" in str(refusal(lambda: Holder(OneWay())))


@pytest.mark.parametrize("function", [keras.ops.relu, keras.ops.add])
def test_a_function_that_keras_would_load_as_another_or_not_at_all_is_an_error(function):
    # Keras stores the bare name: that of keras.ops.relu means keras.activations.relu to it.
    assert "its config" in str(refusal(lambda: Holder(function)))


def test_a_dict_that_keras_would_take_for_an_object_is_an_error():
    assert "give the object itself" in str(refusal(lambda: Holder({"class_name": "HeNormal", "config": {}})))


def test_an_option_that_does_not_exist_is_an_error_with_the_nearest_and_all_names():
    error = refusal(lambda: Whole(stepps=3))
    assert (error.hook, error.option) == ("options_whole", "stepps")
    assert "did you mean 'steps'" in str(error)
    assert "'curve', 'name', 'phase', 'rate', 'schedule', 'shape', 'steps', 'targets'" in str(error)


def test_an_option_of_every_hook_does_not_exist_where_the_class_takes_no_kwargs():
    assert refusal(lambda: Closed(phase="training")).option == "phase"


def test_a_call_argument_of_a_function_is_no_option():
    for name in ("call_next", "inputs", "extra", "training"):
        assert refusal(lambda name=name: options_function(**{name: 1})).option == name


def test_an_option_that_is_missing_is_an_error():
    error = refusal(Child)
    assert (error.hook, error.option) == ("options_child", "rate")
    assert "was not given" in str(error)


def test_an_option_given_twice_is_an_error():
    assert "twice" in str(refusal(lambda: Whole(0.5, rate=0.5)))


def test_more_options_by_position_than_there_are_is_an_error():
    assert "takes 5 options by position" in str(refusal(lambda: Whole(1, 2, 3, 4, smooth, 6)))
    assert "takes 0 options by position" in str(refusal(lambda: options_function(0.5)))


@pytest.mark.parametrize("phase", ["train", None, True])
def test_a_phase_that_is_none_is_an_error(phase):
    with pytest.raises(errors.OptionValueError) as caught:
        Holder(phase=phase)
    assert (caught.value.owner, caught.value.option, caught.value.value) == ("options_holder", "phase", phase)
    assert f"phase={phase!r} is not 'always', 'training' or 'inference'" in str(caught.value)


def test_nothing_is_registered_or_changed_by_a_refused_option():
    before = kwrap.registered()
    refusal(lambda: Holder(object()))
    assert kwrap.registered() == before
