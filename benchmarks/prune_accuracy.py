"""How accurate pruned nets are: beside tensorflow-model-optimization (tfmot), on Fashion-MNIST.

python benchmarks/prune_accuracy.py [--quick] [--save FOLDER], with kwrap and kwrap-prune installed, and the images:
apt-get install dataset-fashion-mnist, on Debian and Ubuntu.

For each seed a small net is trained for three epochs; copies of it are pruned in two more. They are compiled anew for
that, so that Adam starts without its moments: a script with tfmot has to, and so the work is the same. One row is of
nets that are wrapped as they are, and go on with the optimizer that they have, as `wrap_model` lets them. In other rows
`lamp_sparsities` says how sparse each layer is, and Adam averages the weights while they are pruned (`use_ema`). The
unwrapped nets are counted: a layer with a zero too many or too few is an error.
"""

import argparse
import dataclasses
import datetime
import gzip
import importlib.metadata
import itertools
import os
import pathlib
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np

import kwrap
from kwrap_prune import PolynomialDecay, Prune, Schedule, lamp_sparsities

IMAGES = pathlib.Path("/usr/share/datasets/fashion-mnist")
SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98)
BEFORE, AFTER = 3, 2  # epochs
FEW, MANY = 3, 10  # seeds: a mean of three is uncertain by what pruned nets differ
SIZES = {"conv_1": 144, "conv_2": 4608, "hidden": 102400, "logits": 1280}
TOTAL = sum(SIZES.values())

# tfmot 0.8.1 on the same work, two seeds: kwrap's issue 5.
TFMOT = {0.5: (0.890, 0.886), 0.8: (0.867, 0.877), 0.9: (0.836, 0.836), 0.95: (0.784, 0.774), 0.98: (0.711, 0.644)}
TFMOT_DENSE = (0.890, 0.880)
# tfmot 0.8.1 (TensorFlow 2.21, tf_keras) on the nets that this script trains with seeds 0 to 9, in the same order of
# batches: by prune_accuracy_tfmot.py, on 2026-11-24.
TFMOT_HERE = {
    0.5: (0.8918, 0.8816, 0.8786, 0.8881, 0.8827, 0.8814, 0.8914, 0.888, 0.8885, 0.8868),
    0.8: (0.8669, 0.8737, 0.8736, 0.8704, 0.8718, 0.8684, 0.876, 0.871, 0.872, 0.8704),
    0.9: (0.8333, 0.8311, 0.8497, 0.8317, 0.8455, 0.8368, 0.8404, 0.8321, 0.8464, 0.8355),
    0.95: (0.7706, 0.7704, 0.7879, 0.7739, 0.7846, 0.7737, 0.783, 0.7858, 0.8122, 0.7936),
    0.98: (0.7005, 0.6873, 0.6991, 0.7333, 0.6857, 0.7163, 0.6441, 0.7476, 0.7301, 0.7103),
}
# The same with --use-ema, seeds 0 to 2, on 2026-11-28; as sparse as without.
TFMOT_AVERAGED = {
    0.5: (0.8906, 0.8877, 0.8938),
    0.8: (0.8647, 0.8756, 0.8735),
    0.9: (0.8293, 0.8248, 0.8472),
    0.95: (0.7667, 0.7605, 0.7789),
    0.98: (0.656, 0.6807, 0.6954),
}

Data = tuple[np.ndarray, np.ndarray]
Accuracies = dict[tuple[str, float], list[float]]  # by setting and sparsity, one a seed


@dataclasses.dataclass(frozen=True)
class Setting:
    """A way of pruning the net: each layer's sparsity and schedule, given the net and the sparsity asked for."""

    name: str
    sparsities: Callable[[keras.Model, float], dict[str, float]]
    schedule: Callable[[float, int], Schedule]
    seeds: int = FEW
    regrow: bool = False
    compiled_anew: bool = True
    use_ema: bool = False

    def rules(self, sparsities: dict[str, float], part: int) -> list[kwrap.Rule]:
        """Return a hook for each layer that is pruned, in one `part`-th of the time."""
        return [Prune(self.schedule(value, part), regrow=self.regrow).at(layer) for layer, value in sparsities.items()]


