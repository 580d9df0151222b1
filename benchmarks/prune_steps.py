"""What pruning adds to a training step, by how often masks are computed: python benchmarks/prune_steps.py [--quick].

prune_steps_tfmot.py measures the same of tensorflow-model-optimization, beside its own plain models.
"""

import argparse

import models
from measure import interleaved, ratio, table

import kwrap
from kwrap_prune import PolynomialDecay, Prune

NETS = {
    "CNN (12 filters), batch 128": (models.cnn, 128, {10: 1.03}),
    "MLP 784-2048-2048-10, batch 128": (models.mlp, 128, {100: 1.03, 10: 1.06, 1: 1.8}),
    "MobileNetV2 0.35, 96 x 96, batch 16": (models.mobilenet, 16, {10: 1.03}),
}
EVERY = (100, 10, 1)
STEPS = 10  # in a turn
NEVER_ENDS = 10**6  # so that masks are computed as often in the last step as in the first


def times_of(build, size: int, rounds: int, jit_compile: bool, chosen) -> dict[str, list[float]]:
    """Return the seconds a step: bare, and with masks every so many steps, of which each repeat has one at least."""
    built = {"bare": build()} | {str(every): build() for every in chosen}
    for every in chosen:
        schedule = PolynomialDecay(0.5, 0.9, begin_step=0, end_step=NEVER_ENDS, frequency=every)
        kwrap.wrap_model(built[str(every)], Prune(schedule))
    runs = {name: models.stepper(model, size, STEPS, jit_compile=jit_compile) for name, model in built.items()}
    turns = max(chosen) // STEPS
    times = interleaved(runs, rounds // turns, turns)
    return {name: [taken / (STEPS * turns) for taken in times[name]] for name in times}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two repeats, without MobileNetV2")
    quick = parser.parse_args().quick
    rows = []
    for net, (build, size, targets) in NETS.items():
        if quick and build is models.mobilenet:
            continue
        # XLA compiles MobileNetV2 for minutes on CPUs.
        for jit_compile in (False,) if build is models.mobilenet else (False, True):
            # A repeat is as long as the rarest mask: the rarest once, where a step is short enough.
            chosen = EVERY[1:2] if build is models.mobilenet else EVERY[1:] if jit_compile else EVERY
            rounds = 20 if quick else 40 if max(chosen) > 10 else 15 if jit_compile else 20
            times = times_of(build, size, rounds, jit_compile, chosen)
            bare = 1e3 * sorted(times["bare"])[len(times["bare"]) // 2]
            cells = []
            for every in EVERY:
                if every not in chosen:
                    cells.append("")
                    continue
                measured = ratio(times, str(every), "bare")
                met = "" if every not in targets else ", met" if measured <= targets[every] else ", **not met**"
                cells.append(f"{measured}" + (f"; ≤ {targets[every]}{met}" if met else ""))
            rows.append([net, "yes" if jit_compile else "no", f"{bare:.1f}", *cells])
    print(table(("pruned / bare", "XLA", "bare, ms", *(f"masks every {n}" for n in EVERY)), rows))


if __name__ == "__main__":
    main()
