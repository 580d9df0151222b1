import ast
import copy
import inspect
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from keras.src.saving.serialization_lib import ObjectSharingScope
from tensorflow.python.eager import execute

import kwrap
from kwrap import _keras
from kwrap._surgery import replace_layers

ONES = np.ones((2, 3), "float32")


@kwrap.hook(layer_type=layers.Layer, name="keras_double")
class Double(kwrap.Hook):
    def parametrize(self, target, value):
        return value * 2


def dense(units: int = 2, **options) -> keras.Layer:
    layer = layers.Dense(units, **options)
    layer.build((None, 3))
    return layer


def functional() -> keras.Model:
    """Return a model that calls one layer twice, with another in between."""
    inputs = keras.Input((3,), name="inputs")
    shared = layers.Dense(3, name="shared")
    return keras.Model(inputs, shared(layers.Activation("tanh", name="tanh")(shared(inputs))), name="model")


class Holder(layers.Layer):
    """A layer that holds another, a metric, and a weight."""

    def __init__(self, inner=None, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner or layers.Dense(3)
        self.mean = keras.metrics.Mean()

    def build(self, input_shape):
        if not self.inner.built:
            self.inner.build(input_shape)
        self.own = self.add_weight((2,), name="own")

    def call(self, inputs):
        return self.inner(inputs)


class Unbuildable(keras.Model):
    """A model whose class rebuilds itself in its own way."""

    def __init__(self, units=2, **kwargs):
        super().__init__(**kwargs)
        self.last = layers.Dense(units)

    def call(self, inputs):
        return self.last(inputs)


class OwnWay(keras.Model):
    """A Functional model with a constructor of its own."""

    def __init__(self, units=2):
        inputs = keras.Input((3,))
        super().__init__(inputs, layers.Dense(units)(inputs))


# --- this file's own claims ------------------------------------------------------------------------------------------


def test_everything_in_keras_is_tested_here():
    parts = (_keras._layer, _keras._graph, _keras._compiled, _keras._files)
    for part in parts:
        functions = {name for name, value in vars(part).items() if getattr(value, "__module__", "") == part.__name__}
        assert sorted(name for name in functions if not name.startswith("_")) == part.__all__
    source = Path(__file__).read_text()
    assert [name for name in _keras.__all__ if f"_keras.{name}" not in source] == []


def test_nothing_else_in_kwrap_imports_private_modules_of_keras():
    sources = [path for path in Path(kwrap.__file__).parent.rglob("*.py") if path.parent.name != "_keras"]
    imported = {
        (path.name, name)
        for path in sources
        for node in ast.walk(ast.parse(path.read_text()))
        for name in _imported(node)
    }
    assert {entry for entry in imported if entry[1] == "keras"}
    assert [entry for entry in imported if entry[1].startswith("keras.src")] == []


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


# --- seeds -----------------------------------------------------------------------------------------------------------


def test_keras_is_seeded_as_by_its_own_function_and_tensorflow_goes_on():
    def drawn():
        initialized = keras.initializers.GlorotUniform()((3,)), keras.random.SeedGenerator().state
        return [np.array(each) for each in (*initialized, keras.random.normal((3,)), np.random.normal(size=3))]

    keras.utils.set_random_seed(5)
    expected, of_tensorflow = drawn(), [np.array(tf.random.normal((3,))) for _ in range(2)]
    keras.utils.set_random_seed(5)
    keras.random.normal((3,))
    first = np.array(tf.random.normal((3,)))
    _keras.seed_past_tensorflow(5)
    assert [a.tolist() for a in drawn()] == [a.tolist() for a in expected]
    assert keras.src.utils.rng_utils.get_random_seed() == 5
    assert [a.tolist() for a in (first, np.array(tf.random.normal((3,))))] == [a.tolist() for a in of_tensorflow]


# --- names -----------------------------------------------------------------------------------------------------------


def test_autocast_scope_none_gives_variables_in_their_own_dtype():
    variable = keras.Variable(ONES)
    with _keras.AutocastScope("float16"):
        assert variable.value.dtype == "float16"
        with _keras.AutocastScope(None):
            assert variable.value.dtype == "float32"


def test_tensorflows_containers_are_what_attributes_past_keras_tracking_become():
    module = tf.Module()
    module.items, module.named, module.both = [module], {"a": module}, (module,)
    assert [type(module.items), type(module.named), type(module.both)] == [
        _keras.ListWrapper,
        _keras.DictProxy,
        _keras.TupleProxy,
    ]
    assert module.both.__wrapped__ == (module,)
    assert _keras.TupleProxy((module,))[0] is _keras.DictProxy({"a": module})["a"] is module


def test_a_tracked_layer_is_kept_by_tensorflow_in_a_reference():
    inner = dense()
    module = tf.Module()
    module.inner = inner
    (reference,) = module._self_unconditional_checkpoint_dependencies
    assert (type(reference), reference.name, reference.ref is inner) == (_keras.TrackableReference, "inner", True)


def test_functional_is_the_class_of_models_made_from_tensors():
    assert isinstance(functional(), _keras.Functional)
    assert not isinstance(Unbuildable(), _keras.Functional)
    assert not isinstance(keras.Sequential(), _keras.Functional)


def test_functional_like_constructor_tells_classes_that_are_rebuilt_from_tensors():
    assert _keras.functional_like_constructor(type(functional()))
    assert not _keras.functional_like_constructor(OwnWay)


def test_any_symbolic_tensors_looks_at_nested_arguments():
    assert _keras.any_symbolic_tensors(([keras.Input((3,))],), {})
    assert _keras.any_symbolic_tensors((), {"a": {"b": keras.Input((3,))}})
    assert not _keras.any_symbolic_tensors((ONES,), {"training": True})


def test_get_keras_mask_is_the_mask_that_a_layer_put_on_its_output():
    outputs = layers.Masking()(np.float32([[[1, 1], [0, 0]]]))
    np.testing.assert_array_equal(_keras.get_keras_mask(outputs), [[True, False]])
    assert _keras.get_keras_mask(tf.constant(ONES)) is None


# --- one layer -------------------------------------------------------------------------------------------------------


class Moody(layers.Layer):
    """A layer with a context argument of its own, which takes what is no tensor, as it is."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._register_call_context_args("mood")
        self._convert_input_args = False
        self._allow_non_tensor_positional_args = True
        self.supports_jit = False

    def call(self, words, mood=None):
        self.got = (words, mood)
        return tf.constant(len(words))


def test_mirror_call_lets_a_wrapper_take_arguments_as_its_layer_does():
    layer = Moody()
    wrapper = kwrap.Wrapper(layer, [])
    _keras.mirror_call(wrapper, layer)
    assert int(wrapper(["a", "b"], mood="good")) == 2
    assert layer.got == (["a", "b"], "good")
    assert not wrapper.supports_jit
    outer = Holder(wrapper)
    outer._register_call_context_args("mood")
    outer._convert_input_args, outer._allow_non_tensor_positional_args, outer.built = False, True, True
    outer(["a"], mood="bad")  # Keras hands it down
    assert layer.got == (["a"], "bad")


def test_call_signature_is_that_of_the_layers_call():
    class Several(layers.Layer):
        def call(self, inputs, scale=1.0, *others, mask=None, **options):
            return inputs

    for layer in (Several(), layers.LSTM(2), layers.MultiHeadAttention(1, 1), functional()):
        assert _keras.call_signature(layer) == inspect.signature(layer.call)


@pytest.mark.parametrize("mode", ["full", "larger_than", "list_of_layers", "activations"])
def test_move_remat_moves_the_recomputing_of_a_whole_call_and_nothing_else(mode):
    layer_names = ["dense"] if mode == "list_of_layers" else None
    with keras.RematScope(mode=mode, output_size_threshold=0, layer_names=layer_names):
        layer = layers.Dense(2, activation="relu", name="dense")
    other = layers.Dense(2)
    assert layer._remat_mode.mode == mode
    _keras.move_remat(layer, other)
    moved, kept = (None, mode) if mode == "activations" else (mode, None)
    assert [part._remat_mode and part._remat_mode.mode for part in (other, layer)] == [moved, kept]
    assert [_keras.recomputes(part) for part in (other, layer)] == [moved is not None, kept is not None]


@pytest.mark.parametrize("mode", ["full", "activations"])
def test_a_layer_made_to_recompute_has_the_gradient_of_its_weights_through_a_hook(mode):
    with keras.RematScope(mode=mode):
        layer = dense(activation="relu", kernel_initializer="ones")
    wrapper = kwrap.Wrapper(layer, [Double()])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(wrapper(ONES))
    np.testing.assert_array_equal(tape.gradient(loss, layer.kernel.value), np.full((3, 2), 2 * 2.0))


def recomputing_lstm() -> layers.LSTM:
    with keras.RematScope(mode="full"):
        layer = layers.LSTM(2, recurrent_initializer="ones")
    layer.build((None, 4, 3))
    return layer


def test_stop_remat_keeps_layers_from_recomputing_and_resume_remat_lets_them_again():
    cell = recomputing_lstm().cell
    other = dense()
    mode, before = cell._remat_mode, dict(vars(cell))
    assert mode is not None
    _keras.stop_remat([cell, other])
    assert cell._remat_mode is other._remat_mode is None
    _keras.resume_remat([cell, other])
    assert cell._remat_mode is mode
    assert other._remat_mode is None
    assert vars(cell) == before


def test_a_recurrent_layer_made_to_recompute_has_the_gradient_of_its_kernels_through_a_hook():
    plain, layer = recomputing_lstm(), recomputing_lstm()
    wrapper = kwrap.Wrapper(layer, [Double()])
    inputs = np.ones((1, 4, 3), "float32")
    for variable, old in zip(plain.weights[:2], layer.weights[:2], strict=True):
        variable.assign(2.0 * old)
    plain.weights[2].assign(layer.weights[2])
    gradients = []
    for one, held in ((wrapper, layer), (plain, plain)):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(one(inputs))
        gradients.append(tape.gradient(loss, [variable.value for variable in held.weights]))
    for gradient, expected, factor in zip(*gradients, (2.0, 2.0, 1.0), strict=True):
        np.testing.assert_allclose(gradient, factor * expected, rtol=1e-6)


def test_undecorate_build_keeps_what_build_is_given_from_becoming_a_child():
    class Builds(layers.Layer):
        def build(self, layer):
            self.built = True

    decorated, plain, other = Builds(), Builds(), layers.Dense(2)
    _keras.undecorate_build(plain)
    decorated.build(other)
    plain.build(other)
    assert decorated._flatten_layers(include_self=False)  # why it is done
    assert not plain._flatten_layers(include_self=False)


def test_building_gives_variables_a_path_and_locks_the_layer_afterwards():
    layer = layers.Layer(name="child")
    with _keras.building(layer, "a/parent"):
        layer.w = layer.add_weight((2,), name="w")
    assert layer.w.path == "a/parent/child/w"
    assert layer.built
    with pytest.raises(ValueError, match="cannot add new elements of state"):
        layer.more = layer.add_weight((2,), name="more")


class Two(layers.Layer):
    """A layer of two inputs, built by the shapes of both."""

    def build(self, left_shape, right_shape):
        self.w = self.add_weight((left_shape[-1], right_shape[-1]), name="w")

    def call(self, left, right, scale=1.0):
        return left @ self.w @ keras.ops.transpose(right) * scale


def test_build_for_call_builds_as_the_layers_own_call_would():
    by_hand, by_call = Two(name="two"), Two(name="two")
    _keras.build_for_call(by_hand, (np.ones((1, 3)),), {"right": tf.ones((2, 4)), "scale": 2.0})
    by_call(np.ones((1, 3)), right=tf.ones((2, 4)), scale=2.0)
    assert [(v.path, v.shape, v.dtype) for v in by_hand.variables] == [("two/w", (3, 4), "float32")]
    assert [(v.path, v.shape, v.dtype) for v in by_call.variables] == [("two/w", (3, 4), "float32")]
    assert by_hand.built


def test_symbolic_outputs_leaves_no_node_behind():
    inputs = keras.Input((3,))
    hidden = layers.Dense(3)(inputs)
    before = list(hidden._keras_history.operation._outbound_nodes)
    layer = layers.Dense(4)
    outputs = _keras.symbolic_outputs(layer, (hidden,), {})
    assert outputs.shape == (None, 4)
    assert layer._inbound_nodes == []
    assert hidden._keras_history.operation._outbound_nodes == before


def test_call_training_is_what_the_call_under_way_was_told():
    seen = []

    class Asks(layers.Layer):
        def call(self, inputs):
            seen.append(_keras.call_training())
            return inputs

    asks = Asks()
    model = keras.Sequential([asks])
    model(ONES)
    model(ONES, training=True)
    model(ONES, training=False)
    assert seen[-3:] == [None, True, False]
    assert _keras.call_training() is None


def test_outside_graphs_variables_are_created_and_assigned_while_a_graph_is_traced():
    variables = [keras.Variable(0.0)]

    @tf.function
    def function():
        if len(variables) == 1:
            with _keras.outside_graphs():
                variables[0].assign_add(1.0)
                variables.append(keras.Variable(variables[0].value + 1.0))
        return variables[1] * 10.0

    assert (float(function()), float(function())) == (20.0, 20.0)
    assert [float(variable) for variable in variables] == [1.0, 2.0]


def test_current_graph_is_the_graph_that_is_being_traced_and_none_outside():
    graphs = []

    @tf.function
    def inner():
        graphs.append(_keras.current_graph())
        return tf.constant(0)

    @tf.function
    def outer():
        graphs.append(_keras.current_graph())
        result = inner()
        graphs.append(_keras.current_graph())
        return result

    assert _keras.current_graph() is None
    outer()
    assert _keras.current_graph() is None
    assert graphs[0] is graphs[2] is not graphs[1] is not None


def test_current_graph_is_one_of_its_own_in_a_branch_and_none_in_a_layers_symbolic_call():
    graphs = []

    class Asks(layers.Layer):
        def call(self, inputs):
            graphs.append(_keras.current_graph())
            return inputs

    @tf.function
    def branching(value):
        tf.cond(value > 0, lambda: Asks()(value), lambda: value)
        return _keras.current_graph() in graphs

    assert not bool(branching(tf.constant(1.0)))
    Asks()(ONES)
    assert graphs[-1] is None


def test_in_symbolic_scope_while_keras_traces_a_call_to_learn_shapes_and_in_no_call_on_values():
    seen = []

    class Asks(layers.Layer):
        def call(self, inputs):
            seen.append(_keras.in_symbolic_scope())
            return inputs * 2

    layer = Asks()
    model = keras.Model(inputs := keras.Input((3,)), layer(inputs))
    layer.compute_output_spec(keras.KerasTensor((None, 3)))
    assert seen == [True, True]
    seen.clear()
    layer(ONES)
    tf.function(model)(ONES)
    model.predict(ONES, verbose=0)
    assert not any(seen)
    assert len(seen) == 3
    assert not _keras.in_symbolic_scope()


def test_unconverted_keeps_autograph_out():
    def where():
        return inspect.currentframe().f_code.co_filename

    files = []

    @tf.function
    def function():
        files.append((where(), _keras.unconverted(where)()))
        return tf.constant(0)

    function()
    ((converted, plain),) = files
    assert plain == __file__ != converted


def test_read_is_a_value_that_later_assignments_leave_alone_and_that_gradients_pass():
    variable = keras.Variable(3.0)
    value = _keras.read(variable)
    variable.assign(5.0)
    assert float(value) == 3.0
    with tf.GradientTape() as tape:
        loss = _keras.read(variable) ** 2
    assert float(tape.gradient(loss, variable.value)) == 10.0


def test_serialized_is_what_keras_makes_of_a_layer():
    layer = dense(name="dense")
    assert _keras.serialized(layer) == keras.saving.serialize_keras_object(layer)
    assert "shared_object_id" not in _keras.serialized(layer)


def test_serialized_layers_in_a_file_come_back_as_one_where_they_were_one():
    one, other = dense(name="dense"), dense(name="dense")
    with ObjectSharingScope():
        configs = [copy.deepcopy(_keras.serialized(layer)) for layer in (one, other, one)]
    with ObjectSharingScope():
        first, second, again = (keras.saving.deserialize_keras_object(config) for config in configs)
    assert first is again is not second


def test_what_is_kept_while_saving_is_kept_for_one_file():
    assert _keras.kept_while_saving() is not _keras.kept_while_saving()
    with ObjectSharingScope():
        kept = _keras.kept_while_saving()
        kept["a view"] = 1
        keras.saving.serialize_keras_object([dense(), dense()])
        assert _keras.kept_while_saving() is kept
    with ObjectSharingScope():
        assert _keras.kept_while_saving() == {}


# --- stateless scopes ------------------------------------------------------------------------------------------------


def test_checkpointing_and_checkpoint_parts_are_what_tensorflows_checkpoints_save_of_a_layer(tmp_path):
    @_keras.checkpointing(lambda layer: {"more": layer.held[0]})
    class Holder(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.held = [keras.Variable(1.0), keras.Variable(2.0)]
            self.own = keras.Variable(3.0)

    layer = Holder()
    assert _keras.checkpoint_parts(layer)["more"] is layer.held[0]
    assert _keras.checkpoint_parts(layer)["own"] is layer.own
    path = tf.train.Checkpoint(layer=layer).save(str(tmp_path / "checkpoint"))
    for variable in (*layer.held, layer.own):
        variable.assign(0.0)
    tf.train.Checkpoint(layer=layer).restore(path).assert_consumed()
    # What Keras' list holds besides, TensorFlow does not see.
    assert [float(variable) for variable in (*layer.held, layer.own)] == [1.0, 0.0, 3.0]


def test_in_stateless_scope_and_get_stateless_scope_see_the_scope_that_is_open():
    assert not _keras.in_stateless_scope()
    with keras.StatelessScope() as scope:
        assert _keras.in_stateless_scope()
        assert _keras.get_stateless_scope() is scope
    assert _keras.get_stateless_scope() is None


def test_under_scope_another_scope_is_open_for_the_moment():
    with keras.StatelessScope() as scope:
        with _keras.under_scope(None):
            assert not _keras.in_stateless_scope()
        with pytest.raises(ZeroDivisionError), _keras.under_scope(None):
            1 / 0  # noqa: B018
        assert _keras.get_stateless_scope() is scope


def test_stored_value_is_what_the_variable_holds_whatever_the_scope_says():
    variable = keras.Variable(1.0)
    with keras.StatelessScope([(variable, 5.0)]):
        assert float(variable.value) == 5.0
        assert float(_keras.stored_value(variable)) == 1.0


def test_stored_value_creates_what_the_scope_put_off():
    with keras.StatelessScope():
        variable = keras.Variable(keras.initializers.RandomNormal(), shape=(3,))
        other = keras.Variable("ones", shape=(2,))
        stored = np.array(_keras.stored_value(variable))
    np.testing.assert_array_equal(variable, stored)
    np.testing.assert_array_equal(other, np.ones(2))


def test_assign_directly_assigns_past_the_scope():
    variable = keras.Variable(1.0)
    with keras.StatelessScope():
        created = keras.Variable("zeros", shape=())
        _keras.assign_directly(variable, 5.0)
        _keras.assign_directly(created, 7.0)
    assert (float(variable), float(created)) == (5.0, 7.0)


def test_adopt_losses_gives_losses_to_the_layers_that_added_them():
    class Adds(layers.Layer):
        def __init__(self, value, inner=None):
            super().__init__()
            self.value, self.inner = value, inner

        def call(self, inputs):
            self.add_loss(keras.ops.sum(inputs) * self.value)
            return self.inner(inputs) if self.inner else inputs

    inner = Adds(10.0)
    outer = Adds(1.0, inner)
    outer(ONES)
    with keras.StatelessScope(collect_losses=True) as scope:
        outer(ONES)
        losses = list(scope.losses)
    assert [float(loss) for loss in outer.losses] == []  # dropped
    _keras.adopt_losses(outer, losses)
    assert [float(loss) for loss in outer.losses] == [6.0, 60.0]
    assert [float(loss) for loss in inner.losses] == [60.0]
    outer(ONES)
    assert [float(loss) for loss in outer.losses] == [6.0, 60.0]  # the next call begins anew


# --- what a layer is made of -----------------------------------------------------------------------------------------


def test_own_dtype_is_the_dtype_in_which_a_variable_is_stored():
    variable = keras.Variable(ONES, dtype="float32")
    with _keras.AutocastScope("float16"):
        assert variable.dtype == "float16"
        assert _keras.own_dtype(variable) == "float32"


def test_quantization_changes_with_quantize_and_enable_lora():
    plain, quantized, lora = (dense(4) for _ in range(3))
    quantized.quantize("int8")
    lora.enable_lora(2)
    states = [_keras.quantization(layer) for layer in (plain, quantized, lora, layers.ReLU())]
    assert states == [(None, False), ("int8", False), (None, True), (None, False)]


def test_sublayers_are_the_layers_that_a_layer_holds_itself_without_metrics():
    inner = layers.Dense(3)
    holder = Holder(inner)
    assert _keras.sublayers(holder) == [inner]
    model = keras.Sequential([keras.Input((3,)), holder])
    assert _keras.sublayers(model) == model.layers == [holder]
    compiled = functional()
    compiled.compile("sgd", "mse", metrics=["mae"])
    compiled.train_on_batch(ONES, ONES)
    assert _keras.sublayers(compiled) == compiled.layers


def test_sublayers_of_a_functional_subclass_are_those_of_its_graph_and_after_them_what_it_holds_beside():
    class Beside(keras.Model):
        def __init__(self):
            inputs = keras.Input((3,), name="inputs")
            self.early, self.body = layers.ReLU(name="early"), layers.Dense(3, name="body")
            super().__init__(inputs, self.body(inputs))
            self.late = [layers.Dense(3, name="late"), self.body]

    names = [layer.name for layer in _keras.sublayers(Beside())]
    assert (names[:2], sorted(names[2:])) == (["inputs", "body"], ["early", "late"])


@pytest.mark.parametrize("first", [[keras.Input((3,))], []], ids=["from its input", "at its first call"])
def test_sublayers_of_a_sequential_model_are_without_its_input_layer_and_the_graph_that_it_keeps(first):
    model = keras.Sequential([*first, layers.Dense(3, name="only")])
    model(ONES)
    assert isinstance(model._layers[0], layers.InputLayer)  # why they are not all taken
    assert [layer.name for layer in _keras.sublayers(model)] == ["only"]


def test_sublayers_are_in_containers_of_every_kind_each_once():
    layer, first, second, third = (layers.Layer(name=name) for name in "abcd")
    layer.held = [{"a": (first, [second])}, first]
    layer.set = {third}
    layer.third = third
    assert _keras.sublayers(layer) == [first, second, third] == _keras.held_by(layer)


def test_all_sublayers_of_a_layer_that_holds_one_that_holds_it_end():
    outer, inner = layers.Layer(name="outer"), layers.Layer(name="inner")
    outer.inner, inner.outer, inner.last = inner, outer, layers.ReLU(name="last")
    assert _keras.all_sublayers(outer) == [inner, outer, inner.last]
    assert _keras.all_sublayers(inner) == [outer, inner, inner.last]


def test_all_sublayers_look_into_each_layer_once_in_a_chain_where_each_holds_the_ones_before(monkeypatch):
    chain: list[keras.Layer] = []
    for index in range(12):  # 2 ** 11 ways
        layer = layers.Layer(name=f"layer_{index}")
        layer.held = list(chain)
        chain.append(layer)
    looks: list[keras.Layer] = []
    with monkeypatch.context() as patch:
        sublayers = _keras.sublayers
        patch.setattr(_keras._layer, "sublayers", lambda layer: looks.append(layer) or sublayers(layer))
        found = _keras.all_sublayers(chain[-1])
    assert sorted(map(id, looks)) == sorted(map(id, chain))
    assert len(found) == 12 * 11 // 2


def test_all_sublayers_are_parents_first_and_a_shared_one_once_for_each_holder():
    inner = layers.Dense(3)
    first, second = Holder(inner), Holder(inner)
    model = keras.Sequential([keras.Input((3,)), first, second])
    assert _keras.all_sublayers(model) == [first, inner, second, inner]


def test_flattened_is_a_layer_and_all_that_it_holds_parents_first_with_input_layers():
    inner = layers.Dense(3)
    holder = Holder(inner)
    model = keras.Sequential([keras.Input((3,), name="inputs"), holder])
    inputs, *others = [layer for layer in _keras.flattened(model) if not isinstance(layer, keras.Metric)][1:]
    assert (_keras.flattened(model)[0], type(inputs), others) == (model, layers.InputLayer, [holder, inner])


def test_has_own_weights_counts_those_of_held_layers_out():
    holder = Holder()
    holder.build((None, 3))
    assert _keras.has_own_weights(holder)
    assert _keras.has_own_weights(layers.BatchNormalization(scale=False)) is False
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    assert model.weights
    assert not _keras.has_own_weights(model)


def test_own_weights_are_those_of_the_layer_itself_and_of_a_recurrent_layers_cell():
    holder = Holder()
    holder.build((None, 3))
    assert [variable.name for variable in _keras.own_weights(holder)] == ["own"]
    norm = layers.BatchNormalization()
    norm.build((None, 3))
    assert [v.name for v in _keras.own_weights(norm)] == ["gamma", "beta", "moving_mean", "moving_variance"]
    lstm = layers.LSTM(2)
    lstm.build((None, 4, 3))
    assert [variable.name for variable in _keras.own_weights(lstm)] == ["kernel", "recurrent_kernel", "bias"]
    assert _keras.has_own_weights(lstm)


def test_own_weights_of_a_recurrent_layer_are_those_of_all_that_is_in_its_cells_and_its_own_each_once():
    class WithOwn(layers.RNN):
        def build(self, input_shape):
            super().build(input_shape)
            self.own = self.add_weight((2,), name="own")
            self.kernel = self.cell.cells[0].kernel

    layer = WithOwn([layers.SimpleRNNCell(2, use_bias=False), layers.SimpleRNNCell(2)])
    layer.build((None, 4, 3))
    expected = {id(layer.own), *map(id, layer.cell.weights)}
    assert sorted(map(id, _keras.own_weights(layer))) == sorted(expected)


def test_own_weights_are_without_those_that_are_an_attribute_too_but_of_a_layer_inside():
    layer = layers.SpectralNormalization(dense())
    layer.build((None, 3))
    assert layer.kernel is layer.layer.kernel
    assert [variable.name for variable in _keras.own_weights(layer)] == ["vector_u"]


def test_conv_lstm_cell_is_the_cell_of_the_convolutional_lstms():
    for convolutional in (layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D):
        assert type(convolutional(2, 2).cell) is _keras.ConvLSTMCell


def test_unlocked_lets_a_built_layer_take_state_for_the_moment():
    layer = dense()
    with _keras.unlocked(layer) as tracker:
        layer.more = keras.Variable(1.0)
        assert tracker is layer._tracker
    assert layer.variables[-1] is layer.more
    with pytest.raises(ValueError, match="cannot add new elements of state"):
        layer.again = keras.Variable(1.0)
    with pytest.raises(ZeroDivisionError), _keras.unlocked(layer):
        1 / 0  # noqa: B018
    with pytest.raises(ValueError, match="cannot add new elements of state"):
        layer.again = keras.Variable(1.0)


def test_unlocked_leaves_an_unbuilt_layer_unlocked():
    layer = layers.Dense(2)
    with _keras.unlocked(layer):
        pass
    layer.more = keras.Variable(1.0)
    assert [variable is layer.more for variable in layer.variables] == [True]


def test_set_tracked_tracks_the_new_list_in_place_of_the_old():
    layer = layers.Layer()
    first, second = dense(), dense()
    layer.parts = [first]
    layer.built = True
    layer._lock_state()
    for old, new in (([first], [first, second]), ([first, second], [second]), ([second], [])):
        _keras.set_tracked(layer, "parts", old, new)
        assert list(layer.parts) == new
        assert _keras.sublayers(layer) == new
        assert len(layer.weights) == 2 * len(new)


@pytest.mark.parametrize("value", [None, True, 3, 0.5, "text"])
def test_set_plain_does_what_keras_and_tensorflow_do_with_a_plain_value(value):
    layers_ = fast, slow = layers.Layer(name="same"), layers.Layer(name="same")
    assert _keras.set_plain(fast, "own", value)
    slow.own = value
    assert vars(fast)["own"] == vars(slow)["own"] == value
    assert vars(fast).keys() == vars(slow).keys()
    assert [layer._trackable_children() for layer in layers_] == [{}, {}]


def test_set_plain_leaves_what_is_tracked_and_calls_setters():
    layer = layers.Layer()
    for value in (keras.Variable(1.0), layers.Layer(), [1], {}, keras.metrics.Mean()):
        assert not _keras.set_plain(layer, "own", value)
    assert "own" not in vars(layer)
    assert _keras.set_plain(layer, "trainable", False)
    assert layer.trainable is False
    assert "trainable" not in vars(layer)


def test_lift_makes_a_frozen_layer_trainable_itself_alone_and_frozen_again():
    holder = Holder()
    holder.build((None, 3))
    holder.trainable = False
    _keras.lift(holder, 0)
    assert (holder.trainable, holder.inner.trainable) == (True, False)
    assert _keras.is_lifted(holder)
    assert holder.trainable_variables == []
    _keras.lower(holder, 0)
    assert (holder.trainable, _keras.is_lifted(holder)) == (False, False)


def test_lower_leaves_what_was_set_trainable_since():
    holder = keras.Sequential([layers.Dense(1)])
    holder.trainable = False
    _keras.lift(holder, 0)
    _keras.lower(holder, 1)
    assert (holder.trainable, _keras.is_lifted(holder)) == (True, False)


def test_lift_like_lifts_the_copy_of_a_lifted_layer_alone():
    holder, copy = keras.Sequential([layers.Dense(1)]), keras.Sequential([layers.Dense(1)])
    _keras.lift_like(copy, holder)
    assert not _keras.is_lifted(copy)
    _keras.lift(holder, 3)
    _keras.lift_like(copy, holder)
    assert _keras.is_lifted(copy)
    _keras.lower(copy, 3)
    assert not copy.trainable


def test_living_layers_finds_what_holds_a_layer_and_held_by_says_so():
    shared = layers.Dense(1)
    models = [keras.Sequential([keras.Input((2,)), shared]), keras.Sequential([keras.Input((2,)), shared])]
    holders = [one for one in _keras.living_layers() if any(held is shared for held in _keras.held_by(one))]
    assert all(any(one is model for one in holders) for model in models)
    assert sum(isinstance(one, _keras.Functional) for one in holders) == 2


def test_forget_traces_makes_anew_what_was_traced_and_nothing_else():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1, kernel_initializer="ones")])
    assert model.predict(np.ones((1, 2)), verbose=0) == 2
    traced = model.predict_function
    model.layers[0].activation = lambda outputs: outputs / 2
    assert model.predict(np.ones((1, 2)), verbose=0) == 2
    _keras.forget_traces(model)
    assert model.predict_function not in (traced, None)
    assert (model.train_function, model.test_function) == (None, None)
    assert model.predict(np.ones((1, 2)), verbose=0) == 1


# --- a model's graph -------------------------------------------------------------------------------------------------


def test_move_nodes_rename_nodes_and_retrack_put_another_layer_in_a_graph():
    model, reference = functional(), functional()
    reference.set_weights(model.get_weights())
    old = model.get_layer("shared")
    new = dense(3, name="shared")
    new.set_weights(old.get_weights())
    replace_layers([model], [(old, new)])  # by _keras.move_nodes, _keras.rename_nodes and _keras.retrack
    assert (len(old._inbound_nodes), len(old._outbound_nodes)) == (0, 0)
    assert all(node.operation is new for node in new._inbound_nodes)
    assert {tensor._keras_history.operation for node in new._inbound_nodes for tensor in node.outputs} == {new}
    assert model.get_config() == reference.get_config()  # Keras leaves nodes out whose keys it does not know
    np.testing.assert_array_equal(model(ONES), reference(ONES))
    ((_, _, (first,)), _) = _keras.recorded_calls(new)
    part = keras.Model(model.input, first)
    np.testing.assert_array_equal(part(ONES), reference.get_layer("shared")(ONES))
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(clone(ONES), reference(ONES))


def test_after_retrack_a_holder_knows_the_new_layer_by_its_tracker():
    inner, new = layers.Dense(3), dense(3)
    holder = Holder(inner)
    replace_layers([holder], [(inner, new)])
    assert _keras.sublayers(holder) == [new]
    holder._tracker.untrack(new)
    assert _keras.sublayers(holder) == []


def test_recorded_calls_are_the_arguments_and_outputs_of_each_call_in_a_graph():
    left, right = keras.Input((3,)), keras.Input((4,))
    layer = Two()
    outputs = [layer(left, right=right, scale=2.0), layer(left, right)]
    (first, second) = _keras.recorded_calls(layer)
    assert (first[0][0] is left, first[1]["right"] is right, first[1]["scale"]) == (True, True, 2.0)
    assert [tensor is right for tensor in second[0]] == [False, True]
    assert [first[2][0] is outputs[0], second[2][0] is outputs[1]] == [True, True]


def test_graph_steps_are_the_operations_in_the_order_in_which_they_run():
    inputs = keras.Input((3,))
    first = keras.layers.Dense(3, name="first")
    second = keras.layers.Dense(3, name="second")
    hidden = first(inputs)
    model = keras.Model(inputs, first(second(hidden) + hidden))
    steps = [(operation.name, len(taken), len(given)) for operation, taken, given in _keras.graph_steps(model)]
    assert [name for name, _, _ in steps if name in ("first", "second")] == ["first", "second", "first"]
    assert [(taken, given) for _, taken, given in steps] == [(1, 1), (1, 1), (2, 1), (1, 1)]


def test_graph_of_is_the_functional_graph_of_models_that_have_one():
    model, sequential = functional(), keras.Sequential([layers.Dense(2)])
    assert _keras.graph_of(model) is model
    assert _keras.graph_of(sequential) is None
    sequential(ONES)
    assert isinstance(_keras.graph_of(sequential), _keras.Functional)
    assert _keras.graph_of(sequential).operations[-1] is sequential.layers[-1]
    assert _keras.graph_of(Unbuildable()) is None


def test_is_plain_graph_tells_models_that_are_rebuilt_from_their_graph():
    class Mine(keras.Sequential):
        pass

    models = [functional(), keras.Sequential(), Mine(), OwnWay(), Unbuildable()]
    assert [_keras.is_plain_graph(model) for model in models] == [True, True, False, False, False]


def test_is_plain_graph_tells_of_no_layer_that_it_is_one():
    some = [Holder(), layers.Dense(2), layers.MultiHeadAttention(1, 1), layers.Bidirectional(layers.LSTM(1))]
    assert [_keras.is_plain_graph(layer) for layer in some] == [False] * 4


def test_is_plain_graph_tells_what_keras_rebuilds_with_the_layers_that_its_config_names():
    class Other(layers.Dense):
        pass

    def change(layer):
        return (
            Other.from_config(layer.get_config())
            if isinstance(layer, layers.Dense)
            else layer.from_config(layer.get_config())
        )

    def kinds(model):
        return [type(layer) for layer in keras.models.clone_model(model, clone_function=change).layers]

    plain = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    assert _keras.is_plain_graph(plain)
    assert kinds(plain) == [Other]
    assert _keras.is_plain_graph(functional())
    assert Other in kinds(functional())


def test_output_spec_traces_without_touching_variables():
    count = keras.Variable(0)

    def function(inputs, factor):
        count.assign(count + 1)
        return {"out": inputs @ tf.ones((3, 5)) * factor}

    spec = _keras.output_spec(function, (keras.KerasTensor((None, 3)),), {"factor": 2.0})
    assert (type(spec["out"]), spec["out"].shape, spec["out"].dtype) == (keras.KerasTensor, (None, 5), "float32")
    assert int(count) == 0


def test_trace_calls_with_symbolic_tensors_in_place_of_specs_and_one_for_all_that_are_alike():
    count, seen = keras.Variable(0), []
    alike, too = keras.KerasTensor((None, 3)), keras.KerasTensor((None, 3))
    wider, integer = keras.KerasTensor((None, 4)), keras.KerasTensor((None, 3), "int32")

    def function(given):
        count.assign(count + 1)
        seen.append((_keras.in_symbolic_scope(), given))

    assert _keras.trace(function, [alike, {"a": (too, 2.0, None), "b": [wider, integer]}]) is None
    ((symbolic, (first, rest)),) = seen
    second, number, none = rest["a"]
    assert symbolic
    assert first is second
    assert (number, none) == (2.0, None)
    described = [(type(one), *one.shape, one.dtype) for one in (first, *rest["b"])]
    tensor = type(first)
    assert tensor is not keras.KerasTensor
    assert described == [(tensor, None, 3, "float32"), (tensor, None, 4, "float32"), (tensor, None, 3, "int32")]
    assert int(count) == 0
    with pytest.raises(ZeroDivisionError):
        _keras.trace(lambda given: 1 / 0, alike)


# --- a compiled model ------------------------------------------------------------------------------------------------


def test_forget_traces_lets_a_model_see_what_has_changed():
    class Switched(layers.Layer):
        factor = 1.0

        def call(self, inputs):
            return inputs * self.factor

    layer = Switched()
    model = keras.Sequential([keras.Input((3,)), layer])
    model.compile("sgd", "mse")

    def results():
        return [float(model.predict(ONES, verbose=0).max()), model.evaluate(ONES, ONES, verbose=0)]

    assert results() == [1.0, 0.0]
    layer.factor = 2.0
    assert results() == [1.0, 0.0]
    _keras.forget_traces(model)
    assert results() == [2.0, 1.0]


def test_trainable_state_is_what_each_layer_was_in_compile():
    model = functional()
    assert _keras.trainable_state(model) is None
    assert _keras.trainable_state(model.layers[1]) is None
    model.get_layer("tanh").trainable = False
    model.compile("sgd", "mse")
    state = _keras.trainable_state(model)
    assert {layer.name: trainable for layer, trainable in state.items()} == {
        "model": True,
        "inputs": True,
        "shared": True,
        "tanh": False,
    }
    assert state is model._compiled_trainable_state


def test_refresh_trainable_state_takes_layers_in_that_compile_did_not_see_and_still_lets_keras_warn_of_changes():
    model = functional()
    model.compile("sgd", "mse")
    shared = model.get_layer("shared")
    new = dense(3, name="shared")
    new.trainable = False
    replace_layers([model], [(shared, new)])
    restore = _keras.trainable_state_restorer(model)
    _keras.refresh_trainable_state(model)
    assert model._compiled_trainable_state[new] is False
    assert shared not in model._compiled_trainable_state
    model._warn_if_trainable_state_changed()  # a warning is an error here
    restore()
    assert shared in model._compiled_trainable_state
    assert new not in model._compiled_trainable_state
    _keras.refresh_trainable_state(model)
    new.trainable = True
    # Keras 3.15.1 has the warning, but calls it behind a `raise`.
    with pytest.warns(UserWarning, match=r"`trainable` state has changed .*\['shared'\]"):
        model._warn_if_trainable_state_changed()


def test_refresh_trainable_state_leaves_a_model_alone_that_was_never_compiled():
    model = functional()
    _keras.refresh_trainable_state(model)
    assert not hasattr(model, "_compiled_trainable_state")


@pytest.mark.parametrize("scaled", [False, True])
def test_optimized_variables_are_those_that_the_optimizer_was_built_for(scaled):
    optimizer = keras.optimizers.Adam()
    optimizer = keras.optimizers.LossScaleOptimizer(optimizer) if scaled else optimizer
    variables = dense().trainable_variables
    optimizer.build(variables)
    optimized = _keras.optimized_variables(optimizer)
    assert [one is other for one, other in zip(optimized, variables, strict=True)] == [True, True]


def every_optimizer(inner: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Return an optimizer of optimizers, three deep."""
    rest = keras.optimizers.Nadam(0.5)
    multi = keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(rest, {".*kernel": inner}))
    return keras.optimizers.LossScaleOptimizer(multi, initial_scale=8.0)


