"""prune_low_magnitude and what undoes it."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import keras

import kwrap
from kwrap.errors import OptionError, OptionValueError, RuleError, TargetError
from kwrap_prune._hook import Prune
from kwrap_prune._options import two_ints
from kwrap_prune._schedules import ConstantSparsity, Schedule
from kwrap_prune.tfmot._layers import is_prunable
from kwrap_prune.tfmot._policy import PruningPolicy

__all__ = ["prune_low_magnitude", "prune_scope", "strip_pruning"]

HALF = ConstantSparsity(0.5, 0)


def prune_low_magnitude(
    to_prune: Any,
    pruning_schedule: Schedule = HALF,
    block_size: Sequence[int] = (1, 1),
    block_pooling_type: Any = "AVG",
    pruning_policy: PruningPolicy | None = None,
    sparsity_m_by_n: Sequence[int] | None = None,
    **kwargs: Any,
) -> Any:
    """Return a layer that is pruned, a list of them, or a copy of a model with such layers, not compiled.

    What is pruned already stays as it is.

    Args:
        to_prune: a layer, a list of layers, or a model of any kind; a model stays as it is.
        pruning_schedule: when masks are computed and how sparse they are; with `sparsity_m_by_n` it counts for nothing.
        block_size: prune blocks of (inputs, outputs) of the weight's matrix.
        block_pooling_type: "AVG" or "MAX".
        pruning_policy: which layers are pruned.
        sparsity_m_by_n: (M, N): M zeros in each N weights that are consecutive along the inputs, chosen once.
        **kwargs: for a layer alone: more arguments for it, such as `input_shape`.

    Raises:
        OptionValueError: an argument has a value that it cannot have (a ValueError, as all below but the last).
        TargetError: nobody says which weights of a layer to prune.
        PlanError: a weight's shape does not fit the blocks or groups, or the policy refuses the model.
        OptionError: `kwargs` were given, and no single layer (a TypeError).
    """
    prune = _hook(pruning_schedule, block_size, block_pooling_type, sparsity_m_by_n)
    if pruning_policy is not None and not _is_policy(pruning_policy):
        problem = "is no PruningPolicy, such as PruneForLatencyOnXNNPack()"
        raise OptionValueError(_NAME, "pruning_policy", pruning_policy, problem)
    if kwargs:
        to_prune = _with_arguments(to_prune, kwargs)
    if isinstance(to_prune, keras.Layer):
        return _pruned(to_prune, prune, pruning_policy)
    if isinstance(to_prune, list | tuple) and all(isinstance(layer, keras.Layer) for layer in to_prune):
        return [_pruned(layer, prune, pruning_policy) for layer in to_prune]
    raise OptionValueError(_NAME, "to_prune", to_prune, "is no Keras 3 layer or model, and no list of layers")


def strip_pruning(model: keras.Model) -> keras.Model:
    """Return a copy of `model` without pruning hooks, not compiled, with the zeros in its weights; `model` stays.

    Raises:
        OptionValueError: it is no model.
    """
    if not isinstance(model, keras.Model):
        raise OptionValueError("strip_pruning", "model", model, "is no keras.Model of Keras 3")
    copy = kwrap.clone_model(model, compile=False)
    return kwrap.unwrap_model(copy, Prune) if kwrap.find_hooks(copy, Prune) else copy


def prune_scope() -> contextlib.AbstractContextManager[None]:
    """Return a context manager that does nothing: pruned models load by themselves."""
    return contextlib.nullcontext()


_NAME = "prune_low_magnitude"


# What Prune calls the arguments of prune_low_magnitude.
_ARGUMENTS = {
    "schedule": "pruning_schedule",
    "block_size": "block_size",
    "block_pooling": "block_pooling_type",
    "n_m": "sparsity_m_by_n",
}


def _hook(schedule: Any, block_size: Any, pooling: Any, m_by_n: Any) -> Prune:
    """Return the hook that prunes as tfmot does: weights may come back, and depthwise kernels are left out."""
    given = {"schedule": schedule, "block_size": block_size, "block_pooling": pooling, "n_m": m_by_n}
    options = dict(given)
    if m_by_n:
        zeros, group = _m_by_n(m_by_n)
        options |= {"n_m": (group - zeros, group), "schedule": ConstantSparsity(zeros / group, 0, end_step=0)}
    if pooling == "MAX" and isinstance(block_size, Sequence) and tuple(block_size) == (1, 1):
        options["block_pooling"] = "AVG"  # There is nothing to pool, which tfmot does not mind.
    try:
        return Prune(**options, regrow=True, targets=is_prunable)
    except OptionValueError as error:
        raise OptionValueError(_NAME, _ARGUMENTS[error.option], given[error.option], error.problem) from error
    except OptionError as error:
        raise OptionError(_NAME, _ARGUMENTS[error.option], error.problem) from error


def _is_policy(given: Any) -> bool:
    """Tell whether it says what to prune: an object with the methods of one, of any class, but not the class."""
    return not isinstance(given, type) and callable(getattr(given, "allow_pruning", None))


def _m_by_n(value: Any) -> tuple[int, int]:
    zeros, group = two_ints("sparsity_m_by_n", value, owner=_NAME)
    if zeros >= group:
        raise OptionValueError(_NAME, "sparsity_m_by_n", value, "is not some zeros out of more weights")
    return zeros, group


def _pruned(layer: keras.Layer, prune: Prune, policy: PruningPolicy | None) -> keras.Layer:
    """Return the layer in a Wrapper, or a copy of the model."""
    if isinstance(layer, keras.Model):
        return _prune_model(layer, prune, policy)
    return _prune_layer(layer, prune, policy)


# --- a layer ---------------------------------------------------------------------------------------------------------


def _prune_layer(layer: keras.Layer, prune: Prune, policy: PruningPolicy | None) -> keras.Layer:
    if isinstance(layer, keras.layers.InputLayer) or _is_pruned(layer):
        return layer
    plain, hooks = (layer.layer, layer.hooks) if isinstance(layer, kwrap.Wrapper) else (layer, [])
    if policy is not None and not policy.allow_pruning(plain):
        return layer
    if hooks and plain.built:
        problem = "is built and has other hooks: prune the model that it is in"
        raise OptionValueError(_NAME, "to_prune", layer, problem)
    return kwrap.Wrapper(plain, [*hooks, _own(prune)])


def _own(prune: Prune) -> kwrap.Hook:
    """Return a copy: a hook belongs to one layer."""
    return Prune.from_config(prune.get_config())


def _is_pruned(layer: keras.Layer) -> bool:
    return isinstance(layer, kwrap.Wrapper) and any(isinstance(hook, Prune) for hook in layer.hooks)


def _with_arguments(layer: Any, arguments: dict[str, Any]) -> keras.Layer:
    """Return the layer made with more arguments."""
    first = next(iter(arguments))
    if not isinstance(layer, keras.Layer) or isinstance(layer, keras.Model | kwrap.Wrapper):
        raise OptionError(_NAME, first, f"is for a layer alone, and {type(layer).__name__} is none")
    if layer.built and layer.weights:
        problem = f"comes too late for {layer.name!r}, which is built: give it to the layer when it is made"
        raise OptionError(_NAME, first, problem)
    return type(layer).from_config(layer.get_config() | arguments)


# --- a model ---------------------------------------------------------------------------------------------------------


def _prune_model(model: keras.Model, prune: Prune, policy: PruningPolicy | None) -> keras.Model:
    if policy is not None:
        policy.ensure_model_supports_pruning(model)
    if not model.built and isinstance(model, keras.Sequential) and not model.weights:
        return keras.models.clone_model(model, clone_function=_pruned_copy(prune, policy))
    copy = kwrap.clone_model(model, compile=False)
    try:
        return kwrap.wrap_model(copy, prune, where=_to_prune_of(copy, prune, policy))
    except RuleError:  # It matches no layer: nothing to prune is no error in tfmot.
        return copy


def _pruned_copy(prune: Prune, policy: PruningPolicy | None) -> Callable[[keras.Layer], keras.Layer]:
    """Return what makes a fresh pruned layer of one that is not built."""

    def copy(layer: keras.Layer) -> keras.Layer:
        plain = layer if isinstance(layer, keras.Model) else type(layer).from_config(layer.get_config())
        return _pruned(plain, prune, policy)

    return copy


def _to_prune_of(model: keras.Model, prune: Prune, policy: PruningPolicy | None) -> Callable[[keras.Layer, str], bool]:
    """Return what tells whether a layer of `model` is to be pruned: it has weights for it, that are not yet."""
    pruned = {id(target.variable) for _, hook in kwrap.find_hooks(model, Prune) for target in hook.target_weights}

    def is_to_prune(layer: keras.Layer, path: str) -> bool:
        taught = kwrap.weight_targets.is_taught(layer)
        targets = prune.select_targets(layer, path)
        if taught and (not targets or any(id(target.variable) in pruned for target in targets)):
            return False
        if policy is not None and not policy.allow_pruning(layer):
            return False
        if not taught:
            kind = type(layer).__name__
            raise TargetError(
                f"{_NAME} at {path!r}: nobody says which of the weights of a {kind} to prune. Give it a method "
                f"get_prunable_weights(), see PrunableLayer; or leave it out, by a pruning_policy or with "
                "kwrap.clone_model(model, Prune(...))"
            )
        return True

    return is_to_prune
