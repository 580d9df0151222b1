"""What probes and guards add to a training step: python benchmarks/probe.py [--quick] [--models 6].

Every layer that holds no layers has the hook, with all that it can watch. A step with it is beside the step that the
same model takes without; each way is several models, and so as many ratios in each repeat.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

import keras
import models
from measure import TARGETS, paired, table, target

import kwrap
from kwrap_probe import NaNGuard, Probe, ProbeSteps

STEPS = 10  # of which one measures
LIMIT = 1.05


class Way(NamedTuple):
    """A hook or rule, whether the callback ProbeSteps is there, and whether the target is of it."""

    hook: object
    by_step: bool = False
    limited: bool = False


class Net(NamedTuple):
    """A net, the size of a batch, turns of STEPS, with and without XLA, so many models, repeats, and the ways."""

    build: Callable[[], keras.Model]
    batch: int
    turns: int
    compiled: tuple[bool, ...]
    count: int
    repeats: int
    ways: dict[str, Way]


LIMITED = {
    "statistics every 10 steps, ProbeSteps": Way(Probe(), by_step=True, limited=True),
    "statistics every 10 steps": Way(Probe(), limited=True),
}
WAYS = LIMITED | {
    "statistics of outputs every 10 steps": Way(Probe("outputs"), limited=True),
    "statistics every step": Way(Probe(every=1)),
    "a guard": Way(NaNGuard()),
}
# A turn takes less than a tenth of a second, or what else the machine does falls on one turn alone.
NETS = {
    "CNN": Net(models.cnn, 128, 1, (False, True), 6, 25, WAYS),
    "MLP, 5.8 M weights": Net(models.mlp, 128, STEPS, (False, True), 3, 15, WAYS),
    # A model is a gigabyte, and takes most of a minute to trace; XLA compiles it for minutes on CPUs.
    "MobileNetV2 0.35, 96 x 96, batch 16": Net(models.mobilenet, 16, STEPS, (False,), 2, 40, LIMITED),
}


def steppers(way: Way, net: Net, *, jit_compile: bool) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return functions that take steps of a model of their own, without the hook and with it."""

    def change(model: keras.Model) -> None:
        kwrap.wrap_model(model, way.hook)
        if way.by_step:
            callback = ProbeSteps()
            callback.set_model(model)
            callback.on_epoch_begin(0)

    without, with_it = models.steppers(net.build(), change, net.batch, STEPS // net.turns, jit_compile=jit_compile)
    with_it()  # the first step measures, and is another graph than the next: all are traced before one is timed
    return without, with_it


def rows(repeats: int | None = None, count: int | None = None) -> list[list[str]]:
    """Return the rows of all nets, with and without XLA; each way is `count` models, or as many as the net has."""
    found = []
    for name, net in NETS.items():
        for jit_compile in net.compiled:
            for what, way in net.ways.items():
                pairs = [steppers(way, net, jit_compile=jit_compile) for _ in range(count or net.count)]
                measured = paired(pairs, repeats or net.repeats, net.turns)
                title = f"{name}{', XLA' if jit_compile else ''}: step, {what} / without"
                found.append(target(title, measured, LIMIT) if way.limited else [title, "", str(measured), ""])
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repeats, and one model of each kind")
    parser.add_argument("--models", type=int, help="so many of each kind")
    options = parser.parse_args()
    print(table(TARGETS, rows(3, options.models or 1) if options.quick else rows(None, options.models)))


if __name__ == "__main__":
    main()
