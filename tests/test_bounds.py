import contextlib
import inspect
import sys
import tracemalloc

import keras
import pytest

from kwrap import _bounds, _keras
from kwrap._references import _FUNCTIONS

COUNT = 50


def functions():
    """Yield each function of Keras that a file may name, with its name."""
    for module in sorted(_FUNCTIONS):
        space = keras
        for part in module.split(".")[1:]:
            space = getattr(space, part, None)
        yield from ((name, found) for name, found in vars(space).items() if inspect.isfunction(found))


def outputs(function, *arguments) -> int:
    try:
        return len(keras.tree.flatten(function(*arguments)))
    except Exception:  # it takes others
        return 0


def test_all_functions_of_as_many_outputs_as_an_argument_or_an_axis_says_are_known():
    value = keras.KerasTensor((COUNT, COUNT, COUNT))
    splitting = {
        name
        for name, function in functions()
        if max(outputs(function, value), outputs(function, value, COUNT)) >= COUNT
    }
    assert splitting == {name for name in _bounds._SPLITTING if name.islower()}


def test_all_operations_of_as_many_outputs_as_an_argument_or_an_axis_says_are_known():
    value, splitting = keras.KerasTensor((COUNT, COUNT, COUNT)), set()
    modules = [module for name, module in sys.modules.items() if name.startswith("keras.src.ops.")]
    for name, cls in [item for module in modules for item in vars(module).items() if inspect.isclass(item[1])]:
        if issubclass(cls, keras.Operation) and not issubclass(cls, keras.Layer):
            made = lambda *arguments, cls=cls: cls(*arguments)(value)  # noqa: E731
            if max(outputs(made), outputs(made, COUNT)) >= COUNT:
                splitting.add(name)
    assert splitting == {name for name in _bounds._SPLITTING if not name.islower()}


def test_all_layers_of_keras_that_are_traced_for_their_outputs_shape_are_known():
    base = keras.layers.Layer
    traced = {
        name
        for name, cls in vars(keras.layers).items()
        if inspect.isclass(cls) and issubclass(cls, base)
        if cls.compute_output_shape is base.compute_output_shape and cls.compute_output_spec is base.compute_output_spec
    }
    # They hold no layers that a file gives, or are cells, or code that no file may hold. A Lambda traces its function.
    others = {"Layer", "Wrapper", "InputLayer", "GRUCell", "LSTMCell", "SimpleRNNCell", "StackedRNNCells"}
    code = {"TFSMLayer", "FlaxLayer", "JaxLayer"}
    assert traced - others - code == _bounds._TRACED - {"Lambda"}


GIVEN = {
    "num_classes": 3,
    "target_class_ids": [0],
    "recall": 0.5,
    "precision": 0.5,
    "specificity": 0.5,
    "sensitivity": 0.5,
    "learning_rate": 0.1,
    "initial_learning_rate": 0.1,
    "decay_steps": 1,
    "decay_rate": 0.5,
    "first_decay_steps": 1,
}
LENGTH = 100_000
FOUND = {"metrics": {"num_thresholds", "num_classes"}, "layers": {"num_oov_indices", "ngrams"}}
SPACES = ("metrics", "losses", "optimizers", "optimizers.schedules", "initializers", "layers")


@pytest.mark.parametrize("space", SPACES)
def test_all_options_that_become_a_list_as_long_as_they_say_are_known(space, traced_memory):
    module = keras
    for part in space.split("."):
        module = getattr(module, part)
    found = set()
    for cls in {cls for cls in vars(module).values() if inspect.isclass(cls)}:
        parameters = [
            name
            for name, parameter in inspect.signature(cls.__init__).parameters.items()
            if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        ]
        needed = {name: GIVEN[name] for name in needed_by(cls) if name in GIVEN}
        lookups = [{}, {"vocabulary": [1]}] if "vocabulary" in parameters else [{}]
        for name in parameters[1:]:
            if any(makes_a_long_list(cls, {**needed, **lookup, name: LENGTH}) for lookup in lookups):
                found.add(name)
    assert found == FOUND.get(space, set())
    assert found <= set(_bounds._LENGTHS)


def needed_by(cls) -> list[str]:
    parameters = inspect.signature(cls.__init__).parameters.values()
    return [parameter.name for parameter in parameters if parameter.default is parameter.empty]


def makes_a_long_list(cls, options) -> bool:
    return all(memory(cls, options) > 4 * LENGTH for _ in range(2))  # the first may import something


def memory(cls, options) -> int:
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    with contextlib.suppress(Exception), _keras.variables_measured(refuse_large):  # it may take no such number
        cls(**options)
    return tracemalloc.get_traced_memory()[1] - before


def refuse_large(size: int) -> None:
    if size > 1 << 20:
        raise MemoryError


@pytest.fixture
def traced_memory():
    tracemalloc.start()
    yield
    tracemalloc.stop()
