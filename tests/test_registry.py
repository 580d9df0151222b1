import sys
import threading

import keras
import pytest

from kwrap import _registry, errors
from kwrap._hook import Hook
from kwrap._registry import hook, owner_of, registered, resolve, resolve_saved, revive, use
from kwrap._wrapper import Wrapper

DEFINES = """
import keras
from kwrap._hook import Hook
from kwrap._registry import hook

@hook(layer_type=keras.layers.Dense, name={name!r})
class Shift(Hook):
    def __init__(self, amount=1.0, **kwargs):
        super().__init__(**kwargs)
        self.amount = amount
"""


@pytest.fixture(autouse=True)
def plugins(plugins, monkeypatch):
    """Return the plugins of a registry where nothing is registered."""
    monkeypatch.setattr(_registry, "plugins", plugins)
    monkeypatch.setattr(_registry, "_definitions", {})
    return plugins


def define(name: str | None = None, layer_type=keras.layers.Dense) -> type[Hook]:
    @hook(layer_type=layer_type, name=name)
    def shift(call_next, inputs, *, amount=1.0):
        return call_next(inputs + amount)

    return shift


def names() -> list[str]:
    return [entry.name for entry in registered()]


# --- defining --------------------------------------------------------------------------------------------------------


def test_a_function_becomes_a_hook_class_named_after_it():
    shift = define()
    assert issubclass(shift, Hook)
    assert (shift.hook_name, shift.layer_type) == ("shift", (keras.layers.Dense,))
    assert resolve("shift") is shift


def test_a_class_is_named_in_snake_case_and_stays_the_same_class():
    class WeightNoise(Hook):
        pass

    assert hook(layer_type=(keras.layers.Dense, keras.layers.Conv2D))(WeightNoise) is WeightNoise
    assert WeightNoise.hook_name == "weight_noise"
    assert WeightNoise.layer_type == (keras.layers.Dense, keras.layers.Conv2D)
    assert resolve("weight_noise") is WeightNoise


def test_a_name_that_is_given_takes_the_place_of_the_default():
    shift = define("other-name.2")
    assert shift.hook_name == "other-name.2"
    assert names() == ["other-name.2"]


def test_use_makes_an_instance_with_options():
    shift = define()
    instance = use("shift", amount=3.0, name="mine")
    assert type(instance) is shift
    assert (instance.get_config()["amount"], instance.name) == (3.0, "mine")


def test_use_with_an_unknown_option_is_an_error_that_names_it():
    define()
    with pytest.raises(errors.OptionError, match="amuont"):
        use("shift", amuont=3.0)


def test_defining_the_same_function_again_replaces_it():
    first, second = define(), define()
    assert first is not second
    assert resolve("shift") is second
    assert names() == ["shift"]


def test_defining_the_same_class_again_replaces_it():
    def cell():
        @hook(layer_type=keras.layers.Dense)
        class Shift(Hook):
            pass

        return Shift

    first, second = cell(), cell()
    assert resolve("shift") is second is not first


def test_another_definition_of_the_same_name_does_not_replace_it():
    first = define("shift")

    @hook(layer_type=keras.layers.Dense, name="shift")
    class Other(Hook):
        pass

    assert [entry.hook for entry in registered()] == [first, Other]


def test_one_class_has_one_name():
    shift = define()
    with pytest.raises(errors.HookDefinitionError, match="registered as 'shift' already"):
        hook(layer_type=keras.layers.Dense, name="again")(shift)
    assert (shift.hook_name, names()) == ("shift", ["shift"])


def test_registered_tells_names_classes_plugins_and_layer_types_in_name_order(install):
    install("b", DEFINES.format(name="from_plugin"))
    second = define("z", (keras.layers.Dense, keras.layers.LSTM))
    entries = registered()
    module = sys.modules["module_of_dist_b"]
    assert entries == (
        _registry.RegisteredHook("from_plugin", module.Shift, "b", (keras.layers.Dense,)),
        _registry.RegisteredHook("z", second, None, (keras.layers.Dense, keras.layers.LSTM)),
    )


def test_defining_a_hook_loads_no_plugin(install):
    module = install("a", DEFINES.format(name="a"))
    define()
    assert module not in sys.modules


