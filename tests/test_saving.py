import copy
import functools
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import kwrap
from kwrap import errors

from . import composites, zoo
from .specimens import Adapter, Idle, Mask, NonNegative, Times, objects_of_kwrap, same, scale, snapshot, values

# Tower has a layer beside its graph, which the loss does not see.
pytestmark = pytest.mark.filterwarnings("ignore:Gradients do not exist for variables:UserWarning")

HOOKS = [Mask(), NonNegative(), Times(factor=0.75), Adapter().at(keras.layers.Dense)]
INSIDE = [composites.in_graph, composites.tagger]


def trained(make: Callable[[], keras.Model], hooks: Any = HOOKS, steps: int = 1) -> keras.Model:
    """Return a model that was trained, wrapped, and trained on."""
    keras.utils.set_random_seed(3)
    model = composites.compiled(make(), run_eagerly=True)  # quicker for so few steps than to trace them
    composites.train(model, steps)
    kwrap.wrap_model(model, hooks)
    composites.train(model, steps)
    return model


def hooks_of(model: keras.Model) -> list[Any]:
    """Return what there is to know of a model's hooks: their places, configs and states."""
    return [
        (hook.path, hook.hook_name, hook.get_config(), hook.initialized, values(hook.variables))
        for _, hook in kwrap.find_hooks(model)
    ]


def equal_hooks(one: keras.Model, other: keras.Model) -> bool:
    """Tell whether two models have equal hooks, to the bit."""
    return same_hooks(hooks_of(one), hooks_of(other))


def same_hooks(one: list[Any], other: list[Any]) -> bool:
    """Tell whether two results of `hooks_of` are equal, to the bit."""
    states = [[hook[-1] for hook in hooks] for hooks in (one, other)]
    return bool(one) and [hook[:-1] for hook in one] == [hook[:-1] for hook in other] and same(*states)


def run(code: str, *arguments: str) -> str:
    """Run code in a process of its own, which sees the tests as packages; return what it prints."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments], capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


# --- in a process of its own -----------------------------------------------------------------------------------------


def by_checkpoint(model: keras.Model, path: str) -> None:
    """Save at the end of an epoch."""
    model.fit(composites.inputs(), composites.targets(), verbose=0, callbacks=[keras.callbacks.ModelCheckpoint(path)])


def by_method(model: keras.Model, path: str) -> None:
    """Save the model itself."""
    model.save(path)


DOORS = {"model.save": by_method, "save_model": keras.saving.save_model, "ModelCheckpoint": by_checkpoint}
HUB = ("bert", "gemma")
CASES = {
    **{name: (name, "model.save") for name in (*composites.MODELS, *HUB)},
    "tower by save_model": ("tower", "save_model"),
    "tower by ModelCheckpoint": ("tower", "ModelCheckpoint"),
}


def make_case(name: str) -> keras.Model:
    """Return a model of the module `composites` or of the zoo, trained before it was wrapped and after."""
    if name not in HUB:
        return trained(composites.MODELS[name])
    model = zoo.build(name)
    model.run_eagerly = True
    kwrap.wrap_model(model, [Mask(), NonNegative(), Times(factor=0.75)])
    zoo.train(model, name, 1)
    return model


def report(model: keras.Model, name: str) -> dict[str, Any]:
    """Return all that is to be the same in a loaded model; it is trained on for that, and unwrapped."""
    model.run_eagerly = True  # as before: of graphs and eager code the last bit may differ
    inputs = zoo.ZOO[name].batch()[0] if name in HUB else composites.inputs()
    train = functools.partial(zoo.train, name=name) if name in HUB else composites.train

    def outputs() -> Any:
        return keras.tree.map_structure(np.asarray, model(inputs, training=False))

    return {
        "class": [cls.__qualname__ for cls in type(model).__mro__],
        "hooks": hooks_of(model),
        "weights": values(model.weights),
        "trainable": [variable.trainable for variable in model.weights],
        "flags": [layer.trainable for layer in model._flatten_layers()],
        "outputs": outputs(),
        "compiled": model.compiled,
        "optimizer": values(model.optimizer.variables),
        "losses": train(model, steps=2),
        "trained": [*values(model.weights), *values(model.optimizer.variables)],
        "unwrapped": [kwrap.unwrap_model(model) is model, outputs()],
        "plain class": [cls.__qualname__ for cls in type(model).__mro__],
    }


def report_files(folder: str) -> None:
    """Load each file of a folder, and write its report beside it: in the other process."""
    for path in Path(folder).glob("*.keras"):
        model = keras.models.load_model(path)
        model.reset_metrics()
        Path(f"{path}.pickle").write_bytes(pickle.dumps(report(model, CASES[path.stem][0])))


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Return for each case what the saved model reports, and what it does where another process loaded it."""
    folder, expected = tmp_path_factory.mktemp("files"), {}
    for case, (name, door) in CASES.items():
        model = make_case(name)
        DOORS[door](model, str(folder / f"{case}.keras"))
        model.reset_metrics()  # the mean of the losses so far, which no file holds
        expected[case] = report(model, name)
    run("import sys; from tests import test_saving; test_saving.report_files(sys.argv[1])", str(folder))
    return {case: (expected[case], pickle.loads((folder / f"{case}.keras.pickle").read_bytes())) for case in CASES}


