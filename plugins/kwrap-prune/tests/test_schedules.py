import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from kwrap.errors import OptionValueError
from kwrap_prune import ConstantSparsity, CosineDecay, PolynomialDecay, Schedule
from kwrap_prune._schedules import scheduled

STEPS = range(60)


def table(schedule: Schedule) -> list[tuple[bool, float]]:
    """Return what the schedule says at each of STEPS, asked as an optimizer does: an int32 tensor, in a graph."""
    ask = tf.function(schedule)
    rows = [ask(tf.constant(step, tf.int32)) for step in STEPS]
    return [(bool(due), float(sparsity)) for due, sparsity in rows]


@pytest.mark.parametrize(
    ("begin", "end", "frequency"),
    [(0, -1, 1), (0, -1, 10), (7, -1, 10), (7, 27, 10), (7, 26, 10), (0, 0, 1), (59, 100, 5)],
)
def test_constant_sparsity_is_due_from_begin_to_end_every_frequency_steps(begin, end, frequency):
    last = end if end != -1 else max(STEPS)
    due = set(range(begin, last + 1, frequency))
    assert table(ConstantSparsity(0.3, begin, end, frequency)) == [(step in due, 0.3) for step in STEPS]


def test_no_end_is_no_end():
    due, sparsity = ConstantSparsity(0.5, 0, frequency=10)(100_000_000)
    assert (bool(due), float(sparsity)) == (True, 0.5)


@pytest.mark.parametrize("power", [1, 2.5, 3])
@pytest.mark.parametrize(("initial", "final"), [(0.2, 0.8), (0.9, 0.1), (0.0, 0.99)])
@pytest.mark.parametrize(("begin", "end", "frequency"), [(0, 50, 10), (5, 48, 4), (10, 11, 100)])
def test_polynomial_decay_follows_its_formula(initial, final, begin, end, power, frequency):
    steps = np.arange(len(STEPS), dtype=np.float64)
    # The polynomial decay as TensorFlow's own learning rate schedule defines it, from another end.
    remaining = np.interp(steps, [begin, end], [1.0, 0.0])
    sparsities = remaining**power * initial + (1 - remaining**power) * final
    due = set(range(begin, end + 1, frequency))
    actual = table(PolynomialDecay(initial, final, begin, end, power, frequency))
    assert [each for each, _ in actual] == [step in due for step in STEPS]
    np.testing.assert_allclose([each for _, each in actual], sparsities, rtol=1e-13, atol=1e-15)


TFMOT = json.loads(pathlib.Path(__file__).with_name("tfmot_schedules.json").read_text("utf-8"))["rows"]


@pytest.mark.parametrize("row", TFMOT, ids=lambda row: f"{row['schedule']}-{row['options']['begin_step']}")
def test_schedules_say_what_those_of_tensorflow_model_optimization_say_step_for_step(row):
    schedule = {"ConstantSparsity": ConstantSparsity, "PolynomialDecay": PolynomialDecay}[row["schedule"]]
    answers = [schedule(**row["options"])(step) for step in range(len(row["sparsity"]))]
    assert [step for step, (due, _) in enumerate(answers) if due] == row["due"]
    # tfmot computes in float32.
    np.testing.assert_allclose([float(each) for _, each in answers], row["sparsity"], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("begin", "end", "frequency"), [(0, 50, 10), (5, 48, 4)])
def test_cosine_decay_goes_down_as_the_learning_rate_of_keras_does(begin, end, frequency):
    rate = keras.optimizers.schedules.CosineDecay(0.9, decay_steps=end - begin)
    expected = [0.9 - float(rate(max(step - begin, 0))) for step in STEPS]
    actual = table(CosineDecay(0.0, 0.9, begin, end, frequency))
    assert [step for step, (due, _) in enumerate(actual) if due] == list(range(begin, end + 1, frequency))
    np.testing.assert_allclose([sparsity for _, sparsity in actual], expected, atol=1e-6)  # Keras' is float32


@keras.saving.register_keras_serializable("kwrap_prune_tests")
def ramp(step):
    return keras.ops.minimum(step / 10, 1) * 0.9


def test_a_function_gives_a_sparsity_for_every_step():
    for step in (0, 5, 100):
        due, sparsity = scheduled(ramp, tf.constant(step))
        assert (bool(due), sparsity.dtype) == (True, tf.float64)
        assert float(sparsity) == pytest.approx(min(step / 10, 1) * 0.9, rel=1e-6)


def test_a_decay_of_one_step_is_at_its_final_sparsity():
    due, sparsity = PolynomialDecay(0.2, 0.7, begin_step=4, end_step=4)(4)
    assert (bool(due), float(sparsity)) == (True, 0.7)


