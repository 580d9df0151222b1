"""Training steps with spectral normalization beside Keras' own wrapper layer: python benchmarks/norm.py [--quick]."""

import argparse

import keras
import models
from measure import TARGETS, interleaved, ratio, table, target

import kwrap
from kwrap_norm import SpectralNorm

NETS = {"CNN": (models.cnn, 10), "MLP, 5.8 M weights": (models.mlp, 2)}  # steps in a turn
TURNS = 5
BATCH = 128


def of_keras(build) -> keras.Model:
    """Return the model with each layer that has a kernel in keras.layers.SpectralNormalization."""
    model = build()
    layers = [
        keras.layers.SpectralNormalization(type(layer).from_config(layer.get_config()))
        if hasattr(layer, "kernel")
        else type(layer).from_config(layer.get_config())
        for layer in model.layers
    ]
    return keras.Sequential([keras.Input(model.input_shape[1:]), *layers])


def rows(repeats: int) -> list[list[str]]:
    """Return the rows of both ways of the hook, to Keras' layer."""
    found = []
    for net, (build, steps) in NETS.items():
        built = {
            "Keras": of_keras(build),
            "project=True": kwrap.wrap_model(build(), SpectralNorm(project=True)),
            "project=False": kwrap.wrap_model(build(), SpectralNorm()),
        }
        runs = {name: models.stepper(model, BATCH, steps) for name, model in built.items()}
        times = interleaved(runs, repeats, TURNS)
        what = f"{net}: step, spectral_norm with `{{}}` / `keras.layers.SpectralNormalization`"
        found.append(target(what.format("project=True"), ratio(times, "project=True", "Keras"), 1.02))
        # Another gradient, the paper's, which Keras does not compute: shown, and held to nothing.
        found.append([what.format("project=False"), "", str(ratio(times, "project=False", "Keras")), ""])
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repeats")
    print(table(TARGETS, rows(3 if parser.parse_args().quick else 7)))


if __name__ == "__main__":
    main()
