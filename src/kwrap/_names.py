"""Names that a Wrapper lists to Keras, which saves what `getattr` gives for each name that `dir` lists, in order."""

__all__ = ["LastOfAll", "OfLayer"]


class OfLayer(str):
    """The name of an attribute of the wrapped layer that the Wrapper has, too: `layer` of `TimeDistributed`, say.

    It reads as any text, and is equal to itself alone. So `getattr` finds none of the Wrapper's own attributes by it,
    and asks `__getattr__`; and the file has the layer's under the name that it has without a Wrapper.
    """

    name: str

    def __new__(cls, name: str) -> "OfLayer":
        """Mark `name`; for a Wrapper around another, it is marked already."""
        marked = super().__new__(cls, name)
        marked.name = name
        return marked

    __eq__ = object.__eq__
    __ne__ = object.__ne__
    __hash__ = object.__hash__


class LastOfAll(str):
    """A name that is sorted behind all others: hooks' state is loaded when all that is in the layer is.

    So `initialize`, where a file has no state, sees the weights that were loaded.
    """

    __slots__ = ()

    def __lt__(self, other: str) -> bool:
        return isinstance(other, LastOfAll) and super().__lt__(other)

    def __gt__(self, other: str) -> bool:
        return not isinstance(other, LastOfAll) or super().__gt__(other)