def test_optimizers_in_are_those_that_an_optimizer_hands_its_variables_to_and_itself():
    inner = keras.optimizers.SGD()
    optimizer = every_optimizer(inner)
    multi = optimizer.inner_optimizer
    assert _keras.optimizers_in(optimizer) == [optimizer, multi, *multi.optimizers]
    assert inner in multi.optimizers
    assert _keras.optimizers_in(inner) == [inner]


def test_shadows_in_an_optimizer_are_the_averages_and_the_iterates_of_each_variable():
    kernel, bias = dense(bias_initializer="ones").trainable_variables
    free = keras.optimizers.ScheduleFreeAdamW(use_ema=True)
    optimizer = every_optimizer(free)
    optimizer.build([kernel, bias])
    pairs = _keras.shadows_in(optimizer)
    assert all(variable is kernel for variable, _ in pairs)
    assert [id(slot) for _, slot in pairs] == [id(free._model_variables_moving_average[0]), id(free._momentums[0])]


def test_rebuild_optimizer_keeps_what_belongs_to_variables_that_stay_and_makes_the_rest_as_a_new_one_has_it():
    def make() -> keras.optimizers.Optimizer:
        return every_optimizer(keras.optimizers.Adafactor(0.5, gradient_accumulation_steps=2))

    (kernel, bias), (other, _) = dense(name="same").trainable_variables, dense(name="same").trainable_variables
    optimizer, new = make(), make()
    optimizer.build([kernel, bias])
    new.build([other, bias])
    optimizer.apply([8.0 * tf.ones((3, 2)), 8.0 * tf.ones((2,))])
    adafactor, nadam = optimizer.inner_optimizer.optimizers
    kept = [optimizer.step_counter, adafactor._iterations, nadam._iterations, nadam._momentums[0], nadam._u_product]
    before = [np.array(variable) for variable in kept]
    _keras.rebuild_optimizer(optimizer, [other, bias])
    assert optimizer.inner_optimizer.optimizers == [adafactor, nadam]
    kept = [optimizer.step_counter, adafactor._iterations, nadam._iterations, nadam._momentums[0], nadam._u_product]
    assert [np.array(variable).tolist() for variable in kept] == [value.tolist() for value in before]
    assert np.array(adafactor._accumulated_gradients[0]).tolist() == np.zeros((3, 2)).tolist()
    # As those of a file are to be: one for one, in order.
    assert [tuple(variable.shape) for variable in optimizer.variables] == [tuple(v.shape) for v in new.variables]
    optimizer.apply([tf.ones((3, 2)), tf.ones((2,))])
    assert int(optimizer.inner_optimizer.iterations) == 2


