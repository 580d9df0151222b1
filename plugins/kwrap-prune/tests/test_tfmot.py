"""The cases of tfmot's tests, of the names that kwrap_prune.tfmot has in common with it."""

import inspect
import json
import math
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import kwrap
from kwrap.errors import OptionError, OptionValueError, PlanError, TargetError
from kwrap_prune import Prune, tfmot
from kwrap_prune.tfmot import ConstantSparsity, PolynomialDecay, PruningSchedule, prune_low_magnitude, strip_pruning

HERE = pathlib.Path(__file__).parent
EACH_STEP = ConstantSparsity(0.5, 0, -1, 1)


class OwnPrunable(layers.Layer, tfmot.PrunableLayer):
    """Two weights of one name, both to be pruned, and one that is not."""

    def build(self, input_shape):
        self.weight = self.add_weight((input_shape[-1], 4), name="weight")
        self.row = self.add_weight((4,), "random_normal", name="weight")
        self.offset = self.add_weight((4,), "random_normal", name="offset")

    def call(self, inputs):
        return keras.ops.matmul(inputs, self.weight) * self.row + self.offset

    def get_prunable_weights(self):
        return [self.weight, self.row]


class Untaught(layers.Layer):
    def build(self, input_shape):
        self.weight = self.add_weight((input_shape[-1], 4), name="weight")

    def call(self, inputs):
        return keras.ops.matmul(inputs, self.weight)


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = layers.Dense(4, name="hidden")

    def call(self, inputs):
        return self.hidden(inputs)


def simple(*hidden) -> keras.Sequential:
    return keras.Sequential([keras.Input((10,)), *hidden, layers.Dense(8, name="logits")])


def zeros(variable) -> int:
    return int(np.sum(keras.ops.convert_to_numpy(variable) == 0))


def pruned(model: keras.Model) -> list[str]:
    return [path for path, _ in kwrap.find_hooks(model, Prune)]


def train(model: keras.Model, steps: int = 1, **options) -> None:
    if not model.compiled:
        model.compile("sgd", "mse")
    x = np.random.RandomState(0).standard_normal((4 * steps, *model.input_shape[1:]))
    y = np.random.RandomState(1).standard_normal((4 * steps, *model.output_shape[1:]))
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0, **options)


# --- the names -------------------------------------------------------------------------------------------------------


def test_the_names_and_their_arguments_are_those_of_tfmot():
    arguments = {
        name: list(inspect.signature(getattr(tfmot, name)).parameters)
        for name in tfmot.sparsity.keras.__all__
        if not inspect.isabstract(getattr(tfmot, name))
    }
    assert tfmot.sparsity.keras.__all__ == sorted(tfmot.sparsity.keras.__all__)
    assert arguments == {
        "ConstantSparsity": ["target_sparsity", "begin_step", "end_step", "frequency"],
        "PolynomialDecay": ["initial_sparsity", "final_sparsity", "begin_step", "end_step", "power", "frequency"],
        "PruneForLatencyOnXNNPack": [],
        "PruningSummaries": ["log_dir", "update_freq", "kwargs"],
        "UpdatePruningStep": [],
        "prune_low_magnitude": [
            "to_prune",
            "pruning_schedule",
            "block_size",
            "block_pooling_type",
            "pruning_policy",
            "sparsity_m_by_n",
            "kwargs",
        ],
        "prune_scope": [],
        "strip_pruning": ["model"],
    }
    assert {"PrunableLayer", "PruningPolicy", "PruningSchedule"} == set(tfmot.sparsity.keras.__all__) - set(arguments)


# --- prune_test: what is wrapped -------------------------------------------------------------------------------------


