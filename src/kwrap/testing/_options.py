"""Checks of a hook's definition and of its options."""

import inspect
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from kwrap._captured import own_options, stored
from kwrap._hook import Hook
from kwrap._registry import registered
from kwrap._wrapper import Wrapper
from kwrap.errors import HookCallError, KwrapError, listed, nearest
from kwrap.testing._check import NotApplicable, Wrong, check
from kwrap.testing._example import Example

if TYPE_CHECKING:
    from kwrap.testing._suite import HookSuite

__all__: list[str] = []


@check(
    where="kwrap.hook", way_out="kwrap_noise decorates Noise and WeightNoise, and not the class that both derive from"
)
def registered_under_its_name(suite: "type[HookSuite]") -> None:
    """A hook is found by its name; its class itself is decorated with `@kwrap.hook`, and not only a parent of it."""
    for hook in suite.hook_classes():
        if not any(entry.hook is hook for entry in registered()):
            raise Wrong(f"{hook.__name__} itself is not registered, so that no saved model can name it")
        namesakes = [entry.hook for entry in registered() if entry.name == hook.hook_name and entry.hook is not hook]
        if namesakes:
            other = f"{namesakes[0].__module__}.{namesakes[0].__qualname__}"
            raise Wrong(f"the name {hook.hook_name!r} is that of {other} as well: give one of them another")


@check(where="kwrap.Hook", way_out="kwrap_prune.Prune says in one line what it does, and what a user has to know below")
def says_what_it_does(suite: "type[HookSuite]") -> None:
    """A hook has a docstring of its own: it is what `kwrap hooks` and the notebook show."""
    for hook in suite.hook_classes():
        if not (hook.__dict__.get("__doc__") or "").strip():
            raise Wrong(f"{hook.__name__} has no docstring")


@check(
    where="kwrap.Hook",
    way_out="kwrap_prune.Prune lists its options under `Args:`; kwrap_noise names them in a sentence",
)
def explains_its_options(suite: "type[HookSuite]") -> None:
    """The docstring of a hook's class, or of a class above it, names every option."""
    for hook in suite.hook_classes():
        text = "\n".join(base.__dict__.get("__doc__") or "" for base in hook.__mro__ if base is not object)
        words = set("".join(c if c.isalnum() or c == "_" else " " for c in text).split())
        if unknown := [name for name in _options_of(hook) if name not in words]:
            raise Wrong(f"the docstring of {hook.__name__} does not name {listed(unknown)}")


@check(where="kwrap.testing.HookSuite", way_out="kwrap_prune's suite has an example for each kind of pruning")
def every_option_is_tried(suite: "type[HookSuite]") -> None:
    """The examples try each option of the hook with a value that is not its default."""
    if not suite.all_examples():
        raise Wrong("there are no examples: examples = [(hook, layer, input), ...]")
    for hook in suite.hook_classes():
        tried: set[str] = set()
        for example in (example for example in suite.all_examples() if type(example.hook) is hook):
            tried |= {name for name in _options_of(hook) if _off_default(example.hook, name)}
        if untried := [name for name in _options_of(hook) if name not in tried]:
            raise Wrong(f"in no example of {hook.__name__} is {listed(untried)} off its default")


@check(
    where="kwrap.errors.OptionValueError", way_out="kwrap_noise raises OptionValueError(self.hook_name, 'stddev', ...)"
)
def bad_options_are_refused(suite: "type[HookSuite]") -> None:
    """A value that cannot be is an error of `kwrap.errors`, at construction, that names the hook and the option."""
    if not suite.bad_options:
        raise NotApplicable("the suite has no `bad_options`")
    for options in suite.bad_options:
        takers = [hook for hook in suite.hook_classes() if set(options) <= set(_all_options_of(hook))]
        if not takers:
            names = ", ".join(hook.__name__ for hook in suite.hook_classes())
            near = _near(options, suite.hook_classes())
            raise Wrong(f"{names} cannot be given {options}: no hook of the suite has options of these names{near}")
        for hook in takers:
            _must_refuse(hook, options)


def _near(options: Mapping[str, Any], hooks: Iterable[type[Hook]]) -> str:
    known = sorted({name for hook in hooks for name in _all_options_of(hook)})
    found = [name for option in options if option not in known for name in nearest(option, known)]
    return f"; near: {listed(found)}" if found else ""


def _must_refuse(hook: type[Hook], options: Any) -> None:
    try:
        hook(**options)
    except KwrapError as error:
        if hook.hook_name not in str(error) or not any(option in str(error) for option in options):
            raise Wrong(f"the error for {options} names not both the hook and the option: {error}") from error
    except Exception as error:
        raise Wrong(f"{options} raise {type(error).__name__}, no error of kwrap.errors: {error}") from error
    else:
        raise Wrong(f"{hook.__name__} takes {options}")


@check(where="kwrap.Hook.get_config", way_out="no hook writes `get_config`: options are captured from `__init__`")
def config_comes_back(example: Example) -> None:
    """A hook that is made from a config has the same config."""
    hook, config = example.hook, example.hook.get_config()
    again = type(hook).from_config(config).get_config()
    if again != config:
        raise Wrong(f"{_unlike(config, again)} came back as another value, or not at all")
    if missing := [name for name in _all_options_of(type(hook)) if name not in config]:
        raise Wrong(f"the config lacks the options {listed(missing)}")


