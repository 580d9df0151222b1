"""Every model of the zoo through every door into another process, hooks of every kind on it and bare.

All of it takes the better part of an hour, and makes a table in docs/saving.md:

    python -m tests.integration.test_zoo_formats [MODEL ...]

Models that are named are tried again, and the findings about the others are taken from a file in build/. The tests
below take a few small models through all doors, and look whether the table has them all.
"""

import concurrent.futures
import functools
import json
import multiprocessing
import pickle
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import kwrap
from kwrap_prune import PolynomialDecay, Prune

from .. import zoo
from ..doors import DOORS, OUTPUTS, Subject, lost, report, traced, trained
from ..specimens import all_variables, unique
from .test_formats import LoRA
from .test_zoo import dim, leaves

ROOT = Path(__file__).parents[2]
PAGE, FINDINGS = ROOT / "docs" / "saving.md", ROOT / "build" / "zoo_formats.json"
BEGIN, END = "<!-- zoo: python -m tests.integration.test_zoo_formats -->\n", "<!-- end of zoo -->\n"
VARIANTS = ("bare", "wrapped")
LENGTH = 160  # so much of an error is shown
SMALL = ("in_nested", "functional_subclass", "several_inputs_and_outputs")

# What came of a model and a door: {"error": ...}, or {"lost": [...]} and for what is exported {"off": ...} as well.
Finding = dict[str, Any]


# --- one model -------------------------------------------------------------------------------------------------------


def subject(name: str, variant: str) -> Subject:
    """Return what goes through the doors."""
    return Subject(functools.partial(make, name, variant), zoo.ZOO[name].batch)


def make(name: str, variant: str, seed: int) -> keras.Model:
    """Return the model of that name: bare, or with hooks; names that Keras counts are the same in each."""
    keras.backend.clear_session()
    model = zoo.build(name, seed)
    return put_hooks(model) if variant == "wrapped" else model


def put_hooks(model: keras.Model) -> keras.Model:
    """Put a hook without variables on every second leaf, a LoRA on one weight, `prune` on the first and the others."""
    held = [leaf for leaf in unique(leaves(model)) if not isinstance(leaf, keras.layers.InputLayer)]
    targets = {id(leaf): [target for target in kwrap.weight_targets(leaf) if target.default] for leaf in held}
    pruned = [leaf for leaf in held if targets[id(leaf)]]
    layers = [leaf for leaf in pruned[1:] if not isinstance(leaf, keras.layers.Embedding | keras.layers.RNN)]
    adapted = [leaf for leaf in layers if len(targets[id(leaf)]) == 1][-1:]
    pruned = [leaf for leaf in pruned if leaf not in adapted]
    decay = PolynomialDecay(0.2, 0.8, begin_step=0, end_step=6, frequency=2)
    hooks = [(LoRA(), adapted), (dim(), held[::2]), (Prune(decay), pruned)]
    return kwrap.wrap_model(model, [hook.at(_among(chosen)) for hook, chosen in hooks if chosen])


def _among(layers: list[keras.Layer]) -> Callable[[keras.Layer, str], bool]:
    return lambda layer, path: any(layer is one for one in layers)


def save_all(subject: Subject, folder: Path) -> dict[str, str]:
    """Send the model through all doors into a folder; return the errors, and write down what the model is."""
    model, raised = trained(subject, folder)
    errors = {name: shown(error) for name, error in raised.items()}
    for name in set(DOORS) - set(errors):
        try:
            DOORS[name].save(model, str(folder / name))
        except Exception as error:
            errors[name] = shown(error)
    inputs = subject.batch()[0]
    expected = {**report(model, inputs), "traced": traced(model, inputs)}
    (folder / "expected.pickle").write_bytes(pickle.dumps(expected))
    return errors


def load(subject: Subject, folder: Path, door: str) -> Finding:
    """Return what comes back out of a door."""
    expected = pickle.loads((folder / "expected.pickle").read_bytes())
    inputs = subject.batch()[0]
    keras.backend.clear_session()
    try:
        found = report(DOORS[door].load(str(folder / door), subject), inputs)
    except Exception as error:
        return {"error": shown(error)}
    if DOORS[door].keeps != OUTPUTS:
        return {"lost": lost(expected, found)}
    exact = door == "exported"  # by TensorFlow's own kernels
    return {
        "lost": lost({"outputs": expected["traced"]}, found) if exact else [],
        "off": max(off(*pair) for pair in zip(found["outputs"], expected["outputs"], strict=True)),
    }


