"""Plan: which hooks go on which layers of a model. Data, shown before it is applied."""

import copy
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import keras

from kwrap import _keras
from kwrap._follow import follow
from kwrap._hook import Hook, Rule, Where, copies_of
from kwrap._plugins import plugins
from kwrap._registry import registered, use
from kwrap._selection import Place, Skipped, as_list, places, select
from kwrap._surgery import Holders, replace_layers
from kwrap._weights import stored_targets
from kwrap._wrapper import Wrapper, check_hooks, check_registered
from kwrap.errors import (
    HookTypeError,
    ModelTypeError,
    NoHooksError,
    PlanError,
    WrapperStateError,
)
from kwrap.tables import Cell, Table, Tabular

__all__ = ["Entry", "HooksLike", "Plan", "Problem", "as_rules", "check_model", "current_plan", "make_plan"]

HookLike: TypeAlias = str | type[Hook] | Hook | Rule
HooksLike: TypeAlias = HookLike | Sequence[HookLike]


_COLUMNS = ("layer", "type", "weights", "hooks")


@dataclass(frozen=True)
class Problem:
    """What a plugin has against a plan, from its `kwrap_check_plan`."""

    message: str
    path: str | None = None
    plugin: str | None = None

    def __str__(self) -> str:
        at = f"{self.path}: " if self.path else ""
        return f"{at}{self.message}" + (f" (says {self.plugin})" if self.plugin else "")


