"""Weight targets: which weights of a layer hooks may change, and how each is read as a matrix."""

import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar, final

import keras

from kwrap import _keras
from kwrap._plugins import plugins
from kwrap.errors import KwrapError, TargetAnswerError, TargetDefinitionError, TargetError, listed

__all__ = ["BUILTIN", "WeightTarget", "cell_parts", "how_to_teach", "weight_targets"]

# The plugin that answers for Keras' own layers.
BUILTIN: Final = "keras"


@dataclass(frozen=True, eq=False)
class WeightTarget:
    """A weight that hooks may change.

    Attributes:
        name: the weight's name, unique among its layer's targets.
        variable: the Keras variable, of floating dtype, one of the layer's own.
        input_axes: the axes of the variable that are summed over with the layer's input.
        output_axes: the axes that index the layer's output features.
        default: whether a hook takes it that does not name its targets. Kernels and embeddings are, biases and the
            weights of normalization layers are not.

    An axis in neither tuple is one that input and output both have: the heads of a batched kernel, the channels of a
    depthwise one. In the matrix it is kept with the outputs.
    """

    name: str
    variable: keras.Variable
    input_axes: tuple[int, ...] = ()
    output_axes: tuple[int, ...] = ()
    default: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """The variable's shape."""
        return tuple(self.variable.shape)

    @property
    def dtype(self) -> str:
        """The variable's dtype, also inside a layer of mixed precision."""
        return str(_keras.own_dtype(self.variable))

    def as_matrix(self, value: Any) -> Any:
        """Return `value`, of the variable's shape, as a matrix of shape (inputs, outputs)."""
        rows = math.prod(self.shape[axis] for axis in self.input_axes)
        return keras.ops.reshape(_with_axes(value, self._order()), (rows, -1))

    def from_matrix(self, matrix: Any) -> Any:
        """Return a matrix of shape (inputs, outputs) in the variable's shape: the inverse of `as_matrix`."""
        order = self._order()
        value = keras.ops.reshape(matrix, [self.shape[axis] for axis in order])
        return _with_axes(value, [order.index(axis) for axis in range(len(order))])

    def _order(self) -> list[int]:
        others = [axis for axis in range(len(self.shape)) if axis not in self.input_axes]
        return [*self.input_axes, *others]


def _with_axes(value: Any, order: list[int]) -> Any:
    """Return `value` with its axes in this order; itself, without an op, where they are."""
    return value if order == sorted(order) else keras.ops.transpose(value, order)


# --- who answers for a layer ---------------------------------------------------------------------------------------

Targets: TypeAlias = tuple[WeightTarget, ...]
Teacher = TypeVar("Teacher", bound=Callable[[Any], Sequence[WeightTarget]])


@final
class WeightTargets:
    """Return a layer's weight targets when called; `register` teaches a layer of one's own.

    Asked are, and the first that answers counts:

    1. a method `get_weight_targets()` of the layer's class;
    2. the function that is registered for the most derived class of those that the layer is an instance of;
    3. the plugins' `kwrap_weight_targets`. What kwrap itself says for Keras' layers is the answer of the plugin
       "keras"; for a subclass of a Keras layer it yields to another plugin's.
    """

    def __init__(self) -> None:
        self._registered: dict[type[keras.Layer], Callable[[Any], Sequence[WeightTarget]]] = {}

    def __call__(self, layer: keras.Layer) -> Targets:
        """Return the weight targets of a built `layer`: none if it owns no weight that anybody answers for.

        Raises:
            TargetAnswerError: an answer is not as it has to be, or whoever was asked raised.
            TargetError: two plugins answer differently.
            PluginAnswerError: a plugin raised.
        """
        return self.find(layer) or ()

    def register(self, cls: type[keras.Layer], /) -> Callable[[Teacher], Teacher]:
        """Return a decorator for the function that answers for layers of `cls` and its subclasses.

        The function takes a built layer and returns its targets, the layer's own weights among them that hooks may
        change. Registering a class again replaces its function; `unregister` takes it back.

        Raises:
            TargetDefinitionError: `cls` is no layer class that can be taught so, or what is decorated no function of a
                layer.
        """
        _check_class(cls)

        def register(function: Teacher) -> Teacher:
            _check_function(cls, function)
            self._registered[cls] = function
            return function

        return register

    def unregister(self, cls: type[keras.Layer], /) -> None:
        """Undo `register`.

        Raises:
            TargetError: nothing is registered for `cls` itself.
        """
        if cls not in self._registered:
            known = listed(known.__name__ for known in self._registered)
            raise TargetError(f"no function is registered for {cls!r}; there is one for: {known}.")
        del self._registered[cls]

    def is_taught(self, layer: keras.Layer) -> bool:
        """Tell whether somebody answers for `layer`, be it with no targets; one without weights needs nobody."""
        return self.find(layer) is not None or not _keras.own_weights(layer)

    def find(self, layer: keras.Layer) -> Targets | None:
        """Return what is answered for `layer`; `None`: nobody does, or there is nothing yet to answer for."""
        if not layer.built and not _keras.own_weights(layer):
            return None
        cls = type(layer)
        if (method := getattr(cls, _METHOD, None)) is not None:
            return _asked(method, layer, "Mend the method")
        plugins.load()  # One of them may register a function.
        taught = next((base for base in cls.__mro__ if self._is_usable(base)), None)
        if taught is not None:
            way_out = f"Mend it, or take it back: kwrap.weight_targets.unregister({taught.__name__})"
            return _asked(self._registered[taught], layer, way_out)
        return _asked_of_plugins(layer)

    def _is_usable(self, cls: type) -> bool:
        """Tell whether there is a function for `cls` whose plugin, if it is one's, is not blocked."""
        function = self._registered.get(cls)
        if function is None:
            return False
        owner = plugins.owner(function.__module__)
        return owner is None or owner.usable


