"""A plugin with a misspelt hookimpl: the question is `kwrap_weight_targets`."""

import kwrap


@kwrap.hookimpl
def kwrap_weight_target(layer):
    """Answer a question that nobody asks."""
