"""What kwrap asks of the plugin before hooks are put on a model."""

from collections.abc import Iterator

import keras

import kwrap
from kwrap_lora._hook import LoRA
from kwrap_lora._options import rank_problem

__all__ = ["kwrap_check_plan"]


@kwrap.hookimpl
def kwrap_check_plan(model: keras.Model, plan: kwrap.Plan) -> Iterator[kwrap.Problem]:
    """Return which layers of `plan` have weights of a lower rank than their LoRA."""
    for entry in plan.entries:
        for hook in (hook for hook in entry.hooks if isinstance(hook, LoRA)):
            for target in hook.select_targets(entry.layer, entry.path):
                if problem := rank_problem(hook.rank, target):
                    way_out = "give a lower rank there, or leave the layer out with exclude=..."
                    yield kwrap.Problem(f"{problem}: {way_out}", entry.path)