@pytest.mark.parametrize("case", CASES)
def test_another_process_loads_the_model_with_its_hooks_and_their_state(reports, case):
    saved, loaded = reports[case]
    assert loaded["class"] == saved["class"]
    assert same_hooks(loaded["hooks"], saved["hooks"])
    assert same(loaded["weights"], saved["weights"])
    assert same(loaded["outputs"], saved["outputs"])
    assert (loaded["trainable"], loaded["flags"]) == (saved["trainable"], saved["flags"])


# KerasHub's tasks have a `compile` of their own, which Keras does not call when it loads them, wrapped or not.
@pytest.mark.parametrize("case", [case for case in CASES if case != "bert"])
def test_it_is_compiled_with_the_optimizers_state_and_trains_on_as_without_a_break(reports, case):
    saved, loaded = reports[case]
    assert loaded["compiled"]
    assert same(loaded["optimizer"], saved["optimizer"])
    assert loaded["losses"] == saved["losses"]
    assert same(loaded["trained"], saved["trained"])


@pytest.mark.parametrize("case", [case for case in CASES if case != "bert"])
def test_it_is_unwrapped_to_the_plain_model(reports, case):
    saved, loaded = reports[case]
    assert loaded["plain class"] == saved["plain class"]
    assert "Hooked" not in loaded["plain class"]
    assert loaded["unwrapped"][0]
    assert same(loaded["unwrapped"][1], saved["unwrapped"][1])


def test_without_kwrap_and_without_its_hooks_loading_fails_and_says_what_is_missing(tmp_path):
    for make in INSIDE:
        kwrap.wrap_model(make(), Mask).save(tmp_path / f"{make.__name__}.keras")
    printed = run(
        """
        import sys
        from pathlib import Path
        import keras
        from tests import composites

        def attempt():
            for path in sorted(Path(sys.argv[1]).glob("*.keras")):
                try:
                    keras.models.load_model(path)
                    print("loaded")
                except Exception as error:
                    print(type(error).__name__, str(error).replace(chr(10), " "))

        attempt()
        assert "kwrap" not in sys.modules
        import kwrap
        attempt()
        from tests import specimens
        attempt()
        """,
        str(tmp_path),
    )
    lines = printed.splitlines()
    assert len(lines) == 6
    for line in lines[:2]:
        assert line.startswith(("TypeError", "ValueError"))
        assert "kwrap>" in line
    graph, subclass = lines[2:4]
    assert graph.startswith("MissingPluginError hook 'specimen_mask' at 'block/attention/query', which no plugin has")
    assert subclass.startswith("MissingPluginError hook 'specimen_mask' at 'embed', which no plugin has")
    assert lines[4:] == ["loaded", "loaded"]