def test_rebuild_optimizer_leaves_one_that_tensorflow_saves(tmp_path):
    def make(variables: list[keras.Variable]) -> keras.optimizers.Optimizer:
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(), initial_scale=8.0)
        optimizer.build(variables)
        return optimizer

    (kernel, bias), (other, _) = dense().trainable_variables, dense().trainable_variables
    optimizer, new = make([kernel, bias]), make([other, bias])
    _keras.rebuild_optimizer(optimizer, [other, bias])
    optimizer.dynamic_scale.assign(4.0)
    path = tf.train.Checkpoint(optimizer=optimizer).write(str(tmp_path / "optimizer"))
    tf.train.Checkpoint(optimizer=new).read(path).assert_consumed()
    assert float(new.dynamic_scale) == 4.0


def test_rebuild_optimizer_lets_a_function_choose_for_new_variables_only():
    (kernel, bias), (other, _) = dense().trainable_variables, dense().trainable_variables
    optimizer = keras.optimizers.MultiOptimizer(lambda variable: keras.optimizers.SGD(momentum=0.5))
    optimizer.build([kernel, bias])
    (of_kernel, of_bias), choose = optimizer.optimizers, optimizer._optimizer_map
    _keras.rebuild_optimizer(optimizer, [bias, other])
    assert optimizer.optimizers[0] is of_bias
    assert of_kernel not in optimizer.optimizers
    assert len(optimizer.optimizers) == 2
    assert optimizer._optimizer_map is choose


