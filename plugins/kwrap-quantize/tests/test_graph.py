import keras
import numpy as np
import pytest
from keras import layers

import kwrap
from kwrap.errors import OptionValueError, RuleError
from kwrap_quantize import AlreadyQuantizedError, FloatLayerError, GraphNotSeenError, QuantizeOutput, quantize, ranges

WEIGHTS, TAKEN, GIVEN = "quantize_weights", "quantize_input", "quantize_output"


def model_of(*chain, shape=(8, 8, 3)):
    return keras.Sequential([keras.Input(shape), *chain], name="chain")


def hooks(plan):
    return {entry.path: [hook.name for hook in entry.hooks] for entry in plan.entries}


def reasons(plan):
    return {item.path: item.reason for item in plan.skipped}


def option(plan, path, hook, name):
    (entry,) = (entry for entry in plan.entries if entry.path == path)
    return next(getattr(one, name) for one in entry.hooks if one.name == hook)


def test_nothing_is_rounded_between_a_convolution_and_its_normalization_and_relu():
    plan = quantize(
        model_of(
            layers.Conv2D(4, 3, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(6.0, name="relu"),
            layers.MaxPooling2D(name="pool"),
            layers.DepthwiseConv2D(3, activation="relu", name="depthwise"),
            layers.Flatten(name="flatten"),
            layers.Dropout(0.5, name="drop"),
            layers.Dense(5, name="dense"),
            layers.BatchNormalization(name="dense_norm"),
            layers.Activation("relu", name="dense_relu"),
            layers.Dense(2, name="logits"),
        )
    )
    assert hooks(plan) == {
        "conv": [WEIGHTS, TAKEN],
        "relu": [GIVEN],
        "depthwise": [WEIGHTS, GIVEN],
        # Of a dense layer the converter does not take the normalization into the kernel.
        "dense": [WEIGHTS, GIVEN],
        "dense_norm": ["quantize_normalization"],
        "dense_relu": [GIVEN],
        "logits": [WEIGHTS, GIVEN],
    }
    assert not plan.skipped


def test_what_two_layers_take_is_rounded_before_them():
    image = keras.Input((4, 4, 3))
    conv = layers.Conv2D(3, 1, name="conv")(image)
    norm = layers.BatchNormalization(name="norm")(conv)
    outputs = layers.Add(name="add")([norm, conv])
    plan = quantize(keras.Model(image, layers.ReLU(name="relu")(outputs)))
    assert hooks(plan) == {"conv": [WEIGHTS, GIVEN, TAKEN], "norm": [GIVEN, "quantize_normalization"], "relu": [GIVEN]}


def test_a_result_of_the_model_is_rounded_before_what_else_takes_it():
    image = keras.Input((4, 4, 3))
    conv = layers.Conv2D(3, 1, name="conv")(image)
    plan = quantize(keras.Model(image, [conv, layers.ReLU(name="relu")(conv)]))
    assert hooks(plan) == {"conv": [WEIGHTS, GIVEN, TAKEN], "relu": [GIVEN]}


def test_a_softmax_within_a_layer_is_rounded_before_and_after():
    plan = quantize(model_of(layers.Dense(3, activation="softmax", name="label"), shape=(4,)))
    assert hooks(plan) == {"label": [WEIGHTS, GIVEN, TAKEN, "quantize_activation"]}
    assert option(plan, "label", GIVEN, "range") == (0, 255 / 256)


@pytest.mark.parametrize(("bits", "expected"), [(8, (-1.0, 127 / 128)), (16, (-1.0, 32767 / 32768))])
def test_the_range_of_tanh_is_that_of_litert(bits, expected):
    plan = quantize(model_of(layers.Dense(3, activation="tanh", name="label"), shape=(4,)), activation_bits=bits)
    assert option(plan, "label", GIVEN, "range") == expected
    assert option(plan, "label", TAKEN, "symmetric") is (bits > 8)


def test_all_that_a_merge_takes_is_rounded_where_one_of_it_is_not():
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    hidden = layers.Dense(4, name="dense")(left)
    plan = quantize(keras.Model([left, right], layers.Add(name="add")([hidden, right])))
    assert hooks(plan) == {"dense": [WEIGHTS, GIVEN, TAKEN], "add": [GIVEN, TAKEN]}
    assert option(plan, "add", TAKEN, "tensors") == 2


def test_what_is_concatenated_is_rounded_once_on_one_grid():
    image = keras.Input((8, 8, 3))
    left = layers.ReLU(name="relu")(layers.Conv2D(2, 3, name="left")(image))
    left = layers.MaxPooling2D(name="pool")(left)
    right = layers.Conv2D(2, 3, strides=2, name="right")(image)
    joined = layers.Concatenate(name="join")([left, right])
    plan = quantize(keras.Model(image, layers.Concatenate(name="again")([joined, left])))
    assert hooks(plan) == {
        "left": [WEIGHTS, TAKEN],
        "relu": [GIVEN],  # two take it
        "right": [WEIGHTS, TAKEN],
        "join": [GIVEN],
        "again": [GIVEN],
    }
    plan = quantize(keras.Model(image, joined))
    assert hooks(plan) == {"left": [WEIGHTS, TAKEN], "right": [WEIGHTS, TAKEN], "join": [GIVEN]}


def test_what_operations_give_that_are_no_layers_is_rounded_where_it_is_taken():
    image = keras.Input((4,))
    hidden = layers.Dense(4, name="first")(image)
    plan = quantize(keras.Model(image, layers.Dense(2, name="last")(hidden + hidden)), strict=True)
    assert hooks(plan) == {"first": [WEIGHTS, GIVEN, TAKEN], "last": [WEIGHTS, GIVEN, TAKEN]}
    clipped = layers.ReLU(6.0, name="relu")(hidden + 3.0) * (1 / 6)
    plan = quantize(keras.Model(image, layers.Multiply(name="product")([hidden, clipped])), strict=True)
    assert hooks(plan) == {"first": [WEIGHTS, GIVEN, TAKEN], "relu": [GIVEN], "product": [GIVEN, TAKEN]}


def test_operations_that_compute_in_float_are_told():
    row = keras.Input((4,))
    plan = quantize(keras.Model(row, layers.Dense(2, name="last")(layers.Dense(4, name="first")(row) * 2.0 + 1.0)))
    assert all("Multiply is no layer" in told or "Add is no layer" in told for told in reasons(plan).values())
    assert len(plan.skipped) == 2
    # What the model takes is on no grid before the first layer; the ReLU rounds the sum.
    plan = quantize(keras.Model(row, layers.Dense(2, name="last")(layers.ReLU(name="relu")(row + 3.0))))
    assert ["Add is no layer" in told for told in reasons(plan).values()] == [True]
    assert hooks(plan) == {"relu": [GIVEN, TAKEN], "last": [WEIGHTS, GIVEN]}


def test_what_a_layer_takes_may_leave_it_in_float():
    row, tokens, image = keras.Input((4,)), keras.Input((5,), dtype="int32"), keras.Input((8, 8, 3), dtype="uint8")
    summed = layers.Add(name="add")([layers.Dense(4)(row) for _ in range(3)])
    mean = layers.GlobalAveragePooling1D(name="mean")(layers.Embedding(9, 4, mask_zero=True)(tokens))
    scaled = layers.Rescaling(1 / 255, name="scale")(image)
    for taken, given, told in (
        (row, summed, {"add": "two tensors at a time"}),
        (tokens, mean, {"mean": "takes a mask"}),
        (image, scaled, {"scale": "takes integers"}),
    ):
        plan = quantize(keras.Model(taken, layers.Dense(2, name="last")(given)))
        assert hooks(plan)["last"] == [WEIGHTS, GIVEN, TAKEN]
        assert {path: text in reasons(plan)[path] for path, text in told.items()} == dict.fromkeys(told, True)
        assert set(hooks(plan)).isdisjoint(told)


def test_integers_that_are_merged_are_not_rounded():
    left, right = keras.Input((5,), dtype="int32"), keras.Input((5,), dtype="int32")
    words = layers.Embedding(9, 4, name="words")(layers.Concatenate(name="join")([left, right]))
    model = quantize(keras.Model([left, right], layers.Dense(2, name="last")(words)), strict=True).apply()
    assert {path for path, _ in kwrap.find_hooks(model)} == {"words", "last"}


def test_an_operation_that_gives_a_result_of_the_model_is_told():
    image = keras.Input((4,))
    plan = quantize(keras.Model(image, layers.Dense(4, name="first")(image) + 1.0))
    assert "Add is no layer" in next(iter(reasons(plan).values()))


def test_a_shared_nested_model_is_seen_through():
    tower = keras.Sequential(
        [keras.Input((6, 6, 1)), layers.Conv2D(2, 3, name="conv"), layers.ReLU(name="relu"), layers.Flatten()],
        name="tower",
    )
    left, right = keras.Input((6, 6, 1), name="left"), keras.Input((6, 6, 1), name="right")
    plan = quantize(keras.Model([left, right], layers.Add(name="both")([tower(left), tower(right)])))
    assert hooks(plan) == {"tower/conv": [WEIGHTS, TAKEN], "tower/relu": [GIVEN], "both": [GIVEN]}


def test_layers_without_integers_stay_in_float_but_for_their_kernels():
    tokens = keras.Input((5,), dtype="int32")
    hidden = layers.Embedding(9, 4, name="words")(tokens)
    hidden = layers.LSTM(3, name="lstm")(hidden)
    plan = quantize(keras.Model(tokens, layers.Dense(2, name="head")(hidden)))
    assert hooks(plan) == {"words": [WEIGHTS], "lstm": [WEIGHTS], "head": [WEIGHTS, GIVEN, TAKEN]}
    assert "LSTM" in reasons(plan)["lstm"]


def small():
    return model_of(
        layers.Conv2D(2, 3, name="first"), layers.ReLU(name="relu"), layers.Conv2D(2, 3, name="last"), shape=(6, 6, 1)
    )


def test_excluded_layers_stay_in_float_and_what_is_around_them_is_rounded():
    plan = quantize(small(), exclude="relu")
    assert hooks(plan) == {"first": [WEIGHTS, GIVEN, TAKEN], "last": [WEIGHTS, GIVEN, TAKEN]}
    assert reasons(plan) == {"relu": "excluded"}


def test_where_names_the_layers_that_are_quantized():
    plan = quantize(small(), where=["first", "relu"])
    assert hooks(plan) == {"first": [WEIGHTS, TAKEN], "relu": [GIVEN]}
    assert reasons(plan) == {"last": "not among where=..."}
    with pytest.raises(RuleError, match="matches no layer"):
        quantize(small(), where="frist")


def test_strict_allows_nothing_in_float_but_what_is_excluded():
    model = model_of(layers.Dense(3, name="dense"), layers.Activation("selu", name="selu"), shape=(4,))
    with pytest.raises(FloatLayerError, match="selu: LiteRT has no operator") as caught:
        quantize(model, strict=True)
    assert list(caught.value.reasons) == ["selu"]
    assert (
        hooks(quantize(model, strict=True, exclude="selu"))
        == hooks(quantize(model))
        == {"dense": [WEIGHTS, GIVEN, TAKEN]}
    )


def test_a_subclass_with_a_call_of_its_own_is_another_layer():
    class Scaled(layers.Dense):
        def call(self, inputs):
            return super().call(inputs) * 2

    plan = quantize(model_of(Scaled(3, name="scaled"), layers.Dense(2, name="dense"), shape=(4,)))
    assert hooks(plan) == {"scaled": [WEIGHTS], "dense": [WEIGHTS, GIVEN, TAKEN]}


def test_hooks_that_are_there_stay_first():
    model = kwrap.wrap_model(small(), "prune", where="first")
    quantize(model).apply()
    assert [hook.name for hook in model.get_layer("first").hooks] == ["prune", WEIGHTS, TAKEN]


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


def test_a_model_without_a_graph_is_an_error_that_names_the_hooks():
    with pytest.raises(GraphNotSeenError, match=r"QuantizeWeights.*QuantizeOutput.*QuantizeInput"):
        quantize(Subclassed())


@pytest.mark.parametrize("options", [{"bits": 1}, {"activation_bits": 17}, {"range": "first"}, {"method": "best"}])
def test_bad_options_are_errors(options):
    with pytest.raises(OptionValueError):
        quantize(small(), **options)


def test_a_transposed_convolution_is_rounded_before_a_relu():
    plan = quantize(
        model_of(
            layers.Conv2DTranspose(2, 3, name="first"),
            layers.ReLU(name="relu"),
            layers.Conv2DTranspose(2, 3, activation="relu", name="last"),
        )
    )
    assert hooks(plan) == {
        "first": [WEIGHTS, GIVEN, TAKEN],
        "relu": [GIVEN],
        "last": [WEIGHTS, GIVEN, "quantize_activation"],
    }


def custom(values):
    return values * 2


IMAGE = (8, 8, 3)
IN_FLOAT = {
    "selu": layers.Dense(3, activation="selu"),
    "softplus": layers.Conv2D(3, 3, activation="softplus"),
    "custom": layers.Dense(3, activation=custom),
    "clips at 1": layers.ReLU(max_value=1.0),
    "clips, and has a slope": layers.ReLU(max_value=6.0, negative_slope=0.1),
    "along one axis": layers.Softmax(axis=(1, 2)),
    "bicubic": layers.UpSampling2D(interpolation="bicubic"),
    "normalizes axis": layers.Normalization(axis=1, mean=0.0, variance=1.0),
    "normalizes other axes": layers.Rescaling(np.ones((8, 1))),
}


@pytest.mark.parametrize("reason", IN_FLOAT)
def test_what_litert_computes_in_float_is_told(reason):
    plan = quantize(model_of(layers.Conv2D(3, 3, padding="same"), IN_FLOAT[reason], shape=IMAGE))
    assert [reason in told for told in reasons(plan).values()] == [True]


INTEGERS = [
    layers.Dense(3, activation=layers.LeakyReLU(0.1)),
    layers.Dense(3, activation="silu"),
    layers.ReLU(max_value=6.0),
    layers.ReLU(negative_slope=0.1),
    layers.UpSampling2D(interpolation="bilinear"),
    layers.Normalization(axis=None, mean=0.0, variance=1.0),
]


@pytest.mark.parametrize("layer", INTEGERS)
def test_what_litert_has_integers_for_is_not(layer):
    assert not quantize(model_of(layer, shape=IMAGE), strict=True).skipped


def test_the_sums_before_an_activation_in_float_are_rounded():
    plan = quantize(model_of(layers.Dense(3, activation="selu", name="dense"), shape=(4,)))
    assert hooks(plan) == {"dense": [WEIGHTS, GIVEN, TAKEN, "quantize_activation"]}


@pytest.mark.parametrize("scales", [(1.0, 0.01), (0.01, 1.0)])
@pytest.mark.parametrize("kind", ["moving_average", "last"])
def test_a_layer_that_is_called_twice_has_the_range_of_both_calls(scales, kind):
    left, right = keras.Input((4,)), keras.Input((4,))
    dense = layers.Dense(3, name="dense")
    model = quantize(keras.Model([left, right], [dense(left), dense(right)]), range=kind).apply()
    values = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    for _ in (1, 2, 3):
        model([scale * values for scale in scales], training=True)
    (taken,) = (each for each in ranges(model).tensors if each.of == "inputs")
    assert (taken.minimum, taken.maximum) == pytest.approx((values.min(), values.max()), rel=0.01)


def test_a_loaded_model_with_hooks_on_its_normalization_is_quantized(tmp_path):
    model = model_of(layers.Conv2D(2, 3, name="conv"), layers.BatchNormalization(axis=3, name="norm"), layers.ReLU())
    kwrap.wrap_model(model, QuantizeOutput(name="other"), where="norm")
    model.save(tmp_path / "model.keras")
    assert not quantize(keras.models.load_model(tmp_path / "model.keras")).skipped


def test_a_sum_by_an_operation_that_layers_round_and_others_do_not_is_told():
    row = keras.Input((4,))
    summed = layers.Dense(4)(row) + layers.Dense(4)(row)
    last = layers.Dense(4)(summed)
    joined = layers.Concatenate()([summed, last])
    for outputs in ([summed, last], joined):
        (reason,) = reasons(quantize(keras.Model(row, outputs))).values()
        assert "use keras.layers.Add" in reason
    assert not quantize(keras.Model(row, [last, layers.Dense(2)(summed)])).skipped


def test_what_has_a_fixed_range_is_rounded_before_it_is_joined():
    row = keras.Input((4,))
    sides = [layers.Dense(3, activation=name, name=name)(row) for name in ("tanh", "linear")]
    plan = quantize(keras.Model(row, layers.Concatenate(name="join")(sides)))
    assert hooks(plan)["tanh"] == [WEIGHTS, GIVEN, TAKEN, "quantize_activation"]
    assert hooks(plan)["linear"] == [WEIGHTS, TAKEN]


def test_to_quantize_again_is_an_error_that_says_to_unwrap_first():
    model = quantize(small()).apply()
    with pytest.raises(AlreadyQuantizedError, match="unwrap first") as caught:
        quantize(model)
    kwrap.unwrap_model(model, caught.value.hooks)
    quantize(model).apply()
