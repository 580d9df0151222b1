"""Every format that Keras and TensorFlow write, for models and hooks of every kind: what a fresh process reads back.

The checks make the tables in docs/saving.md. To write them anew: python -m tests.integration.test_formats
"""

import functools
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
import pytest

import kwrap
from kwrap_prune import PolynomialDecay, Prune

from ..doors import DOORS, OUTPUTS, Subject, lost, outputs_of, report, traced, trained
from ..specimens import same

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "saving.md"
BEGIN, END = "<!-- tables: python -m tests.integration.test_formats -->\n", "<!-- end of tables -->\n"

registered: Callable[[type], type] = keras.saving.register_keras_serializable("formats")


# --- hooks: with masks and steps, with trainable variables, without variables ----------------------------------------


@kwrap.hook(layer_type=keras.layers.Layer, name="formats_lora")
class LoRA(kwrap.Hook):
    """Freeze the weights, and train a difference of rank one."""

    freezes = True

    def build(self, layer):
        for target in self.target_weights:
            rows, columns = (int(np.prod(axes)) for axes in _matrix(target))
            self.down = self.add_weight((rows, 1), initializer=keras.initializers.RandomNormal(seed=1), name="down")
            self.up = self.add_weight((1, columns), initializer="zeros", name="up")

    def parametrize(self, target, value):
        return value + target.from_matrix(keras.ops.matmul(self.down, self.up))


def _matrix(target: kwrap.WeightTarget) -> list[list[int]]:
    return [[target.shape[axis] for axis in axes] for axes in (target.input_axes, target.output_axes)]


@kwrap.hook(layer_type=keras.layers.Layer, name="formats_scale")
def scale(call_next, inputs, *, factor=0.75):
    """Multiply what a layer gives."""
    return call_next(inputs) * factor


HOOKS: dict[str, tuple[type[kwrap.Hook], str]] = {
    "prune": (Prune, "`prune`: masks and step counters"),
    "LoRA": (LoRA, "a LoRA: trainable variables over a frozen kernel"),
    "call": (scale, "a hook around the call, without variables"),
}


# --- models ----------------------------------------------------------------------------------------------------------


