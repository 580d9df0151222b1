"""Whole models: wrap_model, clone_model, unwrap_model, bypass, and finding the hooks that are there."""

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import keras
import tensorflow as tf

from kwrap import _keras
from kwrap._cloning import copy_model
from kwrap._collecting import Collector, collecting
from kwrap._follow import follow, forget_traces, shadows
from kwrap._hook import Hook, Where, copies_of
from kwrap._plan import HooksLike, Plan, as_rules, check_model, current_plan, make_plan
from kwrap._registry import registered
from kwrap._selection import Place, as_list, is_meant, places
from kwrap._surgery import Holders, replace_layers
from kwrap._wrapper import Wrapper
from kwrap.errors import AbsentHookError, NoHooksError, WrapperStateError

__all__ = ["bypass", "clone_function", "clone_model", "collect", "find_hooks", "plan", "unwrap_model", "wrap_model"]

# Which of a model's hooks: a name, a class, an instance that is on it, or several.
Chosen = str | type[Hook] | Hook | Sequence[str | type[Hook] | Hook]


def plan(
    model: keras.Model,
    hooks: HooksLike | None = None,
    *,
    where: Where | None = None,
    exclude: Where | None = None,
    recursive: bool = True,
) -> Plan:
    """Return the plan of `wrap_model` with the same arguments, checked and not applied.

    Without hooks: what is on the model now.
    """
    if hooks is None:
        _refuse_place("plan", where, exclude, recursive)
        return current_plan(model)
    return make_plan("plan", model, hooks, where=where, exclude=exclude, recursive=recursive)


def wrap_model(
    model: keras.Model,
    hooks: HooksLike | None = None,
    *,
    where: Where | None = None,
    exclude: Where | None = None,
    recursive: bool = True,
) -> keras.Model:
    """Put hooks on layers of `model`, in place, and return it: the same object, compiled as it was.

    A layer that other models hold too (a base model, a feature extractor) is wrapped there as well, as setting its
    `trainable` would be seen there; `clone_model` leaves all others alone.

    Args:
        model: a built Keras 3 model.
        hooks: a registered name, a Hook class, an instance (copied for each layer), a Rule (`hook.at(...)`), or a list.
            The first is outermost for `call`; `parametrize` and `constrain` run in list order.
        where: the layers: a layer class, a pattern on the path (`*` within a name, `**` across `/`), a compiled regex
            (searched in the path), a callable `(layer, path) -> bool`, or a list of them. A Rule's own wins. Default:
            for hooks that change weights only, every layer that has weight targets; for others every layer of their
            type that holds no layers itself.
        exclude: the layers to leave out, told in the same ways.
        recursive: whether to look into nested models and into layers that hold layers.

    Raises:
        KwrapError: see `kwrap.errors`; nothing was changed then.
    """
    return make_plan("wrap_model", model, hooks, where=where, exclude=exclude, recursive=recursive).apply()


def clone_model(
    model: keras.Model,
    hooks: HooksLike | None = None,
    *,
    where: Where | None = None,
    exclude: Where | None = None,
    recursive: bool = True,
    compile: bool = True,
) -> keras.Model:
    """Return a copy of `model` with the hooks on it; `model` itself stays untouched.

    The copy has weights, compile state, optimizer slots and hooks of its own. Without `hooks` it is an exact copy. A
    model whose class has a `compile` with arguments of its own is not compiled in the copy: a warning says so.
    Other arguments and errors as for `wrap_model`.

    Args:
        compile: whether the copy is compiled as `model` is. Default: it is; else it is to be compiled anew.

    Raises:
        CloneError: Keras cannot rebuild a model of this class.
    """
    check_model(model)
    if hooks is None:
        _refuse_place("clone_model", where, exclude, recursive)
    elif compile:  # plugins look at the optimizer, too
        plan(model, hooks, where=where, exclude=exclude, recursive=recursive)  # raises before the work of copying
    copy = copy_model(model, compile=compile)
    return copy if hooks is None else wrap_model(copy, hooks, where=where, exclude=exclude, recursive=recursive)


def unwrap_model(model: keras.Model, hooks: Chosen | None = None, *, merge: bool = True) -> keras.Model:
    """Take all hooks off `model`, or some, in place, and return it.

    Args:
        hooks: names, classes or instances of the hooks to take off; default: all.
        merge: whether the weights keep the hooks' effect (`Hook.merge`), or are left as they are stored.

    Raises:
        AbsentHookError: one of `hooks` is not on the model.
        WrapperStateError: a hook cannot be merged exactly, because one that stays acts on the weight before it, or
            would store another weight than the merged one. Nothing was changed.
    """
    check_model(model)
    with model.distribute_strategy.scope():  # what is merged is assigned where the model's variables are
        return _unwrapped(model, hooks, merge)


