"""A training step with LoRA, and what its optimizer holds, beside Keras' own: python benchmarks/lora.py [--quick]."""

import argparse
import math
from collections.abc import Callable

import keras
import models
from measure import TARGETS, interleaved, ratio, table, target

import kwrap
from kwrap_lora import LoRA

RANK = 4
WORDS = 5000


def embedding() -> keras.Model:
    """Return a network of an embedding of 5,000 words, which come as numbers from 0 to 1."""
    return keras.Sequential(
        [
            keras.Input((32,)),
            keras.layers.Rescaling(WORDS),
            keras.layers.Embedding(WORDS, 128),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(models.CLASSES),
        ]
    )


def encoder() -> keras.Model:
    """Return two blocks of attention and dense layers, for 32 vectors of 128."""
    tensor = inputs = keras.Input((32, 128))
    for _ in range(2):
        tensor = keras.layers.LayerNormalization()(tensor + keras.layers.MultiHeadAttention(4, 32)(tensor, tensor))
        tensor = keras.layers.Dense(128)(keras.layers.Dense(512, activation="relu")(tensor))
    return keras.Model(inputs, keras.layers.Dense(models.CLASSES)(keras.layers.GlobalAveragePooling1D()(tensor)))


# How each is made, its batches, and the steps in a turn.
NETS: dict[str, tuple[Callable[[], keras.Model], int, int]] = {
    "CNN": (models.cnn, 128, 10),
    "MLP, 5.8 M weights": (models.mlp, 128, 2),
    "embedding of 5,000 words": (embedding, 128, 6),
    "encoder": (encoder, 32, 2),
}
TURNS = 5


def kwrap_lora(model: keras.Model) -> keras.Model:
    """Put kwrap's LoRA on every layer that has a kernel or embeddings."""
    return kwrap.wrap_model(model, LoRA(RANK))


def keras_lora(model: keras.Model) -> keras.Model:
    """Enable Keras' own LoRA on the same layers."""
    for entry in kwrap.plan(model, LoRA(RANK)).entries:
        entry.layer.enable_lora(RANK)
    return model


def held(model: keras.Model) -> int:
    """Return how many numbers the model's optimizer holds."""
    return sum(math.prod(variable.shape) for variable in model.optimizer.variables)


def rows_of(net: str, repeats: int) -> list[list[str]]:
    """Return the rows of a network."""
    build, size, steps = NETS[net]
    ways = {"bare": build(), "kwrap": kwrap_lora(build()), "keras": keras_lora(build())}
    runs = {name: models.stepper(model, size, steps, jit_compile=False) for name, model in ways.items()}
    times = interleaved(runs, repeats, TURNS)
    ours, theirs = held(ways["kwrap"]), held(ways["keras"])
    met = "yes" if ours <= theirs else "**no**"
    return [
        target(f"{net}: step, kwrap's LoRA / Keras' own", ratio(times, "kwrap", "keras"), 1.05),
        [f"{net}: step, Keras' own LoRA / bare", "", str(ratio(times, "keras", "bare")), ""],
        [f"{net}: numbers in Adam, kwrap's LoRA / Keras' own", "at most", f"{ours:,} / {theirs:,}", met],
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few repeats")
    repeats = 3 if parser.parse_args().quick else 7
    print(table(TARGETS, [row for net in NETS for row in rows_of(net, repeats)]))


if __name__ == "__main__":
    main()
