"""How much a file's config may have made: told by the config itself, and counted while Keras makes the model."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from kwrap import _keras
from kwrap.errors import OversizedFileError, UnreadableFileError
from kwrap_files import Contents, in_bytes, is_object, parts_of

__all__ = ["bounded"]

# Variables, layers, operations, and what else Keras names by itself: of models of Keras and KerasHub, thousands.
OBJECTS_FLOOR: Final = 20_000
# Functional models make one for 150 bytes of their config or more.
BYTES_AN_OBJECT: Final = 100
# Operations that are traced to find shapes: a T5 of 24 layers, which has most, makes 50,000.
OPERATIONS_AN_OBJECT: Final = 10
# Numbers of which a class of Keras makes a list that long when it is made, and the bytes that each value of it takes.
_LENGTHS: Final = {"num_thresholds": 32, "num_classes": 40, "num_oov_indices": 40, "ngrams": 40}
# Functions and operations of as many outputs as an argument or the length of an axis says.
_SPLITTING: Final = frozenset(
    [
        *("array_split", "dsplit", "hsplit", "split", "unstack", "vsplit"),
        *("ArraySplit", "Dsplit", "Hsplit", "Split", "Unstack", "Vsplit"),
    ]
)
# Layers of Keras that are traced with the layers and functions that they hold.
_TRACED: Final = frozenset(["Lambda", "Pipeline"])
# That one call of a graph takes.
TENSORS_LIMIT: Final = 4_000
_WAY_OUT: Final = "If you trust it: safe_mode=False."


@contextmanager
def bounded(contents: Contents, file: str, safe_mode: bool) -> Iterator[None]:
    """Inside the context, stop what makes more of a file's config than a file of its size may ask for.

    Variables are always added up; the rest is for `safe_mode`, as there are programs whose work cannot be told before.

    Raises:
        UnreadableFileError: the config asks for work of a size that cannot be told before it is done.
        OversizedFileError: it asks for too much of what can be counted; at once, or while the model is made.
    """
    measure = _Measure(file, contents.limit)
    if not safe_mode:
        with _keras.variables_measured(measure):
            yield
        return
    parts = list(parts_of(contents.configs))
    _check_nodes(parts, file)
    _check_splitting(parts, file)
    for size in map(_lists_size, parts):
        measure(size, "lists")
    objects = OBJECTS_FLOOR + contents.config_size // BYTES_AN_OBJECT
    count = _Count(file, "layers, tensors and other objects", objects)
    count_traced = _Count(file, "operations to be traced", objects * OPERATIONS_AN_OBJECT)

    def measure_and_count(size: int) -> None:
        measure(size)
        count()

    with (
        _keras.variables_measured(measure_and_count),
        _keras.objects_counted(count),
        _keras.operations_counted(count_traced),
    ):
        yield


class _Measure:
    """Adds up the variables of a model that is being made, and stops it where they are too large for its file."""

    def __init__(self, file: str, limit: int) -> None:
        self.file, self.limit, self.total = file, limit, 0

    def __call__(self, size: int, what: str = "variables") -> None:
        self.total += size
        if self.total > self.limit:
            raise OversizedFileError(
                self.file,
                f"its config asks for {what} of {in_bytes(self.total)}; {in_bytes(self.limit)} is the limit for it",
                self.total,
                self.limit,
            )


class _Count:
    """Counts what is made of a config, and stops it where that is more than `limit`."""

    def __init__(self, file: str, what: str, limit: int) -> None:
        self.file, self.what, self.limit, self.count = file, what, limit, 0

    def __call__(self) -> None:
        self.count += 1
        if self.count > self.limit:
            problem = f"its config asks for more than {self.limit:,} {self.what}, the limit for its length"
            raise OversizedFileError(self.file, problem, self.count, self.limit, _WAY_OUT)


def _check_nodes(parts: Iterable[Mapping[str, Any]], file: str) -> None:
    """Raise where a graph calls something on values of the file alone, or on very many tensors.

    Keras computes the first while it makes the graph; the second takes it the square of their number.
    """
    for part in parts:
        nodes = part.get("inbound_nodes")
        for node in nodes if isinstance(nodes, list) else ():
            # In a list, as Keras once wrote them, each item is the name of a layer and two numbers.
            count = len(node) if isinstance(node, list) else _tensors_in(node)
            if not 0 < count <= TENSORS_LIMIT:
                problem = f"its graph calls {str(part.get('name'))[:100]!r} on {count:,} tensors"
                raise UnreadableFileError(file, f"{problem}, not on 1 to {TENSORS_LIMIT:,}", _WAY_OUT)


def _tensors_in(node: Any) -> int:
    count, waiting = 0, [node]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            if value.get("class_name") == "__keras_tensor__":
                count += 1
            # What becomes an object is looked into by nothing that looks for tensors.
            elif not is_object(value):
                waiting.extend(value.values())
    return count


def _check_splitting(parts: Iterable[Mapping[str, Any]], file: str) -> None:
    """Raise where a layer that is traced, and not the graph, whose tensors are counted, would split a tensor."""
    parts = [part for part in parts if is_object(part)]
    graphs = [part["config"] for part in parts if isinstance(part["config"], dict) and "input_layers" in part["config"]]
    in_graphs = {id(layer) for graph in graphs if isinstance(graph.get("layers"), list) for layer in graph["layers"]}
    traced: set[int] = set()
    for part in parts:  # parents first
        name = part["config"] if part["class_name"] == "function" else part["class_name"]
        name = str(name).rpartition(".")[2][:100]
        own = str(part.get("module", "keras")).partition(".")[0] in ("keras", "builtins", "None")
        splits = own and name in _SPLITTING and id(part) not in in_graphs
        unrolls = id(part) in traced and isinstance(part["config"], dict) and bool(part["config"].get("unroll"))
        if splits or unrolls:
            problem = f"a layer in it calls {name!r}{', unrolled,' if unrolls else ''} for outputs without number"
            raise UnreadableFileError(file, problem, _WAY_OUT)
        if name in _TRACED and id(part) not in traced:
            traced.update(id(inner) for inner in parts_of(part["config"]))


def _lists_size(part: Mapping[str, Any]) -> int:
    lengths = {option: part.get(option) for option in _LENGTHS}
    return sum(
        int(min(length, 2**62)) * _LENGTHS[option]
        for option, length in lengths.items()
        if isinstance(length, int | float) and length > 0
    )
