"""Every layer case of Keras' own test suite behaves the same bare and wrapped, to the bit."""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src import backend, tree
from keras.src.testing.test_case import create_eager_tensors

import kwrap
from kwrap import _keras

from . import keras_cases
from .keras_cases import Case

SEED = 7

# Steps on values leave their mark on seed generators and statistics: a variant goes through all, or the first few.
SHORT = ("inference", "training")
LONG = (*SHORT, "masked", "revived")
WHOLE = (*LONG, "without_training", "traced", "symbolic", "compute_output_shape", "attributes")

# What the bare layer itself does not survive: {case: {step: reason}}. Wrapped, the same step has to fail alike.
_NO_SHAPE = "the class has no compute_output_shape"
NAMED_EXCEPTIONS: dict[str, dict[str, str]] = {
    "core/dense_test.py::DenseTest::test_quantize_dtype_argument_float8[0]": {
        "training/gradients": "Keras' float8 gradient takes two-dimensional inputs only"
    },
    "core/einsum_dense_test.py::EinsumDenseTest::test_quantize_dtype_argument_float8[0]": {
        "training/gradients": "Keras' float8 gradient takes two-dimensional inputs only"
    },
    "core/lambda_layer_test.py::LambdaTest::test_lambda_basics[1]": {
        "revived/changed": "Keras saves a Lambda's mask as a string"
    },
    "core/wrapper_test.py::WrapperTest::test_wrapper_basics[0]": {"compute_output_shape": _NO_SHAPE},
    "core/wrapper_test.py::WrapperTest::test_wrapper_basics[1]": {"compute_output_shape": _NO_SHAPE},
    "core/wrapper_test.py::WrapperTest::test_wrapper_basics[2]": {"compute_output_shape": _NO_SHAPE},
    "core/wrapper_test.py::WrapperTest::test_wrapper_basics[3]": {"compute_output_shape": _NO_SHAPE},
    "preprocessing/pipeline_test.py::PipelineTest::test_basics[0]": {"compute_output_shape": _NO_SHAPE},
}

# Two time steps and a regularizer: the bare layer reads its kernel at each of the three, under `parametrize` it is read
# once a call, so that the three gradients add up in another order. (As they do for a bare layer whose weights are read
# once, by Keras' own StatelessScope: that is equal to the bit.)
SUMMED_IN_ANOTHER_ORDER = (
    "rnn/gru_test.py::GRUTest::test_basics[2]",
    "rnn/lstm_test.py::LSTMTest::test_basics[2]",
    "rnn/simple_rnn_test.py::SimpleRNNTest::test_basics[1]",
)


@kwrap.hook(layer_type=keras.layers.Layer, name="keras_cases_idle")
class Idle(kwrap.Hook):
    """A hook that overrides nothing."""


