"""kwrap: change what chosen layers of a Keras model do, and take the change off again."""

from importlib import import_module
from typing import TYPE_CHECKING

import kwrap._keras_layers  # noqa: F401 - the plugin for Keras' own layers, there from the start
from kwrap import errors, hookspecs, options, tables
from kwrap._checking import NonFinite, check
from kwrap._files import atomic_write, save_model
from kwrap._graph import Graph, GraphCall, read_graph
from kwrap._hook import Hook, Rule
from kwrap._kernel import Kernel, is_jit_compiled, kernel
from kwrap._loading import load_model
from kwrap._model import bypass, clone_function, clone_model, collect, find_hooks, plan, unwrap_model, wrap_model
from kwrap._plan import Plan, Problem
from kwrap._plugins import plugins
from kwrap._registry import hook, registered, use
from kwrap._selection import find_layers
from kwrap._targets import WeightTarget, weight_targets
from kwrap._wrapper import Wrapper
from kwrap.hookspecs import hookimpl

__all__ = [
    "Graph",
    "GraphCall",
    "Hook",
    "Kernel",
    "NonFinite",
    "Plan",
    "Problem",
    "Rule",
    "WeightTarget",
    "Wrapper",
    "atomic_write",
    "bypass",
    "check",
    "clone_function",
    "clone_model",
    "collect",
    "errors",
    "find_hooks",
    "find_layers",
    "hook",
    "hookimpl",
    "hookspecs",
    "is_jit_compiled",
    "kernel",
    "load_model",
    "options",
    "plan",
    "plugins",
    "read_graph",
    "registered",
    "save_model",
    "tables",
    "testing",
    "unwrap_model",
    "use",
    "weight_targets",
    "wrap_model",
]

if TYPE_CHECKING:
    from kwrap import testing
else:

    def __getattr__(name: str) -> object:
        """Import `kwrap.testing` when it is first asked for: models at work do without it."""
        if name == "testing":
            return import_module("kwrap.testing")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
