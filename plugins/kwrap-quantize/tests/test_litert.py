import json
import os
import sys
import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from keras import layers
from sklearn.datasets import load_digits

import kwrap
from kwrap.errors import MissingPackageError, OptionValueError, SaveError
from kwrap_prune import ConstantSparsity, Prune
from kwrap_quantize import (
    ConversionError,
    DataError,
    FloatOperatorError,
    LiteRTBitsError,
    LiteRTDtypeError,
    QuantizeInput,
    QuantizeOutput,
    QuantizeWeights,
    RangeNotSeenError,
    calibrate,
    quantize,
    ranges,
    to_litert,
)

IMAGES, LABELS = load_digits(return_X_y=True)
IMAGES = (IMAGES.reshape(-1, 8, 8, 1) / 16).astype("float32")


def trained(model, images=IMAGES, epochs=1, **options):
    """Return the model, quantized and trained on digits for a moment."""
    quantize(model, **options).apply()
    model.compile(keras.optimizers.Adam(0.005), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(images[:1000], LABELS[:1000], epochs=epochs, batch_size=50, verbose=0)
    return model


def digits():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, use_bias=False, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.MaxPooling2D(name="pool"),
            layers.Flatten(name="flatten"),
            layers.Dense(32, activation="relu", name="hidden"),
            layers.Dense(10, name="logits"),
        ]
    )


@pytest.fixture(scope="module")
def model():
    return trained(digits(), epochs=6)


def test_all_operators_are_int8_and_the_file_agrees_with_keras(model, tmp_path):
    report = to_litert(model, tmp_path / "digits.tflite", strict=True, validate=IMAGES[1000:])
    assert report.counts == {
        "CONV_2D": {"int8": 1},
        "DEQUANTIZE": {"float32": 1},
        "FULLY_CONNECTED": {"int8": 2},
        "MAX_POOL_2D": {"int8": 1},
        "QUANTIZE": {"int8": 1},
        "RESHAPE": {"int8": 1},
    }
    assert report.left_in_float == ()
    assert {one.weights for one in report.operators if one.kind in ("CONV_2D", "FULLY_CONNECTED")} == {"int8"}
    assert report.size == (tmp_path / "digits.tflite").stat().st_size
    assert report.comparison.samples == len(IMAGES) - 1000
    assert report.comparison.agreement >= 0.999
    step = np.ptp(model.predict(IMAGES[1000:], verbose=0)) / 255
    assert report.comparison.largest_difference < 4 * step


def test_integers_go_in_and_out_on_demand(model, tmp_path):
    report = to_litert(
        model, tmp_path / "digits.tflite", input_dtype="int8", output_dtype="uint8", validate=IMAGES[:200]
    )
    assert set(report.counts) == {"CONV_2D", "FULLY_CONNECTED", "MAX_POOL_2D", "QUANTIZE", "RESHAPE"}
    assert report.counts["QUANTIZE"] == {"uint8": 1}
    assert report.comparison.agreement >= 0.995  # one of 200
    assert "QUANTIZE         uint8" in str(report)


def test_the_number_of_samples_may_be_told_at_each_call(model, tmp_path):
    path = tmp_path / "digits.tflite"
    assert to_litert(model, path, batch_size=None, validate=IMAGES[:200]).comparison.agreement >= 0.995
    (details,) = Interpreter(str(path)).get_input_details()
    assert list(details["shape_signature"]) == [-1, 8, 8, 1]


def test_the_report_is_data(model, tmp_path):
    report = to_litert(model, tmp_path / "digits.tflite", validate=tf.data.Dataset.from_tensors(IMAGES[:10]))
    data = json.loads(json.dumps(report.as_dict()))
    assert data["operators"] == report.counts
    assert data["comparison"]["samples"] == 10
    assert data["left_in_float"] == []
    assert "left in float: nothing" in str(report)


def test_what_is_left_in_float_is_named_or_an_error(tmp_path):
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Conv2D(2, 3, name="conv"), layers.Activation("elu", name="elu")]
    )
    quantize(model).apply()
    model(IMAGES[:9], training=True)
    report = to_litert(model, tmp_path / "file.tflite")
    assert [one.kind for one in report.left_in_float] == ["ELU"]
    assert "conv" in report.left_in_float[0].name  # what it takes: it gives the result of the file
    (tmp_path / "file.tflite").unlink()
    with pytest.raises(FloatOperatorError, match="ELU"):
        to_litert(model, tmp_path / "file.tflite", strict=True)
    assert not list(tmp_path.iterdir())


def test_a_range_that_nothing_was_seen_of_is_an_error_before_a_file_is_written(tmp_path):
    model = digits()
    quantize(model).apply()
    with pytest.raises(RangeNotSeenError, match=r"conv.*relu.*hidden.*logits"):
        to_litert(model, tmp_path / "digits.tflite")
    assert not list(tmp_path.iterdir())
    calibrate(model, IMAGES[:50])
    assert to_litert(model, tmp_path / "digits.tflite").left_in_float == ()


