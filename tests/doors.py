"""Doors: every way of Keras and TensorFlow into a file and out of it, and all that a file may bring back."""

import functools
import operator
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import kwrap

from .specimens import same, values

WHOLE, STATE, OUTPUTS = "the model with its hooks", "the state", "what it computes"


@dataclass(frozen=True)
class Subject:
    """A model that goes through the doors.

    Attributes:
        make: returns it, for a seed of its weights: compiled, its optimizer built.
        batch: returns its inputs and targets, the same ones each time.
    """

    make: Callable[[int], keras.Model]
    batch: Callable[[], tuple[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class Door:
    """A way into a file, and out of it by its path.

    Attributes:
        about: how one goes through it.
        column: the same in a word or two.
        keeps: `WHOLE`, `STATE` or `OUTPUTS`.
        save: writes a model to a path.
        load: returns what is at a path: a model, or a function of inputs.
    """

    about: str
    column: str
    keeps: str
    save: Callable[[keras.Model, str], Any]
    load: Callable[[str, Subject], Any]


def _eager(model: keras.Model) -> keras.Model:
    model.run_eagerly = True  # as before it was saved: of graphs and eager code the last bit may differ
    return model


def _load_model(path: str, subject: Subject) -> keras.Model:
    return _eager(keras.models.load_model(path))


def _into_another(load: Callable[[keras.Model, str], Any]) -> Callable[[str, Subject], keras.Model]:
    """Return a way to load a state: into a model that is wrapped the same way, with other weights."""

    def load_into_another(path: str, subject: Subject) -> keras.Model:
        model = subject.make(2)
        load(model, path)
        return model

    return load_into_another


def _resumed(path: str, subject: Subject) -> keras.Model:
    """Return a model to which `fit` brought the state back; all epochs are done."""
    model = _eager(subject.make(2))
    model.fit(*subject.batch(), epochs=1, verbose=0, callbacks=[keras.callbacks.BackupAndRestore(path)])
    return model


def _written_in_training(model: keras.Model, path: str) -> None:
    """Leave the file to the callbacks of `trained`."""
    assert Path(path).exists()


def _save_shards(model: keras.Model, path: str) -> None:
    """Write into shards that are as small as can be: each of them takes the largest variable."""
    largest = max(np.array(variable).nbytes for variable in model.variables)
    model.save_weights(path, max_shard_size=max(5e-7, 1.01 * largest / 2**30))


def _lite(path: str) -> Callable[..., Any]:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=path).get_signature_runner()

    def run(inputs: Any) -> list[np.ndarray]:
        given = inputs if isinstance(inputs, dict) else {next(iter(runner.get_input_details())): inputs}
        outputs = runner(**given)
        return [outputs[name] for name in sorted(outputs)]  # as a dict's outputs are flattened

    return run


_load_weights = _into_another(keras.Model.load_weights)
DOORS = {
    "model.keras": Door(about="`model.save`", column="`.keras`", keeps=WHOLE, save=keras.Model.save, load=_load_model),
    "folder": Door(
        about="`keras.saving.save_model(model, path, zipped=False)`",
        column="folder",
        keeps=WHOLE,
        save=functools.partial(keras.saving.save_model, zipped=False),
        load=_load_model,
    ),
    "checkpoint.keras": Door(
        about="`ModelCheckpoint`",
        column="Model-Checkpoint",
        keeps=WHOLE,
        save=_written_in_training,
        load=_load_model,
    ),
    "model.pickle": Door(
        about="`pickle`",
        column="pickle",
        keeps=WHOLE,
        save=lambda model, path: Path(path).write_bytes(pickle.dumps(model)),
        load=lambda path, subject: _eager(pickle.loads(Path(path).read_bytes())),
    ),
    "model.weights.h5": Door(
        about="`save_weights`", column="weights", keeps=STATE, save=keras.Model.save_weights, load=_load_weights
    ),
    "shards.weights.json": Door(
        about="`save_weights(path, max_shard_size=...)`",
        column="shards",
        keeps=STATE,
        save=_save_shards,
        load=_load_weights,
    ),
    "checkpoint.weights.h5": Door(
        about="`ModelCheckpoint(..., save_weights_only=True)`",
        column="its weights only",
        keeps=STATE,
        save=_written_in_training,
        load=_load_weights,
    ),
    "backup": Door(about="`BackupAndRestore`", column="Backup", keeps=STATE, save=_written_in_training, load=_resumed),
    "tensorflow": Door(
        about="`tf.train.Checkpoint`",
        column="tf.train",
        keeps=STATE,
        save=lambda model, path: tf.train.Checkpoint(model=model).write(path),
        load=_into_another(lambda model, path: tf.train.Checkpoint(model=model).read(path).assert_consumed()),
    ),
    "tree": Door(
        about="`get_state_tree`, which `OrbaxCheckpoint` saves",
        column="state tree",
        keeps=STATE,
        save=lambda model, path: Path(path).write_bytes(pickle.dumps(model.get_state_tree("numpy_array"))),
        load=_into_another(lambda model, path: model.set_state_tree(pickle.loads(Path(path).read_bytes()))),
    ),
    "exported": Door(
        about="`model.export`: SavedModel",
        column="Saved-Model",
        keeps=OUTPUTS,
        save=lambda model, path: model.export(path, verbose=False),
        load=lambda path, subject: tf.saved_model.load(path),
    ),
    "model.tflite": Door(
        about='`model.export(path, format="litert")`: LiteRT',
        column="LiteRT",
        keeps=OUTPUTS,
        save=lambda model, path: model.export(path, format="litert", verbose=False),
        load=lambda path, subject: _lite(path),
    ),
}


def trained(subject: Subject, folder: Path) -> tuple[keras.Model, dict[str, Exception]]:
    """Return a model in mid-training, and the errors of doors: those which callbacks go through, at the epoch's end."""
    callbacks = {
        "checkpoint.keras": keras.callbacks.ModelCheckpoint(folder / "checkpoint.keras"),
        "checkpoint.weights.h5": keras.callbacks.ModelCheckpoint(
            folder / "checkpoint.weights.h5", save_weights_only=True
        ),
        "backup": keras.callbacks.BackupAndRestore(str(folder / "backup"), delete_checkpoint=False),
    }
    errors: dict[str, Exception] = {}
    for door, callback in callbacks.items():
        callback.on_epoch_end = _noting(callback.on_epoch_end, functools.partial(errors.__setitem__, door))
    model = _eager(subject.make(1))
    model.fit(*subject.batch(), batch_size=2, verbose=0, callbacks=list(callbacks.values()))
    return model, errors


def _noting(save: Callable[..., Any], note: Callable[[Exception], None]) -> Callable[..., None]:
    def save_or_note(epoch: int, logs: Any = None) -> None:
        try:
            save(epoch, logs)
        except Exception as error:
            note(error)

    return save_or_note


# --- what comes back -------------------------------------------------------------------------------------------------


def outputs_of(model: Any, inputs: Any) -> list[np.ndarray]:
    """Return what a model, or a function that was exported, gives."""
    given = model.serve(inputs) if hasattr(model, "serve") else model(inputs)
    return [np.asarray(output) for output in keras.tree.flatten(given)]


def traced(model: keras.Model, inputs: Any) -> list[np.ndarray]:
    """Return the outputs that a graph gives for a batch of any size, as exported ones are."""
    specs = keras.tree.map_structure(lambda array: tf.TensorSpec((None, *array.shape[1:]), array.dtype), inputs)
    function = tf.function(lambda inputs: model(inputs, training=False), input_signature=[specs])
    return [np.asarray(output) for output in keras.tree.flatten(function(inputs))]


_ARRAYS = ("state of hooks", "weights", "optimizer", "outputs")


def report(model: Any, inputs: Any) -> dict[str, Any]:
    """Return all that a file may bring back, by names for readers."""
    if not isinstance(model, keras.Model):
        return {"outputs": outputs_of(model, inputs)}
    hooks = [hook for _, hook in kwrap.find_hooks(model)]
    optimizer = getattr(model, "optimizer", None)
    return {
        "class": [cls.__qualname__ for cls in type(model).__mro__],
        "hooks": [
            (hook.hook_name, hook.path, hook.get_config(), hook.initialized, [v.name for v in hook.variables])
            for hook in hooks
        ],
        "state of hooks": [values(hook.variables) for hook in hooks],
        "weights": values(model.weights),
        "compilation": type(optimizer).__name__,
        "optimizer": [] if optimizer is None else values(optimizer.variables),
        "trainable flags": [part.trainable for part in (*model._flatten_layers(), *model.weights)],
        "outputs": outputs_of(model, inputs),
    }


def lost(saved: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Return the names of what is not the same in two reports; arrays are, to the bit."""
    return [name for name in found if not (same if name in _ARRAYS else operator.eq)(saved[name], found[name])]
