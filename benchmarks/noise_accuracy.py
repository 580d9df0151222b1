"""Accuracy under noisy weights, trained with and without noise: python benchmarks/noise_accuracy.py [--quick].

With kwrap, kwrap-noise and scikit-learn, whose images of digits it takes. Prints the table in docs/noise.md.
"""

import argparse
import statistics

import keras
import numpy as np
from measure import table
from sklearn.datasets import load_digits

import kwrap
from kwrap_noise import WeightNoise

LEVELS = (0.0, 0.1, 0.2, 0.3)
DRAWS = 20
TRAINING = 0.2


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return images and labels of 1297 digits to train with, and of 500 to test with."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = (images[order] / 16).astype("float32"), labels[order]
    return images[:-500], labels[:-500], images[-500:], labels[-500:]


def trained(seed: int, epochs: int, *hooks: kwrap.Hook) -> keras.Model:
    """Return a network that was trained with these hooks, and has them no more."""
    images, labels, _, _ = digits()
    keras.utils.set_random_seed(seed)
    hidden = [keras.layers.Dense(64, activation="relu") for _ in range(2)]
    model = keras.Sequential([keras.Input((64,)), *hidden, keras.layers.Dense(10)])
    if hooks:
        kwrap.wrap_model(model, list(hooks))
    model.compile(keras.optimizers.Adam(0.003), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(images, labels, batch_size=32, epochs=epochs, verbose=0)
    return kwrap.unwrap_model(model)


def accuracy(model: keras.Model, stddev: float, draws: int) -> float:
    """Return the share of test digits that are told right under weight noise, the mean over `draws`."""
    _, _, images, labels = digits()
    noisy = kwrap.clone_model(model, WeightNoise(stddev, phase="inference", seed=1)) if stddev else model
    found = [
        np.mean(np.argmax(noisy.predict(images, batch_size=500, verbose=0), axis=-1) == labels)
        for _ in range(draws if stddev else 1)
    ]
    return float(np.mean(found))


def cell(values: list[float]) -> str:
    """Return a mean over seeds in percent, and its standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{100 * statistics.mean(values):.1f} ± {100 * error:.1f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed, few epochs")
    seeds, epochs, draws = (1, 3, 2) if parser.parse_args().quick else (5, 40, DRAWS)
    ways = {
        "without noise": (),
        f"`WeightNoise({TRAINING})`": (WeightNoise(TRAINING),),
    }
    rows = []
    for name, hooks in ways.items():
        models = [trained(seed, epochs, *hooks) for seed in range(seeds)]
        rows.append([name, *(cell([accuracy(model, level, draws) for model in models]) for level in LEVELS)])
    print(table(["trained", *(f"{level:g}" for level in LEVELS)], rows))


if __name__ == "__main__":
    main()
