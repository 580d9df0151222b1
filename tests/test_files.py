import errno
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pytest

import kwrap
from kwrap.errors import ModelTypeError, OptionValueError, SaveError

from .specimens import Mask, Times, same, values

ONES = np.ones((2, 3), "float32")


def small(scale: float = 1.0, units: int = 4) -> keras.Model:
    """Return a wrapped model all of whose weights are `scale`."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(units, kernel_initializer="ones", name="dense")])
    model.layers[0].kernel.assign(model.layers[0].kernel * scale)
    return kwrap.wrap_model(model, [Times(factor=0.5), Mask()])


def test_a_saved_model_is_the_one_that_keras_saves_and_loads(tmp_path):
    model = small()
    model.compile("adam", "mse")
    model.fit(ONES, np.ones((2, 4)), verbose=0)
    kwrap.save_model(model, tmp_path / "model.keras")
    for load in (keras.models.load_model, kwrap.load_model):
        loaded = load(tmp_path / "model.keras")
        assert same(values(loaded.variables), values(model.variables))
        assert same(values(loaded.optimizer.variables), values(model.optimizer.variables))
    assert os.listdir(tmp_path) == ["model.keras"]


def test_an_h5_file_is_saved_and_loaded_as_far_as_keras_does(tmp_path):
    model = small()
    kwrap.save_model(model, str(tmp_path / "model.h5"))
    loaded = kwrap.load_model(tmp_path / "model.h5")
    assert [hook.hook_name for _, hook in kwrap.find_hooks(loaded)] == ["specimen_times", "specimen_mask"]
    assert np.array_equal(loaded(ONES), model(ONES))


def test_the_new_file_has_the_rights_of_the_old_one_and_a_link_stays_a_link(tmp_path):
    old = tmp_path / "old.keras"
    old.write_bytes(b"old")
    old.chmod(0o640)
    link = tmp_path / "link.keras"
    link.symlink_to(old)
    kwrap.save_model(small(), link)
    assert link.is_symlink()
    assert stat.S_IMODE(old.stat().st_mode) == 0o640
    assert kwrap.load_model(old).name == kwrap.load_model(link).name


def test_a_new_file_has_the_rights_of_any_new_file(tmp_path):
    kwrap.save_model(small(), tmp_path / "model.keras")
    (tmp_path / "other").touch()
    assert (tmp_path / "model.keras").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_file_of_any_kind_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "notes.txt"
    with kwrap.atomic_write(path) as beside:
        beside.write_text("old")
        assert (beside.parent, beside.suffix, path.exists()) == (tmp_path, ".txt", False)
    assert path.read_text() == "old"
    with pytest.raises(UnicodeEncodeError), kwrap.atomic_write(str(path)) as beside:
        beside.write_text("half of the n\xeew", encoding="ascii")
    with pytest.raises(SaveError, match=r"notes\.txt' was not written: disk full") as raised, kwrap.atomic_write(path):
        raise OSError(errno.ENOSPC, "disk full")
    assert isinstance(raised.value.__cause__, OSError)
    with pytest.raises(SaveError, match=r"notes\.txt' was not written: .*other\.png'"), kwrap.atomic_write(path):
        (tmp_path / "other.png").read_bytes()
    with pytest.raises(OptionValueError, match="atomic_write: path=None is no path"), kwrap.atomic_write(None):
        pass
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["notes.txt"]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("model.weights", r"a model's file ends in \.keras"),
        ("nowhere/model.keras", "there is no folder '.*nowhere'"),
        ("folder.keras", "it is a folder"),
        ("pipe.keras", "it is a device or a pipe"),
    ],
)
def test_a_path_that_cannot_be_written_is_an_error_that_says_why(tmp_path, path, text):
    (tmp_path / "folder.keras").mkdir()
    os.mkfifo(tmp_path / "pipe.keras")
    with pytest.raises(SaveError, match=text) as raised:
        kwrap.save_model(small(), tmp_path / path)
    assert isinstance(raised.value, OSError)
    assert raised.value.file == str(tmp_path / path)
    assert sorted(os.listdir(tmp_path)) == ["folder.keras", "pipe.keras"]
    assert (tmp_path / "pipe.keras").is_fifo()


@pytest.mark.parametrize("path", [None, 7, b"model.keras", "model\0.keras", "\ud800.keras"])
def test_what_is_no_path_is_an_error_that_says_so(path):
    with pytest.raises(OptionValueError, match=r"save_model: path=.* is no path"):
        kwrap.save_model(small(), path)


def test_what_is_no_model_is_an_error_that_says_so(tmp_path):
    with pytest.raises(ModelTypeError, match=r"expected a keras\.Model, got 'abc'"):
        kwrap.save_model("abc", tmp_path / "model.keras")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("stem", ["n" * 249, "ä" * 124], ids=["ascii", "two bytes a letter"])
def test_a_name_as_long_as_the_file_system_allows_is_saved(stem, tmp_path):
    kwrap.save_model(small(), tmp_path / f"{stem}.keras")
    assert os.listdir(tmp_path) == [f"{stem}.keras"]
    assert kwrap.load_model(tmp_path / f"{stem}.keras").name


def test_a_folder_that_cannot_be_brought_to_the_disk_holds_the_new_file_and_is_no_error(tmp_path, monkeypatch):
    path = tmp_path / "model.keras"
    kwrap.save_model(small(), path)
    fsync = os.fsync

    def of_files_alone(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", of_files_alone)
    kwrap.save_model(small(3.0), path)
    assert np.array_equal(kwrap.load_model(path)(ONES), small(3.0)(ONES))
    assert os.listdir(tmp_path) == ["model.keras"]


class Unsavable(keras.layers.Layer):
    """A layer without a config, as Keras itself says."""

    def __init__(self, given, **kwargs):
        super().__init__(**kwargs)
        self.given = given

    def call(self, inputs):
        return inputs


def test_what_keras_cannot_save_is_its_own_error_and_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "model.keras"
    kwrap.save_model(small(), path)
    before = path.read_bytes()
    model = keras.Sequential([keras.Input((3,)), Unsavable(np.ones(3))])
    with pytest.raises(NotImplementedError, match="get_config"):
        kwrap.save_model(model, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.keras"]


@kwrap.hook(layer_type=keras.layers.Layer, name="files_forgetful")
class Forgetful(kwrap.Hook):
    """An option that can no longer be stored when the model is saved."""

    def get_config(self):
        return {**super().get_config(), "mean": object()}


def test_an_option_that_cannot_be_stored_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "model.keras"
    kwrap.save_model(small(), path)
    before = path.read_bytes()
    hooks = [Forgetful()]
    with pytest.raises(TypeError, match="Cannot serialize object"):
        kwrap.save_model(keras.Sequential([keras.Input((3,)), kwrap.Wrapper(small().layers[0].layer, hooks)]), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.keras"]


# --- in processes of their own ---------------------------------------------------------------------------------------

IN_A_PROCESS = """
import resource, sys
import keras, kwrap
from tests.test_files import small

