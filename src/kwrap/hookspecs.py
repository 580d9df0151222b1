"""The contract with installed plugins: what kwrap asks of every plugin.

A plugin is a distribution with an entry point in the group `kwrap`; the entry point's name is the plugin's name, its
value the module that the plugin's hooks live in or under. Any of the functions below may be defined in that module:

    import kwrap

    @kwrap.hookimpl
    def kwrap_weight_targets(layer):
        ...

Each plugin is asked by itself. Arguments are passed by name and may be left out, so that new ones can be added.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import pluggy

if TYPE_CHECKING:
    import click
    import keras

    from kwrap._plan import Plan, Problem
    from kwrap._targets import WeightTarget

__all__ = ["hookimpl", "kwrap_check_plan", "kwrap_commands", "kwrap_weight_targets"]

PROJECT: Final = "kwrap"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def kwrap_weight_targets(layer: keras.Layer) -> Sequence[WeightTarget] | None:
    """Return the weights of `layer` that hooks may change; `None` leaves the question to others.

    Asked of a built layer that has no method `get_weight_targets()` and whose class nobody has registered with
    `kwrap.weight_targets.register`; of the cell of a recurrent layer, too, whose weights are the recurrent layer's
    targets. An empty sequence is an answer: this layer has none. A target is one of the layer's own weights, not of the
    layers that it holds. Two plugins whose answers differ are an error that names both; for a subclass of a Keras
    layer, kwrap's own answer yields to a plugin's.
    """


@hookspec
def kwrap_check_plan(model: keras.Model, plan: Plan) -> Iterable[Problem] | None:
    """Return what is wrong with putting the hooks of `plan` on `model`; nothing or `None` if all is well.

    Asked before anything changes. The problems of all plugins are gathered; any one of them stops the plan.
    """


@hookspec
def kwrap_commands(cli: click.Group) -> None:
    """Add subcommands to `cli`, the group behind `kwrap`.

    Asked only when a command is called that kwrap itself lacks, so that `kwrap --help` loads no plugin.
    """
