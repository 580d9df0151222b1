"""How large the files of a pruned model are: beside those of the dense one, and compressed.

python benchmarks/prune_sizes.py, with kwrap and kwrap-prune installed.
"""

import datetime
import gzip
import io
import platform
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import kwrap
from kwrap_prune import ConstantSparsity, Prune, report

SPARSITY = 0.9
STEPS, BATCH = 20, 128


def network() -> keras.Model:
    """Return the network of the accuracy benchmark, not trained."""
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


def trained(*, pruned: bool) -> keras.Model:
    """Return a plain model after some steps on noise: sizes depend on how many weights are zero, and on little else."""
    keras.utils.set_random_seed(0)
    model = network()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    if pruned:
        kwrap.wrap_model(model, Prune(ConstantSparsity(SPARSITY, begin_step=0)))
    random = np.random.default_rng(0)
    images = random.normal(size=(STEPS * BATCH, 28, 28, 1)).astype("float32")
    model.fit(images, random.integers(0, 10, len(images)), batch_size=BATCH, verbose=0)
    kwrap.unwrap_model(model)
    plain = network()  # without the optimizer, whose moments would be in the file too
    plain.set_weights(model.get_weights())
    return plain


def files(model: keras.Model) -> dict[str, bytes]:
    """Return the model in each format, as a file's bytes; a folder as a tar file's."""
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder, "model.keras")
        model.save(saved)
        exported = Path(folder, "exported")
        model.export(exported, verbose=False)
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            archive.add(exported, arcname="exported")
        return {
            ".keras": saved.read_bytes(),
            "SavedModel, as tar": packed.getvalue(),
            "LiteRT": converted(exported, []),
            "LiteRT, EXPERIMENTAL_SPARSITY": converted(exported, [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]),
        }


def converted(exported: Path, optimizations: list[tf.lite.Optimize]) -> bytes:
    """Return a SavedModel as a LiteRT file."""
    converter = tf.lite.TFLiteConverter.from_saved_model(str(exported))
    converter.optimizations = optimizations
    return bytes(converter.convert())


def table() -> Iterator[str]:
    """Yield the lines of a Markdown table of sizes in bytes."""
    dense, pruned = (files(trained(pruned=pruned)) for pruned in (False, True))
    yield "| file | dense | dense, gzip | pruned | pruned, gzip |"
    yield "|---|---:|---:|---:|---:|"
    for name in dense:
        sizes = [size for data in (dense[name], pruned[name]) for size in (len(data), len(gzip.compress(data)))]
        yield f"| {name} | {' | '.join(f'{size:,}' for size in sizes)} |"


def main() -> None:
    """Print the table, and what it was made with."""
    found = report(trained(pruned=True))
    print(
        f"{datetime.date.today()}: Python {platform.python_version()}, TensorFlow {tf.__version__}, Keras "
        f"{keras.__version__}; {found.model_size:,} parameters, kernels {found.sparsity:.1%} zero\n"
    )
    print(*table(), sep="\n")


if __name__ == "__main__":
    main()