def _is_constant(interpreter, details):
    try:
        interpreter.get_tensor(details["index"])
    except ValueError:
        return False
    return True


def test_pruned_zeros_are_zeros_in_the_file(tmp_path):
    model = kwrap.wrap_model(digits(), Prune(ConstantSparsity(0.8, begin_step=0)))
    trained(model)
    path = tmp_path / "digits.tflite"
    to_litert(model, path)
    interpreter = Interpreter(str(path))
    kernels = [
        interpreter.get_tensor(details["index"])
        for details in interpreter.get_tensor_details()
        if details["dtype"] == np.int8 and details["name"] and _is_constant(interpreter, details)
    ]
    shares = sorted(round(float(np.mean(kernel == 0)), 1) for kernel in kernels if kernel.size > 20)
    assert shares == [0.8, 0.8, 0.8]
    content = path.read_bytes()
    assert len(zlib.compress(content)) < 0.6 * len(content)


def test_a_saved_model_keeps_the_rounding(model, tmp_path):
    model.export(tmp_path / "exported", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "exported"))
    outputs = loaded.serve(IMAGES[:50])
    assert np.allclose(outputs, model.predict(IMAGES[:50], verbose=0), atol=1e-6)
    # All on the grid of the last range.
    logits = next(one for one in ranges(model).tensors if one.path == "logits" and one.of == "outputs")
    places = (np.asarray(outputs) - logits.minimum) / logits.step
    assert np.ptp(places % 1) < 0.02 or np.ptp((places + 0.5) % 1) < 0.02


def test_several_inputs_and_outputs_are_compared_by_their_names(tmp_path):
    left, right = keras.Input((3,), name="left"), keras.Input((4,), name="right")
    hidden = layers.Add(name="add")([layers.Dense(5, name="first")(left), layers.Dense(5, name="second")(right)])
    model = keras.Model({"left": left, "right": right}, [layers.Dense(2, name="head")(hidden), hidden])
    quantize(model).apply()
    data = {"right": np.random.default_rng(0).normal(size=(64, 4)), "left": np.ones((64, 3))}
    model(data, training=True)
    report = to_litert(model, tmp_path / "file.tflite", validate=data)
    assert report.left_in_float == ()
    assert report.comparison.largest_difference < 0.1


@pytest.mark.parametrize("option", ["input_dtype", "output_dtype"])
def test_other_dtypes_are_errors(model, tmp_path, option):
    with pytest.raises(OptionValueError, match="'float16' is none of"):
        to_litert(model, tmp_path / "digits.tflite", **{option: "float16"})


def dense():
    return keras.Sequential([keras.Input((64,)), layers.Dense(8, activation="relu", name="hidden"), layers.Dense(10)])


@pytest.mark.parametrize(("bits", "activation_bits"), [(4, 8), (8, 16)])
def test_weights_of_4_bits_and_activations_of_16_agree_in_dense_layers(tmp_path, bits, activation_bits):
    model = trained(dense(), IMAGES.reshape(-1, 64), bits=bits, activation_bits=activation_bits)
    report = to_litert(model, tmp_path / "file.tflite", strict=True, validate=IMAGES.reshape(-1, 64)[:200])
    (weights,) = {one.weights for one in report.operators if one.kind == "FULLY_CONNECTED"}
    assert weights == f"int{bits}"
    assert report.counts["FULLY_CONNECTED"] == {f"int{activation_bits}": 2}
    assert report.comparison.agreement >= 0.995


@pytest.mark.parametrize("options", [{"bits": 3}, {"bits": 16}, {"activation_bits": 7}, {"activation_bits": 12}])
def test_bits_that_litert_has_not_are_errors(tmp_path, options):
    model = dense()
    quantize(model, **options).apply()
    model(np.ones((1, 64)), training=True)
    with pytest.raises(LiteRTBitsError, match="hidden"):
        to_litert(model, tmp_path / "file.tflite")


def test_layers_that_litert_has_no_4_bits_for_are_errors(tmp_path):
    words = keras.Input((5,), dtype="int32")
    hidden = layers.Reshape((5, 4, 1))(layers.Embedding(9, 4, name="words")(words))
    model = keras.Model(words, layers.Conv2DTranspose(2, 3, name="grow")(hidden))
    kwrap.wrap_model(model, QuantizeWeights(4))
    with pytest.raises(LiteRTBitsError, match=r"4 bits.*words.*grow") as caught:
        to_litert(model, tmp_path / "file.tflite")
    assert caught.value.names == ["words", "grow"]
    kwrap.unwrap_model(model)
    kwrap.wrap_model(model, QuantizeWeights(5))
    assert to_litert(model, tmp_path / "file.tflite").weights["GATHER"] == {"int8": 1}