def _unwrapped(model: keras.Model, hooks: Chosen | None, merge: bool) -> keras.Model:
    placed = places(model)
    chosen = _chosen(model, placed, hooks)
    removals = [_Removal(place, place.wrapper, _those_of(place, chosen)) for place in placed if place.wrapper]
    removals = [removal for removal in removals if removal.off or not removal.place.hooks]
    for removal in removals:
        removal.wrapper.finish_loading()
    emptied = [removal for removal in removals if not removal.stay]
    alive = Holders(model)
    holders, above = (
        alive.of(removal.wrapper for removal in emptied),
        alive.above(removal.wrapper for removal in removals),
    )
    beside = shadows(above)
    values = [value for removal in removals if merge for value in removal.merged(beside)]
    with ExitStack() as undo:
        for removal in removals:
            undo.callback(removal.wrapper.engage)
            undo.callback(removal.wrapper.set_hooks, removal.place.hooks)
            removal.wrapper.set_hooks(removal.stay)
        for variable, value in values:
            undo.callback(variable.assign, _keras.read(variable))
            variable.assign(value)
        for removal in removals:
            removal.settle()
        undo.callback(replace_layers, holders, [(removal.place.layer, removal.wrapper) for removal in emptied])
        replace_layers(holders, [(removal.wrapper, removal.place.layer) for removal in emptied])
        follow(above, undo)
        undo.pop_all()
    return model


@dataclass(frozen=True)
class _Removal:
    """The hooks that are taken off one layer."""

    place: Place
    wrapper: Wrapper
    off: tuple[Hook, ...]

    @property
    def stay(self) -> tuple[Hook, ...]:
        """The hooks that stay."""
        return tuple(hook for hook in self.place.hooks if hook not in self.off)

    def merged(self, beside: Mapping[int, Sequence[keras.Variable]]) -> list[tuple[keras.Variable, Any]]:
        """Return (variable, value) that the hooks leave in the weights and in what optimizers keep `beside` them."""
        merged: list[tuple[keras.Variable, Any]] = self.wrapper.weight_hooks.merged(self.off, beside)
        return merged

    def settle(self) -> None:
        """Let the hooks that stay have the weights stored as they want; let go of the layer if none does."""
        if self.stay:
            self.wrapper.weight_hooks.project()
        else:
            self.wrapper.disengage()


@contextmanager
def bypass(model: keras.Model, hooks: Chosen | None = None) -> Iterator[keras.Model]:
    """Inside the context the model works without those hooks' effect on calls and on the weights as read.

    In place, for an A/B look; not for two threads. What hooks have stored in the weights (a pruned zero) stays.
    """
    check_model(model)
    placed = places(model)
    chosen = _chosen(model, placed, hooks)
    wrappers = [(place.wrapper, _those_of(place, chosen)) for place in placed if place.wrapper]
    before = [(wrapper, wrapper.bypassed) for wrapper, _ in wrappers]
    above = Holders(model).above(wrapper for wrapper, _ in wrappers)
    try:
        for wrapper, off in wrappers:
            wrapper.bypass((*wrapper.bypassed, *off))
        forget_traces(above)
        yield model
    finally:
        for wrapper, bypassed in before:
            wrapper.bypass(bypassed)
        forget_traces(above)


@contextmanager
def collect(model: keras.Model, name: str) -> Iterator[dict[str, list[Any]]]:
    """Inside the context, gather what the hooks of `model` emit under `name` (`Hook.emit`) whenever they are called.

    Yields a dict that fills meanwhile: the path of the hook's layer to a list of values, one a call, in their order.

    Opened inside a compiled function, such as one's own `train_step`, the values are tensors of that function, for a
    loss or a metric. Opened outside, `fit`, `evaluate` and `predict` run eagerly inside the context, for values cannot
    leave a compiled function. Opened in the step of one of several replicas, compiled or not, the values are those of
    that replica.

    Raises:
        WrapperStateError: the model runs on several replicas, and this is outside of their steps; or, in a call, a
            value is inside a compiled function of one's own.
    """
    check_model(model)
    placed = [place for place in places(model) if place.wrapper]
    paths = {id(hook): place.path for place in placed for hook in place.hooks}
    collector = Collector(name, paths, _keras.current_graph())
    with ExitStack() as after:
        if collector.graph is None and not _is_on_one_of_replicas():
            _run_eagerly(Holders(model).above(place.held for place in placed), after)
        after.enter_context(collecting(collector))
        yield collector.values


