"""LAMP: the shares of the layers against the paper's definition, weight by weight."""

import keras
import numpy as np
import pytest

import kwrap
from kwrap.errors import ModelTypeError, OptionValueError, RuleError, WrapperStateError
from kwrap_prune import ConstantSparsity, PolynomialDecay, Prune, lamp_sparsities, report

KERNELS = {"conv": 2 * 2 * 3 * 4, "wide": 36 * 32, "logits": 32 * 5}


def network() -> keras.Model:
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((4, 4, 3)),
            keras.layers.Conv2D(4, 2, name="conv"),
            keras.layers.Flatten(),
            keras.layers.Dense(32, activation="relu", name="wide"),
            keras.layers.Dense(5, name="logits"),
        ],
        name="net",
    )


def zeros(model: keras.Model) -> dict[str, int]:
    return {one.path: one.zeros for one in report(model).weights}


def defined(weights: dict[str, np.ndarray], sparsity: float) -> dict[str, int]:
    """Return how many weights go of each layer: each one's score by itself, as the paper defines it."""
    scored = []
    for name, values in weights.items():
        squares = values.astype("float64").ravel() ** 2
        scored += [(square / squares[squares >= square].sum(), name) for square in squares]
    lowest = sorted(scored, key=lambda one: one[0])[: round(sparsity * len(scored))]
    return {name: sum(owner == name for _, owner in lowest) for name in weights}


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.9, 0.98])
def test_layers_have_what_the_papers_scores_leave_them(sparsity):
    model = network()
    expected = defined({name: np.array(model.get_layer(name).kernel) for name in KERNELS}, sparsity)
    found = lamp_sparsities(model, sparsity)
    assert found == {name: expected[name] / size for name, size in KERNELS.items()}


def test_pruned_so_the_layers_together_are_as_sparse_as_was_asked():
    model = network()
    found = lamp_sparsities(model, 0.9)
    assert found["wide"] > 0.9 > found["conv"]
    kwrap.wrap_model(model, [Prune(ConstantSparsity(value, begin_step=0)).at(path) for path, value in found.items()])
    assert zeros(model) == {name: round(found[name] * size) for name, size in KERNELS.items()}
    assert report(model).zeros == round(0.9 * sum(KERNELS.values()))


def test_on_a_schedule_the_sparsity_of_all_is_the_schedules_at_each_step():
    model = network()
    found = lamp_sparsities(model, 0.8)
    decays = {path: PolynomialDecay(0.0, value, 0, 4, frequency=1) for path, value in found.items()}
    kwrap.wrap_model(model, [Prune(decay).at(path) for path, decay in decays.items()])
    model.compile("sgd", "mse")
    whole = PolynomialDecay(0.0, 0.8, 0, 4, frequency=1)
    for step in range(1, 6):
        model.train_on_batch(np.ones((2, 4, 4, 3)), np.ones((2, 5)))
        expected = float(whole(min(step, 4))[1]) * sum(KERNELS.values())
        assert abs(report(model).zeros - expected) <= len(KERNELS) / 2  # each layer's count is rounded


def test_nothing_is_put_on_the_model():
    model = network()
    before = list(model.layers), model.get_weights()
    lamp_sparsities(model, 0.5)
    assert model.layers == before[0]
    assert all(np.array_equal(one, other) for one, other in zip(model.get_weights(), before[1], strict=True))


def test_a_scale_of_a_layer_does_not_count_nor_does_its_size_in_float32():
    model = network()
    before = lamp_sparsities(model, 0.7)
    for name, scale in {"conv": 2.0**-100, "wide": 2.0**100}.items():
        layer = model.get_layer(name)
        layer.kernel.assign(np.array(layer.kernel) * scale)
    assert lamp_sparsities(model, 0.7) == before


