"""The hooks of kwrap_quantize.tfmot, by the suite that every hook goes through."""

import keras
import numpy as np

import kwrap.testing
from kwrap_quantize.tfmot import quantizers
from kwrap_quantize.tfmot._hooks import KeepZeros, QuantizeOutputBy, QuantizeWeightsBy

INPUTS = np.random.default_rng(0).normal(size=(2, 3)).astype("float32")
STRAIGHT_THROUGH = {"gradients_match_finite_differences": "rounding has no slope: its gradient is straight-through"}
OPTIONS = {"num_bits": 4, "symmetric": True, "narrow_range": True}


def dense():
    return keras.layers.Dense(4, name="dense")


class TestTfmotHooks(kwrap.testing.HookSuite):
    examples = (
        (QuantizeOutputBy(quantizers.AllValuesQuantizer(per_axis=False, **OPTIONS)), dense(), INPUTS),
        (QuantizeWeightsBy(quantizers.MovingAverageQuantizer(per_axis=True, **OPTIONS)), dense(), INPUTS),
        (KeepZeros(), dense(), INPUTS),
    )
    saved = "saved_tfmot"
    skip = STRAIGHT_THROUGH
    bad_options = ({"quantizer": None}, {"quantizer": "last"}, {"quantizer": 8})