@check(
    where="kwrap.Hook.get_config", way_out="give objects a `get_config` and register them, as kwrap_prune its schedules"
)
def config_is_json(example: Example) -> None:
    """A config consists of JSON values: a saved model is a JSON file."""
    config = example.hook.get_config()
    try:
        text = json.dumps(config)
    except (TypeError, ValueError) as error:
        raise Wrong(f"the config is no JSON: {error}") from error
    back = json.loads(text)
    if back != config:
        raise Wrong(f"{_unlike(config, back)} is another value after a way through JSON")
    if (again := type(example.hook).from_config(back).get_config()) != config:
        raise Wrong(f"{_unlike(config, again)} is another value after a way through JSON")


@check(where="kwrap.Hook", way_out="copy a list or dict before you change it, and keep what changes in variables")
def options_are_left_alone(example: Example) -> None:
    """Options are fixed from construction on: use does not change the config."""
    wrapper = example.wrapped()
    (hook,) = wrapper.hooks
    before = hook.get_config()
    for value in before.values():
        if isinstance(value, list | dict):
            value.clear()  # the caller's own: a config is a copy
    before = hook.get_config()
    if before != example.hook.get_config():
        raise Wrong(
            f"{_unlike(example.hook.get_config(), before)}: get_config gives the hook's own lists or dicts away"
        )
    example.trained(wrapper, 2)
    if (after := hook.get_config()) != before:
        raise Wrong(f"{_unlike(before, after)} changed in training")


@check(where="kwrap.Hook", way_out="pass `name` on: super().__init__(**kwargs)")
def takes_another_name(example: Example) -> None:
    """A hook takes the options that every hook has, and two of them go on one layer under two names."""
    hook = example.new_hook(name="another")
    if hook.name != "another":
        raise Wrong(f"with name='another' it is named {hook.name!r}")
    wrapper = example.wrapped(hook)
    paths = [variable.path for each in wrapper.hooks for variable in each.variables]
    if len(set(paths)) < len(paths):
        raise Wrong(f"two of it on one layer have variables of one path: {listed(paths)}")
    example.call(wrapper)


@check(
    where="kwrap.Hook.migrate", way_out="raise `version` when options change, and override `migrate` for the old ones"
)
def version_has_its_migration(suite: "type[HookSuite]") -> None:
    """`version` is an int from 1 on; one above 1 comes with a `migrate`."""
    for hook in suite.hook_classes():
        if not isinstance(hook.version, int) or isinstance(hook.version, bool) or hook.version < 1:
            raise Wrong(f"{hook.__name__}.version is {hook.version!r}, no int from 1 on")
        if hook.version > 1 and hook.migrate.__func__ is Hook.migrate.__func__:  # type: ignore[attr-defined]
            raise Wrong(f"{hook.__name__} has version {hook.version} and no `migrate` for files of the versions before")


@check(
    where="kwrap.hook", way_out="kwrap_prune.Prune raises TargetError, which says what to do, where it finds no weights"
)
def goes_on_its_layer_types(example: Example) -> None:
    """A hook works on every layer of its `layer_type`, or says why not by an error of `kwrap.errors`."""
    if not isinstance(example.layer, type(example.hook).layer_type):
        raise Wrong(f"layer_type leaves out the example's own layer, a {type(example.layer).__name__}")
    options = {} if example.hook.targets is None else {"targets": None}
    for layer, inputs in _other_layers():
        if not isinstance(layer, type(example.hook).layer_type):
            continue
        layer(inputs)
        try:
            Wrapper(layer, [example.new_hook(**options)])(inputs)
        except HookCallError as error:
            raise Wrong(f"it says that it is for a {type(layer).__name__}, and fails there: {error.error!r}") from error
        except KwrapError as error:
            if example.hook.name not in str(error) and example.hook.hook_name not in str(error):
                raise Wrong(f"the error on a {type(layer).__name__} does not name the hook: {error}") from error


def _other_layers() -> Iterable[tuple[keras.Layer, Any]]:
    flat, steps = np.ones((2, 4), "float32"), np.ones((2, 3, 4), "float32")
    yield keras.layers.Dense(3, name="dense"), flat
    yield keras.layers.Activation("relu", name="activation"), flat
    yield keras.layers.Dropout(0.5, name="dropout"), flat
    yield keras.layers.LayerNormalization(name="norm"), flat
    yield keras.layers.Embedding(5, 4, name="embedding"), np.ones((2, 3), "int32")
    yield keras.layers.Conv1D(4, 2, name="conv"), steps
    yield keras.layers.GRU(2, name="gru"), steps


def _options_of(hook: type[Hook]) -> list[str]:
    """Return the options that are not those of every hook."""
    return [name for name in _all_options_of(hook) if name not in _all_options_of(Hook)]


def _all_options_of(hook: Any) -> Mapping[str, inspect.Parameter]:  # Any, for to mypy a class of Hook has no hash
    return own_options(hook)


def _off_default(hook: Hook, option: str) -> bool:
    default = _all_options_of(type(hook))[option].default
    given = vars(hook)["_options"][option]
    return default is inspect.Parameter.empty or bool(
        stored(type(hook), option, given) != stored(type(hook), option, default)
    )


def _unlike(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Return which options of two configs differ."""
    return listed(sorted(name for name in {*one, *other} if one.get(name) != other.get(name)))
