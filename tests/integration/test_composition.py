"""Hooks of five plugins in pairs, threes and fives on one layer, in every order: the table in docs/composition.md.

Each is on a Dense layer and on a projection inside an attention at once. What an order means is computed by NumPy, from
the weights that a plain Keras model has. To write the table anew: python -m tests.integration.test_composition
"""

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import kwrap
from kwrap import _keras
from kwrap.errors import WrapperStateError
from kwrap_lora import LoRA
from kwrap_noise import DropConnect, Noise
from kwrap_norm import WeightNorm
from kwrap_probe import Probe, report
from kwrap_prune import ConstantSparsity, Prune

from ..specimens import same, values

PAGE = Path(__file__).parents[2] / "docs" / "composition.md"
BEGIN, END = "<!-- table: python -m tests.integration.test_composition -->\n", "<!-- end of table -->\n"

RATE, STDDEV, ROWS = 0.25, 0.01, 16
HOOKS: dict[str, Callable[[], kwrap.Hook]] = {
    "prune": lambda: Prune(ConstantSparsity(0.5, begin_step=0)),
    # B is zero at first by default: it would do nothing.
    "lora": lambda: LoRA(rank=2, alpha=1.0, b_initializer=keras.initializers.RandomNormal(stddev=0.5, seed=1)),
    "noise": lambda: Noise(STDDEV),
    "drop_connect": lambda: DropConnect(RATE),
    "probe": lambda: Probe(every=1),
    "weight_norm": WeightNorm,
}
CHANGE_WEIGHTS = ("prune", "lora", "weight_norm")  # at inference
PAIRS = list(itertools.permutations(HOOKS, 2))
CHANGES = list(itertools.permutations(CHANGE_WEIGHTS, 2))
THREES = [("prune", "lora", "noise"), ("weight_norm", "drop_connect", "prune"), ("probe", "lora", "weight_norm")]
FIVES = [
    ("probe", "noise", "lora", "prune", "drop_connect"),
    ("drop_connect", "weight_norm", "lora", "prune", "probe"),
]
every_pair = pytest.mark.parametrize("names", PAIRS, ids=" then ".join)

GENERATOR = np.random.default_rng(0)
INPUTS = GENERATOR.normal(size=(8, 3, 4)).astype("float32")
TARGETS = GENERATOR.normal(size=(8, ROWS)).astype("float32")


# --- the model, and what NumPy makes of its weights ------------------------------------------------------------------


def plain() -> keras.Model:
    """Return a model with an attention and a Dense layer, with the same weights each time."""
    _keras.seed_past_tensorflow(3)
    inputs = keras.Input((3, 4), name="inputs")
    hidden = keras.layers.MultiHeadAttention(2, 2, name="attention")(inputs, inputs)
    outputs = keras.layers.Dense(ROWS, name="dense")(keras.layers.Flatten(name="flat")(hidden))
    model = keras.Model(inputs, outputs, name="model")
    # Eagerly: two steps are quicker than to trace one. `test_three_and_five_...` traces.
    model.compile(keras.optimizers.SGD(0.0625, momentum=0.5), "mse", run_eagerly=True)
    return model


def wrapped(names: tuple[str, ...]) -> keras.Model:
    """Return the model with hooks in that order on the Dense layer and on the attention's queries."""
    return kwrap.wrap_model(plain(), [HOOKS[name]() for name in names], where=["dense", "attention/query"])


def outputs(model: keras.Model) -> np.ndarray:
    """Return the outputs at inference; eagerly, for nothing is to be compiled for a single call."""
    return np.array(model(INPUTS, training=False))


def layers(model: keras.Model) -> list[keras.Layer]:
    return [model.get_layer("dense"), model.get_layer("attention").query_dense]


def matrix(kernel: Any) -> np.ndarray:
    """Return a kernel by inputs and outputs: both layers have their inputs on the first axis."""
    array = np.array(kernel, "float64")
    return array.reshape(array.shape[0], -1)


def hook_of(layer: keras.Layer, name: str) -> Any:
    return next(hook for hook in layer.hooks if hook.name == name)