def test_a_layer_is_wrapped_with_the_options_given():
    layer = layers.Dense(10)
    schedule = PolynomialDecay(0.1, 0.6, 1, 9, frequency=4)
    wrapper = prune_low_magnitude(layer, schedule, (5, 2), "MAX")
    (hook,) = wrapper.hooks
    assert wrapper.layer is layer
    assert (hook.schedule, hook.structure.height, hook.structure.width) == (schedule, 5, 2)
    assert (hook.structure.pooling, hook.regrow) == ("MAX", True)


def test_a_layer_gets_further_arguments():
    with pytest.warns(UserWarning, match="input_shape"):  # Keras 3 says so of its own layers
        wrapper = prune_low_magnitude(layers.Dense(4), input_shape=(6,), name="first")
    model = keras.Sequential([wrapper, layers.Dense(2)])
    assert (model.input_shape, wrapper.name, zeros(wrapper.kernel)) == ((None, 6), "first", 12)


def test_further_arguments_are_errors_for_a_built_layer_and_for_what_is_no_layer():
    with pytest.raises(OptionError, match="comes too late for 'dense'"):
        prune_low_magnitude(simple(layers.Dense(3, name="dense")).layers[0], trainable=False)
    with pytest.raises(OptionError, match="is for a layer alone, and Sequential is none"):
        prune_low_magnitude(simple(), input_shape=(6,))


def test_a_layer_without_weights_to_prune_works_as_before():
    wrapped = prune_low_magnitude([layers.Flatten(), layers.Dropout(0.4), layers.BatchNormalization()])
    model = keras.Sequential([keras.Input((2, 3)), *wrapped])
    assert [hook.target_weights for _, hook in kwrap.find_hooks(model)] == [()] * 3
    x = np.random.RandomState(0).standard_normal((4, 2, 3)).astype("float32")
    np.testing.assert_allclose(model(x), x.reshape(4, 6), atol=1e-2)  # BatchNormalization's epsilon


def test_a_layer_that_says_what_to_prune_has_just_that_pruned():
    layer = OwnPrunable()
    model = prune_low_magnitude(simple(layer))
    (path, hook), _ = kwrap.find_hooks(model)
    copy = model.layers[0]
    assert (path, [target.name for target in hook.target_weights]) == (layer.name, ["weight_0", "weight_1"])
    assert [zeros(variable) for variable in (copy.weight, copy.row, copy.offset)] == [20, 2, 0]


def test_of_a_layer_that_names_weights_of_layers_inside_these_answer_themselves():
    class Block(layers.Layer):
        def build(self, input_shape):
            self.scale = self.add_weight((10,), "random_normal", name="scale")
            self.inner = layers.Dense(4, name="inner")
            self.inner.build(input_shape)

        def call(self, inputs):
            return self.inner(inputs * self.scale)

        def get_prunable_weights(self):
            return [self.scale, self.inner.kernel]

    i = keras.Input((10,))
    model = keras.Model(i, Block(name="block")(i))
    kwrap.wrap_model(model, Prune())
    assert {path: [t.name for t in hook.target_weights] for path, hook in kwrap.find_hooks(model)} == {
        "block": ["scale"],
        "block/inner": ["kernel"],
    }


def test_a_layer_of_which_nobody_says_what_to_prune_is_an_error():
    i = keras.Input((6,))
    model = keras.Model(i, Untaught(name="untaught")(i))
    with pytest.raises(TargetError, match="at 'untaught': nobody says which of the weights of a Untaught to prune"):
        prune_low_magnitude(model)
    with pytest.raises(TargetError, match=r"weight_targets\.register\(Untaught\)"):
        prune_low_magnitude(model.layers[-1])
    with pytest.raises(TargetError, match="nobody says which of its weights to prune"):
        prune_low_magnitude(Untaught())(i)


def test_a_layer_alone_that_holds_its_weights_in_layers_is_an_error():
    with pytest.raises(TargetError, match="those of layers that it holds"):
        prune_low_magnitude(layers.MultiHeadAttention(2, 4))(keras.Input((8, 3)), keras.Input((8, 3)))


