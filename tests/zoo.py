"""The test zoo: a tiny instance, with random weights, of every kind of Keras model that kwrap is to work on.

`ZOO` holds the specimens by name, so that `pytest.mark.parametrize("name", zoo.ZOO)` runs a test on each of them.
`build(name)` returns one, compiled and ready; built twice with one seed, a specimen has the same weights to the bit.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.applications import convnext, densenet, efficientnet
from keras.src.applications import resnet as resnet_family

from kwrap import _keras

COUNT = 4  # how many samples a batch has
CLASSES = 4

Batch = tuple[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Specimen:
    """One model of the zoo.

    Attributes:
        name: its name in `ZOO`.
        make: returns the model, compiled; `build` seeds it and calls it once if it is built by that alone.
        batch: returns (inputs, targets), the same ones each time; the targets are None where the loss needs none.
        about: what it is in the zoo for.
        family: its part of the table in docs/zoo.md.
    """

    name: str
    make: Callable[[], keras.Model]
    batch: Callable[[], Batch]
    about: str
    family: str


ZOO: dict[str, Specimen] = {}


def build(name: str, seed: int = 0) -> keras.Model:
    """Return the specimen of that name: built, compiled, not trained; its optimizer is built, too."""
    _keras.seed_past_tensorflow(seed)
    specimen = ZOO[name]
    model = specimen.make()
    if not all(layer.built for layer in model._flatten_layers()):
        model(specimen.batch()[0], training=False)
    model.optimizer.build(model.trainable_variables)
    return model


def train(model: keras.Model, name: str, steps: int = 3) -> list[float]:
    """Train the specimen of that name for some steps; return the losses."""
    _keras.seed_past_tensorflow(0)  # ConvNeXt's stochastic depth draws from Keras' global generator
    batch = ZOO[name].batch()
    return [float(model.train_on_batch(*batch, return_dict=True)["loss"]) for _ in range(steps)]


def _specimen(batch: Callable[[], Batch], about: str, *, family: str) -> Callable[..., Any]:
    """Enter the decorated function into the zoo, under its own name."""

    def enter(make: Callable[[], keras.Model]) -> Callable[[], keras.Model]:
        name = make.__name__
        ZOO[name] = Specimen(name=name, make=make, batch=batch, about=about, family=family)
        return make

    return enter


def _compiled(model: keras.Model, loss: Any = "mse", optimizer: Any = None, **options: Any) -> keras.Model:
    # Without XLA, which Keras would take by itself: compiling it is most of the time that such a small model takes.
    model.compile(optimizer or keras.optimizers.Adam(0.01), loss=loss, jit_compile=False, **options)
    return model


def _sgd() -> keras.Optimizer:
    """Return an optimizer of few ops, for the larger models: tracing it is much of the time that they take."""
    return keras.optimizers.SGD(0.001)


# --- data ------------------------------------------------------------------------------------------------------------


def _floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(COUNT, *shape)).astype("float32")


def _integers(*shape: int, below: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(below, size=(COUNT, *shape)).astype("int32")


def _labels() -> np.ndarray:
    return _integers(below=CLASSES, seed=1)


def _rows() -> Batch:
    return _floats(6), _floats(3, seed=1)


def _series() -> Batch:
    return _floats(5, 6), _floats(5, 3, seed=1)


def _images(size: int) -> Callable[[], Batch]:
    return lambda: (_floats(size, size, 3), _labels())


# --- sublayers, wherever a layer holds them --------------------------------------------------------------------------

_LAYERS = "Layers that hold layers"


def _dense(units: int, name: str) -> keras.layers.Dense:
    return keras.layers.Dense(units, activation="tanh", name=name)


def _around(layer: keras.Layer, shape: tuple[int, ...] = (6,)) -> keras.Model:
    """Return a model of `shape` to (..., 3) with `layer` in its middle."""
    inputs = keras.Input(shape, name="inputs")
    return _compiled(keras.Model(inputs, keras.layers.Dense(3, name="last")(layer(inputs)), name="around"))


class _Line(keras.layers.Layer):
    """Calls the layers that it holds, one after the other."""

    def parts(self) -> Iterator[keras.Layer]:
        raise NotImplementedError

    def build(self, input_shape):
        for part in self.parts():
            part.build(input_shape)
            input_shape = part.compute_output_shape(input_shape)

    def compute_output_shape(self, input_shape):
        for part in self.parts():
            input_shape = part.compute_output_shape(input_shape)
        return input_shape

    def call(self, inputs):
        for part in self.parts():
            inputs = part(inputs)
        return inputs


@keras.saving.register_keras_serializable("zoo")
class InAttributes(_Line):
    """Holds each layer in an attribute."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = _dense(5, "first"), _dense(4, "second")

    def parts(self):
        yield from (self.first, self.second)


