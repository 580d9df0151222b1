"""Several threads that use one wrapped model: a thousand calls, and clones meanwhile."""

import functools
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import pytest

import kwrap
from kwrap_files import hooks_of, read_contents
from kwrap_prune import Prune

from .. import composites
from ..specimens import Mask, Times, same, values

ROUNDS = 1000
SAVES = 34
INPUTS = np.random.default_rng(0).normal(size=(2, 4)).astype("float32")


@kwrap.hook(layer_type=keras.layers.Dense, name="threads_look")
class Look(kwrap.Hook):
    """Emit the outputs, and add the inputs to them in training."""

    def call(self, call_next, inputs, *, training):
        outputs = call_next(inputs)
        self.emit("outputs", outputs)
        return outputs + inputs if training else outputs


def network() -> keras.Model:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, activation="tanh", name="head")])
    return kwrap.wrap_model(model, [Prune(), Look(), Mask()])


def composite() -> keras.Model:
    """Return a model whose hooks no config of Keras reaches: in attention, a list, and a graph inside a composite."""
    inputs = keras.Input((5, 4))
    model = keras.Model(inputs, composites.Block(name="block")(inputs))
    return kwrap.wrap_model(model, Times(factor=0.5))


def small_composite() -> keras.Model:
    """Return one that is called faster: a graph and a layer in a composite."""
    inner = [keras.Sequential([keras.layers.Dense(4, name="inner")], name="line"), keras.layers.Dense(4, name="right")]
    model = keras.Sequential([keras.Input((5, 4)), composites.Pair(inner, name="pair")])
    return kwrap.wrap_model(model, Times(factor=0.5))


def together(works: Iterable[Callable[[], Any]]) -> list[Any]:
    """Run each work in a thread of its own, all from one moment on; return what they return, or raise."""
    works = list(works)
    start, results = threading.Barrier(len(works)), [None] * len(works)

    def run(place: int) -> None:
        start.wait()
        try:
            results[place] = works[place]()
        except BaseException as error:
            results[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def test_two_threads_call_one_model_with_inputs_and_modes_of_their_own():
    model = network()
    cases = [(INPUTS, False), (INPUTS * 2, True)]
    expected = [np.asarray(model(inputs, training=training)) for inputs, training in cases]

    def call(place: int) -> int:
        inputs, training = cases[place]
        return sum(same(model(inputs, training=training), expected[place]) for _ in range(ROUNDS))

    assert together([lambda: call(0), lambda: call(1)]) == [ROUNDS, ROUNDS]


def test_calls_leave_nothing_on_a_hook_but_what_its_author_keeps():
    """Compared as objects: whatever a call stored on a hook or Wrapper would be one of them."""
    model = network()
    model(INPUTS, training=True)
    parts = [part for layer in model.layers for part in (layer, *layer.hooks)]
    before = [dict(vars(part)) for part in parts]
    for training in (False, True):
        model(INPUTS * 3, training=training)
    after = [dict(vars(part)) for part in parts]
    changed = [
        {key for key in one.keys() | other.keys() if one.get(key) is not other.get(key)}
        for one, other in zip(before, after, strict=True)
    ]
    # The tensors that Keras itself keeps of a layer's last call, of every layer.
    assert set().union(*changed) <= {"_call_context_args", "_losses", "_losses_override"}


@pytest.mark.parametrize("make", [network, small_composite])
def test_one_thread_clones_the_model_while_another_predicts_with_it(make):
    model = make()
    model.compile("adam", "mse")
    inputs = INPUTS if make is network else composites.inputs()
    expected, weights = np.asarray(model(inputs)), values(model.weights)
    predicted = model.predict(inputs, verbose=0)
    done = threading.Event()
    rounds = {"calls": 0, "clones": 0}

    def predict() -> int:
        wrong = 0
        while rounds["calls"] < ROUNDS or rounds["clones"] < 3:
            wrong += not same(model(inputs), expected)
            if rounds["calls"] % 50 == 0:
                wrong += not same(model.predict(inputs, verbose=0), predicted)
            rounds["calls"] += 1
        done.set()
        return wrong

    def clone() -> int:
        wrong = 0
        while not done.is_set():
            wrong += not same(kwrap.clone_model(model)(inputs), expected)
            rounds["clones"] += 1
        return wrong

    assert together([predict, clone]) == [0, 0]
    assert same(values(model.weights), weights)


def test_threads_that_save_one_model_lose_nothing_and_others_call_and_clone_it_meanwhile(tmp_path):
    model = composite()
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    inputs = composites.inputs()
    expected, paths = np.asarray(model(inputs)), [path for path, _ in kwrap.find_hooks(model)]
    doors = [model.save, model.save, lambda file: kwrap.save_model(model, file)]
    saving = [True] * len(doors)

    def save(place: int) -> int:
        whole = 0
        try:
            for turn in range(SAVES):
                file = tmp_path / f"{place}_{turn % 2}.keras"
                doors[place](file)
                config = read_contents(file).config
                whole += [hook.path for hook in hooks_of(config)] == paths and "compile_config" in config
        finally:
            saving[place] = False
        return whole

    def use(function: Callable[[keras.Model], keras.Model]) -> int:
        wrong = 0
        while any(saving):
            wrong += not same(function(model)(inputs), expected)
        return wrong

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        works = [*(functools.partial(save, place) for place in range(3)), lambda: use(lambda model: model)]
        assert together([*works, lambda: use(kwrap.clone_model)]) == [SAVES, SAVES, SAVES, 0, 0]
    finally:
        sys.setswitchinterval(interval)
    for file in tmp_path.iterdir():
        loaded = keras.models.load_model(file)
        assert same(loaded(inputs), expected)
        assert [path for path, _ in kwrap.find_hooks(loaded)] == paths


def test_two_threads_collect_from_one_model_each_what_it_calls():
    model = network()

    def work(factor: float) -> bool:
        with kwrap.collect(model, "outputs") as found:
            outputs = [model(INPUTS * factor) for _ in range(ROUNDS // 2)]
        return same(found["head"], outputs)

    assert together([lambda: work(1.0), lambda: work(2.0)]) == [True, True]
