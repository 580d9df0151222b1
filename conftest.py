"""What all tests share: those of kwrap, of its plugins, and the documents' code blocks."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Before TensorFlow is imported, which reads it then.

import tempfile
from typing import Any

import pytest
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

HERE = os.path.dirname(os.path.abspath(__file__))


@pytest.fixture(autouse=True)
def seed() -> int:
    """Seed Python, NumPy and Keras before each test, so that a failure comes again."""
    import keras  # Not above: it takes seconds, and pytest-xdist's controller runs no test.

    keras.utils.set_random_seed(0)
    return 0


def _enter_document(namespace: dict[str, Any]) -> None:
    """Let a document's blocks run as in a notebook, in a folder of their own for the files they write."""
    folder = tempfile.TemporaryDirectory()
    namespace |= {"__name__": "__main__", "_folder": folder, "_previous": os.getcwd()}
    os.chdir(folder.name)


def _leave_document(namespace: dict[str, Any]) -> None:
    os.chdir(namespace["_previous"])
    namespace["_folder"].cleanup()


pytest_collect_file = Sybil(
    path=HERE,
    parsers=[PythonCodeBlockParser()],
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
