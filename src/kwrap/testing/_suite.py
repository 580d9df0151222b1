"""HookSuite: the test class of a hook; each check is one of its tests."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from kwrap._hook import Hook
from kwrap.errors import listed, nearest
from kwrap.testing import _calls, _graphs, _options, _places, _saving, _training, _weights  # noqa: F401 - each fills the table
from kwrap.testing._check import CHECKS, Check, NotApplicable
from kwrap.testing._example import Example, as_example

__all__ = ["HookSuite"]


class HookSuite:
    """The tests that every hook should pass; pytest collects a subclass whose name begins with `Test`.

    Attributes:
        examples: each an `Example`, or a tuple (hook, layer, input). Over all of them, each option of the hook has to
            be off its default at least once.
        bad_options: options that the hook refuses, each a dict for the hook's class.
        saved: a folder with files of former versions, made by `save_examples`, relative to the test module; default:
            `saved`, if it is there.
        skip: the reasons why checks do not apply to this hook, by the check's name.
    """

    examples: ClassVar[Sequence[Any]] = ()
    bad_options: ClassVar[Sequence[Mapping[str, Any]]] = ()
    saved: ClassVar[str | Path | None] = None
    skip: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def all_examples(cls) -> list[Example]:
        """Return the examples, the same objects at each call."""
        if "_examples" not in cls.__dict__:
            cls._examples = [as_example(given) for given in cls.examples]
        return list(cls._examples)

    @classmethod
    def hook_classes(cls) -> list[type[Hook]]:
        """Return the hook classes of the examples, each once."""
        return list(dict.fromkeys(type(example.hook) for example in cls.all_examples()))

    @classmethod
    def saved_folder(cls) -> Path | None:
        """Return the folder of old files that `saved` names, or `saved` beside the test module, if it is there."""
        source = getattr(sys.modules.get(cls.__module__), "__file__", None)
        beside = Path(source).parent if source else Path()
        if cls.saved is not None:
            return beside / cls.saved
        return beside / "saved" if source and (beside / "saved").is_dir() else None

    _examples: ClassVar[list[Example]]

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Give each test the examples, one at a time; called by pytest."""
        __tracebackhide__ = True
        suite = type(self)
        for skip in (suite.skip, *(example.skip for example in suite.all_examples())):
            for name in set(skip) - set(CHECKS):
                raise ValueError(
                    f"{suite.__name__}: skip names no check {name!r}; near: {listed(nearest(name, CHECKS))}"
                )
        for example in suite.all_examples():
            if example.lacks_targets:
                raise ValueError(
                    f"{suite.__name__}: hook {example} does nothing but change weights, and the layer has none of its "
                    "own that is a target of the hook; give a layer that has, such as the one inside a composite, or "
                    "name others by the hook's option `targets`"
                )
        if "example" in metafunc.fixturenames:
            examples = suite.all_examples()
            names = [f"{example.hook.hook_name}-{type(example.layer).__name__}" for example in examples]
            metafunc.parametrize("example", examples, ids=names)


def _add_test(check: Check) -> None:
    def test_suite(self: HookSuite) -> None:
        __tracebackhide__ = True
        _run(check, type(self), None)

    def test_example(self: HookSuite, example: Example) -> None:
        __tracebackhide__ = True
        _run(check, type(self), example)

    test = test_suite if check.of_suite else test_example
    test.__name__, test.__qualname__ = f"test_{check.name}", f"HookSuite.test_{check.name}"
    test.__doc__ = check.promise
    setattr(HookSuite, test.__name__, test)


def _run(check: Check, suite: type[HookSuite], example: Example | None) -> None:
    __tracebackhide__ = True
    import pytest  # Here, so that what is not a test can import the kit without it.

    try:
        check.run(suite, example)
    except NotApplicable as reason:
        pytest.skip(f"{check.name}: {reason}")


for _check in CHECKS.values():
    _add_test(_check)
