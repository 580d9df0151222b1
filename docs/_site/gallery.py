"""The gallery's pictures, of real runs on scikit-learn's digits: some seconds in all."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

__all__ = ["make_all"]

BLUE, ORANGE = "#3b82c4", "#d97a1d"  # seen on white and on black
# Stand for the theme's colours until the picture is part of a page.
TEXT, GRID = "#010203", "#040506"

EPOCHS, BATCH_SIZE = 10, 64


@dataclass
class _Run:
    """A dense network, and what pruning made of it."""

    model: Any
    before: Any  # the kernel of `hidden`
    after: Any
    records: Sequence[Any]  # of PruningHistory, one a step
    accuracy: list[float]  # on the test images, after each epoch
    dense_accuracy: float


def make_all() -> dict[str, str]:
    """Return the pictures and tables by file name, as HTML."""
    import matplotlib

    matplotlib.use("agg")
    run = _prune_digits()
    return {
        "sparsity.html": _sparsity(run),
        "histograms.html": _histograms(run),
        "report.html": _report(run),
        "plan-tree.html": _plan_tree(),
    }


def _prune_digits() -> _Run:
    import keras
    import numpy as np
    from sklearn.datasets import load_digits

    import kwrap
    from kwrap_prune import PolynomialDecay, Prune, PruningHistory

    keras.utils.set_random_seed(0)
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype("float32").reshape(-1, 8, 8, 1)
    train, test = (images[:1400], labels[:1400]), (images[1400:], labels[1400:])
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, activation="relu", name="conv"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(64, activation="relu", name="hidden"),
            keras.layers.Dense(10, name="logits"),
        ],
        name="digits",
    )
    model.compile(
        keras.optimizers.Adam(0.003),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(*train, epochs=10, batch_size=BATCH_SIZE, verbose=0)
    dense_accuracy = model.evaluate(*test, verbose=0)[1]
    before = np.array(model.get_layer("hidden").kernel)
    steps = EPOCHS * -(-len(train[0]) // BATCH_SIZE)
    schedule = PolynomialDecay(0.0, 0.95, begin_step=0, end_step=steps * 3 // 4 // 10 * 10, frequency=10)
    kwrap.wrap_model(model, Prune(schedule))
    curve = PruningHistory()
    fitted = model.fit(*train, epochs=EPOCHS, batch_size=BATCH_SIZE, verbose=0, validation_data=test, callbacks=[curve])
    kwrap.unwrap_model(model)
    after = np.array(model.get_layer("hidden").kernel)
    return _Run(model, before, after, curve.records, fitted.history["val_accuracy"], dense_accuracy)


def _sparsity(run: _Run) -> str:
    figure, axes = _figure()
    axes.plot(
        [r.step for r in run.records], [r.sparsity for r in run.records], color=BLUE, label="zeros in all kernels"
    )
    steps = run.records[-1].step
    epochs = [0] + [steps * (epoch + 1) / EPOCHS for epoch in range(EPOCHS)]
    axes.plot(
        epochs,
        [run.dense_accuracy, *run.accuracy],
        color=ORANGE,
        marker="o",
        markersize=4,
        label="accuracy, test images",
    )
    axes.set_xlabel("steps since wrapping")
    axes.set_ylim(0, 1.02)
    _finish(axes)
    return _html(
        figure,
        f"Sparsity rises from 0 to {run.records[-1].sparsity:.2f}; accuracy goes from {run.dense_accuracy:.3f} to "
        f"{run.accuracy[-1]:.3f}.",
    )


def _histograms(run: _Run) -> str:
    import numpy as np

    figure, axes = _figure()
    span = float(max(np.abs(run.before).max(), np.abs(run.after).max()))
    bins = np.linspace(-span, span, 81)
    kept = run.after[run.after != 0]
    axes.hist(run.before.ravel(), bins=bins, color=BLUE, alpha=0.55, label=f"before: {run.before.size:,} weights")
    axes.hist(kept, bins=bins, color=ORANGE, alpha=0.85, label=f"after: {kept.size:,} weights that are not zero")
    axes.set_xlabel("weight of the layer 'hidden'")
    axes.set_ylabel("how many, logarithmic")
    axes.set_yscale("log")
    _finish(axes)
    return _html(
        figure,
        f"The kernel of 'hidden' before pruning and after it. The {run.after.size - kept.size:,} zeros are left out.",
    )


def _report(run: _Run) -> str:
    from kwrap_prune import report

    return report(run.model)._repr_html_()


def _plan_tree() -> str:
    """Return the plan of two hooks on KerasHub's DistilBERT, made small."""
    import keras
    import keras_hub

    import kwrap

    backbone = keras_hub.models.DistilBertBackbone(
        vocabulary_size=1000, num_layers=2, num_heads=2, hidden_dim=32, intermediate_dim=64, max_sequence_length=16
    )
    outputs = keras.layers.Dense(2, name="logits")(backbone.output[:, 0])
    model = keras.Model(backbone.input, outputs, name="classifier")
    rules = [
        kwrap.use("prune", n_m=(2, 4)).at(["**/query", "**/value", "**/*dense*"]),
        kwrap.use("noise", stddev=0.05).at("logits"),
    ]
    return kwrap.plan(model, rules)._repr_html_()


def _figure() -> tuple[Any, Any]:
    import matplotlib.pyplot as plt

    # Text as text, in the page's own type and colour.
    style = {"svg.fonttype": "none", "svg.hashsalt": "kwrap", "font.size": 11}
    colours = dict.fromkeys(["text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"], TEXT)
    plt.rcParams.update({**style, **colours, "grid.color": GRID})
    return plt.subplots(figsize=(7.6, 3.6), layout="constrained")


def _finish(axes: Any) -> None:
    axes.grid(True, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


def _html(figure: Any, caption: str) -> str:
    """Return a figure as part of a page, in the theme's colours."""
    import matplotlib.pyplot as plt

    content = io.StringIO()
    figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
    svg = content.getvalue()
    svg = svg[svg.index("<svg") :].replace(TEXT, "currentColor").replace(GRID, "var(--color-background-border)")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font: (\S+) [^;\"]*", r"font: \1 var(--font-stack)", svg)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(caption)}" ', 1)
    return f'<figure class="picture">{svg}<figcaption>{escape(caption)}</figcaption></figure>'
