import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import kwrap
from kwrap import _keras_layers, _targets, errors

from .specimens import Times

HERE = __file__


def built(layer: keras.Layer, *shape: int | None) -> keras.Layer:
    layer.build(shape)
    return layer


def names(layer: keras.Layer) -> list[str]:
    return [target.name for target in kwrap.weight_targets(layer)]


class Gate(layers.Layer):
    """A layer of one's own: the inputs times a matrix, times a factor for each output."""

    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape):
        self.mix = self.add_weight((input_shape[-1], self.units), name="mix")
        self.factor = self.add_weight((self.units,), name="factor")
        self.count = self.add_weight((), name="count", dtype="int32", trainable=False, initializer="zeros")

    def call(self, inputs):
        return inputs @ self.mix * self.factor


class Own(Gate):
    """One that says itself which of its weights hooks may change."""

    def get_weight_targets(self):
        return [kwrap.WeightTarget("own", self.mix, (0,), (1,))]


class Scaled(layers.Dense):
    """A subclass of a Keras layer, with one more weight."""

    def build(self, input_shape):
        super().build(input_shape)
        self.factor = self.add_weight((self.units,), name="factor")


def of_gate(layer):
    """Answer for a Gate."""
    return [kwrap.WeightTarget("mix", layer.mix, (0,), (1,)), kwrap.WeightTarget("factor", layer.factor, default=False)]


def of_nothing():
    """Answer without a layer, which no function can."""
    return []


@pytest.fixture
def gate():
    return built(Gate(name="gate"), None, 3)


@pytest.fixture
def register():
    """Return `weight_targets.register`, whose effect ends with the test."""
    before = dict(kwrap.weight_targets._registered)
    yield kwrap.weight_targets.register
    kwrap.weight_targets._registered.clear()
    kwrap.weight_targets._registered.update(before)


# --- WeightTarget ----------------------------------------------------------------------------------------------------


@st.composite
def weights(draw):
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    axes = draw(st.permutations(range(len(shape))))
    inputs = draw(st.integers(0, len(shape)))
    outputs = draw(st.integers(inputs, len(shape)))
    return tuple(shape), tuple(axes[:inputs]), tuple(sorted(axes[inputs:outputs]))


@settings(deadline=None, max_examples=60)
@given(weights())
def test_from_matrix_is_the_inverse_of_as_matrix_for_any_axes(weight):
    shape, input_axes, output_axes = weight
    target = kwrap.WeightTarget("w", keras.Variable(np.zeros(shape)), input_axes, output_axes)
    value = np.arange(math.prod(shape), dtype="float32").reshape(shape)
    matrix = np.asarray(target.as_matrix(value))
    rows = math.prod(shape[axis] for axis in input_axes)
    expected = np.moveaxis(value, input_axes, range(len(input_axes))).reshape(rows, -1)
    np.testing.assert_array_equal(matrix, expected)
    np.testing.assert_array_equal(target.from_matrix(matrix), value)


def test_a_target_has_the_shape_and_the_dtype_of_its_variable_also_under_mixed_precision():
    seen = []

    class Looks(layers.Dense):
        def call(self, inputs):
            seen.extend((target.dtype, target.shape) for target in kwrap.weight_targets(self))
            return super().call(inputs)

    Looks(2, dtype="mixed_float16")(np.ones((1, 3)))
    Looks(2, dtype="bfloat16")(np.ones((1, 3)))
    assert seen == [("float32", (3, 2)), ("float32", (2,)), ("bfloat16", (3, 2)), ("bfloat16", (2,))]


# --- teaching: a registered function ---------------------------------------------------------------------------------


def test_a_registered_function_answers_for_its_class_and_subclasses(register, gate):
    assert names(gate) == []
    assert register(Gate)(of_gate) is of_gate
    mix, factor = kwrap.weight_targets(gate)
    assert (mix.name, mix.variable is gate.mix, mix.input_axes, mix.output_axes) == ("mix", True, (0,), (1,))
    assert (factor.name, factor.variable is gate.factor) == ("factor", True)
    assert (mix.default, factor.default) == (True, False)
    subclass = type("Subclass", (Gate,), {})
    assert names(built(subclass(), None, 3)) == ["mix", "factor"]
    assert names(built(layers.Dense(2), None, 3)) == ["kernel", "bias"]