@pytest.mark.parametrize("build", [True, False])
def test_a_sequential_model_is_pruned_in_a_copy_that_is_as_built(build):
    hidden = [layers.Dense(10), layers.Dense(4)]
    model = keras.Sequential([keras.Input((10,)), *hidden] if build else hidden)
    copy = prune_low_magnitude(model)
    assert (model.built, copy.built, pruned(model)) == (build, build, [])
    assert pruned(copy) == [layer.name for layer in hidden]
    again = keras.Sequential.from_config(copy.get_config())
    assert (again.built, pruned(again)) == (build, pruned(copy))
    stripped = strip_pruning(copy)
    assert (pruned(stripped), stripped.get_config(), len(pruned(copy))) == ([], model.get_config(), 2)


def test_a_model_that_was_not_built_is_pruned_once_it_is():
    model = prune_low_magnitude(keras.Sequential([layers.Dense(10), keras.Sequential([layers.Dense(4)])]))
    model.build((None, 6))
    assert [zeros(variable) for variable in model.trainable_variables[::2]] == [30, 20]


def test_a_functional_model_is_pruned_and_stripped():
    i1, i2 = keras.Input((10,), name="i1"), keras.Input((10,), name="i2")
    model = keras.Model([i1, i2], layers.Add()([layers.Dense(10, name="a")(i1), layers.Dense(10, name="b")(i2)]))
    copy = prune_low_magnitude(model)
    stripped = strip_pruning(copy)
    assert (pruned(copy), pruned(model), pruned(stripped)) == (["a", "b"], [], [])
    assert stripped.get_config() == model.get_config()
    assert [zeros(variable) for variable in stripped.trainable_variables] == [50, 10, 50, 10]


def test_a_layer_that_is_called_twice_is_pruned_once():
    i, dense = keras.Input((10,)), layers.Dense(10, name="dense")
    assert pruned(prune_low_magnitude(keras.Model(i, dense(dense(i))))) == ["dense"]


def test_models_inside_a_model_are_pruned():
    inner = keras.Sequential([keras.Input((10,)), layers.Dense(10, name="dense")], name="inner")
    assert pruned(prune_low_magnitude(simple(inner))) == ["inner/dense", "logits"]


def test_a_subclassed_model_is_pruned_and_stripped():
    model = Subclassed()
    model(np.ones((1, 6)))
    copy = prune_low_magnitude(model)
    assert (pruned(copy), zeros(strip_pruning(copy).hidden.kernel), zeros(model.hidden.kernel)) == (["hidden"], 12, 0)


@pytest.mark.parametrize("build", [True, False])
def test_what_is_pruned_already_stays_as_it_is(build):
    schedule = ConstantSparsity(0.25, 3)
    there = prune_low_magnitude(layers.Dense(10, name="there"), schedule)
    model = keras.Sequential([*([keras.Input((10,))] if build else []), layers.Dense(10, name="dense"), there])
    copy = prune_low_magnitude(model)
    assert [(path, hook.schedule) for path, hook in kwrap.find_hooks(copy)] == [
        ("dense", ConstantSparsity(0.5, 0)),
        ("there", schedule),
    ]


def test_of_a_list_each_layer_is_pruned_but_for_inputs_and_those_that_are_already():
    there, given = prune_low_magnitude(layers.Dense(3)), keras.layers.InputLayer((4,))
    one, two, inner = layers.Dense(2), layers.Dense(3), simple()
    result = prune_low_magnitude([given, one, there, two, inner])
    assert (result[0], result[2]) == (given, there)
    assert [wrapper.layer for wrapper in (result[1], result[3])] == [one, two]
    assert result[1].hooks[0] is not result[3].hooks[0]
    assert pruned(result[4]) == ["logits"]


