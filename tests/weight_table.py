"""Every Keras layer with weights, and the table of their targets in docs/weight-targets.md.

To write the table anew: python -m tests.weight_table
"""

import re
from pathlib import Path
from typing import Any

import keras

import kwrap

PAGE = Path(__file__).parent.parent / "docs" / "weight-targets.md"

# The code that makes a layer, and the shape of its input: chosen so that a kernel's axes can be told by their lengths.
SPECIMENS: dict[str, Any] = {
    "Dense(4)": (None, 3),
    "EinsumDense('ab,bc->ac', 4, bias_axes='c')": (None, 3),
    "EinsumDense('abc,cde->abde', (None, 2, 5), bias_axes='de')": (None, 4, 3),
    "EinsumDense('abcd,cde->abe', (None, 5), bias_axes='e')": (None, 4, 2, 3),
    "EinsumDense('abc,bcd->abd', (2, 4))": (None, 2, 3),
    "Embedding(6, 3)": (None, 4),
    "ReversibleEmbedding(6, 3)": (None, 4),
    "ReversibleEmbedding(6, 3, tie_weights=False)": (None, 4),
    "Conv1D(5, 2)": (None, 8, 3),
    "Conv2D(5, (2, 3))": (None, 8, 8, 4),
    "Conv2D(6, (2, 3), groups=2)": (None, 8, 8, 8),
    "Conv3D(6, (2, 3, 4))": (None, 8, 8, 8, 5),
    "Conv1DTranspose(5, 2)": (None, 8, 3),
    "Conv2DTranspose(5, (2, 3))": (None, 8, 8, 4),
    "Conv3DTranspose(6, (2, 3, 4))": (None, 8, 8, 8, 5),
    "DepthwiseConv1D(2, depth_multiplier=4)": (None, 8, 3),
    "DepthwiseConv2D((2, 3), depth_multiplier=5)": (None, 8, 8, 4),
    "SeparableConv1D(5, 2, depth_multiplier=4)": (None, 8, 3),
    "SeparableConv2D(6, (2, 3), depth_multiplier=5)": (None, 8, 8, 4),
    "SimpleRNN(4)": (None, 5, 3),
    "GRU(4)": (None, 5, 3),
    "LSTM(4)": (None, 5, 3),
    "ConvLSTM1D(4, 2)": (None, 5, 8, 3),
    "ConvLSTM2D(5, (2, 3))": (None, 5, 8, 8, 4),
    "ConvLSTM3D(6, (2, 3, 4))": (None, 5, 8, 8, 8, 5),
    "SimpleRNNCell(4)": (None, 3),
    "GRUCell(4)": (None, 3),
    "LSTMCell(4)": (None, 3),
    "RNN(GRUCell(4))": (None, 5, 3),
    "RNN([LSTMCell(4), GRUCell(2)])": (None, 5, 3),
    "BatchNormalization()": (None, 3),
    "LayerNormalization()": (None, 3),
    "GroupNormalization(1)": (None, 3),
    "RMSNormalization()": (None, 3),
    "PReLU()": (None, 4, 3),
    "Attention(use_scale=True, score_mode='concat')": [(None, 4, 3), (None, 5, 3)],
    "AdditiveAttention()": [(None, 4, 3), (None, 5, 3)],
    "STFTSpectrogram(frame_length=4)": (None, 8, 1),
    "Normalization()": (None, 3),
    "SpectralNormalization(Dense(4))": (None, 3),
}

BEGIN, END = "<!-- Made by python -m tests.weight_table -->", "<!-- End of what is made -->"


def made(code: str) -> keras.Layer:
    """Return the layer that `code` makes, built for its input."""
    layer: keras.Layer = eval(code, dict(vars(keras.layers)))
    layer.build(SPECIMENS[code])
    return layer


def table() -> str:
    """Return the targets of all specimens as a table in Markdown."""
    rows = [("layer", "weight", "shape", "input axes", "output axes", "taken"), ("---",) * 6]
    for code in SPECIMENS:
        cells = [_cells(target) for target in kwrap.weight_targets(made(code))] or [("none", "", "", "", "")]
        # The layer stands in the first of its rows.
        rows += [("" if index else f"`{code}`", *of_target) for index, of_target in enumerate(cells)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cells(target: kwrap.WeightTarget) -> tuple[str, ...]:
    axes = [", ".join(map(str, axes)) for axes in (target.input_axes, target.output_axes)]
    return f"`{target.name}`", str(target.shape), *axes, "by default" if target.default else "by name"


def page() -> str:
    """Return the page as it has to be: with the table between its marks."""
    text = f"{BEGIN}\n\n{table()}\n{END}"
    return re.sub(f"{BEGIN}.*{END}", lambda _: text, PAGE.read_text("utf-8"), flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