def test_threads_that_define_at_once_are_all_registered():
    start = threading.Barrier(8)

    def run(number):
        start.wait()
        define(f"hook_{number}")

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names() == [f"hook_{number}" for number in range(8)]


class OfTfKeras:
    __module__ = "tf_keras.src.layers.core.dense"


@pytest.mark.parametrize(
    ("layer_type", "problem"),
    [
        (int, "<class 'int'>"),
        ("Dense", "'Dense'"),
        ((keras.layers.Dense, None), "None"),
        ((), "empty"),
        ([keras.layers.Dense], "is not a layer class"),
        (keras.layers.Dense(1), "give Dense"),
        (OfTfKeras, "tf_keras, which is Keras 2"),
        (OfTfKeras(), "tf_keras, which is Keras 2"),
    ],
    ids=["class", "name", "in a tuple", "empty", "list", "layer", "tf_keras class", "tf_keras layer"],
)
def test_a_layer_type_that_is_no_layer_class_is_refused(layer_type, problem):
    with pytest.raises(errors.HookDefinitionError, match=problem) as caught:
        define(layer_type=layer_type)
    assert caught.value.hook == "shift"
    assert names() == []


@pytest.mark.parametrize("definition", [keras.layers.Dense, 3, len], ids=["a layer class", "a number", "a builtin"])
def test_what_is_neither_a_function_nor_a_hook_class_is_refused(definition):
    with pytest.raises(errors.HookDefinitionError, match=r"a function or a subclass of kwrap\.Hook"):
        hook(layer_type=keras.Layer)(definition)


@pytest.mark.parametrize("name", ["a/b", "a b", "", "*", "-x"])
def test_a_name_that_cannot_stand_in_a_path_is_refused(name):
    with pytest.raises(errors.HookDefinitionError, match="letters, digits"):
        define(name)
    assert names() == []


def test_a_lambda_has_to_be_given_a_name():
    with pytest.raises(errors.HookDefinitionError, match="letters, digits"):
        hook(layer_type=keras.Layer)(lambda call_next, inputs: call_next(inputs))


def test_the_bare_decorator_is_an_error_that_shows_the_one_with_layer_types():
    def shift(call_next, inputs):
        return call_next(inputs)

    class Shift(Hook):
        pass

    for definition in (shift, Shift):
        with pytest.raises(errors.HookDefinitionError, match=r"@kwrap\.hook\(layer_type=\.\.\.\)") as caught:
            hook(definition)
        assert caught.value.hook == definition.__name__
    assert names() == []


# --- looking up ------------------------------------------------------------------------------------------------------


def test_an_unknown_name_is_an_error_with_the_nearest_names(install):
    install("a", DEFINES.format(name="shift_all"))
    define()
    with pytest.raises(errors.UnknownHookError, match="Did you mean") as caught:
        resolve("shfit")
    assert caught.value.known == ["shift", "shift_all"]
    assert caught.value.nearest == ["shift", "shift_all"]


def test_looking_up_a_name_loads_the_plugins(install):
    module = install("a", DEFINES.format(name="from_plugin"))
    assert use("from_plugin").amount == 1.0
    assert owner_of(sys.modules[module].Shift).name == "a"


def test_a_plugin_installed_after_the_first_look_up_is_found(install):
    define()
    resolve("shift")
    install("a", DEFINES.format(name="from_plugin"))
    assert resolve("from_plugin").hook_name == "from_plugin"


def test_a_name_with_two_owners_is_an_error_that_names_both(install):
    install("a", DEFINES.format(name="shift"))
    install("b", DEFINES.format(name="shift"), version="2.0")
    with pytest.raises(errors.AmbiguousHookError) as caught:
        resolve("shift")
    assert caught.value.owners == [
        "module_of_dist_a.Shift of plugin a (dist-a 1.0)",
        "module_of_dist_b.Shift of plugin b (dist-b 2.0)",
    ]


def test_a_name_that_a_plugin_and_the_user_claim_names_both(install):
    install("a", DEFINES.format(name="shift"))
    define()
    with pytest.raises(errors.AmbiguousHookError, match=r"of plugin a \(dist-a 1\.0\)") as caught:
        use("shift")
    assert f"{__name__}.define.<locals>.shift" in str(caught.value)


