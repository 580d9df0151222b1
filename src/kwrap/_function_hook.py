"""Hooks that are functions: the Hook class of one, with its keyword-only parameters as options."""

import inspect
import types
from collections.abc import Callable, Sequence
from typing import Any

from kwrap._captured import own_options
from kwrap._hook import CALL_ARGUMENTS, Hook
from kwrap.errors import HookDefinitionError, listed

__all__ = ["function_hook"]

_KINDS = inspect._ParameterKind


def function_hook(function: Callable[..., Any]) -> type[Hook]:
    """Return the Hook class of a function `(call_next, inputs, ..., *, option=default)`.

    Raises:
        HookDefinitionError: the function does not take `call_next` and inputs first, or an option has a name of Hook's
            own, or that of a call argument.
    """
    name = function.__name__
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or parameters[0].name != "call_next":
        raise HookDefinitionError(name, f"{name}{inspect.signature(function)} has to take `call_next` first")
    options = [p for p in parameters if p.kind is _KINDS.KEYWORD_ONLY and p.default is not inspect.Parameter.empty]
    taken = [p.name for p in options if p.name in own_options(Hook)]
    if taken:
        raise HookDefinitionError(name, f"every hook has the options {listed(taken)} already; choose other names")
    trapped = next((p.name for p in options if p.name in CALL_ARGUMENTS), None)
    if trapped:
        raise HookDefinitionError(
            name,
            f"{trapped!r} would be an option, as it comes after a `*` and has a default; call arguments take no `*`: "
            f"def {name}(call_next, inputs, {trapped})",
        )

    def call(self: Hook, call_next: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return function(call_next, *args, **kwargs, **{p.name: self._options[p.name] for p in options})

    def init(self: Hook, **kwargs: Any) -> None:
        super(hook_class, self).__init__(**{key: value for key, value in kwargs.items() if key in own_options(Hook)})

    self_parameter = inspect.Parameter("self", _KINDS.POSITIONAL_OR_KEYWORD)
    call_parameters = [p for p in parameters if p not in options]
    _sign(call, [self_parameter, *call_parameters])
    _sign(init, [self_parameter, *options, inspect.Parameter("kwargs", _KINDS.VAR_KEYWORD)])
    namespace = {
        "__doc__": function.__doc__,
        "__init__": init,
        "__module__": function.__module__,
        "__qualname__": function.__qualname__,
        "call": call,
        "hook_name": name,
    }
    hook_class: type[Hook] = types.new_class(name, (Hook,), exec_body=lambda body: body.update(namespace))
    return hook_class


def _sign(function: Any, parameters: Sequence[inspect.Parameter]) -> None:
    function.__signature__ = inspect.Signature(parameters)
