"""quantize: where rounding stands in a graph, so that LiteRT computes all of it in integers."""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import keras

import kwrap
from kwrap.errors import DuplicateHookError, ModelTypeError, RuleError
from kwrap_quantize._activation import QuantizeActivation, QuantizeSteps, fixed_range, has_steps, is_rounded_before
from kwrap_quantize._activations import QuantizeInput, QuantizeOutput
from kwrap_quantize._between import QuantizeBetween
from kwrap_quantize._graph_errors import AlreadyQuantizedError, FloatLayerError, GraphNotSeenError
from kwrap_quantize._normalization import QuantizeNormalization
from kwrap_quantize._roles import (
    Role,
    activation_name,
    float_activation,
    fuses_clip,
    fuses_norm,
    is_arithmetic,
    role_of,
    why_float,
    why_taken,
)
from kwrap_quantize._weights import QuantizeWeights

__all__ = ["is_in", "quantize"]

RangeKind = Literal["moving_average", "last", "all_time"]
_NAME = "quantize"
_EIGHT = {"bits": 8, "symmetric": False}  # whether a range is fixed; where it ends is another matter


@dataclass
class _Needs:
    """What rounding a layer needs, over all its calls."""

    layer: keras.Layer
    calls: int = 0
    inputs: int = 0  # of how many tensors that it takes
    between: bool = False
    activation: bool = False
    steps: bool = False
    normalization: bool = False
    outputs: int = 0  # of how many tensors that it gives


class _Walk:
    """Goes through a graph's calls and finds out what rounding each layer needs.

    A tensor is `rounded` when it is on a grid, and `pending` when it is not, because what comes next is part of the
    same operator.
    """

    def __init__(self, graph: kwrap.Graph, left_alone: Mapping[str, str]) -> None:
        self.graph, self.left_alone = graph, left_alone
        self.needs: dict[str, _Needs] = {}
        self.reasons: dict[str, str] = {}
        self._takers: dict[int, list[kwrap.GraphCall]] = {number: [] for number in graph.tensors}
        for call in graph.calls:
            for number in set(call.inputs):
                self._takers[number].append(call)
        self._rounded: set[int] = set()
        self._pending: set[int] = set()
        self._integers: set[int] = set()
        for call in graph.calls:
            self._visit(call)

    def _visit(self, call: kwrap.GraphCall) -> None:
        role = self._role(call)
        if is_arithmetic(call.operation) and self._is_rounded_later(call):
            return
        alone = role is Role.SCALING or (role is Role.NORM and not self._pending.intersection(call.inputs))
        reason = self._why_float(call, alone)
        if reason is not None:
            self.reasons[call.path or call.operation.name] = reason
            return
        floats = [number for number in call.inputs if self._is_float(number)]
        if not floats and role is not Role.LOOKUP:
            self._integers.update(call.outputs)  # Keras' graph says float32 of merged integers
            return
        layer, path = call.operation, str(call.path)
        if why := float_activation(layer):  # the sums are rounded all the same
            self.reasons[path] = why
        needs = self.needs.setdefault(path, _Needs(layer))
        needs.calls += 1
        if role is not Role.JOINING and any(number not in self._rounded | self._pending for number in floats):
            needs.inputs = len(floats)
        needs.between |= isinstance(layer, QuantizeBetween.layer_type)
        needs.activation |= is_rounded_before(layer)
        needs.steps |= has_steps(layer)
        needs.normalization |= alone
        if role is Role.LOOKUP or (role is Role.MOVING and not self._pending.intersection(call.inputs)):
            self._rounded.update(call.outputs)
        elif self._is_fused_further(call, role):
            self._pending.update(call.outputs)
        else:
            needs.outputs = len(call.outputs)
            self._rounded.update(call.outputs)

    def _role(self, call: kwrap.GraphCall) -> Role:
        is_float = call.path in self.left_alone or self._why_taken(call)
        return Role.FLOAT if is_float else role_of(call.operation)

    def _why_taken(self, call: kwrap.GraphCall) -> str | None:
        return why_taken(call.operation, [self._is_float(number) for number in call.inputs])

    def _is_float(self, number: int) -> bool:
        dtype = self.graph.tensors[number].dtype
        return bool(keras.backend.is_float_dtype(dtype)) and number not in self._integers

    def _why_float(self, call: kwrap.GraphCall, alone: bool) -> str | None:
        """Return why a call stays in float; None if it does not."""
        if call.path is not None and call.path in self.left_alone:
            return self.left_alone[call.path]
        if alone and len(self.graph.tensors[call.inputs[0]].shape) > 4:
            return "no convolution comes before it; by itself LiteRT has it for tensors of up to 4 axes"
        return why_float(call.operation) or self._why_taken(call)

    def _is_rounded_later(self, call: kwrap.GraphCall) -> bool:
        """Tell whether what an operation takes is on grids, and all that take its result round it, or have it fused."""
        if not self._rounded.issuperset(number for number in call.inputs if self._is_float(number)):
            return False
        if self._is_fused_further(call, Role.ARITHMETIC):
            self._pending.update(call.outputs)
        if self._is_result(call):
            return False
        takers = [taker for number in call.outputs for taker in self._takers[number]]
        passing = (Role.FLOAT, Role.JOINING) if len(takers) > 1 else (Role.FLOAT,)
        return bool(takers) and all(self._role(taker) not in passing for taker in takers)

    def _is_fused_further(self, call: kwrap.GraphCall, role: Role) -> bool:
        """Tell whether the next layer, and no other, takes the result without a grid of its own."""
        if _fixed_range(call.operation, _EIGHT):
            return False
        if role is not Role.JOINING and self._is_joined(call):
            return True
        taker = self._only_taker(call)
        if taker is None or role not in (Role.WEIGHTED, Role.NORM, Role.ARITHMETIC):
            return False
        if activation_name(call.operation) != "linear":
            return False
        fuses = {Role.FUSED: fuses_clip, Role.NORM: fuses_norm}.get(self._role(taker))
        return fuses is not None and fuses(call.operation)

    def _is_joined(self, call: kwrap.GraphCall) -> bool:
        """Tell whether the result goes into one that joins tensors on its grid, and nowhere else, moved at most."""
        taker = self._only_taker(call)
        if taker is None:
            return False
        role = self._role(taker)
        return role is Role.JOINING or (role is Role.MOVING and self._is_joined(taker))

    def _only_taker(self, call: kwrap.GraphCall) -> kwrap.GraphCall | None:
        """Return the only call that takes a call's result; None if others do, or the model gives it."""
        takers = [taker for number in call.outputs for taker in self._takers[number]]
        return takers[0] if len(takers) == 1 and not self._is_result(call) else None

    def _is_result(self, call: kwrap.GraphCall) -> bool:
        """Tell whether the model gives a call's result."""
        return not set(call.outputs).isdisjoint(self.graph.outputs)


