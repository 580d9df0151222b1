import json

import keras
import numpy as np
import pytest

import kwrap
from kwrap.errors import DroppedHooksWarning, TargetError, UnreadableFileError

from . import composites, forging
from .specimens import Adapter, Mask, NonNegative, Times, same, scale, values

ONES = np.ones((2, 3), "float32")


@kwrap.hook(layer_type=keras.layers.Layer, name="dropping_probe")
class Probe(kwrap.Hook):
    """Look at what a layer gives."""

    observes = True

    def call(self, call_next, inputs):
        outputs = call_next(inputs)
        self.emit("outputs", outputs)
        return outputs


@kwrap.hook(layer_type=keras.layers.Layer, name="dropping_idle")
class Idle(kwrap.Hook):
    """Do nothing."""


@kwrap.hook(layer_type=keras.layers.Dense, name="dropping_twins")
class Twins(kwrap.Hook):
    """Hold trainable variables of its own and of a layer inside, and count."""

    def build(self, layer):
        self.scale = self.add_weight((1,), initializer="ones", name="scale")
        self.inner = keras.layers.Dense(1, use_bias=False)
        self.inner.build((None, 1))
        self.count = self.add_weight((), initializer="zeros", trainable=False, name="count")

    def parametrize(self, target, value):
        return value * self.scale * keras.ops.sum(self.inner.kernel)


def trained(hooks) -> keras.Model:
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(4, name="one"), keras.layers.Dense(2, name="two")]
    model = keras.Sequential([keras.Input((3,)), *layers])
    model.compile("adam", "mse", run_eagerly=True)
    kwrap.wrap_model(model, hooks)
    model.fit(ONES, np.ones((2, 2)), verbose=0, epochs=2)
    return model


def slots(model: keras.Model) -> dict[str, np.ndarray]:
    """Return what the optimizer holds for the layers' own weights, by their names."""
    ends = [f"{layer}_{weight}_{slot}" for layer in ("one", "two") for weight in ("kernel", "bias") for slot in SLOTS]
    found = {}
    for variable in model.optimizer.variables:
        for end in ends:
            if variable.path.endswith(end):
                found[end] = variable.numpy()
    return found


SLOTS = ("momentum", "velocity")


def dropped(model: keras.Model, path) -> keras.Model:
    model.save(path)
    with pytest.warns(DroppedHooksWarning):
        return kwrap.load_model(path, missing="drop")


def test_a_model_without_its_only_hooks_is_the_plain_model(tmp_path, without):
    model = trained([Mask(), Times()])
    without(Mask, Times)
    loaded = dropped(model, tmp_path / "model.keras")
    assert [type(layer) for layer in loaded.layers] == [keras.layers.Dense, keras.layers.Dense]
    kwrap.unwrap_model(model, merge=False)
    assert same(values(loaded.variables), values(model.variables))
    assert np.array_equal(loaded(ONES), model(ONES))


@pytest.mark.parametrize("kept", [0, 1, 2], ids=["the first stays", "the second stays", "the third stays"])
def test_the_state_of_hooks_that_stay_is_their_own(kept, tmp_path, without):
    hooks = [Mask(name="first"), NonNegative(name="second"), Twins(name="third")]
    model = trained(hooks)
    names = [hook.name for hook in hooks]
    without(*(type(hook) for place, hook in enumerate(hooks) if place != kept))
    loaded = dropped(model, tmp_path / "model.keras")
    kwrap.unwrap_model(model, [name for name in names if name != names[kept]], merge=False)
    pairs = list(zip(kwrap.find_hooks(model), kwrap.find_hooks(loaded), strict=True))
    assert [(path, hook.name) for path, hook in kwrap.find_hooks(loaded)] == [
        ("one", names[kept]),
        ("two", names[kept]),
    ]
    assert all(same(values(one.variables), values(other.variables)) for (_, one), (_, other) in pairs)
    assert np.array_equal(loaded(ONES), model(ONES))


