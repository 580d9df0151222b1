import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import h5py
import pytest
from click.testing import CliRunner, Result

import kwrap
from kwrap_cli import main

from .. import forging


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = forging.saved_model(tmp_path_factory.mktemp("saved"))
    model = kwrap.load_model(path)
    kwrap.wrap_model(model, ["prune", "weight_noise"], where="dense")
    kwrap.save_model(model, path)
    return path


def inspect(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["inspect", *map(str, arguments)], catch_exceptions=False)


def test_it_imports_neither_keras_nor_tensorflow_nor_kwrap(saved):
    code = """
import sys
from kwrap_cli import main
try:
    main(["inspect", sys.argv[1]])
except SystemExit as done:
    print(done.code, {"keras", "tensorflow", "kwrap", "kwrap_prune"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code, str(saved)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 set()"


def test_json_tells_all_that_a_file_needs(saved):
    needs = json.loads(inspect(saved, "--json").output)
    assert (needs["file"], needs["kind"], needs["size"]) == (str(saved), "keras", saved.stat().st_size)
    assert needs["keras_version"] == version("keras")
    assert (needs["kwrap_format"], needs["code"]) == (1, [])
    assert needs["classes"] == ["kwrap_prune._criteria.Magnitude"]
    packages = {"noise": "kwrap-noise", "prune": "kwrap-prune"}
    assert needs["plugins"] == [
        {"name": name, "saved with": f"{package} {version(package)}", "installed": f"{package} {version(package)}"}
        for name, package in packages.items()
    ]
    assert [(hook["path"], hook["hook"], hook["plugin"]) for hook in needs["hooks"]] == [
        ("outer/inner", "specimen_times", None),
        ("dense", "specimen_times", None),
        ("dense", "specimen_adapter", None),
        ("dense", "prune", "prune"),
        ("dense", "weight_noise", "noise"),
    ]
    assert needs["hooks"][0]["options"]["factor"] == 0.5
    assert needs["hooks"][-1]["without_it"] == (
        "outputs stay, further training changes: the hook acts on weights as read in training"
    )


def test_the_tables_show_the_same(saved, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    output = inspect(saved).output
    for text in ("outer/inner", "specimen_adapter", f"kwrap-prune {version('kwrap-prune')}", "criterion=Magnitude()"):
        assert text in output
    assert "Without prune: outputs may change: the hook acts on weights as read." in output


def test_a_plugin_that_is_not_installed_is_told(saved, monkeypatch):
    monkeypatch.setattr("kwrap_cli.inspect.entry_points", lambda group: [])
    assert [plugin["installed"] for plugin in json.loads(inspect(saved, "--json").output)["plugins"]] == [None, None]


def test_numbers_that_json_lacks_are_text(saved):
    def change(config):
        forging.named(config, "dense")["config"]["hooks"][0]["config"]["factor"] = float("inf")

    hook = json.loads(inspect(forging.forge(saved, change), "--json").output)["hooks"][1]
    assert hook["options"]["factor"] == "inf"


def test_code_in_a_file_is_told_and_not_run(saved):
    forged = forging.forge(saved, lambda config: forging.named(config, "flat").update(class_name="__lambda__"))
    assert json.loads(inspect(forged, "--json").output)["code"] == ["a lambda"]


def test_an_h5_files_training_config_is_looked_at_too(tmp_path):
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file.attrs["model_config"] = '{"class_name": "Sequential", "config": {}}'
        loss = {"module": "mine.losses", "class_name": "Loss", "config": {}}
        file.attrs["training_config"] = json.dumps({"loss": loss, "metrics": {"class_name": "__lambda__"}})
    needs = json.loads(inspect(tmp_path / "model.h5", "--json").output)
    assert (needs["classes"], needs["code"]) == (["mine.losses.Loss"], ["a lambda"])


def test_names_that_look_like_markup_are_shown_as_they_are(saved):
    forged = forging.forge(saved, lambda config: forging.named(config, "dense")["config"].update(path="[red]a[/red]"))
    assert "[red]a[/red]" in inspect(forged).output


@pytest.mark.parametrize("data", [b"no model", b"PK\x05\x06" + 18 * b"\0", None], ids=["text", "empty zip", "no file"])
def test_a_file_that_is_no_model_is_one_clear_line_and_exit_code_2(data, tmp_path):
    path = tmp_path / "model.keras"
    if data is not None:
        path.write_bytes(data)
    result = inspect(path)
    assert result.exit_code == 2
    assert result.output.startswith(f"Error: '{path}' ")
    assert len(result.output.splitlines()) == 1


def test_max_size_bounds_what_the_file_may_declare(saved):
    assert "and 1.0 KiB is the limit for it" in inspect(saved, "--max-size", 1024).output
    assert inspect(saved, "--max-size", 1 << 30).exit_code == 0