@pytest.mark.parametrize(
    ("schedule", "config"),
    [
        (
            ConstantSparsity(0.7, 10, 20, 5),
            {"target_sparsity": 0.7, "begin_step": 10, "end_step": 20, "frequency": 5},
        ),
        (
            PolynomialDecay(0.1, 0.6, 10, 20, 5, 2),
            {
                "initial_sparsity": 0.1,
                "final_sparsity": 0.6,
                "begin_step": 10,
                "end_step": 20,
                "power": 5,
                "frequency": 2,
            },
        ),
        (
            CosineDecay(0.1, 0.6, 10, 20, 2),
            {"initial_sparsity": 0.1, "final_sparsity": 0.6, "begin_step": 10, "end_step": 20, "frequency": 2},
        ),
    ],
)
def test_a_schedule_comes_back_from_its_config(schedule, config):
    assert schedule.get_config() == config
    assert type(schedule).from_config(config) == schedule
    stored = json.loads(json.dumps(keras.saving.serialize_keras_object(schedule)))
    assert stored["registered_name"] == f"kwrap_prune>{type(schedule).__name__}"
    assert keras.saving.deserialize_keras_object(stored) == schedule


def test_numbers_of_numpy_are_stored_as_pythons():
    batches = np.ceil(1347 / 64).astype(np.int32)  # as in the tutorial of tensorflow-model-optimization
    schedule = PolynomialDecay(np.float32(0.25), np.float64(0.5), np.int64(0), batches * 2, np.int8(3), np.uint8(11))
    assert schedule == PolynomialDecay(0.25, 0.5, 0, 44, 3, 11)
    config = schedule.get_config()
    assert [type(value) for value in config.values()] == [float, float, int, int, float, int]
    assert PolynomialDecay.from_config(json.loads(json.dumps(config))) == schedule


def test_a_schedule_cannot_be_changed():
    with pytest.raises(AttributeError, match="frequency"):
        ConstantSparsity(0.5, 0).frequency = 1


def decay(**options) -> PolynomialDecay:
    return PolynomialDecay(
        **{"initial_sparsity": 0.2, "final_sparsity": 0.8, "begin_step": 0, "end_step": 10} | options
    )


def cosine(**options) -> CosineDecay:
    return CosineDecay(**{"initial_sparsity": 0.2, "final_sparsity": 0.8, "begin_step": 0, "end_step": 10} | options)


def constant(**options) -> ConstantSparsity:
    return ConstantSparsity(**{"target_sparsity": 0.5, "begin_step": 0} | options)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (
            constant,
            {"target_sparsity": 1.0},
            r"ConstantSparsity: target_sparsity=1.0 is not a finite number that is",
        ),
        (
            constant,
            {"target_sparsity": -0.1},
            r"target_sparsity=-0.1 is not a finite number that is",
        ),
        (
            constant,
            {"target_sparsity": float("nan")},
            r"target_sparsity=nan is not a finite number that is",
        ),
        (
            decay,
            {"initial_sparsity": 2},
            r"PolynomialDecay: initial_sparsity=2 is not a finite number that is",
        ),
        (decay, {"final_sparsity": 1}, r"final_sparsity=1 is not a finite number that is"),
        (decay, {"end_step": -1}, "end_step=-1 is no end, and a decay needs one"),
        (decay, {"power": 0}, "power=0 is not a finite number that is above 0"),
        (decay, {"power": float("nan")}, "power=nan is not"),
        (decay, {"power": "3"}, "power='3' is not a finite number"),
        (decay, {"final_sparsity": None}, "final_sparsity=None is not a finite number"),
        (constant, {"target_sparsity": "0.5"}, "ConstantSparsity: target_sparsity='0.5' is not a finite number"),
        *(
            (make, options, message)
            for make in (constant, decay, cosine)
            for options, message in [
                ({"begin_step": -1}, "begin_step=-1 is negative"),
                ({"end_step": -2}, "end_step=-2 is negative"),
                ({"begin_step": 10, "end_step": 5}, "end_step=5 is before begin_step=10"),
                ({"frequency": 0}, "frequency=0 is not positive"),
                ({"frequency": -5}, "frequency=-5 is not positive"),
                ({"begin_step": 1e3, "end_step": 2000}, "begin_step=1000.0 is not an int"),
                ({"begin_step": np.float64(2)}, "is not an int"),
                ({"frequency": "10"}, "frequency='10' is not an int"),
            ]
        ),
    ],
)
def test_what_cannot_be_is_an_error_that_says_what_and_why(make, options, message):
    with pytest.raises(OptionValueError, match=message) as raised:
        make(**options)
    assert raised.value.option in options
