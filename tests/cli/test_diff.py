from pathlib import Path

import keras
import numpy as np
import pytest

import kwrap
from kwrap_cli._compare import largest_difference


@pytest.fixture(scope="session")
def changed(models: Path) -> Path:
    """Return `changed.keras`: `plain.keras` with 0.5 added to two elements of a weight."""
    model = keras.models.load_model(models / "plain.keras")
    kernel = model.get_layer("logits").kernel
    value = kernel.numpy()
    value[:2, 0] += 0.5
    kernel.assign(value)
    model.save(models / "changed.keras")
    return models / "changed.keras"


def test_a_file_is_the_same_as_itself(run, data):
    shown = data("diff", "wrapped.keras", "wrapped.keras")
    assert (shown["same"], shown["weights"], shown["hooks"]) == (True, [], [])
    assert shown["outputs"][0]["largest"] == 0
    assert "same: yes" in run("diff", "plain.keras", "plain.keras").output


def test_weights_that_differ_are_counted_and_measured_and_the_exit_code_is_1(data, changed):
    shown = data("diff", "plain.keras", "changed.keras", code=1)
    assert not shown["same"]
    (weight,) = shown["weights"]
    assert (weight["weight"], weight["differs"]) == ("logits/kernel", "2 of 192")
    assert weight["largest"] == pytest.approx(0.5, rel=1e-6)  # float32


def test_outputs_are_compared_on_the_inputs_of_a_file(data, changed):
    shown = data("diff", "plain.keras", "changed.keras", "--input", "images.npy", code=1)
    images = np.load("images.npy")
    outputs = [keras.models.load_model(name)(images).numpy() for name in ("plain.keras", "changed.keras")]
    assert shown["outputs"][0]["largest"] == np.max(np.abs(outputs[0].astype("float64") - outputs[1]))


def test_hooks_that_one_model_lacks_or_has_otherwise_are_named(run, data, tmp_path):
    other = tmp_path / "other.keras"
    run("wrap", "plain.keras", "-o", str(other), "--hook", "noise:stddev=0.25@logits", "--hook", "weight_noise@conv")
    shown = data("diff", "wrapped.keras", str(other), code=1)
    assert shown["hooks"] == [
        {"layer": "conv", "hook": "prune", "differs": "only in A"},
        {"layer": "logits", "hook": "noise", "differs": "stddev"},
        {"layer": "conv", "hook": "weight_noise", "differs": "only in B"},
    ]
    assert [row["weight"] for row in shown["weights"]] == ["conv/kernel"]  # what pruning has stored


def test_state_of_a_hook_that_differs_is_named(data, models: Path, tmp_path):
    model = keras.models.load_model("wrapped.keras")
    ((_, prune),) = kwrap.find_hooks(model, "prune")
    mask = prune.variables[0]
    mask.assign(np.ones(mask.shape, "bool"))
    model.save(tmp_path / "other.keras")
    shown = data("diff", "wrapped.keras", str(tmp_path / "other.keras"), code=1)
    assert shown["hooks"] == [{"layer": "conv", "hook": "prune", "differs": "state kernel_mask"}]


def test_weights_that_one_model_lacks_or_has_in_another_shape_are_named(data, tmp_path):
    layers = [keras.Input((6, 6, 1)), keras.layers.Conv2D(2, 3, name="conv"), keras.layers.Flatten(name="other")]
    keras.Sequential(layers).save(tmp_path / "other.keras")
    shown = data("diff", "plain.keras", str(tmp_path / "other.keras"), code=1)
    differs = {row["weight"]: row["differs"] for row in shown["weights"]}
    assert differs == {
        "conv/kernel": "shapes (3, 3, 1, 4) and (3, 3, 1, 2)",
        "conv/bias": "shapes (4,) and (2,)",
        "logits/kernel": "only in A",
        "logits/bias": "only in A",
    }
    assert shown["outputs"][0]["largest"] == "shapes (8, 3) and (8, 32)"


def test_layers_of_automatic_names_are_the_same_where_the_models_are_built_alike(run, data, tmp_path):
    inputs = keras.Input((3, 4))
    attended = keras.layers.MultiHeadAttention(1, 2)(inputs, inputs)  # names its softmax anew in each model
    keras.Model(inputs, attended).save(tmp_path / "bare.keras")
    run("wrap", str(tmp_path / "bare.keras"), "-o", str(tmp_path / "a.keras"), "--hook", "noise@**/softmax*")
    shown = data("diff", str(tmp_path / "a.keras"), str(tmp_path / "a.keras"))
    assert (shown["same"], shown["hooks"]) == (True, [])
    shown = data("diff", str(tmp_path / "a.keras"), str(tmp_path / "bare.keras"), code=1)
    assert [hook["differs"] for hook in shown["hooks"]] == ["only in A"]


