"""Selection: the layers of a model, their paths, and which of them a rule means."""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from kwrap import _keras
from kwrap._hook import Hook, Rule, Where
from kwrap._surgery import fixed_layers
from kwrap._targets import how_to_teach, weight_targets
from kwrap._wrapper import Wrapper
from kwrap.errors import FixedLayerError, LayerTypeError, RuleError, listed, nearest

__all__ = ["Place", "Skipped", "as_list", "find_layers", "is_meant", "matches", "places", "select"]


# A layer that is held in many places, as in a chain of layers that each hold the one before, is told by its first ones.
_MOST_PATHS = 8


@dataclass(frozen=True, eq=False)
class Place:
    """A layer's place in a model: names joined by "/", the model's own left out.

    Where a path would stand twice, the second layer's ends in "#2"; what it holds lies below that. A layer reached by
    several ways has one place: `also` are the paths besides the first.
    """

    path: str
    layer: keras.Layer
    wrapper: Wrapper | None
    holders: tuple[keras.Layer, ...]
    hooks: tuple[Hook, ...] = ()
    also: tuple[str, ...] = ()

    @property
    def held(self) -> keras.Layer:
        """What stands in the model: the Wrapper, or the layer itself."""
        return self.layer if self.wrapper is None else self.wrapper

    @property
    def paths(self) -> tuple[str, ...]:
        """All paths, the first one first."""
        return (self.path, *self.also)


@dataclass(frozen=True)
class Skipped:
    """A layer that a rule looked at and left out."""

    path: str
    hook: str
    reason: str


@dataclass(frozen=True, eq=False)
class _Found:
    """A layer or Wrapper, and how it was reached: its holders by their ids, its paths."""

    held: keras.Layer
    holders: dict[int, keras.Layer] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)

    def place(self) -> Place:
        """Return where it was found."""
        wrapper = self.held if isinstance(self.held, Wrapper) else None
        layer, hooks = (wrapper.layer, tuple(wrapper.hooks)) if wrapper else (self.held, ())
        path, *also = self.paths
        return Place(path, layer, wrapper, tuple(self.holders.values()), hooks, tuple(also))


def places(model: keras.Layer, *, recursive: bool = True) -> list[Place]:
    """Return the places of a model's layers, parents before what they hold; no input layers, no RNN cells."""
    found: dict[int, _Found] = {}
    _gather(model, "", recursive, found, {}, frozenset())
    return [one.place() for one in found.values()]


def _gather(
    holder: keras.Layer,
    prefix: str,
    recursive: bool,
    found: dict[int, _Found],
    taken: dict[str, int],
    above: frozenset[int],
) -> None:
    above |= {id(holder)}
    for held in _keras.sublayers(holder):
        if isinstance(held, keras.layers.InputLayer | Hook):
            continue
        known = found.setdefault(id(held), _Found(held))
        known.holders[id(holder)] = holder
        if len(known.paths) == _MOST_PATHS:
            continue
        path = _unique(f"{prefix}{held.name}", taken)
        known.paths.append(path)
        layer = held.layer if isinstance(held, Wrapper) else held
        # A recurrent layer's cell is part of it: its weights are the layer's targets.
        if recursive and id(layer) not in above and not isinstance(layer, keras.layers.RNN):
            _gather(layer, f"{path}/", recursive, found, taken, above)


def _unique(path: str, taken: dict[str, int]) -> str:
    """Return `path`, or what it is told by where it stands twice; `taken` counts how often each stood."""
    unique = path
    while unique in taken:
        taken[path] += 1
        unique = f"{path}#{taken[path]}"
    taken[unique] = 1
    return unique


def select(rule: Rule, all_places: Sequence[Place]) -> tuple[list[Place], list[Skipped]]:
    """Return the places that `rule` means, and those that it looked at and left out.

    Raises:
        RuleError: it means none, or a part of it none, as a misspelt name in a list, with the nearest paths; or a layer
            that it gives the path of cannot have the hook.
        LayerTypeError: all that its pattern matches are of types that the hook is not made for.
        FixedLayerError: it has a `where`, and means a layer that is held where no Wrapper can be put in its place.
    """
    named = _named(str(rule), "where", rule.where, all_places)
    excluded = _named(str(rule), "exclude", rule.exclude, all_places)
    looked_at = [place for place in all_places if rule.where is None or id(place) in named]
    if not looked_at:
        raise RuleError(str(rule), "matches no layer of the model", _near(rule.where, all_places))
    chosen, skipped = [], []
    for place in looked_at:
        reason = _EXCLUDED if id(place) in excluded else _why_not(rule, place)
        if reason is None:
            chosen.append(place)
        elif rule.where is not None or _keras.has_own_weights(place.layer):
            skipped.append(Skipped(place.path, rule.hook.name, reason))
    chosen, fixed = _replaceable(rule, chosen)
    skipped.extend(fixed)
    if not chosen:
        _raise_none_left(rule, looked_at, skipped)
    _check_by_name(rule, skipped)
    return chosen, skipped


def find_layers(model: keras.Model, where: Where) -> dict[str, keras.Layer]:
    """Return the layers that `where` names, by their paths, in the model's order; told as for `wrap_model`.

    The layers themselves, not their Wrappers; a layer that holds layers is named by itself, not with what it holds.

    Raises:
        RuleError: it names none, or a part of it none, as a misspelt name in a list, with the nearest paths.
    """
    all_places = places(model)
    named = _named("find_layers", "where", where, all_places)
    return {place.path: place.layer for place in all_places if id(place) in named}