def test_rebuild_optimizer_starts_the_average_of_a_new_variable_at_its_value():
    kernel, bias = dense(bias_initializer="ones").trainable_variables
    optimizer = keras.optimizers.SGD(use_ema=True)
    optimizer.build([kernel])
    _keras.rebuild_optimizer(optimizer, [kernel, bias])
    averages = [np.array(average) for average in optimizer._model_variables_moving_average]
    assert averages[0].tolist() == np.zeros((3, 2)).tolist()
    assert averages[1].tolist() == np.ones(2).tolist()


class Unusual(keras.optimizers.Optimizer):
    """Has a variable before it is built, appends its slots to a list that is there already, and has more in a dict."""

    def __init__(self):
        super().__init__(learning_rate=0.5)
        self.calls, self.slots, self.more = self.add_variable((), name="calls"), [], {}

    def build(self, variables):
        super().build(variables)
        for variable in variables:
            self.slots.append(self.add_variable_from_reference(variable, "slot"))
            self.more[variable.path] = self.add_variable((), name="more")


def test_rebuild_optimizer_finds_the_slots_of_an_optimizer_of_ones_own():
    (kernel, bias), (other, _) = dense(name="one").trainable_variables, dense(name="two").trainable_variables
    optimizer = Unusual()
    optimizer.build([kernel, bias])
    for variable in (optimizer.calls, optimizer.slots[1], optimizer.more[bias.path]):
        variable.assign(np.full(variable.shape, 3.0))
    _keras.rebuild_optimizer(optimizer, [bias, other])
    found = [optimizer.calls, *optimizer.slots, *optimizer.more.values()]
    assert [float(np.ravel(variable)[0]) for variable in found] == [3.0, 3.0, 0.0, 3.0, 0.0]
    assert {id(variable) for variable in found} <= {id(variable) for variable in optimizer.variables}
    assert len(optimizer.variables) == len(found) + 2


