"""Write tfmot_quantizers.json: what the quantizers of tensorflow-model-optimization 0.8.1 make of tensors.

It is for an environment of its own, as tfmot works with Keras 2 only:

    pip install tensorflow-model-optimization==0.8.1 tensorflow==2.21.0 tf_keras==2.21.0
    TF_USE_LEGACY_KERAS=1 python tfmot_quantizers.py
"""

import itertools
import json
import pathlib

import numpy as np

BATCHES = np.random.default_rng(0).normal(size=(3, 4, 3)).astype("float32") * [1, 2, 3]
CASES = [
    (name, {"num_bits": bits, "per_axis": per_axis, "symmetric": symmetric, "narrow_range": narrow})
    for name, bits, per_axis, (symmetric, narrow) in itertools.product(
        ("LastValueQuantizer", "MovingAverageQuantizer", "AllValuesQuantizer"),
        (8, 4),
        (False, True),
        ((False, False), (True, False), (True, True)),
    )
    if not per_axis or name == "LastValueQuantizer"  # tfmot's others have one range whatever it says
]


class Owner:
    """What a quantizer's `build` takes for the layer."""

    def add_weight(self, name, shape=None, initializer=None, trainable=True):
        """Return a variable."""
        import tensorflow as tf

        return tf.Variable(initializer(shape if isinstance(shape, tuple) else (shape,) if shape else ()), name=name)


def main() -> None:
    """Ask tfmot, and write its answers beside this file."""
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot

    batches = [tf.constant(batch, tf.float32) for batch in BATCHES]
    rows = []
    for name, options in CASES:
        quantizer = getattr(tfmot.quantization.keras.quantizers, name, None)
        variables = quantizer(**options).build(BATCHES.shape[1:], "x", Owner())
        outputs = [quantizer(**options)(batch, True, variables).numpy().tolist() for batch in batches]
        ranges = [np.asarray(variables[bound]).tolist() for bound in ("min_var", "max_var")]
        after = quantizer(**options)(batches[0], False, variables).numpy().tolist()
        rows.append({"quantizer": name, "options": options, "outputs": outputs, "range": ranges, "inference": after})
    text = json.dumps({"tfmot": tfmot.__version__, "rows": rows})
    pathlib.Path(__file__).with_suffix(".json").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
