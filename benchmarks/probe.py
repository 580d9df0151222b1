"""What probes and guards add to a training step: python benchmarks/probe.py [--quick] [--models 6].

Every layer that holds no layers has the hook, or each that has weights, with all that it can watch. Of two equal models
one may be up to a tenth slower, for as long as it lives: so each way is several models, whose times are added; the
more, the surer.
"""

import argparse
from collections.abc import Callable

import models
from measure import TARGETS, interleaved, ratio, table, target

import kwrap
from kwrap_probe import NaNGuard, Probe

STEPS = 10  # in a turn: one of them measures
HOOKS = {
    "statistics every 10 steps": Probe(),
    "statistics every 10 steps of layers with weights": Probe().at(lambda layer, path: bool(layer.weights)),
    "statistics of outputs every 10 steps": Probe("outputs"),
    "statistics in no step": Probe(every=2**30),
    "statistics every step": Probe(every=1),
    "a guard": NaNGuard(),
}
LIMITED, LIMIT = list(HOOKS)[:3], 1.05
# With the size of a batch, the turns in a repeat, whether XLA compiles it, and the hooks.
NETS = {
    "CNN": (models.cnn, 128, 3, (False, True), list(HOOKS)),
    "MLP, 5.8 M weights": (models.mlp, 128, 1, (False, True), list(HOOKS)),
    # XLA compiles MobileNetV2 for minutes on CPUs.
    "MobileNetV2 0.35, 96 x 96, batch 16": (models.mobilenet, 16, 1, (False,), list(HOOKS)[:4]),
}


def several(build: Callable, hook: object, count: int, batch: int, *, jit_compile: bool) -> Callable[[], None]:
    """Return a function that takes steps of several models with a hook or without, one after the other."""
    steppers = []
    for _ in range(count):
        model = build()
        if hook:
            kwrap.wrap_model(model, hook)
        steppers.append(models.stepper(model, batch, STEPS, jit_compile=jit_compile))

    def run() -> None:
        for stepper in steppers:
            stepper()

    return run


def rows(repeats: int, count: int = 2) -> list[list[str]]:
    """Return the rows of all nets, with and without XLA; each way is `count` models."""
    found = []
    for net, (build, batch, turns, compiled, chosen) in NETS.items():
        for jit_compile in compiled:
            runs = {
                name: several(build, HOOKS.get(name), count, batch, jit_compile=jit_compile)
                for name in ("bare", *chosen)
            }
            times = interleaved(runs, repeats, turns)
            for name in chosen:
                what = f"{net}{', XLA' if jit_compile else ''}: step, {name} / bare"
                measured = ratio(times, name, "bare")
                found.append(target(what, measured, LIMIT) if name in LIMITED else [what, "", str(measured), ""])
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repeats")
    parser.add_argument("--models", type=int, default=2, help="so many of each kind")
    options = parser.parse_args()
    print(table(TARGETS, rows(3 if options.quick else 5, options.models)))


if __name__ == "__main__":
    main()
