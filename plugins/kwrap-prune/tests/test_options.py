"""What Prune says to options that cannot be, or do not do what they say."""

import json
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import kwrap
from kwrap.errors import OptionError, OptionValueError
from kwrap_prune import (
    ConstantSparsity,
    CosineDecay,
    Criterion,
    Magnitude,
    NonFiniteWeightsWarning,
    PolynomialDecay,
    Prune,
    Schedule,
    UnreachedSparsityWarning,
    report,
)
from kwrap_prune.tfmot import prune_low_magnitude

registered = keras.saving.register_keras_serializable("kwrap_prune_option_tests")


def network() -> keras.Model:
    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(2, name="logits")]
    )
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": 0.8}, r"schedule=0\.8 is no schedule, such as ConstantSparsity\("),
        ({"schedule": ConstantSparsity(0.9, 0), "n_m": (2, 4)}, r"ends at sparsity 0\.9, and n_m=\(2, 4\) at 0\.5"),
        ({"schedule": ConstantSparsity(0.6, 0), "n_m": (2, 4)}, r"ends at sparsity 0\.6, and n_m=\(2, 4\) at 0\.5"),
        (
            {"schedule": ConstantSparsity(0.509, 0), "n_m": (32, 64)},
            r"ends at sparsity 0\.509, and n_m=\(32, 64\) at 0\.5",
        ),
        ({"n_m": (2, 4), "block_size": (2, 2)}, r"n_m=\(2, 4\) contradicts block_size=\(2, 2\)"),
        ({"n_m": (4, 4)}, r"n_m=\(4, 4\) prunes nothing"),
        ({"n_m": (0, 4)}, r"n_m=\(0, 4\) is not two ints that are at least 1"),
        ({"n_m": 4}, "n_m=4 is not two ints"),
        ({"n_m": (True, 4)}, r"n_m=\(True, 4\) is not two ints"),
        ({"block_size": (2, 2, 2)}, r"block_size=\(2, 2, 2\) is not two ints"),
        ({"block_size": (2, 1.5)}, r"block_size=\(2, 1.5\) is not two ints"),
        ({"block_size": (0, 2)}, r"block_size=\(0, 2\) is not two ints that are at least 1"),
        ({"block_pooling": "SUM"}, "block_pooling='SUM' is not 'AVG' or 'MAX'"),
        ({"block_pooling": "MAX"}, "block_pooling='MAX' has no blocks to pool: give block_size="),
        ({"block_pooling": "MAX", "n_m": (2, 4)}, "block_pooling='MAX' has no blocks to pool"),
        ({"criterion": "magnitude"}, "criterion='magnitude' is no kwrap_prune.Criterion"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps=0 is not an int that is at least 1"),
        ({"gradient_accumulation_steps": True}, "gradient_accumulation_steps=True is not an int"),
        ({"gradient_accumulation_steps": 2.0}, "gradient_accumulation_steps=2.0 is not an int"),
        ({"regrow": "no"}, "regrow='no' is not True or False"),
        ({"regrow": 1}, "regrow=1 is not True or False"),
        ({"log_sparsity": "sparsity"}, "log_sparsity='sparsity' is not True or False"),
    ],
)
def test_an_option_that_cannot_be_is_an_error_that_says_what_and_why(options, message):
    with pytest.raises(OptionValueError, match=message) as raised:
        Prune(**options)
    assert raised.value.owner == "prune"
    assert raised.value.value in options.values()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConstantSparsity(0.5, True), "begin_step=True is not an int"),
        (lambda: ConstantSparsity(False, 0), "target_sparsity=False is not a finite number"),
        (lambda: PolynomialDecay(0.0, 0.5, 0, 10, frequency=True), "frequency=True is not an int"),
    ],
)
def test_a_bool_is_no_number_of_a_schedule(make, message):
    with pytest.raises(OptionValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("options", "name"), [({"criterion": Magnitude}, "Magnitude"), ({"schedule": ConstantSparsity}, "ConstantSparsity")]
)
def test_a_class_in_the_place_of_an_instance_is_an_error_that_says_so(options, name):
    with pytest.raises(OptionError, match=rf"{name} is a class, which cannot be saved: give an instance, {name}\("):
        Prune(**options)


