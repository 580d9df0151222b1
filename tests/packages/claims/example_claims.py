"""A plugin that claims a hook name of the good one, and has a hook of its own."""

import keras

import kwrap


@kwrap.hook(layer_type=keras.layers.Dense)
def double(call_next, inputs):
    """Double the outputs."""
    return call_next(inputs) * 2.0


@kwrap.hook(layer_type=keras.layers.Dense)
def triple(call_next, inputs):
    """Triple the inputs."""
    return call_next(inputs * 3.0)
