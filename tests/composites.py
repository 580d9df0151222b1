"""Models whose layers sit in composite layers and in classes of one's own, for tests of whole models.

A module of its own, without kwrap: a process that loads their files imports it, as a user's own module.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

registered: Callable[[type], type] = keras.saving.register_keras_serializable("composites")


def _dense(units: int, name: str) -> keras.layers.Dense:
    return keras.layers.Dense(units, activation="tanh", name=name)


@registered
class Block(keras.layers.Layer):
    """A composite: attention in an attribute, dense layers in a list, a Sequential model in a dict."""

    def __init__(self, units=3, rate=0.0, **kwargs):
        super().__init__(**kwargs)
        self.units, self.rate = units, rate
        self.attention = keras.layers.MultiHeadAttention(2, 2, dropout=rate, name="attention")
        self.steps = [_dense(units, "up"), _dense(4, "down")]
        self.parts = {"line": keras.Sequential([_dense(4, "inner"), keras.layers.Dropout(rate, seed=1)], name="line")}

    def build(self, shape):
        self.attention.build(shape, shape)
        for step in self.steps:
            step.build(shape)
            shape = step.compute_output_shape(shape)
        self.parts["line"].build(shape)

    def call(self, inputs, training=None):
        hidden = inputs + self.attention(inputs, inputs, training=training)
        for step in self.steps:
            hidden = step(hidden)
        return self.parts["line"](hidden, training=training)

    def get_config(self):
        return {**super().get_config(), "units": self.units, "rate": self.rate}


@registered
class Pair(keras.layers.Layer):
    """A composite that is given what it holds, and keeps it in a tuple."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.both = tuple(inner)

    def build(self, shape):
        for layer in self.both:
            if not layer.built:  # those that come from a config are
                layer.build(shape)

    def call(self, inputs):
        return self.both[0](inputs) + self.both[1](inputs)

    def get_config(self):
        inner = [keras.saving.serialize_keras_object(layer) for layer in self.both]
        return {**super().get_config(), "inner": inner}

    @classmethod
    def from_config(cls, config):
        inner = [keras.saving.deserialize_keras_object(layer) for layer in config.pop("inner")]
        return cls(inner, **config)


@registered
class Tagger(keras.Model):
    """A subclassed model: layers in attributes, a list, a dict and a tuple, and a method and a property of its own."""

    def __init__(self, units=3, rate=0.0, **kwargs):
        super().__init__(**kwargs)
        self.units, self.rate = units, rate
        self.embed = _dense(4, "embed")
        self.blocks = [Block(units, rate, name=f"block_{index}") for index in range(2)]
        self.by_name = {"both": keras.layers.Bidirectional(keras.layers.LSTM(2, return_sequences=True), name="both")}
        self.heads = (keras.layers.TimeDistributed(_dense(3, "each"), name="apart"), keras.layers.Dense(2, name="head"))

    def call(self, inputs, training=None):
        hidden = self.embed(inputs)
        for block in self.blocks:
            hidden = block(hidden, training=training)
        for head in (self.by_name["both"], *self.heads):
            hidden = head(hidden)
        return hidden

    @property
    def depth(self):
        """How many blocks there are."""
        return len(self.blocks)

    def get_config(self):
        return {"name": self.name, "units": self.units, "rate": self.rate}


@registered
class DeepTagger(Tagger):
    """A subclass whose methods go on to those of its parent, and which trains by a step of its own."""

    def call(self, inputs, training=None):
        return super().call(inputs, training=training) * 2.0

    def train_step(self, data):
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True), weight)
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"loss": loss}


@registered
class Tower(keras.Model):
    """A subclass of Functional that holds layers beside its graph."""

    def __init__(self, units=3, **kwargs):
        inputs = keras.Input((5, 4), name="inputs")
        self.body = Block(units, name="body")
        self.last = keras.layers.Dense(2, name="last")
        super().__init__(inputs, self.last(self.body(inputs)), **kwargs)
        self.units = units
        self.beside = keras.Sequential([keras.Input((5, 2)), _dense(2, "corrected")], name="beside")

    def corrected(self, inputs):
        """Return the outputs, as the layers beside the graph correct them."""
        return self.beside(self(inputs))

    def get_config(self):
        return {"name": self.name, "units": self.units}


@registered
class Twin(keras.Model):
    """A subclassed model around models of other kinds."""

    def __init__(self, left, right, **kwargs):
        super().__init__(**kwargs)
        self.left, self.right = left, right

    def call(self, inputs):
        return self.left(inputs) + self.right(inputs)

    def get_config(self):
        return {
            "name": self.name,
            "left": keras.saving.serialize_keras_object(self.left),
            "right": keras.saving.serialize_keras_object(self.right),
        }

    @classmethod
    def from_config(cls, config):
        left, right = (keras.saving.deserialize_keras_object(config.pop(side)) for side in ("left", "right"))
        return cls(left, right, **config)