def test_other_hooks_on_a_layer_stay():
    class Other(kwrap.Hook):
        def parametrize(self, target, value, *, training):
            return -value

    kwrap.hook(layer_type=layers.Dense)(Other)
    wrapper = kwrap.Wrapper(layers.Dense(4), [Other()])
    alone = prune_low_magnitude(wrapper)
    model = prune_low_magnitude(keras.Sequential([wrapper]))
    for each in (alone, model.layers[0]):
        assert [hook.name for hook in each.hooks] == ["other", "prune"]
    model.build((None, 6))
    pair = model.layers[0].layer.kernel, model.layers[0](np.eye(6, dtype="float32"))
    np.testing.assert_array_equal(-pair[0], pair[1])
    assert zeros(pair[0]) == 12
    built = layers.Dense(4)
    built.build((None, 6))
    with pytest.raises(OptionValueError, match="is built and has other hooks: prune the model that it is in"):
        prune_low_magnitude(kwrap.Wrapper(built, [Other()]))


@pytest.mark.parametrize("given", [object(), None, "model", [object()], Prune])
def test_what_is_no_layer_is_a_value_error(given):
    with pytest.raises(OptionValueError, match="is no Keras 3 layer or model, and no list of layers"):
        prune_low_magnitude(given)
    with pytest.raises(OptionValueError, match=r"is no keras\.Model"):
        strip_pruning(given)


def test_a_model_with_nothing_to_prune_or_to_strip_is_copied():
    model = keras.Sequential([keras.Input((4,)), layers.ReLU()])
    copy = prune_low_magnitude(model)
    assert (copy is model, copy.get_config()) == (False, model.get_config())
    assert strip_pruning(model).get_config() == model.get_config()


@pytest.mark.parametrize(
    ("layer", "shape", "names"),
    [
        (layers.Conv1D(4, 2), (3, 6), ["kernel"]),
        (layers.Conv2DTranspose(2, 3), (7, 6, 3), ["kernel"]),
        (layers.SeparableConv2D(4, 2), (4, 6, 3), ["pointwise_kernel"]),
        (layers.DepthwiseConv2D(3), (7, 7, 4), []),
        (layers.Embedding(10, 4), (5,), ["embeddings"]),
        (layers.LSTM(4), (3, 4), ["kernel", "recurrent_kernel"]),
        (
            layers.RNN([layers.GRUCell(4), layers.SimpleRNNCell(2)]),
            (3, 4),
            [f"cell_{cell}/{kernel}" for cell in (0, 1) for kernel in ("kernel", "recurrent_kernel")],
        ),
    ],
    ids=lambda value: value.name if isinstance(value, keras.Layer) else None,
)
def test_of_keras_layers_what_tfmot_prunes_is_pruned(layer, shape, names):
    model = keras.Sequential([keras.Input(shape), prune_low_magnitude(layer)])
    ((_, hook),) = kwrap.find_hooks(model)
    assert [target.name for target in hook.target_weights] == names
    assert all(zeros(target.variable) * 2 == np.prod(target.shape) for target in hook.target_weights)


# --- prune_test: saving ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_a_pruned_model_is_loaded_with_and_without_prune_scope(name, tmp_path, capfd):
    model = prune_low_magnitude(simple())
    model.save(tmp_path / name)
    with tfmot.prune_scope():
        inside = keras.models.load_model(tmp_path / name)
    for loaded in (inside, keras.models.load_model(tmp_path / name)):
        assert pruned(loaded) == ["logits"]
        np.testing.assert_array_equal(loaded.layers[-1].kernel, model.layers[-1].kernel)