def _named(owner: str, argument: str, where: Where | None, all_places: Sequence[Place]) -> set[int]:
    """Return the ids of the places that `where` names; raise if a part of it names none."""
    by_path = {path: place for place in all_places for path in place.paths}
    named: set[int] = set()
    for part in as_list(where):
        if isinstance(part, str) and part in by_path and not _is_pattern(part):  # lists of paths may be long
            found = [by_path[part]]
        else:
            found = [place for place in all_places if matches(part, place)]
        if not found:
            problem = f"{argument}={part!r} matches no layer of the model"
            raise RuleError(owner, problem, _near(part, all_places))
        named.update(map(id, found))
    return named


_EXCLUDED = "excluded"
_OUT_OF_REACH = "hold it in an attribute, list, tuple or dict alone, so that a Wrapper can be put in its place"


def _replaceable(rule: Rule, chosen: Sequence[Place]) -> tuple[list[Place], list[Skipped]]:
    """Part places into those that can have a Wrapper and those that a rule without `where` has to leave out."""
    holders = (holder for place in chosen if place.wrapper is None for holder in place.holders)
    fixed = fixed_layers({id(holder): holder for holder in holders}.values())
    replaceable, skipped = [], []
    for place in chosen:
        keys = ((id(holder), id(place.layer)) for holder in place.holders)
        error = next((FixedLayerError(place.path, *fixed[key]) for key in keys if key in fixed), None)
        if error is None:
            replaceable.append(place)
        elif rule.where is None:
            skipped.append(Skipped(place.path, rule.hook.name, f"held {error.how}; {_OUT_OF_REACH}"))
        else:
            raise error
    return replaceable, skipped


def is_meant(rule: Rule, place: Place) -> bool:
    """Tell whether `rule` means the place, whatever it means besides."""
    excluded = rule.exclude is not None and matches(rule.exclude, place)
    return (rule.where is None or matches(rule.where, place)) and not excluded and _why_not(rule, place) is None


def as_list(given: Any) -> list[Any]:
    """Return what was given alone, or in a list, or not at all (None), as a list."""
    if given is None:
        return []
    return list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]


def matches(where: Where, place: Place) -> bool:
    """Tell whether `where` names the place."""
    if isinstance(where, type):
        return isinstance(place.layer, where)
    if isinstance(where, str):
        return any(_pattern(where).fullmatch(path) for path in place.paths)
    if isinstance(where, re.Pattern):
        return any(where.search(path) for path in place.paths)
    if isinstance(where, Sequence):
        return any(matches(part, place) for part in where)
    if callable(where) and not isinstance(where, keras.Layer):
        return any(where(place.layer, path) for path in place.paths)
    raise RuleError(
        f"where={where!r}",
        "is not a layer class, a pattern on the path, a compiled regex, a callable (layer, path) -> bool, or a list of "
        "them",
    )


def _is_pattern(text: str) -> bool:
    return "*" in text or "?" in text


@functools.lru_cache  # asked at each path of a model
def _pattern(text: str) -> re.Pattern[str]:
    """Compile a pattern on paths: `*` within a name, `**` across `/`."""
    parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(parts.get(part, re.escape(part)) for part in re.split(r"(\*\*/|\*\*|\*|\?)", text)))


def _why_not(rule: Rule, place: Place) -> str | None:
    hook, layer = rule.hook, place.layer
    if not isinstance(layer, hook.layer_type):
        return f"a {type(layer).__name__}; the hook is made for {', '.join(cls.__name__ for cls in hook.layer_type)}"
    if not hook.overrides("call") and hook.acts_on_weights():
        if not layer.built and not _keras.sublayers(layer):
            return None  # it has weights, of which nothing is known yet: the plan says to build it
        return None if hook.select_targets(layer, place.path) else _why_no_target(layer)
    named = rule.where is not None or any(
        isinstance(layer, cls) for cls in hook.layer_type if cls is not keras.layers.Layer
    )
    return (
        None
        if named or not _keras.sublayers(layer) or isinstance(layer, keras.layers.RNN)
        else "holds layers; name it with where=... to put the hook on it"
    )


def _why_no_target(layer: keras.Layer) -> str:
    if not _keras.has_own_weights(layer):
        return "has no weights of its own"
    if not weight_targets.is_taught(layer):
        return how_to_teach(layer)
    return "none of its own weights is a target of the hook"


def _raise_none_left(rule: Rule, looked_at: Sequence[Place], skipped: Sequence[Skipped]) -> None:
    first = looked_at[0]
    if rule.where is not None and not any(isinstance(place.layer, rule.hook.layer_type) for place in looked_at):
        raise LayerTypeError(
            rule.hook.name, first.path, type(first.layer).__name__, [cls.__name__ for cls in rule.hook.layer_type]
        )
    reasons = listed((f"{item.path}: {item.reason}" for item in skipped), limit=6)
    raise RuleError(str(rule), f"leaves no layer ({reasons})")


def _check_by_name(rule: Rule, skipped: Sequence[Skipped]) -> None:
    """Raise if a layer is left out that the rule names by its path, and not by a pattern that names others too."""
    names = {part for part in as_list(rule.where) if isinstance(part, str)}
    for item in skipped:
        if item.path in names and item.reason != _EXCLUDED:
            raise RuleError(str(rule), f"{item.path!r} cannot have the hook: {item.reason}")


def _near(where: Where | None, all_places: Sequence[Place]) -> list[str]:
    paths = [path for place in all_places for path in place.paths]
    return (nearest(where, paths, 5) if isinstance(where, str) else []) or paths[:5]