def test_blocking_one_of_two_owners_leaves_the_name_to_the_other(install, plugins):
    install("a", DEFINES.format(name="shift"))
    module = install("b", DEFINES.format(name="shift"))
    registered()
    plugins.block("a")
    assert resolve("shift") is sys.modules[module].Shift
    plugins.unblock("a")
    with pytest.raises(errors.AmbiguousHookError):
        resolve("shift")


def test_a_hook_of_a_blocked_plugin_is_not_found_and_the_error_says_why(install, plugins):
    install("a", DEFINES.format(name="shift"))
    registered()
    plugins.block("a")
    with pytest.raises(
        errors.UnknownHookError, match=r"plugin a \(dist-a 1\.0\), which is blocked: kwrap\.plugins\.unblock\('a'\)"
    ):
        resolve("shift")


def test_a_blocked_namesake_is_mentioned_though_it_was_never_loaded(install, monkeypatch):
    module = install("shift", DEFINES.format(name="shift"))
    monkeypatch.setenv("KWRAP_BLOCK", "shift")
    with pytest.raises(errors.UnknownHookError, match=r"plugin shift \(dist-shift 1\.0\), which is blocked"):
        resolve("shift")
    assert module not in sys.modules


@pytest.mark.filterwarnings("ignore::kwrap.errors.PluginWarning")
def test_a_plugin_that_breaks_after_it_registered_leaves_no_hook_behind(install):
    install("a", DEFINES.format(name="early") + "raise RuntimeError('boom')")
    assert names() == []
    with pytest.raises(errors.UnknownHookError, match=r"plugin a \(dist-a 1\.0\), which is broken: RuntimeError: boom"):
        resolve("early")


@pytest.mark.filterwarnings("ignore::kwrap.errors.PluginWarning")
def test_a_broken_plugin_that_was_imported_before_leaves_no_hook_behind(install):
    misspelt = "\nfrom kwrap.hookspecs import hookimpl\n@hookimpl\ndef kwrap_weight_target(layer): ..."
    module = install("a", DEFINES.format(name="early") + misspelt)
    __import__(module)
    assert names() == []


def test_a_hook_belongs_to_its_plugin_also_when_the_user_imported_it_first(install, plugins):
    module = install("a", DEFINES.format(name="shift"))
    __import__(module)
    assert [(entry.name, entry.plugin) for entry in registered()] == [("shift", "a")]
    plugins.block("a")
    assert names() == []


def test_the_users_own_hook_has_no_owner():
    assert owner_of(define()) is None


# --- saved hooks -----------------------------------------------------------------------------------------------------


def test_a_saved_hook_resolves_by_its_plugin_also_when_the_name_is_ambiguous(install):
    first, second = (install(name, DEFINES.format(name="shift")) for name in ("a", "b"))
    own = define()
    assert resolve_saved("shift", "a", "dense", "dist-a 1.0") is sys.modules[first].Shift
    assert resolve_saved("shift", "b", "dense", "dist-b 1.0") is sys.modules[second].Shift
    assert resolve_saved("shift", None, "dense", None) is own


def missing(name: str, plugin: str | None, version: str | None = None) -> str:
    with pytest.raises(errors.MissingPluginError) as caught:
        resolve_saved(name, plugin, "block/dense", version)
    assert (caught.value.hook, caught.value.path, caught.value.plugin) == (name, "block/dense", plugin)
    return str(caught.value)


@pytest.mark.parametrize(
    ("version", "distribution"), [("acme-gone 0.2", "acme-gone"), ("0.2", "kwrap-gone"), (None, "kwrap-gone")]
)
def test_a_saved_hook_whose_plugin_is_not_installed_says_what_to_install(version, distribution):
    assert missing("shift", "gone", version).endswith(f"which is not installed: pip install {distribution}")


def test_a_saved_hook_whose_plugin_is_blocked_says_how_to_unblock_it(install, plugins):
    install("a", DEFINES.format(name="shift"))
    plugins.block("a")
    assert "which is blocked: kwrap.plugins.unblock('a')" in missing("shift", "a")
    plugins.unblock("a")
    assert resolve_saved("shift", "a", "block/dense", None).hook_name == "shift"


