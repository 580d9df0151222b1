"""What hooks add to a training step, and leave behind when taken off: python benchmarks/steps.py [--quick]."""

import argparse
from collections.abc import Callable

import keras
import models
from measure import TARGETS, Ratio, interleaved, ratio, table, target
from models import Nothing, pass_on

import kwrap
from kwrap_noise import WeightNoise
from kwrap_prune import ConstantSparsity, Prune

PRUNE = ConstantSparsity(0.5, begin_step=0)  # masks once, on wrapping
NETS = {"CNN": (models.cnn, 10), "MLP, 5.8 M weights": (models.mlp, 2)}  # steps in a turn
BATCH = 128
TURNS = 5


def ways(build, steps: int, hooks: dict[str, list]) -> tuple[dict, dict]:
    """Return models with these hooks, and their steppers; the first is bare."""
    built = {name: build() for name in hooks}
    for name, model in built.items():
        if hooks[name]:
            kwrap.wrap_model(model, hooks[name])
    return built, {name: models.stepper(model, BATCH, steps) for name, model in built.items()}


def ops(model: keras.Model) -> int:
    """Return how many ops the graph of a training step has."""
    data = next(iter(models.batches(model, BATCH)))
    return len(models.step_graph(model, data).get_operations())


def of_hooks(repeats: int) -> list[list[str]]:
    """Return the rows of hooks that do nothing, pass on, and two that do something."""
    rows = []
    noise = WeightNoise(0.01)
    hooks = {"bare": [], "bare again": [], "nothing": [Nothing()], "pass on": [pass_on()]}
    hooks |= {"prune": [Prune(PRUNE)], "noise": [noise], "both": [Prune(PRUNE), noise]}
    for net, (build, steps) in NETS.items():
        built, runs = ways(build, steps, hooks)
        counts = ops(built["nothing"]), ops(built["bare"])
        rows.append(equality(f"{net}: ops of the step, a hook that overrides nothing / bare", *counts))
        times = interleaved(runs, repeats, TURNS)
        again = str(ratio(times, "bare again", "bare"))
        rows.append([f"{net}: step, another bare model / bare: what this machine can tell", "", again, ""])
        rows.append(target(f"{net}: step, a hook that overrides nothing / bare", ratio(times, "nothing", "bare"), 1.01))
        rows.append(target(f"{net}: step, a call hook that passes on / bare", ratio(times, "pass on", "bare"), 1.02))
        # The sum of their own costs is prune + noise - bare: as times, since costs near zero make ratios of anything.
        names = ("both", "prune", "noise", "bare")
        quarters = zip(*(times[name] for name in names), strict=True)
        both = Ratio(together / (prune + noise - bare) for together, prune, noise, bare in quarters)
        rows.append(target(f"{net}: step, prune and noise / bare and what each adds", both, 1))
    return rows


def equality(what: str, one: object, other: object, form: Callable[[object], object] = str) -> list[str]:
    """Return the row of what is to be equal."""
    return [what, "equal", f"{form(one)} / {form(other)}", "yes" if one == other else "**no**"]


def of_many(repeats: int) -> list[list[str]]:
    """Return the rows of 1, 2, 4 and 8 hooks a layer."""
    counts = (1, 2, 4, 8)
    hooks = {"bare": []} | {str(n): [Nothing(name=f"nothing_{i}") for i in range(n)] for n in counts}
    _, runs = ways(models.cnn, 10, hooks)
    times = interleaved(runs, repeats, TURNS)
    what = "CNN: step, {} hooks that override nothing / bare"
    return [target(what.format(n), ratio(times, str(n), "bare"), 1.01) for n in counts]


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