def test_the_most_derived_registered_class_answers(register):
    class Middle(Gate):
        pass

    class Last(Middle):
        pass

    register(Last)(lambda layer: [kwrap.WeightTarget("last", layer.mix)])
    register(Gate)(of_gate)
    assert names(built(Middle(), None, 3)) == ["mix", "factor"]
    assert names(built(Last(), None, 3)) == ["last"]


def test_registering_again_replaces_and_unregistering_takes_back(register, gate):
    register(Gate)(of_gate)
    register(Gate)(lambda layer: (kwrap.WeightTarget("again", layer.mix),))
    assert names(gate) == ["again"]
    kwrap.weight_targets.unregister(Gate)
    assert not kwrap.weight_targets.is_taught(gate)
    with pytest.raises(errors.TargetError, match=r"no function is registered for .*Gate.*; there is one for: "):
        kwrap.weight_targets.unregister(Gate)


def test_a_registered_function_wins_over_the_plugins(register):
    register(layers.Dense)(lambda layer: [kwrap.WeightTarget("mine", layer.kernel, (0,), (1,))])
    assert names(built(layers.Dense(2), None, 3)) == ["mine"]
    kwrap.weight_targets.unregister(layers.Dense)
    assert names(built(layers.Dense(2), None, 3)) == ["kernel", "bias"]


def test_a_registered_function_may_yield_its_targets(register, gate):
    @register(Gate)
    def one_by_one(layer):
        yield kwrap.WeightTarget("mix", layer.mix)

    assert names(gate) == ["mix"]


def test_a_function_that_a_plugin_registers_counts_while_the_plugin_does(install, answering, register):
    install("acts", "import keras, kwrap\n" + REGISTERS)
    prelu = built(layers.PReLU(), None, 3)
    assert names(prelu) == ["slope"]
    answering.block("acts")
    assert names(prelu) == ["alpha"]
    answering.unblock("acts")
    assert names(prelu) == ["slope"]


REGISTERS = """
@kwrap.weight_targets.register(keras.layers.PReLU)
def of_prelu(layer):
    return [kwrap.WeightTarget("slope", layer.alpha)]
"""


def test_a_hook_goes_on_a_layer_once_its_class_is_taught(register, gate):
    register(Gate)(of_gate)
    x = np.ones((2, 3), "float32")
    wrapped = kwrap.Wrapper(gate, [Times(factor=0.5)])
    expected = x @ (0.5 * np.asarray(gate.mix)) * np.asarray(gate.factor)
    np.testing.assert_allclose(wrapped(x), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (of_gate, r"register\(of_gate\): of_gate is no layer class. Say for which one .*register\(MyLayer\)"),
        ("Gate", r"'Gate' is no layer class"),
        (Gate(), r"<Gate .*> is no layer class"),
        (int, r"<class 'int'> is no layer class"),
        (keras.Layer, r"would answer for every layer, Keras' own included. Name the class"),
        (Own, rf"its method answers already, Own.get_weight_targets\(\) \({HERE}:\d+\): change that"),
    ],
    ids=["function", "name", "layer", "other class", "Layer", "has the method"],
)
def test_what_cannot_be_taught_is_an_error_at_once(register, given, message):
    with pytest.raises(errors.TargetDefinitionError, match=message):
        register(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, r"register\(Gate\): 3 is no function"),
        (Gate, r"<class .*Gate'> is no function"),
        (of_nothing, rf"of_nothing\(\) \({HERE}:\d+\) cannot be called with a layer alone: too many"),
        (lambda layer, more: [], r"cannot be called with a layer alone: missing a required argument: 'more'"),
    ],
    ids=["number", "class", "no argument", "two arguments"],
)
def test_what_is_no_function_of_a_layer_is_an_error_at_once_and_the_one_before_stays(register, gate, given, message):
    register(Gate)(of_gate)
    with pytest.raises(errors.TargetDefinitionError, match=message):
        register(Gate)(given)
    assert names(gate) == ["mix", "factor"]


# --- teaching: a method ----------------------------------------------------------------------------------------------


def test_a_method_of_the_layers_class_answers_before_all_others(register, install, answering):
    register(Gate)(of_gate)
    install("acts", ANSWERS.format(cls="keras.Layer", answer="[]"))
    layer = built(Own(), None, 3)
    assert names(layer) == ["own"]
    assert names(built(type("Subclass", (Own,), {})(), None, 3)) == ["own"]


