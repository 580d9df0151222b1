"""What probes and guards add to a training step: python benchmarks/probe.py [--quick] [--models 6].

Every layer that holds no layers has the hook, with all that it can watch. Of two equal models one may be up to a tenth
slower, for as long as it lives: so each way is several models, whose times are added; the more, the surer.
"""

import argparse
from collections.abc import Callable

import models
from measure import TARGETS, interleaved, ratio, table, target

import kwrap
from kwrap_probe import NaNGuard, Probe

NETS = {"CNN": (models.cnn, 3), "MLP, 5.8 M weights": (models.mlp, 1)}  # turns in a repeat
STEPS = 10  # in a turn: one of them measures
BATCH = 128
HOOKS = {
    "bare": [],
    "statistics every 10 steps": [Probe()],
    "statistics of outputs every 10 steps": [Probe("outputs")],
    "statistics every step": [Probe(every=1)],
    "a guard": [NaNGuard()],
}
LIMITS = {"statistics every 10 steps": 1.05, "statistics of outputs every 10 steps": 1.05}


def several(build: Callable, hooks: list, count: int, *, jit_compile: bool) -> Callable[[], None]:
    """Return a function that takes steps of several models with these hooks, one after the other."""
    steppers = []
    for _ in range(count):
        model = build()
        if hooks:
            kwrap.wrap_model(model, hooks)
        steppers.append(models.stepper(model, BATCH, STEPS, jit_compile=jit_compile))

    def run() -> None:
        for stepper in steppers:
            stepper()

    return run


def rows(repeats: int, count: int = 2) -> list[list[str]]:
    """Return the rows of all nets, with and without XLA; each way is `count` models."""
    found = []
    for net, (build, turns) in NETS.items():
        for jit_compile in (False, True):
            runs = {name: several(build, hooks, count, jit_compile=jit_compile) for name, hooks in HOOKS.items()}
            times = interleaved(runs, repeats, turns)
            for name in list(HOOKS)[1:]:
                what = f"{net}{', XLA' if jit_compile else ''}: step, {name} / bare"
                measured = ratio(times, name, "bare")
                limit = LIMITS.get(name)
                found.append(target(what, measured, limit) if limit else [what, "", str(measured), ""])
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