def test_numbers_of_numpy_become_plain_ones():
    options = {"block_size": (np.int64(4), np.int32(2)), "gradient_accumulation_steps": np.int64(2)}
    hook = Prune(**options, regrow=np.True_, log_sparsity=np.False_)
    config = json.loads(json.dumps(hook.get_config()))
    assert (config["block_size"], config["gradient_accumulation_steps"]) == ([4, 2], 2)
    assert (config["regrow"], config["log_sparsity"]) == (True, False)
    assert [type(each) for each in (hook.gradient_accumulation_steps, hook.regrow, hook.structure.height)] == [
        int,
        bool,
        int,
    ]
    assert Prune(n_m=(np.int64(2), np.int8(4))).get_config()["n_m"] == [2, 4]


def test_a_schedule_that_cannot_be_saved_is_an_error():
    class Unregistered(Schedule):
        def __call__(self, step):
            return True, 0.5

    with pytest.raises(OptionError, match="register_keras_serializable"):
        Prune(Unregistered())


# --- decays that do not reach their end ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (PolynomialDecay(0.0, 0.9, 0, 50), r"at step 0, and so ends at sparsity 0, not 0\.9: give a frequency that "),
        (
            PolynomialDecay(0.0, 0.8, 0, 844),
            r"at step 800, and so ends at sparsity 0\.799887, not 0\.8: give end_step=800, or a frequency that divides "
            r"end_step - begin_step = 844",
        ),
        (CosineDecay(0.2, 0.6, 10, 45, 10), "at step 40, and so ends at sparsity 0.580"),
    ],
)
def test_a_decay_that_does_not_reach_its_end_is_a_warning_with_what_it_reaches_and_the_way_out(schedule, message):
    with pytest.warns(UnreachedSparsityWarning, match=message) as told:
        hook = Prune(schedule)
    assert [warning.filename for warning in told] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # It is said once, and not again of the copies that go on the layers.
        model = kwrap.wrap_model(network(), hook)
    assert len(kwrap.find_hooks(model, Prune)) == 2


def test_a_decay_that_does_not_reach_its_end_ends_where_the_warning_says():
    model = network()
    with pytest.warns(UnreachedSparsityWarning, match=r"ends at sparsity 0\.75, not 0\.9375"):
        hook = Prune(PolynomialDecay(0.0, 0.9375, 0, 5, power=1, frequency=4))
    kwrap.wrap_model(model, hook, where="hidden")
    for _ in range(8):
        model.train_on_batch(np.ones((2, 8)), np.ones((2, 2)))
    assert int(np.sum(np.array(model.get_layer("hidden").kernel) == 0)) == 24


@pytest.mark.parametrize(
    "schedule",
    [
        PolynomialDecay(0.0, 0.9, 0, 200),
        CosineDecay(0.0, 0.9, 0, 200),
        PolynomialDecay(0.5, 0.5, 0, 50),
        PolynomialDecay(0.2, 0.7, 4, 4),
        ConstantSparsity(0.9, 7, 50, 100),
    ],
)
def test_a_schedule_that_reaches_its_end_is_no_warning(schedule):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Prune(schedule).schedule == schedule