# --- prune_integration_test ------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("pruned", [False, True])
def test_an_h5_file_with_an_optimizer_is_to_be_compiled_anew_as_without_hooks(pruned, tmp_path):
    model = prune_low_magnitude(simple(), EACH_STEP) if pruned else simple()
    model.compile("adam", keras.losses.MeanSquaredError())
    model.fit(np.ones((4, 10)), np.ones((4, 8)), verbose=0)
    model.save(tmp_path / "model.h5")
    loaded = keras.models.load_model(tmp_path / "model.h5")
    with pytest.raises(ValueError, match="Unknown variable"):  # Keras'; the table in docs/from-tfmot.md says so.
        loaded.fit(np.ones((4, 10)), np.ones((4, 8)), verbose=0)
    loaded = keras.models.load_model(tmp_path / "model.h5", compile=False)
    loaded.compile("adam", "mse")
    loaded.fit(np.ones((4, 10)), np.ones((4, 8)), verbose=0)
    assert zeros(loaded.layers[-1].kernel) == (40 if pruned else 0)


def test_sparsity_0_changes_nothing():
    model = simple()
    copy = prune_low_magnitude(model, ConstantSparsity(0, 0, frequency=1))
    for each in (model, copy):
        train(each)
    np.testing.assert_array_equal(strip_pruning(copy).get_weights()[0], model.get_weights()[0])


def test_of_a_very_sparse_layer_one_weight_is_left():
    model = prune_low_magnitude(simple(), ConstantSparsity(0.999, 0, frequency=1))
    train(model)
    assert zeros(model.layers[0].kernel) == 79


def test_a_compiled_model_stays_compiled_and_its_copy_is_not():
    model = simple()
    model.compile(keras.optimizers.SGD(lambda: 0.1), "mse")  # cannot be copied, and need not
    loss = model.loss
    copy = prune_low_magnitude(model)
    assert (model.compiled, copy.compiled, strip_pruning(copy).compiled, model.loss) == (True, False, False, loss)


def test_before_a_schedule_begins_a_pruned_model_gives_the_same():
    model = simple()
    x = np.random.RandomState(0).standard_normal((4, 10))
    np.testing.assert_array_equal(prune_low_magnitude(model, ConstantSparsity(0.5, 1))(x), model(x))


@pytest.mark.filterwarnings("ignore::kwrap.errors.HookStateWarning")
def test_plain_weights_that_are_loaded_into_a_pruned_model_are_pruned(tmp_path):
    model = simple()
    model.save_weights(tmp_path / "plain.weights.h5")
    copy = prune_low_magnitude(simple())
    copy.load_weights(tmp_path / "plain.weights.h5")
    kernel = keras.ops.convert_to_numpy(model.layers[0].kernel)
    expected = np.where(np.abs(kernel) > np.median(np.abs(kernel)), kernel, 0)
    np.testing.assert_array_equal(strip_pruning(copy).layers[0].kernel, expected)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (layers.Conv3D(2, 3), (5, 7, 6, 3)),
        (layers.Conv2DTranspose(2, 3), (7, 6, 3)),
        (layers.SeparableConv1D(4, 3), (3, 6)),
        (layers.GRU(4), (3, 4)),
        (layers.MultiHeadAttention(2, 4), (3, 4)),
    ],
    ids=lambda value: value.name if isinstance(value, keras.Layer) else None,
)
def test_each_kind_of_layer_reaches_its_sparsity_in_training_and_gives_the_same_stripped(layer, shape):
    i = keras.Input(shape)
    o = layer(i, i) if isinstance(layer, layers.MultiHeadAttention) else layer(i)
    model = prune_low_magnitude(keras.Model(i, o), EACH_STEP)
    train(model, callbacks=[tfmot.UpdatePruningStep()])
    found = [target for _, hook in kwrap.find_hooks(model) for target in hook.target_weights]
    assert found
    assert [zeros(target.variable) for target in found] == [np.prod(target.shape) / 2 for target in found]
    x = np.random.RandomState(0).standard_normal((2, *shape))
    np.testing.assert_array_equal(strip_pruning(model)(x), model(x))


