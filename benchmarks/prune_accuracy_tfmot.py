"""The accuracy of the nets of prune_accuracy.py when tensorflow-model-optimization prunes them: its TFMOT_HERE.

TF_USE_LEGACY_KERAS=1 python benchmarks/prune_accuracy_tfmot.py FOLDER [SPARSITY ...] [--use-ema], in an environment of
its own with tensorflow, tf_keras and tensorflow-model-optimization, after prune_accuracy.py --save FOLDER.
"""

import argparse
import gzip
import pathlib

import numpy as np
import tensorflow_model_optimization as tfmot
import tf_keras as keras

IMAGES = pathlib.Path("/usr/share/datasets/fashion-mnist")
SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98)


def read(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the images, in [0, 1], and the labels of "train" or "t10k"."""
    images, labels = (
        np.frombuffer(gzip.decompress((IMAGES / f"{part}-{file}-ubyte.gz").read_bytes()), "uint8", offset=offset)
        for file, offset in (("images-idx3", 16), ("labels-idx1", 8))
    )
    return images.reshape(-1, 28, 28, 1).astype("float32") / 255, labels.astype("int32")


def net() -> keras.Model:
    """Return the net, untrained."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(10),
        ]
    )


def pruned(weights: list[np.ndarray], sparsity: float, seed: int, *, use_ema: bool) -> keras.Model:
    """Return the net with these weights, pruned in two epochs."""
    dense = net()
    dense.set_weights(weights)
    schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, sparsity, begin_step=0, end_step=700, frequency=50)
    model = tfmot.sparsity.keras.prune_low_magnitude(dense, schedule)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3, use_ema=use_ema), loss, metrics=["accuracy"])
    keras.utils.set_random_seed(100 + seed)  # the order of the batches, as in prune_accuracy.py
    callbacks = [tfmot.sparsity.keras.UpdatePruningStep()]
    model.fit(*read("train"), batch_size=128, epochs=2, callbacks=callbacks, verbose=0)
    return model


def share_of_zeros(model: keras.Model) -> float:
    """Return it, of all kernels together."""
    kernels = [weight for weight in model.get_weights() if weight.ndim > 1]
    left = sum(int(np.count_nonzero(kernel)) for kernel in kernels)
    return round(1 - left / sum(kernel.size for kernel in kernels), 4)


def main() -> None:
    """Print a line for each sparsity."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("sparsities", type=float, nargs="*", default=SPARSITIES)
    parser.add_argument("--use-ema", action="store_true", help="let Adam average the weights while they are pruned")
    options = parser.parse_intermixed_args()
    for sparsity in options.sparsities:
        accuracies, zeros = [], []
        for seed, file in enumerate(sorted(options.folder.glob("dense*.npz"))):
            with np.load(file) as arrays:
                weights = [arrays[name] for name in arrays.files]
            model = pruned(weights, sparsity, seed, use_ema=options.use_ema)
            accuracies.append(round(model.evaluate(*read("t10k"), batch_size=1000, verbose=0)[1], 4))
            zeros.append(share_of_zeros(tfmot.sparsity.keras.strip_pruning(model)))
        print(f"{sparsity}: {tuple(accuracies)}, zeros in all kernels {tuple(zeros)}", flush=True)


if __name__ == "__main__":
    main()
