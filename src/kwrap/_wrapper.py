"""Wrapper: the generic layer that holds a layer and its hooks, and dispatches build and call to them."""

import functools
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras

from kwrap import _keras
from kwrap._blame import blaming
from kwrap._chain import Arguments, CallSignature, Link, call_through, describe
from kwrap._hook import Hook, in_trial, repeated_names
from kwrap._names import LastOfAll, OfLayer
from kwrap._registry import FORMAT, check_format, record, revive
from kwrap._scope import ReadScope, outside_read_scopes
from kwrap._weights import WeightHooks
from kwrap.errors import (
    DuplicateHookError,
    HookDefinitionError,
    LayerTypeError,
    OutputChangedError,
    WrapperStateError,
)

__all__ = ["Wrapper"]


# The layer's parts too, so that the variables have the names that they have without a Wrapper.
@_keras.checkpointing(lambda wrapper: {**_keras.checkpoint_parts(wrapper.layer), **wrapper._hooks_by_key()})
class Wrapper(keras.layers.Layer):
    """A layer with hooks around it, in every other respect the layer itself.

    Its name, call signature, masks, shapes, weights and attributes are the layer's (`wrapper.kernel` reads
    `wrapper.layer.kernel`). The first hook is outermost for `call`; `parametrize` and `constrain` run in list order.
    A hook that does not override a method is not in its path. Its own are `weights`, to which hooks add theirs, and its
    dtype policy, float32: hooks see weights in their own dtype.

    Args:
        layer: any Keras layer, built or not.
        hooks: hooks that are on no other layer; they belong to this Wrapper from then on.
        name: default: the layer's.
        path: the layer's place in its model, which errors and `Hook.path` show; default: the name.

    Raises:
        LayerTypeError: a hook is not made for this layer.
        DuplicateHookError: two hooks have one name.
        HookCallError: a hook raised; the cause is chained.
    """

    weight_hooks: WeightHooks
    _bypassed: tuple[Hook, ...]
    _loading: bool
    _place: str

    def __new__(cls, layer: keras.Layer, *args: Any, **kwargs: Any) -> "Wrapper":
        wrapper: Wrapper = super().__new__(_class_for(type(layer).__name__), layer, *args, **kwargs)
        return wrapper

    def __init__(
        self, layer: keras.Layer, hooks: Sequence[Hook], *, name: str | None = None, path: str | None = None
    ) -> None:
        check_hooks(layer, hooks, path or layer.name)
        call: Any = functools.wraps(layer.call)(functools.partial(_dispatch, self))
        call.__signature__ = _keras.call_signature(layer)  # spares whoever asks for it the way through the layer's
        # Past Keras' tracking, as none of it is state; and before Layer.__init__, which reads the signature of `call`:
        # Keras then passes what the wrapped layer takes.
        self.__dict__.update(
            call=call,
            weight_hooks=WeightHooks(layer),
            _bypassed=(),
            _loading=False,
            _place=path or name or layer.name,
            _signature=CallSignature(call),
        )
        super().__init__(name=name or layer.name, dtype="float32", autocast=False)
        self.layer = layer
        self.hooks: list[Hook] = list(hooks)
        self._compose()
        _keras.mirror_call(self, layer)
        object.__setattr__(self, "_is_made", True)
        if layer.built:
            self.build_hooks()

    # --- the layer's face ----------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        """Read through to the layer, except for what Keras and TensorFlow keep on every layer themselves."""
        layer = self.__dict__.get("layer")
        if layer is None:  # asked often by Layer.__init__
            raise AttributeError(name)
        if isinstance(name, OfLayer):
            return getattr(layer, name.name)
        if "/" in name and (hook := self._hooks_by_key().get(name)) is not None:
            return hook
        if name in _own_names():
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        if name == "enable_lora":
            raise AttributeError(
                f"layer {self.name!r} is wrapped: Keras' enable_lora reads its kernel past the hooks; unwrap it first"
            )
        return getattr(layer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set the layer's own attributes on the layer; those that every Keras layer has, and the Wrapper's, here."""
        layer = self.__dict__.get("layer") if "_is_made" in self.__dict__ else None
        if name == "trainable":
            # Past TensorFlow, which leaves out what reads the same: the parts may differ.
            object.__setattr__(self, name, value)
        elif layer is not None and _is_of_layer(self, layer, name):
            setattr(layer, name, value)
        elif not _keras.set_plain(self, name, value):
            super().__setattr__(name, value)

    def __dir__(self) -> Iterable[str]:
        """List the layer's attributes, and each hook by its name: Keras' weight files name what they hold by these.

        Not `hooks` and `bypassed`: in lists, Keras counts what is of one class, and would take one hook's state for
        another's.
        """
        own = {*dir(type(self)), *_own_names()} - {"bypassed"}
        taken = {*dir(type(self)), *vars(self)}
        of_layer = (
            OfLayer(name) if name in taken or isinstance(name, OfLayer) else name
            for name in dir(self.layer)
            if name not in _own_names()
        )
        return {*own, *of_layer, *self._hooks_by_key()} - {"enable_lora"}

    def _hooks_by_key(self) -> dict[str, Hook]:
        """Return the hooks by what weight files have them under."""
        # No attribute has a dot: whatever the layer's own `hooks` holds, its keys are others.
        prefix = "kwrap.hooks/" if hasattr(self.layer, "hooks") else "hooks/"
        return {LastOfAll(prefix + hook.name): hook for hook in self.hooks}

    @property
    def path(self) -> str | None:
        """The layer's own path of name scopes, with which its variables' paths begin."""
        path: str | None = self.layer.path
        return path

    @property
    def trainable(self) -> bool:
        """Whether the layer, or a hook with trainable variables of its own, is trainable. Setting it sets both."""
        return bool(self.layer.trainable) or self.trains_beside

    @trainable.setter
    def trainable(self, value: bool) -> None:
        for part in (self.layer, *self.hooks):
            part.trainable = value
        self.weight_hooks.freeze()

    @property
    def trains_beside(self) -> bool:
        """Whether a hook has trainable variables of its own."""
        return any(hook.trainable_variables for hook in self.hooks)

    @property
    def supports_masking(self) -> bool:
        """Whether the layer hands masks on."""
        return bool(self.layer.supports_masking)

    @supports_masking.setter
    def supports_masking(self, value: bool) -> None:
        self.layer.supports_masking = value

    @property
    def input_spec(self) -> Any:
        """The layer's input spec."""
        return self.layer.input_spec

    @input_spec.setter
    def input_spec(self, value: Any) -> None:
        self.layer.input_spec = value

    def compute_mask(self, *args: Any, **kwargs: Any) -> Any:
        """Return the layer's output mask."""
        return self.layer.compute_mask(*args, **kwargs)

    def compute_output_shape(self, *args: Any, **kwargs: Any) -> Any:
        """Return the layer's output shape, as changed by hooks that say `changes_output`."""
        if not self._changes_output:
            return self.layer.compute_output_shape(*args, **kwargs)
        specs, keywords = keras.tree.map_shape_structure(keras.KerasTensor, (args, kwargs))
        return keras.tree.map_structure(lambda spec: spec.shape, self.compute_output_spec(*specs, **keywords))

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """Return the layer's output spec (KerasTensors), as changed by hooks that say `changes_output`."""
        if not self._changes_output:
            return self.layer.compute_output_spec(*args, **kwargs)
        return _keras.output_spec(self.call, args, kwargs)

    def symbolic_call(self, *args: Any, **kwargs: Any) -> Any:
        """Return what a call on KerasTensors gives; hooks that keep shape and dtype are not run for it."""
        if self._changes_output:
            return self.compute_output_spec(*args, **kwargs)
        return _keras.symbolic_outputs(self.layer, args, kwargs)

    @property
    def _changes_output(self) -> bool:
        return any(link.hook.changes_output for link in self._links)

    def __repr__(self) -> str:
        return f"<Wrapper of {self.layer!r}, hooks: {[hook.name for hook in self.hooks]}>"

    # --- its hooks -----------------------------------------------------------------------------------------------

    def set_hooks(self, hooks: Sequence[Hook]) -> None:
        """Make `hooks` the Wrapper's hooks; those that it had may be among them. Weights stay as they are."""
        _keras.set_tracked(self, "hooks", self.hooks, hooks)
        self._compose()
        if self.weight_hooks.engaged:
            self.weight_hooks.engage(self.hooks)

    @property
    def place(self) -> str:
        """The path of the layer in its model."""
        return self._place

    @property
    def bypassed(self) -> tuple[Hook, ...]:
        """Those hooks that do not act on calls, nor on the weights as read, for the moment."""
        return self._bypassed

    def bypass(self, hooks: tuple[Hook, ...]) -> None:
        """Make `hooks` those that do not act; not a setter, which Keras would make track them."""
        object.__setattr__(self, "_bypassed", hooks)
        self._compose()

    def _compose(self) -> None:
        acting = [hook for hook in self.hooks if not any(hook is bypassed for bypassed in self._bypassed)]
        # Past Keras' tracking, which knows the hooks by `self.hooks`.
        object.__setattr__(self, "_links", [Link(hook) for hook in acting if hook.overrides("call")])
        object.__setattr__(self, "_parametrizing", [hook for hook in acting if hook.overrides("parametrize")])

    def build_hooks(self) -> None:
        """Create the variables of hooks that have none yet; the layer is built."""
        for hook in self.hooks:
            if not hook.is_on(self.layer):
                with blaming(hook, "build"):
                    hook.attach(self.layer, self._place, functools.partial(_initialize, self.layer))
                if self._loading and not _keras.in_stateless_scope():
                    hook.remember_fresh()
        self.built = True

    def initialize_hooks(self) -> None:
        """Let hooks that are neither initialized nor loaded take their state from the layer's weights.

        Keras loads the whole-model HDF5 format, and users copies of models, by assigning: such hooks are loaded, too.
        """
        for hook in self.hooks:
            if not hook.initialized:  # asked in every eager call: to set an attribute of a Keras layer takes its time
                hook.initialized = hook.was_assigned()
            hook.forget_fresh()
            if not hook.initialized:
                _initialize(self.layer, hook)

    def engage(self) -> None:
        """Let the hooks act on the weights from now on: as read, as stored, and frozen where a hook says so."""
        if not self.weight_hooks.engaged:
            self.weight_hooks.engage(self.hooks)
            _keras.move_remat(self.layer, self)
            _keras.stop_remat(self._cells())

    def disengage(self) -> None:
        """Undo `engage`, but for the values of the weights."""
        self.weight_hooks.disengage()
        _keras.move_remat(self, self.layer)
        _keras.resume_remat(self._cells())

    def _cells(self) -> list[keras.Layer]:
        return _keras.all_sublayers(self.layer) if isinstance(self.layer, keras.layers.RNN) else []

    # --- build and call ------------------------------------------------------------------------------------------

    def build(self, *args: Any, **kwargs: Any) -> None:
        """Build the layer and the hooks; composites call it with shapes."""
        if not self.layer.built:
            self.layer.build(*args, **kwargs)
        self.make_ready()

    def get_build_config(self) -> Any:
        """Return what the layer needs to be built."""
        return self.layer.get_build_config()

    def build_from_config(self, config: Any) -> None:
        """Build the layer and the hooks when loading."""
        if not self.layer.built:
            self.layer.build_from_config(config)
        if self.layer.built:
            self.make_ready()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the layer through its hooks."""
        if not self._ready:
            self._prepare(args, kwargs)
        if not self._acts_on_calls and not _keras.any_symbolic_tensors(args, kwargs):
            # Keras' way into a call takes longer than a small layer's compute: it is gone once, into the layer's.
            self.weight_hooks.check()
            return self.layer(*args, **kwargs)
        return super().__call__(*args, **kwargs)

    @property
    def _acts_on_calls(self) -> bool:
        """Whether a call is other than the layer's own; a symbolic one always is, as its node is the Wrapper's."""
        return bool(self._links or self._parametrizing) or _keras.recomputes(self)

    @property
    def _ready(self) -> bool:
        return self.weight_hooks.engaged and all(hook.initialized for hook in self.hooks)

    @_keras.unconverted
    def _prepare(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        if _keras.in_many_replicas():
            if self.layer.built and all(hook.initialized for hook in self.hooks):
                self.engage()  # all that is left to do for what was loaded, and it assigns nothing
                return
            raise WrapperStateError(
                f"wrapped layer {self.name!r} is not built yet and cannot be inside a replica: call the model once "
                "before, under the strategy's scope."
            )
        # `fit` may call a layer for the first time inside a graph; variables and their first values belong outside.
        with _keras.outside_graphs(), outside_read_scopes():
            if not self.layer.built:
                _keras.build_for_call(self.layer, args, kwargs)
            # A file's values come after the first, symbolic calls; only a call on values initializes what is loaded.
            self._loading = self._loading and _keras.any_symbolic_tensors(tuple(args), dict(kwargs))
            if self.layer.built:
                self.make_ready()

    def make_ready(self) -> None:
        """Build the hooks; where variables have values already, fill the hooks' state and let them act."""
        self.build_hooks()
        if self._loading:
            # Keras builds the optimizer of a saved model before it loads values.
            self.weight_hooks.freeze_for(self.hooks)
        # Inside a stateless scope there are no values yet: the first call outside does the rest.
        if not self._loading and not _keras.in_stateless_scope():
            # Weights in their own dtype, also during a call of a mixed precision model.
            with _keras.AutocastScope(None):
                self.initialize_hooks()
                self.engage()
                self.weight_hooks.project()

    def run_layer(self, arguments: Arguments) -> Any:
        """Call the layer; it reads its weights through `parametrize`."""
        self.weight_hooks.check()
        args, keywords = arguments.args, arguments.keywords
        training = _training(keywords)
        hooks = [hook for hook in self._parametrizing if hook.active(training)]
        if not hooks:
            return self.layer(*args, **keywords)
        values = self.weight_hooks.read(hooks, training)
        if not values:
            return self.layer(*args, **keywords)
        with ReadScope(self.layer, values, f"{', '.join(hook.name for hook in hooks)} at {self._place!r}"):
            return self.layer(*args, **keywords)

    def check_call(self, args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Any) -> None:
        """Run the hooks' `call` with `outputs` for the layer's; raise what would be raised in a call.

        Args:
            args, kwargs, outputs: symbolic tensors; no variable is changed.

        Raises:
            OutputChangedError: shape or dtype would change unannounced.
            HookCallError: a hook raises.
        """
        expected = describe(outputs)
        for training in (True, False) if any(link.minds_training for link in self._links) else (False,):
            arguments = self._signature.bind(args, kwargs)
            with in_trial():
                received = describe(call_through(self._links, lambda _: outputs, arguments, training))
            if not self._changes_output and received != expected:
                raise OutputChangedError(self._links[0].hook.name, self._place, expected, received)

    # --- saving --------------------------------------------------------------------------------------------------

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as Keras does, for `Wrapper` to load: the class on demand is in no module."""
        reduced: Any = super().__reduce__()
        return getattr(Wrapper, reduced[0].__name__), *reduced[1:]

    def finish_loading(self) -> None:
        """Let hooks that nothing was loaded for take their state from the weights that were."""
        self._loading = False
        if self.layer.built and not self._ready:
            self.make_ready()

    def save_own_variables(self, store: Any) -> None:
        """Save the layer's weights under the Wrapper's own key, where a plain model has them."""
        self.finish_loading()
        self.weight_hooks.check()
        # The average of `use_ema` is taken before the constraint; what is saved satisfies the hooks all the same.
        self.weight_hooks.project()
        self.layer.save_own_variables(store)

    def load_own_variables(self, store: Any) -> None:
        """Load the layer's weights."""
        self.layer.load_own_variables(store)

    def get_config(self) -> dict[str, Any]:
        """Return the layer's config and, for each hook, its name, version, options, plugin and the plugin's version."""
        layer = _keras.serialized(self.layer)
        # The Wrapper's own says it, and builds the layer in its place in the model's name scopes.
        layer.pop("build_config", None)
        return {
            "format": FORMAT,
            "name": self.name,
            "path": self._place,
            "layer": layer,
            "hooks": [record(hook) for hook in self.hooks],
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None) -> "Wrapper":
        """Return a Wrapper from its config; hooks are resolved by name among those registered and installed.

        Raises:
            SavedFormatError: a later kwrap wrote it.
        """
        check_format(config)
        if "go_backwards" in config:
            raise WrapperStateError(
                f"layer {config['path']!r} is wrapped, so that Bidirectional cannot make the backward layer of it: "
                "put the hooks on the layers inside of Bidirectional, once it is built"
            )
        hooks = [revive(saved, config["path"]) for saved in config["hooks"]]
        layer = keras.saving.deserialize_keras_object(config["layer"], custom_objects=custom_objects)
        return cls.loading(layer, hooks, name=config["name"], path=config["path"])

    @staticmethod
    def loading(
        layer: keras.Layer, hooks: Sequence[Hook], *, name: str | None = None, path: str | None = None
    ) -> "Wrapper":
        """Return a Wrapper whose hooks' state will be loaded, and is not taken from the layer's weights before.

        For a layer that is shared within the file, and so comes here twice, the same Wrapper.
        """
        shared = _of_loaded.get(id(layer))
        if shared is not None:
            return shared
        wrapper = Wrapper(layer, hooks, name=name, path=path)
        wrapper._loading = True
        _of_loaded[id(layer)] = wrapper
        return wrapper


# By the id of the layer, which the Wrapper keeps alive.
_of_loaded: weakref.WeakValueDictionary[int, Wrapper] = weakref.WeakValueDictionary()


def _dispatch(wrapper: Wrapper, *args: Any, **kwargs: Any) -> Any:
    """Run a wrapped layer's call."""
    if not wrapper._links:
        return wrapper.run_layer(Arguments(wrapper._signature, args, kwargs))
    arguments = wrapper._signature.bind(args, kwargs)
    return call_through(wrapper._links, wrapper.run_layer, arguments, bool(_training(kwargs)))


def _initialize(layer: keras.Layer, hook: Hook) -> None:
    with blaming(hook, "initialize"):
        hook.initialize(layer)
    hook.restore_loaded()
    hook.initialized = True


def _is_of_layer(wrapper: Wrapper, layer: keras.Layer, name: str) -> bool:
    """Tell whether an attribute is one of the layer's alone, which a Wrapper reads through."""
    own = name in wrapper.__dict__ or name in _own_names() or hasattr(type(wrapper), name)
    return not own and hasattr(layer, name)


def _training(keywords: Mapping[str, Any]) -> Any:
    given = keywords.get("training")
    return _keras.call_training() if given is None else given


def check_hooks(layer: keras.Layer, hooks: Sequence[Hook], path: str) -> None:
    """Raise unless `hooks` can stand on `layer` together."""
    for hook in hooks:
        check_registered(hook)
        if not isinstance(layer, hook.layer_type):
            raise LayerTypeError(hook.name, path, type(layer).__name__, [cls.__name__ for cls in hook.layer_type])
    for name in repeated_names(hooks):
        raise DuplicateHookError(name, path)


def check_registered(hook: Hook) -> None:
    """Raise unless it is said which layers `hook` is for."""
    if not hook.layer_type:
        raise HookDefinitionError(hook.hook_name, "is not registered; decorate it with @kwrap.hook(layer_type=...)")


# --- the Wrapper's class and names -----------------------------------------------------------------------------------

_classes: dict[str, type[Wrapper]] = {}
_register: Callable[[type[Wrapper]], type[Wrapper]] = keras.saving.register_keras_serializable("kwrap", "Wrapper")
_register(Wrapper)


def _class_for(name: str) -> type[Wrapper]:
    """Return the subclass of Wrapper that is named after the layer's class.

    Keras' weight files name what a container holds by class: a file of a plain model then fits the wrapped one.
    """
    if name not in _classes:
        subclass = type(name, (Wrapper,), {"__module__": __name__, "__doc__": Wrapper.__doc__})
        _classes[name] = _register(subclass)
        _register(Wrapper)  # Keras maps the one name to the class that was registered last
    return _classes[name]


@functools.cache
def _own_names() -> frozenset[str]:
    """Return the names that every Keras layer has of its own, which a Wrapper does not read through.

    No weight file has what they hold; nor the one of TensorFlow's that layers have once they hold any other.
    """
    return frozenset((*dir(keras.layers.Layer()), "_self_unconditional_dependency_names"))