@pytest.mark.parametrize("options", [{"symmetric": False}, {"bits": 5, "narrow_range": False}])
def test_convolutions_with_shifted_zeros_which_litert_does_not_load_are_errors(tmp_path, options):
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(2, 3, name="conv")])
    kwrap.wrap_model(model, [QuantizeWeights(**options), QuantizeInput(), QuantizeOutput()])
    calibrate(model, IMAGES[:9])
    with pytest.raises(LiteRTBitsError, match=r"conv.*symmetric=True"):
        to_litert(model, tmp_path / "file.tflite")
    assert not list(tmp_path.iterdir())


def test_an_activation_that_the_converter_has_no_16_bits_for_is_an_error_that_says_so(tmp_path):
    model, _ = small(layers.Dense(3, activation="tanh"), activation_bits=16)
    with pytest.raises(ConversionError, match=r"16 bits.*tanh.*use 8 bits"):
        to_litert(model, tmp_path / "file.tflite")
    assert not list(tmp_path.iterdir())


def test_convolutions_of_16_bits_which_litert_computes_wrong_are_errors(tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(2, 3, name="conv"), layers.Flatten()])
    quantize(model, activation_bits=16).apply()
    model(IMAGES[:9], training=True)
    with pytest.raises(LiteRTBitsError, match=r"convolutions of 16-bit.*conv"):
        to_litert(model, tmp_path / "file.tflite")
    assert not list(tmp_path.iterdir())


def test_an_embedding_gives_rows_of_its_table_in_integers(tmp_path):
    words = keras.Input((5,), dtype="int32")
    hidden = layers.GlobalAveragePooling1D(name="mean")(layers.Embedding(9, 4, name="words")(words))
    model = keras.Model(words, layers.Dense(3, name="head")(hidden))
    quantize(model, strict=True).apply()
    data = np.random.default_rng(0).integers(0, 9, size=(64, 5))
    model(data, training=True)
    report = to_litert(model, tmp_path / "file.tflite", strict=True, validate=data)
    assert report.counts["GATHER"] == {"int8": 1}
    (step,) = (one.step for one in ranges(model).tensors if (one.path, one.of) == ("head", "outputs"))
    assert report.comparison.largest_difference < 2.5 * step


def small(*heads, **options):
    """Return a small model of dense layers, quantized and calibrated, and its data."""
    keras.utils.set_random_seed(0)
    data = np.random.default_rng(0).normal(size=(30, 8)).astype("float32")
    inputs = keras.Input((8,))
    outputs = [head(inputs) for head in heads or (layers.Dense(3, name="head"),)]
    model = keras.Model(inputs, outputs if heads else outputs[0])
    quantize(model, **options).apply()
    calibrate(model, data)
    return model, data


def test_more_than_ten_outputs_are_compared_each_with_its_own(tmp_path):
    model, data = small(*(layers.Dense(3, name=f"head{number}") for number in range(11)))
    comparison = to_litert(model, tmp_path / "file.tflite", validate=data).comparison
    assert comparison.agreement > 0.98
    assert comparison.largest_difference < 0.1


def test_outputs_in_a_dict_are_compared_by_their_names(tmp_path):
    inputs = keras.Input((8,))
    model = keras.Model(inputs, {name: layers.Dense(3, name=name)(inputs) for name in ("output_2", "output_10")})
    quantize(model).apply()
    data = small()[1]
    calibrate(model, data)
    assert to_litert(model, tmp_path / "file.tflite", validate=data).comparison.largest_difference < 0.1


def test_outputs_that_are_not_finite_are_no_agreement(tmp_path):
    model, data = small()
    data[3, 0] = np.nan
    comparison = to_litert(model, tmp_path / "file.tflite", validate=data).comparison
    assert np.isnan(comparison.largest_difference)
    assert comparison.agreement == pytest.approx(29 / 30)


def test_files_of_a_fixed_number_of_samples_are_compared_too(tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(3)])
    quantize(model).apply()
    calibrate(model, IMAGES[:30])
    one = to_litert(model, tmp_path / "file.tflite", validate=IMAGES[:30]).comparison
    data = (IMAGES[:30], LABELS[:30])
    assert to_litert(model, tmp_path / "file.tflite", batch_size=4, validate=data).comparison == one
    assert one.samples == 30


def test_data_that_is_not_the_models_is_refused_before_the_work(tmp_path):
    model, data = small()
    for validate in ([data, data], iter([])):
        with pytest.raises(DataError, match="validate"):
            to_litert(model, tmp_path / "file.tflite", validate=validate)
    assert not list(tmp_path.iterdir())


