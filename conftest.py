"""What all tests share: those of kwrap, of its plugins, and the documents' code blocks."""

import doctest
import os
import re
import shlex

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Before TensorFlow is imported, which reads it then.

import gc
import tempfile
from typing import Any

import pytest
from sybil import Example, Sybil
from sybil.parsers.myst import CodeBlockParser, PythonCodeBlockParser
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

HERE = os.path.dirname(os.path.abspath(__file__))


@pytest.fixture(autouse=True, scope="module")
def _seen_from_here_on() -> None:
    """Hide from the garbage collector what is there before a module's tests: TensorFlow, and what it keeps of tests.

    kwrap asks the collector who else holds a layer, at each wrapping. In a process of many tests that is millions of
    objects, and was half of the time that the tests took.
    """
    import kwrap  # noqa: F401

    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _steps_in_order() -> None:
    """Let a training step's gradients read weights before they are updated: see docs/traps.md on TensorFlow's order."""
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"dependency_optimization": False})


@pytest.fixture(autouse=True, scope="module")
def _tensorflow_seeded() -> None:
    """Seed TensorFlow before a module's tests. With its seed it forgets its kernels, which takes time at each test."""
    import keras  # Not above: it takes seconds, and pytest-xdist's controller runs no test.

    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def seed(_tensorflow_seeded: None) -> int:
    """Seed Python, NumPy and Keras before each test, so that a failure comes again."""
    from kwrap import _keras

    _keras.seed_past_tensorflow(0)
    return 0


def _enter_document(namespace: dict[str, Any]) -> None:
    """Let a document's blocks run as in a notebook, in a folder of their own for the files they write."""
    folder = tempfile.TemporaryDirectory()
    namespace |= {"__name__": "__main__", "_folder": folder, "_previous": os.getcwd()}
    os.chdir(folder.name)


def _leave_document(namespace: dict[str, Any]) -> None:
    os.chdir(namespace["_previous"])
    namespace["_folder"].cleanup()


def replay(session: str) -> str | None:
    """Run the commands of a recorded session of `kwrap`; return what they print otherwise, or None.

    In this process, in the current folder, with 100 columns. `...` stands for anything within what is printed, such as
    a size or a time; spaces at a line's ends, and how many there are in a row, do not count. A session of other
    commands is not run.
    """
    from click.testing import CliRunner

    from kwrap_cli import main

    commands = re.split(r"^\$ ", session.replace("\\\n", ""), flags=re.MULTILINE)[1:]
    if not all(re.match(r"(kwrap (?!demo\n)|echo \$\?)", command) for command in commands):
        return None
    code = 0
    for command in commands:
        line, _, expected = command.partition("\n")
        if line == "echo $?":
            printed = f"{code}\n"
        else:
            run = CliRunner(env={"COLUMNS": "100"}).invoke(main, shlex.split(line)[1:], prog_name="kwrap")
            printed, code = run.output, run.exit_code
        want, got = (_with_single_spaces(text) for text in (expected, printed))
        if not doctest.OutputChecker().check_output(want, got, doctest.ELLIPSIS):
            return f"$ {line}\nprints\n{printed}\ninstead of\n{expected}"
    return None


def _with_single_spaces(text: str) -> str:
    return "\n".join(" ".join(line.split()) for line in text.strip().splitlines()) + "\n"


def _evaluate_session(example: Example) -> str | None:
    return replay(example.parsed)


pytest_collect_file = Sybil(
    path=HERE,
    parsers=[PythonCodeBlockParser(), CodeBlockParser("console", _evaluate_session)],
    patterns=["*.md"],
    excludes=["docs/_build/*.md"],
    setup=_enter_document,
    teardown=_leave_document,
).pytest()


class _FilesTogether(LoadFileScheduling):
    """Give one worker all tests of a file: a document's blocks build on each other, a module's tests share fixtures."""

    def _split_scope(self, nodeid: str) -> str:
        if "test_keras_layer_cases" in nodeid:  # hundreds of cases that share nothing
            return nodeid
        if "test_zoo.py" in nodeid:  # all checks of a model, with the same hooks on it, share one
            return nodeid.partition("[")[2] or nodeid
        return super()._split_scope(nodeid)


@pytest.hookimpl(tryfirst=True)  # pytest-xdist answers, too.
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _FilesTogether:
    """Distribute tests by `_FilesTogether`, whatever `--dist` says."""
    return _FilesTogether(config, log)
