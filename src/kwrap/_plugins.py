"""Plugins: which are installed, which may be used, and loading them one at a time.

pluggy checks a plugin's answers against `kwrap.hookspecs` and calls them. Loading is done here, and each plugin has a
`PluginManager` of its own: pluggy's loader stops at the first broken entry point, keeps a plugin that failed its
checks, and drops the second of two equal names in silence.
"""

import os
import threading
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from importlib.metadata import version as version_of
from typing import Any, Final, Literal, final

import pluggy
from packaging.requirements import InvalidRequirement, Requirement

from kwrap import hookspecs
from kwrap.errors import KwrapError, PluginAnswerError, PluginWarning, UnknownPluginError, listed, nearest

__all__ = ["GROUP", "Plugin", "Plugins", "plugins"]

GROUP: Final = "kwrap"
_QUESTIONS: Final = tuple(name for name in hookspecs.__all__ if name.startswith("kwrap_"))

Status = Literal["installed", "loaded", "blocked", "broken", "incompatible"]
Answers = list[tuple[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """An installed plugin, and what has become of it.

    `error` is why it is broken, with its traceback; `needs` which kwrap its distribution asks for (">=0.2"), if this is
    not one: it is incompatible then, and not loaded.
    """

    name: str
    module: str
    distribution: str
    version: str
    status: Status = "installed"
    error: BaseException | None = None
    needs: str | None = None

    @property
    def origin(self) -> str:
        """Return the distribution and its version: `kwrap-prune 0.2`."""
        return f"{self.distribution} {self.version}"

    @property
    def usable(self) -> bool:
        """Tell whether the plugin's hooks can be looked up: neither blocked, nor broken, nor incompatible."""
        return self.status in ("installed", "loaded")

    @property
    def unusable_because(self) -> str:
        """Return why the plugin's hooks cannot be looked up, and the way out; for the end of a sentence."""
        if self.status == "blocked":
            way_out = f"kwrap.plugins.unblock({self.name!r}), or change KWRAP_BLOCK or KWRAP_PLUGINS"
            return f"which is blocked: {way_out} in the environment"
        if self.status == "incompatible":
            return f"which {_unmet(self)}"
        return f"which is broken: {_reason(self)}"

    def __str__(self) -> str:
        return f"{self.name} ({self.origin})"


@final
class Plugins:
    """The installed plugins, found by entry point and loaded when a hook or an answer is first looked up.

    - Listing, blocking and asking for an owner import nothing.
    - Each plugin is loaded once, in name order, each alone: a broken one is one `PluginWarning`, and the others work.
    - `KWRAP_PLUGINS` (only these; empty: none) and `KWRAP_BLOCK` (not these), both comma separated, are read at each
      look-up; `block` and `unblock` win over them.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # Reentrant: a plugin may look up another's hook while it is imported.
        self._installed: dict[Plugin, EntryPoint] | None = None
        self._builtin: set[Plugin] = set()
        self._managers: dict[Plugin, pluggy.PluginManager] = {}
        self._errors: dict[Plugin, BaseException] = {}
        self._loading: set[Plugin] = set()
        self._blocked: dict[str, bool] = {}
        self._warned: set[str] = set()

    def list(self) -> tuple[Plugin, ...]:
        """Return the installed plugins in name order, from metadata alone: nothing is imported."""
        return tuple(self._with_state(plugin) for plugin in self._find())

    def block(self, name: str) -> None:
        """Take the hooks and answers of a plugin out of every look-up; what sits on a model already stays.

        A plugin that is not installed may be blocked in advance, with a `PluginWarning` in case the name is misspelt.
        """
        self._blocked[name] = True
        known = self._names()
        if name not in known:
            near = nearest(name, known)
            hint = f"Did you mean {listed(near)}? " if near else ""
            problem = f" is not installed; blocked in case it will be. {hint}The plugins there are: {listed(known)}."
            warnings.warn(PluginWarning(name, problem), stacklevel=2)

    def unblock(self, name: str) -> None:
        """Undo `block`, or override the environment; the plugin is loaded at the next look-up.

        Raises `UnknownPluginError` for a name that is neither blocked nor installed.
        """
        known = self._names()
        if name not in known and not self._blocked.get(name):
            raise UnknownPluginError(name, known)
        self._blocked[name] = False

    def load(self) -> None:
        """Load every installed plugin that is not blocked and has not been tried before."""
        with self._lock:
            problems = [problem for plugin, entry in self._find().items() if (problem := self._load_one(plugin, entry))]
            problems += self._name_problems()
        for problem in problems:  # When all is done: a warning may be an error, and the other plugins must work.
            warnings.warn(problem, stacklevel=3)

    def answers(self, question: str, /, **arguments: object) -> Answers:
        """Return (plugin name, answer) for every usable plugin that answers `question`, a function of `hookspecs`.

        Built-in plugins come first, then the installed ones in name order; an answer of `None` is none.
        """
        self.load()
        return [
            (plugin.name, answer)
            for plugin, manager in sorted(self._managers.items(), key=self._order)
            if not self._is_blocked(plugin)
            for answer in _ask(plugin, manager, question, arguments)
        ]

    def owner(self, module: str) -> Plugin | None:
        """Return the plugin whose entry-point module is `module` or the nearest parent of it; nothing is loaded."""
        owners = [plugin for plugin in self._find() if f"{module}.".startswith(f"{plugin.module}.")]
        return self._with_state(max(owners, key=lambda plugin: len(plugin.module))) if owners else None

    def register_builtin(self, name: str, answers: object) -> None:
        """Add a plugin of kwrap's own, a module or object with hookimpls; it is not listed, but can be blocked."""
        plugin = Plugin(name=name, module=__name__, distribution="kwrap", version="built-in")
        with self._lock:
            self._managers[plugin] = _manager(answers)
            self._builtin.add(plugin)

    def rescan(self) -> None:
        """Read the metadata again at the next look-up, to see what has been installed since."""
        self._installed = None

    def _find(self) -> dict[Plugin, EntryPoint]:
        if (found := self._installed) is None:
            described = ((_describe(entry), entry) for entry in entry_points(group=GROUP))
            found = dict(sorted(described, key=lambda pair: (pair[0].name, pair[0].distribution)))
            self._installed = found
        return found

    def _names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(plugin.name for plugin in (*self._find(), *self._builtin)))

    def _order(self, held: tuple[Plugin, pluggy.PluginManager]) -> tuple[bool, str, str]:
        plugin, _ = held
        return plugin not in self._builtin, plugin.name, plugin.distribution

    def _is_blocked(self, plugin: Plugin) -> bool:
        if (blocked := self._blocked.get(plugin.name)) is not None:
            return blocked
        only = _names_in("KWRAP_PLUGINS")
        left_out = only is not None and plugin.name not in only and plugin not in self._builtin
        return left_out or plugin.name in (_names_in("KWRAP_BLOCK") or ())

    def _with_state(self, plugin: Plugin) -> Plugin:
        error = self._errors.get(plugin)
        if self._is_blocked(plugin):
            return replace(plugin, status="blocked", error=error)
        if plugin.needs is not None:
            return replace(plugin, status="incompatible")
        if error is not None:
            return replace(plugin, status="broken", error=error)
        return replace(plugin, status="loaded") if plugin in self._managers else plugin

    def _load_one(self, plugin: Plugin, entry_point: EntryPoint) -> PluginWarning | None:
        tried = plugin in self._managers or plugin in self._errors or plugin in self._loading
        if tried or self._is_blocked(plugin) or plugin.needs is not None:
            return None
        self._loading.add(plugin)
        try:
            self._managers[plugin] = _manager(entry_point.load())
        except (Exception, SystemExit) as error:  # Whatever its code raises, the other plugins work.
            self._errors[plugin] = error
            reason = _reason(self._with_state(plugin))
            return PluginWarning(plugin.name, f" ({plugin.origin}) is broken, and left out: {reason}")
        finally:
            self._loading.discard(plugin)
        return None

    def _name_problems(self) -> Iterable[PluginWarning]:
        """Return a warning, once, for each name that is not as it should be.

        Its plugin needs another kwrap, two distributions have it, or `KWRAP_PLUGINS` misspells it.
        """
        problems = {
            plugin.name: f" ({plugin.origin}) {_unmet(plugin)} It is left out."
            for plugin in self._find()
            if plugin.needs is not None and not self._is_blocked(plugin)
        }
        for name, count in Counter(plugin.name for plugin in self._find() if not self._is_blocked(plugin)).items():
            if count > 1:
                origins = " and ".join(plugin.origin for plugin in self._find() if plugin.name == name)
                problems[name] = f" is the name of {count}: {origins}. All are loaded; blocking it blocks them all."
        for name in sorted((_names_in("KWRAP_PLUGINS") or set()) - set(self._names())):
            known = listed(self._names())
            problems[name] = f" is named in KWRAP_PLUGINS, but not installed. The plugins there are: {known}."
        new = [PluginWarning(name, problem) for name, problem in problems.items() if name not in self._warned]
        self._warned.update(problems)
        return new


def _describe(entry_point: EntryPoint) -> Plugin:
    module = entry_point.value.partition(":")[0].strip()
    source = entry_point.dist
    distribution, version = (source.name, source.version) if source else ("unknown", "unknown")
    needs = _unmet_requirement((source.requires if source else None) or ())
    return Plugin(name=entry_point.name, module=module, distribution=distribution, version=version, needs=needs)


def _unmet_requirement(requirements: Iterable[str]) -> str | None:
    """Return which kwrap a distribution's metadata ask for, if this is not one."""
    for text in requirements:
        try:
            needed = Requirement(text)
        except InvalidRequirement:  # of an old package; pip has its own opinion of it
            continue
        counts = needed.name.lower() == hookspecs.PROJECT and (
            needed.marker is None or needed.marker.evaluate({"extra": ""})
        )
        # A version under development may have what the next one will have.
        if counts and not needed.specifier.contains(version_of("kwrap"), prereleases=True):
            return str(needed.specifier)
    return None


def _unmet(plugin: Plugin) -> str:
    """Return which kwrap an incompatible plugin needs, and the way out."""
    return (
        f"needs kwrap{plugin.needs}, and this is kwrap {version_of('kwrap')}: "
        f"pip install --upgrade kwrap {plugin.distribution}."
    )


def _names_in(variable: str) -> set[str] | None:
    """Return the comma-separated names in an environment variable, `None` if it is not set."""
    value = os.environ.get(variable)
    return None if value is None else {name.strip() for name in value.split(",")} - {""}


def _manager(answers: object) -> pluggy.PluginManager:
    """Return a manager that holds `answers` and nothing else, checked: a misspelt hookimpl raises."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(answers)
    manager.check_pending()
    return manager


def _ask(plugin: Plugin, manager: pluggy.PluginManager, question: str, arguments: Mapping[str, object]) -> list[Any]:
    try:
        answers: list[Any] = getattr(manager.hook, question)(**arguments)
        # A generator runs when it is read: here, where its plugin is known.
        return [list(answer) if isinstance(answer, Iterator) else answer for answer in answers]
    except KwrapError:
        raise
    except Exception as error:
        raise PluginAnswerError(str(plugin), question, error) from error


def _reason(plugin: Plugin) -> str:
    """Return why a plugin is broken, and what to do about it."""
    error = plugin.error
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing and not f"{plugin.module}.".startswith(f"{missing}."):
        way_out = f"pip install {missing.partition('.')[0]}, and start Python again"
        return f"it needs the module {missing!r}, which is not installed: {way_out}."
    text = f"{type(error).__name__}: {error}".rstrip(".") + "."
    if isinstance(error, pluggy.PluginValidationError):
        text += f" The functions that a plugin may define for kwrap: {listed(_QUESTIONS)}."
    return f"{text} The traceback: kwrap.plugins.list(), `error`. To work without it: KWRAP_BLOCK={plugin.name}."


plugins: Final = Plugins()