@pytest.mark.parametrize("m_by_n", [(2, 4), (1, 2), (3, 4)])
@pytest.mark.parametrize(
    ("layer", "shape"), [(layers.Conv2D(4, (3, 2)), (6, 6, 8)), (layers.Dense(4), (8,))], ids=["conv", "dense"]
)
def test_of_each_n_weights_m_are_zero_in_training(layer, shape, m_by_n):
    schedule = ConstantSparsity(0.1, 50)  # counts for nothing
    model = prune_low_magnitude(keras.Sequential([keras.Input(shape), layer]), schedule, sparsity_m_by_n=m_by_n)
    train(model)
    kernel = keras.ops.convert_to_numpy(model.layers[0].kernel)
    groups = np.moveaxis(kernel, -2, -1).reshape(-1, m_by_n[1])  # along the input channels
    assert set(np.sum(groups == 0, axis=1)) == {m_by_n[0]}


@pytest.mark.parametrize("m_by_n", [(4, 4), (5, 4), (0, 4), (2,), 2, ("2", 4), (True, 4)])
def test_other_m_by_n_are_value_errors(m_by_n):
    with pytest.raises(OptionValueError, match="sparsity_m_by_n"):
        prune_low_magnitude(layers.Dense(4), sparsity_m_by_n=m_by_n)


@pytest.mark.parametrize("options", [{"block_size": (3, 1)}, {"sparsity_m_by_n": (1, 3)}])
def test_blocks_and_groups_that_do_not_divide_are_value_errors(options):
    with pytest.raises(PlanError, match=r"logits: .* do not divide the 10 inputs"):
        prune_low_magnitude(simple(), **options)


def test_other_pooling_is_a_value_error():
    with pytest.raises(OptionValueError, match="'MIN' is not 'AVG' or 'MAX'"):
        prune_low_magnitude(layers.Dense(4), block_pooling_type="MIN")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pruning_schedule": 0.5}, "pruning_schedule=0.5 is no schedule"),
        ({"block_size": 4}, "block_size=4 is not two ints"),
        ({"block_size": (0, 2)}, r"block_size=\(0, 2\) is not two ints that are at least 1"),
        ({"block_pooling_type": "MIN"}, "block_pooling_type='MIN' is not 'AVG' or 'MAX'"),
        (
            {"sparsity_m_by_n": (1, 4), "block_size": (2, 2)},
            r"sparsity_m_by_n=\(1, 4\) contradicts block_size=\(2, 2\)",
        ),
        ({"pruning_schedule": PolynomialDecay}, "'pruning_schedule': PolynomialDecay is a class"),
    ],
)
def test_errors_name_the_arguments_as_they_are_given(options, message):
    with pytest.raises((OptionValueError, OptionError), match=message) as raised:
        prune_low_magnitude(layers.Dense(4), **options)
    assert str(raised.value).replace("hook '", "").startswith("prune_low_magnitude")


def test_pooling_without_blocks_counts_for_nothing():
    pruned = prune_low_magnitude(simple(), ConstantSparsity(0.5, 0), (1, 1), "MAX")
    assert zeros(pruned.layers[-1].kernel) == 40


@pytest.mark.parametrize("of", ["sequential", "functional", "layers", "list"])
def test_a_network_reaches_its_sparsity_however_it_is_put_together(of):
    parts = [layers.Conv2D(4, 3, name="conv"), layers.MaxPooling2D(), layers.Flatten(), layers.Dense(8, name="dense")]
    i = keras.Input((8, 8, 1))
    if of == "sequential":
        model = prune_low_magnitude(keras.Sequential([i, *parts]), EACH_STEP)
    elif of == "list":
        model = keras.Sequential([i, *prune_low_magnitude(parts, EACH_STEP)])
    else:
        o = i
        for part in parts:
            o = (prune_low_magnitude(part, EACH_STEP) if of == "layers" and part.name in ("conv", "dense") else part)(o)
        model = keras.Model(i, o)
        model = model if of == "layers" else prune_low_magnitude(model, EACH_STEP)
    train(model)
    stripped = strip_pruning(model)
    assert (pruned(stripped), zeros(stripped.get_layer("conv").kernel)) == ([], 18)
    assert zeros(stripped.get_layer("dense").kernel) == 144


