import inspect
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

import kwrap
from kwrap import errors
from kwrap.errors import DroppedHooksWarning, HookStateWarning, KwrapError, PluginWarning, UncompiledCopyWarning

WARNINGS = {DroppedHooksWarning, HookStateWarning, PluginWarning, UncompiledCopyWarning}

CLASSES = {cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, KwrapError | UserWarning)}

MISSING = [
    errors.MissingPluginError("prune", "conv1", "prune", "kwrap-prune 0.2", "which is not here"),
    errors.MissingPluginError("prune", "conv2", "prune", "kwrap-prune 0.2", "which is not here"),
    errors.MissingPluginError("lora", "conv1", "lora", "kwrap-lora 1.0", "which is blocked"),
]

# By class: an error of it, its fields, and what its text has to say.
EXAMPLES = {
    errors.AbsentHookError: (
        ("net", "prune", ["noise"]),
        {"model": "net", "hook": "prune", "present": ["noise"]},
        ["no hook 'prune' is on model 'net'", "on it are 'noise'"],
    ),
    errors.UnknownHookError: (
        ("prun", ["prune", "noise"]),
        {"name": "prun", "known": ["prune", "noise"], "nearest": ["prune"], "unusable": []},
        ["no hook is named 'prun'", "Did you mean 'prune'?", "'prune', 'noise'", "pip install kwrap-prun"],
    ),
    errors.AmbiguousHookError: (
        ("prune", ["a.Prune of plugin a", "b.Prune of plugin b"]),
        {"name": "prune", "owners": ["a.Prune of plugin a", "b.Prune of plugin b"]},
        ["'prune'", "a.Prune of plugin a and b.Prune of plugin b", "kwrap.plugins.block", "KWRAP_BLOCK"],
    ),
    errors.HookDefinitionError: (("prune", "no"), {"hook": "prune", "problem": "no"}, ["hook 'prune': no"]),
    errors.HookTypeError: (
        ("wrap_model", 3),
        {"function": "wrap_model", "given": 3},
        ["wrap_model() expected", "a Rule", "got 3"],
    ),
    errors.HookVersionError: (
        ("prune", "a/dense", 3, 2, "prune"),
        {"hook": "prune", "path": "a/dense", "saved": 3, "known": 2, "plugin": "prune"},
        ["hook 'prune' at 'a/dense' was saved in version 3", "its class, of version 2", "update plugin 'prune'"],
    ),
    errors.HookStateError: (
        ("prune", "a/dense", "['bias_mask']"),
        {"hook": "prune", "path": "a/dense", "problem": "['bias_mask']"},
        ["state of hook 'prune' at 'a/dense': the file has ['bias_mask']", "the same options and versions"],
    ),
    errors.HookStateWarning: (
        ("prune", "a/dense", ["mask"]),
        {"hook": "prune", "path": "a/dense", "missing": ["mask"]},
        ["the file has no 'mask' of hook 'prune' at 'a/dense'", "initialized again, from the weights"],
    ),
    errors.SavedFormatError: (
        (2, 1),
        {"saved": 2, "known": 1},
        ["kwrap's format 2", "reads formats up to 1", "pip install --upgrade kwrap"],
    ),
    errors.OptionError: (
        ("prune", "rate", "no such option"),
        {"hook": "prune", "option": "rate", "problem": "no such option"},
        ["hook 'prune', option 'rate': no such option"],
    ),
    errors.OptionValueError: (
        ("ConstantSparsity", "sparsity", 1.5, "has to be below 1"),
        {"owner": "ConstantSparsity", "option": "sparsity", "value": 1.5, "problem": "has to be below 1"},
        ["ConstantSparsity: sparsity=1.5 has to be below 1"],
    ),
    errors.NoFloatingTensorsError: (
        ("noise", "words", "inputs"),
        {"hook": "noise", "path": "words", "what": "inputs"},
        ["hook 'noise' at 'words'", "no floating tensor among the layer's inputs", "exclude=...", "where=..."],
    ),
    errors.NoHooksError: (
        ("wrap_model", ["noise", "prune"]),
        {"function": "wrap_model", "known": ["noise", "prune"]},
        ["wrap_model() needs at least one hook", "'noise', 'prune'"],
    ),
    errors.RuleError: (
        ("'prune' at where='dens'", "matches no layer of the model", ["dense"]),
        {"rule": "'prune' at where='dens'", "problem": "matches no layer of the model", "nearest": ["dense"]},
        ["'prune' at where='dens'", "matches no layer", "nearest paths: 'dense'"],
    ),
    errors.LayerTypeError: (
        ("prune", "a/norm", "BatchNormalization", ["Dense", "Conv2D"]),
        {"hook": "prune", "path": "a/norm", "layer": "BatchNormalization", "layer_types": ["Dense", "Conv2D"]},
        ["hook 'prune'", "'a/norm' (a BatchNormalization)", "made for Dense, Conv2D", "where=...", "exclude=..."],
    ),
    errors.DuplicateHookError: (
        ("prune", "a/dense"),
        {"hook": "prune", "path": "a/dense"},
        ["layer 'a/dense'", "two hooks named 'prune'", "name='prune_2'"],
    ),
    errors.PlanError: (
        (["first", "second"],),
        {"problems": ["first", "second"]},
        ["not applied", "first; second"],
    ),
    errors.OutputChangedError: (
        ("crop", "a/dense", "float32(None, 4)", "float32(None, 3)"),
        {"hook": "crop", "path": "a/dense", "expected": "float32(None, 4)", "received": "float32(None, 3)"},
        ["hook 'crop' at 'a/dense'", "gives float32(None, 3)", "gives float32(None, 4)", "`changes_output = True`"],
    ),
    errors.HookCallError: (
        ("noise", "kwrap-noise 0.2", "a/dense", "call", ValueError("shapes (2,) and (3,)")),
        {"hook": "noise", "plugin": "kwrap-noise 0.2", "path": "a/dense", "during": "call"},
        [
            "hook 'noise' (kwrap-noise 0.2) failed at 'a/dense' in call: ValueError: shapes (2,) and (3,)",
            "kwrap.unwrap_model(model, 'noise', merge=False) if it is on the model",
        ],
    ),
    errors.KernelError: (("smallest", "no"), {"kernel": "smallest", "problem": "no"}, ["kernel 'smallest': no"]),
    errors.TargetAnswerError: (
        ("plugin a", "dense", "Dense", "gave one weight twice", "Mend it"),
        {
            "answerer": "plugin a",
            "layer": "dense",
            "kind": "Dense",
            "problem": "gave one weight twice",
            "way_out": "Mend it",
        },
        ["plugin a, asked for the weight targets of 'dense' (a Dense), gave one weight twice. Mend it."],
    ),
    errors.TargetDefinitionError: (
        ("dense", "is no layer class"),
        {"name": "dense", "problem": "is no layer class"},
        ["weight_targets.register(dense): is no layer class."],
    ),
    errors.FixedLayerError: (
        ("block/dense", "block", "Block", "in a closure of Block.call"),
        {"path": "block/dense", "holder": "block", "kind": "Block", "how": "in a closure of Block.call"},
        [
            "layer 'block/dense' is held by 'block' (a Block) in a closure of Block.call",
            "no Wrapper can be put in its place",
            "Hold it in an attribute, list, tuple or dict alone, or leave it out with exclude=...",
        ],
    ),
    errors.SavedHooksError: (
        ("block", 2, 3),
        {"layer": "block", "found": 2, "saved": 3},
        [
            "'block' held 3 layers when it was saved with hooks inside, and holds 2",
            "the places of its hooks are unknown",
            "Load it with the class that it was saved with",
            "build the model, wrap it, and load its weights alone",
        ],
    ),
    errors.CloneError: (
        ("net", "Net", "has no get_config"),
        {"name": "net", "kind": "Net", "problem": "has no get_config"},
        ["cannot rebuild 'net'", "its class Net has no get_config", "kwrap.wrap_model(model, ...) works in place"],
    ),
    errors.MissingPluginError: (
        ("prune", "conv1", "prune", "kwrap-prune 0.2", "which is not installed: pip install kwrap-prune"),
        {
            "hook": "prune",
            "path": "conv1",
            "plugin": "prune",
            "version": "kwrap-prune 0.2",
            "problem": "which is not installed: pip install kwrap-prune",
        },
        [
            "hook 'prune' at 'conv1' needs plugin 'prune' (kwrap-prune 0.2), which is not installed: "
            "pip install kwrap-prune"
        ],
    ),
    errors.MissingPluginsError: (
        ("net.keras", MISSING, ["kwrap-prune", "kwrap-lora"]),
        {"file": "net.keras", "missing": MISSING, "packages": ["kwrap-prune", "kwrap-lora"], "hook": "prune"},
        [
            "'net.keras': hook 'prune' at 'conv1', 'conv2' needs plugin 'prune' (kwrap-prune 0.2), which is not here; ",
            "hook 'lora' at 'conv1' needs plugin 'lora' (kwrap-lora 1.0), which is blocked. ",
            "To load it: pip install kwrap-prune kwrap-lora; or kwrap.load_model(path, missing='drop').",
        ],
    ),
    errors.DroppedHooksWarning: (
        ("net.keras", [("lora", "a", "outputs may change"), ("lora", "b", "outputs may change")]),
        {"file": "net.keras", "dropped": [("lora", "a", "outputs may change"), ("lora", "b", "outputs may change")]},
        ["'net.keras' was loaded without hooks that cannot be had: 'lora' at 'a', 'b' (outputs may change)."],
    ),
    errors.UnreadableFileError: (
        ("net.keras", "it is no zip archive"),
        {"file": "net.keras", "problem": "it is no zip archive"},
        ["'net.keras' cannot be loaded: it is no zip archive. Get or save the file again."],
    ),
    errors.OversizedFileError: (
        ("net.keras", "its members declare 9 GiB", 9000, 100),
        {"file": "net.keras", "problem": "its members declare 9 GiB", "declared": 9000, "limit": 100},
        ["'net.keras' cannot be loaded: its members declare 9 GiB.", "If you trust it: max_size=9000 or more."],
    ),
    errors.UnknownClassError: (
        ("net.keras", ["my.Layer", "os.system"]),
        {"file": "net.keras", "names": ["my.Layer", "os.system"]},
        [
            "'net.keras' names 'my.Layer', 'os.system': neither",
            "import the module that registers it (@keras.saving.register_keras_serializable())",
            "custom_objects={'Name': ...}",
        ],
    ),
    errors.UnsafeFileError: (
        ("net.keras", ["a lambda", "TFSMLayer"]),
        {"file": "net.keras", "names": ["a lambda", "TFSMLayer"]},
        [
            "'net.keras' holds code in 'a lambda', 'TFSMLayer'",
            "Only if you trust whoever made the file: safe_mode=False",
        ],
    ),
    errors.SaveError: (
        ("net.keras", "No space left on device"),
        {"file": "net.keras", "problem": "No space left on device"},
        ["'net.keras' was not written: No space left on device. What was there before is as it was."],
    ),
    errors.UnknownPluginError: (
        ("pruen", ["prune"]),
        {"name": "pruen", "known": ["prune"], "nearest": ["prune"]},
        ["no plugin is named 'pruen'", "Did you mean 'prune'?", "The plugins there are: 'prune'"],
    ),
    errors.MissingPackageError: (
        ("Report.plot", "matplotlib"),
        {"function": "Report.plot", "package": "matplotlib", "name": "matplotlib"},
        ["Report.plot needs matplotlib, which is not installed: pip install matplotlib"],
    ),
    errors.PluginAnswerError: (
        ("prune (kwrap-prune 0.2)", "kwrap_check_plan", KeyError("x")),
        {"plugin": "prune (kwrap-prune 0.2)", "question": "kwrap_check_plan"},
        ["plugin prune (kwrap-prune 0.2) failed in kwrap_check_plan: KeyError: 'x'", "KWRAP_BLOCK=prune "],
    ),
    errors.UncompiledCopyWarning: (
        ("gan", "GAN"),
        {"model": "gan", "kind": "GAN"},
        ["the copy of 'gan' is not compiled", "GAN.compile takes arguments of its own", "Compile the copy"],
    ),
    errors.PluginWarning: (
        ("prune", " is broken"),
        {"plugin": "prune", "problem": " is broken"},
        ["plugin 'prune' is broken"],
    ),
}

