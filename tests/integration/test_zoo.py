"""Every model of the zoo, with hooks of every kind: wrapped, trained, its weights saved and loaded, unwrapped.

What hooks do, the tests do by hand to a bare twin of the model, with Keras alone; model and twin agree to the bit.
"""

import functools
import gc
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from kwrap_prune import Prune

import kwrap

from .. import zoo
from ..specimens import Idle, objects_of_kwrap, same, snapshot, unique, values

FACTOR = 0.9375
KERNELS = ("kernel", "recurrent_kernel", "depthwise_kernel", "pointwise_kernel")
PAGE = Path(__file__).parents[2] / "docs" / "zoo.md"


@kwrap.hook(layer_type=keras.layers.Layer, name="zoo_dim")
def dim(call_next, inputs):
    """Multiply all that a layer gives."""
    return dimmed(call_next(inputs))


def dimmed(outputs: Any) -> Any:
    return keras.tree.map_structure(lambda output: output * FACTOR if _is_float(output) else output, outputs)


def _is_float(tensor: Any) -> bool:
    return tensor is not None and "float" in keras.backend.standardize_dtype(tensor.dtype)


# --- what the hooks do, by hand --------------------------------------------------------------------------------------


def leaves(layer: keras.Layer) -> Iterator[keras.Layer]:
    """Yield the layers that hold none, and the recurrent ones, whose cells are parts of them."""
    for held in (held for held in layer._layers if isinstance(held, keras.Layer)):
        if isinstance(held, keras.layers.RNN) or not held._layers:
            yield held
        else:
            yield from leaves(held)


def dim_by_hand(model: keras.Model) -> None:
    """Multiply all that the leaves give."""
    for leaf in unique(leaves(model)):
        if not isinstance(leaf, keras.layers.InputLayer):
            _change_call(leaf, lambda call, args, kwargs: dimmed(call(*args, **kwargs)))


def prune_by_hand(model: keras.Model) -> None:
    """Set half of each kernel to zero, the smallest, and keep them there; a call reads each kernel once."""
    for leaf in unique(leaves(model)):
        masks = [(variable, kept_half(np.array(variable))) for variable in kernels(leaf)]
        for variable, mask in masks:
            variable.assign(np.where(mask, np.array(variable), 0))
            variable.constraint = _Kept(mask, variable.constraint)
        if masks:
            _change_call(leaf, functools.partial(_call_masked, masks))


def kernels(layer: keras.Layer) -> list[keras.Variable]:
    """Return the weights of a layer that `prune` takes; those of KerasHub's own layers, which nobody taught, not."""
    names = ("embeddings",) if isinstance(layer, keras.layers.Embedding) else KERNELS
    return [variable for variable in layer.variables if variable.name in names and "float" in variable.dtype]


def kept_half(value: np.ndarray) -> Any:
    """Return a bool mask, False at the smaller half of `value`; a tensor, which graphs take without copying it."""
    mask = np.ones(value.size, bool)
    mask[np.argsort(np.abs(value), axis=None, kind="stable")[: round(value.size / 2)]] = False
    return keras.ops.convert_to_tensor(mask.reshape(value.shape))


@dataclass
class _Kept(keras.constraints.Constraint):
    mask: Any
    own: Callable[[Any], Any] | None

    def __call__(self, value: Any) -> Any:
        value = keras.ops.where(self.mask, value, 0)
        return value if self.own is None else keras.ops.where(self.mask, self.own(value), 0)