@dataclass(frozen=True, eq=False)
class Entry:
    """What a plan does at one layer."""

    place: Place
    hooks: tuple[Hook, ...]

    @property
    def path(self) -> str:
        """The layer's path."""
        return self.place.path

    @property
    def layer(self) -> keras.Layer:
        """The layer itself, not its Wrapper."""
        return self.place.layer

    @property
    def all_hooks(self) -> tuple[Hook, ...]:
        """The hooks that are there, and after them those that the plan adds."""
        return (*self.place.hooks, *self.hooks)

    @property
    def weights(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the weights that the hooks change or freeze, by name."""
        hooks = (hook for hook in self.all_hooks if hook.acts_on_weights() or hook.freezes)
        targets = (target for hook in hooks for target in hook.select_targets(self.layer, self.path))
        return {target.name: target.shape for target in targets}

    def as_dict(self) -> dict[str, Any]:
        """Return the entry as JSON values."""
        return {
            "path": self.path,
            "also": list(self.place.also),
            "layer": type(self.layer).__name__,
            "weights": {name: list(shape) for name, shape in self.weights.items()},
            "hooks": [
                {"name": hook.name, "added": hook in self.hooks, "config": hook.get_config()} for hook in self.all_hooks
            ],
        }


class Plan(Tabular):
    """Which hooks go on which layers of `model`, in which order, and what was left out and why.

    Shown as a tree of layers by `print`, by rich and in a notebook; `rows`, `as_dict` and `to_json` give it as data.
    """

    def __init__(
        self, model: keras.Model, entries: Sequence[Entry], skipped: Sequence[Skipped], all_places: Iterable[Place]
    ) -> None:
        self.model = model
        self.entries = tuple(entries)
        self.skipped = tuple(skipped)
        self._holders = {place.path: type(place.layer).__name__ for place in all_places}

    def apply(self) -> keras.Model:
        """Put the hooks on the model, in place; return the model.

        Everything is built and checked before anything changes; a failure in the middle leaves the model as it was.

        Raises:
            WrapperStateError: the model is no longer what the plan was made of.
            HookCallError: a hook raised while it was built or checked.
            OutputChangedError: a hook would change its layer's output unannounced.
        """
        with self.model.distribute_strategy.scope():  # a hook's variables belong where the model's are
            return self._applied()

    def _applied(self) -> keras.Model:
        added = [entry for entry in self.entries if entry.hooks]
        _check_current(self.model, added)
        wrappers = [_wrapper(entry) for entry in added]
        # All are built by now: a hook may look at what others of its kind are on.
        for wrapper in wrappers:
            wrapper.initialize_hooks()
        _check_calls(added, wrappers)
        pairs = [
            (entry.layer, wrapper)
            for entry, wrapper in zip(added, wrappers, strict=True)
            if entry.place.wrapper is None
        ]
        alive = Holders(self.model)
        holders, above = alive.of(layer for layer, _ in pairs), alive.above(entry.layer for entry in added)
        with ExitStack() as undo:
            undo.callback(_values_restorer(wrappers))
            undo.callback(replace_layers, holders, [(new, old) for old, new in pairs])
            replace_layers(holders, pairs)
            for entry, wrapper in zip(added, wrappers, strict=True):
                _engage(entry, wrapper, undo)
            follow(above, undo)
            undo.pop_all()
        return self.model

    @property
    def rules(self) -> list[Rule]:
        """The hooks that the plan adds as rules, each with one layer: to leave some out, or plan them with others."""
        return [hook.at(re.compile(rf"\A{re.escape(entry.path)}\Z")) for entry in self.entries for hook in entry.hooks]

    def left_out(self, hook: str, reasons: Mapping[str, str]) -> "Plan":
        """Return this plan with more layers among those skipped: `reasons` by their paths, of the hook named `hook`.

        For a plugin that chooses layers by itself, as by a model's graph, and says what it left alone.
        """
        plan = copy.copy(self)
        plan.skipped = (*self.skipped, *(Skipped(path, hook, reason) for path, reason in reasons.items()))
        return plan

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "model": self.model.name,
            "entries": [entry.as_dict() for entry in self.entries],
            "skipped": [{"path": item.path, "hook": item.hook, "reason": item.reason} for item in self.skipped],
        }

    def to_json(self, indent: int | None = 2) -> str:
        """Return the plan as JSON."""
        return json.dumps(self.as_dict(), indent=indent)

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Return (path, type, weights, hooks) of each entry as text; hooks that the plan adds are marked with +."""
        rows = []
        for entry in self.entries:
            weights = ", ".join(f"{name} {shape}" for name, shape in entry.weights.items())
            hooks = " > ".join(("+" if hook in entry.hooks else "") + hook.name for hook in entry.all_hooks)
            rows.append((entry.path, type(entry.layer).__name__, weights, hooks))
        return rows

    def table(self) -> Table:
        """Return the entries, and what holds them, as a tree of layers."""
        left_out = self._left_out()
        folded = f"skipped: {len(self.skipped)}"
        return Table(f"plan for {self.model.name}", _COLUMNS, self._tree(), notes=left_out, folded=folded)

    def _tree(self) -> list[tuple[Cell, str, str, str]]:
        """Return a row for each entry and for what holds it, parents first."""
        tree: list[tuple[Cell, str, str, str]] = []
        shown: set[str] = set()
        for entry, (path, kind, weights, hooks) in zip(self.entries, self.rows(), strict=True):
            *above, name = path.split("/")
            for depth, holder in enumerate(above):
                holder_path = "/".join(above[: depth + 1])
                if holder_path not in shown:
                    shown.add(holder_path)
                    tree.append((Cell(holder, depth, holder_path), self._holders[holder_path], "", ""))
            shown.add(path)
            also = f" = {', '.join(entry.place.also)}" if entry.place.also else ""
            tree.append((Cell(name + also, len(above), path), kind, weights, hooks))
        return tree

    def _left_out(self) -> list[str]:
        """Return a line for each reason to skip layers."""
        paths: dict[tuple[str, str], list[str]] = {}
        for item in self.skipped:
            paths.setdefault((item.reason, item.hook), []).append(item.path)
        return [f"skipped {', '.join(those)}: {reason} ({hook})" for (reason, hook), those in paths.items()]


def make_plan(
    function: str,
    model: keras.Model,
    hooks: HooksLike | None,
    *,
    where: Where | None,
    exclude: Where | None,
    recursive: bool,
) -> Plan:
    """Return the checked plan of putting `hooks` on `model`; `function` is named in errors."""
    check_model(model)
    rules = as_rules(function, hooks, where, exclude)
    all_places = places(model, recursive=recursive)
    # A model of a `train_step` alone, without `call`, is never built itself; what it holds is.
    if not model.built and not (all_places and all(place.layer.built for place in all_places)):
        raise WrapperStateError(_not_built(f"model {model.name!r}"))
    chosen: dict[int, tuple[Place, list[Hook]]] = {}
    skipped: list[Skipped] = []
    for rule in rules:
        meant, left_out = select(rule, all_places)
        skipped.extend(left_out)
        for place in meant:
            chosen.setdefault(id(place.layer), (place, []))[1].append(rule.hook)
    entries = [Entry(place, tuple(chosen[id(place.layer)][1])) for place in all_places if id(place.layer) in chosen]
    for entry in entries:
        _check_entry(entry)
    plan = Plan(model, entries, skipped, all_places)
    problems = [
        replace(problem, plugin=problem.plugin or plugin)
        for plugin, answer in plugins.answers("kwrap_check_plan", model=model, plan=plan)
        for problem in answer
    ]
    if problems:
        raise PlanError(problems)
    return plan


def current_plan(model: keras.Model) -> Plan:
    """Return what is on `model` now."""
    check_model(model)
    all_places = places(model)
    return Plan(model, [Entry(place, ()) for place in all_places if place.hooks], [], all_places)


def check_model(model: object) -> None:
    """Raise unless `model` is a Keras 3 model."""
    if isinstance(model, keras.Model):
        return
    for module in (base.__module__ for base in type(model).__mro__):
        if module.startswith(("tf_keras", "keras.engine", "keras.src.engine", "tensorflow.python.keras")):
            raise ModelTypeError(
                f"{model!r} is a model of {module.partition('.')[0]} (Keras 2); kwrap works with Keras "
                f"{keras.__version__}. Build it with `import keras`."
            )
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    raise ModelTypeError(f"expected a keras.Model, got {model!r} (a {kind})")


def as_rules(function: str, hooks: HooksLike | None, where: Where | None, exclude: Where | None) -> list[Rule]:
    """Return the rules that `hooks` stand for; a rule's own `where` and `exclude` win over the arguments."""
    given = as_list(hooks)
    if not given:
        raise NoHooksError(function, [hook.name for hook in registered()])
    rules = [_as_rule(function, hook, where, exclude) for hook in given]
    for rule in rules:
        check_registered(rule.hook)
    return rules


def _as_rule(function: str, given: Any, where: Where | None, exclude: Where | None) -> Rule:
    if isinstance(given, Rule):
        return Rule(
            given.hook,
            where if given.where is None else given.where,
            exclude if given.exclude is None else given.exclude,
        )
    if isinstance(given, str):
        return Rule(use(given), where, exclude)
    if isinstance(given, type) and issubclass(given, Hook):
        return Rule(given(), where, exclude)
    if isinstance(given, Hook):
        return Rule(given, where, exclude)
    raise HookTypeError(function, given)


def _check_entry(entry: Entry) -> None:
    layer, path = entry.layer, entry.path
    if not layer.built:
        raise WrapperStateError(f"{_not_built(f'layer {path!r}')}. To leave out one that is never called: exclude=...")
    check_hooks(layer, entry.all_hooks, path)


def _not_built(what: str) -> str:
    return f"{what} is not built: give the model an Input, or call it once on data, before wrapping"


# --- applying --------------------------------------------------------------------------------------------------------


def _check_current(model: keras.Model, entries: Sequence[Entry]) -> None:
    """Raise unless the entries' places still are as the plan saw them."""
    now = {id(place.held): place.hooks for place in places(model)}
    for entry in entries:
        if now.get(id(entry.place.held)) != entry.place.hooks:
            raise WrapperStateError(
                f"layer {entry.path!r} was wrapped or unwrapped since the plan was made: make the plan anew"
            )


def _wrapper(entry: Entry) -> Wrapper:
    """Return a Wrapper with copies of the entry's hooks, built; the model does not know it yet."""
    return Wrapper(entry.layer, [*entry.place.hooks, *copies_of(entry.hooks)], path=entry.path)


def _check_calls(entries: Sequence[Entry], wrappers: Sequence[Wrapper]) -> None:
    """Run new hooks' `call` symbolically for each call that a graph recorded of their layers."""
    calls = [
        (wrapper, _recorded_call(entry.layer, *call))
        for entry, wrapper in zip(entries, wrappers, strict=True)
        if any(hook.overrides("call") for hook in entry.hooks)
        for call in _keras.recorded_calls(entry.place.held)
    ]

    def check(tensors: Sequence[Any]) -> None:
        for (wrapper, _), (args, kwargs, outputs) in zip(calls, tensors, strict=True):
            wrapper.check_call(args, kwargs, outputs)

    # All in one trace: each of its own would take longer than what is traced.
    _keras.trace(check, [call for _, call in calls])


def _recorded_call(layer: keras.Layer, args: Any, kwargs: Any, flat_outputs: Any) -> tuple[Any, Any, Any]:
    """Return (args, kwargs, outputs) of a call, the outputs nested as the layer gives them."""
    structure = layer.compute_output_spec(*args, **kwargs)
    return args, kwargs, keras.tree.pack_sequence_as(structure, flat_outputs)


def _values_restorer(wrappers: Iterable[Wrapper]) -> Callable[[], None]:
    """Return what gives the weights that hooks change as stored their present values back."""
    targets = [target for wrapper in wrappers for target in stored_targets(wrapper.hooks)]
    values = [(target.variable, _keras.read(target.variable)) for target in targets]

    def restore() -> None:
        for variable, value in values:
            variable.assign(value)

    return restore


def _engage(entry: Entry, wrapper: Wrapper, undo: ExitStack) -> None:
    """Let the new hooks act, through the Wrapper that is there or the new one."""
    old = entry.place.wrapper
    if old is None:
        undo.callback(wrapper.disengage)
        wrapper.make_ready()
    else:
        if old.weight_hooks.engaged:
            undo.callback(old.engage)
        undo.callback(old.set_hooks, tuple(old.hooks))
        old.set_hooks(wrapper.hooks)
        old.make_ready()
