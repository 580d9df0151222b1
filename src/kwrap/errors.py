"""Every error and warning of kwrap: each says who, where, what, and the way out.

All errors derive from `KwrapError`, and from the built-in exception that a caller would expect
(`TypeError`, `ValueError`, `LookupError`, ...). The fields of an error are plain attributes.
"""

import copyreg
import difflib
from collections.abc import Iterable, Sequence

__all__ = [
    "AbsentHookError",
    "AmbiguousHookError",
    "CloneError",
    "DroppedHooksWarning",
    "DuplicateHookError",
    "FixedLayerError",
    "HookCallError",
    "HookDefinitionError",
    "HookStateError",
    "HookStateWarning",
    "HookTypeError",
    "HookVersionError",
    "KernelError",
    "KwrapError",
    "LayerTypeError",
    "MissingPackageError",
    "MissingPluginError",
    "MissingPluginsError",
    "ModelTypeError",
    "NoFloatingTensorsError",
    "NoHooksError",
    "OptionError",
    "OptionValueError",
    "OutputChangedError",
    "OversizedFileError",
    "PlanError",
    "PluginAnswerError",
    "PluginWarning",
    "RuleError",
    "SaveError",
    "SavedFormatError",
    "SavedHooksError",
    "TargetAnswerError",
    "TargetDefinitionError",
    "TargetError",
    "UncompiledCopyWarning",
    "UnknownClassError",
    "UnknownHookError",
    "UnknownPluginError",
    "UnreadableFileError",
    "UnsafeFileError",
    "WrapperStateError",
]


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return up to `count` of the `known` names that look most like `name`."""
    return difflib.get_close_matches(name, list(known), n=count, cutoff=0.4)


def listed(names: Iterable[str], limit: int = 12) -> str:
    """Return `names` as text for a message; past `limit` only how many more there are."""
    names = list(names)
    text = ", ".join(repr(name) for name in names[:limit])
    return text + (f", and {len(names) - limit} more" if len(names) > limit else "") if names else "none"


class KwrapError(Exception):
    """Base of every error that kwrap raises."""

    # Keras replaces an error that lacks this by one with the call's arguments in its text: a RuntimeError without our
    # fields for classes that take more than a message.
    _keras_call_info_injected = True
    # The same of AutoGraph, of a user's own `tf.function`.
    ag_pass_through = True

    def __reduce__(self) -> tuple[object, ...]:
        """Rebuild from text and fields: unpickling would give `__init__` the text as its only argument."""
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]


class UnknownHookError(KwrapError, LookupError):
    """No hook of this name is registered or installed."""

    def __init__(self, name: str, known: Sequence[str], unusable: Sequence[str] = ()) -> None:
        self.name, self.known, self.nearest, self.unusable = name, list(known), nearest(name, known), list(unusable)
        hint = f"Did you mean {listed(self.nearest)}? " if self.nearest else ""
        install = f"If a package defines it, install that package (pip install kwrap-{name.replace('_', '-')}?), "
        super().__init__(
            f"no hook is named {name!r}. {hint}The hooks there are: {listed(self.known)}. "
            + (" ".join(self.unusable) or install + "or see `kwrap plugins` for plugins that are blocked or broken.")
        )


class AbsentHookError(KwrapError, LookupError):
    """A hook that was to be taken off or bypassed is not on the model."""

    def __init__(self, model: str, hook: object, present: Sequence[str]) -> None:
        self.model, self.hook, self.present = model, hook, list(present)
        super().__init__(f"no hook {hook!r} is on model {model!r}; on it are {listed(self.present)}.")


class AmbiguousHookError(KwrapError, LookupError):
    """Two owners have a hook of this name, so that the name alone does not say which."""

    def __init__(self, name: str, owners: Sequence[str]) -> None:
        self.name, self.owners = name, list(owners)
        super().__init__(
            f"the hook name {name!r} is claimed by {' and '.join(self.owners)}. Pass the class itself instead of its "
            f"name, or block one of the plugins: kwrap.plugins.block(...), or KWRAP_BLOCK in the environment."
        )


class HookDefinitionError(KwrapError, TypeError):
    """A hook's class or function does not follow the contract of `kwrap.Hook`."""

    def __init__(self, hook: str, problem: str) -> None:
        self.hook, self.problem = hook, problem
        super().__init__(f"hook {hook!r}: {problem}")