def quantize(
    model: keras.Model,
    *,
    bits: int = 8,
    activation_bits: int = 8,
    range: RangeKind = "moving_average",
    decay: float = 0.999,
    method: Literal["min_max", "learned"] = "min_max",
    where: Any = None,
    exclude: Any = None,
    strict: bool = False,
) -> kwrap.Plan:
    """Return the plan of rounding `model` where LiteRT rounds, so that it computes in integers what it can.

    Kernels are rounded by QuantizeWeights; results by QuantizeOutput, after all that the converter fuses into one
    operator: a convolution or dense layer, its BatchNormalization, its ReLU. What the model takes is rounded by
    QuantizeInput at the first layers, and what is between the operators of one layer, as before its softmax, by
    QuantizeActivation. Layers that LiteRT has no integers for stay in float: in `Plan.skipped`, with the reason; only
    their kernels are rounded. Nothing changes before `Plan.apply()`.

    A layer that the graph calls several times has one range for all its calls. This is "all_time", whatever `range`
    says: others would depend on the order of the calls, and clip what the first gives to the range of the last.

    Args:
        model: a Functional or built Sequential model, nested ones among them seen through.
        bits: of weights, 2 to 16.
        activation_bits: of activations, 2 to 16; with more than 8 their ranges are symmetric, as LiteRT's int16 is.
        range: how ranges of activations follow what is seen, as for QuantizeOutput.
        decay: of "moving_average".
        method: of QuantizeWeights: "min_max" or "learned".
        where: the layers to quantize, told as for `kwrap.wrap_model`; all others stay in float.
        exclude: layers that stay in float, and all that they hold.
        strict: whether a layer that stays in float is an error, but for those that `where` and `exclude` leave out.

    Raises:
        GraphNotSeenError: the model is subclassed, or not built: it says which hooks to use by hand.
        FloatLayerError: with `strict`, a layer would stay in float.
        AlreadyQuantizedError: layers have such hooks already.
        OptionValueError: an option has a value that cannot be.
        KwrapError: what `kwrap.plan` raises.
    """
    try:
        graph = kwrap.read_graph(model)
    except ModelTypeError as error:
        if not isinstance(model, keras.Model):
            raise
        raise GraphNotSeenError(model.name, type(model).__name__) from error
    options = {"bits": activation_bits, "range": range, "decay": decay, "symmetric": activation_bits > 8}
    of_weights = {"bits": bits, "method": method}
    for hook, given in ((QuantizeWeights, of_weights), (QuantizeOutput, options)):
        hook(**given)  # raises for bad options, before the work
    left_alone = _left_alone(model, graph, where, exclude)
    walk = _Walk(graph, left_alone)
    if strict and (reasons := {path: why for path, why in walk.reasons.items() if path not in left_alone}):
        raise FloatLayerError(model.name, reasons)
    rules = [*_weight_rules(model, of_weights, left_alone), *_activation_rules(walk, options)]
    if not rules:
        raise RuleError("quantize", f"leaves no layer of {model.name!r}: {'; '.join(set(walk.reasons.values()))}")
    try:
        return kwrap.plan(model, rules).left_out(_NAME, walk.reasons)
    except DuplicateHookError as error:
        ours = {hook.name for _, hook in kwrap.find_hooks(model)}.intersection(rule.hook.name for rule in rules)
        raise AlreadyQuantizedError(model.name, error.path, sorted(ours)) from error