def test_optimizer_restorer_undoes_it():
    optimizer = every_optimizer(keras.optimizers.Adam(use_ema=True))
    kernel, bias = dense().trainable_variables
    optimizer.build([kernel, bias])
    optimizer.apply([tf.ones((3, 2)), tf.ones((2,))])
    variables = optimizer.variables
    before = [np.array(variable).tolist() for variable in variables]
    restore = _keras.optimizer_restorer(optimizer)
    _keras.rebuild_optimizer(optimizer, [bias])
    restore()
    assert [id(variable) for variable in optimizer.variables] == [id(variable) for variable in variables]
    assert [np.array(variable).tolist() for variable in variables] == before
    optimizer.apply([tf.ones((3, 2)), tf.ones((2,))])
    assert int(optimizer.iterations) == 2


def test_exclude_alike_keeps_the_same_weights_of_another_model_from_decaying():
    one, other = dense(), dense()
    source, target = (keras.optimizers.LossScaleOptimizer(keras.optimizers.AdamW(0.0, weight_decay=1.0)) for _ in "12")
    source.inner_optimizer.exclude_from_weight_decay([one.kernel], ["nothing"])
    _keras.exclude_alike(source, target, [(one.kernel, other.kernel), (one.bias, other.bias)])
    inner = target.inner_optimizer
    inner.build([other.kernel, other.bias])
    assert [inner._use_weight_decay(variable) for variable in (other.kernel, other.bias)] == [False, True]


