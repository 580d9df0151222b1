"""What authors of hooks and plugins test with: a suite of checks, and plugins and registries of a test's own.

pytest is imported by the suite's tests and by `kwrap.testing.fixtures` only.
"""

from kwrap.testing._check import CHECKS, Check, CheckFailure, NotApplicable
from kwrap.testing._example import Example
from kwrap.testing._isolation import install_plugin, isolated_registry
from kwrap.testing._saving import save_examples
from kwrap.testing._suite import HookSuite

__all__ = [
    "CHECKS",
    "Check",
    "CheckFailure",
    "Example",
    "HookSuite",
    "NotApplicable",
    "install_plugin",
    "isolated_registry",
    "save_examples",
]
