"""Whatever a hook raises names hook, plugin and path, and is chained; what is not the hook's passes through."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kwrap
from kwrap import _registry, errors

DATA = np.ones((2, 3), "float32")
METHODS = ("call", "parametrize", "constrain", "build", "initialize", "merge")


class UnusualError(Exception):
    """Takes more than a message, as many errors do."""

    def __init__(self, code: int, text: str):
        super().__init__(code, text)


@kwrap.hook(layer_type=keras.Layer)
class Failing(kwrap.Hook):
    """Fails in one of its methods, once it is armed."""

    armed = True

    def __init__(self, during="call", **kwargs):
        super().__init__(**kwargs)
        self.during = during

    def fail(self, during):
        if during == self.during and self.armed:
            raise UnusualError(7, "no such thing")

    def call(self, call_next, inputs):
        self.fail("call")
        return call_next(inputs)

    def parametrize(self, target, value):
        self.fail("parametrize")
        return value

    def constrain(self, target, value):
        self.fail("constrain")
        return value

    def build(self, layer):
        self.fail("build")

    def initialize(self, layer):
        self.fail("initialize")

    def merge(self, target, value):
        self.fail("merge")
        return value


@kwrap.hook(layer_type=keras.Layer)
def blame_nothing(call_next, inputs):
    return call_next(inputs)


def dense(name: str = "out") -> keras.layers.Dense:
    layer = keras.layers.Dense(4, name=name)
    layer.build((None, 3))
    return layer


def model() -> keras.Model:
    built = keras.Sequential([keras.Input((3,)), dense()])
    built.compile("sgd", loss="mse")
    return built


def assert_blamed(error: errors.HookCallError, during: str, path: str = "out") -> None:
    assert isinstance(error, errors.HookCallError)
    assert (error.hook, error.plugin, error.path, error.during) == ("failing", None, path, during)
    assert f"hook 'failing' failed at '{path}' in {during}: UnusualError: (7, 'no such thing')" in str(error)
    assert ("kwrap.unwrap_model(model, 'failing', merge=False)" in str(error)) == (
        during not in ("build", "initialize")
    )
    assert "leave this layer out with exclude=..., or the hook" in str(error)
    assert isinstance(error.__cause__, UnusualError)
    assert isinstance(error, RuntimeError)


@pytest.mark.parametrize("during", METHODS)
def test_what_a_hook_raises_names_hook_method_and_path_and_is_chained(during):
    def whole_life():
        wrapped = kwrap.wrap_model(model(), Failing(during))
        wrapped(DATA)
        kwrap.unwrap_model(wrapped)

    with pytest.raises(errors.HookCallError) as caught:
        whole_life()
    assert_blamed(caught.value, during)


@pytest.mark.parametrize("during", ["call", "parametrize", "constrain", "build", "initialize"])
def test_a_model_is_as_it_was_after_a_hook_that_raised_when_put_on(during):
    plain = model()
    before = plain.get_weights()
    with pytest.raises(errors.HookCallError):
        # A hook with `call` is tried out when it is put on; `parametrize` first runs in a call of the model.
        kwrap.wrap_model(plain, Failing(during))(DATA)
    if during != "parametrize":
        assert type(plain.layers[0]) is keras.layers.Dense
        assert plain.layers[0].kernel.constraint is None
    for one, other in zip(plain.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("during", ["call", "parametrize", "constrain"])
def test_the_error_is_the_same_in_eager_calls_in_graphs_and_in_fit(during, monkeypatch):
    monkeypatch.setattr(Failing, "armed", False)
    wrapped = kwrap.wrap_model(model(), Failing(during))
    monkeypatch.setattr(Failing, "armed", True)
    runs = {
        "fit": lambda: wrapped.fit(DATA, np.ones((2, 4)), verbose=0),
        "eager": lambda: wrapped(DATA),
        "predict": lambda: wrapped.predict(DATA, verbose=0),
        "tf.function": lambda: tf.function(lambda inputs: wrapped(inputs))(DATA),
        "tf.function without autograph": lambda: tf.function(wrapped, autograph=False)(DATA),
    }
    for name in ["fit"] if during == "constrain" else runs:
        with pytest.raises(errors.HookCallError) as caught:
            runs[name]()
        assert_blamed(caught.value, during)


def test_the_error_is_the_same_without_keras_filtering_of_tracebacks():
    wrapped = kwrap.Wrapper(dense(), [Failing()])
    keras.config.disable_traceback_filtering()
    try:
        with pytest.raises(errors.HookCallError) as caught:
            wrapped(DATA)
    finally:
        keras.config.enable_traceback_filtering()
    assert_blamed(caught.value, "call")


def test_the_path_is_that_in_the_model():
    inner = keras.Sequential([keras.Input((3,)), dense("query")], name="encoder")
    wrapped = keras.Sequential([keras.Input((3,)), inner])
    with pytest.raises(errors.HookCallError) as caught:
        kwrap.wrap_model(wrapped, Failing())
    assert_blamed(caught.value, "call", "encoder/query")


def test_the_way_out_of_a_failing_merge_works():
    wrapped = kwrap.wrap_model(model(), Failing("merge"))
    with pytest.raises(errors.HookCallError, match=r"kwrap.unwrap_model\(model, 'failing', merge=False\)"):
        kwrap.unwrap_model(wrapped)
    kwrap.unwrap_model(wrapped, "failing", merge=False)
    assert type(wrapped.layers[0]) is keras.layers.Dense


def test_the_plugin_is_named_by_its_package_and_version(plugins, install, monkeypatch):
    monkeypatch.setattr(_registry, "plugins", plugins)
    source = """