path = sys.argv[1]
model = small(units=200_000)
"""

ON_A_FULL_DISK = """
from kwrap.errors import SaveError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    kwrap.save_model(model, path)
except SaveError as error:
    print("refused:", error.problem)
"""

FOR_EVER = """
for round in range(10**6):
    kwrap.save_model(model, path)
    print("saved", flush=True)
"""


def process(code: str, path: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    return subprocess.Popen(
        [sys.executable, "-c", IN_A_PROCESS + code, str(path)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def stopped_in_mid_write(writer: subprocess.Popen[str], folder: Path, whole: int) -> int:
    """Stop the writer where it has written a part of a file; return the size of the part."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        writer.send_signal(signal.SIGSTOP)
        sizes = [file.stat().st_size for file in folder.glob(".model.*.keras")]
        if any(0 < size < whole for size in sizes):
            return sizes[0]
        writer.send_signal(signal.SIGCONT)
        time.sleep(0.003)
    raise AssertionError("the writer was never caught in mid-write")


def test_a_full_disk_leaves_the_old_file_whole_and_nothing_beside_it(tmp_path):
    path = tmp_path / "model.keras"
    kwrap.save_model(small(), path)
    before = path.read_bytes()
    output, errors = process(ON_A_FULL_DISK, path).communicate(timeout=300)
    assert output == "refused: File too large\n", errors
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.keras"]


def test_a_process_killed_in_mid_write_leaves_a_whole_file_and_readers_see_no_half_one(tmp_path):
    path = tmp_path / "model.keras"
    kwrap.save_model(small(), path)
    first = path.stat().st_size
    writer = process(FOR_EVER, path)
    assert writer.stdout is not None
    try:
        assert writer.stdout.readline() == "saved\n"
        whole = path.stat().st_size
        assert whole > 4 * 600_000
        for _ in range(8):  # while the other process writes
            assert kwrap.load_model(path, compile=False).layers[0].kernel.shape == (3, 200_000)
        in_mid_write = stopped_in_mid_write(writer, tmp_path, whole)
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    assert [file.stat().st_size for file in tmp_path.glob(".model.*.keras")] == [in_mid_write]
    assert path.stat().st_size == whole != first
    assert np.array_equal(kwrap.load_model(path)(ONES), small(units=200_000)(ONES))


def test_threads_read_one_whole_model_or_the_other_while_one_writes(tmp_path):
    path = tmp_path / "model.keras"
    models = [small(scale) for scale in (1.0, 3.0)]
    expected = {float(np.sum(model(ONES))) for model in models}
    assert len(expected) == 2
    kwrap.save_model(models[0], path)
    seen: list[float] = []
    failed: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                seen.append(float(np.sum(kwrap.load_model(path, compile=False)(ONES))))
        except BaseException as error:
            failed.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for round_ in range(30):
        kwrap.save_model(models[round_ % 2], path)
    done.set()
    for reader in readers:
        reader.join()
    assert failed == []
    assert len(seen) >= 2
    assert set(seen) <= expected