def test_mixed_precision_is_an_error_that_names_layers_and_a_way_that_leads_out(tmp_path):
    model, _ = small(layers.Dense(3, name="head", dtype="mixed_float16"))
    with pytest.raises(LiteRTDtypeError, match=r"16-bit floats.*head.*save_weights"):
        to_litert(model, tmp_path / "file.tflite")
    model.save_weights(tmp_path / "model.weights.h5")
    single, _ = small(layers.Dense(3, name="head"))
    single.load_weights(tmp_path / "model.weights.h5")
    assert str(ranges(single)).splitlines()[1:] == str(ranges(model)).splitlines()[1:]
    to_litert(single, tmp_path / "file.tflite", strict=True)


def chain(**options):
    model = keras.Sequential([keras.Input((8,)), layers.Dense(8, name="one"), layers.Dense(3, name="two")])
    quantize(model, **options).apply()
    calibrate(model, small()[1])
    return model


@pytest.mark.parametrize(("exclude", "option"), [("one", "input_dtype"), ("two", "output_dtype")])
def test_integers_where_the_model_is_in_float_are_an_error(tmp_path, exclude, option):
    model = chain(exclude=exclude)
    with pytest.raises(LiteRTDtypeError, match=f"{option}='int8'"):
        to_litert(model, tmp_path / "file.tflite", **{option: "int8"})
    assert not list(tmp_path.iterdir())


def test_integers_where_a_layer_in_float_takes_the_same_input_are_an_error(tmp_path):
    model, _ = small(layers.Dense(3, name="one"), layers.Dense(2, name="two"), exclude="two")
    with pytest.raises(LiteRTDtypeError, match="goes to layers in float, too"):  # the converter's file does not load
        to_litert(model, tmp_path / "file.tflite", input_dtype="int8")
    assert not list(tmp_path.iterdir())
    to_litert(model, tmp_path / "file.tflite")


def test_16_bits_go_in_and_out_of_what_has_16(tmp_path):
    with pytest.raises(OptionValueError, match="activations of 16 bits"):
        to_litert(chain(), tmp_path / "file.tflite", input_dtype="int16")
    model = chain(activation_bits=16)
    with pytest.raises(OptionValueError, match="int16"):
        to_litert(model, tmp_path / "file.tflite", output_dtype="int8")
    report = to_litert(model, tmp_path / "file.tflite", input_dtype="int16", output_dtype="int16")
    assert report.counts == {"FULLY_CONNECTED": {"int16": 2}}


def test_a_place_where_no_file_can_be_is_an_error_before_the_work(tmp_path):
    model = chain()
    kwrap.unwrap_model(model)  # there is nothing to convert: an error of another kind would follow
    for path in (tmp_path, tmp_path / "none" / "file.tflite"):
        with pytest.raises(SaveError, match="folder"):
            to_litert(model, path)


def test_what_is_no_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SaveError, match="a pipe, and would be replaced"):
        to_litert(chain(), tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("size", [0, -1, 2.0, "many"])
def test_a_batch_size_that_is_none_is_an_error(tmp_path, size):
    with pytest.raises(OptionValueError, match="batch_size"):
        to_litert(dense(), tmp_path / "file.tflite", batch_size=size)


def test_without_an_interpreter_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    model, data = small()
    unseen = keras.Sequential([keras.Input((8,)), layers.Dense(3)])
    quantize(unseen).apply()
    with pytest.raises(MissingPackageError):  # before the work, which would raise another
        to_litert(unseen, tmp_path / "file.tflite", validate=data)
    with pytest.raises(MissingPackageError, match="pip install ai-edge-litert"):
        to_litert(model, tmp_path / "file.tflite", validate=data)
    assert not list(tmp_path.iterdir())
    to_litert(model, tmp_path / "file.tflite")


def test_kernels_whose_axes_the_converter_moves_have_one_range(tmp_path):
    model = keras.Sequential([keras.Input((3, 5, 2)), layers.ConvLSTM1D(3, 2), layers.Conv1DTranspose(2, 3)])
    quantize(model).apply()
    assert {each.channels for each in ranges(model).tensors} == {1}
    report = to_litert(model, tmp_path / "file.tflite")  # gave up on ranges of channels
    assert "TRANSPOSE_CONV" in report.weights


def test_the_report_shows_weights_that_stay_in_float(tmp_path):
    inputs = keras.Input((8,))
    model = keras.Model(inputs, layers.Dense(3, name="head")(inputs))
    kwrap.wrap_model(model, QuantizeWeights())
    report = to_litert(model, tmp_path / "file.tflite")
    assert report.weights == {"FULLY_CONNECTED": {"float32": 1}}
    assert "FULLY_CONNECTED  float32  float32      1" in str(report)
    assert to_litert(small()[0], tmp_path / "file.tflite").weights == {"FULLY_CONNECTED": {"int8": 1}}
