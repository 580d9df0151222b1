import sys
import threading
import traceback
import warnings
from importlib.metadata import version

import pytest

from kwrap import _plugins, errors
from kwrap.hookspecs import hookimpl

TARGETS = """
from kwrap.hookspecs import hookimpl

@hookimpl
def kwrap_weight_targets(layer):
    return {answer!r}
"""

MISSPELT = """
from kwrap.hookspecs import hookimpl

@hookimpl
def kwrap_weight_target(layer):
    return None
"""


def statuses(plugins) -> dict[str, str]:
    return {plugin.name: plugin.status for plugin in plugins.list()}


def ask(plugins) -> list:
    return plugins.answers("kwrap_weight_targets", layer="a layer")


def load(plugins) -> list[errors.PluginWarning]:
    """Load, and return the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plugins.load()
    assert {warning.category for warning in caught} <= {errors.PluginWarning}
    return [warning.message for warning in caught]


# --- listing ---------------------------------------------------------------------------------------------------------


def test_list_tells_what_the_metadata_say_in_name_order(plugins, install):
    second, first = install("b", version="2.1"), install("a", distribution="acme-a")
    assert plugins.list() == (
        _plugins.Plugin(name="a", module=first, distribution="acme-a", version="1.0"),
        _plugins.Plugin(name="b", module=second, distribution="dist-b", version="2.1"),
    )


def test_list_imports_no_plugin(plugins, install):
    module = install("a", "raise RuntimeError('imported')")
    assert statuses(plugins) == {"a": "installed"}
    assert module not in sys.modules


def test_a_plugin_is_named_with_its_distribution_and_version(plugins, install):
    install("a", version="0.2")
    assert str(plugins.list()[0]) == "a (dist-a 0.2)"
    assert plugins.list()[0].origin == "dist-a 0.2"


def test_rescan_sees_what_was_installed_since(plugins, install):
    install("a")
    assert statuses(plugins) == {"a": "installed"}
    install("b")
    assert statuses(plugins) == {"a": "installed"}
    plugins.rescan()
    assert statuses(plugins) == {"a": "installed", "b": "installed"}


# --- loading ---------------------------------------------------------------------------------------------------------


def test_load_imports_all_in_name_order(plugins, install):
    order = sys.modules.setdefault("order_of_import", type(sys)("order_of_import"))
    order.names = []
    for name in ("c", "a", "b"):
        install(name, f"import order_of_import; order_of_import.names.append({name!r})")
    load(plugins)
    assert order.names == ["a", "b", "c"]
    assert statuses(plugins) == {"a": "loaded", "b": "loaded", "c": "loaded"}


@pytest.mark.parametrize(
    "source", ["import builtins; builtins.loads.append(1)", "import builtins; builtins.loads.append(1); 1 / 0"]
)
def test_each_plugin_is_tried_once_also_a_broken_one(plugins, install, monkeypatch, source):
    loads = []
    monkeypatch.setattr("builtins.loads", loads, raising=False)
    install("a", source)
    load(plugins)
    assert load(plugins) == []
    assert loads == [1]


def test_threads_that_load_at_once_load_each_plugin_once_and_all_see_it(plugins, install, monkeypatch):
    loads, seen = [], []
    monkeypatch.setattr("builtins.loads", loads, raising=False)
    install("a", "import builtins, time; builtins.loads.append(1); time.sleep(0.05)\n" + TARGETS.format(answer=["w"]))
    start = threading.Barrier(4)

    def look_up():
        start.wait()
        seen.append(ask(plugins))

    threads = [threading.Thread(target=look_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == [1]
    assert seen == [[("a", ["w"])]] * 4


def test_a_plugin_may_look_up_others_while_it_is_imported(plugins, install, monkeypatch):
    monkeypatch.setattr("builtins.plugins_under_test", plugins, raising=False)
    install("a", TARGETS.format(answer=["a"]))
    install("b", "seen = plugins_under_test.answers('kwrap_weight_targets', layer=None)")
    load(plugins)
    assert sys.modules["module_of_dist_b"].seen == [("a", ["a"])]


def test_a_plugin_that_looks_up_while_it_is_imported_and_then_breaks_leaves_no_answer(plugins, install, monkeypatch):
    monkeypatch.setattr("builtins.plugins_under_test", plugins, raising=False)
    install("a", TARGETS.format(answer=["a"]) + "\nplugins_under_test.load()\n1 / 0")
    assert len(load(plugins)) == 1
    assert ask(plugins) == []


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('boom')", "RuntimeError: boom."),
        ("raise SystemExit(3)", "SystemExit: 3."),
        (
            "import does_not_exist.part",
            "needs the module 'does_not_exist', which is not installed: pip install does_not_exist,",
        ),
        ("syntax error", "SyntaxError"),
        (MISSPELT, "'kwrap_weight_targets'"),
        (MISSPELT.replace("target(layer)", "targets(layers)"), "layers"),
    ],
    ids=["raises", "exits", "missing dependency", "syntax", "misspelt hookimpl", "misspelt argument"],
)
def test_a_broken_plugin_is_one_warning_that_names_it_and_the_others_work(plugins, install, source, reason):
    install("a", TARGETS.format(answer=["a"]))
    install("bad", source, version="0.3")
    install("c", TARGETS.format(answer=["c"]))
    (warning,) = load(plugins)
    assert warning.plugin == "bad"
    assert "'bad' (dist-bad 0.3)" in str(warning)
    assert reason in str(warning)
    assert ask(plugins) == [("a", ["a"]), ("c", ["c"])]
    assert statuses(plugins) == {"a": "loaded", "bad": "broken", "c": "loaded"}


def test_a_broken_plugin_keeps_its_traceback(plugins, install):
    module = install("bad", "def fail():\n    raise RuntimeError('boom')\nfail()")
    load(plugins)
    error = plugins.list()[0].error
    assert [frame.name for frame in traceback.extract_tb(error.__traceback__)][-2:] == ["<module>", "fail"]
    assert traceback.extract_tb(error.__traceback__)[-1].filename.endswith(f"{module}.py")


def test_an_entry_point_whose_module_is_not_there_is_not_blamed_on_a_dependency(plugins, install, tmp_path):
    module = install("bad")
    (tmp_path / f"{module}.py").unlink()
    (warning,) = load(plugins)
    assert f"No module named '{module}'" in str(warning)
    assert "pip install" not in str(warning)


def test_a_misspelt_hookimpl_leaves_the_plugins_other_answers_out(plugins, install):
    install("bad", TARGETS.format(answer=["w"]) + MISSPELT)
    load(plugins)
    assert ask(plugins) == []


def test_a_warning_that_is_an_error_still_leaves_the_others_loaded(plugins, install):
    install("bad", "1 / 0")
    install("c", TARGETS.format(answer=["c"]))
    with pytest.raises(errors.PluginWarning, match="'bad'"):
        plugins.load()
    assert ask(plugins) == [("c", ["c"])]


@pytest.mark.parametrize("requires", ["kwrap>=99", "KWRAP<0.1", "kwrap==99 ; python_version >= '3'"])
def test_a_plugin_that_needs_another_kwrap_is_one_warning_with_the_way_out_and_is_not_imported(
    plugins, install, requires
):
    module = install("late", "1 / 0", version="0.3", requires=requires)
    install("c", TARGETS.format(answer=["c"]), requires="kwrap>=0.1")
    (warning,) = load(plugins)
    assert warning.plugin == "late"
    needed = requires.partition(" ;")[0].lower()
    said = f"'late' (dist-late 0.3) needs {needed}, and this is kwrap {version('kwrap')}: pip install --upgrade kwrap"
    assert said in str(warning)
    assert module not in sys.modules
    assert statuses(plugins) == {"c": "loaded", "late": "incompatible"}
    assert ask(plugins) == [("c", ["c"])]
    assert load(plugins) == []


@pytest.mark.parametrize("requires", ["kwrap", "kwrap>=0.1.dev0,<99", "kwrap>=99 ; extra == 'new'", "keras>=99", ">="])
def test_a_plugin_whose_needs_are_met_or_are_not_of_kwrap_is_loaded(plugins, install, requires):
    install("a", TARGETS.format(answer=["a"]), requires=requires)
    assert load(plugins) == []
    assert ask(plugins) == [("a", ["a"])]


def test_a_blocked_plugin_that_needs_another_kwrap_is_only_blocked(plugins, install, monkeypatch):
    install("late", "1 / 0", requires="kwrap>=99")
    monkeypatch.setenv("KWRAP_BLOCK", "late")
    assert load(plugins) == []
    assert statuses(plugins) == {"late": "blocked"}


def test_a_hook_of_a_plugin_that_needs_another_kwrap_is_an_error_that_says_so(plugins, install):
    install("late", requires="kwrap>=99")
    assert plugins.list()[0].unusable_because.startswith("which needs kwrap>=99, and this is kwrap ")


def test_two_distributions_with_one_plugin_name_are_both_loaded_with_one_warning(plugins, install):
    install("twin", TARGETS.format(answer=["x"]), distribution="dist-x")
    install("twin", TARGETS.format(answer=["y"]), distribution="dist-y", version="2.0")
    (warning,) = load(plugins)
    assert warning.plugin == "twin"
    assert "dist-x 1.0 and dist-y 2.0" in str(warning)
    assert load(plugins) == []
    assert ask(plugins) == [("twin", ["x"]), ("twin", ["y"])]


# --- blocking --------------------------------------------------------------------------------------------------------


def test_a_blocked_plugin_is_not_imported_and_unblocking_loads_it_at_the_next_look_up(plugins, install):
    module = install("a", TARGETS.format(answer=["a"]))
    plugins.block("a")
    assert ask(plugins) == []
    assert module not in sys.modules
    assert statuses(plugins) == {"a": "blocked"}
    plugins.unblock("a")
    assert statuses(plugins) == {"a": "installed"}
    assert ask(plugins) == [("a", ["a"])]


def test_blocking_a_loaded_plugin_takes_its_answers_away_and_unblocking_brings_them_back(plugins, install):
    install("a", TARGETS.format(answer=["a"]))
    install("b", TARGETS.format(answer=["b"]))
    load(plugins)
    plugins.block("a")
    assert ask(plugins) == [("b", ["b"])]
    plugins.unblock("a")
    assert ask(plugins) == [("a", ["a"]), ("b", ["b"])]


def test_blocking_a_name_that_is_not_installed_warns_with_the_nearest_and_holds_once_it_is(plugins, install):
    install("scaling")
    with pytest.warns(errors.PluginWarning, match=r"'scalign' is not installed.*Did you mean 'scaling'"):
        plugins.block("scalign")
    install("scalign")
    plugins.rescan()
    assert statuses(plugins) == {"scaling": "installed", "scalign": "blocked"}


def test_unblocking_an_unknown_name_is_an_error_with_the_nearest_names(plugins, install):
    install("scaling")
    with pytest.raises(errors.UnknownPluginError, match="Did you mean 'scaling'") as caught:
        plugins.unblock("scalign")
    assert (caught.value.name, caught.value.known) == ("scalign", ["scaling"])


def test_unblock_undoes_block_also_of_a_plugin_that_is_not_installed(plugins, install):
    with pytest.warns(errors.PluginWarning):
        plugins.block("later")
    plugins.unblock("later")
    install("later")
    plugins.rescan()
    assert statuses(plugins) == {"later": "installed"}


@pytest.mark.parametrize(
    ("variable", "value", "usable"),
    [
        ("KWRAP_PLUGINS", "a, c", ["a", "c"]),
        ("KWRAP_PLUGINS", "b", ["b"]),
        ("KWRAP_PLUGINS", "", []),
        ("KWRAP_BLOCK", "a,c", ["b"]),
        ("KWRAP_BLOCK", "", ["a", "b", "c"]),
        ("KWRAP_BLOCK", "not-installed", ["a", "b", "c"]),
    ],
)
def test_the_environment_chooses_the_plugins(plugins, install, monkeypatch, variable, value, usable):
    for name in ("a", "b", "c"):
        install(name, TARGETS.format(answer=[name]))
    monkeypatch.setenv(variable, value)
    assert ask(plugins) == [(name, [name]) for name in usable]
    assert statuses(plugins) == {name: "loaded" if name in usable else "blocked" for name in ("a", "b", "c")}


def test_the_environment_is_read_at_each_look_up(plugins, install, monkeypatch):
    install("a", TARGETS.format(answer=["a"]))
    assert ask(plugins) == [("a", ["a"])]
    monkeypatch.setenv("KWRAP_BLOCK", "a")
    assert ask(plugins) == []


def test_unblock_wins_over_the_environment(plugins, install, monkeypatch):
    install("a", TARGETS.format(answer=["a"]))
    monkeypatch.setenv("KWRAP_PLUGINS", "")
    monkeypatch.setenv("KWRAP_BLOCK", "a")
    plugins.unblock("a")
    assert ask(plugins) == [("a", ["a"])]


def test_a_name_in_kwrap_plugins_that_is_not_installed_is_one_warning(plugins, install, monkeypatch):
    install("a")
    monkeypatch.setenv("KWRAP_PLUGINS", "b")
    (warning,) = load(plugins)
    assert warning.plugin == "b"
    assert "KWRAP_PLUGINS" in str(warning)
    assert load(plugins) == []


# --- answers ---------------------------------------------------------------------------------------------------------


def test_none_is_no_answer_but_an_empty_one_is(plugins, install):
    install("a", TARGETS.format(answer=None))
    install("b", TARGETS.format(answer=[]))
    assert ask(plugins) == [("b", [])]


def test_a_builtin_plugin_answers_first_is_not_listed_and_can_be_blocked(plugins, install, monkeypatch):
    class Builtin:
        @hookimpl
        def kwrap_weight_targets(self, layer):
            return [layer]

    install("a", TARGETS.format(answer=["a"]))
    plugins.register_builtin("keras", Builtin())
    assert ask(plugins) == [("keras", ["a layer"]), ("a", ["a"])]
    assert statuses(plugins) == {"a": "loaded"}
    monkeypatch.setenv("KWRAP_PLUGINS", "")
    assert ask(plugins) == [("keras", ["a layer"])]
    plugins.block("keras")
    assert ask(plugins) == []


def test_a_plugin_that_raises_when_asked_is_named(plugins, install):
    install("a", TARGETS.format(answer=0).replace("return 0", "raise ValueError('no idea')"), version="0.5")
    with pytest.raises(
        errors.PluginAnswerError, match=r"a \(dist-a 0.5\) failed in kwrap_weight_targets: ValueError"
    ) as caught:
        ask(plugins)
    assert "KWRAP_BLOCK=a " in str(caught.value)
    assert isinstance(caught.value.__cause__, ValueError)


def test_an_error_of_kwraps_own_in_an_answer_stays_itself(plugins, install):
    source = TARGETS.format(answer=0).replace(
        "return 0", "from kwrap.errors import TargetError; raise TargetError('two')"
    )
    install("a", source)
    with pytest.raises(errors.TargetError, match="two"):
        ask(plugins)


# --- owners ----------------------------------------------------------------------------------------------------------


def test_a_module_is_owned_by_the_plugin_whose_module_it_is_or_is_under(plugins, install):
    module = install("a")
    assert plugins.owner(module).name == "a"
    assert plugins.owner(f"{module}.inner.most").name == "a"
    assert plugins.owner(f"{module}_more") is None
    assert plugins.owner("__main__") is None
    assert module not in sys.modules


def test_the_owner_is_the_plugin_with_the_nearest_module(plugins, install, tmp_path):
    outer = install("outer")
    install("inner")
    (tmp_path / "dist_inner-1.0.dist-info/entry_points.txt").write_text(f"[kwrap-under-test]\ninner = {outer}.inner\n")
    assert plugins.owner(f"{outer}.inner.deep").name == "inner"
    assert plugins.owner(f"{outer}.other").name == "outer"