class HookTypeError(KwrapError, TypeError):
    """What was given for a hook is none."""

    def __init__(self, function: str, given: object) -> None:
        self.function, self.given = function, given
        super().__init__(
            f"{function}() expected a hook's name, a Hook class, an instance, a Rule, or a list of them; got {given!r}"
        )


class HookVersionError(KwrapError, ValueError):
    """A saved model holds a hook in a version that its class does not read."""

    def __init__(self, hook: str, path: str | None, saved: int, known: int, plugin: str | None) -> None:
        self.hook, self.path, self.saved, self.known, self.plugin = hook, path, saved, known, plugin
        place = f" at {path!r}" if path else ""
        owner = f"plugin {plugin!r}" if plugin else "the module that defines it"
        way_out = f"update {owner}" if saved > known else "define its classmethod migrate(cls, options, from_version)"
        super().__init__(
            f"hook {hook!r}{place} was saved in version {saved}, and its class, of version {known}, does not say how "
            f"to read that: {way_out}."
        )


class HookStateError(KwrapError, ValueError):
    """A weight file has state of a hook that does not fit the hook."""

    def __init__(self, hook: str, path: str | None, problem: str) -> None:
        self.hook, self.path, self.problem = hook, path, problem
        super().__init__(
            f"state of hook {hook!r} at {path!r}: the file has {problem}. Wrap the model as it was wrapped when the "
            "file was written, with the same options and versions of its hooks."
        )


class OptionError(KwrapError, TypeError):
    """An option of a hook does not exist, is missing, or cannot be stored in a saved model."""

    def __init__(self, hook: str, option: str, problem: str) -> None:
        self.hook, self.option, self.problem = hook, option, problem
        super().__init__(f"hook {hook!r}, option {option!r}: {problem}")


class OptionValueError(KwrapError, ValueError):
    """An option has a value that cannot be: out of range, or at odds with another option."""

    def __init__(self, owner: str, option: str, value: object, problem: str) -> None:
        self.owner, self.option, self.value, self.problem = owner, option, value, problem
        super().__init__(f"{owner}: {option}={value!r} {problem}")


class NoFloatingTensorsError(KwrapError, TypeError):
    """A hook that works on floating tensors was put on a layer that takes, or gives, none."""

    def __init__(self, hook: str, path: str | None, what: str) -> None:
        self.hook, self.path, self.what = hook, path, what
        super().__init__(
            f"hook {hook!r} at {path!r}: there is no floating tensor among the layer's {what}. Leave it out with "
            "exclude=..., or choose layers with where=..."
        )


class NoHooksError(KwrapError, TypeError):
    """No hooks were given to put on a model."""

    def __init__(self, function: str, known: Sequence[str]) -> None:
        self.function, self.known = function, list(known)
        super().__init__(
            f"{function}() needs at least one hook: a name, a class, an instance or a rule. "
            f"The hooks there are: {listed(self.known)}."
        )


class RuleError(KwrapError, ValueError):
    """A rule matches no layer of the model, or its pattern is not one."""

    def __init__(self, rule: str, problem: str, nearest_paths: Sequence[str] = ()) -> None:
        self.rule, self.problem, self.nearest = rule, problem, list(nearest_paths)
        hint = f" The nearest paths: {listed(self.nearest)}." if self.nearest else ""
        super().__init__(f"{rule}: {problem}.{hint}")


class LayerTypeError(KwrapError, TypeError):
    """A hook was put on a layer that it is not made for."""

    def __init__(self, hook: str, path: str, layer: str, layer_types: Sequence[str]) -> None:
        self.hook, self.path, self.layer, self.layer_types = hook, path, layer, list(layer_types)
        super().__init__(
            f"hook {hook!r} cannot go on {path!r} (a {layer}): it is made for {', '.join(self.layer_types)}. "
            "Choose other layers with where=..., or leave this one out with exclude=..."
        )


class DuplicateHookError(KwrapError, ValueError):
    """The same hook name twice on one layer."""

    def __init__(self, hook: str, path: str) -> None:
        self.hook, self.path = hook, path
        super().__init__(
            f"layer {path!r} would have two hooks named {hook!r}. Give one of them another name: name={f'{hook}_2'!r}."
        )


