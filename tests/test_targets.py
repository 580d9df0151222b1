import math

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import kwrap
from kwrap import _targets
from kwrap.errors import TargetError


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def built(layer: keras.Layer, *shape: int | None) -> keras.Layer:
    layer.build(shape)
    return layer


def matrix_of(layer: keras.Layer, name: str = "kernel") -> np.ndarray:
    target = next(target for target in kwrap.weight_targets(layer) if target.name == name)
    return np.asarray(target.as_matrix(target.variable.value))


def spatial(rank: int) -> tuple[int, ...]:
    """Return a kernel size, another along each axis."""
    return (2, 3, 4)[:rank]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


# --- the matrix is the layer's linear map: inputs as rows, unfolded, times the matrix give the outputs ---------------


def test_dense(rng):
    layer = built(layers.Dense(4), None, 3)
    x = rng.normal(size=(5, 3)).astype("float32")
    np.testing.assert_allclose(layer(x), x @ matrix_of(layer), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_convolution(rng, rank):
    size = spatial(rank)
    layer = getattr(layers, f"Conv{rank}D")(5, size)
    x = rng.normal(size=(2, *size, 3)).astype("float32")  # one window
    y = np.reshape(layer(x), (2, 5))
    np.testing.assert_allclose(y, x.reshape(2, -1) @ matrix_of(layer), rtol=1e-4, atol=1e-5)


def test_grouped_convolution(rng):
    layer = layers.Conv2D(4, (2, 3), groups=2)
    x = rng.normal(size=(2, 2, 3, 6)).astype("float32")
    y = np.reshape(layer(x), (2, 4))
    matrix = matrix_of(layer)
    assert matrix.shape == (2 * 3 * 3, 4)
    expected = [x[..., group * 3 : group * 3 + 3].reshape(2, -1) @ matrix[:, group * 2 :][:, :2] for group in (0, 1)]
    np.testing.assert_allclose(y, np.concatenate(expected, axis=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_transposed_convolution(rng, rank):
    size = spatial(rank)
    layer = getattr(layers, f"Conv{rank}DTranspose")(5, size)
    x = rng.normal(size=(2, *size, 3)).astype("float32")
    # The output where each element of the kernel meets one of the input, in the other direction.
    y = np.asarray(layer(x))[(slice(None), *(extent - 1 for extent in size))]
    reversed_x = x[(slice(None), *(slice(None, None, -1) for _ in size))]
    np.testing.assert_allclose(y, reversed_x.reshape(2, -1) @ matrix_of(layer), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 2])
def test_depthwise_convolution(rng, rank):
    size = spatial(rank)
    layer = getattr(layers, f"DepthwiseConv{rank}D")(size, depth_multiplier=2)
    x = rng.normal(size=(2, *size, 3)).astype("float32")
    y = np.reshape(layer(x), (2, 3, 2))
    matrix = matrix_of(layer)
    assert matrix.shape == (math.prod(size), 6)
    expected = [x.reshape(2, -1, 3)[:, :, channel] @ matrix[:, channel * 2 :][:, :2] for channel in range(3)]
    np.testing.assert_allclose(y, np.stack(expected, axis=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 2])
def test_separable_convolution(rng, rank):
    size = spatial(rank)
    layer = getattr(layers, f"SeparableConv{rank}D")(5, size, depth_multiplier=2)
    x = rng.normal(size=(2, *size, 3)).astype("float32")
    y = np.reshape(layer(x), (2, 5))
    depthwise = matrix_of(layer, "depthwise_kernel").reshape(-1, 3, 2)
    between = np.einsum("bsc,scm->bcm", x.reshape(2, -1, 3), depthwise).reshape(2, 6)
    np.testing.assert_allclose(y, between @ matrix_of(layer, "pointwise_kernel"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("equation", "output_shape", "input_shape", "input_axes"),
    [
        ("ab,bc->ac", 4, (3,), (0,)),
        ("...x,xy->...y", 4, (2, 3), (0,)),
        ("abc,cde->abde", (None, 2, 4), (2, 3), (0,)),  # query, key and value of an attention layer
        ("abcd,cde->abe", (None, 5), (2, 3, 4), (0, 1)),  # its output
        ("abc,dc->abd", (None, 5), (2, 3), (1,)),
    ],
)
def test_einsum_dense(rng, equation, output_shape, input_shape, input_axes):
    layer = layers.EinsumDense(equation, output_shape)
    x = rng.normal(size=(2, *input_shape)).astype("float32")
    y = np.asarray(layer(x))
    (target,) = kwrap.weight_targets(layer)
    assert target.input_axes == input_axes
    rows = math.prod(target.shape[axis] for axis in input_axes)
    np.testing.assert_allclose(
        y.reshape(-1, math.prod(target.shape) // rows),
        x.reshape(-1, rows) @ matrix_of(layer),
        rtol=1e-4,
        atol=1e-5,
    )


def test_einsum_dense_with_a_kernel_for_each_head(rng):
    layer = layers.EinsumDense("bhc,hcd->bhd", (2, 4))
    x = rng.normal(size=(5, 2, 3)).astype("float32")
    y = np.asarray(layer(x))
    (target,) = kwrap.weight_targets(layer)
    assert (target.input_axes, target.output_axes) == ((1,), (0, 2))
    matrix = matrix_of(layer)
    expected = [x[:, head] @ matrix[:, head * 4 :][:, :4] for head in (0, 1)]
    np.testing.assert_allclose(y, np.stack(expected, axis=1), rtol=1e-4, atol=1e-5)


def test_embedding():
    layer = built(layers.Embedding(6, 3), None, 4)
    one_hot = np.eye(6, dtype="float32")[[5, 0, 2]]
    np.testing.assert_array_equal(layer(np.array([5, 0, 2])), one_hot @ matrix_of(layer, "embeddings"))


def test_simple_rnn(rng):
    layer = built(layers.SimpleRNN(4), None, None, 3)
    x, h = rng.normal(size=(2, 1, 3)).astype("float32"), rng.normal(size=(2, 4)).astype("float32")
    expected = np.tanh(x[:, 0] @ matrix_of(layer) + h @ matrix_of(layer, "recurrent_kernel"))
    np.testing.assert_allclose(layer(x, initial_state=h), expected, rtol=1e-4, atol=1e-5)


def test_gru(rng):
    layer = built(layers.GRU(4), None, None, 3)
    x, h = rng.normal(size=(2, 1, 3)).astype("float32"), rng.normal(size=(2, 4)).astype("float32")
    update, reset, candidate = np.split(x[:, 0] @ matrix_of(layer), 3, axis=1)
    update_h, reset_h, candidate_h = np.split(h @ matrix_of(layer, "recurrent_kernel"), 3, axis=1)
    gate = sigmoid(update + update_h)
    expected = gate * h + (1 - gate) * np.tanh(candidate + sigmoid(reset + reset_h) * candidate_h)
    np.testing.assert_allclose(layer(x, initial_state=h), expected, rtol=1e-4, atol=1e-5)


def lstm_step(z: np.ndarray, c: np.ndarray) -> np.ndarray:
    i, f, candidate, o = np.split(z, 4, axis=-1)
    return sigmoid(o) * np.tanh(sigmoid(f) * c + sigmoid(i) * np.tanh(candidate))


def test_lstm(rng):
    layer = built(layers.LSTM(4, unit_forget_bias=False), None, None, 3)
    x = rng.normal(size=(2, 1, 3)).astype("float32")
    h, c = rng.normal(size=(2, 2, 4)).astype("float32")
    z = x[:, 0] @ matrix_of(layer) + h @ matrix_of(layer, "recurrent_kernel")
    np.testing.assert_allclose(layer(x, initial_state=[h, c]), lstm_step(z, c), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_convolutional_lstm(rng, rank):
    size = (3,) * rank
    layer = getattr(layers, f"ConvLSTM{rank}D")(4, size, recurrent_activation="sigmoid", unit_forget_bias=False)
    built(layer, None, 1, *size, 2)
    x = rng.normal(size=(2, 1, *size, 2)).astype("float32")  # one window, one step
    h, c = rng.normal(size=(2, 2, *(1,) * rank, 4)).astype("float32")
    padded = np.pad(h, [(0, 0), *[(1, 1)] * rank, (0, 0)])  # the recurrent convolution keeps the size
    z = x.reshape(2, -1) @ matrix_of(layer) + padded.reshape(2, -1) @ matrix_of(layer, "recurrent_kernel")
    y = np.reshape(layer(x, initial_state=[h, c]), (2, 4))
    np.testing.assert_allclose(y, lstm_step(z, c.reshape(2, 4)), rtol=1e-4, atol=1e-5)


# --- which weights ---------------------------------------------------------------------------------------------------

KERNEL = [("kernel", True), ("bias", False)]
RECURRENT = [("kernel", True), ("recurrent_kernel", True), ("bias", False)]
SEPARABLE = [("depthwise_kernel", True), ("pointwise_kernel", True), ("bias", False)]
SCALE = [("gamma", False), ("beta", False)]

# By class: a layer, the shape of its input, and (name, default) of its targets.
TARGETS = {
    layers.Dense: (layers.Dense(2), (None, 3), KERNEL),
    layers.EinsumDense: (layers.EinsumDense("ab,bc->ac", 2, bias_axes="c"), (None, 3), KERNEL),
    layers.Embedding: (layers.Embedding(3, 2), (None, 4), [("embeddings", True)]),
    layers.Conv1D: (layers.Conv1D(2, 2), (None, 4, 3), KERNEL),
    layers.Conv2D: (layers.Conv2D(2, 2), (None, 4, 4, 3), KERNEL),
    layers.Conv3D: (layers.Conv3D(2, 2), (None, 4, 4, 4, 3), KERNEL),
    layers.Conv1DTranspose: (layers.Conv1DTranspose(2, 2), (None, 4, 3), KERNEL),
    layers.Conv2DTranspose: (layers.Conv2DTranspose(2, 2), (None, 4, 4, 3), KERNEL),
    layers.Conv3DTranspose: (layers.Conv3DTranspose(2, 2), (None, 4, 4, 4, 3), KERNEL),
    layers.DepthwiseConv1D: (layers.DepthwiseConv1D(2), (None, 4, 3), KERNEL),
    layers.DepthwiseConv2D: (layers.DepthwiseConv2D(2), (None, 4, 4, 3), KERNEL),
    layers.SeparableConv1D: (layers.SeparableConv1D(2, 2), (None, 4, 3), SEPARABLE),
    layers.SeparableConv2D: (layers.SeparableConv2D(2, 2), (None, 4, 4, 3), SEPARABLE),
    layers.SimpleRNN: (layers.SimpleRNN(2), (None, 4, 3), RECURRENT),
    layers.GRU: (layers.GRU(2), (None, 4, 3), RECURRENT),
    layers.LSTM: (layers.LSTM(2, dropout=0.5, seed=1), (None, 4, 3), RECURRENT),
    layers.ConvLSTM1D: (layers.ConvLSTM1D(2, 2), (None, 1, 4, 3), RECURRENT),
    layers.ConvLSTM2D: (layers.ConvLSTM2D(2, 2), (None, 1, 4, 4, 3), RECURRENT),
    layers.ConvLSTM3D: (layers.ConvLSTM3D(2, 2), (None, 1, 4, 4, 4, 3), RECURRENT),
    layers.BatchNormalization: (layers.BatchNormalization(), (None, 3), SCALE),
    layers.LayerNormalization: (layers.LayerNormalization(), (None, 3), SCALE),
    layers.RMSNormalization: (layers.RMSNormalization(), (None, 3), [("scale", False)]),
    layers.GroupNormalization: (layers.GroupNormalization(1), (None, 3), SCALE),
}


def test_every_row_of_the_table_is_tested():
    assert TARGETS.keys() == _targets._KERNELS.keys()


@pytest.mark.parametrize("cls", TARGETS, ids=lambda cls: cls.__name__)
def test_kernels_and_embeddings_are_default_targets_biases_and_norms_are_not(cls):
    fresh, shape, expected = TARGETS[cls]
    layer = built(cls.from_config(fresh.get_config()), *shape)
    targets = kwrap.weight_targets(layer)
    assert [(target.name, target.default) for target in targets] == expected
    assert all(any(target.variable is weight for weight in layer.weights) for target in targets)


@pytest.mark.parametrize("cls", TARGETS, ids=lambda cls: cls.__name__)
def test_a_subclass_has_its_parents_targets(cls):
    fresh, shape, expected = TARGETS[cls]
    subclass = type(f"My{cls.__name__}", (cls,), {})
    layer = built(subclass.from_config(fresh.get_config()), *shape)
    assert [(target.name, target.default) for target in kwrap.weight_targets(layer)] == expected


def test_keras_own_subclasses_have_their_parents_targets():
    layer = built(layers.ReversibleEmbedding(6, 3), None, 4)
    assert [target.name for target in kwrap.weight_targets(layer)] == ["embeddings"]


class Block(layers.Dense):
    """A Dense that holds another."""

    def build(self, input_shape):
        self.inner = layers.Dense(3)
        self.inner.build(input_shape)
        super().build(input_shape)


def test_a_target_belongs_to_the_layer_that_owns_it_and_not_to_its_parents():
    layer = built(Block(2, name="block"), None, 3)
    assert [target.variable.path for target in kwrap.weight_targets(layer)] == ["block/kernel", "block/bias"]
    assert [target.variable is layer.inner.kernel for target in kwrap.weight_targets(layer.inner)][:1] == [True]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (layers.ReLU(), (None, 3)),
        (layers.PReLU(), (None, 3)),
        (layers.Bidirectional(layers.LSTM(2)), (None, 4, 3)),
        (layers.TimeDistributed(layers.Dense(2)), (None, 4, 3)),
        (layers.RNN(layers.LSTMCell(2)), (None, 4, 3)),
        (keras.Sequential([layers.Dense(2)]), (None, 3)),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_layer_that_nobody_answers_for_has_no_targets(layer, shape):
    assert kwrap.weight_targets(built(layer, *shape)) == ()


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_a_quantized_kernel_is_no_target(mode):
    layer = built(layers.Dense(4), None, 4)
    layer.quantize(mode)
    assert [target.name for target in kwrap.weight_targets(layer)] == ["bias"]


def test_a_layer_with_keras_lora_keeps_its_targets():
    layer = built(layers.Dense(4), None, 3)
    layer.enable_lora(2)
    assert [(target.name, target.shape) for target in kwrap.weight_targets(layer)] == [
        ("kernel", (3, 4)),
        ("bias", (4,)),
    ]


def test_a_target_has_the_shape_and_the_dtype_of_its_variable_also_under_mixed_precision():
    seen = []

    class Looks(layers.Dense):
        def call(self, inputs):
            seen.extend((target.dtype, target.shape) for target in kwrap.weight_targets(self))
            return super().call(inputs)

    Looks(2, dtype="mixed_float16")(np.ones((1, 3)))
    Looks(2, dtype="bfloat16")(np.ones((1, 3)))
    assert seen == [("float32", (3, 2)), ("float32", (2,)), ("bfloat16", (3, 2)), ("bfloat16", (2,))]


# --- WeightTarget ----------------------------------------------------------------------------------------------------


@st.composite
def weights(draw):
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    axes = draw(st.permutations(range(len(shape))))
    inputs = draw(st.integers(0, len(shape)))
    outputs = draw(st.integers(inputs, len(shape)))
    return tuple(shape), tuple(axes[:inputs]), tuple(sorted(axes[inputs:outputs]))


@settings(deadline=None, max_examples=60)
@given(weights())
def test_from_matrix_is_the_inverse_of_as_matrix_for_any_axes(weight):
    shape, input_axes, output_axes = weight
    target = kwrap.WeightTarget("w", keras.Variable(np.zeros(shape)), input_axes, output_axes)
    value = np.arange(math.prod(shape), dtype="float32").reshape(shape)
    matrix = np.asarray(target.as_matrix(value))
    rows = math.prod(shape[axis] for axis in input_axes)
    expected = np.moveaxis(value, input_axes, range(len(input_axes))).reshape(rows, -1)
    np.testing.assert_array_equal(matrix, expected)
    np.testing.assert_array_equal(target.from_matrix(matrix), value)


# --- plugins' answers ------------------------------------------------------------------------------------------------

SAYS = """
import keras, kwrap

@kwrap.hookimpl
def kwrap_weight_targets(layer):
    if isinstance(layer, keras.layers.PReLU):
        return [kwrap.WeightTarget({name!r}, layer.alpha, {axes}, default={default})]
"""


@pytest.fixture
def answering(plugins, monkeypatch):
    """Return kwrap's plugins, those under test alone, as who is asked for weight targets."""
    monkeypatch.setattr(_targets, "plugins", plugins)
    plugins.register_builtin("keras", _targets.KerasLayers())
    return plugins


@pytest.fixture
def prelu():
    return built(layers.PReLU(), None, 3)


def test_a_plugin_answers_for_a_layer_of_its_own(install, answering, prelu):
    install("acts", SAYS.format(name="alpha", axes="(0,)", default=True))
    (target,) = kwrap.weight_targets(prelu)
    assert (target.name, target.variable is prelu.alpha, target.input_axes) == ("alpha", True, (0,))
    assert [target.name for target in kwrap.weight_targets(built(layers.Dense(2), None, 3))] == ["kernel", "bias"]


def test_two_plugins_may_give_the_same_answer(install, answering, prelu):
    for name in ("acts", "also"):
        install(name, SAYS.format(name="alpha", axes="(0,)", default=True))
    assert [target.name for target in kwrap.weight_targets(prelu)] == ["alpha"]


@pytest.mark.parametrize(
    "other", [{"name": "slope"}, {"axes": "()"}, {"default": False}], ids=["name", "axes", "default"]
)
def test_two_plugins_that_disagree_are_the_error_that_names_both_and_blocking_one_is_the_way_out(
    install, answering, prelu, other
):
    answer = {"name": "alpha", "axes": "(0,)", "default": True}
    install("acts", SAYS.format(**answer))
    install("also", SAYS.format(**{**answer, **other}))
    with pytest.raises(TargetError, match=r"'acts' and 'also' disagree .*'p_re_lu.*' \(a PReLU\)") as raised:
        kwrap.weight_targets(prelu)
    assert "kwrap.plugins.block('also')" in str(raised.value)
    answering.block("also")
    assert [target.name for target in kwrap.weight_targets(prelu)] == ["alpha"]


def test_no_targets_is_an_answer_that_can_disagree(install, answering):
    install(
        "none",
        "import kwrap\n\n@kwrap.hookimpl\ndef kwrap_weight_targets(layer):\n    return []\n",
    )
    with pytest.raises(TargetError, match=r"'keras' and 'none' disagree"):
        kwrap.weight_targets(built(layers.Dense(2), None, 3))
    answering.block("keras")
    assert kwrap.weight_targets(built(layers.Dense(2), None, 3)) == ()