# --- other ways to a model of its own --------------------------------------------------------------------------------

WAYS = {
    "from_config": lambda model: type(model).from_config(model.get_config()),
    "clone_model": keras.models.clone_model,
    "json": lambda model: keras.models.model_from_json(model.to_json()),
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", INSIDE)
def test_whatever_rebuilds_the_bare_model_rebuilds_it_with_its_hooks(make, way):
    model = kwrap.wrap_model(make(), [Mask, Times])
    rebuilt = WAYS[way](model)
    assert rebuilt is not model
    assert [cls.__name__ for cls in type(rebuilt).__mro__] == [cls.__name__ for cls in type(model).__mro__]
    assert [hook[:3] for hook in hooks_of(rebuilt)] == [hook[:3] for hook in hooks_of(model)]
    assert {id(layer) for layer in rebuilt._flatten_layers()}.isdisjoint(map(id, model._flatten_layers()))
    if way in ("deepcopy", "pickle"):  # with the weights
        assert equal_hooks(rebuilt, model)
        assert same(composites.outputs(rebuilt), composites.outputs(model))


class Unregistered(keras.Model):
    """A class that Keras finds by no name."""

    def __init__(self, units=2, **kwargs):
        super().__init__(**kwargs)
        self.units, self.block, self.head = (
            units,
            composites.Block(name="block"),
            keras.layers.Dense(units, name="head"),
        )

    def call(self, inputs):
        return self.head(self.block(inputs))

    def get_config(self):
        return {"name": self.name, "units": self.units}


@pytest.mark.parametrize("way", ["from_config", "clone_model"])
def test_a_class_that_is_not_registered_is_rebuilt_where_the_bare_one_is(way):
    model = Unregistered(name="mine")
    model(composites.inputs())
    assert type(WAYS[way](model)) is Unregistered
    kwrap.wrap_model(model, Times)
    rebuilt = WAYS[way](model)
    assert [path for path, _ in kwrap.find_hooks(rebuilt)] == [path for path, _ in kwrap.find_hooks(model)]
    assert type(kwrap.unwrap_model(rebuilt)) is Unregistered


def test_a_class_that_is_not_registered_is_loaded_as_a_custom_object(tmp_path):
    model = Unregistered(name="mine")
    model(composites.inputs())
    kwrap.wrap_model(model, [Mask, Times]).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", custom_objects={"Unregistered": Unregistered})
    assert equal_hooks(loaded, model)
    assert same(composites.outputs(loaded), composites.outputs(model))
    with pytest.raises(TypeError, match="Could not locate class 'Unregistered'"):
        keras.models.load_model(tmp_path / "model.keras")
    fresh = Unregistered(name="mine")
    fresh(composites.inputs())
    kwrap.wrap_model(fresh, [Mask, Times])
    fresh.load_weights(tmp_path / "model.keras")
    assert equal_hooks(fresh, model)
    assert same(composites.outputs(fresh), composites.outputs(model))


def test_a_loaded_model_is_saved_and_loaded_again(tmp_path):
    model = trained(composites.in_graph)
    model.save(tmp_path / "first.keras")
    first = keras.models.load_model(tmp_path / "first.keras")
    first.save(tmp_path / "second.keras")
    second = keras.models.load_model(tmp_path / "second.keras")
    assert first.to_json() == model.to_json()
    assert second.to_json() == model.to_json()
    assert equal_hooks(second, model)
    assert same(composites.outputs(second), composites.outputs(model))


def test_the_config_of_an_unwrapped_model_is_that_of_the_bare_one():
    for make in composites.MODELS.values():
        model = make()
        before = model.to_json()
        kwrap.wrap_model(model, [Mask, Times])
        assert "kwrap>" in model.to_json()
        assert kwrap.unwrap_model(model).to_json() == before


@pytest.mark.parametrize("make", [composites.tagger, composites.in_graph])
def test_a_checkpoint_of_tensorflows_has_the_state_of_hooks_in_lists_and_dicts(make, tmp_path):
    model, fresh = trained(make, steps=2), trained(make, steps=1)
    path = tf.train.Checkpoint(model=model).write(str(tmp_path / "checkpoint"))
    tf.train.Checkpoint(model=fresh).read(path).assert_existing_objects_matched()
    states = [[hook[-1] for hook in hooks_of(one)] for one in (model, fresh)]
    assert same(*states)
    assert same(values(fresh.weights), values(model.weights))
    assert same(composites.outputs(fresh), composites.outputs(model))


# --- where the hooks sit ---------------------------------------------------------------------------------------------


def reload(model: keras.Model, path: Path, **options: Any) -> keras.Model:
    """Return the model, saved and loaded."""
    model.save(path)
    return keras.models.load_model(path, **options)


@pytest.mark.parametrize(
    ("make", "holders"),
    [
        (composites.in_graph, ["block", "pair", "pair/left"]),
        (composites.tagger, ["block_0", "block_1", "both"]),
        (composites.class_in_graph, ["tagger", "tower", "tower/body"]),
        (composites.graph_in_class, ["in_graph", "line", "line/block"]),
    ],
)
def test_what_has_a_hook_on_it_and_hooks_inside_of_it_is_saved(make, holders, tmp_path):
    rules = [scale(factor=0.5).at(holders), Times(factor=0.75).at("**/up"), Mask().at("**/attention/query")]
    model = kwrap.wrap_model(make(), rules)
    loaded = reload(model, tmp_path / "model.keras")
    assert {path for path, hook in kwrap.find_hooks(loaded, scale)} == set(holders)
    assert equal_hooks(loaded, model)
    assert same(composites.outputs(loaded), composites.outputs(model))
    kwrap.unwrap_model(loaded, merge=False)
    assert objects_of_kwrap(loaded) == []


def test_hooks_beside_the_graph_of_a_functional_subclass_are_saved(tmp_path):
    model = kwrap.wrap_model(composites.tower(), [Times(factor=0.5), scale(factor=3.0)], where="beside/corrected")
    loaded = reload(model, tmp_path / "model.keras")
    assert [path for path, _ in kwrap.find_hooks(loaded)] == ["beside/corrected"] * 2
    assert same(loaded.corrected(composites.inputs()), model.corrected(composites.inputs()))


@keras.saving.register_keras_serializable("saving")
class Tied(keras.layers.Layer):
    """Give the scores of words by the table that another layer reads them from."""

    def __init__(self, words, **kwargs):
        super().__init__(**kwargs)
        self.words = words

    def build(self, shape):
        pass

    def call(self, inputs):
        return keras.ops.matmul(inputs, keras.ops.transpose(self.words.embeddings))

    def get_config(self):
        return {**super().get_config(), "words": keras.saving.serialize_keras_object(self.words)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("words")), **config)


