"""Plugins as users have them: built, installed by pip into a fresh environment, found by entry point."""

import json
import os
import subprocess
import sys
import textwrap
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.xdist_group("installed_plugins")  # one environment for all

ROOT = Path(__file__).parents[2]
PACKAGES = ["good", "claims", "raises", "misspelt", "needs"]

Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of a fresh environment with kwrap and the five packages, installed by pip."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True, symlinks=True)
    interpreter = folder / "bin" / "python"
    link_dependencies(next(folder.glob("lib/python*/site-packages")))
    sources = [ROOT, *(ROOT / "tests" / "packages" / name for name in PACKAGES)]
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--no-compile"]
    subprocess.run([interpreter, "-m", "pip", "install", *options, *sources], check=True, env=environment())
    return interpreter


def link_dependencies(site_packages: Path) -> None:
    """Link what is installed here, TensorFlow above all, into another environment: all but kwrap and its plugins."""
    for folder in (Path(entry) for entry in sys.path if entry.endswith("-packages")):
        for source in folder.iterdir():
            link = site_packages / source.name
            if not link.exists() and not source.name.startswith(("kwrap", "_")) and source.suffix != ".pth":
                link.symlink_to(source)


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment without what would lead to this checkout or choose plugins, and `variables`."""
    left_out = ("PYTHONPATH", "KWRAP_PLUGINS", "KWRAP_BLOCK")
    return {name: value for name, value in os.environ.items() if name not in left_out} | variables


@pytest.fixture(scope="module")
def run(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a function that runs code in a process of the environment; it returns what the code put in `report`."""
    folder = tmp_path_factory.mktemp("runs")
    before = """
        import json, warnings
        import keras, numpy, kwrap
        report, warned = {}, []
        warnings.showwarning = lambda message, *_, **__: warned.append(message)
        warnings.simplefilter("always", kwrap.errors.PluginWarning)
        inputs = numpy.arange(6, dtype="float32").reshape(2, 3)
    """
    after = """
        report["warnings"] = [[w.plugin, str(w)] for w in warned if isinstance(w, kwrap.errors.PluginWarning)]
        report["status"] = {plugin.name: plugin.status for plugin in kwrap.plugins.list()}
        report["hooks"] = [[entry.name, entry.plugin] for entry in kwrap.registered()]
        with open("report.json", "w") as file:
            json.dump(report, file)
    """

    def run(code: str, **variables: str) -> dict[str, Any]:
        script = "".join(textwrap.dedent(part) for part in (before, code, after))
        done = subprocess.run(
            [python, "-c", script],
            cwd=folder,
            env=environment(**variables),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads((folder / "report.json").read_text())

    return run


@pytest.fixture(scope="module")
def all_installed(run: Run) -> dict[str, Any]:
    """Return the report of a process that uses the good plugin while the other four are installed."""
    return run("""
        report["status at import"] = {plugin.name: plugin.status for plugin in kwrap.plugins.list()}
        try:
            kwrap.use("double")
        except kwrap.errors.AmbiguousHookError as error:
            report["ambiguous"] = str(error)

        from example_good import Double
        layer = keras.layers.Dense(2)
        model = keras.Sequential([keras.Input((3,)), kwrap.Wrapper(layer, [Double()])])
        report["outputs"] = model(inputs).numpy().tolist()
        report["expected"] = (2 * inputs @ layer.kernel.numpy()).tolist()
        model.save("model.keras")

        kwrap.plugins.block("claims")
        report["class after block"] = type(kwrap.use("double")).__module__
        report["hooks after block"] = [[entry.name, entry.plugin] for entry in kwrap.registered()]
        kwrap.plugins.unblock("claims")
    """)


def test_importing_kwrap_finds_the_plugins_and_loads_none(all_installed):
    assert all_installed["status at import"] == dict.fromkeys(PACKAGES, "installed")


def test_the_good_plugin_works_in_the_presence_of_all_the_others(all_installed):
    # float32, sums of three products
    np.testing.assert_allclose(all_installed["outputs"], all_installed["expected"], rtol=1e-6)
    assert all_installed["hooks"] == [["double", "claims"], ["double", "good"], ["triple", "claims"]]
    assert all_installed["status"] == {
        "claims": "loaded",
        "good": "loaded",
        "misspelt": "broken",
        "needs": "broken",
        "raises": "broken",
    }


def test_each_broken_plugin_is_one_warning_that_names_it_and_its_cause(all_installed):
    assert [plugin for plugin, _ in all_installed["warnings"]] == ["misspelt", "needs", "raises"]
    misspelt, needs, raises = (text for _, text in all_installed["warnings"])
    assert "'misspelt' (example-misspelt 0.2)" in misspelt
    assert "kwrap_weight_target'" in misspelt
    assert "'kwrap_weight_targets'" in misspelt
    assert "'needs' (example-needs 0.3)" in needs
    assert "'example_absent', which is not installed: pip install example_absent" in needs
    assert "'raises' (example-raises 0.1)" in raises
    assert "RuntimeError: the weather is bad" in raises


def test_a_name_that_two_plugins_claim_is_an_error_that_names_both(all_installed):
    assert "example_claims.double of plugin claims (example-claims 2.0)" in all_installed["ambiguous"]
    assert "example_good.Double of plugin good (example-good 1.0)" in all_installed["ambiguous"]


def test_blocking_one_claimant_gives_the_name_to_the_other(all_installed):
    assert all_installed["class after block"] == "example_good"
    assert all_installed["hooks after block"] == [["double", "good"]]


def test_a_saved_model_knows_which_of_two_plugins_its_hook_is_of(run, all_installed):
    loaded = run("""
        model = keras.models.load_model("model.keras")
        report["outputs"] = model(inputs).numpy().tolist()
        report["class"] = type(model.layers[0].hooks[0]).__module__
    """)
    assert loaded["class"] == "example_good"
    assert loaded["outputs"] == all_installed["outputs"]


def test_kwrap_plugins_leaves_only_the_named_and_warns_of_no_other(run):
    only = run("report['class'] = type(kwrap.use('double')).__module__", KWRAP_PLUGINS="good")
    assert only["class"] == "example_good"
    assert only["hooks"] == [["double", "good"]]
    assert only["warnings"] == []


def test_a_saved_model_whose_plugin_is_blocked_by_the_environment_says_so(run, all_installed):
    blocked = run(
        """
        try:
            keras.models.load_model("model.keras")
        except kwrap.errors.MissingPluginError as error:
            report["error"] = str(error)
        """,
        KWRAP_BLOCK="good,misspelt",
    )
    assert "hook 'double' at" in blocked["error"]
    assert "kwrap.plugins.unblock('good')" in blocked["error"]
    assert blocked["hooks"] == [["double", "claims"], ["triple", "claims"]]
    assert [plugin for plugin, _ in blocked["warnings"]] == ["needs", "raises"]