def pruned(layer: keras.Layer, value: np.ndarray) -> np.ndarray:
    """Return zeros for the half of the *stored* weights that is nearest zero; after an update, they are stored so."""
    stored = np.abs(matrix(layer.layer.kernel)).ravel()
    lowest = np.argsort(stored, kind="stable")[: stored.size // 2]
    mask = np.ones(stored.size)
    mask[lowest] = 0
    return value * mask.reshape(value.shape)


def adapted(layer: keras.Layer, value: np.ndarray) -> np.ndarray:
    kernel, _ = kwrap.weight_targets(layer.layer)
    parts = hook_of(layer, "lora").parts(kernel)
    return value + 0.5 * np.array(parts["a"], "float64") @ np.array(parts["b"], "float64")


def normed(layer: keras.Layer, value: np.ndarray) -> np.ndarray:
    lengths = matrix(hook_of(layer, "weight_norm").lengths["kernel"])
    return lengths * value / np.linalg.norm(value, axis=0)


AT_INFERENCE = {"prune": pruned, "lora": adapted, "weight_norm": normed}


def kernel_of(layer: keras.Layer, names: tuple[str, ...]) -> np.ndarray:
    """Return what the layer reads at inference, by NumPy: each hook's formula on what the one before gave."""
    value = matrix(layer.layer.kernel)
    for name in names:
        value = AT_INFERENCE.get(name, lambda layer, value: value)(layer, value)
    return value


def outputs_by_numpy(model: keras.Model, names: tuple[str, ...]) -> np.ndarray:
    """Return the outputs of a plain model with the kernels that NumPy computed, and all other weights of `model`."""
    other = plain()
    for mine, its in zip(layers(model), layers(other), strict=True):
        its.kernel.assign(kernel_of(mine, names).reshape(its.kernel.shape))
        its.bias.assign(mine.bias)
    for name in ("key_dense", "value_dense", "output_dense"):
        getattr(other.get_layer("attention"), name).set_weights(
            getattr(model.get_layer("attention"), name).get_weights()
        )
    return outputs(other)


# --- pairs -----------------------------------------------------------------------------------------------------------


@functools.cache
def model_of(names: tuple[str, ...]) -> keras.Model:
    """Return a trained model, which the tests do not change."""
    model = wrapped(names)
    model.fit(INPUTS, TARGETS, batch_size=4, shuffle=False, verbose=0)
    return model


@functools.cache
def outputs_of(names: tuple[str, ...]) -> np.ndarray:
    return outputs(model_of(names))


@every_pair
def test_a_pair_trains(names):
    before, after = values(wrapped(names).trainable_variables), values(model_of(names).trainable_variables)
    # The bias of an attention's keys has no gradient.
    assert [same(old, new) for old, new in zip(before, after, strict=True)].count(True) <= 1
    kernels = [layer.layer.kernel for layer in layers(model_of(names))]
    if "lora" in names:
        assert not any(kernel.trainable for kernel in kernels)
    if "prune" in names:
        assert [np.count_nonzero(kernel) for kernel in kernels] == [np.size(kernel) // 2 for kernel in kernels]


@every_pair
def test_a_pair_computes_what_its_order_says(names):
    np.testing.assert_allclose(outputs_of(names), outputs_by_numpy(model_of(names), names), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("names", CHANGES, ids=" then ".join)
def test_the_other_order_computes_something_else(names):
    other = outputs_by_numpy(model_of(names), names[::-1])
    if set(names) == {"prune", "weight_norm"}:
        # Zeros are stored: the norm over the inputs is the same without them.
        np.testing.assert_allclose(outputs_of(names), other, rtol=1e-4, atol=1e-5)
    else:
        assert np.abs(outputs_of(names) - other).max() > 1e-3


@every_pair
def test_a_pair_is_saved_and_comes_back(names, tmp_path):
    model_of(names).save(tmp_path / "pair.keras")
    loaded = keras.models.load_model(tmp_path / "pair.keras")
    assert [(path, hook.name) for path, hook in kwrap.find_hooks(loaded)] == [
        (path, name) for path in ("attention/query", "dense") for name in names
    ]
    assert same(outputs(loaded), outputs_of(names))
    assert same(values(loaded.optimizer.variables), values(model_of(names).optimizer.variables))


def promised(names: tuple[str, ...], leaving: str) -> str:
    """Return what the contract says: what a hook that stays makes of a weight first, it would make of it again."""
    refused = leaving == names[1] and set(names) <= set(CHANGE_WEIGHTS)
    return "refused" if refused else "exact"


@every_pair
@pytest.mark.parametrize("which", [0, 1], ids=["first", "second"])
def test_each_of_a_pair_is_taken_off_alone_or_refused(names, which):
    model = kwrap.clone_model(model_of(names))
    leaving, staying = names[which], names[1 - which]
    if promised(names, leaving) == "refused":
        with pytest.raises(WrapperStateError, match=f"hook '{leaving}' .* while '{staying}'"):
            kwrap.unwrap_model(model, leaving)
        assert same(values(model.variables), values(model_of(names).variables))
        return
    kwrap.unwrap_model(model, leaving)
    assert {hook.name for _, hook in kwrap.find_hooks(model)} == {staying}
    np.testing.assert_allclose(outputs(model), outputs_of(names), rtol=1e-4, atol=1e-5)
    kwrap.unwrap_model(model)
    assert not kwrap.find_hooks(model)
    np.testing.assert_allclose(outputs(model), outputs_of(names), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("names", CHANGES, ids=" then ".join)
def test_what_cannot_be_merged_first_can_be_dropped_or_both_be_merged(names):
    model = kwrap.clone_model(model_of(names))
    kwrap.unwrap_model(model)
    np.testing.assert_allclose(outputs(model), outputs_of(names), rtol=1e-4, atol=1e-5)
    model = kwrap.clone_model(model_of(names))
    kwrap.unwrap_model(model, names[1], merge=False)
    expected = outputs_by_numpy(model_of(names), names[:1])
    np.testing.assert_allclose(outputs(model), expected, rtol=1e-4, atol=1e-5)


# --- in training: what is drawn at random ----------------------------------------------------------------------------


def read_in_training(layer: keras.Layer) -> np.ndarray:
    """Return the kernel that a Dense layer reads in a call in training: its outputs for the unit vectors."""
    rows = layer.kernel.shape[0]
    return np.array(layer(np.eye(rows, dtype="float32"), training=True) - layer.bias, "float64")


@pytest.mark.parametrize("name", CHANGE_WEIGHTS)
def test_connections_are_dropped_of_what_the_hook_before_gave(name):
    dense = model_of((name, "drop_connect")).get_layer("dense")
    read, whole = read_in_training(dense), kernel_of(dense, (name,)) / (1 - RATE)
    dropped = (read == 0) & (whole != 0)
    assert 0.1 < dropped.mean() < 0.4
    np.testing.assert_allclose(read, np.where(dropped, 0, whole), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CHANGE_WEIGHTS)
def test_a_hook_after_it_gets_the_weights_of_which_some_are_dropped(name):
    dense = model_of(("drop_connect", name)).get_layer("dense")
    read, stored = read_in_training(dense), matrix(dense.layer.kernel) / (1 - RATE)
    if name == "lora":
        product = adapted(dense, np.zeros_like(stored))
        dropped = np.abs(read - product) < 1e-5
    else:
        dropped = (read == 0) & (stored != 0)
    assert 0.1 < dropped.mean() < 0.4
    expected = AT_INFERENCE[name](dense, np.where(dropped, 0, stored))
    np.testing.assert_allclose(read, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CHANGE_WEIGHTS)
def test_noise_is_on_what_the_layer_gives_with_its_weights_in_either_order(name):
    for names in ((name, "noise"), ("noise", name)):
        dense = model_of(names).get_layer("dense")
        noise = read_in_training(dense) - kernel_of(dense, names)
        # A few hundred draws.
        assert 0.8 * STDDEV < noise.std() < 1.2 * STDDEV


@pytest.mark.parametrize("names", [("probe", "noise"), ("noise", "probe")], ids=" then ".join)
def test_a_probe_sees_the_noise_of_those_after_it(names):
    model = wrapped(names)
    dense = model.get_layer("dense")
    dense.layer.set_weights([np.zeros_like(weight) for weight in dense.layer.get_weights()])
    dense(np.ones((64, dense.kernel.shape[0]), "float32"), training=True)
    (seen,) = (each for each in report(model).statistics if (each.path, each.source) == ("dense", "outputs"))
    if names[0] == "probe":
        assert 0.8 * STDDEV < seen.spread < 1.2 * STDDEV
    else:
        assert seen.spread == 0


@pytest.mark.parametrize("name", CHANGE_WEIGHTS)
def test_a_probe_sees_weights_as_those_before_it_in_the_list_make_them(name):
    for names in ((name, "probe"), ("probe", name)):
        model = wrapped(names)
        dense = model.get_layer("dense")
        expected = kernel_of(dense, names[: names.index("probe")])
        dense(np.ones((1, dense.kernel.shape[0]), "float32"), training=True)
        (seen,) = (each for each in report(model).statistics if (each.path, each.source) == ("dense", "weights"))
        np.testing.assert_allclose([seen.mean, seen.spread], [expected.mean(), expected.std()], rtol=1e-3, atol=1e-6)


# --- threes and fives ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [*THREES, *FIVES], ids=" then ".join)
def test_three_and_five_on_one_layer_train_save_load_and_come_off(names, tmp_path):
    test_a_pair_computes_what_its_order_says(names)
    test_a_pair_is_saved_and_comes_back(names, tmp_path)
    model = kwrap.clone_model(model_of(names))
    model.run_eagerly = False
    model.train_on_batch(INPUTS, TARGETS)
    before = outputs(model)
    for name in names:  # from the first on, each is merged exactly
        kwrap.unwrap_model(model, name)
        np.testing.assert_allclose(outputs(model), before, rtol=1e-4, atol=1e-5)
    assert type(model.get_layer("dense")) is keras.layers.Dense
    plain_copy = kwrap.unwrap_model(kwrap.clone_model(model_of(names)))
    np.testing.assert_allclose(outputs(plain_copy), outputs_of(names), rtol=1e-4, atol=1e-5)


def test_a_first_one_is_refused_where_another_stores_what_is_read_through_a_third():
    names = ("lora", "weight_norm", "prune")  # zeros that prune stores have no part in the norm before it
    model = kwrap.clone_model(model_of(names))
    with pytest.raises(WrapperStateError, match=r"hook 'lora' .* while 'prune', which would store another weight"):
        kwrap.unwrap_model(model, "lora")
    assert same(values(model.variables), values(model_of(names).variables))
    np.testing.assert_array_equal(outputs(model), outputs_of(names))
    kwrap.unwrap_model(model)
    np.testing.assert_allclose(outputs(model), outputs_of(names), rtol=1e-4, atol=1e-5)


# --- the table -------------------------------------------------------------------------------------------------------


# What a layer reads at inference, of what the hook before made of its weight W.
FORMULAE = {"prune": "mask · {}", "lora": "({} + s A B)", "weight_norm": "g · {x} / ‖{x}‖"}


def table() -> str:
    """Return the table of what the tests above show."""
    lines = [["first, then second", "the layer reads at inference", "first off alone", "second off alone"], ["---"] * 4]
    for names in PAIRS:
        read = "W"
        for name in names:
            read = FORMULAE.get(name, "{}").replace("{x}", "{}").replace("{}", read)
        cells = [promised(names, name) for name in names]
        lines.append([f"`{names[0]}`, `{names[1]}`", read[1:-1] if read[0] == "(" else read, *cells])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def test_the_document_has_the_table_of_these_tests():
    _, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    assert rest.partition(END)[0] == table(), "write it anew: python -m tests.integration.test_composition"


if __name__ == "__main__":
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}{table()}{END}{rest.partition(END)[2]}", "utf-8")