def test_a_layer_that_a_graph_calls_and_a_composite_holds_is_one_wrapper_when_loaded(tmp_path):
    inputs, words = keras.Input((3,), dtype="int32"), keras.layers.Embedding(7, 4, name="words")
    model = keras.Model(inputs, Tied(words, name="tied")(words(inputs)))
    kwrap.wrap_model(model, [Mask, Times(factor=0.5), scale])
    loaded = reload(model, tmp_path / "model.keras")
    assert isinstance(loaded.get_layer("words"), kwrap.Wrapper)
    assert loaded.get_layer("tied").words is loaded.get_layer("words")
    assert equal_hooks(loaded, model)
    assert len(loaded.weights) == len(model.weights)
    given = np.array([[1, 2, 6]])
    assert same(loaded(given), model(given))
    kwrap.unwrap_model(loaded)
    assert objects_of_kwrap(loaded) == []


@keras.saving.register_keras_serializable("saving")
class Around(keras.layers.Layer):
    """A composite whose config is made of a graph that it holds, a layer in it, and one that it holds twice."""

    def __init__(self, graph, first, twice, **kwargs):
        super().__init__(**kwargs)
        self.graph, self.first, self.twice = graph, first, list(twice)

    def build(self, shape):
        pass

    def call(self, inputs):
        return self.graph(inputs) + self.first(inputs) + self.twice[0](self.twice[1](inputs))

    def get_config(self):
        held = [self.graph, self.first, *self.twice, *self.graph.layers]
        assert {type(layer).__name__ for layer in held} == {"Functional", "InputLayer", "Dense", "Block"}
        assert not any(isinstance(layer, kwrap.Wrapper) or "Hooked" in str(type(layer).__mro__) for layer in held)
        held = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in ("graph", "first", "twice")}
        return {**super().get_config(), **held, "text": self.graph.to_json()}

    @classmethod
    def from_config(cls, config):
        assert "kwrap" not in config.pop("text")
        held = [keras.saving.deserialize_keras_object(config.pop(name)) for name in ("graph", "first", "twice")]
        return cls(*held, **config)