def test_a_decay_that_does_not_reach_its_n_m_is_an_error():
    message = r"ends at sparsity 0\.0, and n_m=\(2, 4\) at 0\.5\. It computes its last masks at step 0, .*: give a freq"
    with pytest.raises(OptionValueError, match=message):
        Prune(PolynomialDecay(0.0, 0.5, 0, 50), n_m=(2, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Short of the end, and two of each four all the same.
        assert Prune(PolynomialDecay(0.0, 0.5, 0, 250), n_m=(2, 4)).structure.n == 2
        assert Prune(PolynomialDecay(0.0, 0.5, 0, 150), n_m=(2, 4)).structure.n == 2
        assert Prune(ConstantSparsity(0.67, 0), n_m=(1, 3)).structure.n == 1


def test_scripts_of_tfmot_with_such_a_decay_run_and_are_warned():
    with pytest.warns(UnreachedSparsityWarning, match="step 0") as told:
        pruned = prune_low_magnitude(network(), PolynomialDecay(0.0, 0.9, 0, 50))
    assert ([warning.filename for warning in told], report(pruned).zeros) == ([__file__], 0)


# --- schedules of one's own ------------------------------------------------------------------------------------------


@registered
def branching(step):
    return 0.5 if step > 5 else 0.1


@registered
def of_numpy(step):
    return np.minimum(step / 10, 0.5)


@registered
def of_nothing(step):
    return None


@registered
def of_a_pair(step):
    return True, 0.5


@registered
def of_text(step):
    return "0.5"


@registered
def without_an_argument():
    return 0.5


@registered
def dividing(step):
    return 1 / 0


@registered
def beyond(step):
    return step / 2000


@registered
def below(step):
    return -0.1 * keras.ops.ones(())


@registered
def undefined(step):
    return keras.ops.log(keras.ops.cast(step, "float64") - 7.0)


@registered
class NoPair(Schedule):
    def __call__(self, step):
        return 0.5


@pytest.mark.parametrize(
    ("schedule", "message", "cause"),
    [
        (branching, r"not on the int32 tensor that the step is in training: use keras\.ops, .* not if", TypeError),
        (of_numpy, "use keras.ops, .* NumPy", NotImplementedError),
        (of_nothing, "fails at step 0", ValueError),
        (of_a_pair, "fails at step 0", Exception),
        (of_text, "fails at step 0", Exception),
        (without_an_argument, "fails at step 0: TypeError: .* takes 0 positional arguments", TypeError),
        (dividing, "fails at step 0: ZeroDivisionError: division by zero", ZeroDivisionError),
        (NoPair(), "fails at step 0: TypeError", TypeError),
        (beyond, r"gives sparsity 1\.0 at step 2000: not in \[0, 1\)", type(None)),
        (below, r"gives sparsity -0\.1\d* at step 0: not in", type(None)),
        (undefined, "gives sparsity nan at step 0: not in", type(None)),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_function_that_is_no_schedule_is_an_error_when_the_hook_is_made(schedule, message, cause):
    with pytest.raises(OptionValueError, match=message) as raised:
        Prune(schedule)
    assert isinstance(raised.value.__cause__, cause)


@registered
def squared(step):
    return keras.ops.minimum(0.5, step * step / 10**9)


@registered
def to_a_half(step):
    return keras.ops.minimum(step * 3 / 3_000, 0.5)


def test_int32_arithmetic_that_overflows_only_after_any_training_is_no_error():
    assert float(squared(tf.constant(50_000))) < 0  # It does overflow.
    assert Prune(squared).schedule is squared
    assert Prune(to_a_half, n_m=(2, 4)).schedule is to_a_half


def test_a_function_that_does_not_lead_to_its_n_m_is_an_error():
    with pytest.raises(OptionValueError, match=r"ends at sparsity 0\.5\d*, and n_m=\(1, 4\) at 0\.75"):
        Prune(to_a_half, n_m=(1, 4))


@registered
class Odd(Schedule):
    """Has values that are no sparsity at steps at which nothing is computed."""

    def __call__(self, step):
        due = keras.ops.equal(step, 3)
        return due, keras.ops.where(due, 0.25, 7.0)


@registered
def half_then_beyond(step):
    """Leave [0, 1) between the steps that are looked at: at 3 it is above, at 4 below, at 6 undefined."""
    step = keras.ops.cast(step, "float64")
    odd = keras.ops.where(step == 3, 1.5, keras.ops.where(step == 4, -1.0, float("nan")))
    return keras.ops.where(keras.ops.logical_or(step == 3, keras.ops.logical_or(step == 4, step == 6)), odd, 0.5)


def test_only_the_sparsity_of_steps_at_which_masks_are_computed_counts():
    model = network()
    kwrap.wrap_model(model, Prune(Odd()), where="hidden")
    zeros = []
    for _ in range(4):
        model.train_on_batch(np.ones((2, 8)), np.ones((2, 2)))
        zeros.append(int(np.sum(np.array(model.get_layer("hidden").kernel) == 0)))
    assert zeros == [0, 0, 8, 8]


def test_in_a_compiled_step_what_is_above_1_leaves_one_weight_and_what_is_below_0_or_undefined_is_0():
    model = network()
    kwrap.wrap_model(model, Prune(half_then_beyond, regrow=True), where="hidden")
    kept = []
    for _ in range(6):
        model.train_on_batch(np.ones((2, 8)), np.ones((2, 2)))
        ((_, hook),) = kwrap.find_hooks(model, Prune)
        kept.append(int(np.sum(np.array(hook.state(hook.target_weights[0], "mask")))))
    assert kept == [16, 16, 1, 32, 16, 32]


# --- criteria of one's own -------------------------------------------------------------------------------------------


@registered
class Returning(Criterion):
    """A criterion that returns what it is told to."""

    def __init__(self, score="magnitude", share=None):
        self.given = (score, share)

    def get_config(self):
        return {"score": self.given[0], "share": self.given[1]}

    def score(self, target, value):
        magnitude = keras.ops.abs(value)
        return {
            "magnitude": magnitude,
            "scalar": keras.ops.mean(magnitude),
            "row": keras.ops.mean(magnitude, axis=0, keepdims=True),
            "flat": keras.ops.ravel(magnitude),
            "ints": keras.ops.cast(magnitude * 100, "int32"),
            "none": None,
        }[self.given[0]]

    def sparsity(self, target, scores, sparsity):
        share = self.given[1]
        return {None: sparsity, "pair": [0.1, 0.2], "text": "a"}.get(share, share)


@pytest.mark.parametrize("begin", [0, 1], ids=["on wrapping", "in training"])
@pytest.mark.parametrize(
    ("score", "message"),
    [
        ("scalar", r"returned scores of dtype float32 and shape \(\) for 'kernel' at 'hidden': .* of shape \(8, 4\)"),
        ("row", r"shape \(1, 4\)"),
        ("flat", r"shape \(32,\)"),
        ("ints", r"dtype int32 and shape \(8, 4\)"),
        ("none", "returned None, which is no tensor, for 'kernel' at 'hidden'"),
    ],
)
def test_scores_that_are_not_one_float_for_each_weight_are_an_error(score, message, begin):
    def prune_and_train(model):
        kwrap.wrap_model(model, Prune(ConstantSparsity(0.5, begin, -1, 1), criterion=Returning(score)), where="hidden")
        model.train_on_batch(np.ones((2, 8)), np.ones((2, 2)))

    model = network()
    with pytest.raises(OptionValueError, match=message):
        prune_and_train(model)
    assert report(model).zeros == 0


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (1.5, r"gave 'kernel' at 'hidden' the sparsity 1\.5: not in \[0, 1\]"),
        (-0.5, "not in"),
        (float("nan"), "not in"),
        ("pair", r"sparsities of shape \(2,\), not one"),
        ("text", "the sparsity 'a', no number"),
    ],
)
def test_a_share_that_cannot_be_is_an_error_where_its_value_is_known(share, message):
    model = network()
    before = model.get_weights()
    with pytest.raises(OptionValueError, match=message):
        kwrap.wrap_model(model, Prune(criterion=Returning(share=share)), where="hidden")
    assert not kwrap.find_hooks(model)
    assert all(map(np.array_equal, model.get_weights(), before))


@pytest.mark.parametrize(("share", "zeros"), [(1.0, 31), (1.5, 31), (-0.5, 0), (float("nan"), 0), (0.25, 8)])
def test_in_a_compiled_step_a_share_is_clipped(share, zeros):
    model = network()
    kwrap.wrap_model(model, Prune(ConstantSparsity(0.5, 1, -1, 1), criterion=Returning(share=share)), where="hidden")
    model.train_on_batch(np.ones((2, 8)), np.ones((2, 2)))
    assert report(model).weights[0].zeros == zeros


# --- gradient accumulation; warnings ---------------------------------------------------------------------------------


def test_on_a_model_that_is_compiled_after_wrapping_nobody_asks_and_steps_are_the_optimizers_calls():
    model = network()
    kwrap.wrap_model(model, Prune(PolynomialDecay(0.0, 0.5, 0, 4, power=1, frequency=1)), where="hidden")
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), "mse")
    zeros = []
    for _ in range(4):
        model.train_on_batch(np.ones((2, 8)), np.ones((2, 2)))
        zeros.append(report(model).weights[0].zeros)
    assert zeros == [4, 8, 12, 16]


def test_a_warning_of_weights_that_are_not_finite_points_at_the_line_that_wraps():
    model = network()
    model.get_layer("hidden").kernel.assign(np.full((8, 4), np.inf))
    with pytest.warns(NonFiniteWeightsWarning) as told:
        kwrap.wrap_model(model, Prune())
    assert [warning.filename for warning in told] == [__file__]
