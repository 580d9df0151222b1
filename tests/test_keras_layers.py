import inspect
import math
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import kwrap
from kwrap import _keras, _keras_layers

from .specimens import Times
from .weight_table import PAGE, SPECIMENS, made, page, table


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def built(layer: keras.Layer, *shape: int | None) -> keras.Layer:
    layer.build(shape)
    return layer


def target_of(layer: keras.Layer, name: str) -> kwrap.WeightTarget:
    return next(target for target in kwrap.weight_targets(layer) if target.name == name)


def matrix_of(layer: keras.Layer, name: str = "kernel") -> np.ndarray:
    target = target_of(layer, name)
    return np.asarray(target.as_matrix(target.variable.value))


def named(layer: keras.Layer) -> list[tuple[str, bool]]:
    return [(target.name, target.default) for target in kwrap.weight_targets(layer)]


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


@pytest.mark.parametrize(
    ("strides", "dilation", "padding"), [((1, 1), (1, 1), "same"), ((2, 3), (1, 1), "valid"), ((1, 1), (3, 2), "valid")]
)
def test_convolution_of_every_patch(rng, strides, dilation, padding):
    layer = layers.Conv2D(5, (2, 3), strides=strides, dilation_rate=dilation, padding=padding)
    x = rng.normal(size=(2, 7, 8, 4)).astype("float32")
    y = layer(x)
    patches = tf.image.extract_patches(x, (1, 2, 3, 1), (1, *strides, 1), (1, *dilation, 1), padding.upper())
    np.testing.assert_allclose(y, np.asarray(patches) @ matrix_of(layer), rtol=1e-4, atol=1e-5)


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


def through_matrix(equation: str, x: np.ndarray, target: kwrap.WeightTarget) -> np.ndarray:
    """Return what `equation` gives, by the target's matrix: what is summed over, flattened, meets its rows."""
    operands, output = equation.split("->")
    inputs, kernel = operands.split(",")
    elided = "UVWXY"[: x.ndim - len(inputs.replace("...", ""))]
    inputs, output = inputs.replace("...", elided), output.replace("...", elided)
    summed = [kernel[axis] for axis in target.input_axes]
    kept = [letter for letter in kernel if letter not in summed]
    sizes = dict(zip(kernel, target.shape, strict=True))
    matrix = np.asarray(target.as_matrix(target.variable.value)).reshape(-1, *(sizes[letter] for letter in kept))
    others = [letter for letter in inputs if letter not in summed]
    rows = np.einsum(f"{inputs}->{''.join(others + summed)}", x)
    rows = rows.reshape(*rows.shape[: len(others)], -1)
    return np.einsum(f"{''.join(others)}Z,Z{''.join(kept)}->{output}", rows, matrix)


@pytest.mark.parametrize(
    ("equation", "output_shape", "input_shape", "input_axes", "output_axes"),
    [
        ("ab,bc->ac", 4, (3,), (0,), (1,)),
        ("abc,dc->abd", (None, 5), (2, 3), (1,), (0,)),
        ("abc,cde->abde", (None, 2, 4), (2, 3), (0,), (1, 2)),  # query, key and value of an attention layer
        ("abcd,cde->abe", (None, 5), (2, 3, 4), (0, 1), (2,)),  # its output
        ("abc,bcd->abd", (2, 4), (2, 3), (1,), (2,)),  # a kernel for each b
        ("abc,b->abc", (2, 3), (2, 3), (), ()),  # a factor for each b
        ("...x,xy->...y", 4, (2, 3), (0,), (1,)),
        ("...ab,bc->...ac", (5, 4), (2, 5, 3), (0,), (1,)),
        ("ab...,bc->ac...", 4, (3, 2), (0,), (1,)),
    ],
)
def test_einsum_dense(rng, equation, output_shape, input_shape, input_axes, output_axes):
    layer = layers.EinsumDense(equation, output_shape)
    x = rng.normal(size=(2, *input_shape)).astype("float32")
    y = layer(x)
    (target,) = kwrap.weight_targets(layer)
    assert (target.input_axes, target.output_axes) == (input_axes, output_axes)
    np.testing.assert_allclose(y, through_matrix(equation, x, target), rtol=1e-4, atol=1e-5)


