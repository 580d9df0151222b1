"""The layer cases of Keras' own test suite: every call to `run_layer_test` in `keras/src/layers/**/*_test.py`."""

import importlib
import importlib.util
import inspect
import sys
import types
import unittest
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

SEED = 20

# Counted in Keras 3.15.1: the cases with dense tensors, and those with sparse or ragged ones, which are left out.
DENSE_CASES = {
    "activations/activation_test.py": 2,
    "activations/elu_test.py": 1,
    "activations/leaky_relu_test.py": 1,
    "activations/prelu_test.py": 1,
    "activations/relu_test.py": 1,
    "activations/softmax_test.py": 1,
    "attention/additive_attention_test.py": 2,
    "attention/attention_test.py": 2,
    "attention/grouped_query_attention_test.py": 4,
    "attention/multi_head_attention_test.py": 16,
    "convolutional/conv_test.py": 11,
    "convolutional/conv_transpose_test.py": 9,
    "convolutional/depthwise_conv_test.py": 7,
    "convolutional/separable_conv_test.py": 6,
    "core/dense_test.py": 6,
    "core/einsum_dense_test.py": 26,
    "core/embedding_test.py": 7,
    "core/identity_test.py": 1,
    "core/lambda_layer_test.py": 4,
    "core/masking_test.py": 1,
    "core/reversible_embedding_test.py": 6,
    "core/wrapper_test.py": 4,
    "merging/merging_test.py": 9,
    "normalization/batch_normalization_test.py": 5,
    "normalization/group_normalization_test.py": 2,
    "normalization/layer_normalization_test.py": 6,
    "normalization/rms_normalization_test.py": 2,
    "normalization/spectral_normalization_test.py": 3,
    "normalization/unit_normalization_test.py": 2,
    "pooling/average_pooling_test.py": 13,
    "pooling/global_average_pooling_test.py": 9,
    "pooling/global_max_pooling_test.py": 9,
    "pooling/max_pooling_test.py": 9,
    "preprocessing/data_layer_test.py": 2,
    "preprocessing/discretization_test.py": 1,
    "preprocessing/hashed_crossing_test.py": 2,
    "preprocessing/image_preprocessing/aug_mix_test.py": 1,
    "preprocessing/image_preprocessing/auto_contrast_test.py": 1,
    "preprocessing/image_preprocessing/center_crop_test.py": 2,
    "preprocessing/image_preprocessing/clahe_test.py": 2,
    "preprocessing/image_preprocessing/cut_mix_test.py": 1,
    "preprocessing/image_preprocessing/equalization_test.py": 2,
    "preprocessing/image_preprocessing/max_num_bounding_box_test.py": 1,
    "preprocessing/image_preprocessing/mix_up_test.py": 1,
    "preprocessing/image_preprocessing/rand_augment_test.py": 1,
    "preprocessing/image_preprocessing/random_brightness_test.py": 1,
    "preprocessing/image_preprocessing/random_color_degeneration_test.py": 1,
    "preprocessing/image_preprocessing/random_color_jitter_test.py": 1,
    "preprocessing/image_preprocessing/random_contrast_test.py": 2,
    "preprocessing/image_preprocessing/random_crop_test.py": 7,
    "preprocessing/image_preprocessing/random_elastic_transform_test.py": 1,
    "preprocessing/image_preprocessing/random_erasing_test.py": 1,
    "preprocessing/image_preprocessing/random_flip_test.py": 7,
    "preprocessing/image_preprocessing/random_gaussian_blur_test.py": 1,
    "preprocessing/image_preprocessing/random_grayscale_test.py": 2,
    "preprocessing/image_preprocessing/random_hue_test.py": 1,
    "preprocessing/image_preprocessing/random_invert_test.py": 1,
    "preprocessing/image_preprocessing/random_perspective_test.py": 1,
    "preprocessing/image_preprocessing/random_posterization_test.py": 1,
    "preprocessing/image_preprocessing/random_rotation_test.py": 5,
    "preprocessing/image_preprocessing/random_saturation_test.py": 1,
    "preprocessing/image_preprocessing/random_sharpness_test.py": 1,
    "preprocessing/image_preprocessing/random_shear_test.py": 1,
    "preprocessing/image_preprocessing/random_translation_test.py": 17,
    "preprocessing/image_preprocessing/random_zoom_test.py": 8,
    "preprocessing/image_preprocessing/resizing_test.py": 48,
    "preprocessing/image_preprocessing/solarization_test.py": 1,
    "preprocessing/mel_spectrogram_test.py": 2,
    "preprocessing/normalization_test.py": 3,
    "preprocessing/pipeline_test.py": 1,
    "preprocessing/rescaling_test.py": 5,
    "preprocessing/stft_spectrogram_test.py": 6,
    "regularization/activity_regularization_test.py": 1,
    "regularization/alpha_dropout_test.py": 1,
    "regularization/dropout_test.py": 1,
    "regularization/gaussian_dropout_test.py": 1,
    "regularization/gaussian_noise_test.py": 1,
    "regularization/spatial_dropout_test.py": 6,
    "reshaping/cropping1d_test.py": 5,
    "reshaping/cropping2d_test.py": 16,
    "reshaping/cropping3d_test.py": 60,
    "reshaping/flatten_test.py": 3,
    "reshaping/permute_test.py": 1,
    "reshaping/repeat_vector_test.py": 1,
    "reshaping/reshape_test.py": 7,
    "reshaping/up_sampling1d_test.py": 1,
    "reshaping/up_sampling2d_test.py": 12,
    "reshaping/up_sampling3d_test.py": 4,
    "rnn/bidirectional_test.py": 2,
    "rnn/conv_lstm1d_test.py": 3,
    "rnn/conv_lstm2d_test.py": 3,
    "rnn/conv_lstm3d_test.py": 3,
    "rnn/dropout_rnn_cell_test.py": 2,
    "rnn/gru_test.py": 3,
    "rnn/lstm_test.py": 3,
    "rnn/rnn_test.py": 8,
    "rnn/simple_rnn_test.py": 2,
    "rnn/stacked_rnn_cells_test.py": 7,
    "rnn/time_distributed_test.py": 1,
}
LEFT_OUT = {
    "core/dense_test.py": 1,
    "core/embedding_test.py": 2,
    "core/identity_test.py": 1,
    "merging/merging_test.py": 9,
    "reshaping/flatten_test.py": 6,
    "reshaping/permute_test.py": 1,
    "reshaping/reshape_test.py": 7,
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One recorded call to `run_layer_test`."""

    id: str
    layer_cls: type
    init_kwargs: Mapping[str, Any]
    input_shape: Any = None
    input_dtype: Any = None
    input_data: Any = None
    call_kwargs: Mapping[str, Any]
    custom_objects: Mapping[str, Any]
    mixed_precision: bool = True
    dense: bool = True


def layers_folder() -> Path:
    """Return the folder of Keras' layers, without importing Keras (pytest collects in every worker)."""
    return Path(metadata.distribution("keras").locate_file("keras/src/layers"))


def case_files() -> list[str]:
    """Return the test files that hold cases, relative to the folder of Keras' layers, sorted."""
    folder = layers_folder()
    files = [path for path in folder.rglob("*_test.py") if "self.run_layer_test(" in path.read_text(encoding="utf-8")]
    return sorted(path.relative_to(folder).as_posix() for path in files)


def collect(file: str) -> list[Case]:
    """Return the cases of a test file, dense or not, with layers and initializers of their own on each call.

    Those of the last file that need none are the same ones: a file's tests do more than to make cases.
    """
    cases = _last.get(file)
    if cases is None:
        cases = _collect(file)
        _last.clear()
        if all(map(_is_plain, cases)):
            _last[file] = cases
    return cases


_last: dict[str, list[Case]] = {}


def _is_plain(case: Case) -> bool:
    """Tell whether nothing in a case can be changed by the layer that gets it."""
    import keras
    import numpy as np
    import tensorflow as tf

    given = keras.tree.flatten((dict(case.init_kwargs), dict(case.call_kwargs), case.input_data))
    return all(isinstance(each, str | int | float | np.ndarray | tf.Tensor | type(None)) for each in given)


def _collect(file: str) -> list[Case]:
    with _optional_modules(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = importlib.import_module("keras.src.layers." + file.removesuffix(".py").replace("/", "."))
        return [case for suite, method in _methods(module) for case in _record(file, suite, method)]


@contextmanager
def _optional_modules() -> Iterator[None]:
    """Let test files import what only their other tests need: `grain`, and the `conftest` of Keras' repository."""
    conftest = types.ModuleType("conftest")
    conftest.skip_if_backend = lambda backend, reason: unittest.skipIf(backend == "tensorflow", reason)  # type: ignore[attr-defined]
    before = {name: sys.modules.get(name) for name in ("conftest", "grain")}
    sys.modules["conftest"] = conftest
    if importlib.util.find_spec("grain") is None:
        sys.modules["grain"] = types.ModuleType("grain")
    try:
        yield
    finally:
        for name, module in before.items():
            if module is not None:
                sys.modules[name] = module
            elif not getattr(sys.modules.get(name), "__file__", None):
                sys.modules.pop(name, None)


def _methods(module: types.ModuleType) -> Iterator[tuple[type[unittest.TestCase], str]]:
    for suite in list(vars(module).values()):
        if isinstance(suite, type) and issubclass(suite, unittest.TestCase) and suite.__module__ == module.__name__:
            for method in unittest.TestLoader().getTestCaseNames(suite):
                if "run_layer_test" in inspect.getsource(getattr(suite, method)):
                    yield suite, method


def _record(file: str, suite: type[unittest.TestCase], method: str) -> list[Case]:
    """Run one test method with `run_layer_test` replaced; what it does besides does not matter."""
    import keras

    cases: list[Case] = []
    test = suite(method)
    test.run_layer_test = _recorder(f"{file}::{suite.__name__}::{method}", cases)  # type: ignore[attr-defined]
    filtering = keras.config.is_traceback_filtering_enabled()
    policy = keras.config.dtype_policy()
    keras.utils.set_random_seed(SEED)
    try:
        test.run(unittest.TestResult())
    finally:
        keras.config.set_dtype_policy(policy)
        if filtering:  # Keras' own `setUp` switches it off for good
            keras.config.enable_traceback_filtering()
    return cases


def _recorder(prefix: str, cases: list[Case]) -> Callable[..., None]:
    def run_layer_test(
        layer_cls: type,
        init_kwargs: Mapping[str, Any] | None,
        input_shape: Any = None,
        input_dtype: Any = None,
        input_sparse: bool = False,
        input_ragged: bool = False,
        input_data: Any = None,
        call_kwargs: Mapping[str, Any] | None = None,
        custom_objects: Mapping[str, Any] | None = None,
        run_mixed_precision_check: bool = True,
        **expectations: Any,
    ) -> None:
        case = Case(
            id=f"{prefix}[{len(cases)}]",
            layer_cls=layer_cls,
            init_kwargs=init_kwargs or {},
            input_shape=input_shape,
            input_dtype=input_dtype,
            input_data=input_data,
            call_kwargs=call_kwargs or {},
            custom_objects=custom_objects or {},
            mixed_precision=run_mixed_precision_check,
            dense=not (input_sparse or input_ragged),
        )
        layer_cls(**case.init_kwargs)  # what Keras' tests expect to be refused here is not a case
        cases.append(case)

    return run_layer_test
