"""Which layers of a model an adapter's file means, and whether it fits them."""

import contextlib
import difflib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import keras

import kwrap
from kwrap.errors import RuleError
from kwrap_lora._errors import AdapterMismatchError
from kwrap_lora._file import Adapter, SavedLayer, SavedWeight
from kwrap_lora._hook import LoRA
from kwrap_lora._options import matrix_shape

__all__ = ["Match", "check", "hash_of", "layers_of", "matches", "structure_of"]


def layers_of(model: keras.Model) -> dict[str, keras.Layer]:
    """Return the layers of a model by their paths, each once, in kwrap's order."""
    found: dict[int, tuple[str, keras.Layer]] = {}

    def note(layer: keras.Layer, path: str) -> bool:
        found.setdefault(id(layer), (path, layer))
        return False

    with contextlib.suppress(RuleError):  # It names no layer, having seen all.
        kwrap.plan(model, LoRA(rank=1), where=note)
    return dict(found.values())


def structure_of(layers: Mapping[str, keras.Layer]) -> str:
    """Return what tells a model's structure from others: a hash of its layers' classes, in their order."""
    return hashlib.sha256("/".join(type(layer).__name__ for layer in layers.values()).encode()).hexdigest()


def hash_of(target: kwrap.WeightTarget) -> str:
    """Return a hash of a weight's values, as they are stored."""
    digest = hashlib.sha256(f"{target.dtype} {target.shape}".encode())
    digest.update(keras.ops.convert_to_numpy(target.variable).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Match:
    """A layer of a file, and the layer of a model that it means, with its path there; None: there is none."""

    saved: SavedLayer
    path: str
    layer: keras.Layer | None


def matches(adapter: Adapter, layers: Mapping[str, keras.Layer]) -> list[Match]:
    """Return the layers that an adapter means: in a model of the same structure by their positions, else by paths.

    Names that Keras gives by itself are other ones in the next model: it goes on counting.
    """
    if adapter.structure == structure_of(layers):
        pairs = list(layers.items())
        if all(0 <= saved.position < len(pairs) for saved in adapter.layers):
            return [Match(saved, *pairs[saved.position]) for saved in adapter.layers]
    return [Match(saved, saved.path, layers.get(saved.path)) for saved in adapter.layers]


def check(
    found: Sequence[Match], model: keras.Model, layers: Mapping[str, keras.Layer], file: str, other_base: bool
) -> None:
    """Raise AdapterMismatchError unless layers, weights and shapes, and the weights' values, are those of the file."""
    if problems := [problem for match in found for problem in _problems(match, layers)]:
        raise AdapterMismatchError(file, model.name, problems, "Load it on the model that it was trained on.")
    if not other_base and (others := [problem for match in found for problem in _other_values(match)]):
        way_out = "It adds up to something else there; if that is meant: other_base=True."
        raise AdapterMismatchError(file, model.name, others, way_out)


def _problems(match: Match, layers: Mapping[str, keras.Layer]) -> Iterator[str]:
    if match.layer is None:
        near = difflib.get_close_matches(match.path, layers, cutoff=0.4)
        yield f"there is no layer {match.path!r}" + (f" (near: {', '.join(map(repr, near))})" if near else "")
        return
    targets = {target.name: target for target in kwrap.weight_targets(match.layer)}
    for weight in match.saved.weights:
        target = targets.get(weight.name)
        if target is None:
            yield f"{match.path!r}, a {type(match.layer).__name__}, has no weight {weight.name!r}"
        elif target.shape != weight.shape:
            yield f"{weight.name!r} of {match.path!r} has the shape {target.shape}, and {weight.shape} in the file"
        else:
            yield from _wrong_parts(match, weight, target)


def _wrong_parts(match: Match, weight: SavedWeight, target: kwrap.WeightTarget) -> Iterator[str]:
    inputs, outputs = matrix_shape(target)
    rank = match.saved.options["rank"]
    due: dict[str, tuple[int, ...]] = {"a": (inputs, rank), "b": (rank, outputs)}
    if match.saved.options["use_dora"]:
        due["magnitude"] = (outputs,)
    for part in sorted({*due, *weight.parts}):
        given = weight.parts[part].shape if part in weight.parts else None
        if given != due.get(part):
            what = f"{part!r} beside {weight.name!r} of {match.path!r}"
            yield f"{what} has the shape {due.get(part)}, and {given} in the file"


def _other_values(match: Match) -> Iterator[str]:
    targets = {target.name: target for target in kwrap.weight_targets(match.layer)}
    for weight in match.saved.weights:
        if hash_of(targets[weight.name]) != weight.base:
            yield f"{weight.name!r} of {match.path!r} has other values than when the adapter was trained"