# Their text is written where they are raised, and tested there.
FREE_TEXT = {
    errors.KwrapError,
    errors.TargetError,
    errors.ModelTypeError,
    errors.WrapperStateError,
}


def test_all_names_every_class_in_order():
    assert errors.__all__ == sorted(cls.__name__ for cls in CLASSES)


def test_every_class_is_tested_here():
    assert EXAMPLES.keys() | FREE_TEXT == CLASSES


@pytest.mark.parametrize("cls", EXAMPLES, ids=lambda cls: cls.__name__)
def test_an_error_has_fields_and_says_who_where_what_and_the_way_out(cls):
    arguments, fields, texts = EXAMPLES[cls]
    error = cls(*arguments)
    assert {name: getattr(error, name) for name in fields} == fields
    assert [text for text in texts if text not in str(error)] == []


@pytest.mark.parametrize("protocol", [0, pickle.HIGHEST_PROTOCOL])
@pytest.mark.parametrize("cls", sorted(CLASSES - WARNINGS, key=lambda cls: cls.__name__))
def test_an_error_goes_to_another_process_and_back(cls, protocol):
    error = cls(*EXAMPLES[cls][0]) if cls in EXAMPLES else cls("who, where, what")
    error.add_note("a note")
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is cls
    assert str(again) == str(error)
    assert {name: repr(value) for name, value in vars(again).items()} == {
        name: repr(value) for name, value in vars(error).items()
    }