@pytest.mark.parametrize("hook", [Adapter, Twins])
def test_the_optimizers_slots_of_what_stays_are_its_own(hook, tmp_path, without, recwarn):
    model = trained([Mask(), hook()])
    without(hook)
    loaded = dropped(model, tmp_path / "model.keras")
    assert int(loaded.optimizer.iterations) == 2
    before = slots(model)
    assert before
    assert any(np.any(value) for value in before.values())
    after = slots(loaded)
    assert same([after[name] for name in before], list(before.values()))
    assert set(after) == {
        f"{layer}_{weight}_{slot}" for layer in ("one", "two") for weight in ("kernel", "bias") for slot in SLOTS
    }
    # What a frozen weight gets new slots of, begins anew.
    assert all(not np.any(value) for name, value in after.items() if name not in before)
    loaded.fit(ONES, np.ones((2, 2)), verbose=0)
    assert [str(warning.message) for warning in recwarn if "optimizer" in str(warning.message)] == []


def test_what_was_frozen_by_a_dropped_hook_trains_again(tmp_path, without):
    model = trained(Adapter())
    without(Adapter)
    loaded = dropped(model, tmp_path / "model.keras")
    assert [variable.trainable for variable in loaded.variables] == [True] * 4


@pytest.mark.parametrize("make", [composites.in_graph, composites.tagger], ids=lambda make: make.__name__)
def test_hooks_inside_composites_and_subclassed_models_are_dropped_too(make, tmp_path, without):
    model = composites.compiled(make(), run_eagerly=True)
    kwrap.wrap_model(model, [Mask(), Adapter().at(keras.layers.Dense), NonNegative()])
    composites.train(model, 1)
    without(Mask, Adapter)
    loaded = dropped(model, tmp_path / "model.keras")
    assert {hook.hook_name for _, hook in kwrap.find_hooks(loaded)} == {"specimen_non_negative"}
    kwrap.unwrap_model(model, ["specimen_mask", "specimen_adapter"], merge=False)
    assert same(values(loaded.weights), values(model.weights))
    assert type(loaded).__name__ == type(model).__name__


def test_it_says_what_was_dropped_and_what_it_meant(tmp_path, without):
    model = trained([Times(), NonNegative(), Probe(), Idle(), scale(phase="training")])
    model.save(tmp_path / "model.keras")
    without(Times, NonNegative, Probe, Idle, scale)
    with pytest.warns(DroppedHooksWarning) as caught:
        kwrap.load_model(tmp_path / "model.keras", missing="drop")
    (warning,) = caught
    assert warning.filename == __file__
    assert [entry for entry in warning.message.dropped if entry[1] == "one"] == [
        ("specimen_times", "one", "outputs may change: the hook acts on weights as read"),
        (
            "specimen_non_negative",
            "one",
            "outputs stay, further training changes: the hook acts on weights as stored in training",
        ),
        ("dropping_probe", "one", "outputs stay: the hook only observes"),
        ("dropping_idle", "one", "outputs stay: the hook acts on nothing"),
        (
            "specimen_scale",
            "one",
            "outputs stay, further training changes: the hook acts on activations in training",
        ),
    ]
    assert "'dropping_probe' at 'one', 'two' (outputs stay: the hook only observes)" in str(warning.message)


@pytest.mark.parametrize(
    ("hook", "stay"),
    [(Times(), False), (scale(), False), (Probe(), True), (Idle(), True), (scale(phase="training"), True)],
    ids=lambda one: getattr(one, "name", None),
)
def test_what_it_says_of_outputs_is_so(hook, stay, tmp_path, without):
    model = trained(hook)
    model.save(tmp_path / "model.keras")
    without(type(hook))
    with pytest.warns(DroppedHooksWarning) as caught:
        loaded = kwrap.load_model(tmp_path / "model.keras", missing="drop")
    said = {meaning.partition(":")[0].partition(",")[0] for _, _, meaning in caught[0].message.dropped}
    assert said == {"outputs stay" if stay else "outputs may change"}
    assert np.array_equal(loaded(ONES), model(ONES)) is stay


def test_of_a_file_that_does_not_say_what_a_hook_acts_on_outputs_may_change(tmp_path, without):
    model = trained([Probe(), NonNegative()])
    model.save(tmp_path / "model.keras")

    def change(config):
        for part in forging.parts(config):
            part.pop("effect", None)

    forged = forging.forge(tmp_path / "model.keras", change)
    without(Probe)
    with pytest.warns(DroppedHooksWarning, match="outputs may change: the file does not say what the hook acts on"):
        loaded = kwrap.load_model(forged, missing="drop")
    assert np.array_equal(loaded(ONES), model(ONES))


@kwrap.hook(layer_type=keras.layers.Dense, name="dropping_doubled")
class Doubled(kwrap.Hook):
    """Give what a layer gives twice."""

    changes_output = True

    def call(self, call_next, inputs):
        return keras.ops.concatenate([call_next(inputs)] * 2, axis=-1)