def nowhere(model: keras.Model, sparsity: float) -> dict[str, float]:
    """Return no layer."""
    return {}


def everywhere(model: keras.Model, sparsity: float) -> dict[str, float]:
    """Return the same sparsity for every layer."""
    return dict.fromkeys(SIZES, sparsity)


def between(model: keras.Model, sparsity: float) -> dict[str, float]:
    """Return the same sparsity for all layers but the first and the last, which stay dense."""
    return dict.fromkeys(("conv_2", "hidden"), sparsity)


def shifted(model: keras.Model, sparsity: float) -> dict[str, float]:
    """Return none for the first layer, at most 0.8 for the last, and more for the others: in total, what was asked."""
    last = min(0.8, sparsity)
    rest = (sparsity * TOTAL - last * SIZES["logits"]) / (SIZES["conv_2"] + SIZES["hidden"])
    return {"conv_2": rest, "hidden": rest, "logits": last}


def of_tfmot(sparsity: float, part: int) -> Schedule:
    """Return the schedule that tfmot was measured with."""
    return PolynomialDecay(0.0, sparsity, begin_step=0, end_step=700 // part, frequency=50 // part)


def early(sparsity: float, part: int) -> Schedule:
    """Return a schedule in small steps that leaves most of the time to recover."""
    return PolynomialDecay(0.0, sparsity, begin_step=0, end_step=400 // part, frequency=10 // part)


DENSE = Setting("dense", nowhere, of_tfmot, MANY)
SAME = Setting("kwrap-prune, `regrow=False`", everywhere, of_tfmot, MANY)
AS_IT_IS = Setting("kwrap-prune, not compiled anew", everywhere, of_tfmot, MANY, compiled_anew=False)
LAMP = Setting("kwrap-prune, shares by LAMP", lamp_sparsities, of_tfmot, MANY)
AVERAGED = Setting("kwrap-prune, `use_ema`", everywhere, of_tfmot, use_ema=True)
LAMP_AVERAGED = Setting("kwrap-prune, shares by LAMP and `use_ema`", lamp_sparsities, of_tfmot, MANY, use_ema=True)
REGROW = Setting("kwrap-prune, `regrow=True`", everywhere, of_tfmot, regrow=True)
EARLY = Setting("earlier; every layer", everywhere, early)
SHIFTED = Setting("earlier; first layer left out, last at 0.8, others at more", shifted, early)
BETWEEN = Setting("earlier; first and last layer left out", between, early)
SAME_SCHEDULE = (SAME, AS_IT_IS, AVERAGED, LAMP, LAMP_AVERAGED)
BEST = (EARLY, SHIFTED, BETWEEN)
SETTINGS = (*SAME_SCHEDULE, REGROW, *BEST)


def read(part: str) -> Data:
    """Return the images, in [0, 1], and the labels of "train" or "t10k"."""
    try:
        images, labels = (
            np.frombuffer(gzip.decompress((IMAGES / f"{part}-{file}-ubyte.gz").read_bytes()), "uint8", offset=offset)
            for file, offset in (("images-idx3", 16), ("labels-idx1", 8))
        )
    except FileNotFoundError as error:
        sys.exit(f"no {error.filename}: on Debian and Ubuntu, apt-get install dataset-fashion-mnist")
    return images.reshape(-1, 28, 28, 1).astype("float32") / 255, labels.astype("int32")


def net() -> keras.Model:
    """Return the net, untrained."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(16, 3, activation="relu", name="conv_1"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(32, 3, activation="relu", name="conv_2"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu", name="hidden"),
            keras.layers.Dense(10, name="logits"),
        ]
    )


def train(model: keras.Model, data: Data, *, epochs: int, seed: int, use_ema: bool = False, **options: object) -> None:
    """Compile and train the model, with more options for `fit`; Adam may average its weights."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.Adam(1e-3, use_ema=use_ema)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)  # XLA is slower here
    go_on(model, data, epochs=epochs, seed=seed, **options)


def go_on(model: keras.Model, data: Data, *, epochs: int, seed: int, **options: object) -> None:
    """Train the model as it is compiled."""
    keras.utils.set_random_seed(seed)  # the order of the batches
    model.fit(*data, batch_size=128, epochs=epochs, verbose=0, **options)


def copied(model: keras.Model) -> keras.Model:
    """Return a copy of the model with the state of its optimizer."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "dense.keras"
        model.save(path)
        return keras.models.load_model(path)


def checked_zeros(model: keras.Model, sparsities: dict[str, float]) -> float:
    """Return the share of zeros in all kernels together; raise if a layer has not exactly as many as it should."""
    total = 0
    for layer, size in SIZES.items():
        kernel = keras.ops.convert_to_numpy(model.get_layer(layer).kernel)
        zeros, expected = np.count_nonzero(kernel == 0), round(sparsities.get(layer, 0) * size)
        if zeros != expected:
            raise AssertionError(f"{layer}: {zeros} of {size} weights are zero, not {expected}")
        total += zeros
    return total / TOTAL


def accuracies(
    most: int, sparsities: tuple[float, ...], part: int, save: pathlib.Path | None
) -> tuple[Accuracies, dict[tuple[str, float], float]]:
    """Train all nets, on one `part`-th of the images; return what share of test images they get right, and of zeros."""
    results: Accuracies = {}
    zeros = {}
    training, test = tuple(array[: len(array) // part] for array in read("train")), read("t10k")
    for seed in range(most):
        keras.utils.set_random_seed(seed)
        dense = net()
        train(dense, training, epochs=BEFORE, seed=seed)
        if save:
            np.savez(save / f"dense{seed}.npz", *dense.get_weights())
        for setting, sparsity in [(DENSE, 0.0), *itertools.product(SETTINGS, sparsities)]:
            if seed >= setting.seeds:
                continue
            of_layers = setting.sparsities(dense, sparsity)
            rules = setting.rules(of_layers, part) or None
            if setting.compiled_anew:
                model = kwrap.clone_model(dense, rules)
                train(model, training, epochs=AFTER, seed=100 + seed, use_ema=setting.use_ema)
            else:
                model = kwrap.wrap_model(copied(dense), rules)
                go_on(model, training, epochs=AFTER, seed=100 + seed)
            kwrap.unwrap_model(model)
            zeros[setting.name, sparsity] = checked_zeros(model, of_layers)
            accuracy = model.evaluate(*test, batch_size=1000, verbose=0)[1]
            results.setdefault((setting.name, sparsity), []).append(accuracy)
            progress(f"seed {seed}; {setting.name}; sparsity {sparsity}: {accuracy:.4f}")
    return results, zeros


def progress(line: str) -> None:
    """Print what has been done, apart from the tables."""
    print(f"{datetime.datetime.now():%H:%M:%S} {line}", file=sys.stderr, flush=True)


def of_means(results: Accuracies, sparsities: tuple[float, ...]) -> Iterator[str]:
    """Yield the table of the same schedule, and what regrowing does to the accuracy."""
    dense = results[DENSE.name, 0.0]
    same, regrow = ({s: results[setting.name, s] for s in sparsities} for setting in (SAME, REGROW))
    rows = [row("tfmot 0.8.1, 2 seeds (issue 5)", TFMOT, sparsities, TFMOT_DENSE)]
    for seeds in sorted({min(FEW, len(dense)), len(dense)}):
        name = f"seeds 0 to {seeds - 1}, here"
        rows.append(row(f"tfmot 0.8.1, {name}", first(TFMOT_HERE, seeds), sparsities, None))
        if seeds <= FEW:
            rows.append(row(f"tfmot 0.8.1, `use_ema`, {name}", first(TFMOT_AVERAGED, seeds), sparsities, None))
        for setting in SAME_SCHEDULE:
            if setting.seeds < seeds:
                continue
            own = first({s: results[setting.name, s] for s in sparsities}, seeds)
            rows.append(row(f"{setting.name}, {name}", own, sparsities, dense[:seeds] if setting is SAME else None))
            rows.append(row("its difference to tfmot's, net by net", differences(own), sparsities, None, sign="+"))
    yield from table(["the same schedule, mean", *map(str, sparsities), "dense, 5 epochs"], rows)
    pairs = [pair for s in sparsities for pair in zip(same[s], regrow[s], strict=False)]
    gain = statistics.mean(after - before for before, after in pairs)
    equal = sum(before == after for before, after in pairs)
    yield f"\nregrow=True scores {gain:+.4f} beside regrow=False; the same in {equal} of {len(pairs)} nets."


def of_seeds(results: Accuracies, sparsities: tuple[float, ...]) -> Iterator[str]:
    """Yield the table of each seed, of all settings."""
    rows = [[setting.name, *(listed(results[setting.name, s]) for s in sparsities)] for setting in SETTINGS]
    yield from table(["each seed", *map(str, sparsities)], rows)
    yield f"\nDense, 5 epochs: {listed(results[DENSE.name, 0.0])}."


def of_best(results: Accuracies, zeros: dict[tuple[str, float], float], sparsities: tuple[float, ...]) -> Iterator[str]:
    """Yield the table of other schedules and layers, of the first seeds; in brackets, the sparsity over all kernels."""
    rows = [row("tfmot 0.8.1, 2 seeds (issue 5)", TFMOT, sparsities, None)[:-1]]
    for setting in (SAME, LAMP, LAMP_AVERAGED, *BEST):
        keys = [(setting.name, sparsity) for sparsity in sparsities]
        rows.append([setting.name, *(f"{statistics.mean(results[key][:FEW]):.3f} ({zeros[key]:.4f})" for key in keys)])
    yield from table(["mean (sparsity over all kernels)", *map(str, sparsities)], rows)


def row(
    name: str, values: dict, sparsities: tuple[float, ...], dense: Sequence[float] | None, *, sign: str = "-"
) -> list[str]:
    """Return the cells of means, each with its standard error."""
    return [name, *(mean(values[sparsity], sign) for sparsity in sparsities), mean(dense) if dense else ""]


def first(values: dict[float, Sequence[float]], seeds: int) -> dict[float, Sequence[float]]:
    """Return the values of the first seeds alone."""
    return {sparsity: of_seed[:seeds] for sparsity, of_seed in values.items()}


def differences(same: dict[float, Sequence[float]]) -> dict[float, list[float]]:
    """Return by how much each net is better than the one that tfmot pruned."""
    return {
        sparsity: [own - its for own, its in zip(of_seed, TFMOT_HERE[sparsity], strict=False)]
        for sparsity, of_seed in same.items()
    }


def mean(values: Sequence[float], sign: str = "-") -> str:
    """Return the mean of the seeds, with its standard error if there are several."""
    error = f" ± {statistics.stdev(values) / len(values) ** 0.5:.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.4f}{error}"


def listed(values: Sequence[float]) -> str:
    """Return all the values."""
    return ", ".join(f"{value:.4f}" for value in values)


def table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    for cells in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one seed, two sparsities, a tenth of the images")
    parser.add_argument("--save", type=pathlib.Path, metavar="FOLDER", help="for prune_accuracy_tfmot.py")
    options = parser.parse_args()
    most, sparsities, part = (1, (0.5, 0.98), 10) if options.quick else (MANY, SPARSITIES, 1)
    results, zeros = accuracies(most, sparsities, part, options.save)
    packages = ("kwrap", "kwrap-prune", "keras", "tensorflow")
    versions = (f"{name} {importlib.metadata.version(name)}" for name in packages)
    print(
        f"{datetime.date.today()}; {', '.join(versions)}, Python {platform.python_version()}; "
        f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores\n"
    )
    tables = of_means(results, sparsities), of_seeds(results, sparsities), of_best(results, zeros, sparsities)
    for lines in tables:
        print(*lines, sep="\n", end="\n\n")


if __name__ == "__main__":
    main()