def load_all(name: str, variant: str, folder: str, doors: Iterable[str]) -> dict[str, Finding]:
    """Load from each door: in the other process."""
    one = reused(subject(name, variant))
    return {door: load(one, Path(folder), door) for door in doors}


def reused(subject: Subject) -> Subject:
    """Return a subject that makes one model, and gives it all the values that it had at first each time."""

    @functools.cache
    def made(seed: int) -> tuple[keras.Model, list[tuple[keras.Variable, np.ndarray]]]:
        model = subject.make(seed)
        return model, [(variable, np.array(variable)) for variable in all_variables(model)]

    def make_again(seed: int) -> keras.Model:
        model, first = made(seed)
        for variable, value in first:
            variable.assign(value)
        return model

    return Subject(make_again, subject.batch)


def off(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference, relative to the largest number."""
    found, expected = found.astype("float64"), expected.astype("float64")
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def shown(error: Exception) -> str:
    """Return the first words of an error."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:LENGTH]


# --- what is to be said of it ----------------------------------------------------------------------------------------

LIMIT = 4  # so many times the bare model's difference, as hooks compute too, and what is exported adds up otherwise
LEAST = 2e-6  # a difference below that is one of rounding


def verdict(bare: Finding, wrapped: Finding) -> tuple[str, str]:
    """Return "✓", "bare" or "✗", and what there is to be said: "bare" is what the bare model does not get through."""
    if "error" in wrapped:
        same_kind = wrapped["error"].split(":")[0] == bare.get("error", "").split(":")[0]
        return ("bare", bare["error"]) if same_kind else ("✗", wrapped["error"])
    if "error" in bare:
        return "✓", f"the bare model raises {bare['error']}"
    if kept := [name for name in wrapped["lost"] if name not in bare["lost"]]:
        return "✗", f"only wrapped it loses: {', '.join(kept)}"
    if wrapped.get("off", 0) > max(LEAST, LIMIT * bare.get("off", 0)):
        return "✗", f"outputs differ by {wrapped['off']:.1e}, the bare model's by {bare['off']:.1e}"
    return ("bare", f"lost: {', '.join(wrapped['lost'])}") if wrapped["lost"] else ("✓", "")


@pytest.mark.parametrize(
    ("bare", "wrapped", "mark"),
    [
        ({"lost": []}, {"lost": []}, "✓"),
        ({"lost": []}, {"lost": ["weights"]}, "✗"),
        ({"lost": ["optimizer"]}, {"lost": ["optimizer"]}, "bare"),
        ({"lost": ["optimizer"]}, {"lost": ["optimizer", "hooks"]}, "✗"),
        ({"lost": []}, {"error": "ValueError: no"}, "✗"),
        ({"error": "TypeError: no"}, {"error": "ValueError: no"}, "✗"),
        ({"error": "TypeError: no"}, {"error": "TypeError: no"}, "bare"),
        ({"error": "TypeError: no"}, {"lost": []}, "✓"),
        ({"lost": [], "off": 1e-7}, {"lost": [], "off": 1e-6}, "✓"),
        ({"lost": [], "off": 1e-7}, {"lost": [], "off": 1e-3}, "✗"),
        ({"lost": [], "off": 1e-3}, {"lost": [], "off": 1e-3}, "✓"),
    ],
)
def test_only_what_the_bare_model_loses_as_well_is_no_fault(bare: Finding, wrapped: Finding, mark: str) -> None:
    assert verdict(bare, wrapped)[0] == mark


@pytest.mark.parametrize("name", SMALL)
def test_small_models_of_the_zoo_lose_nothing_through_any_door(name: str, tmp_path: Path) -> None:
    one = subject(name, "wrapped")
    assert not save_all(one, tmp_path)
    one = reused(one)
    for door in DOORS:
        finding = load(one, tmp_path, door)
        assert verdict({"lost": []}, finding) == ("✓", ""), door


# --- the table -------------------------------------------------------------------------------------------------------


def section(findings: dict[str, Any]) -> str:
    """Return what stands between the marks in docs/saving.md."""
    rows = [("model", *(door.column for door in DOORS.values())), ("---", *(":---:" for _ in DOORS))]
    notes: dict[str, int] = {}
    for name, specimen in zoo.ZOO.items():
        cells = []
        for door in DOORS:
            mark, text = verdict(*(findings["models"][name][variant][door] for variant in VARIANTS))
            note = f"[^zoo-{notes.setdefault(text, len(notes) + 1)}]" if text else ""
            cells.append({"bare": ""}.get(mark, mark) + note)
        rows.append((specimen.about, *cells))
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    footnotes = "".join(f"[^zoo-{number}]: {_as_code(text)}\n" for text, number in notes.items())
    return f"{_introduction(findings)}\n{table}\n{footnotes}"


def _as_code(text: str) -> str:
    if text.startswith("lost: "):
        return f"Not as it was, of the bare model either: {text.removeprefix('lost: ')}."
    return f"Of the bare model too: `{text.replace('`', '')}{'...' if len(text) == LENGTH else ''}`"


def _introduction(findings: dict[str, Any]) -> str:
    models = findings["models"].values()
    marks = [verdict(*(model[variant][door] for variant in VARIANTS))[0] for model in models for door in DOORS]
    worst = {
        (door, variant): max(model[variant][door].get("off", 0) for model in models)
        for door in DOORS
        for variant in VARIANTS
    }
    return (
        f"Run on {findings['date']} with {findings['versions']}: {len(marks)} pairs of a model and a door. "
        f"{marks.count('✓')} ✓, {marks.count('bare')} that the bare model does not get through either, as the notes "
        f"say, and {marks.count('✗')} faults. Outputs of a SavedModel are those of the model's graph, to the bit; of "
        f"LiteRT they differ from Keras' by up to {worst['model.tflite', 'wrapped']:.0e} of the largest, those of "
        f"bare models by up to {worst['model.tflite', 'bare']:.0e}.\n"
    )


def _between() -> tuple[str, str, str]:
    before, rest = PAGE.read_text("utf-8").split(BEGIN)
    between, after = rest.split(END)
    return before, between, after


def test_the_document_has_each_model_of_the_zoo_and_no_fault() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in _between()[1].splitlines() if line[:1] == "|"]
    again = "write it anew: python -m tests.integration.test_zoo_formats"
    assert rows[0] == ["model", *(door.column for door in DOORS.values())], again
    assert [row[0] for row in rows[2:]] == [specimen.about for specimen in zoo.ZOO.values()], again
    assert not [row[0] for row in rows if any("✗" in cell for cell in row)]


