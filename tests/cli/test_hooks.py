import keras

import kwrap


def test_each_hook_that_can_be_looked_up_is_listed(data, run):
    hooks = data("hooks")["hooks"]
    assert [(one["hook"], one["plugin"]) for one in hooks] == [(one.name, one.plugin) for one in kwrap.registered()]
    shown = {(one["hook"], one["plugin"]): one for one in hooks}
    assert shown["noise", "noise"]["layer_types"] == ["Layer"]
    assert "Set the weights of a layer" in run("hooks").output  # the cell goes on in the next line


def test_one_is_described_with_its_options_types_and_defaults(data, run):
    shown = data("hooks", "noise")
    assert (shown["hook"], shown["plugin"], shown["version"], shown["layer_types"]) == ("noise", "noise", 1, ["Layer"])
    assert shown["options"] == [
        {"option": "stddev", "type": "float", "default": "0.1"},
        {"option": "on", "type": "Literal['outputs', 'inputs']", "default": "'outputs'"},
        {"option": "distribution", "type": "Literal['gaussian', 'uniform']", "default": "'gaussian'"},
        {"option": "multiplicative", "type": "bool", "default": "False"},
        {"option": "seed", "type": "int | None", "default": "None"},
        {"option": "phase", "type": "Literal['always', 'training', 'inference']", "default": "'training'"},
        {"option": "name", "type": "str | None", "default": "None"},
        {"option": "targets", "type": "str | Sequence[str] | Callable[[WeightTarget], bool] | None", "default": "None"},
    ]
    output = run("hooks", "noise").output
    assert "hook noise of plugin noise, for layers of type Layer" in output
    assert "stddev: the noise's standard deviation" in output


def test_an_option_without_annotation_has_the_type_of_its_default(data):
    @kwrap.hook(layer_type=keras.layers.Dense, name="cli_scale")
    def _scale(call_next, inputs, *, factor=2.0, anything=None):
        """Scale."""
        return call_next(inputs * factor)

    shown = data("hooks", "cli_scale")
    assert (shown["plugin"], shown["layer_types"], shown["doc"]) == (None, ["Dense"], "Scale.")
    assert shown["options"][:2] == [
        {"option": "factor", "type": "float", "default": "2.0"},
        {"option": "anything", "type": "", "default": "None"},
    ]


def test_an_unknown_one_is_refused_with_the_nearest(refused):
    assert "Did you mean 'prune'" in refused("hooks", "prne")
