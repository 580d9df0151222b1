"""What the benchmarks measure: models of several sizes, random data in the shapes of real, hooks that do nothing."""

from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

import kwrap

__all__ = [
    "CLASSES",
    "Nothing",
    "batches",
    "call_graph",
    "cnn",
    "kernels",
    "masker",
    "mlp",
    "mobilenet",
    "pass_on",
    "step_graph",
    "stepper",
    "steppers",
]

CLASSES = 10


@kwrap.hook(layer_type=keras.layers.Layer)
class Nothing(kwrap.Hook):
    """Override nothing."""


@kwrap.hook(layer_type=keras.layers.Layer)
def pass_on(call_next, inputs):
    """Call the layer."""
    return call_next(inputs)


def cnn() -> keras.Model:
    """Return a network of one convolution of 12 filters, for images of 28 x 28."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(12, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(CLASSES),
        ]
    )


def mlp() -> keras.Model:
    """Return a network of 5.8 million weights in three dense layers."""
    return keras.Sequential(
        [
            keras.Input((784,)),
            keras.layers.Dense(2048, activation="relu"),
            keras.layers.Dense(2048, activation="relu"),
            keras.layers.Dense(CLASSES),
        ]
    )


def mobilenet() -> keras.Model:
    """Return MobileNetV2 with 0.35 of its width, for images of 96 x 96, with random weights."""
    return keras.applications.MobileNetV2(
        (96, 96, 3), alpha=0.35, weights=None, classes=CLASSES, classifier_activation=None
    )


def batches(model: keras.Model, size: int) -> tf.data.Dataset:
    """Return random inputs and labels for ever."""
    generator = np.random.default_rng(0)
    inputs = generator.random((size * 4, *model.input_shape[1:]), "float32")
    labels = generator.integers(CLASSES, size=size * 4)
    return tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(size).cache().repeat()


def stepper(model: keras.Model, size: int, steps: int, *, jit_compile: bool | str = "auto") -> Callable[[], None]:
    """Return a function that takes `steps` steps with Adam, as `fit` does, by the model's own compiled step."""
    return _taker(model, _compiled(model, size, jit_compile), steps)


def steppers(
    model: keras.Model,
    change: Callable[[keras.Model], object],
    size: int,
    steps: int,
    *,
    jit_compile: bool | str = "auto",
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return two functions that take steps, as `stepper` does: of a model as it is, and as `change` has made it.

    Both are of the same weights, optimizer and data. Of two models that are equal one may be up to a tenth slower, for
    as long as it lives, as it has other places in memory.
    """
    data = _compiled(model, size, jit_compile)
    before = _taker(model, data, steps)
    change(model)
    return before, _taker(model, data, steps)


def _compiled(model: keras.Model, size: int, jit_compile: bool | str) -> Iterator:
    """Compile a model, have its step traced, and return its data."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(), loss, jit_compile=jit_compile)
    data = batches(model, size)
    model.fit(data, steps_per_epoch=2, verbose=0)
    return iter(data)


def _taker(model: keras.Model, data: Iterator, steps: int) -> Callable[[], None]:
    """Return a function that takes steps by the train function that a model has now."""
    function = model.train_function

    def run() -> None:
        for _ in range(steps):
            logs = function(data)
        float(logs["loss"])  # all steps are done when the last one's loss is there

    return run


def kernels(model: keras.Model) -> list[tf.Tensor]:
    """Return the values of the weights that are pruned where nothing else is asked for."""
    return [variable.value for variable in model.trainable_variables if len(variable.shape) > 1]


def masker(model: keras.Model, times: int) -> Callable[[], None]:
    """Return a function that makes so many passes over the model's kernels, each one `where(mask, w, 0)`."""
    weights = kernels(model)
    masks = [tf.random.uniform(weight.shape) < 0.5 for weight in weights]

    @tf.function
    def masked() -> list[tf.Tensor]:
        return [tf.where(mask, weight, 0.0) for mask, weight in zip(masks, weights, strict=True)]

    return lambda: [masked()[0] for _ in range(times)][-1].numpy()


def step_graph(model: keras.Model, data: tuple) -> tf.Graph:
    """Return the graph of a training step."""
    return tf.function(lambda *batch: model.train_step(batch)).get_concrete_function(*data).graph


def call_graph(model: keras.Model) -> tf.Graph:
    """Return the graph of a call."""
    spec = tf.TensorSpec((None, *model.input_shape[1:]))
    return tf.function(lambda inputs: model(inputs, training=False)).get_concrete_function(spec).graph
