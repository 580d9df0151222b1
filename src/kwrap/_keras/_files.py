"""What kwrap touches of how Keras loads a file, and of what it keeps for a process meanwhile."""

import inspect
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

import h5py
import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.legacy.saving import legacy_h5_format
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR
from keras.src.saving import saving_lib
from keras.src.utils.rng_utils import GLOBAL_RANDOM_SEED
from tensorflow.python.framework import op_callbacks

__all__ = [
    "is_absent",
    "load_archive",
    "load_h5",
    "name_counters_restorer",
    "objects_counted",
    "operations_counted",
    "seed_past_tensorflow",
    "skip_parts",
    "skips_parts",
    "variables_measured",
]


def load_archive(
    file: BinaryIO, custom_objects: Mapping[str, Any] | None, compile: bool, safe_mode: bool
) -> keras.Model:
    """Return the model of an open `.keras` file.

    The public function takes a path alone: what it opens may be another file than the one that was checked.
    """
    return saving_lib.load_model(file, custom_objects, compile, safe_mode)


def load_h5(file: BinaryIO, custom_objects: Mapping[str, Any] | None, compile: bool, safe_mode: bool) -> keras.Model:
    """Return the model of an open `.h5` file; the public function takes a path alone, as for `load_archive`."""
    with h5py.File(file, "r") as opened:
        return legacy_h5_format.load_model_from_hdf5(opened, custom_objects, compile, safe_mode)


def is_absent(store: Any) -> bool:
    """Tell whether a weight file has nothing for the object that is given `store`, nor for what is in the object.

    Keras gives all objects the one store, which answers for the object's own variables alone; a plain dict cannot tell.
    """
    path = getattr(store, "_h5_entry_path", "")
    return bool(path) and not store.has_path(path)


def skips_parts(cls: Any) -> Any:
    """Let `skip_parts` work on the layers of a class; a decorator, so that its bases stay as they are."""
    ask: Callable[[Any], Iterable[str]] = cls.__dir__
    cls.__dir__ = lambda self: () if self.__dict__.pop("_skips_parts", False) else ask(self)
    return cls


def skip_parts(layer: keras.Layer) -> None:
    """Have Keras load nothing of its file into what `layer` holds: the file has nothing for it.

    To be called in `load_own_variables`. Keras goes by `dir(layer)`, once a file, right after it.
    """
    layer.__dict__["_skips_parts"] = True


def name_counters_restorer() -> Callable[[], None]:
    """Return what sets the counters of automatic names (`dense_1`) back to what they are now."""
    counters = global_state.get_global_attribute("object_name_uids")
    before = None if counters is None else counters.copy()
    return lambda: global_state.set_global_attribute("object_name_uids", before)


@contextmanager
def objects_counted(count: Callable[[], None]) -> Iterator[None]:
    """Inside the context, call `count` for the objects of Keras that this thread makes, before each is made.

    Those are layers and operations, and once more each object that Keras names by itself: symbolic tensors, metrics,
    losses, seed generators, layers without a name of their own; and each time that a function is traced for its
    outputs' shapes. What `count` raises keeps the object from being made.
    """
    counters = global_state.get_global_attribute("object_name_uids")
    scopes = global_state.get_global_attribute("remat_scope_stack")
    global_state.set_global_attribute("object_name_uids", _CountedNames(count, counters or {}))
    global_state.set_global_attribute("remat_scope_stack", _CountedScopes(count, scopes or ()))
    try:
        yield
    finally:
        counted = global_state.get_global_attribute("object_name_uids")
        if isinstance(counted, _CountedNames):  # else something has set them anew
            global_state.set_global_attribute("object_name_uids", defaultdict(int, counted))
        if isinstance(global_state.get_global_attribute("remat_scope_stack"), _CountedScopes):
            global_state.set_global_attribute("remat_scope_stack", scopes)


class _CountedNames(defaultdict[str, int]):
    """Keras' counters of automatic names, which it raises by one for each."""

    def __init__(self, count: Callable[[], None], counters: Mapping[str, int]) -> None:
        super().__init__(int, counters)
        self._count = count

    def __setitem__(self, name: str, number: int) -> None:
        self._count()
        super().__setitem__(name, number)


class _CountedScopes(list[Any]):
    """The stack of `keras.RematScope`: each operation, and so each layer, asks once whether it is empty."""

    def __init__(self, count: Callable[[], None], scopes: Iterable[Any]) -> None:
        super().__init__(scopes)
        self._count = count

    def __bool__(self) -> bool:
        self._count()
        return len(self) > 0


@contextmanager
def operations_counted(count: Callable[[], None]) -> Iterator[None]:
    """Inside the context, call `count` for each operation that this thread puts into a graph of TensorFlow.

    What `count` raises is raised where the operation was made. Keras traces some layers to find their outputs' shapes,
    and a loop in such a layer's Python is traced round by round; TensorFlow has no public way to be told of it.
    """

    def made(*_: Any, graph: tf.Graph | None = None, **__: Any) -> None:
        if graph is not None:
            count()

    with tf.Graph().as_default():  # where it is eager, TensorFlow exchanges how all threads execute
        op_callbacks.add_op_callback(made)
    try:
        yield
    finally:
        with tf.Graph().as_default():
            op_callbacks.remove_op_callback(made)


@contextmanager
def variables_measured(measure: Callable[[int], None]) -> Iterator[None]:
    """Inside the context, call `measure` with the bytes of each variable before its first value is made.

    What `measure` raises keeps the variable from being made.
    """

    def create(next_creator: Callable[..., Any], **arguments: Any) -> Any:
        measure(_size(arguments.get("initial_value")))
        return next_creator(**arguments)

    with tf.variable_creator_scope(create):
        yield


def _size(initial_value: Any) -> int:
    # Keras gives TensorFlow a function without arguments, and no shape: the variable stands in its closure.
    if inspect.isfunction(initial_value):
        initial_value = inspect.getclosurevars(initial_value).nonlocals.get("self")
    if not isinstance(initial_value, keras.Variable | tf.Tensor):
        return 0
    count = 1
    for length in initial_value.shape:
        count *= int(length or 0)
    return count * int(tf.as_dtype(initial_value.dtype).size)


def seed_past_tensorflow(seed: int) -> None:
    """Seed Keras, NumPy and Python as `keras.utils.set_random_seed` does, and leave TensorFlow's own seed as it is.

    With its seed, TensorFlow forgets every kernel and compiled function that it has ready, and makes them anew at their
    next call: that takes milliseconds for each. What draws by `keras.random` has no use for its seed.
    """
    global_state.set_global_attribute(GLOBAL_RANDOM_SEED, seed)
    global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, None)  # a new one is made of Python's next number
    random.seed(seed)
    np.random.seed(seed)