class TargetError(KwrapError, ValueError):
    """The weights that a hook is to change cannot be told: unknown names, none, or two plugins that disagree."""


class TargetAnswerError(TargetError):
    """Whoever answers for a layer's weight targets raised (`__cause__`), or gave what cannot be its targets."""

    def __init__(self, answerer: str, layer: str, kind: str, problem: str, way_out: str) -> None:
        self.answerer, self.layer, self.kind, self.problem, self.way_out = answerer, layer, kind, problem, way_out
        super().__init__(f"{answerer}, asked for the weight targets of {layer!r} (a {kind}), {problem}. {way_out}.")


class TargetDefinitionError(KwrapError, TypeError):
    """What was given to `kwrap.weight_targets.register` is no layer class to teach, or no function of a layer."""

    def __init__(self, name: str, problem: str) -> None:
        self.name, self.problem = name, problem
        super().__init__(f"weight_targets.register({name}): {problem}.")


class PlanError(KwrapError, ValueError):
    """A plugin's check found problems in a plan; nothing was changed."""

    def __init__(self, problems: Sequence[object]) -> None:
        self.problems = list(problems)
        super().__init__("the plan was not applied: " + "; ".join(str(problem) for problem in self.problems))


class OutputChangedError(KwrapError, ValueError):
    """A hook's output differs in shape or dtype from its layer's, and its class does not say `changes_output`."""

    def __init__(self, hook: str, path: str, expected: str, received: str) -> None:
        self.hook, self.path, self.expected, self.received = hook, path, expected, received
        super().__init__(
            f"hook {hook!r} at {path!r} gives {received}, where the layer gives {expected}. "
            "If that is meant, set `changes_output = True` on the hook's class."
        )


class HookCallError(KwrapError, RuntimeError):
    """A hook raised; the original exception is the cause (`__cause__`)."""

    def __init__(self, hook: str, plugin: str | None, path: str, during: str, error: BaseException) -> None:
        self.hook, self.plugin, self.path, self.during, self.error = hook, plugin, path, during, error
        owner = f" ({plugin})" if plugin else ""
        way_out = "leave this layer out with exclude=..., or the hook"
        if during not in ("build", "initialize"):  # Those come before the hook is on; its `call` is tried then, too.
            way_out = f"kwrap.unwrap_model(model, {hook!r}, merge=False) if it is on the model, else {way_out}"
        super().__init__(
            f"hook {hook!r}{owner} failed at {path!r} in {during}: {type(error).__name__}: {error}. "
            f"To work without it: {way_out}."
        )

    @property
    def __cause__(self) -> BaseException:  # type: ignore[override]
        """The original exception; a property, for Keras raises what passes its calls again `from None`."""
        return self.error


class KernelError(KwrapError, TypeError):
    """A kernel was called with a tensor that is not flat, or was given a variant that does not fit it."""

    def __init__(self, kernel: str, problem: str) -> None:
        self.kernel, self.problem = kernel, problem
        super().__init__(f"kernel {kernel!r}: {problem}")


class ModelTypeError(KwrapError, TypeError):
    """What was given is not a Keras 3 model."""


class FixedLayerError(KwrapError, TypeError):
    """A layer is held where nothing can be put in its place, as in a closure; nothing was changed."""

    def __init__(self, path: str, holder: str, kind: str, how: str) -> None:
        self.path, self.holder, self.kind, self.how = path, holder, kind, how
        super().__init__(
            f"layer {path!r} is held by {holder!r} (a {kind}) {how}, where no Wrapper can be put in its place. Hold it "
            "in an attribute, list, tuple or dict alone, or leave it out with exclude=..."
        )


class CloneError(KwrapError, TypeError):
    """Keras cannot rebuild a model or layer of this class, so it cannot be cloned; `wrap_model` works in place."""

    def __init__(self, name: str, kind: str, problem: str) -> None:
        self.name, self.kind, self.problem = name, kind, problem
        super().__init__(
            f"Keras cannot rebuild {name!r}: its class {kind} {problem}. Mend that, or put the hooks on the model "
            "itself: kwrap.wrap_model(model, ...) works in place."
        )


