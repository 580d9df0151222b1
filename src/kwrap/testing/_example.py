"""Example: a hook, a layer and an input to try it with."""

import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import keras
import numpy as np
import tensorflow as tf

from kwrap import _keras
from kwrap._hook import Hook
from kwrap._model import wrap_model
from kwrap._wrapper import Wrapper
from kwrap.testing._compare import arrays, values

__all__ = ["Example", "as_example"]

_SEED = 7


@final
@dataclass(frozen=True, eq=False)
class Example:
    """A hook with its options, a layer it is for, and an input of that layer.

    Hook and layer are never used themselves: each check makes new ones from their configs, seeded, and moves the
    weights off their initial values (a bias of zeros would hide much). The smaller the layer, the faster the suite.

    Args:
        hook: with as many options off their defaults as go together.
        layer: any Keras layer with a `get_config`, built or not.
        inputs: what the layer takes first: an array, or nested arrays; two or more along the first axis.
        arguments: what it takes besides, by name: arrays or other values.
        skip: the reasons why checks do not apply to this example, by the check's name.
    """

    hook: Hook
    layer: keras.Layer
    inputs: Any
    arguments: Mapping[str, Any] = field(default_factory=dict)
    skip: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.hook, Hook) or not isinstance(self.layer, keras.Layer):
            raise TypeError(
                f"an example is a hook and a layer, both instances, and an input; got {self.hook!r}, {self.layer!r}"
            )
        object.__setattr__(self, "inputs", keras.tree.map_structure(_as_array, self.inputs))
        arguments = {name: _as_array(value) if _is_array(value) else value for name, value in self.arguments.items()}
        object.__setattr__(self, "arguments", arguments)

    def __str__(self) -> str:
        return f"{self.hook.hook_name!r} on {type(self.layer).__name__} {self.layer.name!r}"

    # --- new ones ------------------------------------------------------------------------------------------------

    def new_hook(self, **options: Any) -> Hook:
        """Return a hook of these options, on no layer; `options` replace some."""
        return type(self.hook).from_config({**self.hook.get_config(), **options})

    def new_layer(
        self, kind: type[keras.Layer] | None = None, *, seed: int = _SEED, build: bool = True, **config: Any
    ) -> keras.Layer:
        """Return a built layer of the same config and of weights that `seed` gives; `config` replaces parts of it."""
        self.seed(seed)
        own = {**copy.deepcopy(self.layer.get_config()), **config}
        layer = (kind or type(self.layer)).from_config(own)
        if build:
            layer(self.inputs, **self.arguments)
            _move_weights(layer, seed)
        return layer

    def wrapped(self, *before: Hook, after: Sequence[Hook] = (), layer: keras.Layer | None = None) -> Wrapper:
        """Return a new layer, or `layer`, with the hook, others `before` it and `after` it; ready, not called yet."""
        layer = self.new_layer() if layer is None else layer
        self.seed()
        wrapper = Wrapper(layer, [*before, self.new_hook(), *after])
        wrapper.make_ready()
        return wrapper

    def model(self, layer: keras.Layer | None = None) -> keras.Model:
        """Return a Functional model of a new layer, or of `layer`, alone."""
        layer = self.new_layer() if layer is None else layer
        specs = keras.tree.map_structure(_as_input, self.inputs)
        arguments = {name: _as_input(value) if _is_array(value) else value for name, value in self.arguments.items()}
        inputs = [leaf for leaf in keras.tree.flatten((specs, arguments)) if isinstance(leaf, keras.KerasTensor)]
        return keras.Model(inputs, layer(specs, **arguments), name="model_of_one_layer")

    def wrapped_model(self, model: keras.Model | None = None, *, after: Sequence[Hook] = ()) -> keras.Model:
        """Return a new model, or `model`, with the hook on its layer."""
        model = self.model() if model is None else model
        self.seed()
        return wrap_model(model, [self.new_hook(), *after], where=self.layer.name)

    def seed(self, seed: int = _SEED) -> None:
        """Seed whatever the hook and the layer may draw by."""
        if self._draws_by_tensorflow:
            keras.utils.set_random_seed(seed)
        else:
            _keras.seed_past_tensorflow(seed)  # half of the suite's time

    @functools.cached_property
    def _draws_by_tensorflow(self) -> bool:
        """Whether the hook or the layer draws by TensorFlow's own seed: the next one is then not the first."""
        self.__dict__["_draws_by_tensorflow"] = True  # until it is known
        keras.utils.set_random_seed(_SEED)
        first = tf.compat.v1.get_seed(None)
        keras.utils.set_random_seed(_SEED)
        try:
            self._use()
        except Exception:
            return True  # The checks tell of it.
        return bool(tf.compat.v1.get_seed(None) != first)

    @property
    def data(self) -> list[np.ndarray[Any, Any]]:
        """The inputs of `model`, a flat list."""
        return [leaf for leaf in keras.tree.flatten((self.inputs, self.arguments)) if _is_array(leaf)]

    def other_inputs(self, turn: int = 1) -> Any:
        """Return inputs of other values, at each `turn` others; whole numbers are those there are, or zeros."""
        return keras.tree.map_structure(lambda array: _varied(array, turn), self.inputs)

    # --- using them ----------------------------------------------------------------------------------------------

    def call(self, layer: Any, training: bool = False, inputs: Any = None) -> Any:
        """Return what `layer`, or a function with its arguments, gives for the example's input, or for `inputs`."""
        return layer(self.inputs if inputs is None else inputs, **self.arguments, training=training)

    def call_model(self, model: keras.Model, training: bool = False) -> Any:
        """Return what a model, as `model` makes them, gives for the example's input."""
        return model(self.data, training=training)

    def _use(self) -> None:
        """Make, call and train what checks do."""
        layer = self.new_layer()
        wrapper = Wrapper(layer, [self.new_hook()])
        wrapper.make_ready()
        self.call(wrapper)
        self.trained(wrapper, 1)

    def loss(self, outputs: Any) -> Any:
        """Return a scalar, of a gradient that is another one for each output; 0 without floating outputs."""
        terms = [_term(tensor) for tensor in keras.tree.flatten(outputs) if _is_float(tensor)]
        return sum(terms) if terms else None

    def train_step(self, layer: Any, optimizer: keras.Optimizer) -> None:
        """Make one step of training, eagerly or in a graph."""
        with tf.GradientTape() as tape:
            loss = self.loss(self.call(layer, training=True))
        pairs = []
        if loss is not None:
            variables = layer.trainable_variables
            gradients = tape.gradient(loss, [variable.value for variable in variables])
            pairs = [(grad, variable) for grad, variable in zip(gradients, variables, strict=True) if grad is not None]
        if pairs:
            optimizer.apply(*zip(*pairs, strict=True))

    def trained(self, layer: Any, steps: int = 3, **options: Any) -> keras.Optimizer:
        """Train a layer for some steps, eagerly; return the optimizer."""
        optimizer = keras.optimizers.SGD(0.05, momentum=0.9, **options)
        for _ in range(steps):
            self.train_step(layer, optimizer)
        return optimizer

    # --- what kind of hook it is ---------------------------------------------------------------------------------

    @functools.cached_property
    def random_at_inference(self) -> bool:
        """Whether two calls in inference differ."""
        return self._is_random(self.wrapped(), training=False)

    @functools.cached_property
    def random_in_training(self) -> bool:
        """Whether two calls in training differ, of the same state but for seeds."""
        return self._is_random(self.wrapped(), training=True)

    @functools.cached_property
    def layer_is_random(self) -> bool:
        """Whether two calls in training differ of the layer without the hook."""
        return self._is_random(self.new_layer(), training=True)

    @functools.cached_property
    def lacks_targets(self) -> bool:
        """Whether the hook does nothing but change weights, and the layer has none for it: no model takes it there."""
        if type(self.hook).overrides("call") or not type(self.hook).acts_on_weights():
            return False
        try:
            return not self.hook.select_targets(self.new_layer(), self.layer.name)
        except Exception:
            return False  # The checks tell of it.

    def _is_random(self, layer: keras.Layer, training: bool) -> bool:
        kept = [variable for variable in layer.variables if "seed_generator" not in variable.path]
        before = values(kept)
        one = arrays(self.call(layer, training))
        for variable, value in zip(kept, before, strict=True):
            variable.assign(value)
        two = arrays(self.call(layer, training))
        return not all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(one, two, strict=True))