# --- all of it -------------------------------------------------------------------------------------------------------


def try_model(name: str, other: concurrent.futures.Executor) -> dict[str, dict[str, Finding]]:
    """Send a model, bare and wrapped, through all doors, to another process."""
    found = {}
    for variant in VARIANTS:
        with tempfile.TemporaryDirectory() as folder:
            errors = save_all(subject(name, variant), Path(folder))
            doors = [door for door in DOORS if door not in errors]
            loaded = other.submit(load_all, name, variant, folder, doors).result()
        found[variant] = {**loaded, **{door: {"error": error} for door, error in errors.items()}}
    return found


def versions() -> str:
    """Return what the sweep ran with."""
    packages = {"Keras": "keras", "TensorFlow": "tensorflow", "KerasHub": "keras-hub", "LiteRT": "ai-edge-litert"}
    named = [f"{name} {metadata.version(package)}" for name, package in packages.items()]
    return ", ".join([*named, f"Python {platform.python_version()}"])


def main(names: list[str]) -> int:
    """Try models, those that are not named only if there are no findings yet; return how many faults there are."""
    findings: dict[str, Any] = json.loads(FINDINGS.read_text()) if FINDINGS.exists() else {"models": {}}
    findings |= {"date": date.today().isoformat(), "versions": versions()}
    FINDINGS.parent.mkdir(exist_ok=True)
    models, faults = findings["models"], 0
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as other:  # a fresh process, one for all models
        for name in names or [name for name in zoo.ZOO if name not in models]:
            start = time.perf_counter()
            models[name] = try_model(name, other)
            FINDINGS.write_text(json.dumps(findings, indent=1))
            print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
            for door in DOORS:
                mark, text = verdict(*(models[name][variant][door] for variant in VARIANTS))
                faults += mark == "✗"
                if text:
                    print(f"  {mark} {door}: {text}", flush=True)
    if set(models) == set(zoo.ZOO):
        before, _, after = _between()
        PAGE.write_text(f"{before}{BEGIN}{section(findings)}{END}{after}", "utf-8")
    return faults


if __name__ == "__main__":
    from tests.integration import test_zoo_formats  # whose functions the other process finds by this name

    sys.exit(test_zoo_formats.main(sys.argv[1:]))