class WrapperStateError(KwrapError, RuntimeError):
    """A wrapped layer was changed behind its Wrapper's back, or is not ready for what was asked."""


class MissingPluginError(KwrapError, LookupError):
    """A saved model needs a hook whose plugin is not installed, blocked, or broken."""

    def __init__(self, hook: str, path: str, plugin: str | None, version: str | None, problem: str) -> None:
        self.hook, self.path, self.plugin, self.version, self.problem = hook, path, plugin, version, problem
        what = f"hook {hook!r} at {path!r}"
        super().__init__(f"{what}{_needs(plugin, version)}, {problem}")


class SavedFormatError(KwrapError, ValueError):
    """A saved model's hooks are written in a format of a later kwrap."""

    def __init__(self, saved: object, known: int) -> None:
        self.saved, self.known = saved, known
        super().__init__(
            f"the hooks in this file are saved in kwrap's format {saved!r}, and this kwrap reads formats up to "
            f"{known}: pip install --upgrade kwrap"
        )


class SavedHooksError(KwrapError, ValueError):
    """A saved model's layer is rebuilt with other layers in it, so that its hooks' places are unknown."""

    def __init__(self, layer: str, found: int, saved: int) -> None:
        self.layer, self.found, self.saved = layer, found, saved
        super().__init__(
            f"{layer!r} held {saved} layers when it was saved with hooks inside, and holds {found} as its class "
            "rebuilds it now: the places of its hooks are unknown. Load it with the class that it was saved "
            "with; or build the model, wrap it, and load its weights alone."
        )


def _needs(plugin: str | None, version: str | None) -> str:
    # A file's own words: nothing in them is to command a terminal.
    shown = f" ({repr(version)[1:-1]})" if version else ""
    return f" needs plugin {plugin!r}{shown}" if plugin else ""


class MissingPluginsError(MissingPluginError):
    """A saved model needs hooks that cannot be had: all of them, each with the reason; the fields are the first's.

    `missing` holds a MissingPluginError for each hook; the way round is `kwrap.load_model(path, missing="drop")`.
    """

    def __init__(self, file: str, missing: Sequence[MissingPluginError], packages: Sequence[str]) -> None:
        first = missing[0]
        self.file, self.missing, self.packages = file, list(missing), list(dict.fromkeys(packages))
        super().__init__(first.hook, first.path, first.plugin, first.version, first.problem)
        paths: dict[tuple[str, str | None, str | None, str], list[str]] = {}
        for one in missing:
            paths.setdefault((one.hook, one.plugin, one.version, one.problem), []).append(one.path)
        lines = []
        for (hook, plugin, version, problem), places in paths.items():
            lines.append(f"hook {hook!r} at {listed(places, 4)}{_needs(plugin, version)}, {problem}")
        install = f"pip install {' '.join(self.packages)}; or " if len(self.packages) > 1 else ""
        text = "; ".join(lines)
        self.args = (f"{file!r}: {text}. To load it: {install}kwrap.load_model(path, missing='drop').",)


class DroppedHooksWarning(UserWarning):
    """Hooks of a file were left out on loading, as `missing="drop"` asks; `dropped` is (hook, path, what it means)."""

    def __init__(self, file: str, dropped: Sequence[tuple[str, str, str]]) -> None:
        self.file, self.dropped = file, list(dropped)
        paths: dict[tuple[str, str], list[str]] = {}
        for hook, path, meaning in dropped:
            paths.setdefault((hook, meaning), []).append(path)
        lines = [f"{hook!r} at {listed(places, 4)} ({meaning})" for (hook, meaning), places in paths.items()]
        super().__init__(f"{file!r} was loaded without hooks that cannot be had: {'; '.join(lines)}.")


class UnreadableFileError(KwrapError, ValueError):
    """A file is no saved model, or a damaged or forged one, or Keras cannot rebuild it (`__cause__`)."""

    def __init__(self, file: str, problem: str, way_out: str = "Get or save the file again.") -> None:
        self.file, self.problem = file, problem
        super().__init__(f"{file!r} cannot be loaded: {problem}. {way_out}")