class Unconfigured(keras.Model):
    """A subclassed model that does not say how to make it again."""

    def __init__(self, units):
        super().__init__(name="unconfigured")
        self.block, self.head = Block(units, name="block"), keras.layers.Dense(2, name="head")

    def call(self, inputs):
        return self.head(self.block(inputs))


# --- one of each -----------------------------------------------------------------------------------------------------


@registered
class Gan(keras.Model):
    """Two models in one of its own training: no `call`, two optimizers, a `compile` of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.maker = keras.Sequential([keras.Input((2,)), _dense(4, "hidden"), _dense(3, "image")], name="maker")
        self.judge = keras.Sequential([keras.Input((3,)), _dense(4, "hidden"), _dense(1, "verdict")], name="judge")

    def compile(self, maker_optimizer, judge_optimizer):
        super().compile()
        self.maker_optimizer, self.judge_optimizer = maker_optimizer, judge_optimizer

    def train_step(self, real):
        noise = keras.random.normal((tf.shape(real)[0], 2), seed=1)
        with tf.GradientTape() as tape:
            loss = keras.ops.mean(self.judge(self.maker(noise))) - keras.ops.mean(self.judge(real))
        variables = self.judge.trainable_variables
        self.judge_optimizer.apply(tape.gradient(loss, variables), variables)
        with tf.GradientTape() as tape:
            made = -keras.ops.mean(self.judge(self.maker(noise)))
        variables = self.maker.trainable_variables
        self.maker_optimizer.apply(tape.gradient(made, variables), variables)
        return {"loss": loss}


def gan() -> Gan:
    """Return a Gan, compiled and trained for a step on images of shape (3,)."""
    model = Gan(name="gan")
    model.compile(keras.optimizers.SGD(0.1), keras.optimizers.SGD(0.1))
    model.fit(np.ones((4, 3), "float32"), verbose=0)
    return model


def in_graph() -> keras.Model:
    """Return a Functional model around composites; one of them holds another."""
    inputs = keras.Input((5, 4), name="inputs")
    hidden = Pair([Block(name="left"), _dense(4, "right")], name="pair")(Block(name="block")(inputs))
    return keras.Model(inputs, keras.layers.Dense(2, name="last")(hidden), name="in_graph")


def tagger(rate: float = 0.0) -> keras.Model:
    """Return a subclassed model."""
    return _called(Tagger(rate=rate, name="tagger"))


def deep_tagger() -> keras.Model:
    """Return a subclassed model with its own train_step."""
    return _called(DeepTagger(name="deep_tagger"))


def tower() -> keras.Model:
    """Return a Functional subclass with layers beside its graph."""
    return Tower(name="tower")


def class_in_graph() -> keras.Model:
    """Return a Functional model around a subclassed one and a Functional subclass."""
    inputs = keras.Input((5, 4), name="inputs")
    hidden = keras.layers.Concatenate(name="join")([Tagger(name="tagger")(inputs), Tower(name="tower")(inputs)])
    return keras.Model(inputs, keras.layers.Dense(2, name="last")(hidden), name="class_in_graph")


def graph_in_class() -> keras.Model:
    """Return a subclassed model around a Functional one and a Sequential one, which hold composites."""
    line = keras.Sequential([keras.Input((5, 4)), Block(name="block"), keras.layers.Dense(2, name="last")], name="line")
    return _called(Twin(in_graph(), line, name="twin"))


def unconfigured() -> keras.Model:
    """Return a small subclassed model, which cannot be made again."""
    return _called(Unconfigured(3))


MODELS = {make.__name__: make for make in (in_graph, tagger, deep_tagger, tower, class_in_graph, graph_in_class)}


def _called(model: keras.Model) -> keras.Model:
    model(inputs())
    return model


def inputs(count: int = 4) -> np.ndarray:
    """Return inputs, as all of these models take them."""
    return np.random.default_rng(0).normal(size=(count, 5, 4)).astype("float32")


def targets(count: int = 4) -> np.ndarray:
    """Return targets, as all of these models take them."""
    return np.random.default_rng(1).normal(size=(count, 5, 2)).astype("float32")


def compiled(model: keras.Model, **options: Any) -> keras.Model:
    """Return the model, compiled; without XLA, unless asked for it, whose compiling takes longest here."""
    model.compile(keras.optimizers.Adam(0.02), loss="mse", **{"jit_compile": False, **options})
    return model


def train(model: keras.Model, steps: int = 3) -> list[float]:
    """Train for some steps; return the losses."""
    return [float(np.ravel(model.train_on_batch(inputs(), targets()))[0]) for _ in range(steps)]


def outputs(model: keras.Model) -> np.ndarray:
    """Return what the model gives at inference."""
    return np.asarray(model(inputs(), training=False))
