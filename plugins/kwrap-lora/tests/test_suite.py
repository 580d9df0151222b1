import keras
import numpy as np

import kwrap.testing
from kwrap_lora import LoRA

GENERATOR = np.random.default_rng(0)
INPUTS = GENERATOR.normal(size=(2, 4)).astype("float32")
WORDS = GENERATOR.integers(0, 6, size=(2, 3))

HE = keras.initializers.HeNormal(seed=3)
STOPPED = {"gradients_match_finite_differences": "of DoRA no gradient goes through the norm, as in the paper"}


class TestLoRA(kwrap.testing.HookSuite):
    examples = (
        (
            # Seeded, for B counts from the first: unseeded, each hook has its own.
            LoRA(
                2,
                alpha=3.0,
                dropout=0.25,
                use_rslora=True,
                a_initializer=keras.initializers.GlorotNormal(seed=1),
                b_initializer=keras.initializers.HeNormal(seed=2),
            ),
            keras.layers.Dense(4, activation="tanh", name="dense"),
            INPUTS,
        ),
        kwrap.testing.Example(
            LoRA(2, use_dora=True, a_initializer=HE, b_initializer=HE),
            keras.layers.Embedding(6, 4, name="words"),
            WORDS,
            skip=STOPPED,
        ),
    )
    bad_options = (
        {"rank": 0},
        {"rank": 2, "alpha": -1.0},
        {"rank": 2, "dropout": 1.0},
        {"rank": 2, "use_dora": "yes"},
        {"rank": 2, "a_initializer": "no_such"},
    )
