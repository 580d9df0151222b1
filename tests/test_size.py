"""Work in proportion to a model's layers: lines of kwrap's own that are run are counted, for times are noise."""

import gc
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import pytest

import kwrap
from kwrap import _keras

from .specimens import Adapter, Idle, Mask, NonNegative, Plus, branched, compiled, scale, sequential, shift

HOME = str(Path(kwrap.__file__).parent)


def lines_run(function: Callable[[], object]) -> int:
    """Return how many lines of kwrap's own modules a call runs, each turn of a comprehension included."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        code = frame.f_code
        if not code.co_filename.startswith(HOME) or "living_layers" in code.co_qualname:  # it looks at all that lives
            return None
        count += 1
        return trace

    gc.collect()
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


# --- models of any size ----------------------------------------------------------------------------------------------


class Block(keras.layers.Layer):
    """Hold layers in a list."""

    def __init__(self, held):
        super().__init__()
        self.held = held

    def call(self, inputs):
        for layer in self.held:
            inputs = layer(inputs)
        return inputs

    def get_config(self):
        return {"held": keras.saving.serialize_keras_object(self.held)}


class Stack(keras.Model):
    """Hold layers in a list; it is built."""

    def __init__(self, held):
        super().__init__()
        self.held = held
        self(keras.ops.ones((1, 1)))

    call, get_config = Block.call, Block.get_config


def denses(count, name=None):
    return [keras.layers.Dense(1, name=name) for _ in range(count)]


def graph(layers):
    inputs = outputs = keras.Input((1,))
    for layer in layers:
        outputs = layer(outputs)
    return keras.Model(inputs, outputs)


def sharing(count):
    shared = keras.layers.Dense(1)
    return Stack([Block([shared, *denses(1)]) for _ in range(count)])


MODELS = {
    "a graph": lambda count: graph(denses(count)),
    "a compiled graph": lambda count: compiled(graph(denses(count)), steps=1),
    "graphs in a graph": lambda count: graph([graph(denses(2)) for _ in range(count // 2)]),
    "a list": lambda count: Stack(denses(count)),
    "a list of namesakes": lambda count: Stack(denses(count, "dense")),
    "composites in a list": lambda count: Stack([Block(denses(2)) for _ in range(count // 2)]),
    "composites that share a layer": sharing,
}


# --- what is done with them ------------------------------------------------------------------------------------------


def hooks_on(model, hook=None):
    return [found for _, found in kwrap.find_hooks(model, hook)]


def paths_in(model):
    return [entry.path for entry in kwrap.plan(model, Mask).entries]


def bypass_each(model):
    with kwrap.bypass(model, hooks_on(model)):
        pass


# One after the other, on one model.
ACTS = {
    "plan": lambda model: kwrap.plan(model, Mask),
    "show": lambda model: repr(kwrap.plan(model, Mask)),
    "plan by paths": lambda model: kwrap.plan(model, Mask, where=paths_in(model), exclude=paths_in(model)[1:]),
    "wrap": lambda model: kwrap.wrap_model(model, [Mask, scale(factor=1.0)], where=keras.layers.Dense),
    "wrap again": lambda model: kwrap.wrap_model(model, Idle, where=keras.layers.Dense),
    "bypass each": bypass_each,
    "serialize": keras.saving.serialize_keras_object,
    "unwrap each": lambda model: kwrap.unwrap_model(model, hooks_on(model, Idle)),
    "unwrap": kwrap.unwrap_model,
    "adapt": lambda model: kwrap.wrap_model(model, Adapter),
    "adapt no more": kwrap.unwrap_model,
}
SIZES = (12, 24, 48)


@pytest.fixture(scope="module", params=MODELS)
def counts(request):
    """Return the lines run by each act on a model of each size."""
    gc.collect()
    gc.freeze()  # wrapping looks at all layers that live: not at those of other tests
    taken = {act: [] for act in ACTS}
    for count in (4, *SIZES):  # the first to fill caches
        model = MODELS[request.param](count)
        for act, do in ACTS.items():
            taken[act].append(lines_run(lambda do=do, model=model: do(model)))
    gc.unfreeze()
    return {act: numbers[1:] for act, numbers in taken.items()}


@pytest.mark.parametrize("act", ACTS)
def test_the_work_is_in_proportion_to_the_layers(counts, act):
    small, middle, large = counts[act]
    assert small > 100
    # Twice the layers more, twice the work more, to the line; any square in it is more.
    assert large - middle <= 2.001 * (middle - small)


# --- work that nobody needs ------------------------------------------------------------------------------------------


def calls(monkeypatch, owner, name):
    """Return a list that gets the arguments of each call of a function."""
    original, made = getattr(owner, name), []

    def recorded(*args, **kwargs):
        made.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, recorded)
    return made


@pytest.mark.parametrize("hook", [Idle, shift(amount=1.0)], ids=["idle", "call"])
def test_a_hook_that_does_not_act_on_weights_reads_none(monkeypatch, hook):
    model = graph(denses(4))
    read, assigned = calls(monkeypatch, _keras, "read"), calls(monkeypatch, keras.Variable, "assign")
    kwrap.unwrap_model(kwrap.wrap_model(model, hook))
    assert (read, assigned) == ([], [])


@pytest.mark.parametrize(("hook", "acts"), [(NonNegative, 2), (Plus, 1)], ids=["as stored", "as read"])
def test_a_weight_is_assigned_once_where_it_may_change(monkeypatch, hook, acts):
    """When the hook comes if it changes what is stored, and when it goes."""
    model = graph(denses(4))
    kernels = [layer.kernel for layer in model.layers[1:]]
    assigned = calls(monkeypatch, keras.Variable, "assign")
    kwrap.unwrap_model(kwrap.wrap_model(model, hook))
    mine = [variable for variable, *_ in assigned if any(variable is kernel for kernel in kernels)]
    assert [sum(variable is kernel for variable in mine) for kernel in kernels] == [acts] * 4


seen = []


@kwrap.hook(layer_type=keras.layers.Dense, name="size_blind")
def blind(call_next, inputs):
    seen.append(None)
    return call_next(inputs)


@kwrap.hook(layer_type=keras.layers.Dense, name="size_asking")
def asking(call_next, inputs, training):
    seen.append(training)
    return call_next(inputs)


@pytest.mark.parametrize(
    ("hook", "phases"),
    [(blind, {None: 1}), (asking, {True: 1, False: 1}), (blind(phase="training"), {None: 1})],
    ids=["blind", "asking", "by phase"],
)
def test_a_call_hook_is_tried_once_a_recorded_call_in_each_phase_that_it_can_tell(hook, phases):
    model = branched()  # one layer is called twice
    seen.clear()
    kwrap.wrap_model(model, hook)
    recorded = 6
    assert {phase: seen.count(phase) for phase in set(seen)} == {phase: n * recorded for phase, n in phases.items()}


def test_the_calls_of_all_layers_are_traced_at_once(monkeypatch):
    traces = calls(monkeypatch, _keras._graph, "output_spec")
    kwrap.wrap_model(graph(denses(5)), [asking, blind])
    assert len(traces) == 1


def test_a_callable_where_is_asked_once_a_path():
    asked = []
    kwrap.plan(sequential(), Idle, where=lambda layer, path: asked.append(path) or True)
    assert asked == ["first", "norm", "drop", "last"]
