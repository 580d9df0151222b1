"""The models whose files are kept. Not to be changed: files of every version are loaded with these classes."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import kwrap
from kwrap_prune import PolynomialDecay, Prune

registered: Callable[[type], type] = keras.saving.register_keras_serializable("kwrap_saved")


@registered
class Block(keras.layers.Layer):
    """A composite: attention, and dense layers in a list."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.attention = keras.layers.MultiHeadAttention(1, 2, name="attention")
        self.steps = [keras.layers.Dense(3, name="up"), keras.layers.Dense(4, name="down")]

    def build(self, shape: Any) -> None:
        self.attention.build(shape, shape)
        self.steps[0].build(shape)
        self.steps[1].build((*shape[:-1], 3))

    def call(self, inputs: Any) -> Any:
        hidden = inputs + self.attention(inputs, inputs)
        for step in self.steps:
            hidden = step(hidden)
        return hidden


@registered
class Tagger(keras.Model):
    """A subclassed model."""

    def __init__(self, units: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.block, self.head = Block(name="block"), keras.layers.Dense(units, name="head")

    def call(self, inputs: Any) -> Any:
        return self.head(self.block(inputs))

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "units": self.units}


@kwrap.hook(layer_type=keras.layers.Layer, name="saved_gain")
class Gain(kwrap.Hook):
    """Multiply what a layer gives by a number that is learned: a user's own hook, of no plugin."""

    def __init__(self, start: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.start = start

    def build(self, layer: keras.Layer) -> None:
        self.gain = self.add_weight((), initializer=keras.initializers.Constant(self.start), name="gain")

    def call(self, call_next: Callable[..., Any], inputs: Any) -> Any:
        return call_next(inputs) * self.gain


def functional() -> keras.Model:
    """Return a graph."""
    inputs = keras.Input((3, 4), name="inputs")
    hidden = keras.layers.Dense(6, activation="tanh", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(2, name="head")(hidden), name="functional")


def composite() -> keras.Model:
    """Return a graph with a composite in it."""
    inputs = keras.Input((3, 4), name="inputs")
    return keras.Model(inputs, keras.layers.Dense(2, name="head")(Block(name="block")(inputs)), name="composite")


def subclassed() -> keras.Model:
    """Return a subclassed model."""
    model = Tagger(name="subclassed")
    model(inputs())
    return model


def inputs() -> Any:
    """Return inputs, as all of these models take them."""
    return np.linspace(-1, 1, 24, dtype="float32").reshape(2, 3, 4)


def make(name: str) -> keras.Model:
    """Return a model with hooks, compiled, before its training."""
    keras.utils.set_random_seed(1)
    model = MODELS[name]()
    prune = Prune(PolynomialDecay(0.25, 0.75, begin_step=0, end_step=4, frequency=2))
    kwrap.wrap_model(model, [prune, kwrap.use("weight_noise", stddev=0.01, seed=3)], where=PLACES[name])
    kwrap.wrap_model(model, Gain(start=1.5), where="head")
    optimizer = keras.optimizers.Adam(0.05) if name == "functional" else keras.optimizers.SGD(0.05)
    model.compile(optimizer, "mse", run_eagerly=True)
    model.optimizer.build(model.trainable_variables)
    return model


PLACES = {name: ["head", "block/attention/query"] for name in ("composite", "subclassed")} | {"functional": "h*"}
MODELS = {"functional": functional, "composite": composite, "subclassed": subclassed}
