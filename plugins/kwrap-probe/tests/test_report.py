import io
import json
import re
import sys
from xml.etree import ElementTree

import keras
import numpy as np
import pytest
from rich.console import Console

import kwrap
from kwrap.errors import AbsentHookError, MissingPackageError, ModelTypeError, OptionValueError
from kwrap_probe import Probe, report

X = np.random.default_rng(0).normal(size=(500, 3)).astype("float32")


@pytest.fixture(scope="module")
def probed() -> keras.Model:
    """Return a model with odd names, after a call in training."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="[b]<script>dense&$")], name="<i>net")
    kwrap.wrap_model(model, [Probe(every=1, sample=None), Probe("outputs", histogram=False, name="plain")])
    model(X, training=True)
    return model


def test_a_report_is_json(probed):
    data = json.loads(json.dumps(report(probed).as_dict()))
    inputs = data["statistics"][0]
    assert data["model"] == "<i>net"
    assert (inputs["source"], inputs["weight"], inputs["calls"], inputs["size"]) == ("inputs", None, 1, 1500)
    assert inputs["mean"] == pytest.approx(float(X.mean()), rel=1e-4)
    assert sum(count for _, _, count in inputs["bins"]) == 1500
    assert [each["name"] for each in data["statistics"]] == [
        "inputs",
        "outputs",
        "output_gradients",
        "kernel",
        "kernel_gradients",
        "outputs",
    ]


def test_a_histogram_of_equal_bins_is_near_to_numpys(probed):
    inputs = report(probed).statistics[0]
    heights = inputs.histogram(12)
    expected, _ = np.histogram(X, 12, (inputs.minimum, inputs.maximum))
    assert sum(heights) == pytest.approx(1500)
    # Bins are of a quarter of an octave, up to 0.5 wide here, where these are of 0.55.
    assert np.abs(np.cumsum(heights) - np.cumsum(expected)).max() < 60


def test_values_that_are_all_one_are_in_the_middle():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="dense")])
    kwrap.wrap_model(model, Probe("inputs"))
    model(np.full((4, 3), 0.5), training=True)
    assert report(model).statistics[0].histogram(4) == [0, 0, 12, 0]


def test_values_beyond_the_outermost_bins_are_spread_up_to_the_extremes():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Activation("linear", name="same")])
    kwrap.wrap_model(model, Probe("inputs"))
    model(np.array([[1e9, 2e9, 5e9], [-1e9, -2e9, -5e9]], "float32"), training=True)
    found = report(model).statistics[0]
    assert (found.bins[0][0], found.bins[-1][1]) == (-5e9, 5e9)
    np.testing.assert_allclose(found.histogram(4), [1.5] * 4, atol=0.02)


def test_print_shows_columns(probed):
    title, head, first, *_ = str(report(probed)).splitlines()
    assert title == "what probes saw in <i>net"
    assert " ".join(head.split()) == "layer of calls mean spread minimum maximum zeros non-finite histogram"
    expected = [f"{number:.3g}" for number in (X.mean(), X.std(), X.min(), X.max())]
    assert first.split()[:9] == ["[b]<script>dense&$", "inputs", "1", *expected, "0.0%", "0"]
    assert "plain: outputs" in str(report(probed))


def test_rich_shows_the_same_with_names_as_they_are(probed):
    shown = io.StringIO()
    Console(file=shown, width=250).print(report(probed))
    for row in report(probed).rows():
        assert all(cell in shown.getvalue() for cell in row)
    assert "[b]<script>dense&$" in shown.getvalue()


def test_a_notebook_shows_the_same_with_a_drawn_histogram(probed):
    found = report(probed)
    page = ElementTree.fromstring(found._repr_html_())  # an error unless it is well-formed
    assert page.findtext("strong") == "what probes saw in <i>net"
    rows = page.findall("./table/tbody/tr")
    assert [tuple(cell.text or "" for cell in row)[:9] for row in rows] == [row[:9] for row in found.rows()]
    drawings = [row[9].find("svg") for row in rows]
    # Nothing of gradients, which were not computed; and no histogram of the second probe.
    assert [drawing is not None for drawing in drawings] == [True, True, False, True, False, False]
    path = drawings[0].find("path").get("d")
    heights = np.array([20 - float(top) for top in re.findall(r"V([\d.]+)H", path)])
    expected = np.array(found.statistics[0].histogram())
    np.testing.assert_allclose(heights, 20 * expected / expected.max(), atol=0.006)


def test_a_notebook_needs_nothing_from_elsewhere_and_takes_no_colours_but_the_pages(probed):
    page = report(probed)._repr_html_()
    tags = {element.tag for element in ElementTree.fromstring(page).iter()}
    assert tags == {"div", "strong", "table", "thead", "tbody", "tr", "th", "td", "svg", "title", "path"}
    assert not re.search(r"http|url\(|@import|#[0-9a-f]{3}|<script", page)
    assert set(re.findall(r'fill="(\w+)"', page)) == {"currentColor"}
    assert set(re.findall(r"(?<!-)color: (\w+)", page)) == {"inherit"}


def test_a_plot_is_a_picture(probed, tmp_path):
    path = report(probed).plot(tmp_path / "probes.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [path]
    drawn = report(probed).plot(tmp_path / "probes.svg").read_text()
    assert ElementTree.fromstring(drawn).tag.endswith("svg")


@pytest.mark.parametrize(("name", "problem"), [("a/b.png", "a folder that does not exist"), ("b.doc", "has a suffix")])
def test_a_plot_that_cannot_be_written_is_an_error(probed, tmp_path, name, problem):
    with pytest.raises(OptionValueError, match=problem):
        report(probed).plot(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_a_plot_is_an_error_that_says_so(probed, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingPackageError, match=r"Report.plot needs matplotlib.*pip install matplotlib"):
        report(probed).plot(tmp_path / "probes.png")


def test_a_model_without_probes_and_what_is_no_model_are_errors():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(AbsentHookError, match="no hook 'probe'"):
        report(model)
    with pytest.raises(ModelTypeError):
        report(keras.layers.Dense(2))