@keras.saving.register_keras_serializable("zoo")
class InList(_Line):
    """Holds its layers in a list, and one of them in an attribute besides."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [_dense(5, "first"), _dense(4, "second")]
        self.head = self.blocks[-1]

    def parts(self):
        yield from self.blocks


@keras.saving.register_keras_serializable("zoo")
class InTuple(_Line):
    """Holds its layers in a tuple."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.blocks = (_dense(5, "first"), _dense(4, "second"))

    def parts(self):
        yield from self.blocks


@keras.saving.register_keras_serializable("zoo")
class InDict(_Line):
    """Holds its layers in a dict."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.blocks = {"one": _dense(5, "first"), "two": _dense(4, "second")}

    def parts(self):
        yield from self.blocks.values()


@keras.saving.register_keras_serializable("zoo")
class InNested(_Line):
    """Holds its layers in lists, tuples and dicts within each other, and layers that hold layers among them."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.blocks = {"left": [_dense(5, "first"), (InList(name="inner"), _dense(4, "second"))], "right": {}}
        self.blocks["right"]["deep"] = [_dense(4, "third")]

    def parts(self):
        first, (inner, second) = self.blocks["left"]
        yield from (first, inner, second, self.blocks["right"]["deep"][0])


class Unconfigured(_Line):
    """Is given its layers, and does not say how to make it again: it has no `get_config`."""

    def __init__(self, blocks, scale, **kwargs):
        super().__init__(**kwargs)
        self.blocks = list(blocks)
        self.scale = self.add_weight((), initializer="ones", name="scale")  # a weight that nobody taught kwrap
        self.rescale = scale

    def parts(self):
        yield from self.blocks

    def call(self, inputs):
        return super().call(inputs) * self.scale + self.rescale


@_specimen(_rows, "sublayers held as attributes", family=_LAYERS)
def in_attributes() -> keras.Model:
    return _around(InAttributes(name="block"))


@_specimen(_rows, "sublayers held in a list, one of them in an attribute too", family=_LAYERS)
def in_list() -> keras.Model:
    return _around(InList(name="block"))


@_specimen(_rows, "sublayers held in a tuple", family=_LAYERS)
def in_tuple() -> keras.Model:
    return _around(InTuple(name="block"))


@_specimen(_rows, "sublayers held in a dict", family=_LAYERS)
def in_dict() -> keras.Model:
    return _around(InDict(name="block"))


@_specimen(_rows, "sublayers held in nested containers, and composites within composites", family=_LAYERS)
def in_nested() -> keras.Model:
    return _around(InNested(name="block"))


@_specimen(_rows, "a custom layer without `get_config`, with a weight of its own", family=_LAYERS)
def without_config() -> keras.Model:
    return _around(Unconfigured([_dense(5, "first"), _dense(4, "second")], scale=np.float32(0.5), name="block"))