def as_example(given: Any) -> Example:
    """Return an entry of `examples` as an Example: it is one, or a tuple of its first arguments."""
    return given if isinstance(given, Example) else Example(*given)


def _move_weights(layer: keras.Layer, seed: int) -> None:
    """Add noise to the trainable weights; those that are not, as a moving variance, may have to be positive."""
    generator = np.random.default_rng(seed)
    for variable in layer.trainable_variables:
        noise = 0.1 * generator.normal(size=tuple(variable.shape))
        variable.assign(keras.ops.convert_to_numpy(variable.value) + noise.astype(variable.dtype))


def _varied(array: np.ndarray[Any, Any], turn: int) -> np.ndarray[Any, Any]:
    if array.dtype.kind == "f":
        return (array[::-1] * 0.75**turn).astype(array.dtype)
    rolled = np.roll(array, turn, axis=-1)
    return np.zeros_like(array) if np.array_equal(rolled, array) else rolled


def _term(output: Any) -> Any:
    output = keras.ops.cast(output, "float32")
    shape = [size or 1 for size in output.shape[1:]]  # unknown in a graph: the same factor all along
    factors = np.cos(np.arange(np.prod(shape, dtype=int))).reshape((1, *shape))
    return keras.ops.mean(output * factors.astype("float32") + 0.5 * keras.ops.square(output))


def _is_float(tensor: Any) -> bool:
    return bool(keras.backend.is_float_dtype(keras.backend.standardize_dtype(tensor.dtype)))


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | tf.Tensor)


def _as_array(value: Any) -> np.ndarray[Any, Any]:
    array = np.asarray(value)
    return array.astype("float32") if array.dtype == "float64" else array


def _as_input(array: Any) -> keras.KerasTensor:
    return keras.Input(batch_shape=(None, *array.shape[1:]), dtype=str(array.dtype))