def _run_eagerly(above: Sequence[keras.Layer], after: ExitStack) -> None:
    """Let the models among layers run nothing that was compiled, until `after` closes."""
    after.callback(forget_traces, above)
    for model in (layer for layer in above if isinstance(layer, keras.Model)):
        if model.distribute_strategy.num_replicas_in_sync > 1:
            raise WrapperStateError(
                f"model {model.name!r} runs on {model.distribute_strategy.num_replicas_in_sync} replicas, each with "
                "values of its own: open kwrap.collect inside its train_step, test_step or predict_step"
            )
        _keep_eager(model)
        after.callback(_release_eager, model)
    forget_traces(above)


def _is_on_one_of_replicas() -> bool:
    context = tf.distribute.get_replica_context()
    return context is not None and context.num_replicas_in_sync > 1


# The models that run eagerly for `collect`: how many contexts are open, in all threads, and how it was before them.
_eager: Final[weakref.WeakKeyDictionary[keras.Model, tuple[int, bool]]] = weakref.WeakKeyDictionary()
_eager_lock: Final = threading.Lock()


def _keep_eager(model: keras.Model) -> None:
    with _eager_lock:
        count, before = _eager.get(model, (0, model.run_eagerly))
        _eager[model] = count + 1, before
        model.run_eagerly = True


def _release_eager(model: keras.Model) -> None:
    with _eager_lock:
        count, before = _eager.pop(model)
        if count > 1:
            _eager[model] = count - 1, before
        else:
            model.run_eagerly = before


def find_hooks(model: keras.Model, hook: str | type[Hook] | None = None) -> list[tuple[str, Hook]]:
    """Return (path, hook) of each hook on `model`: those of a name or class, or all."""
    check_model(model)
    chosen = None if hook is None else {_key(hook)}
    return [(place.path, found) for place in places(model) for found in _those_of(place, chosen)]


def clone_function(
    hooks: HooksLike, *, where: Where | None = None, exclude: Where | None = None
) -> Callable[[keras.Layer], keras.Layer]:
    """Return a `clone_function` for `keras.models.clone_model`: fresh layers, those that are meant in a Wrapper.

    Keras gives such a function no path: patterns see the layer's name alone. And one layer at a time: a rule that
    matches none of the model's is no error. Hooks that a layer has already come first.
    """
    rules = as_rules("clone_function", hooks, where, exclude)

    def clone(layer: keras.Layer) -> keras.Layer:
        plain, there = (layer.layer, layer.hooks) if isinstance(layer, Wrapper) else (layer, [])
        place = Place(plain.name, plain, None, ())
        chosen = [*there, *(rule.hook for rule in rules if is_meant(rule, place))]
        copy = type(plain).from_config(plain.get_config())
        return Wrapper(copy, copies_of(chosen)) if chosen else copy

    return clone


def _refuse_place(function: str, where: Where | None, exclude: Where | None, recursive: bool) -> None:
    """Raise if layers were chosen, and no hooks to put on them."""
    if where is not None or exclude is not None or not recursive:
        raise NoHooksError(function, [hook.name for hook in registered()])


def _chosen(model: keras.Model, placed: Sequence[Place], hooks: Any) -> Set[str | int] | None:
    """Return the keys of `hooks`; None: all. Raise unless each is on the model, whose places are given."""
    if hooks is None:
        return None
    found = [hook for place in placed for hook in place.hooks]
    there = {key for hook in found for key in _keys(hook)}
    for one in as_list(hooks):
        if _key(one) not in there:
            raise AbsentHookError(model.name, one, sorted({hook.name for hook in found}))
    return {_key(one) for one in as_list(hooks)}


def _those_of(place: Place, chosen: Set[str | int] | None) -> tuple[Hook, ...]:
    """Return those of the place's hooks that have one of the keys; None: all."""
    return tuple(hook for hook in place.hooks if chosen is None or not chosen.isdisjoint(_keys(hook)))


def _key(one: str | type[Hook] | Hook) -> str | int:
    return one if isinstance(one, str) else id(one)


def _keys(hook: Hook) -> Set[str | int]:
    """Return the keys of all that means `hook`: its name, its registered name, its classes, itself."""
    return {hook.name, hook.hook_name, id(hook), *map(id, type(hook).__mro__)}
