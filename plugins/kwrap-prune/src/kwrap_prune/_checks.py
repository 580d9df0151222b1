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
    """Return which hooks would count neither the updates of the model's optimizer nor, as 1 says, its calls."""
    optimizer = getattr(model, "optimizer", None)
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of a LossScaleOptimizer
    if optimizer is None:
        return
    every = optimizer.gradient_accumulation_steps or 1
    hooks = {hook.name: hook for entry in plan.entries for hook in entry.hooks if isinstance(hook, Prune)}
    for hook in hooks.values():
        counted = hook.gradient_accumulation_steps
        if counted != every and counted != 1 and (counted, every) != (None, 1):
            updates = "at each call" if every == 1 else f"once in {every} calls"
            yield kwrap.Problem(
                f"the optimizer updates the weights {updates}, and {hook.name!r} takes it for "
                f"{counted or 1}: Prune(..., gradient_accumulation_steps={every})"
            )
