"""Loading a model from a file that may be anyone's: read once, checked, and then given to Keras."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

import keras

from kwrap import _keras
from kwrap._bounds import bounded
from kwrap._dropping import StandIn, stand_in
from kwrap._files import path_text
from kwrap._hook import Hook
from kwrap._model import find_hooks, unwrap_model
from kwrap._plugins import plugins
from kwrap._references import check_references
from kwrap._registry import resolve_saved, standing_in, to_install
from kwrap.errors import (
    DroppedHooksWarning,
    KwrapError,
    MissingPluginError,
    MissingPluginsError,
    OversizedFileError,
    UnknownClassError,
    UnreadableFileError,
)
from kwrap.options import checked_choice
from kwrap_files import (
    BadFileError,
    Contents,
    OversizedError,
    SavedHook,
    hooks_of,
    open_file,
    printable,
    read_contents,
    read_open,
)

__all__ = ["load_model"]


def load_model(
    path: str | os.PathLike[str],
    *,
    missing: Literal["error", "drop"] = "error",
    custom_objects: Mapping[str, Any] | None = None,
    compile: bool = True,
    safe_mode: bool = True,
    max_size: int | None = None,
) -> keras.Model:
    """Load a model from a local file or folder that Keras saved, after checking it; nothing in it is run.

    What it names is looked up among Keras' and KerasHub's own classes, those registered with Keras, those given, and
    the hooks that are registered or installed. A file that cannot be loaded leaves Keras' names and registrations as
    they were.

    Args:
        path: a `.keras` or `.h5` file, or a folder of an unpacked `.keras` file.
        missing: what to do about hooks that cannot be had: "error", or "drop", which loads the model without them.
        custom_objects, compile, safe_mode: as for `keras.models.load_model`. `safe_mode=False` lets the file run code.
        max_size: how many bytes the file may declare, and its model's variables take. Default: a hundred times its size
            on disk, and 256 MiB at least.

    Raises:
        MissingPluginsError: hooks cannot be had: all of them, each with the reason.
        UnknownClassError: it names what is not known.
        UnsafeFileError: it holds code.
        OversizedFileError: it declares more than `max_size`.
        UnreadableFileError: it is no saved model, or a damaged one, or Keras cannot rebuild the model (`__cause__`).
        OptionValueError: it is no path, or `missing` is neither.
    """
    file = _checked_path(path, missing)
    with _blaming(file), _opened(path) as opened:
        contents = read_contents(path, max_size) if opened is None else read_open(opened, max_size)
        absent = _absent(hooks_of(contents.configs), file, missing)
        _check_names(contents, file, custom_objects, safe_mode, skip={id(hook.record) for hook in absent})
        with _standing_in(file, absent), bounded(contents, file, safe_mode):
            model = _load(path, opened, contents, custom_objects, compile, safe_mode)
        if absent:
            _take_off_stand_ins(model)
    if absent:
        dropped = [(hook.name, hook.path, hook.without_it) for hook in absent]
        warnings.warn(DroppedHooksWarning(file, dropped), stacklevel=2)
    return model


def _checked_path(path: str | os.PathLike[str], missing: str) -> str:
    """Return the path as errors show it."""
    checked_choice("load_model", "missing", missing, ("error", "drop"))
    file = path_text("load_model", path)
    if "://" in file:
        raise UnreadableFileError(file, "it is not on this machine", "Download it, and load the copy.")
    return file


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[BinaryIO | None]:
    """Open a file once: what is checked is what is loaded, also where a writer puts another in its place meanwhile."""
    if Path(path).is_dir():
        yield None
    else:
        with open_file(path) as file:
            yield file


@contextmanager
def _standing_in(file: str, absent: Sequence[SavedHook]) -> Iterator[None]:
    """Let stand-ins be made for the absent hooks that were found, and for none besides; without any, for none."""
    if not absent:
        yield
        return
    expected = {(hook.hook, hook.plugin) for hook in absent}

    def expected_stand_in(saved: Mapping[str, Any], path: str) -> Hook:
        if (saved["hook"], saved["plugin"]) not in expected:
            raise UnreadableFileError(file, f"hook {saved['hook']!r} at {path!r} was not in it when it was checked")
        return stand_in(saved, path)

    with standing_in(expected_stand_in):
        try:
            yield
        except Exception as error:
            changing = [f"{hook.name!r} at {hook.path!r}" for hook in absent if hook.changes_output]
            if not changing or _own_error(error) is not None:
                raise
            problem = f"{_told(error)}. Without {', '.join(changing[:12])} the shapes of outputs are others"
            raise UnreadableFileError(file, problem, "Install the plugin that has it.") from error


@contextmanager
def _blaming(file: str) -> Iterator[None]:
    """Make errors of kwrap's own of those that a file causes, and let Keras forget that it tried."""
    restore_names = _keras.name_counters_restorer()
    try:
        yield
    except BaseException as error:
        restore_names()
        if isinstance(error, KwrapError) or not isinstance(error, Exception):
            raise
        raise _named(file, error) from error