@st.composite
def equations(draw):
    """Draw an equation and which letters of its kernel are summed over, new in the output, and in all three."""
    free, both, summed, new = draw(
        st.tuples(*(st.integers(0, 2) for _ in range(4))).filter(lambda counts: sum(counts[1:]))
    )
    letters = iter("bcdefghi")
    free, both, summed, new = ([next(letters) for _ in range(count)] for count in (free, both, summed, new))
    kernel, inputs, output = (
        "".join(draw(st.permutations(part))) for part in (both + summed + new, free + both + summed, free + both + new)
    )
    return f"a{inputs},{kernel}->a{output}", kernel, summed, new


@settings(deadline=None, max_examples=40)
@given(equations())
def test_einsum_dense_of_any_equation(drawn):
    equation, kernel, summed, new = drawn
    inputs, output = equation.split(",")[0], equation.split("->")[1]
    sizes = {letter: size for size, letter in enumerate("abcdefghi", 2)}
    layer = layers.EinsumDense(equation, tuple(sizes[letter] for letter in output[1:]))
    x = np.random.default_rng(0).normal(size=[sizes[letter] for letter in inputs]).astype("float32")
    y = layer(x)
    (target,) = kwrap.weight_targets(layer)
    assert [kernel[axis] for axis in target.input_axes] == [letter for letter in kernel if letter in summed]
    assert [kernel[axis] for axis in target.output_axes] == [letter for letter in kernel if letter in new]
    np.testing.assert_allclose(y, through_matrix(equation, x, target), rtol=1e-3, atol=1e-4)


ATTENTION = [
    (layers.MultiHeadAttention(2, 3, value_dim=5, output_shape=7, name="plain"), (None, 4, 6)),
    (layers.MultiHeadAttention(2, 3, attention_axes=(1, 2), output_shape=(3, 5), name="axes"), (None, 4, 5, 6)),
    (layers.MultiHeadAttention(2, 3, use_gate=True, name="gated"), (None, 4, 6)),
    (layers.GroupQueryAttention(3, 4, 2, use_gate=True, name="grouped"), (None, 4, 6)),
]


@pytest.mark.parametrize(("layer", "shape"), ATTENTION, ids=lambda value: getattr(value, "name", ""))
def test_every_projection_of_an_attention_layer(rng, layer, shape):
    layer = type(layer).from_config(layer.get_config())
    layer.build(shape, shape)
    projections = [part for part in _keras.all_sublayers(layer) if isinstance(part, layers.EinsumDense)]
    assert len(projections) == (5 if layer.get_config().get("use_gate") else 4)
    for projection in projections:
        target = target_of(projection, "kernel")
        inputs, kernel = projection.equation.split("->")[0].split(",")
        sizes = dict(zip(kernel, target.shape, strict=True))
        x = rng.normal(size=[sizes.get(letter, 2) for letter in inputs]).astype("float32")
        projection.activation = None  # the gate's
        y = through_matrix(projection.equation, x, target)
        np.testing.assert_allclose(projection(x), y, rtol=1e-4, atol=1e-5)
    assert kwrap.weight_targets(layer) == ()


def test_embedding():
    layer = built(layers.Embedding(6, 3), None, 4)
    one_hot = np.eye(6, dtype="float32")[[5, 0, 2]]
    np.testing.assert_array_equal(layer(np.array([5, 0, 2])), one_hot @ matrix_of(layer, "embeddings"))


def test_reversible_embedding_whose_directions_share_a_weight(rng):
    layer = built(layers.ReversibleEmbedding(6, 3), None, 4)
    x = rng.normal(size=(2, 3)).astype("float32")
    np.testing.assert_allclose(layer(x, reverse=True), x @ matrix_of(layer, "embeddings").T, rtol=1e-5, atol=1e-6)


def test_reversible_embedding_with_a_weight_for_each_direction(rng):
    layer = built(layers.ReversibleEmbedding(6, 3, tie_weights=False), None, 4)
    one_hot = np.eye(6, dtype="float32")[[5, 0]]
    np.testing.assert_array_equal(layer(np.array([5, 0])), one_hot @ matrix_of(layer, "embeddings"))
    x = rng.normal(size=(2, 3)).astype("float32")
    y = x @ matrix_of(layer, "reverse_embeddings")
    np.testing.assert_allclose(layer(x, reverse=True), y, rtol=1e-5, atol=1e-6)


