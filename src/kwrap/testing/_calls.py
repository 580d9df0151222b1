"""Checks of what a hook does in its layer's call."""

import threading
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kwrap import _keras
from kwrap._model import bypass, collect
from kwrap._wrapper import Wrapper
from kwrap.testing._check import NotApplicable, Wrong, check
from kwrap.testing._companions import probe
from kwrap.testing._compare import must_be_finite, must_be_same, signature_of
from kwrap.testing._example import Example

__all__: list[str] = []

_PHASES = {"inference": False, "training": True}


@check(where="kwrap.Hook.call", way_out="set `changes_output = True` on the class if another shape is meant")
def output_keeps_shape_and_dtype(example: Example) -> None:
    """The output has the shape and dtype that the layer gives, unless the class says `changes_output`."""
    if example.hook.changes_output:
        raise NotApplicable("the class says `changes_output`")
    wrapper = example.wrapped()
    for phase, training in _PHASES.items():
        received = signature_of(example.call(wrapper, training))
        expected = signature_of(example.call(wrapper.layer, training))
        if received != expected:
            raise Wrong(f"in {phase} it is {received} instead of {expected}")


@check(where="kwrap.Hook.call", way_out="take sizes from `keras.ops.shape`, and make no shape depend on values")
def output_is_as_announced(example: Example) -> None:
    """What a symbolic call announces, and a model is built on, is what a call gives."""
    wrapper = example.wrapped()
    announced = signature_of(example.model(wrapper).outputs)
    for phase, training in _PHASES.items():
        given = signature_of(example.call(wrapper, training))
        fits = len(given) == len(announced) and all(
            one[0] == other[0]
            and len(one[1]) == len(other[1])
            and all(a in (b, None) for a, b in zip(one[1], other[1], strict=True))
            for one, other in zip(announced, given, strict=True)
        )
        if not fits:
            raise Wrong(f"in {phase} a call gives {given}, and a symbolic one {announced}")


@check(where="kwrap.Hook.call", way_out="add a small number before a logarithm, a root or a division")
def output_is_finite(example: Example) -> None:
    """Where the layer's output is finite, so is that with the hook."""
    wrapper = example.wrapped()
    for phase, training in _PHASES.items():
        must_be_finite(example.call(wrapper, training), f"the output in {phase}")


@check(where="kwrap.Hook.call", way_out="for chance at inference, skip this check and say so")
def inference_is_repeatable(example: Example) -> None:
    """Two calls in inference give the same: nothing is drawn or counted there."""
    if example.hook.phase != "training" and example.random_at_inference and _draws(example):
        raise NotApplicable("the hook draws from a seed generator at inference")
    wrapper = example.wrapped()
    first = example.call(wrapper)
    must_be_same(example.call(wrapper), first, "the second call's output")


@check(where="kwrap.Hook.call", way_out="no hook needs to do anything for it: take `inputs` by position, name the rest")
def keyword_calls_are_the_same(example: Example) -> None:
    """A layer may be called with its inputs by keyword; the hook sees the same."""
    name = next(iter(_keras.call_signature(example.layer).parameters))
    by_position, by_keyword = example.wrapped(), example.wrapped()
    expected = example.call(by_position)
    received = by_keyword(**{name: example.inputs}, **example.arguments, training=False)
    must_be_same(received, expected, f"with {name}=... the output")


