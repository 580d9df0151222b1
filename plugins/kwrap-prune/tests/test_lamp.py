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


def lowest(weights: dict[str, np.ndarray], sparsity: float) -> set[tuple[str, int]]:
    """Return the weights that go, by tensor and place: each one's score by itself, as the paper defines it."""
    scored = []
    for name, values in weights.items():
        squares = values.astype("float64").ravel() ** 2
        scored += [(square / squares[squares >= square].sum(), name, place) for place, square in enumerate(squares)]
    return {(name, place) for _, name, place in sorted(scored)[: round(sparsity * len(scored))]}


def defined(weights: dict[str, np.ndarray], sparsity: float) -> dict[str, int]:
    """Return how many weights go of each tensor."""
    owners = [name for name, _ in lowest(weights, sparsity)]
    return {name: owners.count(name) for name in weights}


def prune(model: keras.Model, sparsities: dict[str, float]) -> None:
    kwrap.wrap_model(
        model, [Prune(ConstantSparsity(value, begin_step=0)).at(path) for path, value in sparsities.items()]
    )


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.9, 0.98])
def test_layers_have_what_the_papers_scores_leave_them(sparsity):
    model = network()
    expected = defined({name: np.array(model.get_layer(name).kernel) for name in KERNELS}, sparsity)
    found = lamp_sparsities(model, sparsity)
    assert found == {name: expected[name] / size for name, size in KERNELS.items()}


@pytest.mark.parametrize("sparsity", [0.02, 0.9, 0.98])
def test_pruned_so_the_weights_of_the_lowest_scores_are_zero(sparsity):
    model = network()
    expected = lowest({name: np.array(model.get_layer(name).kernel) for name in KERNELS}, sparsity)
    found = lamp_sparsities(model, sparsity)
    assert found["wide"] > sparsity > found["logits"]
    prune(model, found)
    kwrap.unwrap_model(model)
    pruned = {name: np.flatnonzero(np.array(model.get_layer(name).kernel) == 0) for name in KERNELS}
    assert {(name, int(place)) for name, places in pruned.items() for place in places} == expected
    assert report(model).zeros == round(sparsity * sum(KERNELS.values()))


def test_a_layer_of_one_weight_keeps_it_and_none_is_a_sparsity_too():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, name="one"), keras.layers.Dense(9, name="nine")])
    found = lamp_sparsities(model, 0.5)
    assert found == {"one": 0.0, "nine": 5 / 9}
    prune(model, found)
    assert zeros(model) == {"one": 0, "nine": 5}


def test_float16_weights_are_scored_in_float64():
    keras.utils.set_random_seed(0)
    halves = keras.layers.Dense(60, dtype="float16", name="halves")
    model = keras.Sequential([keras.Input((40,)), halves, keras.layers.Dense(30, name="floats")])
    kernels = {layer.name: np.array(layer.kernel) for layer in model.layers}
    expected = defined(kernels, 0.8)
    assert lamp_sparsities(model, 0.8) == {name: expected[name] / kernel.size for name, kernel in kernels.items()}


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


def test_a_scale_of_a_layer_does_not_count():
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
        expected, left = {}, count  # the earlier layers' first, but one of each
        for name, size in KERNELS.items():
            expected[name] = min(size - 1, left)
            left -= expected[name]
        assert found == {name: expected[name] / size for name, size in KERNELS.items()}


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


def test_each_tensor_of_a_layer_has_scores_of_its_own_and_the_layer_their_share():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((5, 3)), keras.layers.LSTM(8, name="lstm"), keras.layers.Dense(6, name="dense")]
    )
    cell = model.get_layer("lstm").cell
    tensors = {"input": cell.kernel, "recurrent": cell.recurrent_kernel, "dense": model.get_layer("dense").kernel}
    expected = defined({name: np.array(tensor) for name, tensor in tensors.items()}, 0.6)
    found = lamp_sparsities(model, 0.6)
    assert found == {"lstm": (expected["input"] + expected["recurrent"]) / (96 + 256), "dense": expected["dense"] / 48}
    cell.kernel.assign(np.array(cell.kernel) * 2.0**20)
    assert lamp_sparsities(model, 0.6) == found
    prune(model, found)
    assert abs(report(model).zeros - round(0.6 * (96 + 256 + 48))) <= 1  # the share of each of two is rounded
    alone = lamp_sparsities(kwrap.unwrap_model(model), 0.9, where="lstm", targets="recurrent_kernel")
    assert alone == {"lstm": round(0.9 * 256) / 256}


class Transposed(keras.layers.Layer):
    """Multiplies by the transposed kernel of another layer."""

    def __init__(self, other, **kwargs):
        super().__init__(**kwargs)
        self.other = lambda: other  # not one that it holds

    def build(self, shape):
        self.kernel = self.other().kernel

    def call(self, inputs):
        return inputs @ keras.ops.transpose(self.kernel)

    def get_weight_targets(self):
        return [kwrap.WeightTarget("kernel", self.kernel, (1,), (0,))]


def test_a_weight_that_two_layers_hold_counts_once():
    class Tied(keras.Model):
        def __init__(self):
            super().__init__()
            self.first = keras.layers.Dense(8, name="first")
            self.tied = Transposed(self.first, name="tied")
            self.last = keras.layers.Dense(3, name="last")

        def call(self, inputs):
            return self.last(self.tied(self.first(inputs)))

    keras.utils.set_random_seed(0)
    model = Tied()
    model(np.ones((1, 5)))
    expected = defined({"first": np.array(model.first.kernel), "last": np.array(model.last.kernel)}, 0.5)
    found = lamp_sparsities(model, 0.5)
    assert found == {"first": expected["first"] / 40, "tied": expected["first"] / 40, "last": expected["last"] / 15}


def test_a_layer_without_elements_has_none_to_prune():
    model = keras.Sequential(
        [keras.Input((0,)), keras.layers.Dense(3, name="empty"), keras.layers.Dense(4, name="dense")]
    )
    assert lamp_sparsities(model, 0.5) == {"empty": 0.0, "dense": 0.5}


def test_a_model_compiled_for_accumulation_is_taken():
    model = network()
    model.compile(keras.optimizers.SGD(gradient_accumulation_steps=3), "mse")
    assert list(lamp_sparsities(model, 0.5)) == list(KERNELS)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan"), "half", None])
def test_a_sparsity_that_is_none_is_refused(sparsity):
    with pytest.raises(OptionValueError, match="lamp_sparsities: sparsity="):
        lamp_sparsities(network(), sparsity)


def test_targets_that_are_none_are_refused():
    with pytest.raises(OptionValueError, match=r"^kwrap_prune: targets=3 is no weight's name"):
        lamp_sparsities(network(), 0.5, targets=3)


def test_a_model_that_is_none_or_has_nothing_to_prune_is_refused():
    with pytest.raises(ModelTypeError):
        lamp_sparsities("net", 0.5)
    with pytest.raises(WrapperStateError):
        lamp_sparsities(keras.Sequential([keras.layers.Dense(2)]), 0.5)
    with pytest.raises(RuleError, match=r"kwrap_prune\.lamp_sparsities.* no layer"):
        lamp_sparsities(keras.Sequential([keras.Input((2,)), keras.layers.ReLU()]), 0.5)
    with pytest.raises(RuleError, match="'nowhere' matches no layer"):
        lamp_sparsities(network(), 0.5, where="nowhere")