class OversizedFileError(UnreadableFileError):
    """A file declares more than is read of a file of its size: `declared` bytes, where `limit` is the most."""

    def __init__(self, file: str, problem: str, declared: int, limit: int) -> None:
        self.declared, self.limit = declared, limit
        super().__init__(file, problem, f"If you trust it: max_size={declared} or more.")


class UnknownClassError(KwrapError, TypeError):
    """A file names classes or functions that are not known: not Keras' or KerasHub's own, not registered, not given.

    `names` holds each as the file names it.
    """

    def __init__(self, file: str, names: Sequence[str]) -> None:
        self.file, self.names = file, list(names)
        super().__init__(
            f"{file!r} names {listed(self.names)}: neither a layer or another part of a model that is Keras' or "
            "KerasHub's own, nor registered with Keras, nor in custom_objects. If it is yours, import the module that "
            "registers it (@keras.saving.register_keras_serializable()), or give it: custom_objects={'Name': ...}."
        )


class UnsafeFileError(KwrapError, ValueError):
    """A file holds code, which loading it would run: a Python lambda, a pickle, a TensorFlow program."""

    def __init__(self, file: str, names: Sequence[str]) -> None:
        self.file, self.names = file, list(names)
        super().__init__(
            f"{file!r} holds code in {listed(self.names)}, which would run with all your rights. "
            "Only if you trust whoever made the file: safe_mode=False."
        )


class SaveError(KwrapError, OSError):
    """A file could not be written; what stood at the path before is whole. The operating system's is `__cause__`."""

    def __init__(self, file: str, problem: str) -> None:
        self.file, self.problem = file, problem
        super().__init__(f"{file!r} was not written: {problem}. What was there before is as it was.")

    def __reduce__(self) -> tuple[object, ...]:
        """Rebuild by `__init__`: an OSError takes its text nowhere else."""
        return type(self), (self.file, self.problem), vars(self)


class UnknownPluginError(KwrapError, LookupError):
    """No plugin of this name is installed or blocked."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        self.name, self.known, self.nearest = name, list(known), nearest(name, known)
        hint = f" Did you mean {listed(self.nearest)}?" if self.nearest else ""
        super().__init__(f"no plugin is named {name!r}.{hint} The plugins there are: {listed(self.known)}.")


class MissingPackageError(KwrapError, ImportError):
    """A package is not installed that only some functions need."""

    def __init__(self, function: str, package: str) -> None:
        self.function, self.package = function, package
        super().__init__(f"{function} needs {package}, which is not installed: pip install {package}", name=package)

    def __reduce__(self) -> tuple[object, ...]:
        """Rebuild by `__init__`: an ImportError takes its `name` nowhere else."""
        return type(self), (self.function, self.package), vars(self)


class PluginAnswerError(KwrapError, RuntimeError):
    """A plugin raised when it was asked; the original exception is the cause (`__cause__`)."""

    def __init__(self, plugin: str, question: str, error: BaseException) -> None:
        self.plugin, self.question = plugin, question
        super().__init__(
            f"plugin {plugin} failed in {question}: {type(error).__name__}: {error}. "
            f"To work without it: KWRAP_BLOCK={plugin.split()[0]} in the environment."
        )


class UncompiledCopyWarning(UserWarning):
    """A copy is not compiled, for its class has a `compile` with arguments of its own, which Keras does not keep."""

    def __init__(self, model: str, kind: str) -> None:
        self.model, self.kind = model, kind
        super().__init__(
            f"the copy of {model!r} is not compiled: {kind}.compile takes arguments of its own. Compile the copy."
        )


class HookStateWarning(UserWarning):
    """A weight file has no state, or not all, for a hook, which was initialized again; said once a file and hook."""

    def __init__(self, hook: str, path: str | None, missing: Sequence[str]) -> None:
        self.hook, self.path, self.missing = hook, path, list(missing)
        super().__init__(
            f"the file has no {listed(self.missing)} of hook {hook!r} at {path!r}: the hook is initialized again, from "
            "the weights that were loaded. So it is, without another warning, wherever else the file has none of it."
        )


class PluginWarning(UserWarning):
    """A plugin could not be loaded, or its name is not as it should be; the others work."""

    def __init__(self, plugin: str, problem: str) -> None:
        self.plugin, self.problem = plugin, problem
        super().__init__(f"plugin {plugin!r}{problem}")