@pytest.mark.parametrize(("begin", "end"), [(1, 4), (0, 2)])
def test_a_schedule_goes_on_after_saving_and_keeps_its_end(begin, end, tmp_path):
    model = prune_low_magnitude(simple(), PolynomialDecay(0.2, 0.6, begin, end, 3, 1))
    assert zeros(model.layers[0].kernel) == (16 if begin == 0 else 0)
    counts = []
    for _ in range(5):
        train(model)
        counts.append(zeros(model.layers[0].kernel))
        model.save(tmp_path / "model.keras")
        model = keras.models.load_model(tmp_path / "model.keras")
        assert zeros(model.layers[0].kernel) == counts[-1]
    done = np.clip((np.arange(1, 6) - begin) / (end - begin), 0, 1)
    assert counts == list(np.round(80 * (0.6 - 0.4 * (1 - done) ** 3)))
    assert zeros(strip_pruning(model).layers[0].kernel) == 48


def test_every_checkpoint_is_sparse(tmp_path):
    model = prune_low_magnitude(simple(), EACH_STEP)
    checkpoint = keras.callbacks.ModelCheckpoint(
        str(tmp_path / "{batch}.weights.h5"), save_weights_only=True, save_freq=1
    )
    train(model, 3, callbacks=[checkpoint])
    found = sorted(tmp_path.iterdir())
    again = prune_low_magnitude(simple(), ConstantSparsity(0.5, 100))
    for path in found:
        again.load_weights(path)
        assert zeros(again.layers[0].layer.kernel) == 40
    assert len(found) == 3


def test_a_training_loop_of_ones_own_prunes_and_may_call_the_callbacks(tmp_path):
    model = prune_low_magnitude(simple(), ConstantSparsity(0.5, 2, frequency=1))
    optimizer = keras.optimizers.SGD()
    model.optimizer = optimizer
    callback, summaries = tfmot.UpdatePruningStep(), tfmot.PruningSummaries(tmp_path)
    callback.set_model(model)
    summaries.set_model(model)
    callback.on_train_begin()
    counts = []
    for _ in range(3):
        summaries.on_epoch_begin(epoch=-1)
        callback.on_train_batch_begin(batch=-1)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(np.ones((4, 10)), training=True) ** 2)
        gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        callback.on_epoch_end(batch=-1)  # so in tfmot's guide
        counts.append(zeros(model.layers[0].kernel))
    assert counts == [0, 40, 40]
    assert written(tmp_path / "metrics") == [("logits/kernel/sparsity", *row) for row in ((0, 0.0), (1, 0.0), (2, 0.5))]


# --- pruning_impl_test and pruning_utils_test ------------------------------------------------------------------------


def weights(shape: tuple[int, ...]) -> np.ndarray:
    """Return the weights of tfmot_masks.py, which the tests cannot import."""
    return np.random.RandomState(math.prod(shape)).standard_normal(shape).astype("float32")


def row_id(row):
    return "-".join(map(str, [*row["shape"], row["sparsity"], *row["options"].values()]))


@pytest.mark.parametrize("row", json.loads((HERE / "tfmot_masks.json").read_text("utf-8"))["rows"], ids=row_id)
def test_masks_are_those_of_tfmot(row):
    *window, inputs, outputs = row["shape"]
    if window:
        layer = layers.Conv2D(outputs, window)
        layer.build((None, 8, 8, inputs))
    else:
        layer = layers.Dense(outputs)
        layer.build((None, inputs))
    expected = weights(tuple(row["shape"])) * np.reshape([int(bit) for bit in row["kept"]], row["shape"])
    layer.kernel.assign(weights(tuple(row["shape"])))
    wrapper = prune_low_magnitude(layer, ConstantSparsity(row["sparsity"], 0), **row["options"])
    wrapper(np.ones((1, 8, 8, inputs) if window else (1, inputs), "float32"))
    np.testing.assert_array_equal(wrapper.kernel, expected)


