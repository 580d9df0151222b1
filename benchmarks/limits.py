"""Where the time goes that misses a target: python benchmarks/limits.py [--quick].

Each row is a part that kwrap cannot do without, timed alone, in turns with what the target is measured against.
"""

import gc
import math
import sys
import tracemalloc

import keras
import models
import tensorflow as tf
from measure import interleaved, ratio, table
from models import Nothing

import kwrap

REPEATS = 3 if "--quick" in sys.argv else 15
BATCH = 128
CLONING = "(clone_model + set_weights)"


class Around(keras.layers.Layer):
    """Call another layer, and do nothing else."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def call(self, inputs):
        """Return what the layer gives."""
        return self.layer(inputs)


EXPLAINED = """
- Pruning makes three passes over the weights in every step, each the first row's, however seldom masks are computed: as
  the layer reads them, as their gradient comes back, and as they are stored. In the MLP one pass alone is more than the
  targets of masks every 100 and every 10 steps; in EfficientNetB0, whose images are small beside its weights, the three
  together are more than that of later steps: see "Wrapping, memory, tracing", which has a pass of it.
  Without the first, a weight that was assigned from outside, or an average of weights, would act unpruned; without the
  second, pruned weights have a part in the gradient's norm; without the third, the optimizer's momentum moves them.
- MobileNetV2 0.35 has 53 kernels, of 7,500 weights on average. There it is not passes that cost, but ops: 34 for each
  kernel and a call of a function of some 40, beside the 10,898 of a bare step. So in the CNN: 68 beside 262.
- Under XLA a new mask of the MLP's 5.8 million weights takes nearly as long as its bare step (see there, of four
  million), and so a step with one takes twice as long and the passes besides.
- Steps of a hook that overrides nothing, of several, and of a call hook that passes on have the graph of a bare step,
  op for op: what they are more or less than 1 is what the machine cannot tell, as of a step traced once more.
- Wrapping makes two Keras layers for one and has to find whoever else holds the layer, for which Keras has no record:
  all living objects are looked at, once. Unwrapping is hardly more than that look. The two layers are also most of the
  Python objects: one empty Keras layer for each of MobileNetV2's alone is more than a tenth of its weights.
- A hook that passes an eager call on is a Keras layer around a layer, and one more call in Python.
- Of probes with `ProbeSteps`, a step that measures nothing has the bare step's graph, but for a read of each kernel: it
  takes 1.00 to 1.01 of it. What is left is the one step in ten that measures: by single steps in turn, all of one
  model, 1.21 of the bare one in the CNN and 1.29 in MobileNetV2, so that ten steps are 1.02 and 1.03. A kernel's call
  takes as long as some thousand values, so eight tensors and more are measured by one; each layer by itself it is 1.28
  and 1.41. With 16 and more it is 1.25 in the CNN, where the other core has nothing to do then. Inlined, kernels are as
  good there (1.20), and take twice as long to trace in MobileNetV2 (54 s for 26), and half a gigabyte.
- Without the callback, one step in ten of the CNN measures 16 tensors, by 42 ops for one and 48 for the three that a
  call has seen; the others find ten conditions false. Together that is 1.044 to 1.076 (each ± 0.005 to 0.01) of four to
  eight models beside as many bare ones, in fifteen runs on three days: 1.025 of probes that never measure. MobileNetV2
  0.35 has 155 layers, and 16,000 ops in a step of 105 ms: 1.06 to 1.10, and 1.04 to 1.07 of probes that never measure.
  Both are 40 to 70 µs a layer and step, of a layer that takes less than a millisecond of it; where layers take longer,
  as in the MLP, it is less than 1.05.
- What that is not: the counters (one for all layers: 1.025 of probes that never measure, beside 1.024), the variables
  (one for all that a layer keeps: 1.024), the sample (256 values: 1.056, beside 1.059), that a step's next op changes
  threads (gradients handed on by the condition: 1.037, beside 1.028), what TensorFlow learns of the ops' costs (the
  fifth 500 steps are like the first). A condition is an op of TensorFlow's executor for each tensor that it may look
  at, and for each of its branches: 5 µs where it is false.
- Under XLA it is the order of a step that makes most of the difference: four counters of calls, and nothing else, are
  1.00 to 1.07 of the bare step, by the network; with `--xla_cpu_enable_concurrency_optimized_scheduler=false` 1.01.
"""


def of_steps() -> list[list[str]]:
    """Return the rows of a pruned training step: passes over the weights of the MLP."""
    model = models.mlp()
    weights = models.kernels(model)

    @tf.function
    def scaled():
        return [weight * 2.0 for weight in weights]

    ways = {"bare": models.stepper(model, BATCH, 10), "masked": models.masker(model, 10)}
    ways["scaled"] = lambda: [scaled()[0] for _ in range(10)][-1].numpy()
    times = interleaved(ways, REPEATS)
    count = sum(math.prod(weight.shape) for weight in weights)
    return [
        [f"MLP: one `where(mask, w, 0)` over its {count:,} weights / a bare step", str(ratio(times, "masked", "bare"))],
        ["MLP: one pass that scales them, without a mask / a bare step", str(ratio(times, "scaled", "bare"))],
    ]


def of_wrapping() -> list[list[str]]:
    """Return the rows of wrapping and unwrapping: making layers, and looking for whoever else holds them."""
    model = keras.applications.MobileNetV2(weights=None)
    weights = model.get_weights()
    count = len(kwrap.plan(model, Nothing).entries)
    ways = {
        "clone": lambda: keras.models.clone_model(model).set_weights(weights),
        "layers": lambda: [keras.layers.Layer() for _ in range(2 * count)],
        "objects": lambda: [thing for thing in gc.get_objects() if type(thing) is keras.layers.Dense],
    }
    times = interleaved(ways, REPEATS, freeze=False)
    by_name = {name: str(ratio(times, name, "clone")) for name in ways}
    return [
        [f"MobileNetV2: {2 * count} empty Keras layers, a Wrapper and a hook each / {CLONING}", by_name["layers"]],
        [f"MobileNetV2: a look at the {len(gc.get_objects()):,} objects that live / {CLONING}", by_name["objects"]],
    ]


def of_calls() -> list[str]:
    """Return the row of an eager call: Keras' own way into a layer around another."""
    inputs = keras.ops.ones((32, 16))
    layers = {"dense": keras.layers.Dense(16), "around": Around(keras.layers.Dense(16))}
    ways = {name: lambda layer=layer: [layer(inputs) for _ in range(100)] for name, layer in layers.items()}
    times = interleaved(ways, REPEATS)
    return ["An eager call of a Keras layer that calls a Dense / of the Dense", str(ratio(times, "around", "dense"))]


def of_memory() -> list[str]:
    """Return the row of what two Keras layers take in Python."""
    tracemalloc.start()
    layers = [keras.layers.Layer() for _ in range(200)]
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return ["Python objects of two empty Keras layers, a Wrapper and a hook", f"{2 * taken / len(layers) / 1e3:.1f} kB"]


def main() -> None:
    """Print the table."""
    rows = [*of_steps(), *of_wrapping(), of_calls(), of_memory()]
    print(table(("a part that is there in any case", "measured"), rows), EXPLAINED, sep="")


if __name__ == "__main__":
    main()
