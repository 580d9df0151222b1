import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import TENSORS, EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

import kwrap
from kwrap.errors import AbsentHookError, OptionValueError
from kwrap_probe import NaNGuard, Probe, TensorBoardWriter, first_non_finite, report

X = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
Y = np.ones((16, 2), "float32")


def network(**options) -> keras.Model:
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2, name="dense")], name="net")
    kwrap.wrap_model(model, Probe(every=1, **options))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def events(folder) -> EventAccumulator:
    found = EventAccumulator(str(folder), {TENSORS: 0})
    found.Reload()
    return found


def test_each_epoch_writes_scalars_and_histograms_that_tensorboard_reads(tmp_path):
    model = network()
    model.fit(X, Y, batch_size=8, epochs=2, verbose=0, callbacks=[TensorBoardWriter(tmp_path)])
    found = events(tmp_path)
    last = {each.name: each for each in report(model).statistics}["outputs"]
    scalars = found.Tensors("dense/outputs/mean")
    assert [event.step for event in scalars] == [0, 1]
    assert make_ndarray(scalars[1].tensor_proto) == np.float32(last.mean)
    assert found.SummaryMetadata("dense/outputs/mean").plugin_data.plugin_name == "scalars"
    histogram = make_ndarray(found.Tensors("dense/outputs")[1].tensor_proto)
    assert found.SummaryMetadata("dense/outputs").plugin_data.plugin_name == "histograms"
    assert histogram.shape == (30, 3)
    assert (histogram[0, 0], histogram[-1, 1]) == (last.minimum, last.maximum)
    assert histogram[:, 2].sum() == pytest.approx(32)  # of one epoch alone
    names = ("inputs", "outputs", "output_gradients", "kernel", "kernel_gradients")
    assert {tag.rpartition("/")[0] for tag in found.Tags()["tensors"] if tag.count("/") == 2} == {
        f"dense/{name}" for name in names
    }


def test_statistics_of_all_epochs_together_are_written_if_asked_for(tmp_path):
    model = network()
    model.fit(X, Y, batch_size=8, epochs=3, verbose=0, callbacks=[TensorBoardWriter(tmp_path, reset=False)])
    histogram = make_ndarray(events(tmp_path).Tensors("dense/outputs")[2].tensor_proto)
    assert histogram[:, 2].sum() == pytest.approx(3 * 32)


def test_what_guards_have_seen_is_kept_over_epochs(tmp_path):
    model = network()
    kwrap.wrap_model(model, NaNGuard())
    model.fit(X * np.nan, Y, epochs=2, verbose=0, callbacks=[TensorBoardWriter(tmp_path)])
    assert first_non_finite(model).call == 1


def test_a_model_without_probes_is_an_error(tmp_path):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    with pytest.raises(AbsentHookError):
        model.fit(X, Y, verbose=0, callbacks=[TensorBoardWriter(tmp_path)])
    with pytest.raises(OptionValueError, match="reset=2"):
        TensorBoardWriter(tmp_path, reset=2)


def test_logs_of_fit_have_what_a_probe_is_to_log_under_the_layers_path():
    log = ["outputs/mean", "outputs/zeros", "weights/maximum", "weight_gradients/spread", "inputs/non_finite"]
    model = network(log=log)
    history = model.fit(X, Y, batch_size=8, epochs=2, verbose=0, validation_data=(X, Y)).history
    found = {each.name: each for each in report(model).statistics}
    expected = {
        "dense/outputs_mean": found["outputs"].mean,
        "dense/outputs_zeros": found["outputs"].zero_share,
        "dense/kernel_maximum": found["kernel"].maximum,
        "dense/kernel_gradients_spread": found["kernel_gradients"].spread,
        "dense/inputs_non_finite": 0.0,
    }
    for name, value in expected.items():
        assert history[name][-1] == pytest.approx(value, rel=1e-6)
        assert history[f"val_{name}"][-1] == pytest.approx(value, rel=1e-6)
    kwrap.unwrap_model(model)
    assert set(model.fit(X, Y, verbose=0).history) == {"loss"}


def test_a_probe_with_a_name_of_its_own_logs_and_writes_under_it(tmp_path):
    model = network(name="mine", log="outputs/spread")
    callback = TensorBoardWriter(tmp_path)
    history = model.fit(X, Y, verbose=0, callbacks=[callback]).history
    assert history["dense/mine_outputs_spread"][0] > 0
    assert "dense/mine/outputs/spread" in events(tmp_path).Tags()["tensors"]
