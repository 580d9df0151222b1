"""What hooks add to a training step, and leave behind when taken off: python benchmarks/steps.py [--quick]."""

import argparse
from collections.abc import Callable

import keras
import models
from measure import TARGETS, Ratio, interleaved, paired, ratio, table, target
from models import Nothing, pass_on

import kwrap
from kwrap_noise import WeightNoise
from kwrap_prune import ConstantSparsity, Prune

PRUNE = ConstantSparsity(0.5, begin_step=0)  # masks once, on wrapping
NETS = {"CNN": (models.cnn, 10), "MLP, 5.8 M weights": (models.mlp, 2)}  # steps in a turn
BATCH = 128
TURNS = 5
MODELS = 3  # of which each takes steps with hooks and without


def changed(net: str, change: Callable[[keras.Model], object], repeats: int) -> Ratio:
    """Return how long steps of a changed model take in relation to those of the same model before."""
    build, steps = NETS[net]
    return paired([models.steppers(build(), change, BATCH, steps) for _ in range(MODELS)], repeats * TURNS)


def hooked(net: str, hooks: list, repeats: int) -> Ratio:
    """Return how long steps with hooks take in relation to those without."""
    return changed(net, lambda model: kwrap.wrap_model(model, hooks), repeats)


def ops(model: keras.Model) -> int:
    """Return how many ops the graph of a training step has."""
    models.stepper(model, BATCH, 1)  # compiles it
    data = next(iter(models.batches(model, BATCH)))
    return len(models.step_graph(model, data).get_operations())


def of_hooks(repeats: int) -> list[list[str]]:
    """Return the rows of hooks that do nothing, pass on, and two that do something."""
    rows = []
    for net, (build, _) in NETS.items():
        counts = ops(kwrap.wrap_model(build(), Nothing())), ops(build())
        rows.append(equality(f"{net}: ops of the step, a hook that overrides nothing / without", *counts))
        again = str(changed(net, lambda model: model.make_train_function(force=True), repeats))
        rows.append([f"{net}: step, traced once more / before: what this machine can tell", "", again, ""])
        nothing, passing = hooked(net, [Nothing()], repeats), hooked(net, [pass_on()], repeats)
        rows.append(target(f"{net}: step, a hook that overrides nothing / without", nothing, 1.01))
        rows.append(target(f"{net}: step, a call hook that passes on / without", passing, 1.02))
        rows.append(target(f"{net}: step, prune and noise / bare and what each adds", of_two(net, repeats), 1))
    return rows


def of_two(net: str, repeats: int) -> Ratio:
    """Return how long steps with pruning and noise take in relation to bare ones and what each adds alone."""
    build, steps = NETS[net]
    noise = WeightNoise(0.01)
    ways = {"bare": [], "prune": [Prune(PRUNE)], "noise": [noise], "both": [Prune(PRUNE), noise]}
    built = {name: kwrap.wrap_model(build(), hooks) if hooks else build() for name, hooks in ways.items()}
    times = interleaved({name: models.stepper(each, BATCH, steps) for name, each in built.items()}, repeats, TURNS)
    # The sum of their own costs is prune + noise - bare: as times, since costs near zero make ratios of anything.
    quarters = zip(*(times[name] for name in ("both", "prune", "noise", "bare")), strict=True)
    return Ratio(together / (prune + noise - bare) for together, prune, noise, bare in quarters)


def equality(what: str, one: object, other: object, form: Callable[[object], object] = str) -> list[str]:
    """Return the row of what is to be equal."""
    return [what, "equal", f"{form(one)} / {form(other)}", "yes" if one == other else "**no**"]


def of_many(repeats: int) -> list[list[str]]:
    """Return the rows of 1, 2, 4 and 8 hooks a layer."""
    rows = []
    for count in (1, 2, 4, 8):
        measured = hooked("CNN", [Nothing(name=f"nothing_{i}") for i in range(count)], repeats)
        rows.append(target(f"CNN: step, {count} hooks that override nothing / without", measured, 1.01))
    return rows


def of_unwrapped(repeats: int) -> list[list[str]]:
    """Return the rows of `predict` after unwrapping."""
    built = {"bare": models.cnn(), "unwrapped": models.cnn()}
    inputs = models.batches(built["bare"], 512).take(20).map(lambda images, labels: images).cache()
    kwrap.unwrap_model(kwrap.wrap_model(built["unwrapped"], [Prune(PRUNE), pass_on()]))
    runs = {name: lambda model=model: model.predict(inputs, verbose=0) for name, model in built.items()}
    times = interleaved(runs, repeats)
    graphs = [models.call_graph(model).as_graph_def().node for model in built.values()]
    bare, unwrapped = ([node.op for node in graph] for graph in graphs)
    return [
        target("CNN: predict after unwrapping / bare", ratio(times, "unwrapped", "bare"), 1.01),
        equality("CNN: ops of predict after unwrapping / bare", unwrapped, bare, len),
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repeats")
    repeats = 3 if parser.parse_args().quick else 9
    print(table(TARGETS, [*of_hooks(repeats), *of_many(repeats), *of_unwrapped(repeats)]))


if __name__ == "__main__":
    main()
