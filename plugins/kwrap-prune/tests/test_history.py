import sys

import keras
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

import kwrap
from kwrap.errors import AbsentHookError, MissingPackageError, OptionValueError, SaveError
from kwrap_prune import ConstantSparsity, PolynomialDecay, Prune, PruningHistory, report

BATCHES = 4
X = np.random.default_rng(0).normal(size=(8 * BATCHES, 10)).astype("float32")
Y = (X[:, :1] > 0).astype("float32")


def network() -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((10,)),
            keras.layers.Dense(20, activation="relu", name="hidden"),
            keras.layers.Dense(1, activation="sigmoid", name="output"),
        ]
    )
    hooks = [
        Prune(PolynomialDecay(0.0, 0.9, begin_step=0, end_step=6, power=1, frequency=2)).at("hidden"),
        Prune(ConstantSparsity(0.5, begin_step=0)).at("output"),
    ]
    kwrap.wrap_model(model, hooks)
    model.compile("sgd", "binary_crossentropy", metrics=["accuracy"])
    return model


class Reference(keras.callbacks.Callback):
    """Record the zeros of both kernels, and the logs, after each batch."""

    def __init__(self):
        super().__init__()
        self.zeros, self.logs = [], []

    def on_train_batch_end(self, batch, logs=None):
        kernels = [self.model.get_layer(name).kernel for name in ("hidden", "output")]
        self.zeros.append([int(np.sum(np.array(kernel) == 0)) for kernel in kernels])
        self.logs.append({name: float(value) for name, value in logs.items()})


@pytest.fixture(scope="module")
def trained():
    """Return the histories, of each and of every third batch, and the reference, of a `fit` of two epochs."""
    keras.utils.set_random_seed(0)
    each, third, reference = PruningHistory(), PruningHistory(every=3), Reference()
    options = {"batch_size": 8, "epochs": 2, "validation_data": (X, Y), "verbose": 0}
    history = network().fit(X, Y, callbacks=[each, third, reference], **options)
    return each, third, reference, history.history


def test_each_batch_has_a_record_of_its_step(trained):
    each, _, _, _ = trained
    assert [record.step for record in each.records] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_sparsity_is_that_of_the_weights_after_the_batch_by_layer_and_in_total(trained):
    each, _, reference, _ = trained
    assert [zeros for zeros, _ in reference.zeros] == [0, 60, 60, 120, 120, 180, 180, 180]
    for record, (hidden, output) in zip(each.records, reference.zeros, strict=True):
        assert record.layers == {"hidden": hidden / 200, "output": output / 20}
        assert record.sparsity == (hidden + output) / 220


def test_logs_are_those_of_the_batch_and_at_an_epochs_end_have_the_validation_too(trained):
    each, _, reference, history = trained
    for record, logs in zip(each.records, reference.logs, strict=True):
        assert {name: record.logs[name] for name in logs} == logs
    validated = {record.step: record.logs["val_accuracy"] for record in each.records if "val_accuracy" in record.logs}
    assert validated == {BATCHES: history["val_accuracy"][0], 2 * BATCHES: history["val_accuracy"][1]}


def test_every_third_batch_and_each_epochs_end_are_recorded_if_asked_for(trained):
    each, third, _, _ = trained
    assert third.records == [each.records[step - 1] for step in (3, 4, 6, 8)]


def test_a_second_fit_goes_on_where_the_first_ended():
    model, history = network(), PruningHistory()
    for _ in range(2):
        model.fit(X[:16], Y[:16], batch_size=8, callbacks=[history], verbose=0)
    assert [record.step for record in history.records] == [1, 2, 3, 4]


def test_steps_count_updates_where_gradients_are_accumulated():
    model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(gradient_accumulation_steps=2), "mse")
    kwrap.wrap_model(model, Prune(gradient_accumulation_steps=2))
    history = PruningHistory()
    model.fit(X, Y, batch_size=8, callbacks=[history], verbose=0)
    assert [record.step for record in history.records] == [0, 1, 1, 2]


