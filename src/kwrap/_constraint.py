"""The chain that stands on a variable's `constraint`, which every Keras optimizer applies after an update."""

from collections.abc import Callable
from typing import Any

import keras

from kwrap import _keras

__all__ = ["ConstraintChain", "Projection", "constrain", "project", "release"]

# Takes the value and whether an optimizer has just updated it; returns the value to store.
Projection = Callable[[Any, bool], Any]


class ConstraintChain:
    """The user's own constraint first, then the entries of hooks, each with an owner and removed by owner.

    Saving and restoring a constraint would be right in stack order only: of two wrapped models of one base, taken
    apart in any order, one would lose its own.
    """

    def __init__(self, own: Callable[[Any], Any] | None) -> None:
        self.own = own
        self.entries: list[tuple[object, Projection]] = []

    def __call__(self, variable: Any) -> Any:
        """Return what an optimizer is to store after its update."""
        value = _keras.read(variable) if isinstance(variable, keras.Variable) else variable
        if self.own is not None:
            value = self.own(value)
        return self._apply(value, updated=True)

    def project(self, value: Any) -> Any:
        """Return `value` as the hooks want it stored, when no optimizer step was made."""
        return self._apply(value, updated=False)

    def _apply(self, value: Any, *, updated: bool) -> Any:
        for _, projection in self.entries:
            value = projection(value, updated)
        return value


def constrain(variable: keras.Variable, owner: object, projection: Projection) -> None:
    """Append an entry of `owner` to the chain on `variable`."""
    chain = variable.constraint
    if not isinstance(chain, ConstraintChain):
        chain = variable.constraint = ConstraintChain(chain)
    chain.entries.append((owner, projection))


def release(variable: keras.Variable, owner: object) -> None:
    """Remove the entries of `owner`; the last one gives the variable its own constraint back."""
    chain = variable.constraint
    if isinstance(chain, ConstraintChain):
        chain.entries = [entry for entry in chain.entries if entry[0] is not owner]
        if not chain.entries:
            variable.constraint = chain.own


def project(variable: keras.Variable) -> None:
    """Store the value that the hooks of a variable want stored."""
    if isinstance(variable.constraint, ConstraintChain):
        variable.assign(variable.constraint.project(_keras.read(variable)))