def test_inputs_that_are_not_the_models_are_refused(refused, tmp_path):
    np.save(tmp_path / "wrong.npy", np.ones((2, 5), "float32"))
    said = refused("diff", "plain.keras", "plain.keras", "--input", str(tmp_path / "wrong.npy"))
    assert "'small' cannot be called with these inputs" in said
    (tmp_path / "junk.npy").write_bytes(b"junk")
    assert "cannot be read as .npy or .npz" in refused(
        "diff", "plain.keras", "plain.keras", "--input", str(tmp_path / "junk.npy")
    )


def test_inputs_of_another_shape_are_refused_without_the_values_in_them(refused, tmp_path):
    keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)]).save(tmp_path / "other.keras")
    said = refused("diff", "plain.keras", str(tmp_path / "other.keras"))
    assert "cannot be called with these inputs: " in said
    assert "Expected shape (None, 5)" in said
    assert "incompatible shape (8, 6, 6, 1)" in said
    assert "x1b" not in said
    assert len(said) < 400


@pytest.mark.parametrize("content", [b"PK\x03\x04", b"PK\x05\x06" + bytes(18), b"\x93NUMPY\x01\x00\xff\xff"])
def test_a_damaged_or_empty_file_of_inputs_is_refused(refused, tmp_path, content):
    (tmp_path / "bad.npz").write_bytes(content)
    said = refused("diff", "plain.keras", "plain.keras", "--input", str(tmp_path / "bad.npz"))
    assert "cannot be read as .npy or .npz" in said or "holds no array" in said


def test_which_of_several_arrays_one_input_takes_is_told_by_its_name(data, refused, tmp_path, changed):
    images = {"ones": np.ones((2, 6, 6, 1), "float32"), "zeros": np.zeros((2, 6, 6, 1), "float32")}
    np.savez(tmp_path / "many.npz", **images)
    many = ("plain.keras", "changed.keras", "--input", str(tmp_path / "many.npz"))
    name = keras.models.load_model("plain.keras").inputs[0].name
    assert f"an array for each input of 'small': ['{name}']" in refused("diff", *many)
    np.savez(tmp_path / "many.npz", **images, **{name: images["ones"]})
    named = data("diff", *many, code=1)["outputs"]
    assert named == data("diff", *many[:3], "images.npy", code=1)["outputs"]  # of ones


def test_a_seed_that_cannot_be_is_refused(run):
    assert run("diff", "plain.keras", "plain.keras", "--seed", "-1").exit_code == 2


@pytest.fixture
def two_inputs(tmp_path: Path) -> Path:
    """Return a model file of two named inputs, words and a number; the path of a model without one."""
    words, number = keras.Input((None,), dtype="int32", name="words"), keras.Input((1,), name="number")
    embedded = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(3, 2)(words))
    outputs = keras.layers.Concatenate()([embedded, number])
    keras.Model({"words": words, "number": number}, outputs).save(tmp_path / "two.keras")
    return tmp_path / "two.keras"


def test_inputs_of_several_names_come_from_one_npz(data, refused, two_inputs):
    arrays = {"number": np.ones((2, 1), "float32"), "words": np.array([[0, 1], [2, 0]])}
    np.savez(two_inputs.parent / "in.npz", **arrays)
    assert data("diff", str(two_inputs), str(two_inputs), "--input", str(two_inputs.parent / "in.npz"))["same"]
    np.savez(two_inputs.parent / "less.npz", number=arrays["number"])
    less = str(two_inputs.parent / "less.npz")
    assert "['number', 'words']" in refused("diff", str(two_inputs), str(two_inputs), "--input", less)


def test_random_words_are_within_the_vocabulary(data, two_inputs):
    assert data("diff", str(two_inputs), str(two_inputs))["same"]  # an id of 3 would be out of range: NaN or an error


def test_the_largest_difference_takes_nan_for_infinitely_far_from_numbers():
    nan, inf = float("nan"), float("inf")
    assert largest_difference([nan, inf, 1.0], [nan, inf, 1.5]) == 0.5
    assert largest_difference([nan], [1.0]) == inf
    assert largest_difference([inf], [-inf]) == inf
    assert largest_difference([], []) == 0
    assert largest_difference([True], [False]) == 1