weight_targets: Final = WeightTargets()


def how_to_teach(layer: keras.Layer) -> str:
    """Return why `layer`, for which nobody answers, has no targets, and the way out; for the end of a sentence."""
    parts = [part for _, part in cell_parts(layer)] if isinstance(layer, keras.layers.RNN) else []
    untaught = next((part for part in parts if not weight_targets.is_taught(part)), layer)
    name = type(untaught).__name__
    whose = "its own weights" if untaught is layer else f"the weights of its {name}"
    return (
        f"nobody says which of {whose} hooks may change: {_REGISTER.format(name)}, or a method get_weight_targets() "
        f"of {name}"
    )


def cell_parts(layer: keras.layers.RNN) -> Iterator[tuple[str, keras.Layer]]:
    """Yield the cell of a recurrent layer, and the layers in it, each with what goes before its targets' names.

    Stacked cells go by their index: their names are mostly automatic, and then other ones in each process.
    """
    if isinstance(layer.cell, keras.Layer):  # Keras takes any object with `call` and `state_size`.
        yield from _parts(layer.cell, "")


def _parts(layer: keras.Layer, prefix: str) -> Iterator[tuple[str, keras.Layer]]:
    yield prefix, layer
    stacked = isinstance(layer, keras.layers.StackedRNNCells)
    for index, held in enumerate(_keras.sublayers(layer)):
        yield from _parts(held, f"{prefix}cell_{index}/" if stacked else f"{prefix}{held.name}/")


# --- asking, and checking what is answered -------------------------------------------------------------------------

_METHOD: Final = "get_weight_targets"
_REGISTER: Final = "@kwrap.weight_targets.register({})"


def _asked(function: Callable[[Any], Sequence[WeightTarget]], layer: keras.Layer, way_out: str) -> Targets:
    """Return the answer of a method or a registered function."""
    who = _described(function)
    try:
        answer: Any = function(layer)
        # A generator runs when it is read: here, where it is known whose it is.
        answer = list(answer) if isinstance(answer, Iterator) else answer
    except KwrapError:
        raise
    except Exception as error:
        problem = f"raised {type(error).__name__}: {error}"
        raise TargetAnswerError(who, layer.name, type(layer).__name__, problem, way_out) from error
    return _checked(answer, layer, who, way_out)


def _asked_of_plugins(layer: keras.Layer) -> Targets | None:
    """Return what the plugins answer, all the same; `None`: none of them does."""
    answers = []
    for plugin, answer in plugins.answers("kwrap_weight_targets", layer=layer):
        way_out = f"Answer in its place: {_REGISTER.format(type(layer).__name__)}; or kwrap.plugins.block({plugin!r})"
        answers.append((plugin, _checked(answer, layer, f"plugin {plugin!r}", way_out)))
    # Whoever answers for a subclass of a Keras layer knows what it has made of its parent.
    if len(answers) > 1 and answers[0][0] == BUILTIN and not type(layer).__module__.startswith("keras."):
        del answers[0]
    if not answers:
        return None
    first_plugin, first = answers[0]
    for plugin, answer in answers[1:]:
        if [_key(target) for target in answer] != [_key(target) for target in first]:
            raise TargetError(
                f"plugins {first_plugin!r} and {plugin!r} disagree on the weight targets of layer {layer.name!r} (a "
                f"{type(layer).__name__}): {[target.name for target in first]} and "
                f"{[target.name for target in answer]}. Block one of them: kwrap.plugins.block({plugin!r})."
            )
    return first


