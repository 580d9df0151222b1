"""What the tests of probes look at, and what they compare with: what NumPy computes of a network."""

import keras
import numpy as np
import tensorflow as tf

import kwrap
from kwrap_probe import report

X = np.random.default_rng(0).normal(size=(24, 6)).astype("float32")
Y = np.random.default_rng(1).normal(size=(24, 2)).astype("float32")


def network(dtype: str | None = None) -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(5, activation="relu", name="hidden", dtype=dtype),
            keras.layers.Dense(2, name="head", dtype=dtype),
        ],
        name="net",
    )


def by_name(model: keras.Model) -> dict[str, object]:
    return {f"{each.path}/{each.name}": each for each in report(model).statistics}


def must_be(statistics: object, *arrays: np.ndarray, rtol: float = 1e-5) -> None:
    """Compare with NumPy's numbers of all arrays together."""
    values = np.concatenate([np.asarray(array, "float64").reshape(-1) for array in arrays])
    assert (statistics.calls, statistics.size) == (len(arrays), values.size)
    assert statistics.zeros == np.sum(values == 0)
    found = [statistics.mean, statistics.spread, statistics.minimum, statistics.maximum]
    scale = np.abs(values).max()
    np.testing.assert_allclose(found, [values.mean(), values.std(), values.min(), values.max()], rtol, rtol * scale)
    assert sum(count for _, _, count in statistics.bins) == values.size


def reference(model: keras.Model, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Return what goes through the layers, and gradients of the mean squared error, by NumPy alone."""
    (kernel, bias), (head, last) = ([np.asarray(w, "float64") for w in each.weights] for each in model.layers)
    hidden = np.maximum(x @ kernel + bias, 0)
    outputs = hidden @ head + last
    upstream = 2 * (outputs - y) / y.size
    below = upstream @ head.T
    return {
        "hidden/inputs": x,
        "hidden/outputs": hidden,
        "hidden/output_gradients": below,
        "hidden/kernel": kernel,
        "hidden/kernel_gradients": x.T @ (below * (hidden > 0)),
        "head/inputs": hidden,
        "head/outputs": outputs,
        "head/output_gradients": upstream,
        "head/kernel": head,
        "head/kernel_gradients": hidden.T @ upstream,
    }


@kwrap.hook(layer_type=keras.layers.Layer)
class InAFunction(kwrap.Hook):
    """Call the layer in a function of TensorFlow's, which is traced once."""

    def call(self, call_next, inputs):
        if "function" not in vars(self):
            self.__dict__["function"] = tf.function(call_next)
        return self.function(inputs)
