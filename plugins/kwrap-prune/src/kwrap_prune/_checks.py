"""What kwrap asks of the plugin before hooks are put on a model."""

from collections.abc import Iterator

import keras

import kwrap
from kwrap_prune._hook import Prune

__all__ = ["kwrap_check_plan"]


@kwrap.hookimpl
def kwrap_check_plan(model: keras.Model, plan: kwrap.Plan) -> Iterator[kwrap.Problem]:
    """Return what is wrong with pruning the layers of `plan`."""
    for entry in plan.entries:
        for hook in (hook for hook in entry.hooks if isinstance(hook, Prune)):
            for problem in filter(None, map(hook.structure.problem, hook.select_targets(entry.layer, entry.path))):
                yield kwrap.Problem(problem, entry.path)
    yield from _accumulation(model, plan)


def _accumulation(model: keras.Model, plan: kwrap.Plan) -> Iterator[kwrap.Problem]:
    """Return that the hooks do not know how often the model's optimizer updates the weights."""
    optimizer = getattr(model, "optimizer", None)
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of a LossScaleOptimizer
    every = getattr(optimizer, "gradient_accumulation_steps", None)
    hooks = {hook.name: hook for entry in plan.entries for hook in entry.hooks if isinstance(hook, Prune)}
    unaware = sorted(name for name, hook in hooks.items() if hook.gradient_accumulation_steps is None)
    if every and unaware:
        yield kwrap.Problem(
            f"the optimizer updates the weights at each {every}th of its calls only, and {', '.join(unaware)} would "
            f"count the calls: Prune(..., gradient_accumulation_steps={every})"
        )