def test_the_config_of_an_author_is_made_of_bare_layers_that_are_one_where_they_were_one(tmp_path):
    block = composites.Block(name="block")
    graph_inputs = keras.Input((5, 4))
    first = keras.layers.Dense(4, name="dense")
    graph = keras.Model(graph_inputs, block(first(graph_inputs)), name="graph")
    pair = composites.Pair([block, keras.layers.Dense(4, name="other")], name="pair")
    inputs = keras.Input((5, 4))
    model = keras.Model(inputs, pair(Around(graph, first, [block, block], name="around")(inputs)))
    kwrap.wrap_model(model, [Mask(), Times(factor=0.5), scale().at("**/block")])
    before = snapshot(model)
    loaded = reload(model, tmp_path / "model.keras")
    assert snapshot(model) == before
    around, pair = loaded.get_layer("around"), loaded.get_layer("pair")
    assert around.first is around.graph.get_layer("dense")
    assert around.twice[0] is around.twice[1] is around.graph.get_layer("block") is pair.both[0]
    assert isinstance(around.first, kwrap.Wrapper)
    assert len(loaded.weights) == len(model.weights)
    assert [hook[:3] for hook in hooks_of(loaded)] == [hook[:3] for hook in hooks_of(model)]
    assert same(composites.outputs(loaded), composites.outputs(model))


