"""Check: one thing that a hook has to do, as a function; the table of them; and how a failure is told."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from kwrap.testing._example import Example
    from kwrap.testing._suite import HookSuite

__all__ = ["CHECKS", "Check", "CheckFailure", "NotApplicable", "Wrong", "check"]

_found: Final[dict[str, "Check"]] = {}
CHECKS: Final[Mapping[str, "Check"]] = MappingProxyType(_found)


class CheckFailure(AssertionError):  # noqa: N818 - of a test, as pytest calls it
    """A hook does not do what a check asks for."""

    def __init__(self, check: "Check", about: str, wrong: str) -> None:
        self.check, self.about, self.wrong = check, about, wrong
        super().__init__(
            f"{about} fails {check.name!r}\n"
            f"  wrong:    {wrong}\n"
            f"  contract: {check.promise} ({check.where})\n"
            f"  way out:  {check.way_out}"
        )


class NotApplicable(Exception):  # noqa: N818 - no error: the check is skipped with this reason
    """A check has nothing to look at in this example."""


class Wrong(Exception):  # noqa: N818 - becomes a CheckFailure
    """What is wrong with the hook, in one sentence."""


@final
@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that a hook has to do.

    Attributes:
        name: of the check; the suite's test is `test_<name>`.
        subject: which group it belongs to.
        promise: what the contract says.
        where: the name whose docstring says it.
        way_out: how other hooks do it.
        of_suite: whether it looks at all examples together, and not at each.
    """

    name: str
    subject: str
    promise: str
    where: str
    way_out: str
    of_suite: bool
    function: Callable[..., None]

    def run(self, suite: "type[HookSuite]", example: "Example | None" = None) -> None:
        """Run the check.

        Raises:
            CheckFailure: the hook does not do what it should.
            NotApplicable: there is nothing to check, or the suite or the example says to skip it; with the reason.
        """
        __tracebackhide__ = True
        reason = suite.skip.get(self.name) or (example.skip.get(self.name) if example is not None else None)
        if reason:
            raise NotApplicable(reason)
        about = f"{suite.__name__}" if example is None else f"hook {example}"
        given = {"suite": suite, "example": example}
        arguments = {name: given[name] for name in inspect.signature(self.function).parameters}
        try:
            self.function(**arguments)
        except NotApplicable:
            raise
        except Wrong as error:
            raise CheckFailure(self, about, str(error)) from error.__cause__
        except Exception as error:
            raise CheckFailure(self, about, f"{type(error).__name__}: {error}") from error


def check(*, where: str, way_out: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Put a function into the table of checks; its docstring is what the contract says.

    It takes `example`, `suite`, or both by these names, and raises `Wrong` or `NotApplicable`.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        name = function.__name__
        _found[name] = Check(
            name=name,
            subject=function.__module__.rpartition(".")[2].strip("_"),
            promise=" ".join((function.__doc__ or "").split()),
            where=where,
            way_out=way_out,
            of_suite="example" not in inspect.signature(function).parameters,
            function=function,
        )
        return function

    return register