def _left_alone(model: keras.Model, graph: kwrap.Graph, where: Any, exclude: Any) -> dict[str, str]:
    """Return why layers are left alone, by their paths; those that hold such a one's are not among them."""
    left_alone: dict[str, str] = {}
    if where is not None:
        chosen = kwrap.find_layers(model, where)
        paths = (call.path for call in graph.calls if call.path)
        left_alone.update((path, "not among where=...") for path in paths if not is_in(path, chosen))
    if exclude is not None:
        left_alone.update(dict.fromkeys(kwrap.find_layers(model, exclude), "excluded"))
        paths = (call.path for call in graph.calls if call.path)
        left_alone.update((path, "excluded") for path in paths if is_in(path, left_alone))
    return left_alone


def is_in(path: str, paths: Container[str]) -> bool:
    """Tell whether a path, or one of what holds it, is among `paths`."""
    parts = path.split("/")
    return any("/".join(parts[:count]) in paths for count in range(1, len(parts) + 1))


def _weight_rules(model: keras.Model, options: Mapping[str, Any], left_alone: Container[str]) -> Iterator[kwrap.Rule]:
    """Yield the rules for kernels: those of all layers that are not left alone, of layers in float too."""
    weights = QuantizeWeights(**options)
    layers = {
        path: layer
        for path, layer in kwrap.find_layers(model, "**").items()
        if layer.built and not is_in(path, left_alone) and weights.select_targets(layer, path)
    }
    return _rules(QuantizeWeights, [(layer, dict(options)) for layer in layers.values()])


def _activation_rules(walk: _Walk, options: Mapping[str, Any]) -> Iterator[kwrap.Rule]:
    """Yield the rules for activations, one for each hook with its options; the outermost first."""
    makers: tuple[tuple[type[kwrap.Hook], Callable[[_Needs, dict[str, Any]], Any]], ...] = (
        (
            QuantizeOutput,
            lambda needs, its: needs.outputs and {**_output_range(needs.layer, its), "tensors": needs.outputs},
        ),
        (QuantizeInput, lambda needs, its: needs.inputs and {**its, "tensors": needs.inputs}),
        (QuantizeBetween, lambda needs, its: needs.between and {**its, "tensors": 1}),
        (QuantizeActivation, lambda needs, its: needs.activation and {**its, "tensors": 1}),
        (QuantizeSteps, lambda needs, its: needs.steps and {name: its[name] for name in ("bits", "symmetric")}),
        (QuantizeNormalization, lambda needs, its: needs.normalization and {}),
    )
    for kind, options_of in makers:
        yield from _rules(
            kind, [(needs.layer, options_of(needs, _moving(needs, options))) for needs in walk.needs.values()]
        )


def _moving(needs: _Needs, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of ranges that move, in ways that the order of a layer's calls does not change."""
    return {**options, "range": options["range"] if needs.calls == 1 else "all_time"}


def _rules(kind: type[kwrap.Hook], chosen: Iterable[tuple[keras.Layer, Any]]) -> Iterator[kwrap.Rule]:
    """Yield the rules of one kind of hook; a layer's options are a dict, or false where it has no such hook."""
    groups: dict[tuple[tuple[str, Any], ...], set[int]] = {}
    for layer, options in chosen:
        if isinstance(options, dict):
            groups.setdefault(tuple(options.items()), set()).add(id(layer))
    for options, layers in groups.items():
        yield kind(**dict(options)).at(_one_of(layers))


def _one_of(layers: Container[int]) -> Callable[[keras.Layer, str], bool]:
    """Return a `where` that means the layers of these ids."""
    return lambda layer, path: id(layer) in layers


def _output_range(layer: keras.Layer, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the hook on a layer's outputs: a fixed range where LiteRT's kernel has one."""
    return {**options, "range": _fixed_range(layer, options) or options["range"]}


def _fixed_range(layer: keras.Operation, options: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the range that LiteRT gives the results of `layer` whatever they are; None: it has none."""
    name = "softmax" if isinstance(layer, keras.layers.Softmax) else activation_name(layer)
    return fixed_range(name, options["bits"], options["symmetric"])