def test_ties_are_counted_exactly():
    model = network()
    for name in KERNELS:
        model.get_layer(name).kernel.assign(np.full(model.get_layer(name).kernel.shape, 0.0))
    total = sum(KERNELS.values())
    for count in (1, 40, 47, 48, 600, total - 4, total - 3):
        found = lamp_sparsities(model, count / total)
        assert sum(round(found[name] * size) for name, size in KERNELS.items()) == count


def test_one_weight_stays_in_each_layer():
    model = network()
    found = lamp_sparsities(model, 1 - 1e-9)
    assert found == {name: (size - 1) / size for name, size in KERNELS.items()}


def test_non_finite_weights_are_none_to_prune():
    model = network()
    kernel = np.zeros((2, 2, 3, 4))
    kernel.flat[:5] = np.nan, np.inf, -np.inf, np.nan, np.inf
    model.get_layer("conv").kernel.assign(kernel)
    assert lamp_sparsities(model, 1 - 1e-9)["conv"] == 43 / 48
    kernel[:] = np.nan
    model.get_layer("conv").kernel.assign(kernel)
    found = lamp_sparsities(model, 0.9)
    assert found["conv"] == 0
    assert sum(round(found[name] * size) for name, size in KERNELS.items()) == round(0.9 * sum(KERNELS.values()))


def test_a_pruned_model_counts_with_its_masks():
    model = network()
    kwrap.wrap_model(model, Prune(ConstantSparsity(0.75, begin_step=0)), where="wide")
    # What is stored at the places of pruned weights is none of them.
    model.get_layer("wide").kernel.assign(np.ones((36, 32)))
    assert lamp_sparsities(model, 864 / 1360)["wide"] == 0.75


def test_layers_and_weights_are_chosen_as_for_wrapping():
    model = network()
    assert list(lamp_sparsities(model, 0.5, exclude="logits")) == ["conv", "wide"]
    alone = lamp_sparsities(model, 0.5, where=keras.layers.Conv2D)
    assert alone == {"conv": 0.5}
    nested = keras.Sequential([keras.Input((4, 4, 3)), model, keras.layers.Dense(2, name="top")])
    assert list(lamp_sparsities(nested, 0.5)) == ["net/conv", "net/wide", "net/logits", "top"]
    assert list(lamp_sparsities(nested, 0.5, recursive=False)) == ["top"]


def test_all_weights_of_a_layer_count_as_one():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((5, 3)), keras.layers.LSTM(8, name="lstm"), keras.layers.Dense(6)])
    cell = model.get_layer("lstm").cell
    both = np.concatenate([np.ravel(cell.kernel), np.ravel(cell.recurrent_kernel)])
    dense = np.array(model.layers[1].kernel)
    expected = defined({"lstm": both, "dense": dense}, 0.6)
    (path, found), (_, other) = lamp_sparsities(model, 0.6).items()
    assert path.startswith("lstm")
    assert found == expected["lstm"] / both.size
    assert other == expected["dense"] / dense.size
    alone = lamp_sparsities(model, 0.6, where="lstm*", targets="recurrent_kernel")
    assert alone == {path: round(0.6 * 256) / 256}


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan"), "half", None])
def test_a_sparsity_that_is_none_is_refused(sparsity):
    with pytest.raises(OptionValueError, match="lamp_sparsities: sparsity="):
        lamp_sparsities(network(), sparsity)


def test_a_model_that_is_none_or_has_nothing_to_prune_is_refused():
    with pytest.raises(ModelTypeError):
        lamp_sparsities("net", 0.5)
    with pytest.raises(WrapperStateError):
        lamp_sparsities(keras.Sequential([keras.layers.Dense(2)]), 0.5)
    with pytest.raises(RuleError, match="no layer"):
        lamp_sparsities(keras.Sequential([keras.Input((2,)), keras.layers.ReLU()]), 0.5)
    with pytest.raises(RuleError, match="'nowhere' matches no layer"):
        lamp_sparsities(network(), 0.5, where="nowhere")