@keras.saving.register_keras_serializable("zoo")
class HoldsSequential(keras.layers.Layer):
    """Holds a Sequential model."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        normalized = keras.layers.BatchNormalization(name="norm")
        self.line = keras.Sequential(
            [_dense(5, "first"), normalized, keras.layers.Dropout(0.5, name="drop"), _dense(4, "second")], name="line"
        )

    def build(self, input_shape):
        self.line.build(input_shape)

    def call(self, inputs, training=None):
        return self.line(inputs, training=training)


@_specimen(_rows, "`keras.Sequential` inside a layer", family=_LAYERS)
def sequential_inside() -> keras.Model:
    return _around(HoldsSequential(name="block"))


@_specimen(_series, "`MultiHeadAttention` with dropout and a mask", family=_LAYERS)
def multi_head_attention() -> keras.Model:
    inputs = keras.Input((5, 6), name="inputs")
    attention = keras.layers.MultiHeadAttention(2, 4, dropout=0.25, name="attention")
    hidden = attention(inputs, inputs, use_causal_mask=True)
    return _compiled(keras.Model(inputs, keras.layers.Dense(3, name="last")(hidden + inputs), name="attending"))


@_specimen(_series, "`GroupQueryAttention`", family=_LAYERS)
def group_query_attention() -> keras.Model:
    inputs = keras.Input((5, 6), name="inputs")
    attention = keras.layers.GroupQueryAttention(4, num_query_heads=4, num_key_value_heads=2, name="attention")
    hidden = attention(inputs, inputs)
    return _compiled(keras.Model(inputs, keras.layers.Dense(3, name="last")(hidden + inputs), name="attending"))


@_specimen(_series, "`TimeDistributed`", family=_LAYERS)
def time_distributed() -> keras.Model:
    return _around(keras.layers.TimeDistributed(_dense(4, "step"), name="each"), (5, 6))


@_specimen(_series, "`Bidirectional` recurrent layers, whose cells stay", family=_LAYERS)
def bidirectional() -> keras.Model:
    inputs = keras.Input((5, 6), name="inputs")
    hidden = keras.layers.Masking(name="masking")(inputs)
    hidden = keras.layers.Bidirectional(keras.layers.LSTM(3, return_sequences=True), name="there_and_back")(hidden)
    hidden = keras.layers.Bidirectional(
        keras.layers.GRU(4, return_sequences=True), merge_mode="sum", name="there_and_back_again"
    )(hidden)
    return _compiled(
        keras.Model(inputs, keras.layers.Dense(3, name="last")(hidden), name="both_ways"), optimizer=_sgd()
    )


@_specimen(_images(8), "`SpectralNormalization`, which assigns its layer's kernel", family=_LAYERS)
def spectral_normalization() -> keras.Model:
    return _compiled(
        keras.Sequential(
            [
                keras.Input((8, 8, 3), name="inputs"),
                keras.layers.SpectralNormalization(keras.layers.Conv2D(4, 3, name="conv"), name="limited"),
                keras.layers.Flatten(name="flatten"),
                keras.layers.SpectralNormalization(keras.layers.Dense(CLASSES, name="dense"), name="limited_too"),
            ],
            name="spectral",
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )


# --- models that are classes -----------------------------------------------------------------------------------------

_CLASSES = "Models of a class of their own"


@keras.saving.register_keras_serializable("zoo")
class OwnTrainStep(keras.Model):
    """A subclassed model with its own `train_step`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = [_dense(5, "first"), _dense(4, "second")]
        self.norm = keras.layers.BatchNormalization(name="norm")
        self.drop = keras.layers.Dropout(0.25, name="drop")
        self.last = keras.layers.Dense(3, name="last")

    def call(self, inputs, training=None):
        for layer in self.hidden:
            inputs = layer(inputs)
        return self.last(self.drop(self.norm(inputs, training=training), training=training))

    def train_step(self, data):
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True)) + 0.01 * keras.ops.sum(self.last.kernel**2)
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