def test_uncompiled_keeps_keras_from_compiling_a_copy():
    model = functional()
    model.compile("sgd", "mse")
    assert not keras.models.clone_model(_keras.uncompiled(model)).compiled
    assert model.compiled
    assert keras.models.clone_model(model).compiled


def test_compile_arguments_are_the_objects_that_were_given():
    def loss(y_true, y_pred):
        return keras.ops.mean(y_pred)

    model = functional()
    model.compile("sgd", loss=loss, metrics=["mae"], steps_per_execution=2)
    arguments = _keras.compile_arguments(model)
    assert (arguments["loss"] is loss, arguments["optimizer"] is model.optimizer) == (True, True)
    assert (arguments["metrics"], arguments["steps_per_execution"]) == (["mae"], 2)
    functional().compile(**arguments)


# --- files -----------------------------------------------------------------------------------------------------------


def test_load_archive_gives_the_model_of_an_open_file(tmp_path):
    model = functional()
    model.compile("sgd", "mse")
    model.save(tmp_path / "model.keras")
    with open(tmp_path / "model.keras", "rb") as file:
        for compiled in (True, False):
            file.seek(0)
            loaded = _keras.load_archive(file, None, compiled, True)
            assert loaded.compiled is compiled
            assert np.array_equal(loaded(ONES), model(ONES))