class Steps(PruningSchedule):
    """As tfmot has a schedule of one's own, its config included."""

    def __init__(self, sparsities, begin_step=0):
        self.sparsities, self.begin_step = sparsities, begin_step

    def __call__(self, step):
        at = tf.minimum(tf.cast(step, tf.int64), len(self.sparsities) - 1)
        due = self._should_prune_in_step(step, self.begin_step, -2, 1)
        return due, tf.gather(tf.constant(self.sparsities), at)

    def get_config(self):
        config = {"sparsities": self.sparsities, "begin_step": self.begin_step}
        return {"class_name": "Steps", "config": config}


def test_a_schedule_of_ones_own_is_followed_and_saved(tmp_path):
    model = prune_low_magnitude(simple(), Steps([0.0, 0.1, 0.1, 0.3, 0.3, 0.5, 0.5]))
    counts = [zeros(model.layers[0].kernel)]
    for _ in range(4):
        train(model)
        counts.append(zeros(model.layers[0].kernel))
    model.save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    for _ in range(2):
        train(model)
        counts.append(zeros(model.layers[0].kernel))
    assert counts == [0, 8, 8, 24, 24, 40, 40]


def test_the_schedules_are_of_tfmots_base_class():
    assert all(isinstance(each, PruningSchedule) for each in (EACH_STEP, PolynomialDecay(0, 0.5, 0, 1), Steps([0.5])))
    assert not isinstance(Prune(), PruningSchedule)


# --- pruning_callbacks_test ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log_dir", ["", None, object()])
def test_summaries_need_a_folder(log_dir):
    with pytest.raises(OptionValueError, match="log_dir"):
        tfmot.PruningSummaries(log_dir=log_dir)


def written(folder: pathlib.Path) -> list[tuple[str, int, float]]:
    """Return (tag, step, value) of the scalars in a folder's event files."""
    events = (event for path in folder.iterdir() for event in tf.compat.v1.train.summary_iterator(str(path)))
    return [
        (value.tag, event.step, float(tf.make_ndarray(value.tensor)))
        for event in events
        for value in event.summary.value
    ]


def test_summaries_hold_the_sparsity_before_each_epoch_and_in_the_end(tmp_path):
    model = prune_low_magnitude(simple(OwnPrunable(name="own")), ConstantSparsity(0.5, 2))
    train(model, epochs=2, callbacks=[tfmot.UpdatePruningStep(), tfmot.PruningSummaries(str(tmp_path))])
    names = ("own/weight_0", "own/weight_1", "logits/kernel")
    sparsity = {0: 0.0, 1: 0.0, 2: 0.5}
    rows = [(f"{name}/sparsity", step, value) for step, value in sparsity.items() for name in names]
    assert written(tmp_path / "metrics") == rows
    assert list((tmp_path / "train").iterdir())  # Keras' own


def test_without_training_nothing_advances():
    model = prune_low_magnitude(simple(), ConstantSparsity(0.5, 1))
    model.compile("sgd", "mse")
    x = np.ones((8, 10))
    model.predict(x, verbose=0)
    model.evaluate(x, np.ones((8, 8)), verbose=0)
    assert zeros(model.layers[0].kernel) == 0


def test_the_names_are_where_scripts_for_tfmot_have_them():
    assert tfmot.sparsity.keras.prune_low_magnitude is tfmot.prune_low_magnitude
    assert {*tfmot.sparsity.keras.__all__, "sparsity"} == set(tfmot.__all__)
    assert all(getattr(tfmot, name) is getattr(tfmot.sparsity.keras, name) for name in tfmot.sparsity.keras.__all__)