def test_simple_rnn(rng):
    layer = built(layers.SimpleRNN(4), None, None, 3)
    x, h = rng.normal(size=(2, 1, 3)).astype("float32"), rng.normal(size=(2, 4)).astype("float32")
    expected = np.tanh(x[:, 0] @ matrix_of(layer) + h @ matrix_of(layer, "recurrent_kernel"))
    np.testing.assert_allclose(layer(x, initial_state=h), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", [layers.GRU(4), layers.RNN(layers.GRUCell(4))], ids=["GRU", "RNN"])
def test_gru(rng, layer):
    layer = built(type(layer).from_config(layer.get_config()), None, None, 3)
    x, h = rng.normal(size=(2, 1, 3)).astype("float32"), rng.normal(size=(2, 4)).astype("float32")
    update, reset, candidate = np.split(x[:, 0] @ matrix_of(layer), 3, axis=1)
    update_h, reset_h, candidate_h = np.split(h @ matrix_of(layer, "recurrent_kernel"), 3, axis=1)
    gate = sigmoid(update + update_h)
    expected = gate * h + (1 - gate) * np.tanh(candidate + sigmoid(reset + reset_h) * candidate_h)
    np.testing.assert_allclose(layer(x, initial_state=h), expected, rtol=1e-4, atol=1e-5)


def test_a_cell_called_by_a_loop_of_ones_own(rng):
    cell = built(layers.SimpleRNNCell(4), None, 3)
    x, h = rng.normal(size=(2, 3)).astype("float32"), rng.normal(size=(2, 4)).astype("float32")
    expected = np.tanh(x @ matrix_of(cell) + h @ matrix_of(cell, "recurrent_kernel"))
    np.testing.assert_allclose(cell(x, [h])[0], expected, rtol=1e-4, atol=1e-5)


def test_stacked_cells(rng):
    layer = built(layers.RNN([layers.SimpleRNNCell(4), layers.SimpleRNNCell(2)]), None, None, 3)
    x = rng.normal(size=(5, 1, 3)).astype("float32")  # one step, from a state of zeros
    between = np.tanh(x[:, 0] @ matrix_of(layer, "cell_0/kernel"))
    expected = np.tanh(between @ matrix_of(layer, "cell_1/kernel"))
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-5)


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


