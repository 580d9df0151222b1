"""A plugin that needs a package that is not there."""

import example_absent  # noqa: F401
