"""Models and hooks that the tests of whole models share, and a record of all that a model is made of."""

import gc
import pickle
import types
from collections import namedtuple
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.models.functional import Functional
from keras.src.ops.node import KerasHistory, Node
from keras.src.utils.tracking import Tracker
from tensorflow.python.trackable.base import TrackableReference

import kwrap
from kwrap._chain import Link
from kwrap._constraint import ConstraintChain

# --- hooks -----------------------------------------------------------------------------------------------------------


@kwrap.hook(layer_type=keras.layers.Layer, name="specimen_idle")
class Idle(kwrap.Hook):
    """Override nothing."""


@kwrap.hook(layer_type=keras.layers.Layer, name="specimen_scale")
def scale(call_next, inputs, *, factor=2.0):
    """Multiply the outputs."""
    return call_next(inputs) * factor


@kwrap.hook(layer_type=keras.layers.Dense, name="specimen_shift")
def shift(call_next, inputs, *, amount=1.0):
    """Add to the outputs."""
    return call_next(inputs) + amount


@kwrap.hook(layer_type=keras.layers.Layer, name="specimen_times")
class Times(kwrap.Hook):
    """Multiply the weights as read."""

    def __init__(self, factor=0.5, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def parametrize(self, target, value):
        return value * self.factor


@kwrap.hook(layer_type=keras.layers.Layer, name="specimen_plus")
class Plus(kwrap.Hook):
    """Add to the weights as read."""

    def parametrize(self, target, value):
        return value + 1.0


@kwrap.hook(layer_type=keras.layers.Layer, name="specimen_non_negative")
class NonNegative(kwrap.Hook):
    """Keep the stored weights at zero or above, and count the updates."""

    def constrain(self, target, value, *, step):
        return keras.ops.relu(value)


@kwrap.hook(layer_type=keras.layers.Layer, name="specimen_mask")
class Mask(kwrap.Hook):
    """Hold the weights at zero that were negative when the hook came."""

    def build(self, layer):
        for target in self.target_weights:
            self.add_state(target, "mask", target.shape, dtype="bool", initializer="ones")

    def initialize(self, layer):
        for target in self.target_weights:
            self.state(target, "mask").assign(target.variable > 0)

    def parametrize(self, target, value):
        return value * keras.ops.cast(self.state(target, "mask"), value.dtype)

    def constrain(self, target, value):
        return self.parametrize(target, value)


@kwrap.hook(layer_type=keras.layers.Dense, name="specimen_adapter")
class Adapter(kwrap.Hook):
    """Freeze the kernel, and train a difference to it."""

    freezes = True

    def build(self, layer):
        (target,) = self.target_weights
        self.delta = self.add_weight(target.shape, initializer="zeros", name="delta")

    def parametrize(self, target, value):
        return value + self.delta


@kwrap.hook(layer_type=keras.layers.Layer, name="specimen_jitter")
class Jitter(kwrap.Hook):
    """Add noise to the outputs in training, and count the calls."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed = keras.random.SeedGenerator(3)

    def build(self, layer):
        self.calls = self.add_weight((), dtype="int32", initializer="zeros", trainable=False, name="calls")

    def call(self, call_next, inputs, *, training):
        outputs = call_next(inputs)
        if training:
            self.calls.assign_add(1)
            outputs = outputs + keras.random.normal(keras.ops.shape(outputs), dtype=outputs.dtype, seed=self.seed)
        return outputs


# --- models ----------------------------------------------------------------------------------------------------------


def sequential() -> keras.Sequential:
    """Return a model of (n, 4) to (n, 3) with state of every kind: moving averages, a seed, a constraint."""
    return keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Dense(5, activation="tanh", kernel_constraint=keras.constraints.MaxNorm(1.0), name="first"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dropout(0.5, seed=1, name="drop"),
            keras.layers.Dense(3, name="last"),
        ],
        name="line",
    )


def branched() -> keras.Model:
    """Return a model with two inputs and outputs, a shared layer, two nested models and operations between layers."""
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    shared = keras.layers.Dense(4, kernel_regularizer="l2", name="shared")
    encoder = keras.Sequential(
        [keras.layers.Input((4,)), keras.layers.Dense(4, name="inner"), keras.layers.Dropout(0.5, seed=2, name="drop")],
        name="encoder",
    )
    start = keras.Input((4,), name="start")
    tower = keras.Model(start, keras.layers.Dense(4, name="inner")(start) * 0.5 + start, name="tower")
    mixed = keras.ops.tanh(shared(left) + shared(right) * 2.0)
    both = keras.layers.Concatenate(name="both")([tower(encoder(mixed)), keras.layers.Identity(name="same")(mixed)])
    outputs = {
        "first": keras.layers.Dense(1, name="first")(both),
        "second": keras.layers.Dense(2, kernel_constraint="non_neg", name="second")(both),
    }
    return keras.Model({"left": left, "right": right}, outputs, name="tree")


def flat(value: Any) -> Iterator[keras.Layer]:
    """Yield the layers in a value, in their order; those of a set, which has none, by name."""
    if isinstance(value, keras.Layer):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from flat(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from flat(item)
    elif isinstance(value, set):
        yield from sorted((item for item in value if isinstance(item, keras.Layer)), key=lambda layer: layer.name)


Steps = namedtuple("Steps", ["one", "two"])

# How a layer may hold two others: its attributes.
WAYS: dict[str, Callable[[keras.Layer, keras.Layer], dict[str, Any]]] = {
    "attributes": lambda one, two: {"one": one, "two": two},
    "list": lambda one, two: {"steps": [one, two]},
    "tuple": lambda one, two: {"steps": (one, two)},
    "named tuple": lambda one, two: {"steps": Steps(one, two)},
    "dict": lambda one, two: {"steps": {"one": one, "two": two}},
    "set": lambda one, two: {"steps": {one, two}},
    "nested": lambda one, two: {"steps": [1, {"a": ("text", [one])}, ({"b": Steps(None, two)},)]},
    "several": lambda one, two: {"steps": [one, two], "last": two, "named": {"two": (two,)}},
}


class Keeper(keras.layers.Layer):
    """Hold two layers in one of `WAYS`, and call one after the other. No `get_config`."""

    def __init__(self, way: Callable[[keras.Layer, keras.Layer], dict[str, Any]], name: str = "keeper"):
        super().__init__(name=name)
        held = way(keras.layers.Dense(4, name="first"), keras.layers.Dense(4, name="second"))
        self.names = tuple(held)
        for attribute, value in held.items():
            setattr(self, attribute, value)

    def steps_of(self) -> list[keras.Layer]:
        """Return the two layers, from where they are held."""
        return unique(layer for name in self.names for layer in flat(getattr(self, name)))

    def build(self, input_shape: Any) -> None:
        for layer in self.steps_of():
            layer.build(input_shape)

    def call(self, inputs: Any) -> Any:
        for layer in self.steps_of():
            inputs = layer(inputs)
        return inputs


def keeping(way: str) -> keras.Model:
    """Return a model of (n, 4) to (n, 2) with a `Keeper` in it."""
    inputs = keras.Input((4,), name="inputs")
    return keras.Model(inputs, keras.layers.Dense(2, name="last")(Keeper(WAYS[way])(inputs)), name="around")


def data(model: keras.Model, count: int = 8) -> tuple[Any, Any]:
    """Return inputs and targets, as the model takes them."""
    generator = np.random.default_rng(0)

    def values(tensor: keras.KerasTensor) -> np.ndarray:
        return generator.normal(size=(count, *tensor.shape[1:])).astype("float32")

    graph = model._functional if isinstance(model, keras.Sequential) else model
    return keras.tree.map_structure(values, (graph._inputs_struct, graph._outputs_struct))


def compiled(model: keras.Model, steps: int = 3, optimizer: Any = None) -> keras.Model:
    """Return the model, compiled with a local loss by output name and trained for some steps."""

    def local_loss(y_true: Any, y_pred: Any) -> Any:
        return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)

    names = model.output_names if len(model.outputs) > 1 else None
    loss = dict.fromkeys(names, local_loss) if names else local_loss
    metrics = {name: ["mae"] for name in names} if names else ["mae"]
    model.compile(optimizer or keras.optimizers.Adam(0.05), loss=loss, metrics=metrics)
    train(model, steps)
    return model


def train(model: keras.Model, steps: int = 3) -> list[float]:
    """Train for some steps; return the losses."""
    inputs, targets = data(model)
    return [float(np.ravel(model.train_on_batch(inputs, targets))[0]) for _ in range(steps)]


def predict(model: keras.Model) -> Any:
    """Return the outputs for `data`, as nested arrays."""
    return keras.tree.map_structure(np.asarray, model(data(model)[0], training=False))


def input_of(model: keras.Model) -> Any:
    """Return the model's input, as `model.input`, which a Sequential model lacks until it is called on one."""
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def keep(path: str, *results: Any) -> None:
    """Write results to a file, for another process."""
    with open(path, "wb") as file:
        pickle.dump(results, file)


def same(one: Any, other: Any) -> bool:
    """Tell whether nested arrays are equal to the bit."""
    one, other = keras.tree.flatten(one), keras.tree.flatten(other)
    return len(one) == len(other) and all(
        np.asarray(a).dtype == np.asarray(b).dtype and np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True)
        for a, b in zip(one, other, strict=True)
    )


