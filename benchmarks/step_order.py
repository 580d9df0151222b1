"""How many compiled training steps of a bare Keras model are wrong, by NumPy: python benchmarks/step_order.py [OPTION].

Run several at once, more than there are cores. OPTION is "jit_compile", or the name of a part of TensorFlow's graph
optimizer to be turned off, such as "dependency_optimization".
"""

import sys
import time

import keras
import numpy as np
import tensorflow as tf

SECONDS = 40


def main() -> None:
    """Print how many steps were wrong, and how many of these had a gradient through weights updated already."""
    option = sys.argv[1] if len(sys.argv) > 1 else None
    jit_compile = option == "jit_compile"
    if option and not jit_compile:
        tf.config.optimizer.set_experimental_options({option: False})
    generator = np.random.default_rng(0)
    inputs, labels, first, last = (generator.normal(size=size) for size in ((16, 5), (16, 4), (5, 6), (6, 4)))
    model = keras.Sequential([keras.Input((5,)), *(keras.layers.Dense(size, use_bias=False) for size in (6, 4))])
    # The gradient of a linear loss is known without the outputs: the last weights may be updated early.
    loss = lambda labels, outputs: keras.ops.sum(labels * outputs)  # noqa: E731
    model.compile(keras.optimizers.SGD(1.0), loss, jit_compile=jit_compile)
    new_last = last - (inputs @ first).T @ labels
    new_first, early = (first - inputs.T @ (labels @ through.T) for through in (last, new_last))
    steps = wrong = through_updated = 0
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        model.set_weights([first, last])
        model.train_on_batch(inputs, labels)
        found, found_last = model.get_weights()
        steps += 1
        if not (near(found, new_first) and near(found_last, new_last)):
            wrong += 1
            through_updated += near(found, early)
    print(f"{option or 'as it is'}: {wrong} of {steps} steps wrong, {through_updated} through updated weights")


def near(one: np.ndarray, other: np.ndarray) -> bool:
    """Tell whether two arrays differ by rounding only."""
    return bool(np.allclose(one, other, rtol=1e-3, atol=1e-3))


if __name__ == "__main__":
    main()
