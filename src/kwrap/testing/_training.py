"""Checks of how a layer trains with a hook."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kwrap._wrapper import Wrapper
from kwrap.errors import KwrapError
from kwrap.testing._check import NotApplicable, Wrong, check
from kwrap.testing._compare import arrays, must_be_close, must_be_finite, must_be_same, signature_of, values
from kwrap.testing._example import Example
from kwrap.testing._weights import constrained

__all__: list[str] = []

# Of a central difference in float32: enough to be far off rounding, and near enough for a curved function.
_STEP = 1e-2
# Of a direction, as its norm: a step moves no output of a layer of many weights far.
_LONGEST = 4.0
# Of a loss in float32, relative.
_ROUNDING = 2e-6


@check(where="kwrap.Hook.parametrize", way_out="for a straight-through estimator, skip this check and say so")
def gradients_match_finite_differences(example: Example) -> None:
    """The gradients of weights, of the hook's own variables and of inputs are those of the function it computes."""
    wrapper = example.wrapped()
    if example.loss(example.call(wrapper)) is None:
        raise NotApplicable("no output is floating")
    if not wrapper.trainable_variables and not any(map(_is_floating, keras.tree.flatten(example.inputs))):
        raise NotApplicable("there are neither trainable variables nor floating inputs")
    if wrong := _wrong_slope(example, wrapper):
        if own := _wrong_slope(example, example.new_layer()):
            raise NotApplicable(f"it is so without the hook, too, where the layer is curved too much: {own}")
        raise Wrong(wrong)


def _wrong_slope(example: Example, layer: Any) -> str | None:
    """Return where a gradient is not the slope that two values of the loss give."""
    state, variables = _State(layer), layer.trainable_variables
    inputs = [tf.constant(leaf) for leaf in keras.tree.flatten(example.inputs)]
    floating = [index for index, leaf in enumerate(inputs) if _is_floating(leaf)]

    def loss(leaves: Any) -> Any:
        return example.loss(example.call(layer, True, keras.tree.pack_sequence_as(example.inputs, leaves)))

    def loss_of_variable(index: int, value: Any) -> Any:
        variables[index].assign(value)
        return loss(inputs)

    def loss_of_input(index: int, value: Any) -> Any:
        return loss([*inputs[:index], tf.constant(value), *inputs[index + 1 :]])

    with tf.GradientTape() as tape:
        tape.watch([inputs[index] for index in floating])
        found = loss(inputs)
    if not np.isfinite(float(found)):
        raise NotApplicable("the output is not finite, as `output_is_finite` tells")
    state.restore()
    looks = [(variable.path, variable.value, loss_of_variable, index) for index, variable in enumerate(variables)]
    looks += [(f"input {index}", inputs[index], loss_of_input, index) for index in floating]
    gradients = tape.gradient(found, [*(variable.value for variable in variables), *(inputs[i] for i in floating)])
    generator = np.random.default_rng(0)
    for (name, value, function, index), gradient in zip(looks, gradients, strict=True):
        start = np.array(keras.ops.convert_to_numpy(value))
        dense = _dense(gradient, start.shape)
        # Along the gradient itself no part of it cancels another; where it is zero by mistake, chance finds it.
        for signs in (np.sign(dense), generator.choice([-1.0, 1.0], start.shape)):
            direction = signs * min(1.0, _LONGEST / max(float(np.linalg.norm(signs)), 1.0))
            ends = []
            for sign in (1.0, -1.0):
                ends.append(float(function(index, (start + sign * _STEP * direction).astype(start.dtype))))
                state.restore()
            if wrong := _unlike_slope(dense, direction, ends):
                return f"along a direction the gradient of {name} is {wrong}"
    return None


def _unlike_slope(gradient: Any, direction: Any, ends: list[float]) -> str | None:
    received, expected = float(np.sum(gradient * direction)), (ends[0] - ends[1]) / (2 * _STEP)
    scale = float(np.sum(np.abs(gradient * direction))) + abs(expected)
    if abs(received - expected) <= 2e-2 * scale + _ROUNDING * max(map(abs, ends)) / _STEP:
        return None
    return f"{received:.5g}, and the difference {expected:.5g}"


