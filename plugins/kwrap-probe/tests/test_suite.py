import keras
import numpy as np

import kwrap.testing
from kwrap_probe import FeatureTap, NaNGuard, Probe, Trace

INPUTS = np.random.default_rng(0).normal(size=(2, 3)).astype("float32")

TWICE = {
    "two_replicas_train_as_one": "statistics are of what all replicas saw, here the same data twice: see test_hook.py",
}


@keras.saving.register_keras_serializable("kwrap_probe_suite")
def quiet(line):
    """Print nothing."""


def dense():
    return keras.layers.Dense(4, activation="tanh", name="dense")


class TestProbe(kwrap.testing.HookSuite):
    examples = (
        kwrap.testing.Example(
            Probe(
                ["inputs", "outputs", "output_gradients", "weight_gradients"],
                every=2,
                sample=5,
                histogram=False,
                log=["outputs/zeros", "weight_gradients/spread"],
            ),
            dense(),
            INPUTS,
            skip=TWICE,
        ),
        (NaNGuard(raises=True, gradients=False), dense(), INPUTS),
        (FeatureTap("hidden", of="inputs"), dense(), INPUTS),
        (Trace(to=quiet), dense(), INPUTS),
    )
