import pytest

from kwrap_cli._command import BadInput
from kwrap_cli._timing import interleaved


def test_prediction_and_training_are_measured_wrapped_and_bare(data):
    shown = data("bench", "wrapped.keras", "--repeats", "2", "--batch", "2")
    assert [row["what"] for row in shown["medians"]] == ["predict", "train"]
    for row in shown["medians"]:
        assert row["bare_ms"] > 0
        assert row["ratio"] == row["wrapped_ms"] / row["bare_ms"]


def test_hooks_may_be_given_for_a_plain_file(run, models):
    before = (models / "plain.keras").read_bytes()
    output = run("bench", "plain.keras", "--hook", "prune@conv", "--repeats", "1", "--batch", "1").output
    assert "medians of 1 calls, 1 samples each" in output
    assert (models / "plain.keras").read_bytes() == before


def test_without_any_hook_it_is_refused(refused):
    assert "no hook is on the model in plain.keras: give some with --hook" in refused("bench", "plain.keras")


def test_places_that_no_hook_is_for_are_refused(refused):
    assert "there is no --hook" in refused("bench", "wrapped.keras", "--where", "zzz")


def test_inputs_may_come_from_a_file(data):
    shown = data("bench", "wrapped.keras", "--repeats", "1", "--input", "images.npy")
    assert shown["batch"] == 2
    assert [row["what"] for row in shown["medians"]] == ["predict", "train"]


def test_a_model_that_cannot_be_run_is_refused_with_the_reason():
    with pytest.raises(BadInput, match="the model cannot be run: ZeroDivisionError"):
        interleaved(lambda: 1 / 0, lambda: None, 1)


def test_calls_are_in_turn_and_which_is_first_alternates():
    calls = []
    one, other = interleaved(lambda: calls.append("a"), lambda: calls.append("b"), 3)
    assert "".join(calls) == "abab" + "ab" + "ba" + "ab"
    assert one > 0
    assert other > 0


@pytest.mark.parametrize("option", ["--repeats", "--batch"])
def test_counts_below_one_are_refused(run, option):
    assert run("bench", "wrapped.keras", option, "0").exit_code == 2


def test_what_a_hook_prints_is_not_on_stdout(run, data):
    # `data` reads stdout as JSON.
    data("bench", "plain.keras", "--hook", "trace@conv", "--repeats", "1", "--batch", "1")
    result = run("bench", "plain.keras", "--hook", "trace@conv", "--repeats", "1", "--batch", "1")
    assert "conv: float32 (1, 6, 6, 1) -> float32 (1, 4, 4, 4)" in result.stderr
    assert "conv:" not in result.stdout