def _dense(gradient: Any, shape: tuple[int, ...]) -> Any:
    if gradient is None:
        return np.zeros(shape)
    return keras.ops.convert_to_numpy(tf.convert_to_tensor(gradient)).astype("float64")


def _is_floating(array: Any) -> bool:
    return bool(keras.backend.is_float_dtype(keras.backend.standardize_dtype(array.dtype)))


@check(where="kwrap.Hook.build", way_out="use each trainable variable in `call` or `parametrize`; else trainable=False")
def its_own_variables_train(example: Example) -> None:
    """Every trainable variable of the hook has a gradient."""
    wrapper = example.wrapped()
    variables = wrapper.hooks[0].trainable_variables
    if not variables:
        raise NotApplicable("it has no trainable variables")
    with tf.GradientTape() as tape:
        loss = example.loss(example.call(wrapper, True))
    gradients = tape.gradient(loss, [variable.value for variable in variables])
    if without := [v.path for v, gradient in zip(variables, gradients, strict=True) if gradient is None]:
        raise Wrong(f"{without} have no gradient")


@check(where="kwrap.Hook.constrain", way_out="project at every step, whatever `step` is")
def training_keeps_the_constraint(example: Example) -> None:
    """After each step of training the stored weights are as `constrain` wants them."""
    _must_train(example, wrapper := example.wrapped())
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    for step in range(3):
        example.train_step(wrapper, optimizer)
        _must_be_constrained(wrapper, f"after step {step}")


@check(where="kwrap.Hook.constrain", way_out="kwrap_prune counts updates with its option `gradient_accumulation_steps`")
def works_with_gradient_accumulation(example: Example) -> None:
    """With an optimizer that updates at every second call, while `constrain` runs at each, weights stay in order."""
    model = example.model()
    model.compile(keras.optimizers.SGD(0.05, gradient_accumulation_steps=2))
    try:
        example.wrapped_model(model)
    except KwrapError as error:
        if example.hook.name not in str(error):
            raise Wrong(f"it is refused by an error that does not name the hook: {error}") from error
        raise NotApplicable(f"refused: {error}") from error
    wrapper = model.get_layer(example.layer.name)
    _must_train(example, wrapper)
    optimizer = keras.optimizers.SGD(0.05, gradient_accumulation_steps=2)
    for step in range(4):
        example.train_step(wrapper, optimizer)
        _must_be_constrained(wrapper, f"after call {step} of the optimizer")
    must_be_finite(example.call(wrapper), "the output after training")


@check(where="kwrap.Hook", way_out="draw with `keras.random` and a `SeedGenerator`, as kwrap_noise does")
def same_seed_same_run(example: Example) -> None:
    """Two runs of the same seed (`keras.utils.set_random_seed`) give the same weights, to the bit."""
    runs = []
    for _ in range(2):
        wrapper = example.wrapped()
        keras.utils.set_random_seed(7)
        example.trained(wrapper)
        runs.append((wrapper.variables, values(wrapper.variables)))
    (variables, one), (_, other) = runs
    must_be_same(one, other, "the second run", [variable.path for variable in variables])


@check(
    where="kwrap.Hook",
    way_out="make a `keras.random.SeedGenerator` in `build`, and give it as `seed` to what draws, as kwrap_noise does",
)
def draws_by_a_seed_generator_of_its_own(example: Example) -> None:
    """What a call draws comes from a `SeedGenerator` of the hook: the global ones differ in a graph and in replicas."""
    for phase, training in (("training", True), ("inference", False)):
        if _draws_globally(example, example.wrapped(), training):
            if _draws_globally(example, example.new_layer(), training):
                raise NotApplicable(f"in {phase} the layer itself draws by a global generator")
            raise Wrong(f"in {phase} it draws, and not by a SeedGenerator: by the one of Keras, NumPy or TensorFlow")


