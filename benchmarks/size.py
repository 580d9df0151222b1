"""How long planning, wrapping and unwrapping take: beside `keras.models.clone_model`, and as a model grows.

python benchmarks/size.py [--quick], with kwrap and kwrap-prune installed.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator

import keras
from measure import environment, table
from models import Nothing, pass_on

import kwrap
from kwrap_prune import Prune

HOOKS = {"a hook that overrides nothing": Nothing, "a call hook that passes on": pass_on, "kwrap-prune": Prune}
ACTS = ("plan", "wrap", "unwrap")


class Block(keras.layers.Layer):
    """Call the layers of a list, one after the other."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.parts = [keras.layers.Dense(2) for _ in range(count)]

    def call(self, inputs):
        """Return what the last one makes of what the others make of `inputs`."""
        for part in self.parts:
            inputs = part(inputs)
        return inputs


class Stack(keras.Model):
    """A subclassed model of blocks."""

    def __init__(self, blocks: int, count: int) -> None:
        super().__init__()
        self.blocks = [Block(count) for _ in range(blocks)]

    def call(self, inputs):
        """Return what the last block makes of what the others make of `inputs`."""
        for block in self.blocks:
            inputs = block(inputs)
        return inputs


def branches(count: int, length: int = 50) -> keras.Model:
    """Return a Functional model of `count` layers, in chains of `length`: one long chain breaks Keras itself."""
    inputs = keras.Input((2,))
    outputs = []
    for start in range(0, count, length):
        branch = inputs
        for _ in range(start, min(start + length, count)):
            branch = keras.layers.Dense(2)(branch)
        outputs.append(branch)
    return keras.Model(inputs, outputs)


def stack(count: int, blocks: int = 50) -> keras.Model:
    """Return a subclassed model of `count` layers in the lists of composite layers."""
    model = Stack(blocks, count // blocks)
    model(keras.ops.ones((1, 2)))
    return model


def seconds(function: Callable[[], object]) -> float:
    """Return how long a call takes; what was made before is no garbage of its."""
    gc.collect()
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def timed(model: keras.Model, hook: type[kwrap.Hook]) -> dict[str, float]:
    """Return the seconds of each act on a model without hooks, which has none afterwards; `wrap` plans, too."""
    return {
        "plan": seconds(lambda: kwrap.plan(model, hook)),
        "wrap": seconds(lambda: kwrap.wrap_model(model, hook)),
        "unwrap": seconds(lambda: kwrap.unwrap_model(model)),
    }


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each measure over the rounds."""
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


def beside_clone_model(count: int, repeats: int) -> Iterator[str]:
    """Yield a table of times as parts of what `keras.models.clone_model` takes, measured in turns with it."""
    model = branches(count)
    shares: dict[str, list[dict[str, float]]] = {name: [] for name in HOOKS}
    clones = []
    for _ in range(repeats):
        for name, hook in HOOKS.items():
            clones.append(seconds(lambda: keras.models.clone_model(model)))
            shares[name].append({act: taken / clones[-1] for act, taken in timed(model, hook).items()})
    median = statistics.median(clones)
    yield f"A Functional model of {count} Dense layers, as parts of keras.models.clone_model ({median:.2f} s)\n"
    yield table(["hook", *ACTS], [[name, *row(medians(those), "{:.3f}")] for name, those in shares.items()])


def growth(models: dict[str, tuple[int, Callable[[], keras.Model]]], repeats: int) -> Iterator[str]:
    """Yield a table of times a layer, of models of several sizes, with a hook that overrides nothing."""
    rows = []
    for name, (count, make) in models.items():
        model = make()
        taken = medians([timed(model, Nothing) for _ in range(repeats if count <= 1000 else 1)])
        rows.append([name, *row({act: 1e6 * value / count for act, value in taken.items()}, "{:.0f}")])
    yield "Microseconds a layer, with a hook that overrides nothing\n"
    yield table(["model", *ACTS], rows)


def row(values: dict[str, float], form: str) -> list[str]:
    """Return the cells of the acts."""
    return [form.format(values[act]) for act in ACTS]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="at most 1000 layers, once each")
    quick = parser.parse_args().quick
    repeats, most = (1, 1000) if quick else (3, 5000)
    for hook in HOOKS.values():
        timed(branches(1), hook)  # the first time loads plugins and traces kernels
    print(f"{environment('kwrap', 'keras', 'tensorflow')}; medians of {repeats}, but for the largest model\n")
    print(*beside_clone_model(1000, repeats), sep="\n", end="\n\n")
    models = {
        f"Functional, {count} layers": (count, lambda count=count: branches(count))
        for count in (10, 100, 1000, 5000)
        if count <= most
    }
    models["subclassed, 1000 layers in lists of 50 layers"] = 1000, lambda: stack(1000)
    print(*growth(models, repeats), sep="\n")


if __name__ == "__main__":
    main()