@registered
class Mixer(keras.layers.Layer):
    """A composite: attention, and recurrent layers in both directions."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = keras.layers.MultiHeadAttention(1, 2, name="attention")
        line = keras.layers.SimpleRNN(2, return_sequences=True, unroll=True, name="line")
        self.both = keras.layers.Bidirectional(line, name="both")

    def build(self, shape):
        self.attention.build(shape, shape)
        self.both.build(shape)

    def call(self, inputs):
        return self.both(inputs + self.attention(inputs, inputs))


@registered
class Reader(keras.Model):
    """A subclassed model with a composite in it."""

    def __init__(self, units=2, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.mixer, self.head = Mixer(name="mixer"), keras.layers.Dense(units, name="head")

    def call(self, inputs):
        return self.head(self.mixer(inputs))

    def get_config(self):
        return {"name": self.name, "units": self.units}


def _sequential() -> keras.Model:
    layers = keras.layers
    norm, head = layers.BatchNormalization(name="norm"), layers.Dense(2, name="head")
    return keras.Sequential(
        [keras.Input((3, 4)), layers.Dense(5, activation="tanh", name="first"), norm, head], name="line"
    )


def _functional() -> keras.Model:
    inputs, inner = keras.Input((3, 4)), keras.Input((3, 4))
    nested = keras.Model(inner, keras.layers.Dense(4, activation="tanh", name="inside")(inner) + inner, name="nested")
    frozen = keras.layers.Dense(4, name="frozen", trainable=False)
    return keras.Model(inputs, keras.layers.Dense(2, name="head")(nested(frozen(nested(inputs)))))


def _composite() -> keras.Model:
    inputs = keras.Input((3, 4))
    return keras.Model(inputs, keras.layers.Dense(2, name="head")(Mixer(name="mixer")(inputs)))


def _subclassed() -> keras.Model:
    model = Reader(name="reader")
    model(batch("subclassed model")[0])
    return model


def _backbone() -> keras.Model:
    sizes = {"num_layers": 1, "num_heads": 1, "hidden_dim": 4, "intermediate_dim": 4, "max_sequence_length": 3}
    return keras_hub.models.BertBackbone(vocabulary_size=7, dropout=0.0, **sizes)


# Each with the place of its LoRA.
MODELS: dict[str, tuple[Callable[[], keras.Model], str]] = {
    "Sequential": (_sequential, "head"),
    "nested Functional": (_functional, "head"),
    "composite in a graph": (_composite, "mixer/attention/query"),
    "subclassed model": (_subclassed, "head"),
    "KerasHub backbone": (_backbone, "pooled_dense"),
}


def batch(kind: str) -> tuple[Any, Any]:
    """Return inputs and targets."""
    generator = np.random.default_rng(0)
    if kind != "KerasHub backbone":
        return generator.normal(size=(4, 3, 4)).astype("float32"), generator.normal(size=(4, 3, 2)).astype("float32")
    tokens, ones = generator.integers(0, 7, (4, 3)).astype("int32"), np.ones((4, 3), "int32")
    outputs = {"sequence_output": np.zeros((4, 3, 4), "float32"), "pooled_output": np.ones((4, 4), "float32")}
    return {"token_ids": tokens, "segment_ids": ones, "padding_mask": ones}, outputs


def make(kind: str, seed: int = 1) -> keras.Model:
    """Return a wrapped model, compiled, its optimizer built."""
    keras.utils.set_random_seed(seed)
    build, place = MODELS[kind]
    model = build()
    decay = PolynomialDecay(0.2, 0.8, begin_step=0, end_step=6, frequency=2)
    kwrap.wrap_model(model, [LoRA().at(place), scale().at(keras.layers.Dense)])
    kwrap.wrap_model(model, Prune(decay, log_sparsity=True), exclude=place)
    model.compile(keras.optimizers.Adam(0.05, name="adam"), "mse", run_eagerly=True)
    model.optimizer.build(model.trainable_variables)
    return model


# --- in one process and in another -----------------------------------------------------------------------------------


def subject(kind: str) -> Subject:
    """Return what goes through the doors."""
    return Subject(functools.partial(make, kind), functools.partial(batch, kind))


def report_files(folder: str) -> None:
    """Load each file in a folder, and write down what came of it: in the other process."""
    found = {}
    for kind in MODELS:
        for door in DOORS:
            try:
                loaded = DOORS[door].load(str(Path(folder) / kind / door), subject(kind))
                found[kind, door] = report(loaded, batch(kind)[0])
            except Exception as error:
                found[kind, door] = repr(error)
    (Path(folder) / "found.pickle").write_bytes(pickle.dumps(found))


Reports = tuple[dict[str, Any], dict[tuple[str, str], Any]]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    """Return by kind what the saved models are, and by kind and door what another process found in the files."""
    folder, expected = tmp_path_factory.mktemp("formats"), {}
    for kind in MODELS:
        (folder / kind).mkdir()
        model, errors = trained(subject(kind), folder / kind)
        assert not errors
        for name, door in DOORS.items():
            door.save(model, str(folder / kind / name))
        expected[kind] = {**report(model, batch(kind)[0]), "traced": traced(model, batch(kind)[0])}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    code = "import sys; from tests.integration import test_formats; test_formats.report_files(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return expected, pickle.loads((folder / "found.pickle").read_bytes())


KEPT = [(kind, door) for kind in MODELS for door in DOORS if DOORS[door].keeps != OUTPUTS]


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(("kind", "door"), KEPT)
def test_another_process_finds_hooks_and_their_state(reports: Reports, kind: str, door: str, hook: str) -> None:
    saved, found = reports[0][kind], reports[1][kind, door]
    assert isinstance(found, dict), found
    (own, state), (own_found, state_found) = hooks_of(saved, hook), hooks_of(found, hook)
    assert own
    assert own_found == own
    assert same(state_found, state)


def hooks_of(found: dict[str, Any], kind: str) -> tuple[list[Any], list[Any]]:
    """Return what a report says of the hooks of a kind, and their states."""
    name = HOOKS[kind][0].hook_name
    both = [(own, state) for own, state in zip(found["hooks"], found["state of hooks"], strict=True) if own[0] == name]
    return [own for own, _ in both], [state for _, state in both]


@pytest.mark.parametrize(("kind", "door"), KEPT)
def test_it_finds_weights_flags_and_the_optimizers_state_and_the_outputs_are_the_same(
    reports: Reports, kind: str, door: str
) -> None:
    saved, found = reports[0][kind], reports[1][kind, door]
    assert isinstance(found, dict), found
    assert not lost(saved, found)


EXPORTED = [(kind, door) for kind in MODELS for door in DOORS if DOORS[door].keeps == OUTPUTS]


@pytest.mark.parametrize(("kind", "door"), EXPORTED)
def test_it_finds_a_function_that_gives_what_the_wrapped_model_gives(reports: Reports, kind: str, door: str) -> None:
    saved, found = reports[0][kind], reports[1][kind, door]
    assert isinstance(found, dict), found
    if door == "exported":
        assert same(found["outputs"], saved["traced"])
    for one, other in zip(found["outputs"], saved["outputs"], strict=True):
        # Graphs and LiteRT add up in an order of their own, of a bare model too.
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("door", [door for door in DOORS if DOORS[door].keeps == OUTPUTS])
def test_a_wrapped_model_is_exported_as_its_unwrapped_copy_to_the_bit(door: str, tmp_path: Path) -> None:
    model = _functional()
    kwrap.wrap_model(model, [Prune(), LoRA().at("head")])
    for _, hook in kwrap.find_hooks(model, LoRA):
        hook.up.assign(keras.random.normal(hook.up.shape))
    plain = kwrap.unwrap_model(kwrap.clone_model(model))
    given = []
    for name, one in {"wrapped": model, "plain": plain}.items():
        path = str(tmp_path / f"{name}_{door}")
        DOORS[door].save(one, path)
        given.append(outputs_of(DOORS[door].load(path, subject("nested Functional")), batch("nested Functional")[0]))
    assert same(*given)


def test_orbax_is_not_installed_with_keras_and_its_callback_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match="requires the 'orbax-checkpoint' package"):
        keras.callbacks.OrbaxCheckpoint(tmp_path)


# --- the tables ------------------------------------------------------------------------------------------------------


def tables() -> str:
    """Return what stands between the marks in docs/saving.md."""
    rows = [("door", "brings back", *MODELS), ("---", "---", *(":---:" for _ in MODELS))]
    for door in DOORS.values():
        mark = "outputs" if door.keeps == OUTPUTS else " ".join("✓" for _ in HOOKS)
        rows.append((door.about, door.keeps, *(mark for _ in MODELS)))
    hooks = "; ".join(about for _, about in HOOKS.values())
    count = len(KEPT) * len(HOOKS) + len(KEPT) + len(EXPORTED)
    return (
        f"Marks, in this order: {hooks}. All three are on each model. {len(DOORS)} doors, {len(MODELS)} kinds of "
        f"model, {len(HOOKS)} kinds of hook: {count} checks.\n\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)
    )


def _split(page: str) -> tuple[str, str, str]:
    before, rest = page.split(BEGIN)
    between, after = rest.split(END)
    return before, between, after


def test_the_document_has_the_tables_of_these_checks() -> None:
    between = _split(PAGE.read_text("utf-8"))[1]
    assert between == tables(), "write them anew: python -m tests.integration.test_formats"


if __name__ == "__main__":
    before, _, after = _split(PAGE.read_text("utf-8"))
    PAGE.write_text(f"{before}{BEGIN}{tables()}{END}{after}", "utf-8")
