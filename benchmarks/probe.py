"""What probes and guards add to a training step: python benchmarks/probe.py [--quick].

Every layer that holds no layers has the hook, with all that it can watch.
"""

import argparse

import models
from measure import TARGETS, interleaved, ratio, table, target

import kwrap
from kwrap_probe import NaNGuard, Probe

NETS = {"CNN": (models.cnn, 5), "MLP, 5.8 M weights": (models.mlp, 1)}  # turns in a repeat
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


def rows(repeats: int) -> list[list[str]]:
    """Return the rows of all nets, with and without XLA."""
    found = []
    for net, (build, turns) in NETS.items():
        for jit_compile in (False, True):
            runs = {}
            for name, hooks in HOOKS.items():
                model = build()
                if hooks:
                    kwrap.wrap_model(model, hooks)
                runs[name] = models.stepper(model, BATCH, STEPS, jit_compile=jit_compile)
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
    print(table(TARGETS, rows(3 if parser.parse_args().quick else 5)))


if __name__ == "__main__":
    main()