def test_additive_attention(rng):
    layer = layers.AdditiveAttention()
    query, value = rng.normal(size=(2, 4, 3)).astype("float32"), rng.normal(size=(2, 5, 3)).astype("float32")
    _, weights = layer([query, value], return_attention_scores=True)
    scores = np.tanh(query[:, :, None] + value[:, None]) @ matrix_of(layer, "scale")
    exponents = np.exp(scores[..., 0])
    np.testing.assert_allclose(weights, exponents / exponents.sum(axis=-1, keepdims=True), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("part", ["real", "imag"])
def test_spectrogram(rng, part):
    layer = layers.STFTSpectrogram(part, frame_length=8)
    x = rng.normal(size=(2, 8, 1)).astype("float32")  # one frame
    np.testing.assert_allclose(layer(x)[:, 0], x[..., 0] @ matrix_of(layer, f"{part}_kernel"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (layers.Dense(4), (1, 3)),
        (layers.Conv2D(5, 2), (1, 2, 2, 3)),
        (layers.Conv1DTranspose(5, 1), (1, 1, 3)),
        (layers.DepthwiseConv1D(2, depth_multiplier=2), (1, 2, 3)),
        (layers.EinsumDense("abc,cde->abde", (None, 2, 5), bias_axes="de"), (1, 1, 3)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_bias_is_a_row_of_output_features(rng, layer, shape):
    layer = built(type(layer).from_config(layer.get_config()), *shape)
    layer.bias.assign(rng.normal(size=layer.bias.shape))
    assert target_of(layer, "bias").output_axes == tuple(range(len(layer.bias.shape)))
    np.testing.assert_array_equal(np.ravel(layer(np.zeros(shape, "float32"))), matrix_of(layer, "bias")[0])


@pytest.mark.parametrize("code", SPECIMENS)
def test_from_matrix_is_the_inverse_of_as_matrix(rng, code):
    for target in kwrap.weight_targets(made(code)):
        value = rng.normal(size=target.shape).astype("float32")
        matrix = target.as_matrix(value)
        assert matrix.shape[0] == math.prod(target.shape[axis] for axis in target.input_axes)
        np.testing.assert_array_equal(target.from_matrix(matrix), value)


# --- which weights ---------------------------------------------------------------------------------------------------

BIAS = [("bias", False)]
KERNEL = [("kernel", True), *BIAS]
RECURRENT = [("kernel", True), ("recurrent_kernel", True), *BIAS]
SEPARABLE = [("depthwise_kernel", True), ("pointwise_kernel", True), *BIAS]
SCALE = [("gamma", False), ("beta", False)]

# By layer class, (name, default) of its targets, for those whose weights do not depend on how the layer is made.
TARGETS = {
    layers.Dense: KERNEL,
    layers.Embedding: [("embeddings", True)],
    layers.Conv1D: KERNEL,
    layers.Conv2D: KERNEL,
    layers.Conv3D: KERNEL,
    layers.Conv1DTranspose: KERNEL,
    layers.Conv2DTranspose: KERNEL,
    layers.Conv3DTranspose: KERNEL,
    layers.DepthwiseConv1D: KERNEL,
    layers.DepthwiseConv2D: KERNEL,
    layers.SeparableConv1D: SEPARABLE,
    layers.SeparableConv2D: SEPARABLE,
    layers.SimpleRNN: RECURRENT,
    layers.GRU: RECURRENT,
    layers.LSTM: RECURRENT,
    layers.ConvLSTM1D: RECURRENT,
    layers.ConvLSTM2D: RECURRENT,
    layers.ConvLSTM3D: RECURRENT,
    layers.SimpleRNNCell: RECURRENT,
    layers.GRUCell: RECURRENT,
    layers.LSTMCell: RECURRENT,
    layers.BatchNormalization: SCALE,
    layers.LayerNormalization: SCALE,
    layers.GroupNormalization: SCALE,
    layers.RMSNormalization: [("scale", False)],
    layers.PReLU: [("alpha", False)],
    layers.AdditiveAttention: [("scale", False)],
    layers.STFTSpectrogram: [("real_kernel", False), ("imag_kernel", False)],
    layers.Normalization: [],
    layers.SpectralNormalization: [],
}
ONE_WAY = {getattr(layers, code.partition("(")[0]): code for code in SPECIMENS}


@pytest.mark.parametrize("cls", TARGETS, ids=lambda cls: cls.__name__)
def test_kernels_and_embeddings_are_default_targets_biases_scales_and_norms_are_not(cls):
    layer = made(ONE_WAY[cls])
    assert named(layer) == TARGETS[cls]
    assert all(any(target.variable is weight for weight in layer.weights) for target in kwrap.weight_targets(layer))


@pytest.mark.parametrize("cls", TARGETS, ids=lambda cls: cls.__name__)
def test_a_subclass_has_its_parents_targets(cls):
    code = ONE_WAY[cls]
    subclass = type(f"My{cls.__name__}", (cls,), {})
    layer = subclass.from_config(made(code).get_config())
    layer.build(SPECIMENS[code])
    assert named(layer) == TARGETS[cls]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("EinsumDense('abc,bcd->abd', (2, 4))", [("kernel", True)]),
        ("EinsumDense('ab,bc->ac', 4, bias_axes='c')", KERNEL),
        ("ReversibleEmbedding(6, 3)", [("embeddings", True)]),
        ("ReversibleEmbedding(6, 3, tie_weights=False)", [("embeddings", True), ("reverse_embeddings", True)]),
        ("Attention(use_scale=True, score_mode='concat')", [("scale", False), ("concat_score_weight", False)]),
        ("RNN(GRUCell(4))", RECURRENT),
        (
            "RNN([LSTMCell(4), GRUCell(2)])",
            [(f"cell_{index}/{name}", default) for index in (0, 1) for name, default in RECURRENT],
        ),
    ],
)
def test_weights_that_depend_on_how_a_layer_is_made(code, expected):
    assert named(made(code)) == expected


def test_every_row_of_the_table_has_a_specimen():
    parts = [part for code in SPECIMENS for part in [made(code), *_keras.all_sublayers(made(code))]]
    assert {type(part) for part in parts} >= _keras_layers._WEIGHTS.keys() - {layers.TFSMLayer}


# --- no weighted layer of Keras is left out --------------------------------------------------------------------------

# Code of other frameworks, which are not here: nobody can say what their weights are.
FOREIGN = {"FlaxLayer", "JaxLayer", "TorchModuleWrapper"}

# What the layers that are no SPECIMENS are made with, by the argument's name.
ARGUMENTS = {
    "activation": "relu",
    "axes": 1,
    "cells": [layers.GRUCell(2)],
    "dims": (2, 1),
    "factor": 0.5,
    "function": abs,
    "head_dim": 3,
    "height": 2,
    "height_factor": 0.1,
    "key_dim": 3,
    "layer": layers.LSTM(2),
    "layers": [],
    "max_number": 2,
    "n": 2,
    "num_bins": 3,
    "num_heads": 2,
    "num_key_value_heads": 2,
    "num_query_heads": 4,
    "output_size": 2,
    "pool_size": 2,
    "rate": 0.5,
    "scale": 2.0,
    "stddev": 0.1,
    "target_shape": (-1,),
    "width": 2,
    "width_factor": 0.1,
}
# Required in effect, although they have a default; or of another range.
MORE = {
    "CategoryEncoding": {"num_tokens": 3},
    "Discretization": {"num_bins": 3},
    "InputLayer": {"shape": (3,)},
    "RandomPosterization": {"factor": 4},
    "TimeDistributed": {"layer": layers.Dense(2)},
}
SHAPES = {
    **dict.fromkeys(("Add", "Average", "Concatenate", "Dot", "Maximum", "Minimum", "Multiply", "Subtract"), "two"),
    **dict.fromkeys(("MultiHeadAttention", "GroupedQueryAttention"), "query and value"),
    "Bidirectional": (None, 5, 3),
    "StackedRNNCells": (None, 3),
    "TimeDistributed": (None, 5, 3),
    "Wrapper": (None, 5, 3),
}


def public_layers() -> dict[str, type[keras.Layer]]:
    """Return the public layer classes of Keras by name, those with two names once."""
    found = {id(cls): cls for cls in vars(layers).values() if inspect.isclass(cls) and issubclass(cls, keras.Layer)}
    return {cls.__name__: cls for cls in found.values()}


def example_of(cls: type[keras.Layer], folder: Path) -> keras.Layer:
    """Return a built layer of the class; a class that Keras adds fails here, or has no weights."""
    if cls in ONE_WAY:
        return made(ONE_WAY[cls])
    if cls is layers.TFSMLayer:
        return saved_function(folder)
    parameters = inspect.signature(cls.__init__).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD][1:]
    layer = cls(**{**{name: ARGUMENTS[name] for name in needed}, **MORE.get(cls.__name__, {})})
    shape = SHAPES.get(cls.__name__, (None, 8, 8, 3))
    if shape == "query and value":
        layer.build((None, 4, 3), (None, 4, 3))
    else:
        layer.build([(None, 4, 3)] * 2 if shape == "two" else shape)
    return layer


def saved_function(folder: Path) -> keras.Layer:
    """Return a layer around a SavedModel with weights."""
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    model.export(folder, verbose=False)
    return layers.TFSMLayer(folder, call_endpoint="serve")


@pytest.mark.parametrize("name", sorted(public_layers().keys() - FOREIGN))
def test_every_public_layer_of_keras_is_answered_for_or_has_no_weights(name, tmp_path):
    layer = example_of(public_layers()[name], tmp_path)
    parts = [layer, *_keras.all_sublayers(layer)]
    assert [part.name for part in parts if not kwrap.weight_targets.is_taught(part)] == []
    has_row = type(layer) in ONE_WAY or type(layer) is layers.TFSMLayer
    assert bool(_keras.own_weights(layer)) == has_row


def test_a_saved_function_has_no_targets_for_it_reads_variables_of_its_own(tmp_path):
    layer = saved_function(tmp_path)
    assert [variable.shape for variable in layer.weights] == [(3, 2), (2,)]
    assert kwrap.weight_targets(layer) == ()
    assert kwrap.weight_targets.is_taught(layer)


# --- whose a weight is -----------------------------------------------------------------------------------------------


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


def test_the_kernel_under_spectral_normalization_is_the_inner_layers():
    layer = built(layers.SpectralNormalization(layers.Dense(4)), None, 3)
    assert layer.kernel is layer.layer.kernel
    assert kwrap.weight_targets(layer) == ()
    assert target_of(layer.layer, "kernel").variable is layer.kernel


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (layers.Bidirectional(layers.LSTM(2)), (None, 4, 3)),
        (layers.TimeDistributed(layers.Dense(2)), (None, 4, 3)),
        (keras.Sequential([layers.Dense(2)]), (None, 3)),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_what_holds_layers_has_no_targets_of_its_own(layer, shape):
    layer = built(layer, *shape)
    assert layer.weights
    assert kwrap.weight_targets(layer) == ()


def test_the_targets_of_bidirectional_are_those_of_its_two_layers():
    layer = built(layers.Bidirectional(layers.LSTM(2)), None, 4, 3)
    inner = [target for side in (layer.forward_layer, layer.backward_layer) for target in kwrap.weight_targets(side)]
    assert {id(target.variable) for target in inner} == {id(weight) for weight in layer.weights}


# --- recurrent layers and their cells --------------------------------------------------------------------------------


class OfDenses(layers.Layer):
    """A cell whose weights are those of the layers in it."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.state_size = units
        self.fresh, self.past = layers.Dense(units, name="fresh"), layers.Dense(units, use_bias=False, name="past")

    def build(self, input_shape):
        self.fresh.build(input_shape)
        if not self.past.built:  # as one that two cells share is
            self.past.build((None, self.state_size))

    def call(self, inputs, states):
        outputs = self.fresh(inputs) + self.past(states[0])
        return outputs, [outputs]


class OfItsOwn(layers.Layer):
    """A cell with a weight that nobody knows."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.state_size = units

    def build(self, input_shape):
        self.w = self.add_weight((input_shape[-1], self.state_size), name="w")

    def call(self, inputs, states):
        outputs = inputs @ self.w + states[0]
        return outputs, [outputs]


class OfPlainPython:
    """What Keras takes for a cell although it is no layer."""

    state_size, compute_dtype = 3, "float32"

    def get_initial_state(self, batch_size):
        return np.zeros((batch_size, 3), "float32")

    def call(self, inputs, states):
        return inputs + states[0], [inputs + states[0]]

    __call__ = call


def recurrent(*cells) -> keras.Layer:
    """Return an RNN of these cells, called once."""
    layer = layers.RNN(list(cells) if len(cells) > 1 else cells[0])
    layer(np.ones((1, 2, 3), "float32"))
    return layer


def test_the_layers_in_a_cell_are_targets_of_the_recurrent_layer_by_their_names():
    layer = recurrent(OfDenses(4))
    assert named(layer) == [("fresh/kernel", True), ("fresh/bias", False), ("past/kernel", True)]
    assert target_of(layer, "past/kernel").variable is layer.cell.past.kernel


def test_a_layer_that_two_cells_share_counts_once():
    first, second = OfDenses(3), OfDenses(3)
    second.past = first.past
    names = [
        "cell_0/fresh/kernel",
        "cell_0/fresh/bias",
        "cell_0/past/kernel",
        "cell_1/fresh/kernel",
        "cell_1/fresh/bias",
    ]
    assert [target.name for target in kwrap.weight_targets(recurrent(first, second))] == names


@pytest.mark.parametrize("cells", [[OfItsOwn], [layers.GRUCell, OfItsOwn]], ids=["alone", "stacked"])
def test_a_recurrent_layer_with_an_untaught_cell_is_untaught_until_the_cells_class_is_taught(cells):
    layer = recurrent(*(cell(3) for cell in cells))
    assert not kwrap.weight_targets.is_taught(layer)
    assert kwrap.weight_targets(layer) == ()
    kwrap.weight_targets.register(OfItsOwn)(lambda cell: [kwrap.WeightTarget("w", cell.w, (0,), (1,))])
    try:
        assert kwrap.weight_targets.is_taught(layer)
        assert [name for name, _ in named(layer)][-1] == ("w" if len(cells) == 1 else "cell_1/w")
    finally:
        kwrap.weight_targets.unregister(OfItsOwn)


def test_a_recurrent_layer_of_a_cell_that_is_no_layer_has_no_targets():
    layer = recurrent(OfPlainPython())
    assert kwrap.weight_targets(layer) == ()


def test_a_hook_reaches_the_layers_in_a_cell():
    layer = recurrent(OfDenses(4))
    x = np.ones((1, 1, 3), "float32")
    wrapped = kwrap.Wrapper(layer, [Times(factor=0.5)])
    np.testing.assert_allclose(wrapped(x), 0.5 * np.ones((1, 3)) @ np.asarray(layer.cell.fresh.kernel), rtol=1e-6)


# --- quantization and LoRA of Keras' own -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["int8", "int4"])
@pytest.mark.parametrize(
    ("code", "left"),
    [
        ("Dense(4)", BIAS),
        ("EinsumDense('ab,bc->ac', 4, bias_axes='c')", BIAS),
        ("Embedding(6, 3)", []),
        ("ReversibleEmbedding(6, 3, tie_weights=False)", []),
    ],
)
def test_a_quantized_kernel_is_no_target(code, left, mode):
    layer = made(code)
    layer.quantize(mode)
    assert named(layer) == left
    assert kwrap.weight_targets.is_taught(layer)


def test_a_kernel_under_float8_is_a_target_for_it_stays_in_its_own_dtype():
    layer = made("Dense(4)")
    layer.quantize("float8")
    assert [(name, target_of(layer, name).dtype) for name, _ in named(layer)] == [
        ("kernel", "float32"),
        ("bias", "float32"),
    ]


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("Dense(4)", "kernel"),
        ("EinsumDense('ab,bc->ac', 4, bias_axes='c')", "kernel"),
        ("Conv2D(5, (2, 3))", "kernel"),
        ("Embedding(6, 3)", "embeddings"),
    ],
)
def test_of_a_layer_with_keras_lora_the_frozen_weight_is_the_target_and_not_the_two_matrices(code, name):
    layer = made(code)
    before = kwrap.weight_targets(layer)
    layer.enable_lora(2)
    after = kwrap.weight_targets(layer)
    assert [(target.name, id(target.variable)) for target in after] == [(t.name, id(t.variable)) for t in before]
    assert not target_of(layer, name).variable.trainable
    assert len(layer.trainable_weights) > 1  # the two matrices


