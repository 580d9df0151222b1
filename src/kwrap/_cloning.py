"""An independent copy of a model: its structure by Keras, its state layer by layer."""

import inspect
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras

from kwrap import _keras
from kwrap._hook import Hook, copies_of
from kwrap._saving import Hooked, bare_view, hooks_in, plain_class, put_hooks
from kwrap._selection import places
from kwrap._wrapper import Wrapper
from kwrap.errors import CloneError, KwrapError, SavedHooksError, UncompiledCopyWarning

__all__ = ["copy_model"]


def copy_model(model: keras.Model) -> keras.Model:
    """Return a copy of `model`: weights, seeds, hooks, `trainable` flags, compile state and optimizer slots included.

    Raises:
        CloneError: Keras cannot rebuild a model of this class.
    """
    try:
        copy = _rebuild(model, {})
    except SavedHooksError as error:
        raise _changed(model, f"{error.found} in {error.layer!r}", error.saved) from error
    _check_alike(model, copy, _classes)
    _check_weights(model, copy)
    pairs = [(model, copy), *zip(*(_without_inputs(_keras.all_sublayers(one)) for one in (model, copy)), strict=True)]
    for source, target in zip(*(_without_inputs(_keras.flattened(one)) for one in (model, copy)), strict=True):
        target.trainable = source.trainable and not _keras.is_lifted(source)
    frozen = {
        id(variable) for source, _ in pairs if isinstance(source, Wrapper) for variable in source.weight_hooks.frozen
    }
    for old, new in zip(model.variables, copy.variables, strict=True):
        new.assign(old)
        new.trainable = old.trainable or id(old) in frozen
    for source, target in pairs:
        _copy_state(source, target)
        _keras.lift_like(target, source)
    for _, target in pairs:
        if isinstance(target, Wrapper):
            target.finish_loading()
    _copy_compilation(model, copy)
    return copy


def _rebuild(layer: keras.Layer, known: dict[int, keras.Layer], *, bare: bool = False) -> keras.Layer:
    """Return a layer of the same class, structure and hooks (none, if `bare`) with fresh layers in it.

    `known` are those that were rebuilt already: the layers that graphs share.
    """

    def clone(inner: keras.Layer) -> keras.Layer:
        if id(inner) not in known:
            known[id(inner)] = _rebuild(inner, known, bare=bare)
        return known[id(inner)]

    if isinstance(layer, Wrapper):
        inner = _rebuild(layer.layer, known, bare=bare)
        # The very classes of its hooks, whatever their names mean by now.
        return inner if bare else Wrapper.loading(inner, copies_of(layer.hooks), name=layer.name, path=layer.place)
    if isinstance(layer, Hooked) and not bare:
        return _rebuild_hooked(layer)
    if _keras.is_plain_graph(layer):
        # Keras compiles the copy from a serialized config: a local loss raises, iterations start anew.
        return keras.models.clone_model(_keras.uncompiled(layer), clone_function=clone)
    copy = _from_config(bare_view(layer, {}))
    if isinstance(layer, keras.Model) and layer.built and not copy.built:
        copy.build_from_config(layer.get_build_config())
        copy.built = True  # as Keras says of what it loads
    return copy


def _rebuild_hooked(layer: keras.Layer) -> keras.Layer:
    hooks = {position: (path, copies_of(own)) for position, (path, own) in hooks_in(layer).items()}
    count = len(places(layer))
    copy = _rebuild(layer, {}, bare=True)
    if len(places(copy)) == count:  # if not, it may be to make some when it is called
        _check_alike(layer, copy, _bare_classes)
    put_hooks(copy, count, hooks)
    return copy


def _check_alike(
    layer: keras.Layer, copy: keras.Layer, classes_in: Callable[[keras.Layer], list[type[keras.Layer]]]
) -> None:
    """Raise unless the copy holds as many layers, of the same classes."""
    held, rebuilt = classes_in(layer), classes_in(copy)
    if held != rebuilt:
        raise _changed(layer, str(len(rebuilt) - 1), len(held) - 1)


def _classes(layer: keras.Layer) -> list[type[keras.Layer]]:
    return [type(inner) for inner in _without_inputs(_keras.flattened(layer))]


def _bare_classes(layer: keras.Layer) -> list[type[keras.Layer]]:
    """Return the classes without hooks, and without what hooks hold."""
    return [plain_class(inner) for inner in (layer, *(place.layer for place in places(layer)))]


