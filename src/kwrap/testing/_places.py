"""Checks of a hook where layers are shared, held by others, not built yet, or have other hooks."""

from typing import Any

import keras

from kwrap._model import unwrap_model, wrap_model
from kwrap._wrapper import Wrapper
from kwrap.testing._check import NotApplicable, Wrong, check
from kwrap.testing._companions import Companion, Holder, HolderModel, probe
from kwrap.testing._compare import arrays, must_be_close, must_be_finite, must_be_same, signature_of, values
from kwrap.testing._example import Example
from kwrap.testing._saving import saved_and_loaded

__all__: list[str] = []


@check(where="kwrap.Hook.build", way_out="take shapes from the layer's weights in `build`, and not in `__init__`")
def an_unbuilt_layer_is_built_at_its_first_call(example: Example) -> None:
    """On a layer that is not built yet, the hook comes with the first call, and is then as on a built one."""
    built = example.new_layer()
    unbuilt = example.new_layer(build=False)
    if unbuilt.built and unbuilt.weights:
        raise NotApplicable("the layer is built at construction")
    wrapper = Wrapper(unbuilt, [example.new_hook()])
    outputs = example.call(wrapper)
    expected = example.wrapped(layer=built)
    if not example.hook.changes_output and signature_of(outputs) != signature_of(example.call(unbuilt)):
        raise Wrong(f"the output is {signature_of(outputs)}")
    received_paths = [tuple(variable.shape) for variable in wrapper.hooks[0].weights]
    if received_paths != [tuple(variable.shape) for variable in expected.hooks[0].weights]:
        raise Wrong("the hook's variables have other shapes than on a built layer")


@check(
    where="kwrap.wrap_model", way_out="state belongs to the layer, not to a call: no list of calls, no count of nodes"
)
def a_shared_layer_works(example: Example) -> None:
    """A layer that a model calls twice has the hook in both calls."""
    wrapper = example.wrapped_model().get_layer(example.layer.name)
    first = example.model(wrapper)
    doubled = keras.Model(first.inputs, [first(first.inputs), first(first.inputs)])
    outputs = doubled(example.data, training=False)
    single = example.call(wrapper)
    must_be_finite(outputs, "the output of the two calls")
    if not example.random_at_inference:
        for output in outputs:
            must_be_same(output, single, "a call of the shared layer")


@check(where="kwrap.wrap_model", way_out="`self.path` for names; never a layer's position in a model")
def it_works_inside_a_composite(example: Example) -> None:
    """Inside a layer of one's own, which holds the layer, it acts as on the layer alone, also saved and loaded."""
    _inside(example, Holder)


@check(where="kwrap.wrap_model", way_out="`self.path` for names; never a layer's position in a model")
def it_works_inside_a_subclassed_model(example: Example) -> None:
    """Inside a subclassed model it acts as on the layer alone."""
    _inside(example, HolderModel)


def _inside(example: Example, kind: type[Holder] | type[HolderModel]) -> None:
    if example.arguments:
        raise NotApplicable("the layer takes more than its inputs")
    alone = example.wrapped()
    holder: Any = kind(example.new_layer(), name="holder")
    model = example.model(holder) if kind is Holder else holder
    inputs = example.data if kind is Holder else example.inputs
    model(inputs)
    place = f"holder/{example.layer.name}" if kind is Holder else example.layer.name
    before = values(model.variables)
    example.seed()
    wrap_model(model, example.new_hook(), where=place)
    must_be_finite(model(inputs, training=True), "the output in training")
    if example.random_at_inference:
        return
    for variable, value in zip(unwrap_model(model, merge=False).variables, before, strict=True):
        variable.assign(value)  # such as moving averages of the layer, which training changed
    wrap_model(model, example.new_hook(), where=place)
    outputs = arrays(model(inputs, training=False))
    must_be_close(outputs, example.call(alone), "the output", rtol=1e-6)
    if kind is Holder:
        must_be_same(saved_and_loaded(model)(inputs, training=False), outputs, "the loaded model's output")


@check(where="kwrap.Hook.call", way_out="call `call_next`, and compute with `value`: other hooks are behind both")
def it_works_before_another_hook(example: Example) -> None:
    """With another hook between it and the layer, both act, in training and in inference."""
    _with_another(example, first=True)


@check(where="kwrap.Hook.call", way_out="call `call_next`, and compute with `value`: other hooks are behind both")
def it_works_after_another_hook(example: Example) -> None:
    """With another hook before it on the layer, both act, in training and in inference."""
    _with_another(example, first=False)


def _with_another(example: Example, *, first: bool) -> None:
    other, alone = Companion(name="another"), example.wrapped()
    called: list[Any] = []
    layer = example.new_layer(probe(type(example.layer), called.append))
    both = example.wrapped(after=[other], layer=layer) if first else example.wrapped(other, layer=layer)
    called.clear()
    for training in (False, True):
        outputs, expected = example.call(both, training), example.call(alone, training)
        must_be_finite(outputs, "the output")
        if signature_of(outputs) != signature_of(expected):
            raise Wrong(f"the output is {signature_of(outputs)} instead of {signature_of(expected)}")
        if not (example.random_in_training if training else example.random_at_inference):
            must_be_close(outputs, expected, "the output beside a hook that changes nothing", rtol=1e-6)
    if first and len(other.calls) != len(called):
        raise Wrong(f"the layer was called {len(called)} times, and the hook before it {len(other.calls)} times")
    example.trained(both, 2)
    must_be_finite(example.call(both), "the output after training")


@check(
    where="kwrap.unwrap_model", way_out="`merge` returns a value; it looks neither at other hooks nor at the Wrapper"
)
def it_is_taken_off_alone(example: Example) -> None:
    """Taken off without merging, it leaves another hook on the layer, and the weights as they are stored."""
    model = example.wrapped_model(after=[Companion(name="another")])
    wrapper = model.get_layer(example.layer.name)
    stored = values(wrapper.layer.weights)
    unwrap_model(model, example.hook.name, merge=False)
    if [hook.name for hook in wrapper.hooks] != ["another"]:
        raise Wrong(f"left are {[hook.name for hook in wrapper.hooks]}")
    must_be_same(values(wrapper.layer.weights), stored, "the stored weights")
    must_be_close(example.call_model(model), example.call(wrapper.layer), "the output", rtol=1e-6)