def test_a_hook_changes_the_frozen_weight_beneath_keras_lora(rng):
    layer = made("Dense(4)")
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(rng.normal(size=(2, 4)))
    x = rng.normal(size=(5, 3)).astype("float32")
    added = np.asarray(layer.lora_kernel_a) @ np.asarray(layer.lora_kernel_b)  # times alpha / rank, which is 1
    expected = x @ (0.5 * matrix_of(layer) + added)
    np.testing.assert_allclose(kwrap.Wrapper(layer, [Times(factor=0.5)])(x), expected, rtol=1e-4, atol=1e-5)


# --- KerasHub --------------------------------------------------------------------------------------------------------

TRANSFORMER = {"vocabulary_size": 11, "num_layers": 1, "hidden_dim": 4, "intermediate_dim": 8}
GROUPED = {"num_query_heads": 2, "num_key_value_heads": 1}
BACKBONES = {
    "Bert": ({**TRANSFORMER, "num_heads": 2, "max_sequence_length": 5}, {"PositionEmbedding"}),
    "GPT2": ({**TRANSFORMER, "num_heads": 2, "max_sequence_length": 5}, {"PositionEmbedding"}),
    "Gemma": ({**TRANSFORMER, **GROUPED, "head_dim": 2}, {"RMSNormalization"}),
    "Llama": ({**TRANSFORMER, **GROUPED}, {"LlamaLayerNorm"}),
    "ViT": (
        {"image_shape": (8, 8, 3), "patch_size": 4, "num_layers": 1, "num_heads": 2, "hidden_dim": 4, "mlp_dim": 8},
        {"ViTPatchingAndEmbedding"},
    ),
    "ResNet": (
        {
            "input_conv_filters": [64],
            "input_conv_kernel_sizes": [3],
            "stackwise_num_filters": [64],
            "stackwise_num_blocks": [1],
            "stackwise_num_strides": [1],
            "block_type": "basic_block",
            "image_shape": (8, 8, 3),
        },
        set(),
    ),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_of_kerashub_those_layers_are_untaught_that_are_no_subclass_of_a_weighted_layer(name):
    models = pytest.importorskip("keras_hub.models")
    options, untaught = BACKBONES[name]
    parts = _keras.all_sublayers(getattr(models, f"{name}Backbone")(**options))
    assert {type(part).__name__ for part in parts if not kwrap.weight_targets.is_taught(part)} == untaught
    assert sum(len(kwrap.weight_targets(part)) for part in parts) > 4


# --- the document ----------------------------------------------------------------------------------------------------


def test_the_table_in_the_document_is_what_the_code_says():
    written = PAGE.read_text("utf-8")
    assert table() in written, "write it anew: python -m tests.weight_table"
    assert written == page()
