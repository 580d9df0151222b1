"""Every model of the zoo, with hooks of every kind: wrapped, trained, saved and loaded, cloned, unwrapped.

What the hooks do is done by hand to a bare twin of the model, with Keras alone: model and twin agree to the bit.

The checks make the table in docs/zoo.md. To write it anew: python -m tests.integration.test_zoo
"""

import functools
import gc
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import kwrap
from kwrap_prune import Prune

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
    """Hooks, what they do to a model by hand, to its weights and to its calls, and whether it is trained eagerly.

    Three steps are trained four times as fast eagerly as in a graph, most of which goes to making it. What a hook does
    alone has its graph where it does it beside another; without any, `test_the_graph_has_not_one_op_more` makes one.
    """

    hooks: tuple[type[kwrap.Hook], ...]
    prunes: bool = False
    dims: bool = False
    eagerly: bool = True


TREATMENTS = {
    "no-op": Treatment(hooks=(Idle,)),
    "prune": Treatment(hooks=(Prune,), prunes=True),
    "call-hook": Treatment(hooks=(dim,), dims=True),
    "two hooks": Treatment(hooks=(Prune, dim), prunes=True, dims=True, eagerly=False),
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
        before = snapshot(self.spare)
        return before, snapshot(kwrap.unwrap_model(self.wrap(self.spare)))

    @functools.cached_property
    def spare(self) -> keras.Model:
        """Another bare model, that is not trained."""
        return zoo.build(self.name)

    @functools.cached_property
    def twin(self) -> keras.Model:
        """The bare model to which the same was done by hand."""
        model = self.dim(zoo.build(self.name))
        if self.treatment.prunes:
            prune_by_hand(model)
        return model

    @functools.cached_property
    def model(self) -> keras.Model:
        """The wrapped model."""
        return self.wrap(zoo.build(self.name))

    @functools.cached_property
    def fresh(self) -> tuple[Any, Any]:
        """The outputs of model and twin when they are new."""
        return self.outputs(self.model), self.outputs(self.twin)

    @functools.cached_property
    def losses(self) -> tuple[list[float], list[float]]:
        """The losses of model and twin in training."""
        assert self.fresh
        if self.treatment.eagerly:
            self.model.run_eagerly = self.twin.run_eagerly = True
        return zoo.train(self.model, self.name), zoo.train(self.twin, self.name)

    @functools.cached_property
    def trained(self) -> tuple[Any, Any]:
        """The outputs of model and twin after training."""
        assert self.losses
        return self.outputs(self.model), self.outputs(self.twin)

    @functools.cached_property
    def weights_file(self) -> Path:
        """The wrapped model's weights, after training."""
        assert self.trained
        path = self.folder / "model.weights.h5"
        self.model.save_weights(path)
        return path

    @functools.cached_property
    def unwrapped(self) -> keras.Model:
        """The model, unwrapped again: the last step."""
        assert self.weights_file
        return kwrap.unwrap_model(self.model)


TRIALS = {f"{name}-{treatment}": (name, treatment) for name in zoo.ZOO for treatment in TREATMENTS}


@pytest.fixture(scope="module", params=TRIALS)
def trial(request: pytest.FixtureRequest) -> Iterator[Trial]:
    # As in conftest.py, of what TensorFlow keeps of the models before.
    gc.collect()
    gc.freeze()
    with tempfile.TemporaryDirectory() as folder:  # not pytest's, which keeps the files of all models
        yield Trial(*TRIALS[request.param], Path(folder))


# --- the checks: each a column of the table --------------------------------------------------------------------------

# What Keras itself cannot do: {(model, check): reason}. The bare model has to fail, too.
_NO_CONFIG = "the layer has no `get_config`, so that Keras can neither save nor rebuild it; its weights it can"
EXCEPTIONS = {("without_config", "saved"): _NO_CONFIG, ("without_config", "cloned"): _NO_CONFIG}
BARE_ACTS: dict[str, Callable[[keras.Model, Path], Any]] = {
    "saved": lambda model, path: model.save(path),
    "cloned": lambda model, path: keras.models.clone_model(model),
}

CHECKS: dict[str, str] = {}
NOTHING, BOTH = ["no-op"], ["two hooks"]


def check(column: str, about: str, treatments: Iterable[str] = TREATMENTS) -> pytest.MarkDecorator:
    """Run a test on each trial, exceptions left out, and make it a column of the table."""
    CHECKS[column] = about
    chosen = [
        key for key, (name, treatment) in TRIALS.items() if treatment in treatments and (name, column) not in EXCEPTIONS
    ]
    return pytest.mark.parametrize("trial", chosen, indirect=True)


@check("undone", "wrapped and unwrapped at once: every object, attribute, config, flag, order and value is as before")
def test_unwrapping_leaves_no_trace(trial: Trial) -> None:
    before, after = trial.snapshots
    if trial.treatment.prunes:  # which is merged
        before, after = before | {"values": None}, after | {"values": None}
    assert after == before


@check("outputs", "wrapped: the outputs are those of the bare model to which the same was done by hand")
def test_outputs_are_as_by_hand(trial: Trial) -> None:
    wrapped, by_hand = trial.fresh
    assert same(wrapped, by_hand)


@check("graph", "wrapped in a hook that does nothing: the graph has not one op more", NOTHING)
def test_the_graph_has_not_one_op_more(trial: Trial) -> None:
    assert trial.graph_ops(trial.model) == trial.graph_ops(trial.twin)


@check("trained", "three steps of training: the losses and then the outputs are those of the model done by hand")
def test_training_goes_as_by_hand(trial: Trial) -> None:
    wrapped, by_hand = trial.losses
    assert wrapped == by_hand
    wrapped, by_hand = trial.trained
    assert same(wrapped, by_hand)


@check("weights", "`save_weights`: the file loads into a bare model and into a newly wrapped one")
def test_weights_load_into_bare_and_wrapped_models(trial: Trial) -> None:
    model = trial.wrap(overwritten(trial.spare))
    model.load_weights(trial.weights_file)
    assert same(trial.outputs(model), trial.trained[0])
    model = trial.dim(overwritten(kwrap.unwrap_model(model, merge=False)))
    model.load_weights(trial.weights_file)
    assert same(trial.outputs(model), trial.trained[0])


def overwritten(model: keras.Model) -> keras.Model:
    """Return a model each of whose weights is one that no training and no initializer gives."""
    for variable in model.variables:
        variable.assign(keras.ops.full_like(variable, 3))
    return model


@check("saved", "`model.save`: `keras.models.load_model` brings back a model of its class, both hooks included", BOTH)
# Of KerasHub's tasks `load_model` compiles none, hooks or not, and warns that it drops their optimizer's state.
@pytest.mark.filterwarnings("ignore:.*Skipping variable loading for optimizer")
def test_saved_whole_it_comes_back_with_its_hooks(trial: Trial) -> None:
    path = trial.folder / "model.keras"
    assert trial.trained
    trial.model.save(path)
    # Not compiled, as a file does not tell that the model's optimizer scaled the loss.
    loaded = keras.models.load_model(path, compile=False)
    assert type(loaded).__name__ == type(trial.model).__name__
    assert hook_names(loaded) == hook_names(trial.model)
    assert same(trial.outputs(loaded), trial.trained[0])


@check("cloned", "`clone_model`: a copy of its class, both hooks included, that shares no variable with it", BOTH)
def test_a_clone_is_alike_with_weights_of_its_own(trial: Trial) -> None:
    assert trial.trained
    clone = kwrap.clone_model(trial.model)
    assert type(clone).__name__ == type(trial.model).__name__
    assert hook_names(clone) == hook_names(trial.model)
    assert not {id(variable) for variable in clone.variables} & {id(variable) for variable in trial.model.variables}
    assert same(trial.outputs(clone), trial.trained[0])


def hook_names(model: keras.Model) -> list[str]:
    return [hook.name for _, hook in kwrap.find_hooks(model)]


@check("unwrapped", "unwrapped after training: a plain model, of the same layers, with the weights it learned, merged")
def test_unwrapped_it_is_a_plain_model_with_the_weights_that_it_learned(trial: Trial) -> None:
    model, twin = trial.unwrapped, trial.twin
    assert not objects_of_kwrap(model)
    assert [(type(layer), layer.trainable) for layer in model._flatten_layers()] == [
        (type(layer), layer.trainable) for layer in twin._flatten_layers()
    ]
    assert same(values(model.weights), values(twin.weights))
    assert same(trial.outputs(trial.dim(model)), trial.trained[0])


@pytest.mark.parametrize(("name", "column"), EXCEPTIONS)
def test_what_cannot_be_fails_on_the_bare_model_too(name: str, column: str, tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError):
        BARE_ACTS[column](zoo.build(name), tmp_path / "model.keras")


# --- the table -------------------------------------------------------------------------------------------------------

INTRODUCTION = """\
<!-- Made by python -m tests.integration.test_zoo -->

# The test zoo

kwrap's tests put hooks on a small instance, with random weights, of each kind of model below. A ✓ says that a check
holds with each of these, unless it names another: a hook that does nothing, `prune`, a hook around the call of every
layer that holds none, and both of the latter. What the hooks do is also done *by hand*, to a bare model and with Keras
alone, and what comes of it has to be the same to the bit.
"""

CAVEAT = """\
By hand, as with hooks, a call reads a pruned weight once and as a dense tensor. A bare recurrent layer reads it at each
time step, so that its gradients are added up in another order and may differ in the last bits. A bare embedding hands
its optimizer a gradient in slices, and Adam squares the slices of a repeated word one by one; under a hook that changes
the weight the gradient is dense, and Adam squares their sum.
"""


def page() -> str:
    """Return docs/zoo.md."""
    reasons = list(dict.fromkeys(EXCEPTIONS.values()))
    families = dict.fromkeys(specimen.family for specimen in zoo.ZOO.values())
    parts = [
        INTRODUCTION,
        "".join(f"- **{column}**: {about}\n" for column, about in CHECKS.items()),
        CAVEAT,
        *(f"## {family}\n\n{table(family, reasons)}" for family in families),
        "".join(f"[^{number}]: {reason}.\n" for number, reason in enumerate(reasons, 1)),
    ]
    return "\n".join(parts)


def table(family: str, reasons: list[str]) -> str:
    """Return the models of a family and the checks, as a table in Markdown."""
    rows = [("model", *CHECKS), ("---", *(":---:" for _ in CHECKS))]
    for specimen in zoo.ZOO.values():
        if specimen.family == family:
            found = [EXCEPTIONS.get((specimen.name, column)) for column in CHECKS]
            cells = ["✓" if reason is None else f"[^{reasons.index(reason) + 1}]" for reason in found]
            rows.append((specimen.about, *cells))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def test_the_document_is_what_the_checks_say() -> None:
    assert PAGE.read_text("utf-8") == page(), "write it anew: python -m tests.integration.test_zoo"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