@keras.saving.register_keras_serializable("saving")
class Lazy(keras.layers.Layer):
    """A composite without a `build`: what attention holds is made when the layer is called."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention, self.last = keras.layers.MultiHeadAttention(2, 2), keras.layers.Dense(4, name="last")

    def call(self, query, value):
        return self.last(self.attention(query, value))


@pytest.mark.filterwarnings(r"ignore:`build\(\)` was called on layer:UserWarning")  # Keras', of the bare layer too
def test_a_composite_that_makes_layers_when_it_is_called_is_loaded(tmp_path):
    one, two = keras.Input((5, 4)), keras.Input((3, 4))
    model = keras.Model([one, two], Lazy(name="lazy")(Lazy(name="first")(one, two), value=two))
    kwrap.wrap_model(model, [Mask(), Times(factor=0.5), Adapter().at("**/last"), scale().at("first")])
    given = [composites.inputs(), composites.inputs()[:, :3]]
    model.compile("adam", "mse", run_eagerly=True)
    model.train_on_batch(given, composites.inputs())
    loaded = reload(model, tmp_path / "model.keras")
    assert equal_hooks(loaded, model)
    assert same(loaded(given), model(given))
    assert same(values(loaded.optimizer.variables), values(model.optimizer.variables))
    assert [type(layer).__mro__ for layer in loaded._flatten_layers()] == [
        type(layer).__mro__ for layer in model._flatten_layers()
    ]


def test_hooks_are_saved_inside_bypass_and_work_when_loaded(tmp_path):
    model = kwrap.wrap_model(composites.tagger(), [Times(factor=0.5), scale])
    with kwrap.bypass(model):
        loaded = reload(model, tmp_path / "model.keras")
    assert same(composites.outputs(loaded), composites.outputs(model))


def test_one_of_two_models_of_a_class_has_hooks_and_each_is_saved_as_it_is(tmp_path):
    bare, wrapped = composites.tagger(), kwrap.wrap_model(composites.tagger(), Times(factor=0.5))
    for model, count in ((bare, 0), (wrapped, len(kwrap.find_hooks(wrapped)))):
        loaded = reload(model, tmp_path / "model.keras")
        assert len(kwrap.find_hooks(loaded)) == count
        assert same(composites.outputs(loaded), composites.outputs(model))


# --- weights ---------------------------------------------------------------------------------------------------------


def plain_weights(model: keras.Model) -> list[np.ndarray]:
    """Return the weights of a model without those of its hooks."""
    own = {id(variable) for _, hook in kwrap.find_hooks(model) for variable in hook.variables}
    return values(weight for weight in model.weights if id(weight) not in own)


@pytest.mark.parametrize("name", ["in_graph", "tagger", "tower", "graph_in_class"])
def test_weight_files_of_the_plain_and_of_the_wrapped_model_load_into_each_other(name, tmp_path):
    make, path = composites.MODELS[name], tmp_path / "model.weights.h5"
    plain, wrapped = make(), kwrap.wrap_model(make(), [Mask(), Adapter().at(keras.layers.Dense)])
    wrapped.save_weights(path)
    plain.load_weights(path)
    assert same(values(plain.weights), plain_weights(wrapped))
    other = make()
    other.save_weights(path)
    with pytest.warns(errors.HookStateWarning, match=r"has no '(kernel_mask|delta)' of hook") as caught:
        wrapped.load_weights(path)
    assert sorted(warning.message.hook for warning in caught) == ["specimen_adapter", "specimen_mask"]
    assert same(plain_weights(wrapped), values(other.weights))
    # A mask that no file has is taken from the weights that were loaded.
    for _, hook in kwrap.find_hooks(wrapped, Mask):
        for target in hook.target_weights:
            assert same(hook.state(target, "mask"), np.asarray(target.variable) > 0)


# --- bad input -------------------------------------------------------------------------------------------------------


def test_a_save_that_fails_leaves_the_model_as_it_was_and_its_weights_can_be_saved(tmp_path):
    model = composites.compiled(composites.Unconfigured(3))
    composites.train(model, 1)
    with pytest.raises(NotImplementedError):
        model.save(tmp_path / "model.keras")
    kwrap.wrap_model(model, [Mask, NonNegative])
    composites.train(model, 1)
    for save in DOORS.values():
        with pytest.raises(NotImplementedError):
            save(model, str(tmp_path / "model.keras"))
    model.save_weights(tmp_path / "model.weights.h5")
    fresh = composites.Unconfigured(3)
    fresh(composites.inputs())
    kwrap.wrap_model(fresh, [Mask, NonNegative])
    fresh.load_weights(tmp_path / "model.weights.h5")
    assert equal_hooks(fresh, model)
    assert same(composites.outputs(fresh), composites.outputs(model))


class Interrupted(BaseException):
    """As a keyboard interrupt."""


@pytest.mark.parametrize("make", [composites.in_graph, composites.tagger, composites.graph_in_class])
@pytest.mark.parametrize("interrupted", [composites.Block, keras.layers.MultiHeadAttention, keras.layers.Dense])
def test_whatever_interrupts_a_save_the_model_is_as_it_was(make, interrupted, monkeypatch, tmp_path):
    model = trained(make, [Mask, Times, scale().at("**/block*")])
    before = snapshot(model)

    def interrupt(*_: Any) -> Any:
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(interrupted, "get_config", interrupt)
        patch.setattr(interrupted, "save_own_variables", interrupt)
        with pytest.raises(Interrupted):
            model.save(tmp_path / "model.keras")
    assert snapshot(model) == before
    composites.train(model, 1)
    assert same(composites.outputs(reload(model, tmp_path / "model.keras")), composites.outputs(model))


@pytest.mark.parametrize("make", INSIDE)
def test_saving_changes_nothing_in_the_model(make, tmp_path):
    model = trained(make)
    before = snapshot(model)
    model.save(tmp_path / "model.keras")
    assert snapshot(model) == before


def test_a_lambda_in_a_file_with_hooks_is_refused_in_safe_mode_as_ever(tmp_path):
    pair = composites.Pair([keras.layers.Lambda(lambda x: x * 2.0, name="double"), keras.layers.Dense(4)], name="pair")
    model = kwrap.wrap_model(keras.Sequential([keras.Input((5, 4)), pair]), Times(factor=0.5))
    model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="`Lambda` layer"):
        keras.models.load_model(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=False)
    assert equal_hooks(loaded, model)


def define(count: int) -> type[keras.layers.Layer]:
    """Return a class, known to Keras by one name, that holds so many layers."""

    @keras.saving.register_keras_serializable("saving", "Stack")
    class Stack(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.held = [keras.layers.Dense(4, name=f"step_{index}") for index in range(count)]

        def build(self, shape):
            for layer in self.held:
                layer.build(shape)

        def call(self, inputs):
            for layer in self.held:
                inputs = layer(inputs)
            return inputs

    return Stack


@pytest.mark.parametrize("count", [1, 3])
def test_a_class_that_holds_another_number_of_layers_by_now_is_an_error_with_the_way_out(count, tmp_path):
    model = keras.Sequential([keras.Input((4,)), define(2)(name="stack")])
    kwrap.wrap_model(model, Times, where="stack/step_1").save(tmp_path / "model.keras")
    define(count)
    with pytest.raises(errors.SavedHooksError, match=f"'stack' held 2 layers .* and holds {count} as") as caught:
        keras.models.load_model(tmp_path / "model.keras")
    assert "load its weights alone" in str(caught.value)
    assert (caught.value.layer, caught.value.found, caught.value.saved) == ("stack", count, 2)


# --- the class on demand ---------------------------------------------------------------------------------------------


def test_the_class_changes_for_layers_whose_config_does_not_reach_the_hooks_and_for_no_others():
    model = composites.in_graph()
    kwrap.wrap_model(model, Idle, where=["last", "pair/right"])
    assert type(model) is type(composites.in_graph())  # the graph's config has the Wrapper of `last` in it
    pair, block = model.get_layer("pair"), model.get_layer("block")
    assert type(block) is composites.Block
    assert type(pair) is not composites.Pair
    assert isinstance(pair, composites.Pair)
    assert type(kwrap.unwrap_model(model, merge=False).get_layer("pair")) is composites.Pair


def test_the_class_on_demand_is_the_same_for_all_and_looks_as_the_layers_own():
    one, two = (kwrap.wrap_model(composites.tagger(), Idle) for _ in range(2))
    assert type(one) is type(two)
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        assert getattr(type(one), name) == getattr(composites.Tagger, name)
    assert repr(one) == repr(kwrap.unwrap_model(one))


def test_a_hook_that_fails_inside_a_composite_is_named_in_its_symbolic_calls_too():
    failing = []

    @kwrap.hook(layer_type=keras.layers.Dense, name="saving_failing")
    def fail(call_next, inputs):
        if failing:
            raise ZeroDivisionError("now")
        return call_next(inputs)

    model = kwrap.wrap_model(composites.in_graph(), fail, where="block/up")
    failing.append(True)
    with pytest.raises(
        errors.HookCallError, match="'saving_failing' failed at 'block/up' in call: ZeroDivisionError: now"
    ):
        model.get_layer("block")(keras.Input((5, 4)))