@_specimen(_rows, "a subclassed model with its own `train_step`", family=_CLASSES)
def subclassed() -> keras.Model:
    return _compiled(OwnTrainStep(name="subclassed"))


@keras.saving.register_keras_serializable("zoo")
class Classifier(keras.Model):
    """A subclass of Functional: its `__init__` makes a graph of the layers that it keeps as attributes."""

    def __init__(self, units=5, **kwargs):
        inputs = keras.Input((6,), name="inputs")
        self.body = _dense(units, "body")
        self.head = keras.layers.Dense(3, name="head")
        super().__init__(inputs, self.head(self.body(inputs) * 2.0), **kwargs)
        self.units = units

    def get_config(self):
        return {"units": self.units, "name": self.name}


@_specimen(_rows, "a subclass of Functional, as KerasHub's backbones are", family=_CLASSES)
def functional_subclass() -> keras.Model:
    return _compiled(Classifier(name="classifier"))


@keras.saving.register_keras_serializable("zoo")
class Sampling(keras.layers.Layer):
    """Draws from the normal distribution of a mean and a log variance; in inference it is the mean."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed = keras.random.SeedGenerator(5)

    def call(self, inputs, training=None):
        mean, log_variance = inputs
        if not training:
            return mean
        return mean + keras.ops.exp(0.5 * log_variance) * keras.random.normal(keras.ops.shape(mean), seed=self.seed)


@keras.saving.register_keras_serializable("zoo")
class VAE(keras.Model):
    """A variational autoencoder with its own `train_step` and metrics."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        inputs = keras.Input((8, 8, 1), name="image")
        hidden = keras.layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", name="conv")(inputs)
        hidden = keras.layers.Flatten(name="flatten")(hidden)
        code = [keras.layers.Dense(2, name=name)(hidden) for name in ("mean", "log_variance")]
        self.encoder = keras.Model(inputs, [*code, Sampling(name="sampling")(code)], name="encoder")
        self.decoder = keras.Sequential(
            [
                keras.Input((2,), name="code"),
                keras.layers.Dense(64, activation="relu", name="widen"),
                keras.layers.Reshape((4, 4, 4), name="fold"),
                keras.layers.Conv2DTranspose(1, 3, strides=2, padding="same", name="unfold"),
            ],
            name="decoder",
        )
        self.tracker = keras.metrics.Mean(name="loss")

    @property
    def metrics(self):
        return [self.tracker]

    def call(self, inputs, training=None):
        return self.decoder(self.encoder(inputs, training=training)[2], training=training)

    def train_step(self, data):
        images, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            mean, log_variance, code = self.encoder(images, training=True)
            error = keras.ops.mean(keras.ops.square(images - self.decoder(code, training=True)))
            divergence = keras.ops.mean(keras.ops.square(mean) + keras.ops.exp(log_variance) - 1 - log_variance)
            loss = error + 0.01 * divergence
        variables = self.trainable_weights
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        self.tracker.update_state(loss)
        return {"loss": self.tracker.result()}


@_specimen(lambda: (_floats(8, 8, 1), None), "a VAE with its own `train_step`", family=_CLASSES)
def vae() -> keras.Model:
    model = VAE(name="vae")
    model.compile(keras.optimizers.Adam(0.01), jit_compile=False)
    return model


# --- graphs ----------------------------------------------------------------------------------------------------------

_GRAPHS = "Graphs"


@_specimen(_images(8), "a plain Sequential model, with XLA", family=_GRAPHS)
def sequential() -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3), name="inputs"),
            keras.layers.Conv2D(4, 3, kernel_constraint=keras.constraints.MaxNorm(1.0), name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.ReLU(name="relu"),
            keras.layers.SeparableConv2D(4, 3, name="separable"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dropout(0.25, name="drop"),
            keras.layers.Dense(CLASSES, kernel_regularizer="l2", activation="softmax", name="last"),
        ],
        name="sequential",
    )
    model.compile(keras.optimizers.Adam(0.01), loss="sparse_categorical_crossentropy", jit_compile=True)
    return model


