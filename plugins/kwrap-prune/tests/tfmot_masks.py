"""Write tfmot_masks.json: which weights tensorflow-model-optimization 0.8.1 keeps, bit by bit.

It is for an environment of its own, as tfmot works with Keras 2 only:

    pip install tensorflow-model-optimization==0.8.1 tensorflow==2.21.0 tf_keras==2.21.0
    TF_USE_LEGACY_KERAS=1 python tfmot_masks.py
"""

import json
import math
import pathlib
from typing import Any

import numpy as np

# The shape of a kernel, the sparsity, and the arguments of prune_low_magnitude.
CASES: list[tuple[tuple[int, ...], float, dict[str, Any]]] = [
    ((6, 10), 0.5, {}),
    ((6, 10), 0.9999, {}),
    ((3, 3, 4, 5), 0.8, {}),
    ((8, 12), 0.5, {"block_size": (2, 2)}),
    ((8, 12), 0.5, {"block_size": (2, 2), "block_pooling_type": "MAX"}),
    ((8, 12), 0.75, {"block_size": (4, 1), "block_pooling_type": "MAX"}),
    ((8, 12), 0.25, {"block_size": (1, 4)}),
    ((8, 6), 0.9, {"sparsity_m_by_n": (2, 4)}),
    ((8, 6), 0.9, {"sparsity_m_by_n": (1, 2)}),
    ((10, 4), 0.9, {"sparsity_m_by_n": (3, 5)}),
    ((3, 3, 8, 5), 0.9, {"sparsity_m_by_n": (2, 4)}),
    ((1, 1, 8, 4), 0.9, {"sparsity_m_by_n": (1, 2)}),
]


def weights(shape: tuple[int, ...]) -> np.ndarray:
    """Return weights without ties, the same ones everywhere: NumPy promises it of this generator."""
    return np.random.RandomState(math.prod(shape)).standard_normal(shape).astype("float32")


def main() -> None:
    """Ask tfmot, and write its answers beside this file."""
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot
    from tensorflow_model_optimization.python.core.sparsity.keras.pruning_impl import Pruning

    rows = []
    for shape, sparsity, options in CASES:
        pruning = Pruning(
            training_step_fn=lambda: 0,
            pruning_vars=[],
            pruning_schedule=tfmot.sparsity.keras.ConstantSparsity(sparsity, 0),
            **{"block_size": (1, 1), "block_pooling_type": "AVG", **options},
        )
        _, mask = pruning._maybe_update_block_mask(tf.constant(weights(shape)))
        kept = "".join(str(int(bit)) for bit in np.ravel(mask))
        rows.append({"shape": shape, "sparsity": sparsity, "options": options, "kept": kept})
    text = json.dumps({"tfmot": tfmot.__version__, "rows": rows})
    pathlib.Path(__file__).with_suffix(".json").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
