"""The registry: `@hook` puts a Hook class in under a name; `use` and saved models get it out again.

A class belongs to the plugin that its module belongs to, whoever imported it first, or to the user. Whether a plugin
may be used is asked at each look-up, so that blocking a plugin hides its hooks and a broken one leaves none behind.
"""

import inspect
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, NoReturn, Protocol, TypeVar, final, overload

import keras

from kwrap._captured import copied
from kwrap._function_hook import function_hook
from kwrap._hook import Hook
from kwrap._plugins import Plugin, plugins
from kwrap.errors import (
    AmbiguousHookError,
    HookDefinitionError,
    HookVersionError,
    MissingPluginError,
    SavedFormatError,
    UnknownHookError,
    listed,
)

__all__ = [
    "FORMAT",
    "RegisteredHook",
    "check_format",
    "hook",
    "owner_of",
    "record",
    "registered",
    "resolve",
    "resolve_saved",
    "revive",
    "standing_in",
    "to_install",
    "use",
]

# Of what kwrap writes into configs; raised when an older kwrap would misread it. Files before 0.1.0 do not say it.
FORMAT: Final = 1

HookClass = TypeVar("HookClass", bound=type[Hook])
LayerTypes = type[keras.Layer] | tuple[type[keras.Layer], ...]

# Keyed by name, module and qualified name: what is defined again replaces itself, and no other owner's hook.
_definitions: Final[dict[tuple[str, str, str], type[Hook]]] = {}
_lock: Final = threading.Lock()
_stand_in: Final[ContextVar[Callable[[Mapping[str, Any], str], Hook] | None]] = ContextVar("stand_in", default=None)


@final
@dataclass(frozen=True)
class RegisteredHook:
    """A hook that can be looked up: its name, its class, its plugin (`None`: the user's own), the layers it is for."""

    name: str
    hook: type[Hook]
    plugin: str | None
    layer_types: tuple[type[keras.Layer], ...]


class _Decorator(Protocol):
    @overload
    def __call__(self, definition: HookClass, /) -> HookClass: ...
    @overload
    def __call__(self, definition: Callable[..., Any], /) -> type[Hook]: ...


@overload
def hook(*, layer_type: LayerTypes, name: str | None = None) -> _Decorator: ...
@overload
def hook(definition: Any, /) -> NoReturn: ...
def hook(definition: Any = None, /, *, layer_type: Any = None, name: str | None = None) -> _Decorator:
    """Register a function or a Hook class as a hook for layers of `layer_type`; a function becomes a Hook class.

    The default name is the function's, or the class's in snake case. Defining the same function or class again replaces
    it; a name that has another owner already stays registered twice.

    Raises:
        HookDefinitionError: it is neither a function nor a Hook class, or does not follow the contract of `Hook`; the
            layer type is no class of Keras 3; the name cannot be one.
    """
    if definition is not None:
        title = str(getattr(definition, "__name__", definition))
        raise HookDefinitionError(title, "say for which layers it is: @kwrap.hook(layer_type=...)")

    def register(definition: Any) -> Any:
        title = name or str(getattr(definition, "__name__", definition))
        layer_types = _layer_types(title, layer_type)
        hook_class = _hook_class(title, definition)
        _register(hook_class, hook_class.hook_name if name is None else name, layer_types)
        return hook_class

    return register


def use(name: str, /, **options: Any) -> Hook:
    """Return an instance of a hook that is registered or installed.

    Raises:
        UnknownHookError: there is no such hook; the nearest names are in it.
        AmbiguousHookError: two owners have a hook of this name.
        OptionError: the hook has no such option, or cannot store its value.
    """
    return resolve(name)(**options)


def registered() -> tuple[RegisteredHook, ...]:
    """Return the hooks that can be looked up, in name order; loads the plugins."""
    plugins.load()
    with _lock:
        definitions = tuple(_definitions.items())
    found = []
    for (name, _, _), hook_class in definitions:
        plugin = owner_of(hook_class)
        if plugin is None or plugin.usable:
            found.append(RegisteredHook(name, hook_class, plugin.name if plugin else None, hook_class.layer_type))
    return tuple(sorted(found, key=lambda entry: (entry.name, entry.plugin or "", entry.hook.__module__)))