@_specimen(
    lambda: ({"left": _floats(6), "right": _floats(6, seed=2)}, _floats(1, seed=1)),
    "a Siamese network with a shared tower",
    family=_GRAPHS,
)
def siamese() -> keras.Model:
    tower = keras.Sequential([keras.Input((6,)), _dense(5, "first"), _dense(4, "second")], name="tower")
    left, right = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    distance = keras.ops.absolute(tower(left) - tower(right))
    outputs = keras.layers.Dense(1, name="closeness")(distance)
    return _compiled(keras.Model({"left": left, "right": right}, outputs, name="siamese"))


@_specimen(lambda: (_floats(8, 8, 3), _floats(8, 8, 2, seed=1)), "a U-Net", family=_GRAPHS)
def unet() -> keras.Model:
    inputs = keras.Input((8, 8, 3), name="image")
    hidden, skips = inputs, []
    for depth, filters in enumerate((4, 6)):
        hidden = keras.layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"down_{depth}")(hidden)
        hidden = keras.layers.BatchNormalization(name=f"norm_{depth}")(hidden)
        skips.append(hidden)
        hidden = keras.layers.MaxPooling2D(name=f"pool_{depth}")(hidden)
    hidden = keras.layers.DepthwiseConv2D(3, padding="same", name="middle")(hidden)
    for depth, filters in reversed(list(enumerate((4, 6)))):
        hidden = keras.layers.Conv2DTranspose(filters, 3, strides=2, padding="same", name=f"up_{depth}")(hidden)
        hidden = keras.layers.Concatenate(name=f"skip_{depth}")([hidden, skips[depth]])
        hidden = keras.layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"smooth_{depth}")(hidden)
    return _compiled(keras.Model(inputs, keras.layers.Conv2D(2, 1, name="map")(hidden), name="unet"))


@_specimen(
    lambda: ({"source": _integers(5, below=9), "target": _integers(4, below=9, seed=2)}, _integers(4, below=9, seed=1)),
    "a sequence-to-sequence LSTM with initial states",
    family=_GRAPHS,
)
def sequence_to_sequence() -> keras.Model:
    source, target = keras.Input((5,), name="source"), keras.Input((4,), name="target")
    words = keras.layers.Embedding(9, 4, mask_zero=True, name="words")  # shared by both sides
    _, *states = keras.layers.LSTM(4, return_state=True, name="encoder")(words(source))
    decoder = keras.layers.LSTM(4, return_sequences=True, name="decoder")
    hidden = decoder(words(target), initial_state=states)
    outputs = keras.layers.Dense(9, activation="softmax", name="next")(hidden)
    model = keras.Model({"source": source, "target": target}, outputs, name="sequence_to_sequence")
    return _compiled(model, "sparse_categorical_crossentropy")


def _columns() -> Batch:
    inputs = {"image": _floats(8, 8, 3), "numbers": _floats(6), "word": _integers(1, below=9)}
    return inputs, {"label": _labels(), "price": _floats(1, seed=1)}


@_specimen(_columns, "several inputs and outputs, with losses in a dict", family=_GRAPHS)
def several_inputs_and_outputs() -> keras.Model:
    image, numbers = keras.Input((8, 8, 3), name="image"), keras.Input((6,), name="numbers")
    word = keras.Input((1,), dtype="int32", name="word")
    parts = [
        keras.layers.Flatten(name="flat_image")(keras.layers.Conv2D(3, 3, strides=2, name="conv")(image)),
        _dense(4, "wide")(numbers),
        keras.layers.Flatten(name="flat_word")(keras.layers.Embedding(9, 4, name="words")(word)),
    ]
    hidden = _dense(5, "joined")(keras.layers.Concatenate(name="join")(parts))
    outputs = {
        "label": keras.layers.Dense(CLASSES, activation="softmax", name="label")(hidden),
        "price": keras.layers.Dense(1, name="price")(hidden),
    }
    model = keras.Model({"image": image, "numbers": numbers, "word": word}, outputs, name="several")
    losses = {"label": "sparse_categorical_crossentropy", "price": "mse"}
    return _compiled(model, losses, loss_weights={"label": 1.0, "price": 0.5}, metrics={"price": ["mae"]})