def test_a_plot_is_a_png_and_nothing_else_is_left_beside_it(trained, tmp_path):
    each, _, _, _ = trained
    path = each.plot(tmp_path / "pruning.png")
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("name", "start"), [("p.pdf", b"%PDF"), ("p.SVG", b"<?xml"), ("plot", b"\x89PNG")])
def test_the_suffix_is_the_format_of_a_plot(trained, tmp_path, name, start):
    assert trained[0].plot(tmp_path / name).read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("p.docx", r"has a suffix that matplotlib does not write; there are: .*png.*svg"),
        ("missing/p.png", "is in a folder that does not exist"),
    ],
)
def test_a_path_that_no_plot_can_be_written_to_is_an_error(trained, tmp_path, name, message):
    with pytest.raises(OptionValueError, match=message):
        trained[0].plot(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_records_count_weights_with_their_masks():
    model = network()
    history = PruningHistory()
    history.set_model(model)
    model.get_layer("output").kernel.assign(np.ones((20, 1)))
    history.on_epoch_end(0, {})
    assert (history.records[0].layers, report(model).zeros) == ({"hidden": 0.0, "output": 0.5}, 10)


def test_the_curves_are_those_of_the_records(trained, tmp_path, monkeypatch):
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *given, **more: [figures.append(self), save(self, *given, **more)]
    )
    each, _, _, history = trained
    each.plot(tmp_path / "pruning.png", metric="val_accuracy")
    sparsity, metric = figures[0].axes
    curves = {line.get_label(): line.get_xydata() for line in sparsity.get_lines()}
    steps = np.arange(1, 9)
    assert list(curves) == ["hidden", "output", "all"]
    np.testing.assert_array_equal(curves["all"], np.stack([steps, [one.sparsity for one in each.records]], axis=1))
    np.testing.assert_array_equal(curves["hidden"][:, 1], [0, 0.3, 0.3, 0.6, 0.6, 0.9, 0.9, 0.9])
    (curve,) = metric.get_lines()
    np.testing.assert_array_equal(curve.get_xydata(), list(zip([4, 8], history["val_accuracy"], strict=True)))
    assert (sparsity.get_ylabel(), metric.get_ylabel()) == ("sparsity", "val_accuracy")


def test_plotting_opens_no_figure_of_pyplot(trained, tmp_path):
    trained[0].plot(tmp_path / "pruning.png")
    assert pyplot.get_fignums() == []


def test_a_plot_that_cannot_be_put_in_its_place_leaves_nothing_beside_it(trained, tmp_path):
    (tmp_path / "pruning.png").mkdir()
    with pytest.raises(SaveError, match="it is a folder"):
        trained[0].plot(tmp_path / "pruning.png")
    assert [path.is_dir() for path in tmp_path.iterdir()] == [True]


def test_without_matplotlib_the_error_says_what_to_install(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingPackageError, match=r"needs matplotlib, .*: pip install matplotlib$") as raised:
        trained[0].plot(tmp_path / "pruning.png")
    assert (raised.value.function, raised.value.package) == ("PruningHistory.plot", "matplotlib")
    assert isinstance(raised.value, ImportError)


def test_a_metric_that_was_not_recorded_is_an_error_that_lists_those_that_were(trained, tmp_path):
    with pytest.raises(OptionValueError, match="metric='auc' was not recorded; there are: accuracy, loss, val_acc"):
        trained[0].plot(tmp_path / "pruning.png", metric="auc")
    with pytest.raises(OptionValueError, match="no records at all"):
        PruningHistory().plot(tmp_path / "pruning.png")
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_prune_hooks_is_an_error_before_training():
    model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    kernel = np.array(model.layers[0].kernel)
    with pytest.raises(AbsentHookError, match="'prune'"):
        model.fit(X, Y, callbacks=[PruningHistory()], verbose=0)
    np.testing.assert_array_equal(model.layers[0].kernel, kernel)


@pytest.mark.parametrize("every", [0, 1.5, "epoch", True])
def test_every_is_a_positive_int(every):
    with pytest.raises(OptionValueError, match="every="):
        PruningHistory(every)
