"""The chain of hooks around a layer's call: who gets which arguments, and who is to blame."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from kwrap import _keras
from kwrap._blame import blame
from kwrap._hook import Hook
from kwrap.errors import KwrapError, OutputChangedError

__all__ = ["Arguments", "CallSignature", "Link", "call_through"]

_KINDS = inspect._ParameterKind
_BY_POSITION = (_KINDS.POSITIONAL_ONLY, _KINDS.POSITIONAL_OR_KEYWORD)


class CallSignature:
    """How a layer's `call` takes its arguments."""

    def __init__(self, call: Callable[..., Any]) -> None:
        parameters = inspect.signature(call).parameters.values()
        self.names = [p.name for p in parameters if p.kind in _BY_POSITION]
        self.defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
        # With *args, or positional-only arguments, what was given by position cannot be renamed.
        self.by_position = any(p.kind in (_KINDS.VAR_POSITIONAL, _KINDS.POSITIONAL_ONLY) for p in parameters)

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> "Arguments":
        """Return the arguments with the first input by position and the rest by keyword, however they were given."""
        args, keywords = list(args), dict(kwargs)
        if not args and self.names and self.names[0] in keywords:
            args = [keywords.pop(self.names[0])]
        if not self.by_position:
            keywords.update(zip(self.names[1:], args[1:], strict=False))
            del args[1 : len(self.names)]
        return Arguments(self, tuple(args), keywords)


@dataclass(frozen=True, slots=True)
class Arguments:
    """A call's arguments, as `CallSignature.bind` puts them."""

    signature: CallSignature
    args: tuple[Any, ...]
    keywords: dict[str, Any]

    def replaced(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> "Arguments":
        """Return these arguments with the given ones in their places."""
        new = self.signature.bind(args, kwargs)
        return Arguments(self.signature, new.args + self.args[len(new.args) :], {**self.keywords, **new.keywords})


Proceed = Callable[[Arguments], Any]


class Link:
    """A hook's `call` in the chain."""

    def __init__(self, hook: Hook) -> None:
        self.hook = hook
        parameters = list(inspect.signature(hook.call).parameters.values())[1:]
        by_position = [p for p in parameters if p.kind in _BY_POSITION]
        self._takes_all = any(p.kind is _KINDS.VAR_POSITIONAL for p in parameters)
        self._takes_any_keyword = any(p.kind is _KINDS.VAR_KEYWORD for p in parameters)
        self._takes_input = self._takes_all or bool(by_position)
        self._named = [
            p for p in parameters if p.kind in (*_BY_POSITION, _KINDS.KEYWORD_ONLY) and p not in by_position[:1]
        ]
        # Whether it may do another thing in training than in inference.
        self.minds_training = hook.phase != "always" or any(p.name == "training" for p in self._named)

    def __call__(self, proceed: Proceed, arguments: Arguments, training: Any) -> Any:
        """Run the hook's `call` around `proceed`."""
        raised: list[Exception] = []
        results: list[Any] = []

        def call_next(*args: Any, **kwargs: Any) -> Any:
            try:
                result = proceed(arguments.replaced(args, kwargs))
            except Exception as error:
                raised.append(error)
                raise
            results.append(result)
            return result

        args = arguments.args if self._takes_all else arguments.args[: int(self._takes_input)]
        try:
            outputs = self.hook.call(call_next, *args, **self._keywords(arguments, training))
        except KwrapError:
            raise
        except Exception as error:
            if error in raised:
                raise  # the layer's own, or a hook's further in
            raise blame(self.hook, "call", error) from error
        # A tensor that is handed on is the layer's; a list that is, may have been changed.
        handed_on = results and outputs is results[-1] and keras.ops.is_tensor(outputs)
        if results and not handed_on and not self.hook.changes_output:
            self._check(outputs, results[-1])
        return outputs

    def _keywords(self, arguments: Arguments, training: Any) -> dict[str, Any]:
        """Return the arguments that the hook names; the layer's own default where the caller gave none."""
        keywords = dict(arguments.keywords) if self._takes_any_keyword else {}
        for parameter in self._named:
            name = parameter.name
            if arguments.keywords.get(name) is not None:
                keywords[name] = arguments.keywords[name]
            elif name == "training":
                keywords[name] = training
            elif name == "mask":
                keywords[name] = keras.tree.map_structure(_keras.get_keras_mask, arguments.args[0])
            elif name in arguments.signature.defaults:
                keywords[name] = arguments.signature.defaults[name]
            elif parameter.default is inspect.Parameter.empty:
                keywords[name] = None
        return keywords

    def _check(self, outputs: Any, expected: Any) -> None:
        if not fits(outputs, expected):
            raise OutputChangedError(self.hook.name, str(self.hook.path), describe(expected), describe(outputs))


def call_through(links: Sequence[Link], proceed: Proceed, arguments: Arguments, training: Any) -> Any:
    """Call `links` from the first, outermost, to the last, then `proceed`."""
    if not links:
        return proceed(arguments)
    link, rest = links[0], links[1:]

    def inner(passed: Arguments) -> Any:
        given = passed.keywords.get("training")
        return call_through(rest, proceed, passed, training if given is None else bool(given))

    return link(inner, arguments, training) if link.hook.active(training) else inner(arguments)


def describe(outputs: Any) -> str:
    """Return dtypes and shapes of (nested) tensors as text; unknown dimensions as None."""
    return str(keras.tree.map_structure(_describe, outputs))


def _describe(tensor: Any) -> str:
    shape = _shape(tensor)
    return f"{keras.backend.standardize_dtype(tensor.dtype)}{'(?)' if shape is None else shape}"


def fits(outputs: Any, expected: Any) -> bool:
    """Tell whether (nested) tensors have the same structure, dtypes and shapes, as far as a graph knows these."""
    try:
        keras.tree.assert_same_structure(outputs, expected)
    except (TypeError, ValueError):
        return False
    return all(map(_fits, keras.tree.flatten(outputs), keras.tree.flatten(expected)))


def _fits(tensor: Any, expected: Any) -> bool:
    received, wanted = _shape(tensor), _shape(expected)
    if keras.backend.standardize_dtype(tensor.dtype) != keras.backend.standardize_dtype(expected.dtype):
        return False
    if received is None or wanted is None:
        return True
    return len(received) == len(wanted) and all(
        a is None or b is None or a == b for a, b in zip(received, wanted, strict=True)
    )


def _shape(tensor: Any) -> tuple[int | None, ...] | None:
    """Return the shape as far as it is known; None: not even the rank (a KerasTensor's shape is a tuple)."""
    return None if getattr(tensor.shape, "rank", 0) is None else tuple(tensor.shape)
