"""What a student learns from its teacher's features: python benchmarks/distil.py [--quick].

On scikit-learn's digits; the table in docs/distil.md. Not ratios: each accuracy is a mean over seeds, with its standard
error. Some five minutes of one core.
"""

import argparse
import statistics

import keras
import numpy as np
from measure import table
from sklearn.datasets import load_digits

import kwrap
from kwrap_probe import FeatureTap

TRAINING = 1400  # images; the other 397 are for the test
STEPS, BATCH = 600, 25
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels."""
    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype("float32"), labels


def network(width: int, name: str) -> keras.Model:
    """Return a net of two hidden layers; the second one gives the features."""
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(width, activation="relu", name="hidden"),
            keras.layers.Dense(32, activation="relu", name="features"),
            keras.layers.Dense(10, name="logits"),
        ],
        name=name,
    )


class Distiller(keras.Model):
    """Trains a student by labels, where there are any, and by its teacher's features."""

    def __init__(self, teacher: keras.Model, student: keras.Model, weight: float) -> None:
        super().__init__()
        self.teacher, self.student, self.weight = teacher, student, weight
        teacher.trainable = False

    def call(self, inputs):
        """Return what the student gives."""
        return self.student(inputs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Return the loss of labels and that of features; a sample's weight is 0 where it has no label."""
        with kwrap.collect(self.teacher, "features") as wanted, kwrap.collect(self.student, "features") as found:
            self.teacher(x, training=False)
            self.student(x, training=training)
        apart = keras.ops.mean((wanted["features"][0] - found["features"][0]) ** 2)
        return LOSS(y, y_pred, sample_weight) + self.weight * apart


def trained_teacher(seed: int) -> keras.Model:
    """Return a teacher of all labels, whose features are tapped."""
    images, labels = digits()
    keras.utils.set_random_seed(seed)
    teacher = network(128, "teacher")
    teacher.compile("adam", LOSS)
    teacher.fit(images[:TRAINING], labels[:TRAINING], epochs=20, verbose=0)
    return kwrap.wrap_model(teacher, FeatureTap(), where="features")


def accuracy(teacher: keras.Model, seed: int, count: int, weight: float, *, all_images: bool) -> float:
    """Return the test accuracy of a student of `count` labels."""
    images, labels = digits()
    keras.utils.set_random_seed(seed)
    order = np.random.default_rng(seed).permutation(TRAINING)
    shown = order if all_images else order[:count]
    student = kwrap.wrap_model(network(16, "student"), FeatureTap(), where="features")
    distiller = Distiller(teacher, student, weight)
    distiller.compile(keras.optimizers.Adam(0.005))
    labelled = np.isin(shown, order[:count]).astype("float32")
    # Labels count as much as if all images had one.
    weights = labelled * len(shown) / count
    steps = -(-len(shown) // BATCH)
    distiller.fit(
        images[shown], labels[shown], sample_weight=weights, batch_size=BATCH, epochs=STEPS // steps, verbose=0
    )
    kwrap.unwrap_model(student)
    student.compile(metrics=["accuracy"], loss=LOSS)
    return float(student.evaluate(images[TRAINING:], labels[TRAINING:], verbose=0)[1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed")
    seeds = range(1 if parser.parse_args().quick else 5)
    ways = {
        "labels alone": (0.0, False),
        "and features of these images": (1.0, False),
        "and features of all 1,400 images": (1.0, True),
    }
    teachers = {seed: trained_teacher(seed) for seed in seeds}
    rows = []
    for count in (50, 100):
        cells = []
        for weight, all_images in ways.values():
            found = [accuracy(teachers[seed], seed, count, weight, all_images=all_images) for seed in seeds]
            error = statistics.stdev(found) / len(found) ** 0.5 if len(found) > 1 else 0.0
            cells.append(f"{statistics.mean(found):.3f} ± {error:.3f}")
        rows.append([str(count), *cells])
    print(table(["labels", *ways], rows))


if __name__ == "__main__":
    main()
