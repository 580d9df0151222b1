import keras
import numpy as np
import pytest

import kwrap
from kwrap.errors import PlanError, RuleError, TargetError
from kwrap_prune import Prune


def network(optimizer="sgd") -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((4, 4, 3)),
            keras.layers.Conv2D(4, 3, name="conv"),
            keras.layers.Flatten(name="flat"),
            keras.layers.Dense(6, name="dense"),
        ]
    )
    model.compile(optimizer, "mse")
    return model


@pytest.mark.parametrize(
    ("options", "problems"),
    [
        (
            {"block_size": (4, 2)},
            {"conv": r"blocks of 4 x 2 do not divide the 27 inputs of 'kernel', whose shape is (3, 3, 3, 4)"},
        ),
        (
            {"block_size": (1, 4)},
            {"dense": r"blocks of 1 x 4 do not divide the 6 outputs of 'kernel', whose shape is (16, 6)"},
        ),
        ({"n_m": (2, 4)}, {"conv": "groups of 4 do not divide the 27 inputs of 'kernel'"}),
        (
            {"n_m": (1, 5)},
            {
                "conv": "groups of 5 do not divide the 27 inputs of 'kernel'",
                "dense": "groups of 5 do not divide the 16 inputs of 'kernel'",
            },
        ),
    ],
)
def test_a_structure_that_does_not_divide_is_a_problem_that_names_layer_and_dimension(options, problems):
    model = network()
    before = model.get_weights()
    with pytest.raises(PlanError) as raised:
        kwrap.wrap_model(model, Prune(**options))
    found = {problem.path: problem.message for problem in raised.value.problems}
    assert found.keys() == problems.keys()
    for path, message in problems.items():
        assert message in found[path]
    assert not kwrap.find_hooks(model, "prune")
    for value, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, expected)


def test_a_structure_that_does_not_divide_is_an_error_of_a_wrapper_made_by_hand():
    wrapper = kwrap.Wrapper(keras.layers.Dense(6, name="dense"), [Prune(block_size=(1, 4))])
    with pytest.raises(TargetError, match="'prune' at 'dense': blocks of 1 x 4 do not divide the 6 outputs"):
        wrapper(np.ones((1, 8), "float32"))


def test_a_layer_without_weights_to_prune_that_is_named_is_an_error():
    with pytest.raises(RuleError, match="'flat' cannot have the hook: has no weights"):
        kwrap.wrap_model(network(), Prune(), where=["dense", "flat"])


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("steps", [None, 3])
def test_an_optimizer_that_accumulates_gradients_asks_for_the_option(scaled, steps):
    optimizer = keras.optimizers.SGD(gradient_accumulation_steps=4)
    model = network(keras.optimizers.LossScaleOptimizer(optimizer) if scaled else optimizer)
    with pytest.raises(PlanError, match=r"Prune\(\.\.\., gradient_accumulation_steps=4\)"):
        kwrap.wrap_model(model, Prune(gradient_accumulation_steps=steps))
    for accepted in (1, 4):
        assert kwrap.plan(model, Prune(gradient_accumulation_steps=accepted)).entries


def test_an_optimizer_that_updates_at_each_call_is_not_to_be_counted_otherwise():
    with pytest.raises(PlanError, match=r"Prune\(\.\.\., gradient_accumulation_steps=1\)"):
        kwrap.wrap_model(network(), Prune(gradient_accumulation_steps=4))
    assert kwrap.plan(network(), Prune(gradient_accumulation_steps=1)).entries
