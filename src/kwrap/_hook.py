"""Hook: one behaviour on one layer, and how its options are captured. Rule: a hook and where it goes."""

import functools
import hashlib
import inspect
import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias, final, get_args

import keras

from kwrap import _keras
from kwrap._captured import bind_options, copied, own_options, revived, stored
from kwrap._collecting import emit
from kwrap._state import named, read_state, warn_once
from kwrap._targets import WeightTarget, weight_targets
from kwrap.errors import (
    HookDefinitionError,
    HookVersionError,
    OptionValueError,
    TargetError,
    WrapperStateError,
    listed,
)
from kwrap.options import checked_choice

__all__ = ["CALL_ARGUMENTS", "Hook", "Rule", "Where", "accepts", "copies_of", "in_trial", "repeated_names"]

Where: TypeAlias = type[keras.Layer] | str | re.Pattern[str] | Callable[[keras.Layer, str], bool] | Sequence[Any]
Phase: TypeAlias = Literal["always", "training", "inference"]
Method: TypeAlias = Literal["call", "parametrize", "constrain", "merge"]

_KINDS = inspect._ParameterKind
_BY_POSITION = (_KINDS.POSITIONAL_ONLY, _KINDS.POSITIONAL_OR_KEYWORD)
# Whether calls are tried, see `Hook.in_trial`.
_in_trial: ContextVar[bool] = ContextVar("kwrap_in_trial", default=False)
# What kwrap itself gives to a `call` that names it.
CALL_ARGUMENTS = ("training", "mask")


