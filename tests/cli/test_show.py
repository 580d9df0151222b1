from pathlib import Path

import keras
import numpy as np
import pytest

import kwrap


def test_each_layer_is_shown_with_what_is_its_own(data, models: Path):
    shown = data("show", "wrapped.keras")
    assert (shown["model"], shown["type"], shown["bytes"]) == (
        "small",
        "Sequential",
        (models / "wrapped.keras").stat().st_size,
    )
    conv, flatten, logits = shown["layers"]
    assert conv["weights"] == {"kernel": [3, 3, 1, 4], "bias": [4]}
    assert (conv["parameters"], conv["targets"], conv["zeros"], conv["bytes"]) == (40, 36, 18, 160)
    assert conv["hook_bytes"] == 36 + 4  # the mask, a byte an element, and the int32 counter of steps
    assert [hook["name"] for hook in conv["hooks"]] == ["prune"]
    assert (flatten["weights"], flatten["hooks"]) == ({}, [])
    assert logits["hooks"][0]["config"]["stddev"] == 0.5
    assert shown["total"]["parameters"] == 40 + 64 * 3 + 3
    assert shown["total"]["zeros"] == 18


def test_a_layer_inside_a_layer_is_indented_and_its_weights_are_counted_once(run, data, models: Path):
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="dense")], name="inner")
    inputs = keras.Input((4,))
    shared = keras.layers.Dense(4, name="shared")
    outer = keras.Model(inputs, inner(shared(shared(inputs))), name="outer")
    outer.save(models / "nested.keras")
    shown = data("show", "nested.keras")
    assert {layer["path"]: layer["parameters"] for layer in shown["layers"]} == {
        "shared": 20,
        "inner": 0,
        "inner/dense": 15,
    }
    assert shown["total"]["parameters"] == outer.count_params() == 35
    lines = run("show", "nested.keras").output.splitlines()
    assert any(line.startswith("│   dense ") for line in lines)


@pytest.mark.parametrize("command", [("show",), ("plan", "--hook", "noise"), ("unwrap", "--force", "-o", "out.keras")])
def test_names_in_a_file_do_not_command_the_terminal(run, models: Path, command):
    dense = keras.layers.Dense(2, name="d\x1b[31mred")
    model = keras.Sequential([keras.Input((2,)), dense], name="m\x1b]0;pwn\x07")
    kwrap.wrap_model(model, "prune")
    model.save(models / "odd.keras")
    result = run(*command, "odd.keras")
    assert result.exit_code == 0
    assert r"d\x1b[31mred" in result.output
    assert not {"\x1b", "\x07"} & set(result.output)


def test_the_table_has_a_line_a_layer_and_the_total(run):
    output = run("show", "wrapped.keras").output
    row = next(line for line in output.splitlines() if "conv" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "conv",
        "Conv2D",
        "prune",
        "40",
        "50.0%",
        "160 B",
        "40 B",
    ]
    assert "small (Sequential) in wrapped.keras" in output


def test_what_is_shown_of_a_plain_model_is_what_its_weights_are(data):
    shown = data("show", "plain.keras")
    model = keras.models.load_model("plain.keras")
    assert shown["total"]["parameters"] == model.count_params()
    assert shown["total"]["bytes"] == sum(np.asarray(weight).nbytes for weight in model.get_weights())
    assert shown["total"]["hook_bytes"] == 0