def resolve(name: str) -> type[Hook]:
    """Return the hook class of this name; loads the plugins.

    Raises:
        UnknownHookError: there is no such hook.
        AmbiguousHookError: two owners have one, neither of them blocked.
    """
    found = [entry for entry in registered() if entry.name == name]
    if not found:
        plugins.rescan()  # What was installed since the metadata were read, as after `pip install` in a notebook.
        found = [entry for entry in registered() if entry.name == name]
    if not found:
        raise UnknownHookError(name, _names(), _unusable(name))
    return _only(name, found)


def resolve_saved(name: str, plugin: str | None, path: str, version: str | None) -> type[Hook]:
    """Return the class of a saved hook: of its plugin, or of the user's own if it had none; loads the plugins.

    Raises:
        MissingPluginError: the plugin is not installed, blocked or broken, or has no such hook; or it is the user's own
            and was not defined before loading.
        AmbiguousHookError: the user's own hooks, or the plugin's, have the name twice.
    """
    found = [entry for entry in registered() if (entry.name, entry.plugin) == (name, plugin)]
    if not found and plugin is not None:
        plugins.rescan()
        found = [entry for entry in registered() if (entry.name, entry.plugin) == (name, plugin)]
    if not found:
        raise MissingPluginError(name, path, plugin, version, _why_missing(plugin, version))
    return _only(name, found)


def check_format(config: Mapping[str, Any]) -> None:
    """Raise SavedFormatError if a later kwrap wrote a saved `config`, in a format that this one does not know."""
    saved = config.get("format", 1)
    if not isinstance(saved, int) or saved > FORMAT:
        raise SavedFormatError(saved, FORMAT)


def record(hook: Hook) -> dict[str, Any]:
    """Return what a saved model keeps of a hook: its name, version, options, plugin and the plugin's version."""
    owner = owner_of(type(hook))
    return {
        "hook": hook.hook_name,
        "version": hook.version,
        "plugin": owner.name if owner else None,
        "plugin_version": owner.origin if owner else None,
        "config": hook.get_config(),
        "effect": effect_of(hook),
    }


def effect_of(hook: Hook) -> dict[str, Any]:
    """Return what a file is to say of a hook to those who lack it: what the model is without it.

    And its trainable variables, for an optimizer's slots have no names in a file, but an order.
    """
    return {
        "methods": [method for method in ("call", "parametrize", "constrain") if hook.overrides(method)],
        "observes": hook.observes,
        "changes_output": hook.changes_output,
        "freezes": hook.freezes,
        "trainable": [[list(variable.shape), variable.dtype] for variable in hook.trainable_variables],
    }


def revive(saved: Mapping[str, Any], path: str) -> Hook:
    """Return the hook of a saved model's record; options of an older version go through the class's `migrate`.

    Raises:
        HookVersionError: it was saved in a newer version, or in an older one that the class does not read.
        MissingPluginError, AmbiguousHookError: as `resolve_saved`.
    """
    name, plugin, version = saved["hook"], saved["plugin"], saved["version"]
    try:
        hook_class = resolve_saved(name, plugin, path, saved["plugin_version"])
    except MissingPluginError as error:
        if (stand_in := _stand_in.get()) is not None:
            return stand_in(saved, path)
        way_round = f"{error.problem}; or kwrap.load_model(path, missing='drop')"
        raise MissingPluginError(error.hook, error.path, error.plugin, error.version, way_round) from error
    if version > hook_class.version:
        raise HookVersionError(name, path, version, hook_class.version, plugin)
    options = saved["config"]
    if version < hook_class.version:
        options = hook_class.migrate(copied(options), version)
    return hook_class.from_config(options)


@contextmanager
def standing_in(stand_in: Callable[[Mapping[str, Any], str], Hook]) -> Iterator[None]:
    """Inside the context, let `stand_in(record, path)` be the hook of a record whose own cannot be had."""
    token = _stand_in.set(stand_in)
    try:
        yield
    finally:
        _stand_in.reset(token)


def owner_of(hook_class: type[Hook]) -> Plugin | None:
    """Return the plugin that a hook class belongs to by its module, `None` for the user's own."""
    return plugins.owner(hook_class.__module__)


