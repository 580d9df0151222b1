import keras
import numpy as np
import pytest

import kwrap
from kwrap_cli._contents import contents, value_of


class WithOwnWeights(keras.Model):
    def build(self, input_shape):
        self.scale = self.add_weight(shape=(2,), name="scale")
        self.also = self.add_weight(shape=(3,), name="scale")
        self.dense = keras.layers.Dense(2, name="dense")
        self.dense.build(input_shape)

    def call(self, inputs):
        return self.dense(inputs) * self.scale


def test_a_models_own_weights_come_last_and_equal_names_are_told_apart():
    model = WithOwnWeights()
    model(np.ones((1, 4), "float32"))
    dense, own = contents(model)
    assert (dense.place.path, own.place.path) == ("dense", "")
    assert {name: tuple(weight.shape) for name, weight in own.weights.items()} == {"scale": (2,), "scale#2": (3,)}
    assert dense.parameters + own.parameters == model.count_params()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_zeros_and_bytes_are_counted_in_every_floating_dtype(dtype):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, dtype=dtype)])
    kernel = np.arange(12).reshape(4, 3) % 3  # four zeros
    model.layers[0].kernel.assign(kernel)
    (dense,) = contents(model)
    assert dense.zeros() == (4, 12)
    assert dense.bytes == 15 * {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}[dtype]
    np.testing.assert_array_equal(value_of(model.layers[0].kernel), kernel)


def test_a_layer_that_is_not_built_has_nothing():
    model = keras.Sequential([keras.layers.Dense(3)])
    (dense,) = contents(model)
    assert (dense.parameters, dense.zeros(), dense.hook_bytes) == (0, (0, 0), 0)


def test_variables_of_hooks_are_no_weights_of_the_layer():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    kwrap.wrap_model(model, "prune")
    (dense,) = contents(model)
    assert list(dense.weights) == ["kernel", "bias"]
    assert dense.hook_bytes == 12 + 4
