import keras
import numpy as np
import pytest

import kwrap
from kwrap.errors import ModelTypeError

from . import composites
from .specimens import Adapter, Mask


@kwrap.hook(layer_type=keras.layers.Layer, name="checking_average")
class Average(kwrap.Hook):
    def build(self, layer):
        for target in self.target_weights:
            self.add_state(target, "average", target.shape)

    def parametrize(self, target, value):
        return value


def model() -> keras.Model:
    layers = [keras.layers.Dense(4, name="one"), keras.layers.BatchNormalization(name="norm")]
    return kwrap.wrap_model(keras.Sequential([keras.Input((3,)), *layers]), [Average(), Adapter().at("one")])


def test_a_model_of_finite_values_has_no_findings():
    assert kwrap.check(model()) == ()


def test_a_nan_in_a_hooks_state_is_named_by_path_hook_and_state():
    checked = model()
    ((_, hook),) = kwrap.find_hooks(checked, Average)
    state = np.zeros((3, 4), "float32")
    state[1, 2], state[0] = np.nan, -np.inf
    hook.state(hook.target_weights[0], "average").assign(state)
    (found,) = kwrap.check(checked)
    assert found == kwrap.NonFinite(
        path="one", hook="checking_average", state="kernel_average", nans=1, infinities=4, size=12
    )
    assert str(found) == "hook 'checking_average' at 'one': kernel_average: 1 NaN and 4 infinite of 12 values"


def test_weights_of_layers_and_trainable_variables_of_hooks_are_looked_at_each_once_in_the_models_order():
    checked = model()
    checked.get_layer("norm").moving_variance.assign(np.full(4, np.inf, "float32"))
    checked.get_layer("one").bias.assign([np.nan, 0, 0, 0])
    ((_, hook),) = kwrap.find_hooks(checked, Adapter)
    hook.delta.assign(np.full((3, 4), np.nan))
    assert [(one.path, one.hook, one.state, one.nans, one.infinities) for one in kwrap.check(checked)] == [
        ("one", None, "bias", 1, 0),
        ("one", "specimen_adapter", "delta", 12, 0),
        ("norm", None, "moving_variance", 0, 4),
    ]


def test_weights_inside_composites_are_named_by_their_whole_path():
    checked = composites.tagger()
    kwrap.wrap_model(checked, Mask())
    path, hook = kwrap.find_hooks(checked)[-1]
    variable = hook.target_weights[0].variable
    variable.assign(keras.ops.full(variable.shape, np.nan))
    assert [(one.path, one.hook, one.nans) for one in kwrap.check(checked)] == [(path, None, one_size(variable))]
    kwrap.unwrap_model(checked, merge=False)
    assert [(one.path, one.hook) for one in kwrap.check(checked)] == [(path, None)]


def one_size(variable: keras.Variable) -> int:
    return int(np.prod(variable.shape))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_every_floating_dtype_is_looked_at(dtype):
    checked = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, dtype=dtype, name="dense")])
    kernel = np.zeros((3, 2))
    kernel[0, 0], kernel[1, 1] = np.nan, np.inf
    checked.layers[0].kernel.assign(kernel)
    assert [(one.nans, one.infinities, one.size) for one in kwrap.check(checked)] == [(1, 1, 6)]


def test_what_is_no_model_is_an_error():
    with pytest.raises(ModelTypeError):
        kwrap.check(keras.layers.Dense(2))