@_keras.checkpointing(lambda hook: hook._saved_state())
@_keras.skips_parts
class Hook(keras.layers.Layer):
    """One behaviour on one layer. Override only what it needs; what is not overridden costs nothing.

    A Hook is a Keras layer, so that its variables, losses, metrics and seed generators are tracked by Keras. Its
    variables are saved with the model, and the states of its seed generators, which Keras saves of no layer.
    One instance serves one layer; an instance given to `wrap_model` is copied for each layer by its config. Its options
    are what `__init__` takes: they are captured at construction and fixed from then on.

    Args:
        name: the hook's name on its layer; default: the registered name. Two hooks on one layer need two names.
        phase: when `call` and `parametrize` act: "always", "training" or "inference".
        targets: which of the layer's weights: names, or a registered function from `WeightTarget` to bool. Default:
            kernels and embeddings, no biases, no weights of normalization layers.

    Raises:
        OptionError: an option does not exist, is missing, or cannot be stored in a saved model.
        OptionValueError: `phase` is none of the three, or `targets` neither names nor a function.
    """

    hook_name: ClassVar[str] = "hook"
    layer_type: ClassVar[tuple[type[keras.Layer], ...]] = ()
    version: ClassVar[int] = 1
    changes_output: ClassVar[bool] = False
    freezes: ClassVar[bool] = False
    # Whether `call` and `parametrize` change nothing of what they pass on: a file says so to those who lack the hook.
    observes: ClassVar[bool] = False

    phase: Phase
    targets: Sequence[str] | Callable[[WeightTarget], bool] | None
    target_weights: tuple[WeightTarget, ...]
    initialized: bool
    _layer: weakref.ref[keras.Layer] | None
    _place: str | None
    _states: dict[tuple[str, str], keras.Variable]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Each class is registered by itself: one that merely inherits a registered one could not be loaded again.
        cls.layer_type = ()
        if "hook_name" not in cls.__dict__:
            cls.hook_name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__).lower()
        _check_definition(cls)

    def __new__(cls, *args: Any, **kwargs: Any) -> "Hook":
        options = bind_options(cls, args, kwargs)
        hook: Hook = super().__new__(cls, *args, **kwargs)
        # Past Keras' tracking: options are no state.
        object.__setattr__(hook, "_options", options)
        object.__setattr__(hook, "_config", {name: stored(cls, name, value) for name, value in options.items()})
        _keras.undecorate_build(hook)
        return hook

    def __init__(
        self,
        *,
        name: str | None = None,
        phase: Phase = "always",
        targets: str | Sequence[str] | Callable[[WeightTarget], bool] | None = None,
    ) -> None:
        checked_choice(self.hook_name, "phase", phase, get_args(Phase))
        if not (targets is None or callable(targets) or isinstance(targets, Iterable)):
            problem = "is no weight's name, nor several, nor a function from a WeightTarget to bool"
            raise OptionValueError(self.hook_name, "targets", targets, problem)
        # The policy of its own: weights are changed in their own dtype, also under mixed precision.
        super().__init__(name=name or self.hook_name, dtype="float32", autocast=False)
        # Past Keras' tracking: none of it is state.
        self.__dict__.update(
            phase=phase,
            targets=(targets,) if isinstance(targets, str) else targets,
            target_weights=(),
            # Whether the state was filled from the layer's weights, or loaded.
            initialized=False,
            _layer=None,
            _place=None,
            _states={},
            _fresh=None,
        )

    def __setattr__(self, name: str, value: Any) -> None:
        if not _keras.set_plain(self, name, value):
            super().__setattr__(name, value)

    # --- what a hook overrides -----------------------------------------------------------------------------------

    def call(self, call_next: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Act around the layer's call: change what goes in, what comes out, or whether it is called at all.

        `call_next` runs the hooks further in and the layer; it may be called 0 to n times, within this call alone, and
        keeps of the original call what it is not given. Only arguments that the signature names are passed. Shape and
        dtype of the output stay, unless the class says `changes_output = True`.
        """
        return call_next(*args, **kwargs)

    def parametrize(self, target: WeightTarget, value: Any, *, training: Any) -> Any:
        """Return the value that the layer reads instead of `value`; same shape and dtype, gradients flow through it."""
        return value

    def constrain(self, target: WeightTarget, value: Any, *, step: Any) -> Any:
        """Return the value to store after an optimizer's update.

        `step` counts the optimizer's calls, from 0 (int32, one counter a target); it is None when attached, before
        saving and on unwrapping, where no update was made.
        """
        return value

    def build(self, layer: keras.Layer) -> None:
        """Create variables; `layer` is built. Called once."""

    def initialize(self, layer: keras.Layer) -> None:
        """Fill the variables from the layer's trained weights: when freshly wrapped, or where a file lacks any of them.

        What a file has of them is loaded after it.
        """

    def merge(self, target: WeightTarget, value: Any) -> Any:
        """Return the value that is left in the weight when the hook is taken off."""
        if self.phase == "training":
            return value
        keywords = {"training": False} if accepts(type(self).parametrize, "training") else {}
        return self.parametrize(target, value, **keywords)

    @classmethod
    def migrate(cls, options: dict[str, Any], from_version: int) -> dict[str, Any]:
        """Return the options of a file of an older `version` as this version takes them.

        Override it when `version` is raised. Options are as `get_config` gives them: JSON values and serialized Keras
        objects.

        Raises:
            HookVersionError: the class does not override it.
        """
        raise HookVersionError(cls.hook_name, None, from_version, cls.version, None)

    # --- what a hook uses ----------------------------------------------------------------------------------------

    def add_state(
        self,
        target: WeightTarget,
        name: str,
        shape: Sequence[int] = (),
        *,
        dtype: str | None = None,
        initializer: Any = "zeros",
        aggregation: str | None = None,
    ) -> keras.Variable:
        """Create a non-trainable variable that belongs to one target; call it in `build`.

        Args:
            dtype: default: the target's.
            aggregation: how replicas agree on it; default: "mean" for floating dtypes, "only_first_replica" for others.

        Raises:
            HookDefinitionError: the target has a state of this name.
        """
        if (target.name, name) in self._states:
            counter = name == "step" and self._counts_steps()
            problem = "is kwrap's counter, as `constrain` takes `step`" if counter else "is there already"
            raise HookDefinitionError(
                self.hook_name, f"the state {name!r} of target {target.name!r} {problem}; choose another name"
            )
        dtype = keras.backend.standardize_dtype(dtype or target.variable.dtype)
        variable = self.add_weight(
            shape=tuple(shape),
            dtype=dtype,
            initializer=initializer,
            trainable=False,
            autocast=False,
            aggregation=aggregation or ("mean" if keras.backend.is_float_dtype(dtype) else "only_first_replica"),
            name=f"{target.name}_{name}".replace("/", "_"),
        )
        self._states[target.name, name] = variable
        return variable

    def state(self, target: WeightTarget, name: str) -> keras.Variable:
        """Return the variable that `add_state` created."""
        try:
            return self._states[target.name, name]
        except KeyError:
            known = sorted(state for owner, state in self._states if owner == target.name)
            raise LookupError(
                f"hook {self.name!r} has no state {name!r} for target {target.name!r}: {listed(known)}"
            ) from None

    def emit(self, name: str, value: Any) -> None:
        """Give `value`, a tensor or nested tensors, to whoever collects `name` of the model: see `kwrap.collect`.

        For `call` and `parametrize`. Without a collector it costs nothing.
        """
        emit(self, name, value)

    @property
    def path(self) -> str | None:
        """The place in the model of the layer that the hook is on; None before it is on one."""
        return self._place

    @property
    def additive(self) -> bool:
        """Whether what `parametrize` adds to a value does not depend on the value; a class says `additive = True`.

        Of such hooks, one is taken off exactly while others before it stay.
        """
        return False

    @property
    def in_trial(self) -> bool:
        """Whether this call is kwrap's trial of the hook, before it is on a model: symbolic, and not of the layer."""
        return _in_trial.get()

    def at(self, where: Where, *, exclude: Where | None = None) -> "Rule":
        """Return a rule that puts this hook on the layers at `where`."""
        return Rule(self, where, exclude)

    # --- what kwrap uses -----------------------------------------------------------------------------------------

    @classmethod
    def overrides(cls, method: Method) -> bool:
        """Tell whether the class has a `method` of its own, which is then in the layer's path."""
        return getattr(cls, method) is not getattr(Hook, method)

    @classmethod
    def acts_on_weights(cls) -> bool:
        """Tell whether the class changes weights, as they are read or as they are stored."""
        return cls.overrides("parametrize") or cls.overrides("constrain")

    def get_config(self) -> dict[str, Any]:
        """Return the options: JSON values and serialized Keras objects."""
        config: dict[str, Any] = copied(self._config)
        return {**config, "name": self.name} if "name" in config else config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Hook":
        """Return a hook of these options."""
        return cls(**{name: revived(value) for name, value in config.items()})

    def attach(self, layer: keras.Layer, path: str, initialize: Callable[["Hook"], None]) -> None:
        """Make this the hook of `layer`, which is built, and create the hook's variables. For the Wrapper."""
        # A weak reference: Keras saves what it finds in an object's attributes.
        self.__dict__.update(
            _layer=weakref.ref(layer),
            _place=path,
            _initialize=initialize,
            target_weights=self.select_targets(layer, path),
        )
        with _keras.building(self, layer.path):
            self.build(layer)
            if self._counts_steps():
                for target in self.target_weights:
                    self.add_state(target, "step", dtype="int32")

    @classmethod
    def _counts_steps(cls) -> bool:
        return cls.overrides("constrain") and accepts(cls.constrain, "step")

    def is_on(self, layer: keras.Layer) -> bool:
        """Tell whether this is the hook of `layer`.

        Raises:
            WrapperStateError: it is another layer's.
        """
        if self._layer is None:
            return False
        if self._layer() is not layer:
            raise WrapperStateError(
                f"hook {self.name!r} is on {self._place!r} already; give each layer a hook of its own"
            )
        return True

    def select_targets(self, layer: keras.Layer, path: str) -> tuple[WeightTarget, ...]:
        """Return those of the layer's targets that this hook changes."""
        found = weight_targets(layer)
        if self.targets is None:
            return tuple(target for target in found if target.default)
        if callable(self.targets):
            return tuple(target for target in found if self.targets(target))
        names = {target.name: target for target in found}
        for name in self.targets:
            if name not in names:
                raise TargetError(
                    f"hook {self.name!r} at {path!r}: no weight is named {name!r}; there are {listed(names)}"
                )
        return tuple(names[name] for name in self.targets)

    def active(self, training: Any) -> bool:
        """Tell whether `call` and `parametrize` act in this phase."""
        return self.phase == "always" or (self.phase == "training") == bool(training)

    def save_own_variables(self, store: Any) -> None:
        """Save the state by its variables' names: a later version, or other options, may have more of them.

        Those of seed generators are among them, so that a run that goes on draws what would have come.
        """
        for name, variable in self._saved_state().items():
            store[name] = variable

    def load_own_variables(self, store: Any) -> None:
        """Load the state; if the file lacks any of it, as a plain model's does, initialize it again before.

        Seed generators that the file lacks stay as they are.

        Raises:
            HookStateError: the file has state that the hook has not, or of another shape.
        """
        own = self._named_state()
        values = read_state(self.name, self.path, own, self._saved_state(), store)
        missing = [name for name in own if name not in values]
        nested = self._nested_state(own)
        self.__dict__["_loaded"] = values
        if nested and _keras.is_absent(store):
            missing += nested
            _keras.skip_parts(self)
        # On no layer yet, as in a Wrapper that was saved unbuilt, it has no state that could have been loaded.
        self.initialized = not missing and (self.initialized or self._layer is not None)
        if not missing:
            self.restore_loaded()
            return
        for (_, name), variable in self._states.items():
            if name == "step" and self._counts_steps():
                variable.assign(0)
        if self._layer is not None:
            # At once: a function that is traced already runs no Python in its next call. The weights are there: those
            # of the layer and of what it holds come before its hooks' state, as the Wrapper lists them to Keras.
            self._initialize(self)
        warn_once(self.name, self.path, missing, store)

    def remember_fresh(self) -> None:
        """Remember the state as it was made, to tell by `was_assigned` whether it was assigned since."""
        self.__dict__["_fresh"] = self._digests()

    def forget_fresh(self) -> None:
        """Let `was_assigned` be false."""
        self.__dict__["_fresh"] = None

    def was_assigned(self) -> bool:
        """Tell whether the state is another than it was made, as after `set_weights` or from an HDF5 file."""
        return self._fresh is not None and self._fresh != self._digests()

    def _digests(self) -> list[bytes]:
        with _keras.outside_graphs():
            stored = [variable.value for variable in self.weights]
            # On several replicas a variable is several, of which any will do.
            values = [keras.ops.convert_to_numpy(getattr(each, "values", (each,))[0]) for each in stored]
        return [hashlib.sha256(value.tobytes()).digest() for value in values]

    def restore_loaded(self) -> None:
        """Assign what was loaded of the state and not assigned yet: after `initialize`, which fills all of it."""
        saved = self._saved_state()
        for name, value in self.__dict__.pop("_loaded", {}).items():
            saved[name].assign(value)

    def _named_state(self) -> dict[str, keras.Variable]:
        return named([*self._trainable_variables, *self._non_trainable_variables])

    def _saved_state(self) -> dict[str, keras.Variable]:
        """Return the state by name, and after it the states of seed generators, of layers that it holds too."""
        weights = {id(variable) for variable in (*self.weights, *self.metrics_variables)}
        generators = [variable for variable in self.variables if id(variable) not in weights]
        return named([*self._trainable_variables, *self._non_trainable_variables, *generators])

    def _nested_state(self, own: Mapping[str, keras.Variable]) -> list[str]:
        """Return the names of the variables that are not the hook's own: of layers and metrics that it holds."""
        known = {id(variable) for variable in own.values()}
        held = (variable for variable in (*self.weights, *self.metrics_variables) if id(variable) not in known)
        return [variable.path.split(f"/{self.name}/", 1)[-1] for variable in held]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: a hook is called by the Wrapper of its layer."""
        raise WrapperStateError(
            f"hook {self.name!r} is not called itself: kwrap.wrap_model(model, hook), or kwrap.Wrapper(layer, [hook])"
        )

    def __repr__(self) -> str:
        options = {**self._config, "name": self.name}
        shown = ", ".join(f"{name}={value!r}" for name, value in options.items() if value is not None)
        return f"<{self.hook_name} hook: {shown}>"


@final
@dataclass(frozen=True)
class Rule:
    """A hook and where it goes: made by `hook.at(where, exclude=...)`."""

    hook: Hook
    where: Where | None = None
    exclude: Where | None = None

    def __str__(self) -> str:
        excluded = f", exclude={self.exclude!r}" if self.exclude is not None else ""
        place = f" at where={self.where!r}" if self.where is not None else ""
        return f"{self.hook.name!r}{place}{excluded}"


# --- definitions -----------------------------------------------------------------------------------------------------


def _check_definition(cls: type[Hook]) -> None:
    """Raise unless the `call` and the `__init__` that `cls` defines follow the contract."""
    if "call" in cls.__dict__:
        _check_call(cls.hook_name, list(inspect.signature(cls.call).parameters.values()))
    if "__init__" in cls.__dict__:
        _check_options(cls.hook_name, list(inspect.signature(cls.__init__).parameters.values())[1:])


def _check_call(hook: str, parameters: Sequence[inspect.Parameter]) -> None:
    """Raise unless a `call` takes `call_next`, then the layer's inputs."""
    names = [p.name for p in parameters]
    if names[1:2] != ["call_next"]:
        raise HookDefinitionError(
            hook, f"call({', '.join(names)}) has to take `call_next` first: call(self, call_next, inputs, ...)"
        )
    first = next((p.name for p in parameters[2:] if p.kind in _BY_POSITION), None)
    if first in CALL_ARGUMENTS:
        raise HookDefinitionError(
            hook,
            f"takes {first!r} where the layer's inputs come: name these first, as in (call_next, inputs, {first})",
        )


def _check_options(hook: str, parameters: Sequence[inspect.Parameter]) -> None:
    """Raise unless the parameters of an `__init__` can be options: named, and by no name that Hook itself uses."""
    for parameter in parameters:
        if parameter.kind in (_KINDS.VAR_POSITIONAL, _KINDS.POSITIONAL_ONLY):
            raise HookDefinitionError(
                hook, f"__init__ takes {parameter}, which cannot go into a config; name its options"
            )
    options = {p.name for p in parameters if p.kind is not _KINDS.VAR_KEYWORD}
    if taken := sorted(options & _own_attributes()):
        raise HookDefinitionError(
            hook, f"kwrap.Hook, a Keras layer, has {listed(taken)} of its own; choose other names for the options"
        )


@functools.cache
def _own_attributes() -> frozenset[str]:
    """Return the names of what every hook has, but for its options."""
    return frozenset(dir(Hook())).difference(own_options(Hook))


@functools.lru_cache  # asked in every eager call of a wrapped layer
def accepts(function: Callable[..., Any], name: str) -> bool:
    """Tell whether a method takes the argument `name`, by itself or through `**kwargs`."""
    parameters = inspect.signature(function).parameters
    return name in parameters or any(p.kind is _KINDS.VAR_KEYWORD for p in parameters.values())


@contextmanager
def in_trial() -> Iterator[None]:
    """Let hooks know that their calls are tried."""
    token = _in_trial.set(True)
    try:
        yield
    finally:
        _in_trial.reset(token)


def copies_of(hooks: Iterable[Hook]) -> list[Hook]:
    """Return hooks of the same classes and options, on no layer yet."""
    return [type(hook).from_config(hook.get_config()) for hook in hooks]


def repeated_names(hooks: Iterable[Hook]) -> Iterable[str]:
    """Yield each name that stands twice among `hooks`."""
    seen: set[str] = set()
    for hook in hooks:
        if hook.name in seen:
            yield hook.name
        seen.add(hook.name)
