"""The checks of option values: what they let through, as what, and what they say of the rest."""

import inspect
import json

import numpy as np
import pytest

import kwrap.options
from kwrap.errors import OptionValueError
from kwrap.options import checked_bool, checked_choice, checked_int, checked_number


@pytest.mark.parametrize("value", [True, False, np.True_, np.False_])
def test_a_bool_comes_back_as_pythons(value):
    found = checked_bool("dim", "on", value)
    assert found is bool(value)


@pytest.mark.parametrize("value", [0, 1, None, "yes", np.array([True]), 1.0])
def test_nothing_else_is_a_bool(value):
    with pytest.raises(OptionValueError, match=r"dim: on=.* is not True or False"):
        checked_bool("dim", "on", value)


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3), np.array(3)])
def test_an_int_comes_back_as_pythons(value):
    found = checked_int("dim", "times", value)
    assert (found, type(found)) == (3, int)


@pytest.mark.parametrize("value", [True, np.True_, 3.0, np.float32(3), "3", None, [3]])
def test_nothing_else_is_an_int(value):
    with pytest.raises(OptionValueError, match=r"is not an int$"):
        checked_int("dim", "times", value, least=None)


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "told"),
    [
        ({}, [1, 10**30], [0, -1], "is not an int that is at least 1"),
        ({"least": None}, [-(10**30), 0], [], ""),
        ({"least": 0}, [0], [-1], "is not an int that is at least 0"),
        ({"least": 2, "most": 16}, [2, 16], [1, 17], "is not an int that is at least 2 and at most 16"),
        ({"least": None, "most": 7}, [-1, 7], [8], "is not an int that is at most 7"),
    ],
)
def test_an_int_is_within_its_bounds(bounds, inside, outside, told):
    for value in inside:
        assert checked_int("dim", "times", value, **bounds) == value
    for value in outside:
        with pytest.raises(OptionValueError, match=f"dim: times={value} {told}$"):
            checked_int("dim", "times", value, **bounds)


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.float16(2), np.int32(2)])
def test_a_number_comes_back_as_a_float(value):
    found = checked_number("dim", "factor", value)
    assert (found, type(found)) == (2.0, float)
    assert json.dumps(found)


@pytest.mark.parametrize(
    "value",
    [True, np.True_, "2", None, 2j, [2.0], np.array(2.0), float("nan"), float("inf"), -float("inf"), 1e39, 10**400],
)
def test_nothing_else_is_a_finite_number_of_float32(value):
    with pytest.raises(OptionValueError, match=r"is not a finite number: how much is left$"):
        checked_number("dim", "factor", value, meaning="how much is left")


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "told"),
    [
        ({"least": 0}, [0, 0.5], [-1e-9], "at least 0"),
        ({"above": 0}, [1e-9], [0, -1], "above 0"),
        ({"most": 1}, [-5, 1], [1.5], "at most 1"),
        ({"below": 1}, [-5, 0.99], [1], "below 1"),
        ({"least": 0, "below": 1}, [0, 0.99], [-0.1, 1], "at least 0 and below 1"),
        ({"least": 0, "most": 1}, [0, 1], [-0.1, 1.1], "at least 0 and at most 1"),
        ({"above": 50, "most": 100}, [50.5, 100], [50, 101], "above 50 and at most 100"),
        ({"above": 0, "below": 1}, [0.5], [0, 1], "above 0 and below 1"),
    ],
)
def test_a_number_is_within_its_bounds(bounds, inside, outside, told):
    for value in inside:
        assert checked_number("dim", "factor", value, **bounds) == value
    for value in outside:
        with pytest.raises(OptionValueError, match=f"dim: factor={value} is not a finite number that is {told}$"):
            checked_number("dim", "factor", value, **bounds)


def test_a_choice_is_one_of_the_names():
    assert checked_choice("dim", "on", np.str_("inputs"), ("inputs", "outputs")) == "inputs"
    for value in ("weights", "", None, 1, ["inputs"]):
        with pytest.raises(OptionValueError) as caught:
            checked_choice("dim", "on", value, ("inputs", "outputs", "both"))
        assert str(caught.value) == f"dim: on={value!r} is not 'inputs', 'outputs' or 'both'"
    with pytest.raises(OptionValueError, match=r"is not 'inputs'$"):
        checked_choice("dim", "on", "outputs", ["inputs"])


def test_the_example_in_the_documentation_of_the_module_works():
    _, code = kwrap.options.__doc__.split("may be::\n")
    names = vars(kwrap.options) | {"kwrap": kwrap}
    exec(inspect.cleandoc(f"\n{code}"), names)
    hook = names["Blur"](np.int64(3), share=np.float32(0.25))
    assert (hook.radius, hook.share, type(hook.radius), type(hook.share)) == (3, 0.25, int, float)
    with pytest.raises(OptionValueError, match="blur: share=1 is not a finite number that is at least 0 and below 1"):
        names["Blur"](share=1)
