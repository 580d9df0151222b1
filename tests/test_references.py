import sys

import keras
import pytest

import kwrap
from kwrap._references import check_references
from kwrap.errors import OptionError, UnknownClassError, UnreadableFileError, UnsafeFileError

from .specimens import Times


def part(module, name, registered=None, **more):
    return {"module": module, "class_name": name, "config": {}, "registered_name": registered, **more}


def function(module, name):
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


@keras.saving.register_keras_serializable("references")
class Registered(keras.layers.Layer):
    pass


@keras.saving.register_keras_serializable("references")
def registered(inputs):
    return inputs


KNOWN = [
    part("keras.layers", "Dense"),
    part("keras", "Sequential"),
    part("keras.src.models.functional", "Functional", "Functional"),
    part("keras.src.ops.numpy", "Add", "Add"),
    part("keras.optimizers", "Adam"),
    part("keras.optimizers.schedules", "CosineDecay"),
    part("keras", "DTypePolicy"),
    part("keras.utils", "FeatureSpace"),
    part("anywhere", "Registered", "references>Registered"),
    {"class_name": "GlorotUniform", "config": {}},
    part("kwrap._wrapper", "Dense", "kwrap>Wrapper"),
    function("keras.activations", "relu"),
    function("keras.ops", "add"),
    function("builtins", "relu"),
    function("anywhere", "references>registered"),
    {"class_name": "__tensor__", "config": {"value": [1], "dtype": "float32"}},
    {"class_name": "__keras_tensor__", "config": {}},
]


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: f"{known.get('module')}.{known['class_name']}")
def test_what_keras_and_kwrap_write_is_known_at_any_depth(known):
    check_references({"config": [{"deep": {"in": [known]}}]}, "f")


def test_every_public_class_of_keras_that_configs_are_for_is_known_but_for_code():
    spaces = ["layers", "optimizers", "losses", "metrics", "initializers", "regularizers", "constraints", "quantizers"]
    names = [
        (f"keras.{space}", name)
        for space in spaces
        for name, value in vars(getattr(keras, space)).items()
        if isinstance(value, type) and hasattr(value, "from_config") and name not in ("TFSMLayer", "TorchModuleWrapper")
    ]
    assert len(names) > 250
    check_references([part(module, name) for module, name in names], "f")


UNKNOWN = [
    part("os", "system"),
    part("builtins", "eval"),
    part("subprocess", "Popen", "Popen"),
    part("tests.nowhere", "Layer", "Custom>Layer"),
    part(None, "Layer", "Layer"),
    part("keras.utils", "get_file"),
    part("keras.utils", "PyDataset"),
    part("keras.saving", "KerasFileEditor"),
    part("keras", "layers"),
    part("keras.layers", "NoSuchLayer"),
    part("keras.src.backend.torch", "Variable"),
    part("keras.src.utils.file_utils", "os"),
    part("keras_cv.layers", "Anything"),
    part("tensorflow", "Module"),
    function("os", "system"),
    function("builtins", "config.set_floatx"),
    function("keras.config", "set_floatx"),
    function("keras", "config.set_floatx"),
    function("keras.config", "enable_unsafe_deserialization"),
    function("keras.saving", "load_model"),
    function("keras.utils", "get_file"),
    function("keras.utils", "plot_model"),
    function("keras.datasets.mnist", "load_data"),
    function("keras.applications", "ResNet50"),
    function("keras.losses", "deserialize"),
    function("builtins", "deserialize"),
    function("builtins", "get"),
    function("keras.src.utils.file_utils", "get_file"),
    {"class_name": "function", "module": "keras.activations", "config": {"not": "a name"}},
    {"class_name": ["no", "name"], "module": "keras.layers", "config": {}},
    {
        "class_name": "__typespec__",
        "spec_name": "TensorSpec",
        "module": "tensorflow.python.framework.tensor",
        "config": [],
        "registered_name": None,
    },
]


@pytest.mark.parametrize("unknown", UNKNOWN, ids=lambda one: f"{one['module']}.{one['class_name']}.{one['config']}")
def test_what_keras_would_import_or_call_besides_is_not_and_nothing_is_imported(unknown):
    before = set(sys.modules)
    with pytest.raises(UnknownClassError, match=r"'file\.keras' names"):
        check_references({"config": [{"deep": {"in": [unknown]}}]}, "file.keras")
    assert set(sys.modules) == before


def test_a_functions_registered_name_does_not_make_it_known_for_keras_looks_at_the_other():
    forged = {**function("os", "system"), "registered_name": "references>registered"}
    with pytest.raises(UnknownClassError, match=r"os\.system"):
        check_references(forged, "f")