@pytest.fixture
def doubled(tmp_path):
    """Return the file of a model whose second layer takes what a hook on the first made of its outputs."""
    inputs = keras.Input((3,))
    first = kwrap.Wrapper(keras.layers.Dense(3, name="one"), [Doubled()])
    kwrap.save_model(keras.Model(inputs, keras.layers.Dense(2, name="two")(first(inputs))), tmp_path / "doubled.keras")
    return tmp_path / "doubled.keras"


def test_where_a_dropped_hook_changed_shapes_that_is_told(doubled, without):
    assert kwrap.load_model(doubled).layers[-1].input.shape == (None, 6)
    without(Doubled)
    with pytest.raises(UnreadableFileError, match="Keras cannot rebuild its model") as raised:
        kwrap.load_model(doubled, missing="drop")
    assert "Without 'dropping_doubled' at 'one' the shapes of outputs are others" in str(raised.value)


def test_the_last_layers_hook_that_changes_its_shape_is_dropped_and_told(tmp_path, without):
    model = keras.Sequential([keras.Input((3,)), kwrap.Wrapper(keras.layers.Dense(3, name="one"), [Doubled()])])
    kwrap.save_model(model, tmp_path / "model.keras")
    without(Doubled)
    with pytest.warns(DroppedHooksWarning, match="the shape of outputs changes"):
        loaded = kwrap.load_model(tmp_path / "model.keras", missing="drop")
    assert loaded(ONES).shape == (2, 3)


@kwrap.hook(layer_type=keras.layers.Dense, name="dropping_meter")
class Meter(Probe):
    """Look at what a layer gives, and keep its weights at most one."""

    def constrain(self, target, value):
        return keras.ops.minimum(value, 1.0)


def test_a_hook_that_observes_and_constrains_changes_training(tmp_path, without):
    model = trained(Meter())
    model.save(tmp_path / "model.keras")
    without(Meter)
    with pytest.warns(DroppedHooksWarning) as caught:
        loaded = kwrap.load_model(tmp_path / "model.keras", missing="drop")
    assert {meaning for _, _, meaning in caught[0].message.dropped} == {
        "outputs stay, further training changes: the hook acts on weights as stored in training"
    }
    assert np.array_equal(loaded(ONES), model(ONES))


def test_options_of_a_missing_hook_are_not_looked_at(tmp_path, without):
    model = trained(Times())
    model.save(tmp_path / "model.keras")

    def change(config):
        for part in forging.parts(config):
            if part.get("hook") == "specimen_times":
                part["config"]["factor"] = {
                    "module": "gone",
                    "class_name": "Gone",
                    "config": {},
                    "registered_name": "x",
                }

    without(Times)
    with pytest.warns(DroppedHooksWarning):
        kwrap.load_model(forging.forge(tmp_path / "model.keras", change), missing="drop")


def test_a_stand_in_takes_the_targets_that_a_freezing_hook_names(tmp_path, without):
    model = trained(Adapter(targets="kernel"))
    without(Adapter)
    loaded = dropped(model, tmp_path / "model.keras")
    assert same([slots(loaded)[name] for name in slots(model)], list(slots(model).values()))


def test_a_stand_in_for_a_record_with_unknown_targets_is_kwraps_error(tmp_path, without):
    model = trained(Adapter(targets="kernel"))
    model.save(tmp_path / "model.keras")

    def change(config):
        for part in forging.parts(config):
            if part.get("hook") == "specimen_adapter":
                part["config"]["targets"] = ["nothing"]

    without(Adapter)
    with pytest.raises(TargetError, match="no weight is named 'nothing'"):
        kwrap.load_model(forging.forge(tmp_path / "model.keras", change), missing="drop")


def test_the_record_of_a_hook_says_what_it_acts_on_and_what_of_it_is_trained():
    model = trained([Twins(), Probe().at("one")])
    records = model.layers[0].get_config()["hooks"]
    assert [json.loads(json.dumps(record["effect"])) for record in records] == [
        {
            "methods": ["parametrize"],
            "observes": False,
            "changes_output": False,
            "freezes": False,
            "trainable": [[[1], "float32"], [[1, 1], "float32"]],
        },
        {"methods": ["call"], "observes": True, "changes_output": False, "freezes": False, "trainable": []},
    ]