@kwrap.hook(layer_type=keras.layers.Layer, name="keras_cases_pass_through")
class PassThrough(kwrap.Hook):
    """A hook that is in every path and changes nothing."""

    def call(self, call_next: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return call_next(*args, **kwargs)

    def parametrize(self, target: "kwrap.WeightTarget", value: Any, *, training: bool) -> Any:
        return value


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What is made of a layer, built before or not, and the steps that it then goes through."""

    name: str
    wrap: Callable[[keras.layers.Layer], keras.layers.Layer]
    steps: Sequence[str] = WHOLE
    built: bool = False
    policy: str | None = None


def idle(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Wrap `layer` with a hook that overrides nothing."""
    return kwrap.Wrapper(layer, [Idle()])


def pass_through(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Wrap `layer` with a hook in every path that changes nothing."""
    return kwrap.Wrapper(layer, [PassThrough()])


BARE = Variant(name="bare", wrap=lambda layer: layer)
WRAPPED = [
    Variant(name="idle", wrap=idle),
    Variant(name="idle, built before", wrap=idle, built=True, steps=(*SHORT, "attributes")),
    Variant(name="pass-through, first called on symbols", wrap=pass_through, steps=("symbolic", *LONG, "attributes")),
    Variant(name="pass-through, built before", wrap=pass_through, built=True, steps=("inference", "symbolic")),
]
MIXED_BARE = Variant(name="bare", wrap=lambda layer: layer, policy="mixed_float16", steps=(*SHORT, "symbolic"))
MIXED_WRAPPED = [Variant(name="pass-through", wrap=pass_through, policy="mixed_float16", steps=(*SHORT, "symbolic"))]


@dataclass(frozen=True)
class Raised:
    """What a step came to that failed. Messages may name the layer's class, so only the type is compared."""

    error: type[Exception]
    message: str = field(compare=False)


class InTraining(keras.layers.Layer):
    """Runs a function inside Keras' call context, which says `training` also to layers without such an argument."""

    def __init__(self, layer: keras.layers.Layer, run: Callable[[], None]) -> None:
        super().__init__(autocast=False)
        self.layer, self.run = layer, run

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        self.run()
        return inputs


class Trial:
    """One case in one variant, step by step; each step returns NumPy arrays and plain values."""

    def __init__(self, case: Case, variant: Variant) -> None:
        _keras.seed_past_tensorflow(SEED)
        self.case, self.steps = case, variant.steps
        self.inputs = _inputs(case)
        self.symbols = tree.map_structure(_symbol, self.inputs)
        options = {"dtype": variant.policy} if variant.policy else {}
        layer = case.layer_cls(**{**case.init_kwargs, **options})
        if variant.built:
            _keras.seed_past_tensorflow(SEED)  # as before the first step, in which the layer is built otherwise
            _feed(layer, self.symbols, case.call_kwargs)
        self.layer = variant.wrap(layer)

    def run(self) -> dict[str, Any]:
        """Return what each step came to."""
        return {step: self._attempt(getattr(self, step)) for step in self.steps}

    def _attempt(self, step: Callable[[], Any]) -> Any:
        _keras.seed_past_tensorflow(SEED)
        try:
            return step()
        except Exception as error:
            return Raised(type(error), str(error))

    def inference(self) -> Any:
        """Call it as the case does."""
        return self._observed(_feed(self.layer, self.inputs, self.case.call_kwargs))

    def training(self) -> Any:
        """Call it in training, with gradients."""
        with tf.GradientTape() as tape:
            watched = [x for x in tree.flatten(self.inputs) if _differentiable(x)]
            tape.watch(watched)
            outputs = self._in_context(training=True)
            losses = list(self.layer.losses)
        results = [x for x in tree.flatten(outputs) if x is not None and x.dtype.is_floating]
        sources = [v.value for v in self.layer.trainable_variables] + watched
        weights = [_ramp(x) for x in results] + [tf.ones_like(x) for x in losses]
        gradients = sources and self._attempt(
            lambda: tape.gradient(results + losses, sources, output_gradients=weights)
        )
        return {**self._observed(outputs), "gradients": tree.map_structure(_array, gradients)}

    def without_training(self) -> Any:
        """Call it inside a layer that is not training."""
        return self._observed(self._in_context(training=False))

    def masked(self) -> Any:
        """Call it on sequences with a mask, as from an Embedding. Keras' cases have none, and some refuse it."""
        inputs = tree.map_structure(_with_mask, self.inputs)
        return self._observed(_feed(self.layer, inputs, self.case.call_kwargs))

    def traced(self) -> Any:
        """Call it in training inside a `tf.function`, `training` given by keyword."""
        kwargs = {"training": True, **self.case.call_kwargs}
        call = tf.function(lambda: _feed(self.layer, self.inputs, kwargs), autograph=False)
        return tree.map_structure(_array, call()), self._state()

    def symbolic(self) -> Any:
        """Call it on KerasTensors."""
        return tree.map_structure(_spec, _feed(self.layer, self.symbols, self.case.call_kwargs))

    def compute_output_shape(self) -> Any:
        shapes = tree.map_structure(lambda symbol: symbol.shape, self.symbols)
        if isinstance(shapes, dict):
            return self.layer.compute_output_shape(**{f"{name}_shape": shape for name, shape in shapes.items()})
        return self.layer.compute_output_shape(shapes)

    def attributes(self) -> Any:
        return {
            "name": self.layer.name,
            "built": self.layer.built,
            "supports_masking": self.layer.supports_masking,
            "weights": [(w.path, tuple(w.shape), w.dtype, w.trainable) for w in self.layer.weights],
            "trainable_weights": [w.path for w in self.layer.trainable_weights],
        }

    def revived(self) -> Any:
        """Call a copy made from the config by way of JSON; given the same weights it does the same again."""
        with keras.saving.custom_object_scope(self.case.custom_objects):
            config = json.loads(json.dumps(keras.saving.serialize_keras_object(self.layer)))
            copy = keras.saving.deserialize_keras_object(config, safe_mode=False)
        if not copy.built:
            _feed(copy, self.inputs, self.case.call_kwargs)
        for variable, source in zip(copy.variables, self.layer.variables, strict=True):
            variable.assign(source)
        calls = []
        for layer in (copy, self.layer):
            _keras.seed_past_tensorflow(SEED)
            outputs = _feed(layer, self.inputs, self.case.call_kwargs)
            calls.append([tree.map_structure(_array, outputs), tree.map_structure(_mask, outputs)])
        return {"copy": calls[0], "changed": list(differences(calls[1], calls[0]))}

    def _in_context(self, training: bool) -> Any:
        outputs: list[Any] = []
        outer = InTraining(self.layer, lambda: outputs.append(_feed(self.layer, self.inputs, self.case.call_kwargs)))
        outer(tf.zeros(()), training=training)
        return outputs[0]

    def _observed(self, outputs: Any) -> dict[str, Any]:
        return {
            "outputs": tree.map_structure(_array, outputs),
            "masks": tree.map_structure(_mask, outputs),
            "losses": [_array(x) for x in self.layer.losses],
            "state": self._state(),
        }

    def _state(self) -> list[Any]:
        return [_array(v) for v in self.layer.variables]


def _inputs(case: Case) -> Any:
    if case.input_data is not None:
        return tree.map_structure(
            lambda x: tf.convert_to_tensor(x) if isinstance(x, np.ndarray) else x, case.input_data
        )
    dtype = case.input_dtype or tree.map_shape_structure(lambda _: "float32", case.input_shape)
    return create_eager_tensors(case.input_shape, dtype, sparse=False, ragged=False)


def _feed(layer: keras.layers.Layer, inputs: Any, kwargs: Mapping[str, Any]) -> Any:
    return layer(**inputs, **kwargs) if isinstance(inputs, dict) else layer(inputs, **kwargs)


def _symbol(x: Any) -> keras.KerasTensor:
    return keras.KerasTensor(tuple(keras.ops.shape(x)), keras.backend.standardize_dtype(x.dtype))


def _differentiable(x: Any) -> bool:
    """Whether gradients for `x` are compared; minutes of audio would take most of the test's time."""
    return tf.is_tensor(x) and x.dtype.is_floating and x.shape.num_elements() < 100_000


def _with_mask(x: Any) -> Any:
    x = tf.identity(x)
    if x.shape.rank > 2:
        steps = tf.range(x.shape[0])[:, None] + tf.range(x.shape[1])
        backend.set_keras_mask(x, steps % 3 != 1)
    return x


def _ramp(x: tf.Tensor) -> tf.Tensor:
    """Return gradients that differ from element to element, so that no two elements can be swapped unseen."""
    return tf.constant(np.linspace(0.5, 1.5, x.shape.num_elements(), dtype="float32").reshape(x.shape), x.dtype)


def _array(x: Any) -> Any:
    if x is None or isinstance(x, Raised):
        return x
    if isinstance(x, tf.IndexedSlices):
        return _array(x.indices), _array(x.values)
    x = keras.ops.convert_to_numpy(x)
    if x.size > 1_000_000:  # spectrograms of 100 MB
        return x.shape, str(x.dtype), hashlib.blake2b(x.tobytes()).hexdigest()
    return x


def _mask(x: Any) -> Any:
    return _array(backend.get_keras_mask(x))


def _spec(x: Any) -> Any:
    mask = backend.get_keras_mask(x)
    return tuple(x.shape), x.dtype, None if mask is None else (tuple(mask.shape), mask.dtype)


def differences(bare: Any, wrapped: Any, where: str = "") -> Iterator[str]:
    """Yield each place where two results differ, to the bit; NaN equals NaN."""
    if isinstance(bare, np.ndarray) and isinstance(wrapped, np.ndarray):
        if (bare.dtype, bare.shape) != (wrapped.dtype, wrapped.shape):
            yield f"{where}: {bare.dtype}{bare.shape} became {wrapped.dtype}{wrapped.shape}"
        elif (changed := _changed(bare, wrapped)).any():
            first = f"the first from {bare[changed][0]!r} to {wrapped[changed][0]!r}"
            yield f"{where}: {changed.sum()} of {changed.size} values changed, {first}"
    elif type(bare) is not type(wrapped) or (hasattr(bare, "__len__") and len(bare) != len(wrapped)):
        yield f"{where}: {bare!r:.300} became {wrapped!r:.300}"
    elif isinstance(bare, dict) and bare.keys() == wrapped.keys():
        for key in bare:
            yield from differences(bare[key], wrapped[key], f"{where}/{key}".lstrip("/"))
    elif isinstance(bare, (list, tuple)):
        for i, (one, other) in enumerate(zip(bare, wrapped, strict=True)):
            yield from differences(one, other, f"{where}/{i}")
    elif bare != wrapped:
        yield f"{where}: {bare!r:.300} became {wrapped!r:.300}"


def _changed(bare: np.ndarray, wrapped: np.ndarray) -> np.ndarray:
    """Return where two arrays of one dtype and shape differ; zeros differ in their sign."""
    changed = np.asarray(bare != wrapped)
    if bare.dtype.kind in "biuUSO":
        return changed
    one, other = bare.astype("float64"), wrapped.astype("float64")
    return (changed & ~(np.isnan(one) & np.isnan(other))) | ((one == 0) & (np.signbit(one) != np.signbit(other)))


def failures(result: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Yield (step, message) of what the bare layer does not survive; it may refuse the masks that we add."""
    if isinstance(result, Raised):
        yield where, f"{result.error.__name__}: {result.message}"
    elif isinstance(result, dict):
        for key, value in result.items():
            if key == "changed" and value:
                yield f"{where}/changed", "; ".join(value)
            elif key != "masked":
                yield from failures(value, f"{where}/{key}".lstrip("/"))


@pytest.fixture(autouse=True)
def keras_left_as_found(pytestconfig: pytest.Config) -> Iterator[None]:
    """Let Keras' test files be imported under `--strict-markers`; give back the global state that they set."""
    if not any(line.startswith("requires_trainable_backend") for line in pytestconfig.getini("markers")):
        pytestconfig.addinivalue_line("markers", "requires_trainable_backend: of Keras' test files")
    policy, floatx, image = keras.config.dtype_policy(), keras.config.floatx(), keras.config.image_data_format()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)
    keras.config.set_image_data_format(image)
    keras.utils.clear_session()


def trials(file: str, variant: Variant) -> dict[str, Any]:
    """Run all dense cases of a file in one variant, each with layers of its own."""
    cases = [case for case in keras_cases.collect(file) if case.dense]
    keras.utils.clear_session(free_memory=False)  # the names of layers begin anew, collected or not
    return {c.id: Trial(c, variant).run() for c in cases if c.mixed_precision or not variant.policy}


def compare(file: str, expected: Mapping[str, Any], variants: Sequence[Variant]) -> list[str]:
    """Return where the cases of a file differ from what is expected of them, over several variants."""
    found = []
    for variant in variants:
        for case, result in trials(file, variant).items():
            bare = {step: expected[case][step] for step in result}
            if variant.wrap is pass_through and case in SUMMED_IN_ANOTHER_ORDER and "training" in result:
                _allow_rounding(bare["training"]["gradients"], result["training"]["gradients"])
            found += [f"{case} ({variant.name}) {text}" for text in differences(bare, result)]
    return found


def _allow_rounding(bare: Sequence[np.ndarray], wrapped: list[np.ndarray]) -> None:
    wrapped[:] = [a if np.allclose(a, b, rtol=1e-6, atol=1e-6) else b for a, b in zip(bare, wrapped, strict=True)]


@pytest.mark.parametrize("file", keras_cases.case_files())
def test_layers_behave_the_same_wrapped(file: str) -> None:
    bare = trials(file, BARE)
    refused = {case: dict(failures(result)) for case, result in bare.items()}
    named = {case: set(steps) for case, steps in NAMED_EXCEPTIONS.items() if case.startswith(file)}
    assert {case: set(steps) for case, steps in refused.items() if steps} == named, refused
    found = compare(file, bare, WRAPPED)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("file", keras_cases.case_files())
def test_layers_behave_the_same_wrapped_under_mixed_precision(file: str) -> None:
    # Keras only calls its layers in mixed precision; a gradient that the bare layer cannot take fails alike.
    found = compare(file, trials(file, MIXED_BARE), MIXED_WRAPPED)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("file", keras_cases.case_files())
def test_every_case_of_keras_is_collected(file: str) -> None:
    cases = keras_cases.collect(file)
    dense = sum(case.dense for case in cases)
    assert (dense, len(cases) - dense) == (keras_cases.DENSE_CASES[file], keras_cases.LEFT_OUT.get(file, 0))
    assert len({case.id for case in cases}) == len(cases)


def test_keras_has_the_files_with_cases_that_it_had() -> None:
    assert keras_cases.case_files() == list(keras_cases.DENSE_CASES)
    assert sum(keras_cases.DENSE_CASES.values()) == 490


def _nudge_outputs(layer: keras.layers.Layer) -> None:
    call = layer.call
    layer.call = lambda *args, **kwargs: tree.map_structure(lambda x: x * (1 + 2e-7), call(*args, **kwargs))


def _lose_masks(layer: keras.layers.Layer) -> None:
    layer.compute_mask = lambda *args, **kwargs: None


def _add_loss(layer: keras.layers.Layer) -> None:
    layer.activity_regularizer = keras.regularizers.L2(1e-9)


def _use_up_a_seed(layer: keras.layers.Layer) -> None:
    call = layer.call
    layer.call = lambda *args, **kwargs: (
        keras.random.uniform((), seed=layer.cell.seed_generator),
        call(*args, **kwargs),
    )[1]


def _cut_gradients(layer: keras.layers.Layer) -> None:
    call = layer.call
    layer.call = lambda *args, **kwargs: tree.map_structure(keras.ops.stop_gradient, call(*args, **kwargs))


def _lose_training(layer: keras.layers.Layer) -> None:
    call = layer.call
    layer.call = lambda *args, **kwargs: call(*args, **{**kwargs, "training": False})


FAULTS = {
    _nudge_outputs: "training/outputs",
    _lose_masks: "masked/masks",
    _add_loss: "training/losses",
    _use_up_a_seed: "inference/state",
    _cut_gradients: "training/gradients",
    _lose_training: "traced",
}


@pytest.mark.parametrize(("fault", "step"), FAULTS.items(), ids=lambda item: getattr(item, "__name__", None))
def test_the_comparison_sees_a_layer_that_is_not_the_same(
    fault: Callable[[keras.layers.Layer], None], step: str
) -> None:
    def damaged(layer: keras.layers.Layer) -> keras.layers.Layer:
        fault(layer)
        return layer

    file, steps = "rnn/simple_rnn_test.py", ("inference", "training", "masked", "traced")
    bare = trials(file, Variant(name="bare", wrap=lambda layer: layer, steps=steps))
    found = compare(file, bare, [Variant(name="damaged", wrap=damaged, steps=steps)])
    assert any(f"(damaged) {step}" in line for line in found), found


def test_the_comparison_is_to_the_bit_with_nan_equal_to_nan() -> None:
    def differ(one: Any, other: Any) -> bool:
        return bool(list(differences(one, other)))

    x = np.array([0.0, np.nan, 1.0], "float32")
    assert not differ(x, np.array([0.0, -np.nan, 1.0], "float32"))
    assert differ(x, np.array([-0.0, np.nan, 1.0], "float32"))
    assert differ(x, np.nextafter(x, 2))
    assert differ(x, x.astype("float64"))
    assert differ([x], [x, x])
    assert differ({"mask": None}, {"mask": x})
    assert differ(Raised(ValueError, ""), Raised(TypeError, ""))
