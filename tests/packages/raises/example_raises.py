"""A plugin that raises on import, after it has defined a hook."""

import keras

import kwrap


@kwrap.hook(layer_type=keras.layers.Dense)
def left_behind(call_next, inputs):
    """Do nothing."""
    return call_next(inputs)


raise RuntimeError("the weather is bad")