@check(where="kwrap.Hook.call", way_out="leave out of `call_next` what is not to change: it keeps the mask")
def mask_is_kept(example: Example) -> None:
    """The layer gets the mask that it would get without the hook, given or from the layer before, and hands it on."""
    if example.arguments or not isinstance(example.inputs, np.ndarray) or example.inputs.ndim < 2:
        raise NotApplicable("no single input with an axis to mask")
    if example.inputs.dtype.kind != "f":
        raise NotApplicable("Keras masks floating inputs")
    seen: list[Any] = []
    layer = example.new_layer(probe(type(example.layer), lambda kwargs: seen.append(kwargs.get("mask"))))
    wrapper = example.wrapped(layer=layer)
    inputs = np.array(example.inputs)
    inputs[:, -1] = 0.0
    masked = keras.layers.Masking(0.0)(inputs)
    for given in ({}, {"mask": np.arange(inputs[..., 0].size).reshape(inputs.shape[:-1]) % 2 == 0}):
        results = []
        for called in (layer, wrapper):
            seen.clear()
            output = called(masked if not given else inputs, **example.arguments, **given)
            results.append((list(seen), keras.tree.map_structure(_keras.get_keras_mask, output)))
        (expected, handed), (received, handed_on) = results
        how = "given by keyword" if given else "of the layer before"
        for mask in received:  # of each call, as a hook may call the layer 0 to n times
            if not _are_same_masks(mask, expected[0]):
                raise Wrong(f"the layer does not get the mask {how}")
        pairs = zip(keras.tree.flatten(handed), keras.tree.flatten(handed_on), strict=True)
        if not all(_are_same_masks(*pair) for pair in pairs):
            raise Wrong(f"the output does not carry on the mask {how}")


def _are_same_masks(one: Any, other: Any) -> bool:
    return (one is None) == (other is None) and (one is None or np.array_equal(one, other))


@check(where="kwrap.Hook.call", way_out="name `training` to know it; do not give it to `call_next`")
def training_is_kept(example: Example) -> None:
    """The layer is told whether it is training as it would be without the hook."""
    seen: list[Any] = []
    kind = probe(type(example.layer), lambda kwargs: seen.append(kwargs.get("training")))
    wrapper = example.wrapped(layer=example.new_layer(kind))
    for training in (False, True):
        seen.clear()
        example.call(wrapper, training)
        if other := [given for given in seen if bool(given) is not training]:
            raise Wrong(f"in a call with training={training} the layer was called with training={other[0]}")


@check(
    where="kwrap.Hook.call", way_out="local variables; between calls, `add_weight` or `add_state`; to others, `emit`"
)
def calls_leave_nothing_on_the_hook(example: Example) -> None:
    """A hook stores nothing of a call on itself: it is called from several threads, and in graphs that are left."""
    wrapper = example.wrapped()
    hooks = [wrapper.hooks[0]]
    before = [_contents(vars(hook)) for hook in hooks]
    for training in (False, True):
        example.call(wrapper, training)
    for hook, contents in zip(hooks, before, strict=True):
        after = _contents(vars(hook))
        changed = sorted(name for name in {*contents, *after} if contents.get(name) != after.get(name))
        if changed:
            raise Wrong(f"a call changed or made the attributes {', '.join(map(repr, changed))}")


@check(where="kwrap.Hook.call", way_out="keep what belongs to one call in local variables of that call")
def calls_of_two_threads_do_not_meet(example: Example) -> None:
    """A call that is inside the layer while another thread makes a whole call gives what it gives alone."""
    if example.random_at_inference:
        raise NotApplicable("two calls in inference differ anyway")
    if not isinstance(example.inputs, np.ndarray):
        raise NotApplicable("the layer has several inputs")
    one, other = example.inputs, example.other_inputs()
    if np.array_equal(one, other):
        raise NotApplicable("the input consists of zeros: there is no other to tell calls apart by")
    inside, go_on, first = threading.Event(), threading.Event(), threading.get_ident()

    def look(_: Any) -> None:
        if threading.get_ident() != first and not inside.is_set():
            inside.set()
            go_on.wait(30)

    wrapper = example.wrapped(layer=example.new_layer(probe(type(example.layer), look)))
    alone = [example.call(wrapper, inputs=each) for each in (one, other)]
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(example.call(wrapper, inputs=one)))
    thread.start()
    try:
        if not inside.wait(5):
            raise NotApplicable("the hook does not call the layer")
        meanwhile = example.call(wrapper, inputs=other)
    finally:
        go_on.set()
        thread.join(30)
    if not results:
        raise Wrong("the call that was interrupted raised an error")
    must_be_same(meanwhile, alone[1], "the output of the call in between")
    must_be_same(results[0], alone[0], "the output of the call that was interrupted")


