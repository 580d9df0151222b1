import keras
import numpy as np

import kwrap.testing
from kwrap_quantize import QuantizeActivation, QuantizeBetween

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(2, 3)).astype("float32")
IMAGES = RNG.normal(size=(2, 5, 5, 3)).astype("float32")
OPTIONS = {"range": "all_time", "decay": 0.5, "symmetric": True}


class TestHooksInside(kwrap.testing.HookSuite):
    examples = (
        (QuantizeActivation(6, **OPTIONS), keras.layers.Dense(4, activation="silu", name="dense"), ROWS),
        kwrap.testing.Example(
            QuantizeBetween(6, **OPTIONS),
            keras.layers.SeparableConv2D(4, 3, name="separable"),
            IMAGES,
            skip=dict.fromkeys(
                ("it_works_before_another_hook", "it_works_after_another_hook"),
                "they are run on a subclass with a `call` of its own, which the hook leaves alone",
            ),
        ),
    )
    skip = {  # noqa: RUF012 - as HookSuite has it
        "gradients_match_finite_differences": "rounding has no slope: its gradient is straight-through",
        "every_option_is_tried": "`tensors` is 1: there is one tensor in between",
        "old_files_load": "all of tests/saved are loaded by test_suite.py",
    }
    bad_options = ({"bits": 1}, {"range": "first"}, {"symmetric": 1})
