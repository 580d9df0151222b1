"""What wrapping a whole model takes: python benchmarks/wrapping.py [--quick]. size.py tells how it grows."""

import gc
import sys
import time
import tracemalloc

import keras
import models
from measure import TARGETS, Ratio, interleaved, ratios, table, target
from models import Nothing

import kwrap
from kwrap_prune import PolynomialDecay, Prune

QUICK = "--quick" in sys.argv


def mobilenet() -> keras.Model:
    """Return MobileNetV2 in its usual size."""
    return keras.applications.MobileNetV2(weights=None)


def of_time(repeats: int) -> list[list[str]]:
    """Return the rows of wrapping and unwrapping beside Keras' way to a changed model."""
    model = mobilenet()
    shares: dict[str, list[float]] = {"wrap": [], "unwrap": []}
    weights = model.get_weights()
    for _ in range(repeats + 1):
        cloning = seconds(lambda: keras.models.clone_model(model).set_weights(weights))
        shares["wrap"].append(seconds(lambda: kwrap.wrap_model(model, Nothing)) / cloning)
        shares["unwrap"].append(seconds(lambda: kwrap.unwrap_model(model)) / cloning)
    return [
        target("MobileNetV2: wrapping / (clone_model + set_weights)", Ratio(shares["wrap"][1:]), 0.3),
        target("MobileNetV2: unwrapping / (clone_model + set_weights)", Ratio(shares["unwrap"][1:]), 0.1),
    ]


def seconds(function) -> float:
    """Return how long a call takes; what was made before is no garbage of its."""
    gc.collect()
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def of_memory() -> list[list[str]]:
    """Return the rows of what wrapping adds to the weights, and to Python's memory beside what a Keras layer takes."""
    model = mobilenet()
    size = sum(weight.nbytes for weight in model.get_weights())
    tracemalloc.start()
    kwrap.wrap_model(model, Nothing)
    gc.collect()
    wrapped, _ = tracemalloc.get_traced_memory()
    layers = [keras.layers.Layer() for _ in range(100)]
    bare = (tracemalloc.get_traced_memory()[0] - wrapped) / len(layers)
    tracemalloc.stop()
    added = sum(weight.nbytes for weight in model.get_weights()) / size - 1
    each = wrapped / len(kwrap.find_hooks(model, "nothing"))
    objects = f"{each / 1e3:.1f} kB; an empty Keras layer: {bare / 1e3:.1f} kB"
    return [
        target("MobileNetV2: weights added by wrapping / weights", added, 0.01),
        target("MobileNetV2: Python objects added by wrapping / weights", round(wrapped / size, 3), 0.01),
        ["MobileNetV2: Python objects of each wrapped layer", "", objects, ""],
    ]


def of_tracing(repeats: int) -> list[list[str]]:
    """Return the rows of the first step and later ones, EfficientNetB0 with pruning on every kernel."""
    first: list[float] = []
    later: list[float] = []
    passes: list[float] = []
    for _ in range(repeats):
        built = {"bare": efficientnet(), "pruned": efficientnet()}
        schedule = PolynomialDecay(0.0, 0.5, begin_step=0, end_step=10**6, frequency=100)
        kwrap.wrap_model(built["pruned"], Prune(schedule))
        runs, took = {}, {}
        for name, model in built.items():
            start = time.perf_counter()
            runs[name] = models.stepper(model, 8, 2 if QUICK else 5, jit_compile=False)
            took[name] = time.perf_counter() - start
        first.append(took["pruned"] / took["bare"])
        runs["pass"] = models.masker(built["bare"], 2 if QUICK else 5)
        times = interleaved(runs, repeats=2 if QUICK else 5)
        later += ratios(times, "pruned", "bare")
        passes += ratios(times, "pass", "bare")
    return [
        target("EfficientNetB0, prune on every kernel / bare: first step", Ratio(first), 1.3),
        target("EfficientNetB0, prune on every kernel / bare: later steps", Ratio(later), 1.05),
        ["EfficientNetB0: one `where(mask, w, 0)` over its kernels / a bare step", "", str(Ratio(passes)), ""],
    ]


def efficientnet() -> keras.Model:
    """Return EfficientNetB0 with random weights."""
    return keras.applications.EfficientNetB0(
        weights=None, input_shape=(96, 96, 3), classes=models.CLASSES, classifier_activation=None
    )


def main() -> None:
    """Print the table."""
    rows = [*of_time(2 if QUICK else 5), *of_memory()]
    print(table(TARGETS, [*rows, *of_tracing(1 if QUICK else 2)]))


if __name__ == "__main__":
    main()