@pytest.mark.filterwarnings("ignore::kwrap.errors.PluginWarning")
def test_a_saved_hook_whose_plugin_is_broken_says_why(install):
    install("a", "import does_not_exist")
    assert "which is broken: it needs the module 'does_not_exist'" in missing("shift", "a")


def test_a_saved_hook_that_its_plugin_no_longer_has_says_what_it_has(install):
    install("a", DEFINES.format(name="shift"), version="3.0")
    assert "of which dist-a 3.0 is installed, and has no such hook; it has 'shift'" in missing("old_shift", "a")


def test_a_saved_hook_of_the_users_own_is_not_taken_from_a_plugin(install):
    install("a", DEFINES.format(name="shift"))
    assert "define it (@kwrap.hook), or import the module that does" in missing("shift", None)


def test_a_saved_hook_of_the_users_own_that_is_defined_twice_names_both():
    define()

    @hook(layer_type=keras.Layer, name="shift")
    class Other(Hook):
        pass

    with pytest.raises(errors.AmbiguousHookError, match="Other"):
        resolve_saved("shift", None, "dense", None)


# --- versions --------------------------------------------------------------------------------------------------------


def define_scale(current: int, migrates: bool = True) -> type[Hook]:
    """Register a hook whose first version called its initializer `init` and whose second doubled `rate`."""

    class Scale(Hook):
        version = current

        def __init__(self, rate=1.0, initializer=None, **kwargs):
            super().__init__(**kwargs)
            self.given = rate, initializer

        if migrates:

            @classmethod
            def migrate(cls, options, from_version):
                options["initializer"] = options.pop("init")
                return {**options, "rate": options["rate"] * 2 ** (cls.version - from_version)}

    return hook(layer_type=keras.Layer)(Scale)


OLD = keras.saving.serialize_keras_object(keras.initializers.Constant(3.0))


def saved(version: int, plugin: str | None = None) -> dict[str, object]:
    options = {"rate": 0.5, "init": OLD, "name": "mine"}
    return {"hook": "scale", "version": version, "plugin": plugin, "plugin_version": plugin, "config": options}


def test_options_of_an_older_version_are_migrated_as_they_are_stored():
    define_scale(3)
    record = saved(1)
    revived = revive(record, "dense")
    rate, initializer = revived.given
    assert (rate, initializer.value, revived.name) == (2.0, 3.0, "mine")
    assert record == saved(1)


def test_options_of_the_same_version_are_not_migrated():
    original = define_scale(2)(0.25)
    assert revive(_registry.record(original), "dense").given == (0.25, None)


def test_an_older_version_that_the_class_does_not_migrate_is_an_error_that_says_how():
    define_scale(2, migrates=False)
    with pytest.raises(errors.HookVersionError, match=r"migrate\(cls, options, from_version\)") as caught:
        revive(saved(1), "dense")
    assert (caught.value.hook, caught.value.saved, caught.value.known) == ("scale", 1, 2)


def test_a_newer_version_is_an_error_that_says_what_to_update(install):
    define_scale(1)
    with pytest.raises(errors.HookVersionError, match="update the module") as caught:
        revive(saved(2), "block/dense")
    assert (caught.value.hook, caught.value.path, caught.value.saved, caught.value.known) == (
        "scale",
        "block/dense",
        2,
        1,
    )
    install("a", DEFINES.format(name="scale"))
    with pytest.raises(errors.HookVersionError, match="update plugin 'a'") as caught:
        revive(saved(2, "a"), "dense")
    assert caught.value.plugin == "a"


def test_a_model_with_a_hook_of_a_newer_version_cannot_be_loaded_and_says_so(tmp_path):
    scale = define_scale(2)
    model = keras.Sequential([keras.Input((3,)), Wrapper(keras.layers.Dense(2, name="dense"), [scale()])])
    model.save(tmp_path / "newer.keras")
    define_scale(1)
    with pytest.raises(errors.HookVersionError, match="'scale' at 'dense' was saved in version 2"):
        keras.models.load_model(tmp_path / "newer.keras")


def test_a_hook_class_is_not_registered_with_keras():
    shift = define()
    assert shift not in keras.saving.get_custom_objects().values()
