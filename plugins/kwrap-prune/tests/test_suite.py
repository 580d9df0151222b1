from dataclasses import dataclass

import keras
import numpy as np

import kwrap
import kwrap.testing
from kwrap_prune import ConstantSparsity, Criterion, PolynomialDecay, Prune

GENERATOR = np.random.default_rng(0)
INPUTS = GENERATOR.normal(size=(2, 4)).astype("float32")
STEPS = GENERATOR.normal(size=(2, 5, 4)).astype("float32")
WORDS = GENERATOR.integers(0, 6, size=(2, 3))

STRAIGHT_THROUGH = {
    "gradients_match_finite_differences": "regrow is a straight-through estimator: pruned weights have gradients"
}


@keras.saving.register_keras_serializable("kwrap_prune_suite")
@dataclass(frozen=True)
class Signed(Criterion):
    """The value itself: negative weights go first."""

    def score(self, target, value):
        return value


@keras.saving.register_keras_serializable("kwrap_prune_suite")
def a_fifth_more(step):
    return keras.ops.minimum(keras.ops.cast(step, "float64") / 5, 0.8)


def dense():
    return keras.layers.Dense(4, activation="tanh", name="dense")


class TestPrune(kwrap.testing.HookSuite):
    examples = (
        (Prune(PolynomialDecay(0.2, 0.8, begin_step=0, end_step=4, frequency=2), log_sparsity=True), dense(), INPUTS),
        kwrap.testing.Example(
            Prune(a_fifth_more, regrow=True, criterion=Signed()), dense(), INPUTS, skip=STRAIGHT_THROUGH
        ),
        (Prune(block_size=(2, 1), block_pooling="MAX"), keras.layers.Conv1D(3, 2, name="conv"), STEPS),
        (Prune(n_m=(2, 4), gradient_accumulation_steps=2), dense(), INPUTS),
        (Prune(ConstantSparsity(0.5, begin_step=1, frequency=1)), keras.layers.Embedding(6, 4, name="words"), WORDS),
    )
    bad_options = (
        {"schedule": 0.5},
        {"block_size": (0, 1)},
        {"block_pooling": "MIN"},
        {"n_m": (4, 2)},
        {"criterion": "magnitude"},
        {"gradient_accumulation_steps": 0},
    )
