"""Write the files of the present version: python -m tests.saved.make, at each release, and commit them.

Of each model, in mid-training, <version>/<model>.keras, .weights.h5, and .npz with what is in them.
"""

import importlib.metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np

import kwrap

from . import models

FOLDER = Path(__file__).parent


def contents(model: keras.Model) -> dict[str, Any]:
    """Return what a model's files have to bring back: weights and slots by position, hooks' state by its names."""
    found = {f"weight {place}": weight for place, weight in enumerate(model.weights)}
    found |= {f"slot {place}": slot for place, slot in enumerate(model.optimizer.variables)}
    for path, hook in kwrap.find_hooks(model):
        found |= {f"hook {path} {hook.name} {variable.name}": variable for variable in hook.weights}  # without seeds
        found[f"config {path} {hook.name}"] = repr(sorted(hook.get_config().items(), key=lambda item: item[0]))
    found["outputs"] = model(models.inputs(), training=False)
    return {name: np.asarray(value) for name, value in found.items()}


def write(name: str, folder: Path) -> None:
    """Train a model for three steps, and write its files."""
    model = models.make(name)
    for _ in range(3):
        model.train_on_batch(models.inputs(), np.ones((2, 3, 2), "float32"))
    model.save(folder / f"{name}.keras")
    model.save_weights(folder / f"{name}.weights.h5")
    np.savez_compressed(folder / f"{name}.npz", **contents(model))


if __name__ == "__main__":
    target = FOLDER / importlib.metadata.version("kwrap")
    target.mkdir()  # a release's files are written once
    for model_name in models.MODELS:
        write(model_name, target)