@_specimen(_images(32), "a frozen `keras.applications` model behind an augmentation pipeline", family=_GRAPHS)
def frozen_behind_augmentation() -> keras.Model:
    augmentation = keras.Sequential(
        [keras.layers.RandomFlip(seed=1, name="flip"), keras.layers.RandomContrast(0.2, (-3, 3), seed=2, name="light")],
        name="augmentation",
    )
    base = keras.applications.MobileNet(
        input_shape=(32, 32, 3), alpha=0.25, include_top=False, pooling="avg", weights=None, name="base"
    )
    base.trainable = False
    inputs = keras.Input((32, 32, 3), name="image")
    features = base(augmentation(inputs), training=False)
    outputs = keras.layers.Dense(CLASSES, activation="softmax", name="label")(features)
    return _compiled(keras.Model(inputs, outputs, name="frozen"), "sparse_categorical_crossentropy")


# --- precision -------------------------------------------------------------------------------------------------------

_PRECISION = "Precision"


@contextmanager
def _policy(name: str) -> Iterator[None]:
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(previous)


def _small_convolutional(name: str) -> keras.Model:
    inputs = keras.Input((8, 8, 3), name="image")
    hidden = keras.layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    hidden = keras.layers.BatchNormalization(name="norm")(hidden)
    hidden = keras.layers.Flatten(name="flatten")(hidden)
    hidden = _dense(5, "dense")(hidden)
    outputs = keras.layers.Dense(CLASSES, activation="softmax", dtype="float32", name="last")(hidden)
    return keras.Model(inputs, outputs, name=name)


@_specimen(_images(8), "mixed float16, with loss scaling", family=_PRECISION)
def mixed_float16() -> keras.Model:
    with _policy("mixed_float16"):
        return _compiled(_small_convolutional("mixed_float16"), "sparse_categorical_crossentropy")


@_specimen(_images(8), "mixed bfloat16", family=_PRECISION)
def mixed_bfloat16() -> keras.Model:
    with _policy("mixed_bfloat16"):
        return _compiled(_small_convolutional("mixed_bfloat16"), "sparse_categorical_crossentropy")


@_specimen(_images(8), "quantized to int8, whose integer kernels are no targets", family=_PRECISION)
def int8() -> keras.Model:
    model = _small_convolutional("int8")
    model.quantize("int8", filters=lambda layer: isinstance(layer, keras.layers.Dense))  # quiet about the others
    return _compiled(model, "sparse_categorical_crossentropy")


# --- keras.applications ----------------------------------------------------------------------------------------------


def _application(name: str, family: Callable[..., keras.Model], size: int, **options: Any) -> None:
    """Enter a small model of the family into the zoo, with a head on its features."""

    def make() -> keras.Model:
        base = family(input_shape=(size, size, 3), include_top=False, pooling="avg", weights=None, **options)
        outputs = keras.layers.Dense(CLASSES, activation="softmax", name="label")(base.output)
        model = keras.Model(base.input, outputs, name=name.lower())
        return _compiled(model, "sparse_categorical_crossentropy", _sgd())

    make.__name__ = name
    _specimen(_images(size), name, family="`keras.applications`")(make)


def _two_stacks(inputs: keras.KerasTensor) -> keras.KerasTensor:
    hidden = resnet_family.stack_residual_blocks_v2(inputs, 4, 2, name="conv2")
    return resnet_family.stack_residual_blocks_v2(hidden, 8, 2, stride1=1, name="conv3")