def _named(file: str, error: Exception) -> KwrapError:
    if isinstance(error, OversizedError):
        return OversizedFileError(file, str(error), error.declared, error.limit)
    if isinstance(error, BadFileError):
        return UnreadableFileError(file, str(error))
    if isinstance(error, OSError) and str(error.filename).startswith((file, str(Path(file)))):
        return UnreadableFileError(file, error.strerror or str(error), "Is it the right path?")
    if (own := _own_error(error)) is not None:  # Keras makes a TypeError anew where a class' `from_config` raises one
        return own
    return UnreadableFileError(file, _told(error), "The cause is Keras' own error.")


def _told(error: Exception) -> str:
    while isinstance(error.__context__, Exception) and "could not be deserialized properly" in str(error):
        error = error.__context__  # Keras' text begins with the whole config
    # Keras tells the whole config first, and then what is the matter.
    text = str(error).rpartition("Exception encountered: ")[2].strip()
    line = printable((text.splitlines() or [""])[0][:300])  # Keras shows names as the file has them
    return f"Keras cannot rebuild its model: {type(error).__name__}: {line}"


def _own_error(error: BaseException | None) -> KwrapError | None:
    for _ in range(20):
        if error is None or isinstance(error, KwrapError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _absent(hooks: Sequence[SavedHook], file: str, missing: str) -> list[SavedHook]:
    """Return those of a file's hooks that cannot be had; raise for them if they are not to be dropped.

    If there are any hooks, the plugins are loaded.
    """
    absent: list[SavedHook] = []
    errors: list[MissingPluginError] = []
    for hook in hooks:
        try:
            resolve_saved(hook.hook, hook.plugin, hook.path, hook.plugin_version)
        except MissingPluginError as error:
            absent.append(hook)
            errors.append(error)
    if errors and missing == "error":
        raise MissingPluginsError(file, errors, [name for error in errors if (name := to_install(error))])
    return absent


def _check_names(
    contents: Contents, file: str, custom_objects: Mapping[str, Any] | None, safe_mode: bool, skip: Set[int]
) -> None:
    def check() -> None:
        check_references(
            contents.configs,
            file,
            custom_objects=custom_objects,
            safe_mode=safe_mode,
            legacy=contents.kind == "h5",
            skip=skip,
        )

    try:
        check()
    except UnknownClassError:  # such as a plugin's metric, in a model without hooks
        plugins.load()
        check()


def _load(
    path: str | os.PathLike[str],
    opened: BinaryIO | None,
    contents: Contents,
    custom_objects: Mapping[str, Any] | None,
    compile: bool,
    safe_mode: bool,
) -> keras.Model:
    if contents.kind == "keras" and opened is not None:
        opened.seek(0)
        return _keras.load_archive(opened, custom_objects, compile, safe_mode)
    if opened is not None:
        return _keras.load_h5(opened, custom_objects, compile, safe_mode)
    return keras.saving.load_model(path, custom_objects=custom_objects, compile=compile, safe_mode=safe_mode)


def _take_off_stand_ins(model: keras.Model) -> None:
    stand_ins = [hook for _, hook in find_hooks(model) if isinstance(hook, StandIn)]
    if stand_ins:
        unwrap_model(model, stand_ins, merge=False)
