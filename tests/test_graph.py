import keras
import pytest

import kwrap
from kwrap.errors import ModelTypeError

from .specimens import scale


def tower():
    return keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(3, name="first"), keras.layers.ReLU(name="bend")], name="tower"
    )


def siamese():
    shared = tower()
    left, right = keras.Input((3,), name="left"), keras.Input((3,), name="right")
    both = keras.layers.Add(name="both")([shared(left), shared(right)])
    return keras.Model([left, right], [keras.layers.Dense(1, name="head")(both - left), both], name="siamese")


def rows(graph):
    return [(call.path or type(call.operation).__name__, call.inputs, call.outputs) for call in graph.calls]


def edges(graph):
    """Return who takes whose results; inputs of the model by their place."""
    made = {number: f"input {index}" for index, number in enumerate(graph.inputs)}
    taken = []
    for name, inputs, outputs in rows(graph):
        taken.append((name, [made[number] for number in inputs]))
        made.update(dict.fromkeys(outputs, name))
    return sorted(taken), [made[number] for number in graph.outputs]


def test_a_shared_nested_model_is_seen_through_once_for_each_of_its_calls():
    assert edges(kwrap.read_graph(siamese())) == (
        [
            ("Subtract", ["both", "input 0"]),
            ("both", ["tower/bend", "tower/bend"]),
            ("head", ["Subtract"]),
            ("tower/bend", ["tower/first"]),
            ("tower/bend", ["tower/first"]),
            ("tower/first", ["input 0"]),
            ("tower/first", ["input 1"]),
        ],
        ["head", "both"],
    )


def test_calls_come_after_those_whose_results_they_take_and_tensors_have_their_shapes():
    graph = kwrap.read_graph(siamese())
    known = set(graph.inputs)
    for call in graph.calls:
        assert known.issuperset(call.inputs)
        known.update(call.outputs)
    assert known == set(graph.tensors)
    assert [graph.tensors[number].shape for number in graph.outputs] == [(None, 1), (None, 3)]


def test_a_wrapped_layer_is_the_layer_itself_at_the_same_path():
    model = siamese()
    before = edges(kwrap.read_graph(model))
    layer = model.get_layer("head")
    kwrap.wrap_model(model, scale(factor=2.0), where="**/first")
    kwrap.wrap_model(model, scale(factor=2.0), where="head")
    after = kwrap.read_graph(model)
    assert edges(after) == before
    assert layer in [call.operation for call in after.calls]


def test_a_sequential_model_is_its_chain():
    assert edges(kwrap.read_graph(tower())) == ([("bend", ["first"]), ("first", ["input 0"])], ["bend"])


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


@pytest.mark.parametrize("model", [Subclassed(name="own"), keras.Sequential([keras.layers.Dense(1)], name="own")])
def test_a_model_without_a_graph_is_an_error(model):
    with pytest.raises(ModelTypeError, match=r"'own'.* has no graph that could be read"):
        kwrap.read_graph(model)


def test_what_is_no_model_is_an_error():
    with pytest.raises(ModelTypeError, match=r"expected a keras.Model, got None"):
        kwrap.read_graph(None)
