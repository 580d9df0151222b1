"""Hooks that are functions: what they keep, and what cannot be one."""

import keras
import numpy as np
import pytest

import kwrap
from kwrap import errors

DATA = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")


@kwrap.hook(layer_type=keras.Layer)
def hook_scale(call_next, inputs, *, factor=2.0):
    """Scale the inputs."""
    return call_next(inputs * factor)


def definition_error(function) -> errors.HookDefinitionError:
    with pytest.raises(errors.HookDefinitionError) as caught:
        kwrap.hook(layer_type=keras.Layer)(function)
    return caught.value


def test_a_function_hook_keeps_the_functions_name_module_and_docstring():
    assert (hook_scale.__name__, hook_scale.__module__, hook_scale.__doc__) == (
        "hook_scale",
        __name__,
        "Scale the inputs.",
    )


def test_a_function_hook_runs_with_its_options():
    layer = keras.layers.Dense(4)
    layer.build((None, 3))
    wrapped = kwrap.Wrapper(layer, [hook_scale(factor=3.0)])
    np.testing.assert_array_equal(wrapped(DATA), layer(DATA * np.float32(3.0)))


def test_a_function_without_call_next_is_an_error():
    def broken(inputs, *, factor=1.0):
        return inputs * factor

    def empty():
        pass

    for function in (broken, empty):
        error = definition_error(function)
        assert error.hook == function.__name__
        assert "has to take `call_next` first" in str(error)


def test_a_function_with_an_option_of_every_hook_is_an_error():
    def broken(call_next, inputs, *, name="x", phase="always"):
        return call_next(inputs)

    error = definition_error(broken)
    assert "'name', 'phase'" in str(error)


def test_a_function_with_a_call_argument_as_an_option_is_an_error_that_shows_the_signature():
    def broken(call_next, inputs, *, training=False):
        return call_next(inputs)

    error = definition_error(broken)
    assert error.hook == "broken"
    assert "def broken(call_next, inputs, training)" in str(error)
