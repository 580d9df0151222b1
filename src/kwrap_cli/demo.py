"""`kwrap demo`: the main job on real data, with every claim checked while it runs."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from kwrap_cli._command import ModelCommand, as_json
from kwrap_cli._output import print_result

if TYPE_CHECKING:
    import keras

EPOCHS = 12
FINE_TUNING_EPOCHS = 6
BATCH_SIZE = 64
SPARSITY = {"conv_1": 0.5, "conv_2": 0.8, "hidden": 0.9}
# The demo asks nothing of the network; what it needs is installed beside kwrap.
NEEDED = "the extra kwrap[demo]; in a clone: pip install '.[demo]' plugins/kwrap-prune plugins/kwrap-noise"


@click.command(cls=ModelCommand)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(0, 2**32 - 1),
    help="Seed of the split, the weights and the noise.",
)
@as_json
def demo(seed: int, as_json: bool) -> None:
    """Train a small network on scikit-learn's digits, wrap a copy, fine-tune it, save, load and unwrap it.

    Exits with 1 if a claim does not hold: the loaded model differs from the saved one, the unwrapped from the wrapped,
    or a pruned kernel is not at its sparsity; and with 1 if a package that it needs is missing.
    """
    console = Console(quiet=as_json)
    console.print("[bold]Importing TensorFlow, Keras and kwrap")
    try:
        done = _Demo(console, seed, _Digits.load(seed))
        done.run()
    except ModuleNotFoundError as error:
        raise click.ClickException(f"the demo needs {error.name!r}, which is not installed: {NEEDED}") from error
    if as_json:
        print_result("", {"seed": seed, "steps": done.steps, "claims": done.claims}, as_json=True)
    failures = [each["claim"] for each in done.claims if not each["holds"]]
    for failure in failures:
        console.print(f"[bold red]does not hold: {failure}")
    if failures:
        raise SystemExit(1)
    console.print("[bold green]Every claim above was checked and holds.")


@dataclass
class _Digits:
    """The 1,797 images of 8x8 pixels, in [0, 1], shape (n, 8, 8, 1); labels 0 to 9."""

    train: tuple[Any, Any]
    test: tuple[Any, Any]

    @classmethod
    def load(cls, seed: int) -> "_Digits":
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        images, labels = load_digits(return_X_y=True)
        images = (images / 16).astype("float32").reshape(-1, 8, 8, 1)
        split = train_test_split(images, labels, test_size=0.25, random_state=seed, stratify=labels)
        return cls((split[0], split[2]), (split[1], split[3]))


@dataclass
class _Demo:
    """The main job; gathers what each step came to, and whether each claim holds."""

    console: Console
    seed: int
    digits: _Digits
    steps: list[dict[str, Any]] = field(default_factory=list)
    claims: list[dict[str, Any]] = field(default_factory=list)

    def run(self) -> None:
        """Do the main job."""
        import keras

        import kwrap

        keras.utils.set_random_seed(self.seed)
        model = self._train()
        before = self._predict(model)
        self._note("trained", model)

        hooks = self._hooks()
        self.console.rule("plan")
        self.console.print(kwrap.plan(model, hooks))
        wrapped = kwrap.clone_model(model, hooks)
        self._note("wrapped copy", wrapped)

        self.console.rule("fine-tuning the copy: plain fit, no callbacks")
        self._fit(wrapped, FINE_TUNING_EPOCHS)
        self._note("fine-tuned", wrapped)
        self._claim("the original predicts as before", np.array_equal(self._predict(model), before))

        loaded = self._save_and_load(wrapped)
        self._note("loaded", loaded)
        self._claim("the loaded model predicts as the saved one", self._equal(loaded, wrapped))

        unwrapped = kwrap.unwrap_model(loaded)
        self._note("unwrapped", unwrapped)
        self._claim("the unwrapped model predicts as the wrapped one", self._equal(unwrapped, wrapped))
        self._claim("no hook is left", not kwrap.find_hooks(unwrapped))
        self._check_sparsity(unwrapped)
        self._print_steps()

    def _train(self) -> "keras.Model":
        import keras

        self.console.rule("training a plain Keras model on scikit-learn's digits")
        layers = keras.layers
        model = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                layers.Conv2D(16, 3, padding="same", activation="relu", name="conv_1"),
                layers.MaxPooling2D(name="pool"),
                layers.Conv2D(32, 3, activation="relu", name="conv_2"),
                layers.Flatten(name="flatten"),
                layers.Dense(64, activation="relu", name="hidden"),
                layers.Dense(10, name="logits"),
            ],
            name="digits",
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
        self._fit(model, EPOCHS)
        return model

    def _hooks(self) -> list[Any]:
        """Return both plugins' hooks by name, each with its place; `hidden` gets three."""
        import kwrap
        from kwrap_prune import PolynomialDecay

        batches = -(-len(self.digits.train[0]) // BATCH_SIZE)
        last = FINE_TUNING_EPOCHS * batches // 2 // 10 * 10
        prune = [
            kwrap.use("prune", schedule=PolynomialDecay(0.0, sparsity, 0, last, frequency=10)).at(name)
            for name, sparsity in SPARSITY.items()
        ]
        return [
            *prune,
            kwrap.use("weight_noise", stddev=0.02).at(["conv_2", "hidden"]),
            kwrap.use("noise", stddev=0.1).at("hidden"),
        ]

    def _fit(self, model: "keras.Model", epochs: int) -> None:
        shown = 0 if self.console.quiet else 1 if self.console.is_terminal else 2
        model.fit(*self.digits.train, batch_size=BATCH_SIZE, epochs=epochs, verbose=shown)

    def _predict(self, model: "keras.Model") -> Any:
        return model.predict(self.digits.test[0], verbose=0)

    def _equal(self, one: "keras.Model", other: "keras.Model") -> bool:
        return bool(np.array_equal(self._predict(one), self._predict(other)))

    def _save_and_load(self, model: "keras.Model") -> "keras.Model":
        import keras

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "wrapped.keras")
            model.save(path)
            return keras.models.load_model(path)

    def _check_sparsity(self, model: "keras.Model") -> None:
        for name, sparsity in SPARSITY.items():
            kernel = model.get_layer(name).kernel.numpy()
            zeros = kernel.size - np.count_nonzero(kernel)
            claim = f"{name}: {zeros} of {kernel.size} weights are zero, as {sparsity:.0%} asks for"
            self._claim(claim, zeros == round(sparsity * kernel.size))

    def _claim(self, claim: str, holds: bool) -> None:
        self.claims.append({"claim": claim, "holds": bool(holds)})
        if holds:
            self.console.print(f"[green]holds:[/green] {claim}")

    def _note(self, step: str, model: "keras.Model") -> None:
        accuracy = np.mean(np.argmax(self._predict(model), axis=-1) == self.digits.test[1])
        non_zero = {name: int(np.count_nonzero(model.get_layer(name).kernel)) for name in (*SPARSITY, "logits")}
        size = _compressed_size(model)
        self.steps.append({"step": step, "accuracy": float(accuracy), "non_zero": non_zero, "compressed": size})

    def _print_steps(self) -> None:
        self.console.rule("what each step did")
        table = Table("step", "accuracy", caption="columns of layers: non-zero weights of the kernel")
        for column in (*SPARSITY, "logits", "weights, compressed (kB)"):
            table.add_column(column, justify="right")
        for step in self.steps:
            size = f"{step['compressed'] / 1000:.1f}"
            table.add_row(step["step"], f"{step['accuracy']:.3f}", *map(str, step["non_zero"].values()), size)
        self.console.print(table)


def _compressed_size(model: "keras.Model") -> int:
    """Return the size in bytes of a compressed file of the model's weights, hooks' state included."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights.npz")
        np.savez_compressed(path, *model.get_weights())
        return path.stat().st_size
