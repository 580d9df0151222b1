"""Hooks that are each broken in one way, and the check of `kwrap.testing` that is to find it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

import kwrap


@dataclass(frozen=True)
class Case:
    """A broken hook, the check that is made to find it, and those that cannot but find it too: "*" is all."""

    hook: type[kwrap.Hook]
    check: str
    also: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    bad_options: tuple[dict[str, Any], ...] = ()


CASES: list[Case] = []


def broken(
    check: str, *also: str, layer_type: type[keras.Layer] = keras.layers.Dense, register: bool = True, **case: Any
) -> Callable[[type[kwrap.Hook]], type[kwrap.Hook]]:
    """Register a hook, and note which check is to find what is wrong with it."""

    def add(hook: type[kwrap.Hook]) -> type[kwrap.Hook]:
        if register:
            kwrap.hook(layer_type=layer_type)(hook)
        CASES.append(Case(hook, check, also, **case))
        return hook

    return add


# --- options ---------------------------------------------------------------------------------------------------------


@kwrap.hook(layer_type=keras.layers.Dense)
class BrokenParent(kwrap.Hook):
    """Multiply the outputs."""

    def call(self, call_next, inputs):
        return call_next(inputs) * 2.0


@broken("registered_under_its_name", register=False)
class BrokenUnregistered(BrokenParent):
    """Derives from a registered hook, and is not registered itself."""


BrokenUnregistered.layer_type = (keras.layers.Dense,)  # or it could be put on no layer


@broken("says_what_it_does")
class BrokenSilent(kwrap.Hook):
    def call(self, call_next, inputs):
        return call_next(inputs) * 2.0


@broken("explains_its_options", options={"factor": 3.0})
class BrokenUnexplained(kwrap.Hook):
    """Multiply the outputs by an option that the docstring does not name."""

    def __init__(self, factor=2.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, call_next, inputs):
        return call_next(inputs) * self.factor


@broken("every_option_is_tried", options={"factor": 2.0})
class BrokenUntried(kwrap.Hook):
    """Multiply the outputs by `factor`, of which the suite tries the default only."""

    def __init__(self, factor=2.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, call_next, inputs):
        return call_next(inputs) * self.factor


@broken("bad_options_are_refused", options={"rate": 0.5}, bad_options=({"rate": -1.0},))
class BrokenCredulous(kwrap.Hook):
    """Take any `rate`."""

    def __init__(self, rate=0.1, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate

    def call(self, call_next, inputs):
        return call_next(inputs) * self.rate


@broken("bad_options_are_refused", options={"rate": 0.5}, bad_options=({"rate": -1.0},))
class BrokenAnonymous(kwrap.Hook):
    """Refuse a `rate` by an error that names nothing."""

    def __init__(self, rate=0.1, **kwargs):
        super().__init__(**kwargs)
        if rate < 0:
            raise ValueError("invalid value")
        self.rate = rate

    def call(self, call_next, inputs):
        return call_next(inputs) * self.rate


@broken("bad_options_are_refused", options={"rate": 0.5}, bad_options=({"raet": -1.0},))
class BrokenTypist(kwrap.Hook):
    """Take any `rate`, which the suite's `bad_options` misspell."""

    def __init__(self, rate=0.1, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate

    def call(self, call_next, inputs):
        return call_next(inputs) * self.rate


@broken("config_comes_back", options={"factor": 3.0})
class BrokenForgetful(kwrap.Hook):
    """Write a config of its own, without `factor`."""

    def __init__(self, factor=2.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def get_config(self):
        return {"name": self.name, "phase": self.phase, "targets": None}

    def call(self, call_next, inputs):
        return call_next(inputs) * self.factor


@broken("config_is_json", options={"factor": 3.0})
class BrokenTuple(kwrap.Hook):
    """Write a config of its own, with a tuple, which JSON has not, of `factor`."""

    def __init__(self, factor=2.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor[0] if isinstance(factor, tuple) else factor

    def get_config(self):
        return {**super().get_config(), "factor": (self.factor,)}

    def call(self, call_next, inputs):
        return call_next(inputs) * self.factor


@broken("options_are_left_alone", "calls_leave_nothing_on_the_hook", options={"factors": [3.0, 4.0]})
class BrokenConsuming(kwrap.Hook):
    """Take the next of `factors` off the list at each call."""

    def __init__(self, factors=(2.0,), **kwargs):
        super().__init__(**kwargs)
        self.factors = factors

    def get_config(self):
        return self._config

    def call(self, call_next, inputs):
        return call_next(inputs) * self.factors[0]


@broken("takes_another_name")
class BrokenNamed(kwrap.Hook):
    """Have one name, whatever is asked."""

    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "name": "fixed"})

    def call(self, call_next, inputs):
        return call_next(inputs) * 2.0


@broken("version_has_its_migration")
class BrokenVersion(kwrap.Hook):
    """Have a second version, and no way from the first."""

    version = 2

    def call(self, call_next, inputs):
        return call_next(inputs) * 2.0


@broken("goes_on_its_layer_types", layer_type=keras.layers.Layer)
class BrokenForAll(kwrap.Hook):
    """Say that it is for every layer, and need a kernel."""

    def build(self, layer):
        self.factor = self.add_weight((layer.kernel.shape[-1],), initializer="ones", trainable=False, name="factor")

    def call(self, call_next, inputs):
        return call_next(inputs) * keras.ops.cast(self.factor, inputs.dtype)


# --- calls -----------------------------------------------------------------------------------------------------------


@broken("output_keeps_shape_and_dtype", "*")  # kwrap itself stops every call
class BrokenWide(kwrap.Hook):
    """Give the outputs in another dtype, and say nothing of it."""

    def call(self, call_next, inputs):
        return keras.ops.cast(call_next(inputs), "float64")


@broken("output_is_as_announced", "output_keeps_shape_and_dtype")
class BrokenAnnouncement(kwrap.Hook):
    """Say `changes_output`, and give other shapes in training than the symbolic call announced."""

    changes_output = True

    def call(self, call_next, inputs, training):
        outputs = call_next(inputs)
        return keras.ops.concatenate([outputs, outputs], axis=-1) if training else outputs


@broken("output_is_finite")
class BrokenLog(kwrap.Hook):
    """Take the logarithm of what may be negative."""

    def call(self, call_next, inputs):
        return keras.ops.log(call_next(inputs))


@broken("inference_is_repeatable")
class BrokenDrawing(kwrap.Hook):
    """Count calls at inference, too, and grow with them."""

    def build(self, layer):
        self.calls = self.add_weight((), initializer="zeros", trainable=False, name="calls")

    def call(self, call_next, inputs):
        self.calls.assign_add(1.0)
        outputs = call_next(inputs)
        return outputs * keras.ops.cast(self.calls, outputs.dtype)


@broken("graph_agrees_with_eager")
class BrokenShape(kwrap.Hook):
    """Divide by the number of examples in the batch, which a graph does not know."""

    def call(self, call_next, inputs):
        return call_next(inputs) / (inputs.shape[0] or 1)


@broken("xla_agrees_with_eager")
class BrokenOp(kwrap.Hook):
    """Call Python from the graph, which XLA cannot."""

    def call(self, call_next, inputs):
        outputs = call_next(inputs)
        if tf.is_tensor(outputs):
            outputs += keras.ops.cast(tf.numpy_function(lambda: np.float32(1.0), (), tf.float32), outputs.dtype)
        return outputs


@broken("mask_is_kept")
class BrokenUnmasking(kwrap.Hook):
    """Take the mask away."""

    def call(self, call_next, inputs, mask):
        return call_next(inputs, **({} if mask is None else {"mask": None})) * 2.0


@broken("training_is_kept")
class BrokenInference(kwrap.Hook):
    """Call the layer as at inference."""

    def call(self, call_next, inputs):
        return call_next(inputs, training=False) * 2.0


@broken("calls_leave_nothing_on_the_hook")
class BrokenRemembering(kwrap.Hook):
    """Keep the last outputs in an attribute."""

    def call(self, call_next, inputs):
        self.last = call_next(inputs) * 2.0
        return self.last


@broken("calls_of_two_threads_do_not_meet", "calls_leave_nothing_on_the_hook")
class BrokenSharing(kwrap.Hook):
    """Hand a value from before the layer's call to after it in an attribute."""

    def call(self, call_next, inputs):
        self.mean = keras.ops.mean(inputs, axis=-1, keepdims=True)
        return call_next(inputs) + self.mean


@broken("nothing_is_traced_again", "calls_leave_nothing_on_the_hook")
class BrokenTracing(kwrap.Hook):
    """Compile a function with a Python number that is another one at each call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.__dict__["count"] = 0
        self.__dict__["add"] = tf.function(lambda outputs, count: outputs * 2.0 + 0.0 * count)

    def call(self, call_next, inputs):
        outputs = call_next(inputs)
        if not tf.is_tensor(outputs):
            return outputs
        self.__dict__["count"] += 1
        return self.add(outputs, float(self.count))


@broken("nothing_is_traced_again")
class BrokenPeeking(kwrap.Hook):
    """Compile a function with a Python number that the inputs give."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.__dict__["add"] = tf.function(lambda outputs, mean: outputs * 2.0 + 0.0 * mean)

    def call(self, call_next, inputs):
        outputs = call_next(inputs)
        if not tf.is_tensor(outputs) or not tf.executing_eagerly():
            return outputs * 2.0
        return self.add(outputs, float(keras.ops.mean(inputs)))


@broken("costs_nothing_where_it_does_nothing")
class BrokenIdle(kwrap.Hook):
    """Multiply by one at inference."""

    def parametrize(self, target, value, *, training):
        return value * 2.0 if training else value * 1.0

    def merge(self, target, value):
        return value


@broken("what_it_emits_can_be_collected")
class BrokenEmitting(kwrap.Hook):
    """Emit inside of a compiled function of its own."""

    def call(self, call_next, inputs):
        outputs = call_next(inputs)
        if not tf.is_tensor(outputs):
            return outputs

        @tf.function
        def doubled(value):
            self.emit("doubled", value)
            return value * 2.0

        return doubled(outputs)


@broken("errors_of_the_layer_pass")
class BrokenSwallowing(kwrap.Hook):
    """Give the inputs where the layer fails."""

    def call(self, call_next, inputs):
        try:
            return call_next(inputs) * 2.0
        except Exception:
            return inputs


@broken("works_in_float16")
class BrokenOverflow(kwrap.Hook):
    """Go through numbers that float16 has not."""

    def parametrize(self, target, value):
        return value * 1e6 / 1e6 * 0.5


@broken("works_in_bfloat16", "works_in_float16")
class BrokenConstant(kwrap.Hook):
    """Multiply weights by a constant of float32."""

    def parametrize(self, target, value):
        return value * tf.constant(0.5, "float32") if value.dtype != "float64" else value


@broken("works_in_mixed_precision", "works_in_float16", "works_in_bfloat16")
class BrokenMixing(kwrap.Hook):
    """Give the outputs in float32, whatever the layer's are in."""

    def call(self, call_next, inputs):
        return keras.ops.cast(call_next(inputs), "float32") * 2.0


# --- weights ---------------------------------------------------------------------------------------------------------


@broken("its_variables_are_its_own")
class BrokenKeeping(kwrap.Hook):
    """Keep the layer in an attribute."""

    def build(self, layer):
        self.wrapped_layer = layer

    def call(self, call_next, inputs):
        return call_next(inputs) * 2.0


@broken("other_weights_are_left_alone", "weights_of_the_plain_model_load")
class BrokenMeddling(kwrap.Hook):
    """Set the bias to zero."""

    def initialize(self, layer):
        layer.bias.assign(keras.ops.zeros_like(layer.bias))

    def call(self, call_next, inputs):
        return call_next(inputs) * 2.0


@broken("parametrize_reads_the_value_given")
class BrokenReading(kwrap.Hook):
    """Halve the variable's value, and not the one given."""

    def parametrize(self, target, value):
        return keras.ops.convert_to_tensor(target.variable.value) * 0.5


@broken("constrain_reads_the_value_given")
class BrokenStoring(kwrap.Hook):
    """Keep the variable's value at zero or above, and not the one given."""

    def constrain(self, target, value):
        return keras.ops.relu(keras.ops.convert_to_tensor(target.variable.value))


@broken("constrain_is_idempotent", "training_keeps_the_constraint")
class BrokenShrinking(kwrap.Hook):
    """Shrink the weights whenever they are looked at, saved, or the model is unwrapped."""

    def constrain(self, target, value):
        return value * 0.9


@broken("saving_does_not_advance_it")
class BrokenAdvancing(kwrap.Hook):
    """Count updates, and take saving for one."""

    def build(self, layer):
        for target in self.target_weights:
            self.add_state(target, "updates", dtype="int32")

    def constrain(self, target, value, *, step):
        self.state(target, "updates").assign_add(1)
        return keras.ops.relu(value)


@broken("merged_equals_wrapped")
class BrokenMerging(kwrap.Hook):
    """Leave the weights without its effect on unwrapping."""

    def parametrize(self, target, value):
        return value * 0.5

    def merge(self, target, value):
        return value


@broken("adds_the_same_to_any_value")
class BrokenAdding(kwrap.Hook):
    """Say that it only adds, and add a share of the weight."""

    additive = True

    def parametrize(self, target, value):
        return value + 0.5 * value


@broken("unwrapping_leaves_nothing")
class BrokenLeaving(kwrap.Hook):
    """Leave an attribute on the layer."""

    def build(self, layer):
        layer.was_here = True

    def call(self, call_next, inputs):
        return call_next(inputs) * 2.0


@broken("trainable_flags_are_as_said", "unwrapping_leaves_nothing", "a_copy_leaves_the_original_alone")
class BrokenFreezing(kwrap.Hook):
    """Stop the kernel's training by hand."""

    def build(self, layer):
        layer.kernel.trainable = False

    def call(self, call_next, inputs):
        return call_next(inputs) * 2.0


@broken("frozen_layers_stay", "gradients_match_finite_differences")
class BrokenAssigning(kwrap.Hook):
    """Assign to the layer's weights in training."""

    def parametrize(self, target, value, *, training):
        if training:
            target.variable.assign(value * 0.5)
        return value * 0.5


@broken("a_copy_of_a_wrapped_model_is_exact", "saved_and_loaded_it_is_the_same", "training_goes_on_where_it_was")
class BrokenLearning(kwrap.Hook):
    """Learn a factor in an attribute, which nothing saves or copies."""

    def initialize(self, layer):
        self.__dict__["factor"] = float(keras.ops.mean(keras.ops.abs(layer.kernel)))

    def call(self, call_next, inputs):
        return call_next(inputs) * (1.0 + self.__dict__.get("factor", 0.0))


@broken("a_copy_of_a_wrapped_model_is_exact", "gradients_match_finite_differences")
class BrokenGlobal(kwrap.Hook):
    """Keep in the class, for all layers, what is one layer's."""

    factors: ClassVar[dict[str, float]] = {}

    def initialize(self, layer):
        self.factors.clear()

    def call(self, call_next, inputs, training):
        if training:
            self.factors["outputs"] = self.factors.get("outputs", 1.0) + 1.0
        return call_next(inputs) * self.factors.get("outputs", 1.0)


@broken("bypassed_it_does_nothing", "unwrapping_leaves_nothing")
class BrokenReplacing(kwrap.Hook):
    """Replace the layer's activation."""

    def build(self, layer):
        layer.activation = keras.ops.tanh

    def call(self, call_next, inputs):
        return call_next(inputs) * 2.0


# --- saving ----------------------------------------------------------------------------------------------------------


@broken("saved_and_loaded_it_is_the_same", "a_copy_of_a_wrapped_model_is_exact", "a_fresh_process_loads_it")
class BrokenLoading(kwrap.Hook):
    """Draw a pattern in `build` by Keras' global seed, and keep it in an attribute."""

    def build(self, layer):
        self.__dict__["pattern"] = keras.ops.convert_to_numpy(keras.random.uniform((layer.kernel.shape[-1],)))

    def call(self, call_next, inputs):
        outputs = call_next(inputs)
        return outputs * keras.ops.cast(self.pattern, outputs.dtype)


@broken("training_goes_on_where_it_was")
class BrokenCounting(kwrap.Hook):
    """Count updates in Python, and prune from the third on."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.__dict__["updates"] = 0

    def constrain(self, target, value, *, step):
        if step is not None:
            self.__dict__["updates"] += 1
            return keras.ops.clip(value, -1.0, 1.0) * (0.5 if self.updates == 3 else 1.0)
        return keras.ops.clip(value, -1.0, 1.0)


@broken("weights_of_the_plain_model_load")
class BrokenBuilding(kwrap.Hook):
    """Take first values from the weights in `build`."""

    def build(self, layer):
        for target in self.target_weights:
            self.add_state(target, "mask", target.shape, dtype="bool", initializer="ones").assign(target.variable > 0)

    def parametrize(self, target, value):
        return value * keras.ops.cast(self.state(target, "mask"), value.dtype)


# --- training --------------------------------------------------------------------------------------------------------


@broken("gradients_match_finite_differences")
class BrokenGradient(kwrap.Hook):
    """Cut half of the gradient off."""

    def parametrize(self, target, value):
        return value * 0.25 + keras.ops.stop_gradient(value) * 0.25


@broken("its_own_variables_train")
class BrokenUnused(kwrap.Hook):
    """Have a trainable variable that nothing uses."""

    def build(self, layer):
        self.unused = self.add_weight((), initializer="ones", name="unused")

    def call(self, call_next, inputs):
        return call_next(inputs) * 2.0


@broken("training_keeps_the_constraint")
class BrokenSometimes(kwrap.Hook):
    """Keep the weights at zero or above at every second step."""

    def constrain(self, target, value, *, step):
        if step is None:
            return keras.ops.relu(value)
        return keras.ops.where(step % 2 == 0, keras.ops.relu(value), value)


@broken("works_with_gradient_accumulation", "constrain_reads_the_value_given", "constrain_is_idempotent")
class BrokenUpdates(kwrap.Hook):
    """Make all updates equally long, and divide by zero where there is none."""

    def constrain(self, target, value, *, step):
        if step is None:
            return value
        update = value - keras.ops.convert_to_tensor(target.variable.value)
        return value + update * 0.0 / keras.ops.norm(update)


@broken("same_seed_same_run")
class BrokenSeed(kwrap.Hook):
    """Draw by a generator that nobody can seed."""

    def build(self, layer):
        self.pattern = self.add_weight((layer.kernel.shape[-1],), trainable=False, name="pattern")
        self.pattern.assign(np.random.default_rng().uniform(size=tuple(self.pattern.shape)))

    def call(self, call_next, inputs):
        outputs = call_next(inputs)
        return outputs * keras.ops.cast(self.pattern, outputs.dtype)


# No gradient is that of a function which is another one at each call.
@broken("draws_by_a_seed_generator_of_its_own", "gradients_match_finite_differences")
class BrokenUnseeded(kwrap.Hook):
    """Draw in training by the generator that Keras has for all."""

    def call(self, call_next, inputs, training):
        outputs = call_next(inputs)
        return outputs + keras.random.normal(keras.ops.shape(outputs), dtype=outputs.dtype) if training else outputs


@broken("chance_is_not_frozen_in_a_graph", "draws_by_a_seed_generator_of_its_own", "gradients_match_finite_differences")
class BrokenChance(kwrap.Hook):
    """Draw by NumPy, which a graph does once."""

    def call(self, call_next, inputs, training):
        outputs = call_next(inputs)
        return outputs * float(np.random.uniform()) if training else outputs


@broken("a_compiled_step_is_an_eager_one", "calls_leave_nothing_on_the_hook", "gradients_match_finite_differences")
class BrokenPython(kwrap.Hook):
    """Count calls in training in Python."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.__dict__["count"] = 0

    def call(self, call_next, inputs, training):
        if training:
            self.__dict__["count"] += 1
        return call_next(inputs) * (2.0 if self.count < 3 else 1.0)


@broken("fit_works", "a_compiled_step_is_an_eager_one")
class BrokenNumpy(kwrap.Hook):
    """Go through NumPy, which a graph has not."""

    def constrain(self, target, value, *, step):
        return keras.ops.convert_to_tensor(np.maximum(np.asarray(value), 0.0))


# --- places ----------------------------------------------------------------------------------------------------------


@broken("it_works_inside_a_composite")
class BrokenPath(kwrap.Hook):
    """Take the layer's path for its name."""

    def build(self, layer):
        if self.path != layer.name:
            raise LookupError(self.path)

    def call(self, call_next, inputs):
        return call_next(inputs) * 2.0


@broken("it_works_before_another_hook", "mask_is_kept", "training_is_kept", "errors_of_the_layer_pass")
class BrokenAlone(kwrap.Hook):
    """Call the layer itself, past the hooks after it."""

    def build(self, layer):
        self.__dict__["inner"] = layer

    def call(self, call_next, inputs):
        return self.inner(inputs) * 2.0


@broken("a_shared_layer_works", "inference_is_repeatable")
class BrokenTurns(kwrap.Hook):
    """Act in every second call only."""

    def build(self, layer):
        self.calls = self.add_weight((), dtype="int32", initializer="zeros", trainable=False, name="calls")

    def call(self, call_next, inputs):
        self.calls.assign_add(1)
        outputs = call_next(inputs)
        return outputs * keras.ops.cast(1 + self.calls % 2, outputs.dtype)


# --- another process, and replicas -----------------------------------------------------------------------------------


@broken("two_replicas_train_as_one")
class BrokenReplicas(kwrap.Hook):
    """Let each replica have a state of its own."""

    def build(self, layer):
        self.calls = self.add_weight((), initializer="zeros", trainable=False, aggregation="sum", name="calls")

    def call(self, call_next, inputs, training):
        if training:
            self.calls.assign_add(1.0)
        return call_next(inputs) * 2.0