def _hook_class(title: str, definition: Any) -> type[Hook]:
    if inspect.isclass(definition) and issubclass(definition, Hook):
        return definition
    if inspect.isfunction(definition):
        return function_hook(definition)
    raise HookDefinitionError(title, f"expected a function or a subclass of kwrap.Hook, got {definition!r}")


def _layer_types(title: str, layer_type: Any) -> tuple[type[keras.Layer], ...]:
    layer_types = layer_type if isinstance(layer_type, tuple) else (layer_type,)
    for given in layer_types:
        if inspect.isclass(given) and issubclass(given, keras.Layer):
            continue
        problem = f"layer_type={given!r} is not a layer class"
        if any(base.__module__.startswith("tf_keras") for base in getattr(given, "__mro__", type(given).__mro__)):
            problem += " of Keras 3 but of tf_keras, which is Keras 2; take the class from keras.layers"
        elif isinstance(given, keras.Layer):
            problem += f" but a layer: give {type(given).__name__}"
        raise HookDefinitionError(title, problem)
    if not layer_types:
        raise HookDefinitionError(title, "layer_type is empty: give a layer class, or keras.Layer for every layer")
    return layer_types


def _register(hook_class: type[Hook], name: str, layer_types: tuple[type[keras.Layer], ...]) -> None:
    # A name is part of paths ("conv/prune"), patterns and environment variables.
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise HookDefinitionError(name, "a hook's name consists of letters, digits, '_', '-' and '.'")
    with _lock:
        for (other, _, _), known in _definitions.items():
            if known is hook_class and other != name:
                raise HookDefinitionError(name, f"the class is registered as {other!r} already; one class has one name")
        hook_class.hook_name, hook_class.layer_type = name, layer_types
        _definitions[name, hook_class.__module__, hook_class.__qualname__] = hook_class


def _only(name: str, found: list[RegisteredHook]) -> type[Hook]:
    if len(found) > 1:
        raise AmbiguousHookError(name, [_described(entry.hook) for entry in found])
    return found[0].hook


def _described(hook_class: type[Hook]) -> str:
    """Return what tells two hooks of one name apart: the class to import, and its owner."""
    owner = owner_of(hook_class)
    return f"{hook_class.__module__}.{hook_class.__qualname__}" + (f" of plugin {owner}" if owner else "")


def _names() -> list[str]:
    return list(dict.fromkeys(entry.name for entry in registered()))


def _unusable(name: str) -> list[str]:
    """Return a sentence for each plugin that has, or by its name may have, the hook `name` but cannot be used."""
    with _lock:
        modules = {hook_class.__module__ for (known, _, _), hook_class in _definitions.items() if known == name}
    owners = {owner.name: owner for module in modules if (owner := plugins.owner(module))}
    namesakes = {plugin.name: plugin for plugin in plugins.list() if plugin.name == name and not plugin.usable}
    return [f"There is the plugin {plugin}, {plugin.unusable_because}" for plugin in {**namesakes, **owners}.values()]


def _why_missing(plugin: str | None, version: str | None) -> str:
    """Return why a saved hook cannot be found and the way out, for the end of a sentence."""
    if plugin is None:
        return "which no plugin has: define it (@kwrap.hook), or import the module that does, before loading"
    installed = [known for known in plugins.list() if known.name == plugin]
    if not installed:
        return f"which is not installed: pip install {_distribution(plugin, version)}"
    for known in installed:
        if not known.usable:
            return known.unusable_because
    hooks = listed(entry.name for entry in registered() if entry.plugin == plugin)
    return f"of which {installed[0].origin} is installed, and has no such hook; it has {hooks}"


def to_install(error: MissingPluginError) -> str | None:
    """Return the package to install for a hook that cannot be had; None where that is not what is missing."""
    if error.plugin is None or any(known.name == error.plugin for known in plugins.list()):
        return None
    return _distribution(error.plugin, error.version)


def _distribution(plugin: str, version: str | None) -> str:
    """Return the package that a file says its plugin is in, where that can be the name of one."""
    named = version.split()[0] if version and " " in version else f"kwrap-{plugin}"
    # A file's word becomes a command that people copy.
    return named if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}", named) else "the package that has it"
