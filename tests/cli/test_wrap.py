import keras
import numpy as np
import pytest

import kwrap

PRUNE = ("--hook", "prune:schedule.target_sparsity=0.75", "--where", "conv")


@pytest.fixture
def images():
    return np.load("images.npy")


def test_the_file_holds_what_wrap_model_makes(run, data, tmp_path):
    output = tmp_path / "out.keras"
    shown = data("wrap", "plain.keras", "-o", str(output), *PRUNE)
    assert [entry["path"] for entry in shown["plan"]["entries"]] == ["conv"]
    assert (shown["file"], shown["bytes"]) == (str(output), output.stat().st_size)
    from kwrap_prune import ConstantSparsity

    expected = keras.models.load_model("plain.keras")
    kwrap.wrap_model(expected, kwrap.use("prune", schedule=ConstantSparsity(0.75, 0)), where="conv")
    loaded = keras.models.load_model(output)
    assert kwrap.plan(loaded).as_dict() == kwrap.plan(expected).as_dict()
    for one, other in zip(loaded.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_it_shows_the_plan_and_names_the_file(run, tmp_path):
    output = run("wrap", "plain.keras", "-o", str(tmp_path / "out.keras"), "--hook", "noise@logits").output
    assert "+noise" in output
    assert "written: " in output


def test_hooks_come_after_those_that_are_there(run, tmp_path):
    output = tmp_path / "out.keras"
    run("wrap", "wrapped.keras", "-o", str(output), "--hook", "weight_noise@conv")
    assert [hook.name for hook in keras.models.load_model(output).get_layer("conv").hooks] == ["prune", "weight_noise"]


def test_unwrap_leaves_a_plain_model_with_the_hooks_effect(run, data, images, tmp_path):
    output = tmp_path / "out.keras"
    shown = data("unwrap", "wrapped.keras", "-o", str(output))
    assert shown["removed"] == [{"path": "conv", "hook": "prune"}, {"path": "logits", "hook": "noise"}]
    assert shown["left"] == 0
    wrapped, plain = keras.models.load_model("wrapped.keras"), keras.models.load_model(output)
    assert type(plain.get_layer("conv")) is keras.layers.Conv2D
    np.testing.assert_array_equal(plain(images), wrapped(images))


def test_unwrap_takes_some_hooks_off_and_leaves_the_others(run, data, tmp_path):
    output = tmp_path / "out.keras"
    shown = data("unwrap", "wrapped.keras", "-o", str(output), "--hook", "noise")
    assert (shown["removed"], shown["left"]) == ([{"path": "logits", "hook": "noise"}], 1)
    assert [path for path, _ in kwrap.find_hooks(keras.models.load_model(output))] == ["conv"]
    assert (
        "1 hooks left on it" in run("unwrap", "wrapped.keras", "-o", str(output), "--hook", "noise", "--force").output
    )


def test_unwrap_without_merging_drops_the_effect_on_what_is_read(run, tmp_path, images):
    import keras

    @kwrap.hook(layer_type=keras.layers.Dense, name="cli_double")
    class _Double(kwrap.Hook):
        def parametrize(self, target, value, *, training):
            return 2 * value

    doubled = tmp_path / "doubled.keras"
    run("wrap", "plain.keras", "-o", str(doubled), "--hook", "cli_double")
    plain = keras.models.load_model("plain.keras").get_layer("logits").kernel.numpy()
    for option, factor in (("--merge", 2), ("--no-merge", 1)):
        run("unwrap", str(doubled), "-o", str(tmp_path / "out.keras"), "--force", option)
        kernel = keras.models.load_model(tmp_path / "out.keras").get_layer("logits").kernel.numpy()
        np.testing.assert_array_equal(kernel, factor * plain)


@pytest.mark.parametrize("command", [("wrap", "plain.keras", "--hook", "noise"), ("unwrap", "wrapped.keras")])
def test_a_file_that_is_there_is_overwritten_with_force_only(run, refused, tmp_path, command):
    output = tmp_path / "out.keras"
    output.write_bytes(b"precious")
    assert "is there already: --force overwrites it" in refused(*command, "-o", str(output))
    assert output.read_bytes() == b"precious"
    assert run(*command, "-o", str(output), "--force").exit_code == 0
    keras.models.load_model(output)


def test_a_file_may_be_overwritten_by_what_is_made_of_it(run, models, tmp_path):
    both = tmp_path / "both.keras"
    both.write_bytes((models / "wrapped.keras").read_bytes())
    assert run("unwrap", str(both), "-o", str(both), "--force").exit_code == 0
    assert kwrap.find_hooks(keras.models.load_model(both)) == []


def test_nothing_to_put_on_is_refused(refused):
    assert "give --hook NAME" in refused("wrap", "plain.keras", "-o", "out.keras")


def test_a_hook_to_take_off_that_is_not_there_is_refused_and_nothing_is_written(refused):
    assert "no hook 'lora' is on model 'small'" in refused("unwrap", "wrapped.keras", "-o", "x.keras", "--hook", "lora")