@check(
    where="kwrap.bypass", way_out="no hook needs to do anything for it, if it acts in `call` and `parametrize` alone"
)
def bypassed_it_does_nothing(example: Example) -> None:
    """Inside `kwrap.bypass` the model gives what the layer gives without the hook, to the bit."""
    model = example.wrapped_model()
    before = example.call_model(model)
    twin = example.new_layer()
    for variable, own in zip(twin.variables, model.get_layer(example.layer.name).layer.variables, strict=True):
        variable.assign(own.value)
    expected = example.call(twin)
    with bypass(model):
        must_be_same(example.call_model(model), expected, "the output of the bypassed model")
    if not example.random_at_inference:
        must_be_same(example.call_model(model), before, "the output after the bypass")


@check(where="kwrap.Hook.emit", way_out="emit inside `call` or `parametrize`, outside of a `keras.ops.cond` or a loop")
def what_it_emits_can_be_collected(example: Example) -> None:
    """What a hook emits can be collected, around an eager call and inside a compiled one."""
    for training in (False, True):
        model = example.wrapped_model()
        hook = model.get_layer(example.layer.name).hooks[0]
        emitted: list[str] = []
        object.__setattr__(hook, "emit", lambda name, _: emitted.append(name))  # noqa: B023
        example.call_model(model, training)
        object.__delattr__(hook, "emit")
        for name in dict.fromkeys(emitted):
            with collect(model, name) as found:
                example.call_model(model, training)
            counts = [len(each) for each in found.values()]
            if counts != [emitted.count(name)]:
                raise Wrong(f"of {emitted.count(name)} values named {name!r}, {sum(counts)} are collected")
            eager, compiled = _collected(example, model, name, training)
            if eager != compiled:
                raise Wrong(f"{name!r} is {compiled} in a compiled call, and {eager} in an eager one")
        if emitted:
            return
    raise NotApplicable("it emits nothing")


def _collected(example: Example, model: keras.Model, name: str, training: bool) -> tuple[Any, Any]:
    """Return the dtypes and shapes of what is collected inside an eager call and inside a compiled one."""

    def call() -> Any:
        with collect(model, name) as found:
            example.call_model(model, training)
        return list(found.values())

    return signature_of(call()), signature_of(tf.function(call)())


@check(where="kwrap.Hook.call", way_out="let the layer's errors pass, or catch those only that the hook can put right")
def errors_of_the_layer_pass(example: Example) -> None:
    """An error of the layer reaches the caller as it is."""

    class BrokenError(Exception):
        pass

    state = {"raises": False, "called": False}

    def look(_: Any) -> None:
        state["called"] = True
        if state["raises"]:
            raise BrokenError

    wrapper = example.wrapped(layer=example.new_layer(probe(type(example.layer), look)))
    state["called"] = False
    example.call(wrapper)
    if not state["called"]:
        raise NotApplicable("the hook does not call the layer")
    state["raises"] = True
    try:
        example.call(wrapper)
    except BrokenError:
        return
    except Exception as error:
        raise Wrong(f"the layer's error became {type(error).__name__}: {error}") from error
    raise Wrong("the layer's error is swallowed")


def _draws(example: Example) -> bool:
    wrapper: Wrapper = example.wrapped()
    return any("seed_generator" in variable.path for variable in wrapper.hooks[0].variables)


def _contents(value: Any, depth: int = 0) -> Any:
    """Return containers as data, all else as its identity, or its value if it is a number or a text."""
    if isinstance(value, str | int | float | bool | type(None)):
        return value
    if isinstance(value, dict) and depth < 4:
        return {str(key): _contents(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple) and depth < 4:
        return [_contents(item, depth + 1) for item in value]
    return id(value)
