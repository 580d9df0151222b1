"""The errors of files with adapters."""

from collections.abc import Sequence

from kwrap.errors import KwrapError

__all__ = ["AdapterFileError", "AdapterMismatchError"]

_SHOWN = 6


class AdapterFileError(KwrapError, ValueError):
    """A file is no adapter, or a damaged or forged one."""

    def __init__(self, file: str, problem: str) -> None:
        self.file, self.problem = file, problem
        super().__init__(f"{file!r} cannot be loaded as an adapter: {problem}. Get or save the file again.")


class AdapterMismatchError(KwrapError, ValueError):
    """An adapter is for another model: layers or weights are missing, of other shapes, or of other values.

    `problems` names each layer, weight and shape.
    """

    def __init__(self, file: str, model: str, problems: Sequence[str], way_out: str) -> None:
        self.file, self.model, self.problems = file, model, list(problems)
        more = len(self.problems) - _SHOWN
        shown = "; ".join(self.problems[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        super().__init__(f"the adapter in {file!r} does not fit model {model!r}: {shown}. {way_out}")