def values(variables: Any) -> list[np.ndarray]:
    """Return copies of the values of variables."""
    return [np.array(variable) for variable in variables]


def graph_ops(model: keras.Model) -> int:
    """Return how many ops the graph of the model's call has."""
    function = tf.function(lambda inputs: model(inputs, training=False))
    return len(function.get_concrete_function(data(model)[0]).graph.get_operations())


# --- what a model is made of -----------------------------------------------------------------------------------------

# Caches, that Keras fills and kwrap empties by design.
_CACHES = {"train_function", "test_function", "predict_function", "_jit_compile"}


def snapshot(model: keras.Model) -> dict[str, Any]:
    """Return all that the model is made of: objects by identity, attribute by attribute, and every variable's value.

    Two snapshots are equal if nothing was changed, added, taken away or put in another order in between.
    """
    parts = [*unique(layers_of(model)), *([model.optimizer] if getattr(model, "optimizer", None) else [])]
    return {
        **{f"{part.name}@{id(part)}.{name}": value for part in parts for name, value in _attributes(part).items()},
        "weights": [variable.path for variable in model.weights],
        "trainable": [variable.path for variable in model.trainable_variables],
        "variables": [(v.path, id(v), _dump(v.constraint), v.trainable, v.dtype) for v in all_variables(model)],
        "values": [np.array(variable).tobytes() for variable in all_variables(model)],
        "flags": [layer.trainable for layer in unique(layers_of(model))],
        "config": _config(model),
        "classes": [type(layer) for layer in unique(layers_of(model))],
    }