def test_all_that_is_unknown_is_named_once():
    with pytest.raises(UnknownClassError) as raised:
        check_references([part("os", "system"), part("a", "B"), part("os", "system")], "f")
    assert raised.value.names == ["os.system", "a.B"]


CODE = [
    ({"class_name": "__lambda__", "config": {"value": "4wAA"}}, "a lambda"),
    (part("keras.layers", "TFSMLayer"), "TFSMLayer"),
    (part("keras.src.export.tfsm_layer", "TFSMLayer"), "TFSMLayer"),
    (part("keras.layers", "TorchModuleWrapper"), "TorchModuleWrapper"),
    (part("keras", "layers.TFSMLayer"), "TFSMLayer"),
    (part("keras", "layers.TorchModuleWrapper"), "TorchModuleWrapper"),
]


@pytest.mark.parametrize(("code", "name"), CODE)
def test_code_is_refused_in_safe_mode(code, name):
    with pytest.raises(UnsafeFileError) as raised:
        check_references({"config": [code]}, "f")
    assert raised.value.names == [name]
    check_references({"config": [code]}, "f", safe_mode=False)


@pytest.mark.parametrize("name", ["__numpy__", "__tensor__"])
def test_an_array_is_of_a_dtype_of_keras(name):
    for dtype in ("U200000000", "S8", "(20000,20000)f4", "V9", "datetime64", "float33", None, ["f4"], [["a", "f4"]]):
        array = {"class_name": name, "config": {"value": [["a"]], "dtype": dtype}}
        with pytest.raises(UnreadableFileError, match="an array in its config has the dtype"):
            check_references({"config": [array]}, "f")
    with pytest.raises(UnreadableFileError):
        check_references({"class_name": name, "config": [1]}, "f")


def test_every_dtype_that_keras_writes_arrays_in_is_allowed():
    for dtype in ("bool", "uint8", "int32", "int64", "float16", "bfloat16", "float32", "float64", "complex64"):
        array = keras.saving.serialize_keras_object(keras.ops.convert_to_numpy(keras.ops.ones((2,), dtype)))
        assert array["class_name"] == "__numpy__"
        check_references([array, {"class_name": "__tensor__", "config": {"value": [1], "dtype": dtype}}], "f")


def test_what_is_given_is_known_by_the_name_it_is_given():
    mine = part("mine", "Layer", "Custom>Layer")
    check_references(mine, "f", custom_objects={"Custom>Layer": Registered})
    with pytest.raises(UnknownClassError):
        check_references(mine, "f", custom_objects={"Other": Registered})


def test_parts_that_are_skipped_are_not_looked_at():
    skipped = part("os", "system")
    check_references([skipped, part("keras.layers", "Dense")], "f", skip={id(skipped)})


def test_names_without_a_module_in_h5_files_are_keras_own_layers_or_registered():
    for name in ("Dense", "Functional", "Sequential", "references>Registered", "GlorotUniform"):
        check_references({"class_name": name, "config": {}}, "f", legacy=True)
    for name in ("deserialize", "keras_export", "__builtins__", "Nothing"):
        with pytest.raises(UnknownClassError):
            check_references({"class_name": name, "config": {}}, "f", legacy=True)


def test_a_config_as_deep_as_json_can_be_is_walked():
    deep: object = part("os", "system")
    for _ in range(20_000):
        deep = {"config": [deep]}
    with pytest.raises(UnknownClassError, match=r"os\.system"):
        check_references(deep, "f")


# --- in an option of a hook, also when Keras loads --------------------------------------------------------------------


def test_an_option_that_names_a_function_is_not_made_by_a_hooks_from_config():
    config = {**Times().get_config(), "factor": function("keras.config", "set_floatx")}
    with pytest.raises(UnknownClassError, match=r"'an option of a hook' names 'keras\.config\.set_floatx'"):
        Times.from_config(config)


def test_an_option_that_a_file_could_not_name_is_refused_when_it_is_given():
    with pytest.raises(OptionError, match="cannot be loaded from its config: Could not locate function 'normalize'"):
        Times(factor=keras.utils.normalize)
    assert Times(factor=keras.activations.relu).get_config()["factor"]["config"] == "relu"


def test_a_hooks_class_cannot_be_named_but_by_its_record():
    hook = part(Times.__module__, "Times", "Times")
    with pytest.raises(UnknownClassError):
        check_references(hook, "f")
    assert isinstance(kwrap.use("specimen_times"), Times)