@pytest.mark.parametrize("cls", sorted(CLASSES - {KwrapError} - WARNINGS, key=lambda cls: cls.__name__))
def test_an_error_is_caught_as_kwraps_and_as_a_built_in_one(cls):
    assert issubclass(cls, KwrapError)
    assert issubclass(cls, TypeError | ValueError | LookupError | RuntimeError | OSError | ImportError)


def test_free_text_is_the_message():
    assert [str(cls("who, where, what")) for cls in FREE_TEXT] == ["who, where, what"] * len(FREE_TEXT)


def test_a_warning_is_a_user_warning():
    assert all(issubclass(cls, UserWarning) and not issubclass(cls, KwrapError) for cls in WARNINGS)


@pytest.mark.parametrize("during", ["build", "initialize"])
def test_a_hook_that_raises_before_it_is_on_cannot_be_taken_off(during):
    error = errors.HookCallError("noise", None, "dense", during, KeyError("x"))
    assert str(error).endswith("To work without it: leave this layer out with exclude=..., or the hook.")


def test_a_hook_of_ones_own_that_raises_is_of_no_plugin():
    error = errors.HookCallError("noise", None, "dense", "build", KeyError("x"))
    assert str(error).startswith("hook 'noise' failed at 'dense' in build: KeyError: 'x'.")
    assert error.plugin is None