def _call_masked(masks: Any, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    masked = [(variable, keras.ops.where(mask, variable, 0)) for variable, mask in masks]
    with keras.StatelessScope(state_mapping=masked):
        return call(*args, **kwargs)


def _change_call(layer: keras.Layer, change: Callable[..., Any]) -> None:
    name = "quantized_call" if layer.quantization_mode else "call"
    call = getattr(layer, name)
    vars(layer)[name] = functools.wraps(call)(lambda *args, **kwargs: change(call, args, kwargs))


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """Hooks, and what they do to a model by hand: to its weights, and to its calls."""

    hooks: tuple[type[kwrap.Hook], ...]
    prunes: bool = False
    dims: bool = False


TREATMENTS = {
    "no-op": Treatment(hooks=(Idle,)),
    "prune": Treatment(hooks=(Prune,), prunes=True),
    "call-hook": Treatment(hooks=(dim,), dims=True),
    "two hooks": Treatment(hooks=(Prune, dim), prunes=True, dims=True),
}


# --- one model, treated ----------------------------------------------------------------------------------------------


class Trial:
    """A model of the zoo with the hooks of a treatment on it, and its twin, to which the same was done by hand.

    Each step is taken once, after those before it, when a test asks for what it came to.
    """

    def __init__(self, name: str, treatment: str, folder: Path) -> None:
        self.name, self.treatment, self.folder = name, TREATMENTS[treatment], folder
        self.inputs = zoo.ZOO[name].batch()[0]

    def wrap(self, model: keras.Model) -> keras.Model:
        """Put the hooks on a model."""
        return kwrap.wrap_model(model, list(self.treatment.hooks))

    def dim(self, model: keras.Model) -> keras.Model:
        """Do to the calls of a bare model what the hooks do."""
        if self.treatment.dims:
            dim_by_hand(model)
        return model

    def outputs(self, model: keras.Model) -> Any:
        """Return a model's outputs."""
        return keras.tree.map_structure(np.array, model(self.inputs, training=False))

    def graph_ops(self, model: keras.Model) -> int:
        """Return how many ops the graph of a model's call has."""
        function = tf.function(lambda inputs: model(inputs, training=False))
        return len(function.get_concrete_function(self.inputs).graph.get_operations())

    @functools.cached_property
    def snapshots(self) -> tuple[Any, Any]:
        """What the model is made of, before it is wrapped and after it was unwrapped."""
        model = zoo.build(self.name)
        before = snapshot(model)
        return before, snapshot(kwrap.unwrap_model(self.wrap(model)))

    @functools.cached_property
    def twin(self) -> keras.Model:
        """The twin."""
        model = self.dim(zoo.build(self.name))
        if self.treatment.prunes:
            prune_by_hand(model)
        return model

    @functools.cached_property
    def model(self) -> keras.Model:
        """The model."""
        return self.wrap(zoo.build(self.name))

    @functools.cached_property
    def fresh(self) -> tuple[Any, Any]:
        """The outputs of model and twin when they are new."""
        return self.outputs(self.model), self.outputs(self.twin)

    @functools.cached_property
    def losses(self) -> tuple[list[float], list[float]]:
        """The losses of model and twin in training."""
        assert self.fresh
        return zoo.train(self.model, self.name), zoo.train(self.twin, self.name)

    @functools.cached_property
    def trained(self) -> tuple[Any, Any]:
        """The outputs of model and twin after training."""
        assert self.losses
        return self.outputs(self.model), self.outputs(self.twin)

    @functools.cached_property
    def saved(self) -> Path:
        """The model's weights in a file."""
        assert self.trained
        path = self.folder / "model.weights.h5"
        self.model.save_weights(path)
        return path

    @functools.cached_property
    def unwrapped(self) -> keras.Model:
        """The model, unwrapped again."""
        assert self.saved
        return kwrap.unwrap_model(self.model)


TRIALS = {f"{name}-{treatment}": (name, treatment) for name in zoo.ZOO for treatment in TREATMENTS}


@pytest.fixture(scope="module", params=TRIALS)
def trial(request: pytest.FixtureRequest) -> Iterator[Trial]:
    with tempfile.TemporaryDirectory() as folder:  # not pytest's, which keeps the files of all models
        yield Trial(*TRIALS[request.param], Path(folder))
    gc.collect()  # a model is a cycle of references, and the large ones would pile up


# --- the checks: each a column of the table --------------------------------------------------------------------------


def test_unwrapping_leaves_no_trace(trial: Trial) -> None:
    before, after = trial.snapshots
    if trial.treatment.prunes:  # which is merged
        before, after = before | {"values": None}, after | {"values": None}
    assert after == before


def test_outputs_are_as_by_hand(trial: Trial) -> None:
    wrapped, by_hand = trial.fresh
    assert same(wrapped, by_hand)


@pytest.mark.parametrize("trial", [key for key in TRIALS if key.endswith("-no-op")], indirect=True)
def test_the_graph_has_not_one_op_more(trial: Trial) -> None:
    assert trial.graph_ops(trial.model) == trial.graph_ops(trial.twin)


def test_training_goes_as_by_hand(trial: Trial) -> None:
    wrapped, by_hand = trial.losses
    assert wrapped == by_hand
    wrapped, by_hand = trial.trained
    assert same(wrapped, by_hand)


def test_weights_load_into_bare_and_wrapped_models(trial: Trial) -> None:
    path, (trained, _) = trial.saved, trial.trained
    for model in (trial.dim(zoo.build(trial.name, seed=1)), trial.wrap(zoo.build(trial.name, seed=1))):
        model.load_weights(path)
        assert same(trial.outputs(model), trained)


def test_saved_whole_it_comes_back_with_its_hooks(trial: Trial) -> None:
    path = trial.folder / "model.keras"
    assert trial.saved
    trial.model.save(path)
    loaded = keras.models.load_model(path)
    assert type(loaded).__name__ == type(trial.model).__name__
    assert [where for where, _ in kwrap.find_hooks(loaded)] == [where for where, _ in kwrap.find_hooks(trial.model)]
    assert same(trial.outputs(loaded), trial.trained[0])


def test_a_clone_is_the_same_with_weights_of_its_own(trial: Trial) -> None:
    clone = kwrap.clone_model(trial.model)
    assert type(clone).__name__ == type(trial.model).__name__
    assert not {id(v) for v in clone.variables} & {id(v) for v in trial.model.variables}
    assert same(trial.outputs(clone), trial.trained[0])


def test_unwrapped_it_is_a_plain_model_with_the_weights_that_it_learned(trial: Trial) -> None:
    model = trial.unwrapped
    assert not objects_of_kwrap(model)
    assert [type(layer) for layer in model._flatten_layers()] == [type(layer) for layer in trial.twin._flatten_layers()]
    assert [layer.trainable for layer in unique(model._flatten_layers())] == [layer.trainable for layer in unique(trial.twin._flatten_layers())]
    assert same(values(model.weights), values(trial.twin.weights))
    assert same(trial.outputs(trial.dim(model)), trial.trained[0])