def test_a_method_on_the_instance_alone_is_not_asked(gate):
    gate.get_weight_targets = lambda: of_gate(gate)
    assert names(gate) == []


# --- whether anybody answers -----------------------------------------------------------------------------------------


def test_is_taught_tells_no_targets_from_no_answer(register, gate):
    assert not kwrap.weight_targets.is_taught(gate)
    register(Gate)(lambda layer: [])
    assert kwrap.weight_targets.is_taught(gate)
    assert kwrap.weight_targets(gate) == ()


@pytest.mark.parametrize(
    "layer",
    [layers.ReLU(), keras.Sequential([keras.Input((3,)), layers.Dense(2)]), layers.Dense(2), Gate()],
    ids=["without weights", "holds layers", "not built", "own and not built"],
)
def test_nobody_needs_to_answer_for_a_layer_without_weights_of_its_own(layer):
    assert kwrap.weight_targets.is_taught(layer)
    assert kwrap.weight_targets(layer) == ()


def test_nobody_is_asked_before_a_layer_is_built(register):
    register(Gate)(of_gate)
    assert kwrap.weight_targets(Gate()) == ()


def test_an_unbuilt_layer_that_has_its_weights_is_asked_for(register):
    class AtOnce(layers.Layer):
        def __init__(self):
            super().__init__()
            self.w = self.add_weight((2,), name="w")

    register(AtOnce)(lambda layer: [kwrap.WeightTarget("w", layer.w)])
    assert names(AtOnce()) == ["w"]


def test_how_to_teach_names_the_class(gate):
    assert _targets.how_to_teach(gate) == (
        "nobody says which of its own weights hooks may change: @kwrap.weight_targets.register(Gate), or a method "
        "get_weight_targets() of Gate"
    )


def test_how_to_teach_a_recurrent_layer_names_the_class_of_its_untaught_cell():
    class Cell(Gate):
        state_size = 4

    layer = built(layers.RNN([layers.GRUCell(3), Cell(4)]), None, 5, 3)
    assert not kwrap.weight_targets.is_taught(layer)
    assert "which of the weights of its Cell hooks may change" in _targets.how_to_teach(layer)
    assert "register(Cell)" in _targets.how_to_teach(layer)


# --- answers are checked ---------------------------------------------------------------------------------------------


class Holder(layers.Layer):
    """A layer that holds one with weights, and has one of its own."""

    def __init__(self):
        super().__init__(name="holder")
        self.inner = layers.Dense(2, name="inner")

    def build(self, input_shape):
        self.inner.build(input_shape)
        self.own = self.add_weight((2, 3), name="own")


def target(layer, name="own", **options):
    return kwrap.WeightTarget(name, layer.own, **options)


WRONG = {
    "none": (lambda layer: None, "gave None, where a sequence of kwrap.WeightTarget is due; an empty one says"),
    "a target": (target, "gave a WeightTarget, where a sequence"),
    "a set": (lambda layer: {1}, "gave a set, where a sequence"),
    "variables": (lambda layer: [layer.own], r"gave a sequence with a \w*Variable in it"),
    "with none": (lambda layer: [target(layer), None], "gave a sequence with a NoneType in it"),
    "equal names": (
        lambda layer: [target(layer), kwrap.WeightTarget("own", layer.inner.bias)],
        "gave two targets of the name 'own'",
    ),
    "one weight twice": (
        lambda layer: [target(layer), target(layer, "again")],
        "gave the weight of target 'own' twice",
    ),
    "no variable": (
        lambda layer: [kwrap.WeightTarget("own", np.ones(3))],
        "gave a target 'own' whose variable is no keras.Variable, but a ndarray",
    ),
    "a layer's inside": (
        lambda layer: [kwrap.WeightTarget("kernel", layer.inner.kernel)],
        "gave a target 'kernel' whose variable 'holder/inner/kernel' is none of the layer's own weights, but of "
        "'inner', which it holds: teach that layer's class",
    ),
    "another's": (
        lambda layer: [kwrap.WeightTarget("w", keras.Variable(1.0, name="elsewhere"))],
        "whose variable 'elsewhere' is none of the layer's own weights\\.",
    ),
    "beyond the last axis": (
        lambda layer: [target(layer, input_axes=(2,))],
        r"with input_axes=\(2,\), where a tuple of",
    ),
    "from the last axis": (
        lambda layer: [target(layer, output_axes=(-1,))],
        r"with output_axes=\(-1,\), where a tuple",
    ),
    "an axis that is none": (lambda layer: [target(layer, input_axes=("0",))], r"of axes of its shape \(2, 3\) is due"),
    "no tuple": (lambda layer: [target(layer, input_axes=0)], "with input_axes=0, where a tuple of axes"),
    "overlapping axes": (
        lambda layer: [target(layer, input_axes=(0,), output_axes=(1, 0))],
        r"with an axis twice in input_axes=\(0,\) and output_axes=\(1, 0\)",
    ),
    "repeated axes": (lambda layer: [target(layer, input_axes=(1, 1))], r"with an axis twice in input_axes=\(1, 1\)"),
    "raises": (lambda layer: layer.nothing, "raised AttributeError: .*nothing"),
}


