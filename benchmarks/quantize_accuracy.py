"""How accurate quantized nets are: beside plain post-training quantization and tfmot, on Fashion-MNIST.

python benchmarks/quantize_accuracy.py [--quick] [--save FOLDER], with kwrap, kwrap-quantize[litert] and kwrap-prune
installed, and the images: apt-get install dataset-fashion-mnist, on Debian and Ubuntu.

For each of ten seeds a small net is trained for three epochs, quantized, and trained for one more, as tfmot's is; of
three seeds it is done in other ways, too, with two epochs more where they lose more. Copies are compiled anew for that,
so that Adam starts without its moments: a script with tensorflow-model-optimization (tfmot) has to, and so the work is
the same. The files are run by LiteRT's interpreter, on all test images.
"""

import argparse
import pathlib
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import keras
import measure
import models
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from prune_accuracy import Data, listed, mean, progress, read, table, train

import kwrap
import kwrap_quantize
from kwrap_prune import PolynomialDecay, Prune

BEFORE = 3  # epochs of the float net
FEW, MANY = 3, 10  # seeds: a mean of three is uncertain by what nets differ
CALIBRATION = 1000  # images
SIZES = {"conv_1": 144, "conv_2": 4608, "hidden": 102400, "logits": 1280}
# 80 % of all weights: the first kernel stays dense, as in prune_accuracy.py.
SPARSITIES = {"conv_2": 0.8011, "hidden": 0.8011, "logits": 0.8}

# tfmot 0.8.1 on the same work, two seeds: kwrap's issue 10.
TFMOT = {"float": (0.886, 0.881), "trained": (0.885, 0.887), "file": (0.885, 0.887)}
TFMOT_STEPS = (1.12, 1.07)
TFMOT_KB = 115
# tfmot 0.8.1 (TensorFlow 2.21, tf_keras) on the nets that this script trains with seeds 0 to 9, in the same order of
# batches: the accuracy of its file, by quantize_accuracy_tfmot.py, on 2026-11-27.
TFMOT_HERE = (0.8910, 0.8797, 0.8851, 0.8779, 0.8926, 0.8936, 0.8874, 0.8916, 0.8919, 0.8793)


@dataclass
class Row:
    """What was measured of one way to quantize, one value a seed."""

    keras: list[float] = field(default_factory=list)
    file: list[float] = field(default_factory=list)
    agreement: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    size: list[int] = field(default_factory=list)


Rows = dict[str, Row]

FLOAT = {epochs: f"float, {epochs} epochs" for epochs in (3, 4, 5)}
CONVERTER = "post-training, TensorFlow's converter"
CALIBRATED = "post-training, `calibrate`"
TRAINED = "8 bits, 1 epoch more"
FROZEN = "8 bits, 1 epoch more; calibrated, ranges and BatchNormalization frozen in its second half"
FOUR = "4-bit weights, 2 epochs more"
SPARSE = "80 % zeros and 8 bits, 2 epochs more"


def net() -> keras.Model:
    """Return the net, untrained."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(16, 3, use_bias=False, name="conv_1"),
            keras.layers.BatchNormalization(name="norm_1"),
            keras.layers.ReLU(name="relu_1"),
            keras.layers.MaxPooling2D(name="pool_1"),
            keras.layers.Conv2D(32, 3, use_bias=False, name="conv_2"),
            keras.layers.BatchNormalization(name="norm_2"),
            keras.layers.ReLU(name="relu_2"),
            keras.layers.MaxPooling2D(name="pool_2"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(128, activation="relu", name="hidden"),
            keras.layers.Dense(10, name="logits"),
        ]
    )


def quantized(model: keras.Model, **options: object) -> keras.Model:
    """Return a copy of the net with the hooks that `kwrap_quantize.quantize` plans."""
    return kwrap_quantize.quantize(kwrap.clone_model(model), **options).apply()


def pruned(model: keras.Model, steps: int) -> keras.Model:
    """Return a copy of the net that is pruned in two thirds of `steps`."""
    decay = {
        layer: PolynomialDecay(0.0, sparsity, begin_step=0, end_step=steps * 2 // 3 // 10 * 10, frequency=10)
        for layer, sparsity in SPARSITIES.items()
    }
    return kwrap.clone_model(model, [Prune(schedule).at(layer) for layer, schedule in decay.items()])


def outputs(file: pathlib.Path, images: np.ndarray) -> np.ndarray:
    """Return what a LiteRT file gives for each image."""
    interpreter = Interpreter(model_path=str(file))
    index = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(index, (1000, *images.shape[1:]))
    interpreter.allocate_tensors()
    found = []
    for batch in np.split(images, len(images) // 1000):
        interpreter.set_tensor(index, batch)
        interpreter.invoke()
        found.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    return np.concatenate(found)


def converted(model: keras.Model, file: pathlib.Path, images: np.ndarray) -> None:
    """Write the int8 file that TensorFlow's converter makes of a float model and images."""
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[None]] for image in images)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        file.write_bytes(converter.convert())