import keras, kwrap

@kwrap.hook(layer_type=keras.Layer)
def blamed(call_next, inputs):
    raise ValueError("not today")
"""
    install("blame", source, distribution="kwrap-blame", version="0.2")
    hook = _registry.use("blamed")
    with pytest.raises(errors.HookCallError) as caught:
        kwrap.Wrapper(dense(), [hook])(DATA)
    assert caught.value.plugin == "kwrap-blame 0.2"
    assert "hook 'blamed' (kwrap-blame 0.2) failed at 'out' in call: ValueError: not today" in str(caught.value)


def test_a_hook_around_one_that_raises_is_not_blamed():
    with pytest.raises(errors.HookCallError) as caught:
        kwrap.Wrapper(dense(), [blame_nothing(), Failing(), blame_nothing(name="inner")])(DATA)
    assert_blamed(caught.value, "call")


class Strict(keras.layers.Layer):
    def call(self, inputs):
        raise UnusualError(3, "the layer's own")


def message_of(layer: keras.Layer, *args: object) -> tuple[type[BaseException], str]:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whichever it is
        layer(*args)
    return type(caught.value), str(caught.value)


@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (lambda: keras.layers.Dense(4, name="out"), np.ones(3)),
        (lambda: keras.layers.Dense(4, name="out"), "no tensor"),
        (lambda: dense(), np.ones((2, 5))),
        (lambda: Strict(name="strict"), DATA),
        (lambda: keras.layers.Concatenate(name="join"), [np.ones((2, 3)), np.ones((3, 3, 3))]),
    ],
    ids=["rank, unbuilt", "no tensor", "width, built", "its own class", "build"],
)
@pytest.mark.parametrize("hooks", [0, 1, 2])
def test_an_error_of_the_layer_is_as_without_hooks(make, inputs, hooks):
    wrapped = kwrap.Wrapper(make(), [blame_nothing(name=f"nothing_{number}") for number in range(hooks)])
    assert message_of(wrapped, inputs) == message_of(make(), inputs)


def test_a_call_that_the_layer_refuses_does_not_build_it():
    wrapped = kwrap.Wrapper(keras.layers.Dense(4), [blame_nothing()])
    message_of(wrapped, np.ones(3))
    assert not wrapped.layer.built
    assert wrapped(np.ones((2, 5))).shape == (2, 4)


def test_a_hook_may_handle_an_error_of_the_layer():
    @kwrap.hook(layer_type=keras.Layer)
    def rescue(call_next, inputs):
        try:
            return call_next(inputs)
        except Exception:
            return inputs * 2

    np.testing.assert_array_equal(kwrap.Wrapper(Strict(), [rescue()])(DATA), DATA * 2)


def test_an_error_that_a_hook_raises_about_one_of_the_layer_is_the_hooks():
    @kwrap.hook(layer_type=keras.Layer)
    def translate(call_next, inputs):
        try:
            return call_next(inputs)
        except Exception as error:
            raise LookupError("translated") from error

    with pytest.raises(errors.HookCallError) as caught:
        kwrap.Wrapper(Strict(), [translate()])(DATA)
    assert caught.value.hook == "translate"
    assert isinstance(caught.value.__cause__, LookupError)


def test_an_error_of_kwrap_itself_is_raised_as_it_is():
    @kwrap.hook(layer_type=keras.Layer)
    class Refusing(kwrap.Hook):
        def build(self, layer):
            raise errors.TargetError("said already")

    with pytest.raises(errors.TargetError, match=r"^said already$"):
        kwrap.Wrapper(dense(), [Refusing()])


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interruption_is_no_error_of_the_hook(interrupt):
    @kwrap.hook(layer_type=keras.Layer)
    def interrupted(call_next, inputs):
        raise interrupt

    with pytest.raises(interrupt):
        kwrap.Wrapper(dense(), [interrupted()])(DATA)