def test_load_archive_hands_on_custom_objects_and_the_safe_mode(tmp_path):
    model = keras.Sequential([keras.Input((3,)), Holder(), layers.Lambda(lambda inputs: inputs + 1)])
    model.save(tmp_path / "model.keras")
    with open(tmp_path / "model.keras", "rb") as file:
        with pytest.raises(ValueError, match="safe_mode=False"):
            _keras.load_archive(file, {"Holder": Holder}, True, True)
        file.seek(0)
        assert np.array_equal(_keras.load_archive(file, {"Holder": Holder}, True, False)(ONES), model(ONES))


def test_load_h5_gives_the_model_of_an_open_file_and_hands_on_custom_objects_and_the_safe_mode(tmp_path):
    model = keras.Sequential([keras.Input((3,)), Holder(), layers.Lambda(lambda inputs: inputs + 1)])
    model.compile("sgd", keras.losses.MeanSquaredError())
    model.save(tmp_path / "model.h5")
    with open(tmp_path / "model.h5", "rb") as file:
        with pytest.raises(ValueError, match="safe_mode=False"):
            _keras.load_h5(file, {"Holder": Holder}, True, True)
        for compiled in (True, False):
            loaded = _keras.load_h5(file, {"Holder": Holder}, compiled, False)
            assert loaded.compiled is compiled
            assert np.array_equal(loaded(ONES), model(ONES))


