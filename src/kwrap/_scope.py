"""Reading other values for variables during a call."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import keras

from kwrap import _keras
from kwrap.errors import WrapperStateError

__all__ = ["ReadScope", "outside_read_scopes"]


class ReadScope(keras.StatelessScope):
    """While it is open, reading one of the `values`' variables gives the value mapped to it.

    Everything else is as if the scope were not there: other variables are read through the scope around it, updates are
    written at once (or go to the scope around it), and losses reach the layers that added them. Assigning a mapped
    variable is an error: the value would be lost.

    Args:
        layer: the layer whose call runs inside the scope.
        values: (variable, tensor) by the variable's `id`; tensors of the variable's shape and dtype.
        owner: who maps the variables, for the error message.
    """

    def __init__(self, layer: keras.Layer, values: Mapping[int, tuple[keras.Variable, Any]], owner: str) -> None:
        super().__init__()
        self.layer, self.values, self.owner = layer, values, owner

    def __enter__(self) -> "ReadScope":
        super().__enter__()
        # Without a scope around it, losses are kept until the end, for Keras would drop them.
        self.collect_losses = self.original_scope is None or self.original_scope.collect_losses
        if self.original_scope is not None:
            self.losses = self.original_scope.losses
        return self

    def get_current_value(self, variable: keras.Variable) -> Any:
        """Return the mapped value, or what the variable has without this scope."""
        if id(variable) in self.values:
            return self.values[id(variable)][1]
        if self.original_scope is None:
            return _keras.stored_value(variable)
        return self.original_scope.get_current_value(variable)

    def add_update(self, update: tuple[keras.Variable, Any]) -> None:
        """Write the update of a variable through."""
        variable, value = update
        if id(variable) in self.values:
            raise WrapperStateError(
                f"{self.owner} changes how {variable.path!r} is read, and layer {self.layer.name!r} assigns it during "
                "its call: the assigned value would be lost. Leave this weight out with the hook's option targets=..."
            )
        if self.original_scope is None:
            _keras.assign_directly(variable, value)
        else:
            self.original_scope.add_update(update)

    def __exit__(self, *args: Any, **kwargs: Any) -> None:
        super().__exit__(*args, **kwargs)
        if self.original_scope is None:
            _keras.adopt_losses(self.layer, self.losses)


def outside_read_scopes() -> AbstractContextManager[None]:
    """Return a context without the ReadScopes that are open: a layer may be built during a wrapped layer's call."""
    scope = _keras.get_stateless_scope()
    while isinstance(scope, ReadScope):
        scope = scope.original_scope
    return _keras.under_scope(scope)
