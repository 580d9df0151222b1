"""The files in tests/saved, which released versions wrote, load as they were: for ever."""

from pathlib import Path

import keras
import numpy as np
import pytest

import kwrap

from ..saved import make, models

FILES = sorted(make.FOLDER.glob("*/*.npz"))
IDS = [f"{path.parent.name}-{path.stem}" for path in FILES]


def check(model: keras.Model, path: Path) -> None:
    """Check that a model is what the file beside it says: states to the bit, outputs as machines add up."""
    found = make.contents(model)
    with np.load(path) as expected:
        # A later version may have options and states more.
        assert set(expected.files) <= set(found)
        for name in expected.files:
            if name == "outputs":
                np.testing.assert_allclose(found[name], expected[name], atol=1e-6)
            elif not name.startswith("config"):
                assert (found[name].dtype, found[name].tobytes()) == (expected[name].dtype, expected[name].tobytes())


def test_there_are_files_of_each_model_for_each_version():
    versions = {path.parent.name for path in FILES}
    assert "0.1.0" in versions
    assert {(path.parent.name, path.stem) for path in FILES} == {(v, name) for v in versions for name in models.MODELS}


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_a_model_of_a_released_version_loads_with_its_hooks_and_optimizer_and_trains_on(path):
    model = keras.models.load_model(path.with_suffix(".keras"))
    model.run_eagerly = True
    check(model, path)
    assert int(model.optimizer.iterations) == 3
    (_, prune), *_ = kwrap.find_hooks(model, "prune")
    (target,) = prune.target_weights
    model.train_on_batch(models.inputs(), np.ones((2, 3, 2), "float32"))
    assert int(prune.state(target, "step")) == 4
    assert np.mean(np.array(target.variable) == 0) == 0.75  # the schedule's end
    kwrap.unwrap_model(model)


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_weights_of_a_released_version_load_into_a_model_wrapped_alike(path):
    model = models.make(path.stem)
    model.load_weights(path.with_suffix(".weights.h5"))
    check(model, path)