def _without_inputs(layers: Iterable[keras.Layer]) -> Iterator[keras.Layer]:
    """Yield all but InputLayers: a Sequential has one only once it is built, and may share that of the model around."""
    return (layer for layer in layers if not isinstance(layer, keras.layers.InputLayer))


def _changed(layer: keras.Layer, rebuilt: str, held: int) -> CloneError:
    problem = f"comes back from its config with other layers in it ({rebuilt}, where it holds {held})"
    return CloneError(layer.name, type(layer).__qualname__, problem)


def _check_weights(model: keras.Model, copy: keras.Model) -> None:
    """Raise unless the copy has the same weights, built and in the same order."""
    shapes = [[tuple(variable.shape) for variable in one.variables] for one in (model, copy)]
    if shapes[0] != shapes[1]:
        raise CloneError(
            model.name,
            type(model).__qualname__,
            f"comes back from its config with {len(shapes[1])} weights for {len(shapes[0])}, or of other shapes: "
            "give it, or the layers in it, a build(input_shape) that builds what they hold",
        )


def _from_config(layer: keras.Layer) -> keras.Layer:
    try:
        return type(layer).from_config(layer.get_config())
    except KwrapError:
        raise
    except NotImplementedError as error:
        raise CloneError(layer.name, type(layer).__qualname__, "has no get_config") from error
    except (TypeError, ValueError) as error:
        raise CloneError(
            layer.name, type(layer).__qualname__, f"does not come back from its config: {error}"
        ) from error


def _copy_state(source: keras.Layer, target: keras.Layer) -> None:
    """Copy what is no variable: what a layer derives from its variables, vocabularies, a hook's being initialized."""
    if isinstance(source, Hook):
        target.initialized = source.initialized
        target.forget_fresh()
    elif not isinstance(source, Wrapper):
        if isinstance(source, keras.Model):
            target.dtype_policy = source.dtype_policy  # in no config, and `compile` asks for it
        if type(source).load_own_variables is not keras.Layer.load_own_variables and source.built:
            store: dict[str, object] = {}
            source.save_own_variables(store)
            target.load_own_variables(store)
        for old, new in zip(_rnn_states(source), _rnn_states(target), strict=True):
            new.assign(old)
        if hasattr(source, "save_assets"):
            with tempfile.TemporaryDirectory() as folder:
                source.save_assets(folder)
                target.load_assets(folder)


def _rnn_states(layer: keras.Layer) -> list[keras.Variable]:
    """Return the states of a stateful recurrent layer, which are among nobody's variables."""
    return list(keras.tree.flatten(layer.states)) if isinstance(layer, keras.layers.RNN) and layer.stateful else []


def _copy_compilation(source: keras.Model, target: keras.Model) -> None:
    """Compile `target`, of the same structure, as `source` is: the same losses, an optimizer and metrics of its own."""
    if not source.compiled:
        return
    arguments = _keras.compile_arguments(source)
    arguments["optimizer"] = source.optimizer  # as `compile` made it of what it was given, or kwrap since
    try:
        for name in ("optimizer", "metrics", "weighted_metrics"):
            arguments[name] = keras.tree.map_structure(_own, arguments[name])
    except (TypeError, ValueError) as error:  # such as of a lambda for a learning rate
        problem = f"is compiled with what does not come back from its config: {error}"
        raise CloneError(source.name, type(source).__qualname__, problem) from error
    try:
        inspect.signature(target.compile).bind(**arguments)
    except TypeError:
        # Keras keeps what the class' own `compile` handed on, and nothing of what it takes.
        warnings.warn(UncompiledCopyWarning(source.name, type(source).__qualname__), stacklevel=4)
        return
    target.compile(**arguments)
    if source.optimizer is None:
        return
    pairs = list(zip(source.variables, target.variables, strict=True))
    _keras.exclude_alike(source.optimizer, target.optimizer, pairs)
    if source.optimizer.built:
        counterparts = {id(old): new for old, new in pairs}
        # Not `trainable_variables`: layers may have been frozen since the optimizer was built.
        target.optimizer.build([counterparts[id(old)] for old in _keras.optimized_variables(source.optimizer)])
        for old, new in zip(source.optimizer.variables, target.optimizer.variables, strict=True):
            new.assign(old)


def _own(part: Any) -> Any:
    """Return a copy of an optimizer or metric; names and functions stay."""
    return type(part).from_config(part.get_config()) if isinstance(part, keras.Metric | keras.Optimizer) else part