@pytest.mark.parametrize(("function", "problem"), WRONG.values(), ids=WRONG)
def test_a_wrong_answer_is_the_error_that_says_who_gave_it_for_which_layer_and_what_to_do(register, function, problem):
    register(Holder)(function)
    layer = built(Holder(), None, 3)
    with pytest.raises(errors.TargetAnswerError, match=problem) as raised:
        kwrap.weight_targets(layer)
    place = f"({HERE}:{function.__code__.co_firstlineno})"
    assert str(raised.value).startswith(
        f"{function.__qualname__}() {place}, asked for the weight targets of 'holder' (a Holder), "
    )
    assert str(raised.value).endswith("Mend it, or take it back: kwrap.weight_targets.unregister(Holder).")
    assert isinstance(raised.value, errors.TargetError)


def test_what_a_function_raised_is_the_cause(register, gate):
    failure = ArithmeticError("no")

    @register(Gate)
    def fails(layer):
        yield kwrap.WeightTarget("mix", layer.mix)
        raise failure

    with pytest.raises(errors.TargetAnswerError, match="raised ArithmeticError: no") as raised:
        kwrap.weight_targets(gate)
    assert raised.value.__cause__ is failure


def test_an_error_of_kwraps_own_goes_through(register, gate):
    register(Gate)(lambda layer: kwrap.weight_targets.unregister(Own))
    with pytest.raises(errors.TargetError, match="no function is registered for"):
        kwrap.weight_targets(gate)


def test_a_weight_of_another_than_a_floating_dtype_is_no_target(register, gate):
    register(Gate)(lambda layer: [kwrap.WeightTarget("count", layer.count)])
    with pytest.raises(errors.TargetAnswerError, match="whose variable is of dtype int32, not a floating one"):
        kwrap.weight_targets(gate)


def test_a_methods_wrong_answer_names_the_method():
    class Wrong(Gate):
        def get_weight_targets(self):
            return None

    with pytest.raises(errors.TargetAnswerError, match="gave None") as raised:
        kwrap.weight_targets(built(Wrong(), None, 3))
    assert f"Wrong.get_weight_targets() ({HERE}:" in raised.value.answerer
    assert str(raised.value).endswith("Mend the method.")


def test_a_plugins_wrong_answer_names_the_plugin_and_the_ways_out(install, answering, register, gate):
    install("acts", ANSWERS.format(cls="keras.Layer", answer="[layer.mix]"))
    with pytest.raises(errors.TargetAnswerError, match="gave a sequence with a") as raised:
        kwrap.weight_targets(gate)
    assert raised.value.answerer == "plugin 'acts'"
    assert "@kwrap.weight_targets.register(Gate); or kwrap.plugins.block('acts')" in str(raised.value)
    register(Gate)(of_gate)
    assert names(gate) == ["mix", "factor"]


def test_a_subclass_that_does_not_have_its_parents_kernel_is_an_error_until_it_is_taught(register):
    class Flat(layers.Dense):
        def build(self, input_shape):
            self.w = self.add_weight((self.units,), name="kernel")

    layer = built(Flat(2), None, 3)
    with pytest.raises(errors.TargetAnswerError, match=r"plugin 'keras'.*with output_axes=\(1,\).*register\(Flat\)"):
        kwrap.weight_targets(layer)
    register(Flat)(lambda layer: [kwrap.WeightTarget("kernel", layer.w, (), (0,))])
    assert names(layer) == ["kernel"]