def _draws_globally(example: Example, layer: Any, training: bool) -> bool:
    """Tell whether calls of the same state differ, and are the same with the same global seed."""
    state, outputs = _State(layer), []
    keras.utils.set_random_seed(7)
    for again in (False, False, True):
        if again:
            keras.utils.set_random_seed(7)
        outputs.append([array.tobytes() for array in arrays(example.call(layer, training))])
        state.restore()
    first, second, third = outputs
    return first != second and first == third


@check(
    where="kwrap.Hook.call", way_out="`keras.random` with a `SeedGenerator`: NumPy draws once, when the graph is made"
)
def chance_is_not_frozen_in_a_graph(example: Example) -> None:
    """What is drawn anew at each eager call is drawn anew at each call of a compiled function."""
    if not example.random_in_training:
        raise NotApplicable("nothing is drawn")
    wrapper = example.wrapped()
    function = tf.function(lambda: example.call(wrapper, True))
    one, two = (keras.tree.map_structure(keras.ops.convert_to_numpy, function()) for _ in range(2))
    if all(map(np.array_equal, keras.tree.flatten(one), keras.tree.flatten(two))):
        raise Wrong("two calls of a compiled function give the same, and two eager calls do not")


@check(
    where="kwrap.Hook.call",
    way_out="`keras.ops` and variables: no Python `if` on a tensor, no NumPy, no Python counter",
)
def a_compiled_step_is_an_eager_one(example: Example) -> None:
    """Steps of training in a compiled function, traced once, give the weights and the state that eager ones give."""
    _must_train(example, example.wrapped())
    eager, compiled = example.wrapped(), example.wrapped()
    optimizers = [keras.optimizers.SGD(0.05, momentum=0.9) for _ in range(2)]
    for optimizer, wrapper in zip(optimizers, (eager, compiled), strict=True):
        optimizer.build(wrapper.trainable_variables)
    function = tf.function(lambda: example.train_step(compiled, optimizers[1]))
    for _ in range(3):
        example.train_step(eager, optimizers[0])
        function()
    if function.experimental_get_tracing_count() > 1:
        raise Wrong(f"the step was traced {function.experimental_get_tracing_count()} times")
    names = [variable.path for variable in eager.variables]
    must_be_close(values(compiled.variables), values(eager.variables), "after compiled training", names, rtol=1e-3)


@check(where="kwrap.wrap_model", way_out="nothing but variables changes during training")
def fit_works(example: Example) -> None:
    """`fit` and `predict` of a compiled model work with the hook, and the losses are finite."""
    model = example.wrapped_model()
    if [dtype.startswith(("float", "bfloat")) for dtype, _ in signature_of(model.outputs)] != [True]:
        raise NotApplicable("the layer has several outputs, or none that is floating")
    if not model.trainable_variables:
        raise NotApplicable("there are no trainable variables")
    targets = np.zeros(tuple(example.call_model(model).shape), "float32")
    model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=False)
    losses = model.fit(example.data, targets, batch_size=len(targets), epochs=2, verbose=0).history["loss"]
    must_be_finite(np.array(losses), "the losses")
    must_be_finite(model.predict(example.data, verbose=0), "what `predict` gives")


class _State:
    """The values of a layer's variables, to come back to: each look at the function starts from the same."""

    def __init__(self, layer: Any) -> None:
        self._variables = layer.variables
        self._values = values(self._variables)

    def restore(self) -> None:
        """Assign them."""
        for variable, value in zip(self._variables, self._values, strict=True):
            variable.assign(value)


def _must_train(example: Example, wrapper: Wrapper) -> None:
    """Raise NotApplicable unless there is something to train."""
    if example.loss(example.call(wrapper)) is None:
        raise NotApplicable("no output is floating")
    if not wrapper.trainable_variables:
        raise NotApplicable("there are no trainable variables")


def _must_be_constrained(wrapper: Wrapper, when: str) -> None:
    (hook,) = wrapper.hooks
    if type(hook).overrides("constrain"):
        for target in hook.target_weights:
            stored = values([target.variable])
            must_be_same([constrained(hook, target, stored[0])], stored, f"{target.name!r} {when}, constrained again")
