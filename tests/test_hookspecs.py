import inspect
import subprocess
import sys

import pluggy
import pytest

from kwrap import hookspecs

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
