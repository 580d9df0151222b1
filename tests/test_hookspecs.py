import inspect
import re
import subprocess
import sys
from pathlib import Path

import click
import keras
import pluggy
import pytest
from click.testing import CliRunner

import kwrap
from kwrap import hookspecs
from kwrap_prune import Prune

QUESTIONS = {
    "kwrap_weight_targets": ("layer",),
    "kwrap_check_plan": ("model", "plan"),
    "kwrap_commands": ("cli",),
}


def test_the_contract_is_these_questions_with_these_arguments():
    manager = pluggy.PluginManager("kwrap")
    manager.add_hookspecs(hookspecs)
    asked = {name: caller.spec.argnames for name, caller in vars(manager.hook).items()}
    assert asked == QUESTIONS


def test_every_question_says_what_it_asks_and_is_typed():
    for name in QUESTIONS:
        question = getattr(hookspecs, name)
        assert inspect.getdoc(question), name
        assert set(question.__annotations__) == {*QUESTIONS[name], "return"}, name


def test_an_answer_may_take_fewer_arguments_than_the_question_has():
    class Answers:
        @hookspecs.hookimpl
        def kwrap_check_plan(self, plan):
            return [plan]

    manager = pluggy.PluginManager("kwrap")
    manager.add_hookspecs(hookspecs)
    manager.register(Answers())
    assert manager.hook.kwrap_check_plan(model="model", plan="plan") == [["plan"]]


def test_a_plugin_that_was_written_before_a_question_had_another_argument_answers_it_as_before(install, plugins):
    install("old", "import kwrap\n@kwrap.hookimpl\ndef kwrap_check_plan(plan):\n    return [plan]")
    plugins.load()
    (manager,) = plugins._managers.values()

    class Later:  # the same contract, of a later kwrap
        @hookspecs.hookspec
        def kwrap_check_plan(self, model, plan, strict, purpose):
            """Return what is wrong."""

    later = pluggy.PluginManager("kwrap")
    later.add_hookspecs(Later)
    for answers in manager.get_plugins():
        later.register(answers)
    later.check_pending()
    assert later.hook.kwrap_check_plan(model="m", plan="p", strict=True, purpose="wrap") == [["p"]]


# --- the page --------------------------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[1] / "docs" / "hook-specifications.md"


def examples() -> dict[str, str]:
    """Return the example of each specification on the documents' page: heading to code."""
    sections = re.split(r"^## ", PAGE.read_text("utf-8"), flags=re.MULTILINE)[1:]
    found = {
        section.partition("\n")[0]: re.findall(r"^```python\n(.*?)^```", section, re.M | re.S) for section in sections
    }
    return {heading: blocks[0] for heading, blocks in found.items() if blocks}


def test_the_page_has_an_example_of_each_question_with_its_signature():
    assert list(examples()) == list(QUESTIONS)
    text = PAGE.read_text("utf-8")
    for name, arguments in QUESTIONS.items():
        (signature,) = re.findall(rf"^{name}\((.*)\) -> ", text, re.M)
        assert tuple(part.partition(":")[0].strip() for part in signature.split(",")) == arguments


def test_the_example_of_weight_targets_is_a_whole_plugin(install, plugins):
    module = install("example", examples()["kwrap_weight_targets"])
    plugins.load()
    layer = sys.modules[module].Scale()
    layer.build((None, 3))
    ((name, (target,)),) = plugins.answers("kwrap_weight_targets", layer=layer)
    assert (name, target.name, target.variable) == ("example", "factor", layer.factor)
    assert plugins.answers("kwrap_weight_targets", layer=keras.layers.Dense(2)) == []


def test_the_example_of_check_plan_is_a_whole_plugin(install, plugins, monkeypatch):
    monkeypatch.setattr("kwrap._plan.plugins", plugins)
    module = install("example", examples()["kwrap_check_plan"])
    plugins.load()
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="dense")])
    rounding, prune = sys.modules[module].Round(), Prune()
    assert len(kwrap.plan(model, [prune, rounding]).entries) == 1
    with pytest.raises(kwrap.errors.PlanError, match=r"dense: 'round' has to come after 'prune'.*\(says example\)"):
        kwrap.plan(model, [rounding, prune])


def test_the_example_of_commands_is_a_whole_plugin(install, plugins, tmp_path):
    install("example", examples()["kwrap_commands"])
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save(tmp_path / "model.keras")
    group = click.Group("kwrap")
    plugins.answers("kwrap_commands", cli=group)
    result = CliRunner().invoke(group, ["count", str(tmp_path / "model.keras")], catch_exceptions=False)
    assert result.output == "15\n"


@pytest.mark.parametrize("module", ["kwrap.hookspecs", "kwrap._plugins"])
def test_the_module_itself_imports_neither_tensorflow_nor_keras(module):
    code = (
        "import sys, types, importlib.util as util\n"
        "package = types.ModuleType('kwrap')\n"  # in place of kwrap/__init__.py, which may import more
        "package.__path__ = list(util.find_spec('kwrap').submodule_search_locations)\n"
        "sys.modules['kwrap'] = package\n"
        f"import {module}\n"
        "print(sorted({'keras', 'tensorflow'} & set(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