# MobileNetV2 is as deep as it comes; where a family's smallest is large, one of fewer and narrower blocks.
_application("MobileNet", keras.applications.MobileNet, 32, alpha=0.25)
_application("MobileNetV2", keras.applications.MobileNetV2, 32, alpha=0.35)
_application("MobileNetV3", keras.applications.MobileNetV3Small, 32, alpha=0.75)
_application(
    "EfficientNet", efficientnet.EfficientNet, 32, width_coefficient=0.2, depth_coefficient=0.2, default_size=32
)
_application("ResNetV2", resnet_family.ResNet, 32, stack_fn=_two_stacks, preact=True, use_bias=True)
_application("DenseNet", densenet.DenseNet, 32, blocks=[2, 2, 2, 2])
_application("VGG16", keras.applications.VGG16, 32)
_application("ConvNeXt", convnext.ConvNeXt, 32, depths=[1, 1, 2, 1], projection_dims=[8, 8, 12, 16], drop_path_rate=0.1)


# --- KerasHub --------------------------------------------------------------------------------------------------------

_HUB = "KerasHub"
_WORDS = 12


def _text(length: int = 6, **more: np.ndarray) -> dict[str, np.ndarray]:
    padding = np.ones((COUNT, length), "int32")
    padding[0, -2:] = 0
    return {"token_ids": _integers(length, below=_WORDS), "padding_mask": padding, **more}


def _next_words() -> np.ndarray:
    return _integers(6, below=_WORDS, seed=1)


def _crossentropy() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@_specimen(
    lambda: (_text(segment_ids=np.zeros((COUNT, 6), "int32")), _labels()),
    "`BertTextClassifier`, with its backbone nested",
    family=_HUB,
)
def bert() -> keras.Model:
    from keras_hub import models

    backbone = models.BertBackbone(
        vocabulary_size=_WORDS, num_layers=2, num_heads=2, hidden_dim=8, intermediate_dim=12, max_sequence_length=6
    )
    return _compiled(models.BertTextClassifier(backbone, CLASSES), _crossentropy(), _sgd())


@_specimen(lambda: (_text(), _next_words()), "`GPT2CausalLM`, whose embedding is its last layer too", family=_HUB)
def gpt2() -> keras.Model:
    from keras_hub import models

    backbone = models.GPT2Backbone(
        vocabulary_size=_WORDS, num_layers=2, num_heads=2, hidden_dim=8, intermediate_dim=12, max_sequence_length=6
    )
    return _compiled(models.GPT2CausalLM(backbone), _crossentropy(), _sgd(), weighted_metrics=["accuracy"])


@_specimen(lambda: (_text(), _floats(6, 8, seed=1)), "`GemmaBackbone`, trained directly", family=_HUB)
def gemma() -> keras.Model:
    from keras_hub import models

    return _compiled(
        models.GemmaBackbone(
            vocabulary_size=_WORDS,
            num_layers=2,
            num_query_heads=2,
            num_key_value_heads=1,
            hidden_dim=8,
            intermediate_dim=12,
            head_dim=4,
        )
    )


@_specimen(_images(8), "`ViTImageClassifier`, with its backbone nested", family=_HUB)
def vit() -> keras.Model:
    from keras_hub import models

    backbone = models.ViTBackbone(
        image_shape=(8, 8, 3), patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=12
    )
    return _compiled(models.ViTImageClassifier(backbone, CLASSES), _crossentropy(), _sgd())


@_specimen(_images(16), "`ResNetBackbone` below a head of one's own", family=_HUB)
def resnet() -> keras.Model:
    from keras_hub import models

    backbone = models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64],
        stackwise_num_blocks=[2],
        stackwise_num_strides=[1],
        block_type="basic_block",
        image_shape=(16, 16, 3),
    )
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(backbone.output)
    outputs = keras.layers.Dense(CLASSES, name="label")(pooled)
    return _compiled(keras.Model(backbone.input, outputs, name="resnet"), _crossentropy())