@pytest.mark.parametrize("file", ["model.weights.h5", "model.weights.json"])
def test_absent_from_a_weight_file_is_what_it_has_nothing_for_at_any_depth(file, tmp_path):
    """The layer that asks holds one that the file has, or none: it has no variables itself."""
    asked = []

    class Asks(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.held = layers.Dense(2)

        def build(self, shape):
            self.held.build(shape)

        def call(self, inputs):
            return self.held(inputs)

        def load_own_variables(self, store):
            asked.append(_keras.is_absent(store))

    saved = keras.Sequential([keras.Input((2,)), Asks()])
    saved.save_weights(tmp_path / file, **({"max_shard_size": 1e-6} if file.endswith("json") else {}))
    saved.load_weights(tmp_path / file)
    with pytest.raises(ValueError, match="could not be loaded"):
        keras.Sequential([keras.Input((2,)), Asks(), Asks()]).load_weights(tmp_path / file)
    assert asked[:3] == [False, False, True]
    assert not _keras.is_absent({})


def test_parts_that_are_skipped_keep_what_they_have_for_one_file(tmp_path):
    @_keras.skips_parts
    class Holder(keras.layers.Layer):
        skip = False

        def __init__(self):
            super().__init__()
            self.held = dense(2)

        def call(self, inputs):
            return self.held(inputs)

        def load_own_variables(self, store):
            if self.skip:
                _keras.skip_parts(self)

    saved, loaded = (keras.Sequential([keras.Input((3,)), Holder()]) for _ in range(2))
    saved.save_weights(tmp_path / "a.weights.h5")
    before = loaded.get_weights()
    for skip, expected in ((True, before), (False, saved.get_weights())):
        loaded.layers[0].skip = skip
        loaded.load_weights(tmp_path / "a.weights.h5")
        np.testing.assert_array_equal(loaded.get_weights()[0], expected[0])
    assert "held" in dir(loaded.layers[0])
    assert not np.array_equal(before[0], saved.get_weights()[0])


def test_the_name_counters_are_set_back_to_what_they_were():
    layers.Dense(1)
    restore = _keras.name_counters_restorer()
    next_name = layers.Dense(1).name
    layers.Dense(1)
    restore()
    assert layers.Dense(1).name == next_name


def test_variables_are_measured_before_they_are_made_by_a_layer_an_optimizer_and_a_value():
    sizes = []
    with _keras.variables_measured(sizes.append):
        layer = dense(2)
        optimizer = keras.optimizers.SGD(momentum=0.5)
        optimizer.build([layer.kernel])
        keras.Variable(np.ones((4, 2), "int8"))
    dense(2)
    # kernel and bias; the step and the learning rate, the kernel's momentum
    assert sizes == [24, 8, 8, 4, 24, 8]


def test_objects_that_keras_names_are_counted_before_they_are_made_and_names_go_on():
    layers.Dense(1)
    number = int(layers.Dense(1).name.rpartition("_")[2])
    keras.ops.split(keras.KerasTensor((10, 2)), 10)  # the first of a name counts twice
    counted = []
    with _keras.objects_counted(lambda: counted.append(1)):
        layers.Dense(1)
        assert len(counted) == 2  # it, and its name
        layers.Dense(1, name="own")
        assert len(counted) == 3
        keras.ops.split(keras.KerasTensor((10, 2)), 10)
        assert len(counted) == 3 + 1 + 2 + 10  # the tensor, the operation and its outputs
        with keras.RematScope("full"):
            assert layers.Dense(1, name="remade")._remat_mode.mode == "full"
        assert layers.Dense(1, name="own")._remat_mode is None
        before = len(counted)
        keras.Sequential([layers.Lambda(keras.ops.relu, name="relu")]).build((None, 3))
        assert len(counted) > before + 2
    assert layers.Dense(1).name == f"dense_{number + 2}"
    made = len(counted)
    layers.Dense(1)
    assert len(counted) == made


def test_an_object_that_is_refused_is_never_made():
    def refuse():
        raise MemoryError

    with _keras.objects_counted(refuse), pytest.raises(MemoryError):
        keras.ops.split(keras.KerasTensor((10**9, 2)), 10**9)
    assert keras.ops.split(keras.KerasTensor((4, 2)), 2)[0].shape == (2, 2)


def test_operations_that_a_thread_traces_are_counted_and_no_others():
    counted, before = [], execute.execute

    @tf.function
    def traced(values):
        return values * 2 + 1

    with _keras.operations_counted(lambda: counted.append(1)):
        assert execute.execute is before  # for all threads
        traced(tf.ones(2))
        made = len(counted)
        assert made >= 3
        with ThreadPoolExecutor() as other:
            other.submit(traced, tf.ones(3)).result()
        tf.ones(2) * 2
        traced(tf.ones(2))
        assert len(counted) == made
    traced(tf.ones(4))
    assert len(counted) == made


def test_an_operation_that_is_refused_ends_the_trace():
    def refuse():
        raise MemoryError

    with _keras.operations_counted(refuse), pytest.raises(MemoryError):
        tf.function(lambda values: values * 2)(tf.ones(2))


def test_a_variable_that_is_refused_is_never_made():
    def refuse(size):
        raise MemoryError(size)

    with _keras.variables_measured(refuse), pytest.raises(MemoryError) as refused:
        layers.Dense(10**9).build((None, 10**9))
    assert refused.value.args == (4 * 10**18,)


# --- replicas --------------------------------------------------------------------------------------------------------

IN_REPLICAS = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from kwrap import _keras

seen = []
for devices in (["CPU:0", "CPU:1"], ["CPU:0"]):
    strategy = tf.distribute.MirroredStrategy(devices)
    strategy.run(lambda: seen.append(_keras.in_many_replicas()))
    with strategy.scope():
        seen.append(_keras.in_many_replicas())
print(seen)
"""


def test_in_many_replicas_is_true_inside_each_of_several_replicas_only():
    assert _keras.in_many_replicas() is False
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", IN_REPLICAS], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[True, True, False, False, False]"