def layers_of(model: keras.Layer) -> Iterator[keras.Layer]:
    """Yield the model, its layers at any depth, and the graphs that Sequential models keep."""
    yield from model._flatten_layers()
    for layer in model._flatten_layers():
        if isinstance(layer, keras.Sequential) and layer._functional is not None:
            yield layer._functional


def unique(objects: Any) -> list[Any]:
    """Return each object once."""
    return list({id(one): one for one in objects}.values())


def all_variables(model: keras.Model) -> list[keras.Variable]:
    """Return the variables of the model, of its optimizer and of its metrics."""
    optimizer = getattr(model, "optimizer", None)
    return unique([*model.variables, *(optimizer.variables if optimizer is not None else ()), *model.metrics_variables])


def _config(model: keras.Model) -> Any:
    try:
        return keras.saving.serialize_keras_object(model)["config"]
    except NotImplementedError as error:  # a layer without `get_config`
        return type(error)


def _attributes(part: Any) -> dict[str, Any]:
    return {name: _dump(value) for name, value in vars(part).items() if name not in _CACHES}


def _dump(value: Any, depth: int = 0) -> Any:
    """Return containers, nodes and trackers as data, everything else as its identity; sets and dicts unordered."""
    if isinstance(value, str | int | float | bool | type(None)):
        return value
    if depth > 12 or isinstance(value, keras.Layer | keras.Variable | Functional):
        return type(value).__name__, id(value)
    if isinstance(value, dict):
        return {str(_dump(key, depth + 1)): _dump(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [type(value).__name__, *(_dump(item, depth + 1) for item in value)]
    if isinstance(value, set | frozenset):
        return sorted(str(_dump(item, depth + 1)) for item in value)
    if isinstance(value, Node):
        return ["node", id(value), id(value.operation), *(_history(t) for t in (*value.input_tensors, *value.outputs))]
    if isinstance(value, keras.KerasTensor):
        return _history(value)
    if isinstance(value, ConstraintChain):
        return ["chain", id(value.own), *(id(owner) for owner, _ in value.entries)]
    if isinstance(value, Link):
        return ["link", id(value.hook)]
    if isinstance(value, TrackableReference):
        # A tuple cannot change: with other layers in it, it is another one.
        return [value.name, _dump(value.ref, depth + 1) if isinstance(value.ref, tuple) else id(value.ref)]
    if isinstance(value, Tracker):
        return _dump(vars(value), depth + 1)
    return type(value).__name__ if hasattr(value, "__wrapped__") else (type(value).__name__, id(value))


def _history(tensor: keras.KerasTensor) -> Any:
    history: KerasHistory | None = getattr(tensor, "_keras_history", None)
    return id(tensor), history and (id(history.operation), history.node_index, history.tensor_index)


def objects_of_kwrap(root: object) -> list[object]:
    """Return the instances of kwrap's classes, and of Hook classes, that can be reached from an object."""
    found, seen, todo = [], {id(root)}, [root]
    while todo:
        current = todo.pop()
        if type(current).__module__.partition(".")[0] == "kwrap" or isinstance(current, kwrap.Hook | kwrap.Wrapper):
            found.append(current)
        if isinstance(current, types.FunctionType):  # not its globals: a module reaches everything
            references = [*(cell.cell_contents for cell in current.__closure__ or ()), current.__dict__]
        else:
            references = gc.get_referents(current)
        for reference in references:
            if id(reference) not in seen and not isinstance(reference, type | types.ModuleType | types.FrameType):
                seen.add(id(reference))
                todo.append(reference)
    return found