# --- plugins' answers ------------------------------------------------------------------------------------------------

ANSWERS = """
import keras, kwrap

@kwrap.hookimpl
def kwrap_weight_targets(layer):
    if isinstance(layer, {cls}):
        return {answer}
"""

SAYS = """
import kwrap

@kwrap.hookimpl
def kwrap_weight_targets(layer):
    if type(layer).__name__ == "Gate":
        return [kwrap.WeightTarget({name!r}, layer.mix, {axes}, default={default})]
"""


@pytest.fixture
def answering(plugins, monkeypatch):
    """Return kwrap's plugins, those under test alone, as who is asked for weight targets."""
    monkeypatch.setattr(_targets, "plugins", plugins)
    plugins.register_builtin("keras", _keras_layers.KerasLayers())
    return plugins


def test_a_plugin_answers_for_a_layer_of_its_own(install, answering, gate):
    install("acts", SAYS.format(name="mix", axes="(0,)", default=True))
    (target,) = kwrap.weight_targets(gate)
    assert (target.name, target.variable is gate.mix, target.input_axes) == ("mix", True, (0,))
    assert names(built(layers.Dense(2), None, 3)) == ["kernel", "bias"]


def test_two_plugins_may_give_the_same_answer(install, answering, gate):
    for name in ("acts", "also"):
        install(name, SAYS.format(name="mix", axes="(0,)", default=True))
    assert names(gate) == ["mix"]


@pytest.mark.parametrize(
    "other", [{"name": "slope"}, {"axes": "()"}, {"default": False}], ids=["name", "axes", "default"]
)
def test_two_plugins_that_disagree_are_the_error_that_names_both_and_blocking_one_is_the_way_out(
    install, answering, gate, other
):
    answer = {"name": "mix", "axes": "(0,)", "default": True}
    install("acts", SAYS.format(**answer))
    install("also", SAYS.format(**{**answer, **other}))
    with pytest.raises(errors.TargetError, match=r"'acts' and 'also' disagree .*'gate' \(a Gate\)") as raised:
        kwrap.weight_targets(gate)
    assert "kwrap.plugins.block('also')" in str(raised.value)
    answering.block("also")
    assert names(gate) == ["mix"]


def test_no_targets_is_an_answer_that_can_disagree(install, answering):
    install("none", ANSWERS.format(cls="keras.layers.Dense", answer="[]"))
    with pytest.raises(errors.TargetError, match=r"'keras' and 'none' disagree"):
        kwrap.weight_targets(built(layers.Dense(2), None, 3))
    answering.block("keras")
    assert kwrap.weight_targets(built(layers.Dense(2), None, 3)) == ()


def test_for_a_subclass_of_a_keras_layer_the_built_in_answer_yields_to_a_plugins(install, answering):
    layer = built(Scaled(2), None, 3)
    assert names(layer) == ["kernel", "bias"]
    install("acts", ANSWERS.format(cls="keras.layers.Dense", answer="[kwrap.WeightTarget('factor', layer.factor)]"))
    answering.rescan()
    assert names(layer) == ["factor"]


def test_for_a_subclass_of_a_keras_layer_two_other_plugins_can_still_disagree(install, answering):
    for name, weight in (("acts", "factor"), ("also", "kernel")):
        answer = f"[kwrap.WeightTarget({weight!r}, layer.{weight})]"
        install(name, ANSWERS.format(cls="keras.layers.Dense", answer=answer))
    with pytest.raises(errors.TargetError, match=r"'acts' and 'also' disagree"):
        kwrap.weight_targets(built(Scaled(2), None, 3))


@pytest.mark.parametrize(
    ("layer", "shape", "transposed"), [(layers.Dense(2), (3,), 0), (layers.Conv1DTranspose(2, 3), (5, 4), 2)]
)
def test_axes_that_are_in_order_cost_no_transposition(layer, shape, transposed):
    target, *_ = kwrap.weight_targets(built(layer, None, *shape))
    function = tf.function(lambda value: target.from_matrix(target.as_matrix(value)))
    graph = function.get_concrete_function(tf.TensorSpec(target.shape)).graph
    assert [op.type for op in graph.get_operations()].count("Transpose") == transposed
