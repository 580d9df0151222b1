"""A plugin that works."""

import keras

import kwrap


@kwrap.hook(layer_type=keras.layers.Dense)
class Double(kwrap.Hook):
    """Double the inputs."""

    def call(self, call_next, inputs):
        """Double the inputs."""
        return call_next(inputs * 2.0)
