import io
import json
import re
import zlib
from xml.etree import ElementTree

import keras
import numpy as np
import pytest
from rich.console import Console

import kwrap
from kwrap.errors import ModelTypeError, WrapperStateError
from kwrap_prune import ConstantSparsity, NonFiniteWeightsWarning, Prune, report


class Block(keras.layers.Layer):
    """A composite: two dense layers in a list."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.parts = [keras.layers.Dense(6, name="up"), keras.layers.Dense(4, name="down")]

    def call(self, inputs):
        return self.parts[1](self.parts[0](inputs))


class Tagger(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embedding = keras.layers.Embedding(10, 4, name="embedding")
        self.blocks = [Block(name="block_0"), Block(name="block_1")]
        self.norm = keras.layers.LayerNormalization(name="norm")

    def call(self, inputs):
        hidden = self.embedding(inputs)
        for block in self.blocks:
            hidden = block(hidden)
        return self.norm(hidden)


def convolutions() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            keras.layers.DepthwiseConv2D(3, name="depthwise"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(10, name="dense"),
        ],
        name="net",
    )


def odd_names() -> keras.Model:
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="[b]<script>dense&")], name="<i>net")


def places(model: keras.Model) -> list[tuple[str, str]]:
    return [(one.path, one.weight) for one in report(model).weights]


def counts(model: keras.Model) -> dict[str, tuple[int, int]]:
    return {one.path: (one.zeros, one.size) for one in report(model).weights}


def test_a_plain_model_shows_its_kernels_and_embeddings_with_the_zeros_in_them():
    model = convolutions()
    kernel = np.ones((8, 10), "float32")
    kernel[:3, 0] = [0, -0.0, 1e-45]
    model.get_layer("dense").kernel.assign(kernel)
    depthwise, dense = report(model).weights
    assert (depthwise.path, depthwise.weight, depthwise.shape) == ("depthwise", "kernel", (3, 3, 2, 1))
    assert (depthwise.size, depthwise.zeros, depthwise.sparsity, depthwise.non_finite) == (18, 0, 0.0, 0)
    assert (dense.path, dense.weight, dense.shape) == ("dense", "kernel", (8, 10))
    assert (dense.size, dense.zeros, dense.sparsity) == (80, 2, 0.025)


def test_the_totals_are_those_of_the_models_own_weights_pruned_or_unwrapped():
    model = convolutions()
    kwrap.wrap_model(model, Prune(ConstantSparsity(0.5, begin_step=0)))
    pruned = report(model)
    kwrap.unwrap_model(model)
    assert pruned.as_dict() == report(model).as_dict()
    values = [np.array(weight) for weight in model.weights]
    raw = b"".join(value.tobytes() for value in values)
    assert (pruned.size, pruned.zeros, pruned.sparsity) == (98, 49, 0.5)
    assert pruned.model_size == model.count_params()
    assert pruned.model_zeros == sum(int(np.sum(value == 0)) for value in values)
    assert (pruned.raw_bytes, pruned.deflated_bytes) == (len(raw), len(zlib.compress(raw)))


def test_weights_that_were_set_count_with_their_masks_as_they_are_read_and_saved(tmp_path):
    model = kwrap.wrap_model(convolutions(), Prune(), where="dense")
    model.get_layer("dense").kernel.assign(np.ones((8, 10)))
    counted = report(model)
    model.save(tmp_path / "model.keras")
    plain = kwrap.unwrap_model(keras.models.load_model(tmp_path / "model.keras"))
    assert (counts(model)["dense"], counted.zeros) == ((40, 80), 40)
    assert (report(plain).zeros, report(plain).model_zeros) == (40, counted.model_zeros)
    assert report(plain).deflated_bytes == counted.deflated_bytes


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method:UserWarning")
def test_a_layer_that_was_quantized_has_no_weights_to_show_and_the_rest_of_the_model_counts():
    model = kwrap.unwrap_model(kwrap.wrap_model(convolutions(), Prune()))
    model.quantize("int8")
    after = report(model)
    assert places(model) == [("depthwise", "kernel")]
    assert after.model_size == sum(int(np.prod(weight.shape)) for weight in model.weights)
    assert after.raw_bytes == sum(np.array(weight).nbytes for weight in model.weights)


def test_a_subclassed_model_shows_the_layers_in_its_composites_in_their_order():
    model = Tagger()
    model(np.zeros((1, 3), "int32"))
    kernels = ["block_0/up", "block_0/down", "block_1/up", "block_1/down"]
    expected = [("embedding", "embeddings"), *((path, "kernel") for path in kernels)]
    assert places(model) == expected
    kwrap.wrap_model(model, Prune(ConstantSparsity(0.75, begin_step=0)), where="block_1/*")
    assert places(model) == expected
    assert [one.zeros for one in report(model).weights] == [0, 0, 0, 18, 18]


def test_a_shared_layer_counts_once():
    inputs = keras.Input((4,))
    shared = keras.layers.Dense(4, name="shared")
    model = keras.Model(inputs, shared(shared(inputs)))
    kwrap.wrap_model(model, Prune())
    assert counts(model) == {"shared": (8, 16)}
    assert report(model).model_size == 20


def test_weights_that_only_a_hooks_own_targets_name_are_shown_too():
    model = convolutions()
    kwrap.wrap_model(model, Prune(targets="bias", name="biases"), where="dense")
    kwrap.wrap_model(model, Prune(ConstantSparsity(0.9, begin_step=0), targets="gamma", name="scales"), where="norm")
    assert places(model) == [("depthwise", "kernel"), ("dense", "kernel"), ("dense", "bias"), ("norm", "gamma")]
    assert [one.zeros for one in report(model).weights] == [0, 0, 10, 1]


def test_a_model_without_any_such_weight_is_a_report_of_none():
    model = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization()])
    empty = report(model)
    assert (empty.weights, empty.size, empty.sparsity, empty.model_size) == ((), 0, 0.0, 8)
    assert "total" in str(empty)


def test_an_optimizer_that_accumulates_gradients_is_no_obstacle():
    model = convolutions()
    model.compile(keras.optimizers.SGD(gradient_accumulation_steps=2), "mse")
    assert counts(model) == {"depthwise": (0, 18), "dense": (0, 80)}


def test_a_hook_with_the_reports_own_name_is_no_obstacle():
    model = convolutions()
    kwrap.wrap_model(model, Prune(name="report"))
    assert counts(model) == {"depthwise": (9, 18), "dense": (40, 80)}


def test_weights_that_are_not_finite_are_counted_and_are_no_zeros():
    model = convolutions()
    kernel = np.ones((8, 10), "float32")
    kernel[0, :3] = [np.nan, np.inf, -np.inf]
    model.get_layer("dense").kernel.assign(kernel)
    with pytest.warns(NonFiniteWeightsWarning):
        kwrap.wrap_model(model, Prune())
    found = report(model)
    assert [(one.zeros, one.non_finite) for one in found.weights] == [(9, 0), (40, 3)]
    assert found.non_finite == 3


def test_a_model_of_low_precision_is_counted_in_its_own_bytes():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6, dtype="bfloat16")])
    kwrap.wrap_model(model, Prune())
    found = report(model)
    assert (found.zeros, found.raw_bytes) == (12, 2 * 30)


def test_a_report_is_json():
    model = convolutions()
    data = json.loads(json.dumps(report(model).as_dict()))
    assert data["weights"][1] == {
        "path": "dense",
        "weight": "kernel",
        "shape": [8, 10],
        "size": 80,
        "zeros": 0,
        "sparsity": 0.0,
        "non_finite": 0,
    }
    assert {name: data[name] for name in ("model", "size", "sparsity")} == {"model": "net", "size": 98, "sparsity": 0.0}


def test_print_shows_the_weights_and_the_totals_in_columns():
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(50, name="dense")], name="net")
    kwrap.wrap_model(model, Prune(ConstantSparsity(0.9, begin_step=0)))
    title, head, row, total, parameters, size = str(report(model)).splitlines()
    assert title == "sparsity of net"
    assert head == "layer  weight  shape      size  zeros  sparsity  non-finite"
    assert row == "dense  kernel  (64, 50)  3,200  2,880    0.9000           0"
    assert total == "total                    3,200  2,880    0.9000           0"
    assert parameters == "parameters left: 320 of these 3,200; 320 of the model's 3,250"
    assert size.startswith("the model's weights: 13,000 bytes, compressed ")


def test_rich_shows_the_same_with_names_as_they_are():
    found = report(odd_names())
    shown = io.StringIO()
    Console(file=shown, width=200).print(found)
    for cells in (*found.rows(), found._total()):
        assert all(cell in shown.getvalue() for cell in cells)
    assert all(line in shown.getvalue() for line in found._notes())
    assert "[b]<script>dense&" in shown.getvalue()


def test_a_notebook_shows_the_same_with_names_as_they_are():
    found = report(odd_names())
    page = ElementTree.fromstring(found._repr_html_())  # an error unless it is well-formed
    assert page.findtext("strong") == "sparsity of <i>net"
    body, foot = page.findall("./table/tbody/tr"), page.findall("./table/tfoot/tr")
    assert [tuple(cell.text or "" for cell in row) for row in (*body, *foot)] == [*found.rows(), found._total()]
    assert body[0][0].text == "[b]<script>dense&"
    assert [line.text for line in page.findall("div")] == found._notes()


def test_a_notebook_shows_numbers_to_the_right_and_sparsity_as_a_bar():
    model = convolutions()
    kwrap.wrap_model(model, Prune(ConstantSparsity(0.75, begin_step=0)), where="dense")
    table = ElementTree.fromstring(report(model)._repr_html_()).find("table")
    rows = [[cell.get("style") for cell in row] for row in table.iter("tr")]
    sides = [[style.partition("text-align: ")[2].partition(";")[0] for style in row] for row in rows]
    assert sides == [["left"] * 3 + ["right"] * 4] * 4
    bars = [re.findall(r"gradient\(.* ([\d.]+%), transparent", row[5]) for row in rows]
    assert bars == [[], ["0.0%"], ["75.0%"], [f"{60 / 98:.1%}"]]


def test_a_notebook_needs_nothing_from_elsewhere_and_takes_no_colours_but_the_pages():
    page = report(convolutions())._repr_html_()
    tags = {element.tag for element in ElementTree.fromstring(page).iter()}
    assert tags == {"div", "strong", "table", "thead", "tbody", "tfoot", "tr", "th", "td"}
    assert not re.search(r"http|url\(|@import|#[0-9a-f]{3}", page)
    assert set(re.findall(r"(?<!-)color: (\w+)", page)) == {"inherit"}


def test_a_model_that_is_not_built_is_an_error():
    with pytest.raises(WrapperStateError, match="is not built"):
        report(keras.Sequential([keras.layers.Dense(2)]))


def test_what_is_no_model_is_an_error():
    with pytest.raises(ModelTypeError):
        report(keras.layers.Dense(2))
