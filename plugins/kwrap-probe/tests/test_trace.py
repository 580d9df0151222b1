import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

import kwrap
from kwrap.errors import ModelTypeError, OptionError, OptionValueError, WrapperStateError
from kwrap_probe import Probe, Trace, shapes

X = np.ones((2, 3), "float32")
LINES = []


@keras.saving.register_keras_serializable("test_trace")
def keep(line):
    LINES.append(line)


@keras.saving.register_keras_serializable("test_trace")
class Block(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.up, self.down = keras.layers.Dense(8, name="up"), keras.layers.Dense(3, name="down")

    def call(self, inputs):
        return inputs + self.down(self.up(inputs))


def network() -> keras.Model:
    inputs = keras.Input((3,), name="inputs")
    hidden = Block(name="block")(inputs)
    outputs = keras.layers.Dense(2, dtype="mixed_float16", name="head")(hidden)
    return keras.Model(inputs, {"logits": outputs, "sum": keras.layers.Add(name="sum")([inputs, hidden])})


FLOW = """\
block: float32 (2, 3)
  block/up: float32 (2, 3) -> float32 (2, 8)
  block/down: float32 (2, 8) -> float32 (2, 3)
block: -> float32 (2, 3)
sum: [float32 (2, 3), float32 (2, 3)] -> float32 (2, 3)
head: float32 (2, 3) -> float16 (2, 2)
""".splitlines()


@pytest.fixture(autouse=True)
def no_lines():
    LINES.clear()


def test_an_eager_call_prints_its_flow_in_order_and_indented(capsys):
    model = kwrap.wrap_model(network(), Trace(), where="**")
    assert not capsys.readouterr().out
    model(X)
    assert capsys.readouterr().out.splitlines() == FLOW


def test_lines_go_to_a_registered_function():
    model = kwrap.wrap_model(network(), Trace(to=keep), where="**")
    model(X)
    assert FLOW == LINES
    assert kwrap.find_hooks(model, "trace")[0][1].get_config()["to"] is not None


def test_lines_go_to_a_logger(caplog):
    model = kwrap.wrap_model(network(), Trace(to="flow"), where="**")
    with caplog.at_level(logging.INFO, logger="flow"):
        model(X)
    assert [record.message for record in caplog.records if record.name == "flow"] == FLOW


def test_a_compiled_function_prints_once_when_it_is_traced_with_open_sizes():
    model = kwrap.wrap_model(network(), Trace(to=keep), where="block/*")
    compiled = tf.function(model, input_signature=[tf.TensorSpec((None, 3))])
    for size in (2, 5):
        compiled(tf.ones((size, 3)))
    assert LINES == [
        "  block/up: float32 (None, 3) -> float32 (None, 8)",
        "  block/down: float32 (None, 8) -> float32 (None, 3)",
    ]


def test_a_layer_that_raises_is_the_last_line():
    class Broken(keras.layers.Layer):
        def call(self, inputs):
            raise ZeroDivisionError

    wrapper = kwrap.Wrapper(Broken(name="broken"), [Trace(to=keep)])
    with pytest.raises(ZeroDivisionError):
        wrapper(X)
    assert LINES == ["broken: float32 (2, 3) -> raises ZeroDivisionError"]


def test_outputs_are_the_bare_models_to_the_bit():
    model = network()
    expected = model(X)
    kwrap.wrap_model(model, Trace(to=keep), where="**")
    for name, value in model(X).items():
        np.testing.assert_array_equal(value, expected[name])


def test_shapes_shows_a_flow_and_leaves_the_model_as_it_was():
    model = network()
    lines = shapes(model)
    assert lines == [
        "  block/up: float32 (None, 3) -> float32 (None, 8)",
        "  block/down: float32 (None, 8) -> float32 (None, 3)",
        "sum: [float32 (None, 3), float32 (None, 3)] -> float32 (None, 3)",
        "head: float32 (None, 3) -> float16 (None, 2)",
    ]
    assert shapes(model, X, where="**") == FLOW
    assert not kwrap.find_hooks(model)


def test_shapes_shows_its_own_lines_only_and_changes_no_state(capsys):
    model = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization(name="norm")])
    kwrap.wrap_model(model, [Trace(), Probe("outputs", every=1)])
    before = [np.array(each) for each in model.variables]
    assert shapes(model, 5 * X, training=True) == ["norm: float32 (2, 3) -> float32 (2, 3)"]
    assert not capsys.readouterr().out
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    assert [hook.name for _, hook in kwrap.find_hooks(model)] == ["trace", "probe"]


def test_shapes_of_a_subclassed_model_needs_inputs():
    class Mine(keras.Model):
        def __init__(self):
            super().__init__(name="mine")
            self.dense = keras.layers.Dense(2, name="dense")

        def call(self, inputs):
            return self.dense(inputs)

    model = Mine()
    model(X)
    with pytest.raises(WrapperStateError, match="'mine' does not say what it takes"):
        shapes(model)
    assert shapes(model, X) == ["dense: float32 (2, 3) -> float32 (2, 2)"]


def test_shapes_of_what_is_no_model_is_an_error():
    for inputs in (None, X):
        with pytest.raises(ModelTypeError, match=r"expected a keras\.Model, got 3"):
            shapes(3, inputs)


def test_a_sink_that_is_none_is_an_error():
    with pytest.raises(OptionValueError, match="trace: to=3 is neither"):
        Trace(to=3)
    with pytest.raises(OptionError, match="lambda"):
        Trace(to=lambda line: None)
