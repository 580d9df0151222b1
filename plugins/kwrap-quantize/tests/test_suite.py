import keras
import numpy as np

import kwrap.testing
from kwrap_quantize import QuantizeInput, QuantizeOutput, QuantizeWeights

GENERATOR = np.random.default_rng(0)
INPUTS = GENERATOR.normal(size=(2, 3)).astype("float32")
STEPS = GENERATOR.normal(size=(2, 4, 3)).astype("float32")
PAIR = [GENERATOR.normal(size=(2, 3)).astype("float32") for _ in range(2)]

STRAIGHT_THROUGH = {"gradients_match_finite_differences": "rounding has no slope: its gradient is straight-through"}


@keras.saving.register_keras_serializable("kwrap_quantize_suite")
class Both(keras.layers.Dense):
    """A Dense layer that gives its output twice, once with the other sign."""

    def call(self, inputs, training=None):
        outputs = super().call(inputs, training=training)
        return outputs, -outputs

    def compute_output_shape(self, input_shape):
        return (super().compute_output_shape(input_shape),) * 2


def dense():
    return keras.layers.Dense(4, activation="tanh", name="dense")


class TestQuantize(kwrap.testing.HookSuite):
    examples = (
        (QuantizeWeights(4, per_channel=True, symmetric=False, narrow_range=False), dense(), INPUTS),
        (QuantizeWeights(3, per_channel=True, method="learned"), keras.layers.Conv1D(4, 2, name="conv"), STEPS),
        (QuantizeOutput(4, range="last", decay=0.5, symmetric=True, tensors=2), Both(4, name="both"), INPUTS),
        (QuantizeOutput(), dense(), INPUTS),
        (
            QuantizeInput(16, range="all_time", decay=0.5, symmetric=True, tensors=2),
            keras.layers.Concatenate(name="joined"),
            PAIR,
        ),
    )
    skip = STRAIGHT_THROUGH
    bad_options = (
        {"bits": 1},
        {"bits": 17},
        {"bits": 8.0},
        {"bits": True},
        {"per_channel": "yes"},
        {"symmetric": 1},
        {"symmetric": False, "method": "learned"},
        {"narrow_range": None},
        {"method": "lsq"},
        {"range": "mean"},
        {"range": (0.5, 1.0)},
        {"range": (0.0, 0.0)},
        {"range": (1.0, -1.0)},
        {"range": (0.0, float("inf"))},
        {"range": (0.0, float("nan"))},
        {"range": (-1.0, 0.0, 1.0)},
        {"decay": 1.0},
        {"decay": float("nan")},
        {"tensors": 0},
    )
