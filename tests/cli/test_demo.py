import json
import sys

import pytest
from click.testing import CliRunner, Result

from kwrap_cli import demo, main


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "EPOCHS", 1)


def run(*options: str) -> Result:
    return CliRunner().invoke(main, ["demo", *options], catch_exceptions=False)


def test_it_shows_plan_steps_and_sizes_and_every_claim_holds(short: None) -> None:
    result = run()
    assert result.exit_code == 0, result.output
    for shown in ("+prune > +weight_noise > +noise", "fine-tuned", "unwrapped", "7373 of 8192 weights are zero"):
        assert shown in result.output
    assert "does not hold" not in result.output


def test_as_json_it_prints_the_steps_and_claims_and_nothing_else(short: None) -> None:
    result = run("--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["seed"] == 0
    assert [step["step"] for step in found["steps"]] == ["trained", "wrapped copy", "fine-tuned", "loaded", "unwrapped"]
    assert found["steps"][-1]["non_zero"]["hidden"] == 819  # a tenth of 8192
    assert all(0 < step["accuracy"] <= 1 and step["compressed"] > 1000 for step in found["steps"])
    assert len(found["claims"]) == 7
    assert all(each["holds"] is True for each in found["claims"])


def test_it_exits_with_1_and_names_the_claim_that_does_not_hold(short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(demo.SPARSITY, "hidden", 0.25)
    check = demo._Demo._check_sparsity

    def check_against_another(self: demo._Demo, model: object) -> None:
        demo.SPARSITY["hidden"] = 0.5
        check(self, model)

    monkeypatch.setattr(demo._Demo, "_check_sparsity", check_against_another)
    result = run()
    assert result.exit_code == 1
    assert "does not hold: hidden: 2048 of 8192 weights are zero, as 50% asks for" in result.output


@pytest.mark.parametrize("seed", ["-1", str(2**32)])
def test_a_seed_that_cannot_be_is_refused(seed: str) -> None:
    assert CliRunner().invoke(main, ["demo", "--seed", seed], catch_exceptions=False).exit_code == 2


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    result = run()
    assert result.exit_code == 1
    assert "'sklearn.datasets'" in result.output
    assert "the extra kwrap[demo]" in result.output
