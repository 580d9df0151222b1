"""What tensorflow-model-optimization's pruning adds to a training step, beside its own plain models.

TF_USE_LEGACY_KERAS=1 python benchmarks/prune_steps_tfmot.py [--quick], in an environment of its own with tensorflow,
tf_keras and tensorflow-model-optimization; `make bench` makes one.
"""

import sys

import numpy as np
import tensorflow_model_optimization as tfmot
import tf_keras as keras
from measure import interleaved, ratio, table

EVERY = (100, 10, 1)
PRUNING = tfmot.sparsity.keras


def cnn() -> keras.Model:
    """Return the network of models.py."""
    return keras.Sequential(
        [
            keras.layers.Conv2D(12, 3, activation="relu", input_shape=(28, 28, 1)),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )


def mlp() -> keras.Model:
    """Return the network of models.py."""
    return keras.Sequential(
        [
            keras.layers.Dense(2048, activation="relu", input_shape=(784,)),
            keras.layers.Dense(2048, activation="relu"),
            keras.layers.Dense(10),
        ]
    )


def mobilenet() -> keras.Model:
    """Return the network of models.py."""
    return keras.applications.MobileNetV2((96, 96, 3), alpha=0.35, weights=None, classes=10, classifier_activation=None)


NETS = {
    "CNN (12 filters), batch 128": (cnn, 128, 100),
    "MLP 784-2048-2048-10, batch 128": (mlp, 128, 10),
    "MobileNetV2 0.35, 96 x 96, batch 16": (mobilenet, 16, 10),
}


def fitter(model: keras.Model, size: int, steps: int, callbacks: list):
    """Return a function that fits for `steps` steps: tfmot counts them in a callback, so that it takes `fit`."""
    generator = np.random.default_rng(0)
    inputs = generator.random((size * steps, *model.input_shape[1:]), "float32")
    labels = generator.integers(10, size=size * steps)
    model.compile(keras.optimizers.Adam(), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return lambda: model.fit(inputs, labels, batch_size=size, callbacks=callbacks, shuffle=False, verbose=0)


def main() -> None:
    """Print the table."""
    quick = "--quick" in sys.argv
    rows = []
    for net, (build, size, steps) in NETS.items():
        if quick and build is mobilenet:
            continue
        counts = {"bare": steps} | {str(every): max(steps, every) for every in EVERY}  # each repeat has masks
        runs = {"bare": fitter(build(), size, steps, [])}
        # MobileNetV2 with other masks takes minutes, and none of ours is beside it.
        chosen = EVERY[1:2] if build is mobilenet else EVERY
        for every in chosen:
            schedule = PRUNING.PolynomialDecay(0.5, 0.9, begin_step=0, end_step=10**6, frequency=every)
            pruned = PRUNING.prune_low_magnitude(build(), schedule)
            runs[str(every)] = fitter(pruned, size, counts[str(every)], [PRUNING.UpdatePruningStep()])
        taken = interleaved(runs, 2 if quick else 3)
        times = {name: [each / counts[name] for each in taken[name]] for name in taken}
        bare = 1e3 * sorted(times["bare"])[len(times["bare"]) // 2]
        cells = [str(ratio(times, str(every), "bare")) if every in chosen else "" for every in EVERY]
        rows.append([net, f"{bare:.1f}", *cells])
    print(table(("tfmot 0.8.1: pruned / bare", "bare, ms", *(f"masks every {n}" for n in EVERY)), rows))


if __name__ == "__main__":
    main()