def check_zeros(model: keras.Model) -> None:
    """Raise if a layer of the unwrapped net has not the zeros that it should have, or more."""
    for layer, sparsity in SPARSITIES.items():
        kernel = keras.ops.convert_to_numpy(model.get_layer(layer).kernel)
        if np.count_nonzero(kernel == 0) < round(sparsity * SIZES[layer]):
            raise AssertionError(f"{layer}: only {np.mean(kernel == 0):.4f} of the weights are zero")


class Seed:
    """One net, all that becomes of it, and what is measured of that."""

    def __init__(self, seed: int, training: Data, test: Data, rows: Rows) -> None:
        self.seed, self.training, self.test, self.rows = seed, training, test, rows
        self.steps = -(-len(training[0]) // 128)  # an epoch

    def run(self, save: pathlib.Path | None) -> None:
        """Train the net, and measure what is compared with tfmot; of the first seeds everything."""
        keras.utils.set_random_seed(self.seed)
        model = net()
        train(model, self.training, epochs=BEFORE, seed=self.seed)
        if save:
            np.savez(save / f"float{self.seed}.npz", *model.get_weights())
        self.note(FLOAT[BEFORE], model)
        self.note(TRAINED, self.trained(quantized(model), 1), file=True)
        frozen = quantized(model)
        kwrap_quantize.calibrate(frozen, self.training[0][:CALIBRATION])
        freeze = kwrap_quantize.FreezeRanges(after=self.steps // 2, batch_normalization=True)
        self.note(FROZEN, self.trained(frozen, 1, callbacks=[freeze]), file=True)
        if self.seed < FEW:
            self.run_others(model)

    def run_others(self, model: keras.Model) -> None:
        """Measure all other ways."""
        self.note_file(CONVERTER, lambda file: converted(model, file, self.training[0][:CALIBRATION]), model)
        calibrated = quantized(model)
        kwrap_quantize.calibrate(calibrated, self.training[0][:CALIBRATION])
        self.note(CALIBRATED, calibrated, file=True)
        self.note(FOUR, self.trained(quantized(model, bits=4), 2), file=True)
        sparse = kwrap_quantize.quantize(pruned(model, 2 * self.steps)).apply()
        self.note(SPARSE, self.trained(sparse, 2), file=True)
        check_zeros(kwrap.unwrap_model(sparse))
        for epochs in (BEFORE + 1, BEFORE + 2):
            self.note(FLOAT[epochs], self.trained(kwrap.clone_model(model), epochs - BEFORE))

    def trained(self, model: keras.Model, epochs: int, **options: object) -> keras.Model:
        """Return the model, trained further."""
        train(model, self.training, epochs=epochs, seed=100 + self.seed, **options)
        return model

    def note(self, name: str, model: keras.Model, *, file: bool = False) -> None:
        """Measure the model in Keras, and its file."""
        accuracy = float(np.mean(self.outputs(model).argmax(-1) == self.test[1]))
        self.rows.setdefault(name, Row()).keras.append(accuracy)
        progress(f"seed {self.seed}; {name}: {accuracy:.4f}")
        if file:
            self.note_file(name, lambda path: kwrap_quantize.to_litert(model, path, batch_size=None), model)

    def note_file(self, name: str, write: Callable[[pathlib.Path], object], model: keras.Model) -> None:
        """Measure the file that `write` makes, beside the model."""
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "model.tflite"
            write(path)
            row, found = self.rows.setdefault(name, Row()), outputs(path, self.test[0])
            row.size.append(path.stat().st_size)
        own = self.outputs(model)
        row.file.append(float(np.mean(found.argmax(-1) == self.test[1])))
        row.agreement.append(float(np.mean(found.argmax(-1) == own.argmax(-1))))
        if rounding := kwrap.find_hooks(model, kwrap_quantize.QuantizeOutput):
            _, last = rounding[-1]
            step = float(last.maximum.numpy()[0] - last.minimum.numpy()[0]) / (2**last.bits - 1)
            row.steps.append(round(float(np.abs(found - own).max() / step), 2))
        progress(f"seed {self.seed}; {name}, file: {row.file[-1]:.4f}, as in Keras {row.agreement[-1]:.4f} {row.steps}")

    def outputs(self, model: keras.Model) -> np.ndarray:
        """Return what the model gives for each test image."""
        return model.predict(self.test[0], batch_size=1000, verbose=0)


def of_means(rows: Rows) -> Iterator[str]:
    """Yield the table of means."""
    head = ["test accuracy, mean", "seeds", "in Keras", "in the file", "the same class", "largest difference", "kB"]
    cells = [
        ["tfmot 0.8.1, float (issue 10)", "2", mean(TFMOT["float"]), "", "", "", ""],
        [
            "tfmot 0.8.1, 8 bits, 1 epoch more (issue 10)",
            "2",
            *map(mean, (TFMOT["trained"], TFMOT["file"])),
            "",
            "",
            str(TFMOT_KB),
        ],
    ]
    for name, row in rows.items():
        size = f"{statistics.mean(row.size) / 1000:.0f}" if row.size else ""
        agreement = f"{statistics.mean(row.agreement):.4f}" if row.agreement else ""
        steps = f"{max(row.steps):.0f}" if row.steps else ""
        seeds = str(max(len(row.keras), len(row.file)))
        cells.append([name, seeds, optional(row.keras), optional(row.file), agreement, steps, size])
    yield from table(head, cells)
    yield "\n`The same class`: of the file as of Keras. `Largest difference`: of an output, in steps of its grid."


def optional(values: Sequence[float]) -> str:
    """Return their mean, if there are any."""
    return mean(values) if values else ""


def of_same_nets(rows: Rows) -> Iterator[str]:
    """Yield the table beside tfmot on the same nets."""
    cells = []
    for seeds in sorted({min(FEW, len(rows[TRAINED].file)), len(rows[TRAINED].file)}):
        own = {name: rows[name].file[:seeds] for name in (TRAINED, FROZEN)}
        cells.append([f"tfmot 0.8.1, seeds 0 to {seeds - 1}", mean(TFMOT_HERE[:seeds]), ""])
        cells.extend([name, mean(values), mean(beside_tfmot(values))] for name, values in own.items())
    yield from table(["test accuracy of the file, mean", "", "difference to tfmot, net by net"], cells)


def beside_tfmot(values: Sequence[float]) -> list[float]:
    """Return by how much each net is better than the one that tfmot quantized."""
    return [own - its for own, its in zip(values, TFMOT_HERE, strict=False)]


def of_seeds(rows: Rows) -> Iterator[str]:
    """Yield the table of each seed."""
    head = ["each seed", "in Keras", "in the file", "the same class"]
    cells = [[name, *map(listed, (row.keras, row.file, row.agreement))] for name, row in rows.items()]
    yield from table(head, [*cells, ["tfmot 0.8.1, 8 bits, 1 epoch more", "", listed(TFMOT_HERE), ""]])


def of_targets(rows: Rows, steps: measure.Ratio) -> Iterator[str]:
    """Yield the table of what issue 10 asks for, of the first seeds."""
    few = {name: statistics.mean((row.file or row.keras)[:FEW]) for name, row in rows.items()}
    same = {name: statistics.mean(rows[name].agreement[:FEW]) for name in (TRAINED, FROZEN)}
    plain, theirs = few[FLOAT[BEFORE]], statistics.mean(TFMOT["file"])
    cells = [
        at_least("int8 file, tfmot's way: accuracy", few[TRAINED], theirs),
        at_least("int8 file, calibrated and frozen: accuracy", few[FROZEN], theirs),
        at_least("int8 file, tfmot's way: the same class as Keras", same[TRAINED], 0.999),
        at_least("int8 file, calibrated and frozen: the same class as Keras", same[FROZEN], 0.999),
        at_least("4-bit weights, file, less float", few[FOUR] - plain, -0.01),
        at_least("80 % zeros and int8, file, less float", few[SPARSE] - plain, -0.015),
        measure.target("training step, quantized / plain", steps, max(TFMOT_STEPS)),
    ]
    yield from table(list(measure.TARGETS), cells)


def at_least(what: str, measured: float, limit: float) -> list[str]:
    """Return a row of a table of targets."""
    return [what, f"≥ {limit:.4g}", f"{measured:.4f}", "yes" if measured >= limit else "**no**"]


def step_ratio(repeats: int) -> measure.Ratio:
    """Return how long a quantized training step takes beside a plain one, in turns of 50."""
    built = {"plain": net(), "quantized": quantized(net())}
    runs = {name: models.stepper(model, 128, 50, jit_compile=False) for name, model in built.items()}
    return measure.ratio(measure.interleaved(runs, repeats), "quantized", "plain")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one seed, a tenth of the images")
    parser.add_argument("--save", type=pathlib.Path, metavar="FOLDER", help="for quantize_accuracy_tfmot.py")
    options = parser.parse_args()
    seeds, part = (1, 10) if options.quick else (MANY, 1)
    training, test = tuple(array[: len(array) // part] for array in read("train")), read("t10k")
    rows: Rows = {}
    for seed in range(seeds):
        Seed(seed, training, test, rows).run(options.save)
    steps = step_ratio(3 if options.quick else 15)
    print(measure.environment("kwrap", "kwrap-quantize", "keras", "tensorflow", "ai-edge-litert") + "\n")
    for lines in (of_targets(rows, steps), of_means(rows), of_same_nets(rows), of_seeds(rows)):
        print(*lines, sep="\n", end="\n\n")
    print(f"Training step, quantized / plain: {steps}; tfmot 0.8.1 (issue 10): 1.07 and 1.12.")


if __name__ == "__main__":
    main()