def _key(target: WeightTarget) -> tuple[Any, ...]:
    return target.name, id(target.variable), target.input_axes, target.output_axes, target.default


def _checked(answer: Any, layer: keras.Layer, who: str, way_out: str) -> Targets:
    """Return an answer that is as it has to be.

    Raises:
        TargetAnswerError: it is not.
    """
    if problem := _problem(answer, layer):
        raise TargetAnswerError(who, layer.name, type(layer).__name__, problem, way_out)
    return tuple(answer)


def _problem(answer: Any, layer: keras.Layer) -> str | None:
    if not isinstance(answer, Sequence):
        given = "None" if answer is None else f"a {type(answer).__name__}"
        return f"gave {given}, where a sequence of kwrap.WeightTarget is due; an empty one says that there are none"
    if others := [type(target).__name__ for target in answer if not isinstance(target, WeightTarget)]:
        return f"gave a sequence with a {others[0]} in it, where only kwrap.WeightTarget are due"
    names = Counter(target.name for target in answer)
    variables = Counter(id(target.variable) for target in answer)
    own = {id(variable) for variable in _keras.own_weights(layer)}
    for target in answer:
        if names[target.name] > 1:
            return f"gave two targets of the name {target.name!r}"
        if problem := _variable_problem(target, layer, own) or _axes_problem(target):
            return f"gave a target {target.name!r} {problem}"
        if variables[id(target.variable)] > 1:
            return f"gave the weight of target {target.name!r} twice"
    return None


def _variable_problem(target: WeightTarget, layer: keras.Layer, own: set[int]) -> str | None:
    if not isinstance(target.variable, keras.Variable):
        return f"whose variable is no keras.Variable, but a {type(target.variable).__name__}"
    if id(target.variable) not in own:
        owners = [held for held in _keras.all_sublayers(layer) if _owns(held, target.variable)]
        owner = f", but of {owners[-1].name!r}, which it holds: teach that layer's class" if owners else ""
        return f"whose variable {target.variable.path!r} is none of the layer's own weights{owner}"
    if not keras.backend.is_float_dtype(target.dtype):
        return f"whose variable is of dtype {target.dtype}, not a floating one"
    return None


def _owns(layer: keras.Layer, variable: keras.Variable) -> bool:
    return any(variable is own for own in _keras.own_weights(layer))


def _axes_problem(target: WeightTarget) -> str | None:
    rank = len(target.shape)
    for field, axes in (("input_axes", target.input_axes), ("output_axes", target.output_axes)):
        if not isinstance(axes, tuple) or not all(isinstance(axis, int) and 0 <= axis < rank for axis in axes):
            return f"with {field}={axes!r}, where a tuple of axes of its shape {target.shape} is due, from 0 on"
    both = target.input_axes + target.output_axes
    if len(set(both)) < len(both):
        return f"with an axis twice in input_axes={target.input_axes} and output_axes={target.output_axes}"
    return None


# --- checking what is registered -----------------------------------------------------------------------------------


def _check_class(cls: Any) -> None:
    if not (inspect.isclass(cls) and issubclass(cls, keras.Layer)):
        given = cls.__qualname__ if inspect.isfunction(cls) else repr(cls)
        problem = f"{given} is no layer class. Say for which one the function answers: {_REGISTER.format('MyLayer')}"
        raise TargetDefinitionError(str(getattr(cls, "__name__", cls)), problem)
    if cls is keras.Layer:
        problem = "the function would answer for every layer, Keras' own included. Name the class that has the weights"
        raise TargetDefinitionError("Layer", problem)
    if (method := getattr(cls, _METHOD, None)) is not None:
        problem = f"its method answers already, {_described(method)}: change that, or register a function without it"
        raise TargetDefinitionError(cls.__name__, problem)


def _check_function(cls: type[keras.Layer], function: Any) -> None:
    if not inspect.isfunction(function):
        raise TargetDefinitionError(cls.__name__, f"{function!r} is no function")
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        problem = f"{_described(function)} cannot be called with a layer alone: {error}"
        raise TargetDefinitionError(cls.__name__, problem) from error


def _described(function: Callable[..., Any]) -> str:
    """Return a function's name and where it is defined."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    name = str(getattr(function, "__qualname__", function))
    return f"{name}() ({code.co_filename}:{code.co_firstlineno})" if code else name