def test_the_cause_of_a_hooks_error_survives_being_raised_again_from_none():
    original = KeyError("x")

    def raise_again():
        try:
            raise errors.HookCallError("noise", None, "dense", "call", original) from original
        except errors.HookCallError as error:
            raise error from None  # as Keras does with whatever passes a layer's call

    with pytest.raises(errors.HookCallError) as raised:
        raise_again()
    assert raised.value.__cause__ is original


@kwrap.hook(layer_type=keras.layers.Dense, name="errors_raises")
def raises(call_next, inputs, *, where="call"):
    raise KeyError(where)


@pytest.mark.parametrize(
    "act",
    [
        lambda model, x: model.layers[0](x),
        lambda model, x: model(x),
        lambda model, x: model.predict(x, verbose=0),
        lambda model, x: model.fit(x, x, verbose=0),
        lambda model, x: tf.function(lambda inputs: model(inputs))(x),
        lambda model, x: tf.function(lambda inputs: model(inputs), autograph=False)(x),
    ],
    ids=["layer", "model", "predict", "fit", "a function", "a function without AutoGraph"],
)
def test_an_error_keeps_its_class_fields_and_cause_through_keras_and_tensorflow(act):
    model = keras.Sequential([keras.layers.Input((3,)), kwrap.Wrapper(keras.layers.Dense(3, name="dense"), [raises()])])
    model.compile("sgd", "mse")
    with pytest.raises(errors.HookCallError) as raised:
        act(model, np.ones((2, 3), "float32"))
    error = raised.value
    assert (error.hook, error.plugin, error.path, error.during) == ("errors_raises", None, "dense", "call")
    assert (type(error.__cause__), error.__cause__.args) == (KeyError, ("call",))
    assert str(error).startswith("hook 'errors_raises' failed at 'dense' in call: KeyError: 'call'.")


def test_a_blocked_plugin_is_the_way_out_of_an_unknown_hook_rather_than_pip():
    error = errors.UnknownHookError("prune", [], ["There is the plugin prune, which is blocked."])
    assert "There is the plugin prune, which is blocked." in str(error)
    assert "pip install" not in str(error)
    assert "The hooks there are: none" in str(error)


def test_a_missing_hook_of_no_plugin_names_no_plugin():
    error = errors.MissingPluginError("prune", "conv1", None, None, "which no plugin has")
    assert str(error) == "hook 'prune' at 'conv1', which no plugin has"


def test_an_older_version_is_for_the_class_to_read_and_a_newer_one_of_no_plugin_for_its_module():
    older, newer = (errors.HookVersionError("prune", None, saved, 2, None) for saved in (1, 3))
    assert str(older).startswith("hook 'prune' was saved in version 1")
    assert str(older).endswith("define its classmethod migrate(cls, options, from_version).")
    assert str(newer).endswith("update the module that defines it.")


def test_nearest_gives_the_closest_names_first_and_none_that_is_far():
    assert errors.nearest("prun", ["noise", "prune", "pruned", "lora"]) == ["prune", "pruned"]
    assert errors.nearest("prun", ["noise", "lora"]) == []
    assert errors.nearest("a1", ["a2", "a3", "a4", "a5"], count=2) == errors.nearest("a1", ["a2", "a3", "a4", "a5"])[:2]


def test_listed_counts_what_it_does_not_show():
    assert errors.listed([]) == "none"
    assert errors.listed(["a", "b"]) == "'a', 'b'"
    assert errors.listed(["a", "b", "c"], limit=2) == "'a', 'b', and 1 more"
