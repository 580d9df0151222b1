import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tests import check_table
from tests.broken_hooks import CASES, Case

import kwrap
import kwrap.testing
from kwrap.errors import PluginWarning, UnknownHookError
from kwrap.testing import CHECKS, CheckFailure, Example, HookSuite, NotApplicable, _process, save_examples

X = np.random.default_rng(0).normal(size=(2, 3)).astype("float32")


def dense() -> keras.Layer:
    return keras.layers.Dense(4, name="dense")


# --- hooks that are as they should be --------------------------------------------------------------------------------


@kwrap.hook(layer_type=keras.layers.Dense)
class GoodGain(kwrap.Hook):
    """Multiply the outputs by a `start` that is learned, and emit them; in training with noise."""

    def __init__(self, start=1.0, **kwargs):
        super().__init__(**kwargs)
        self.start = start
        self.generator = keras.random.SeedGenerator()

    def build(self, layer):
        self.gain = self.add_weight((), initializer=keras.initializers.Constant(self.start), name="gain")

    def call(self, call_next, inputs, training):
        outputs = call_next(inputs)
        if training:
            outputs += keras.random.normal(keras.ops.shape(outputs), 0.0, 0.1, outputs.dtype, seed=self.generator)
        outputs = outputs * keras.ops.cast(self.gain, outputs.dtype)
        self.emit("features", outputs)
        return outputs


@kwrap.hook(layer_type=keras.layers.Layer)
class GoodAdapter(kwrap.Hook):
    """Freeze the weights, and train a difference to them, times `alpha`."""

    freezes = True

    def __init__(self, alpha=1.0, **kwargs):
        super().__init__(**kwargs)
        self.alpha = alpha

    def build(self, layer):
        self.differences = [self.add_weight(t.shape, initializer="zeros") for t in self.target_weights]

    def parametrize(self, target, value):
        difference = self.differences[[each.name for each in self.target_weights].index(target.name)]
        return value + keras.ops.cast(difference, value.dtype) * self.alpha


@kwrap.hook(layer_type=keras.layers.Layer)
class GoodRange(kwrap.Hook):
    """Keep the stored weights at or above `lowest`, count the updates that did, and clip what is read to a range."""

    def __init__(self, lowest=0.0, **kwargs):
        super().__init__(**kwargs)
        self.lowest = lowest

    def build(self, layer):
        for target in self.target_weights:
            self.add_state(target, "range", initializer="ones")

    def parametrize(self, target, value, *, training):
        moving = self.state(target, "range")
        if training:
            moving.assign(0.9 * moving + 0.1 * keras.ops.max(keras.ops.abs(value)))
        limit = keras.ops.cast(2 * moving, value.dtype)
        return keras.ops.clip(value, -limit, limit)

    def constrain(self, target, value, *, step):
        return keras.ops.maximum(value, self.lowest)


class TestGood(HookSuite):
    examples = (
        (GoodGain(0.5), dense(), X),
        Example(GoodAdapter(2.0), dense(), X),
        (GoodRange(-0.1), keras.layers.Dense(2, name="dense", activation="tanh"), X),
    )


# --- hooks that are each broken in one way ---------------------------------------------------------------------------

# Of the others, those that take milliseconds.
QUICK = (
    "registered_under_its_name",
    "says_what_it_does",
    "explains_its_options",
    "every_option_is_tried",
    "config_comes_back",
    "config_is_json",
    "version_has_its_migration",
    "output_keeps_shape_and_dtype",
    "inference_is_repeatable",
    "mask_is_kept",
    "training_is_kept",
    "calls_leave_nothing_on_the_hook",
    "errors_of_the_layer_pass",
    "its_variables_are_its_own",
    "parametrize_reads_the_value_given",
    "constrain_reads_the_value_given",
    "constrain_is_idempotent",
    "saving_does_not_advance_it",
    "adds_the_same_to_any_value",
    "trainable_flags_are_as_said",
    "gradients_match_finite_differences",
    "its_own_variables_train",
    "draws_by_a_seed_generator_of_its_own",
)
IN_ANOTHER_PROCESS = ("a_fresh_process_loads_it", "two_replicas_train_as_one")
# What kwrap does for every hook: no hook is known that breaks it and nothing else.
OF_KWRAP = {
    "keyword_calls_are_the_same",
    "an_unbuilt_layer_is_built_at_its_first_call",
    "a_copy_leaves_the_original_alone",
    "it_works_inside_a_subclassed_model",
    "it_works_after_another_hook",
    "it_is_taken_off_alone",
}


def suite_of(*cases: Case) -> type[HookSuite]:
    examples = [Example(case.hook(**case.options), dense(), X) for case in cases]
    bad_options = [options for case in cases for options in case.bad_options]
    return type("Suite", (HookSuite,), {"examples": examples, "bad_options": bad_options})


def failure(name: str, suite: type[HookSuite], example: Example) -> CheckFailure | None:
    """Return what a check has against an example; None if nothing, or if it does not apply."""
    try:
        CHECKS[name].run(suite, None if CHECKS[name].of_suite else example)
    except CheckFailure as found:
        return found
    except NotApplicable:
        pass
    return None


def id_of(case: Case) -> str:
    return f"{case.check}-{case.hook.__name__}"


@pytest.mark.parametrize("case", [case for case in CASES if case.check not in IN_ANOTHER_PROCESS], ids=id_of)
def test_a_broken_hook_is_found_by_the_check_made_for_it_and_by_no_other(case):
    suite = suite_of(case)
    (example,) = suite.all_examples()
    found = {name for name in (case.check, *QUICK) if failure(name, suite, example)}
    assert case.check in found
    if "*" not in case.also:
        assert found - {case.check} <= set(case.also)


def test_what_only_another_process_or_a_second_replica_shows_is_found_there():
    @kwrap.hook(layer_type=keras.layers.Dense)
    def broken_local(call_next, inputs):
        """Multiply the outputs; defined where no other process finds it."""
        return call_next(inputs) * 2.0

    (replicas,) = (case for case in CASES if case.check in IN_ANOTHER_PROCESS)
    suite = suite_of(replicas, Case(broken_local, "a_fresh_process_loads_it"), Case(GoodAdapter, "none"))
    in_replicas, local, good = suite.all_examples()
    assert "calls differs in 1 of 1 values" in str(failure("two_replicas_train_as_one", suite, in_replicas))
    assert failure("a_fresh_process_loads_it", suite, in_replicas) is None
    assert "hook 'broken_local' at 'dense', which no plugin has" in str(
        failure("a_fresh_process_loads_it", suite, local)
    )
    assert "is defined in a function" in str(failure("two_replicas_train_as_one", suite, local))
    assert [failure(name, suite, good) for name in IN_ANOTHER_PROCESS] == [None, None]


@keras.saving.register_keras_serializable("test_testing")
def doubled(value):
    return value * 2


@kwrap.hook(layer_type=keras.layers.Dense)
class Applies(kwrap.Hook):
    """Apply `function` to a layer's outputs."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, call_next, inputs):
        return self.function(call_next(inputs))


def test_the_other_process_knows_the_modules_of_functions_that_options_hold():
    modules = dict(_process._modules_of(Example(Applies(doubled), dense(), X)))
    assert doubled.__module__ in modules
    config = keras.saving.serialize_keras_object(doubled)
    assert list(_process._registered_in({"function": config})) == [doubled]


def test_every_check_that_a_hook_can_fail_has_a_hook_that_does():
    proved = {case.check for case in CASES} | {"a_fresh_process_loads_it", "old_files_load"}
    assert set(CHECKS) - proved == OF_KWRAP


@tf.custom_gradient
def _doubled(value, slope):
    return value * 2.0, lambda upstream: (upstream * slope, None)


@kwrap.hook(layer_type=keras.layers.Layer)
class Sloping(kwrap.Hook):
    """Double weights or inputs (`of`), with a gradient of `slope`."""

    def __init__(self, slope=2.0, of="weights", **kwargs):
        super().__init__(**kwargs)
        self.slope, self.of = slope, of

    def parametrize(self, target, value):
        return _doubled(value, self.slope) if self.of == "weights" and tf.is_tensor(value) else value

    def call(self, call_next, inputs):
        doubles = self.of == "inputs" and tf.is_tensor(inputs) and inputs.dtype.is_floating
        return call_next(_doubled(inputs, self.slope) if doubles else inputs)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype("float32")


WIDE = (keras.layers.Dense(64, name="wide"), normal(2, 64))


@pytest.mark.parametrize(
    ("slope", "of", "layer", "inputs"),
    [
        (1.0, "weights", keras.layers.Dense(16, name="dense"), normal(2, 8)),
        (1.0, "weights", *WIDE),
        (1.8, "weights", *WIDE),
        (1.8, "inputs", *WIDE),
        (1.8, "inputs", keras.layers.Activation("tanh", name="activation"), X),
        (1.0, "inputs", keras.layers.MaxPooling2D(name="pool"), normal(2, 4, 4, 2)),
    ],
)
def test_a_gradient_that_is_a_part_of_the_right_one_is_found_on_a_wide_layer_and_on_one_without_weights(
    slope, of, layer, inputs
):
    example = Example(Sloping(slope, of), layer, inputs)
    assert "the gradient of" in str(failure("gradients_match_finite_differences", HookSuite, example))


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        WIDE,
        (keras.layers.Dense(64, activation="relu", name="wide"), normal(2, 64)),
        (keras.layers.Conv2D(8, 3, activation="relu", name="conv"), normal(2, 6, 6, 4)),
        (keras.layers.GRU(8, name="gru"), normal(4, 6, 8)),
        (keras.layers.LayerNormalization(name="norm"), X),
        (keras.layers.Embedding(5, 3, name="words"), np.array([[1, 2], [3, 4]])),
        (keras.layers.MaxPooling2D(name="pool"), normal(2, 4, 4, 2)),
        (keras.layers.Rescaling(255.0, name="scale"), X),
        (keras.layers.Dropout(0.5, name="drop"), normal(2, 8)),
    ],
    ids=lambda each: each.name if isinstance(each, keras.Layer) else "",
)
def test_right_gradients_pass_on_layers_of_many_kinds(layer, inputs):
    CHECKS["gradients_match_finite_differences"].run(HookSuite, Example(Sloping(of="inputs"), layer, inputs))


def test_where_the_layer_alone_fails_its_differences_the_hook_is_not_blamed():
    example = Example(Sloping(of="nothing"), keras.layers.BatchNormalization(name="norm"), X)
    with pytest.raises(NotApplicable, match="it is so without the hook, too"):
        CHECKS["gradients_match_finite_differences"].run(HookSuite, example)


def test_calls_of_two_threads_are_told_apart_where_all_rows_are_equal():
    (case,) = (case for case in CASES if case.hook.__name__ == "BrokenSharing")
    for inputs in (np.ones((2, 3)), X[:1]):
        example = Example(case.hook(), dense(), inputs)
        assert "was interrupted" in str(failure("calls_of_two_threads_do_not_meet", HookSuite, example))
    with pytest.raises(NotApplicable, match="consists of zeros"):
        CHECKS["calls_of_two_threads_do_not_meet"].run(HookSuite, Example(case.hook(), dense(), np.zeros((2, 3))))


def test_bad_options_are_tried_on_the_hooks_that_have_them_and_misspelt_ones_name_the_nearest():
    typist, credulous = (case.hook for case in CASES if case.hook.__name__ in ("BrokenTypist", "BrokenCredulous"))
    examples = [(hook(0.5), dense(), X) for hook in (typist, credulous)] + [(Sloping(), dense(), X)]
    suite = type("Suite", (HookSuite,), {"examples": examples, "bad_options": [{"raet": 1.0}]})
    assert "no hook of the suite has options of these names; near: 'rate'" in str(
        failure("bad_options_are_refused", suite, None)
    )
    suite = type("Suite", (HookSuite,), {"examples": examples, "bad_options": [{"phase": "never"}]})
    assert failure("bad_options_are_refused", suite, None) is None
    suite = type("Suite", (HookSuite,), {"examples": examples, "bad_options": [{"of": "nothing"}]})
    assert "Sloping takes {'of': 'nothing'}" in str(failure("bad_options_are_refused", suite, None))


def test_a_process_that_cannot_be_started_is_not_tried_again():
    class Suite(HookSuite):
        examples = (Example(GoodGain(), dense(), X, {"unsendable": lambda: 0}),)

    (example,) = Suite.all_examples()
    misses = _process._reports.cache_info().misses
    for name in IN_ANOTHER_PROCESS:
        assert "pickle" in str(failure(name, Suite, example))
    assert _process._reports.cache_info().misses == misses + 1


# --- how a failure is told -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", CHECKS.values(), ids=lambda check: check.name)
def test_a_check_says_what_is_promised_where_that_is_written_and_how_others_do_it(check):
    assert check.promise.endswith(".")
    assert check.way_out
    module, place = "kwrap", check.where.removeprefix("kwrap.")
    for known in ("errors", "testing"):
        if place.startswith(f"{known}."):
            module, place = f"kwrap.{known}", place.removeprefix(f"{known}.")
    found = import_module(module)
    for name in place.split("."):
        found = getattr(found, name)
    assert found.__doc__


def test_a_failure_names_the_hook_the_layer_and_the_check_and_keeps_the_cause():
    (case,) = (case for case in CASES if case.hook.__name__ == "BrokenPath")
    suite = suite_of(case)
    found = failure("it_works_inside_a_composite", suite, suite.all_examples()[0])
    first, wrong, contract, way_out = str(found).splitlines()
    assert first == "hook 'broken_path' on Dense 'dense' fails 'it_works_inside_a_composite'"
    assert wrong.startswith(
        "  wrong:    HookCallError: hook 'broken_path' failed at 'holder/dense' in build: LookupError"
    )
    assert contract.endswith("also saved and loaded. (kwrap.wrap_model)")
    assert "`self.path` for names" in way_out
    assert isinstance(found.__cause__, kwrap.errors.HookCallError)


# --- examples and suites ---------------------------------------------------------------------------------------------


def test_an_example_uses_neither_its_hook_nor_its_layer_itself_and_gives_equal_ones():
    example = Example(GoodAdapter(2.0), dense(), np.array([[1.0, 2.0, 3.0]]))
    one, two = example.wrapped(), example.wrapped()
    example.trained(one)
    assert not example.layer.built
    assert not example.hook.variables
    assert one.layer is not two.layer
    np.testing.assert_array_equal(one.kernel, two.kernel)  # frozen
    assert np.any(np.asarray(one.bias) != np.asarray(two.bias))
    assert example.inputs.dtype == "float32"


@kwrap.hook(layer_type=keras.layers.Dense)
class DrawsByTensorFlow(kwrap.Hook):
    """Draw a pattern by TensorFlow's own seed."""

    def build(self, layer):
        self.pattern = self.add_weight((4,), trainable=False, name="pattern")
        self.pattern.assign(tf.random.uniform((4,)))


def test_a_hook_that_draws_by_tensorflows_own_seed_is_made_alike_each_time():
    example = Example(DrawsByTensorFlow(), dense(), X)
    one, two = (np.array(example.wrapped().hooks[0].pattern) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_a_layer_with_several_inputs_and_further_arguments_is_an_example():
    attention = keras.layers.MultiHeadAttention(2, 2, name="attention")
    steps = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")

    @kwrap.hook(layer_type=keras.layers.Layer)
    def good_attention(call_next, query):
        """Multiply the outputs."""
        return call_next(query) * 2.0

    class Suite(HookSuite):
        examples = (
            Example(good_attention(), attention, steps, {"value": steps}),
            Example(good_attention(), keras.layers.Add(name="add"), [X, X]),
        )

    names = ["graph_agrees_with_eager", "keyword_calls_are_the_same", "fit_works", "merged_equals_wrapped"]
    found = [failure(name, Suite, example) for name in names for example in Suite.all_examples()]
    assert found == [None] * 8


@pytest.mark.parametrize("given", [(GoodGain, dense(), X), (GoodGain(), keras.layers.Dense, X)])
def test_an_example_of_a_class_is_an_error_that_says_what_is_due(given):
    with pytest.raises(TypeError, match="a hook and a layer, both instances, and an input; got"):
        Example(*given)


def test_a_check_that_does_not_apply_is_skipped_with_its_reason():
    (example,) = suite_of(Case(GoodGain, "none")).all_examples()
    with pytest.raises(NotApplicable, match=r"^it has no `constrain`$"):
        CHECKS["constrain_is_idempotent"].run(HookSuite, example)


def test_a_suite_or_an_example_may_skip_a_check_with_a_reason():
    class Suite(HookSuite):
        examples = (Example(GoodGain(), dense(), X, skip={"fit_works": "no time"}),)
        skip = {"output_is_finite": "no numbers"}  # noqa: RUF012

    (example,) = Suite.all_examples()
    for name, reason in (("fit_works", "no time"), ("output_is_finite", "no numbers")):
        with pytest.raises(NotApplicable, match=reason):
            CHECKS[name].run(Suite, example)


# --- old files -------------------------------------------------------------------------------------------------------


def test_files_of_a_former_version_are_checked_against_what_they_gave(tmp_path):
    class Suite(HookSuite):
        examples = ((GoodAdapter(2.0), dense(), X),)
        saved = tmp_path

    (path,) = save_examples(Suite, tmp_path)
    assert path.name == "good_adapter-version1-0.keras"
    before = path.read_bytes()
    more = type("More", (Suite,), {"examples": (*Suite.examples, (GoodAdapter(3.0), dense(), X))})
    assert [path.name for path in save_examples(more, tmp_path)] == ["good_adapter-version1-1.keras"]
    assert path.read_bytes() == before
    assert failure("old_files_load", Suite, None) is None
    with np.load(path.with_suffix(".npz")) as record:
        other = {**record, "output00": record["output00"] + 1.0}
    np.savez(path.with_suffix(".npz"), **other)
    assert "version1-0.keras: the output: tensor 0 differs in 8 of 8" in str(failure("old_files_load", Suite, None))


def test_an_old_file_that_the_hook_no_longer_reads_is_found(tmp_path, monkeypatch):
    class Suite(HookSuite):
        examples = ((GoodAdapter(2.0), dense(), X),)
        saved = tmp_path

    save_examples(Suite, tmp_path)
    monkeypatch.setattr(GoodAdapter, "version", 2)
    assert "HookVersionError" in str(failure("old_files_load", Suite, None))


def test_a_folder_that_is_named_and_not_there_fails_and_is_sought_beside_the_test_module():
    suite = type("Suite", (HookSuite,), {"saved": "save", "__module__": __name__})
    assert suite.saved_folder() == Path(__file__).parent / "save"
    assert "/save, is not there" in str(failure("old_files_load", suite, None))


def test_without_old_files_the_check_says_how_to_make_them():
    with pytest.raises(NotApplicable, match=r"make them by kwrap.testing.save_examples\(suite, folder\)"):
        CHECKS["old_files_load"].run(TestGood)


# --- a registry and plugins of a test's own --------------------------------------------------------------------------

PLUGIN = """
import keras, kwrap

@kwrap.hook(layer_type=keras.layers.Dense)
def from_{name}(call_next, inputs, *, factor=2.0):
    '''Multiply the outputs by `factor`.'''
    return call_next(inputs) * factor
"""


def test_hooks_targets_and_blocks_of_an_isolated_registry_are_gone_afterwards():
    before = kwrap.registered()
    with kwrap.testing.isolated_registry():
        own = kwrap.hook(layer_type=keras.layers.Dense, name="only_here")(lambda call_next, inputs: inputs)
        kwrap.weight_targets.register(keras.layers.Add)(lambda layer: ())
        kwrap.plugins.block("prune")
        assert kwrap.use("only_here").hook_name == own.hook_name
        assert "prune" not in [hook.name for hook in kwrap.registered()]
    assert kwrap.registered() == before
    with pytest.raises(UnknownHookError):
        kwrap.use("only_here")
    with pytest.raises(kwrap.errors.TargetError):
        kwrap.weight_targets.unregister(keras.layers.Add)


def test_what_was_defined_before_can_be_defined_again_inside_and_is_itself_afterwards():
    with kwrap.testing.isolated_registry():

        @kwrap.hook(layer_type=keras.layers.Layer, name="good_adapter")
        class GoodAdapter(kwrap.Hook):
            """Another one."""

    assert kwrap.use("good_adapter").freezes


def test_an_installed_plugin_is_found_by_its_entry_point_and_is_gone_afterwards(tmp_path):
    with kwrap.testing.install_plugin(tmp_path, "mine", PLUGIN.format(name="mine"), version="2.0") as module:
        assert module not in sys.modules
        hook = kwrap.use("from_mine", factor=3.0)
        assert type(hook).__module__ == module == "kwrap_mine"
        (plugin,) = (plugin for plugin in kwrap.plugins.list() if plugin.name == "mine")
        assert (plugin.origin, plugin.status) == ("kwrap-mine 2.0", "loaded")
        code = "import kwrap; print(kwrap.use('from_mine').get_config()['factor'])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "2.0"
    assert module not in sys.modules
    assert str(tmp_path) not in os.environ.get("PYTHONPATH", "")
    assert "mine" not in [plugin.name for plugin in kwrap.plugins.list()]
    with pytest.raises(UnknownHookError):
        kwrap.use("from_mine")


def test_a_plugin_that_breaks_is_a_warning_and_may_be_installed_whole_afterwards(tmp_path):
    for name in ("broken", "whole"):
        (tmp_path / name).mkdir()
    with (
        kwrap.testing.install_plugin(tmp_path / "broken", "mine", "raise RuntimeError('the weather')"),
        pytest.warns(PluginWarning, match="the weather"),
        pytest.raises(UnknownHookError),
    ):
        kwrap.use("from_mine")
    with kwrap.testing.install_plugin(tmp_path / "whole", "mine", PLUGIN.format(name="mine")):
        assert kwrap.use("from_mine").get_config()["factor"] == 2.0


# --- as its users see it ---------------------------------------------------------------------------------------------

USERS_TESTS = '''
import keras
import numpy as np
import pytest

import kwrap

from kwrap.testing.fixtures import install_plugin, isolated_registry

X = np.ones((2, 3), "float32")


@kwrap.hook(layer_type=keras.layers.Dense)
class Users(kwrap.Hook):
    """Multiply the outputs by a factor."""

    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, call_next, inputs):
        self.last = call_next(inputs) * self.factor
        return self.last


class TestUsers(kwrap.testing.HookSuite):
    examples = [(Users(2.0), keras.layers.Dense(4), X), (Users(3.0), keras.layers.Dense(2), X)]


class TestMisspelt(kwrap.testing.HookSuite):
    examples = [(Users(2.0), keras.layers.Dense(4), X)]

    def test_own(self, isolated_registry, install_plugin):
        """A test of one's own beside the suite's."""
        install_plugin("two", "import keras, kwrap")
        install_plugin("three", "import keras, kwrap")
        assert {"two", "three"} <= {plugin.name for plugin in kwrap.plugins.list()}
'''


def test_pytest_collects_a_suite_and_shows_what_is_wrong_where_it_is_written_and_what_was_skipped(tmp_path):
    (tmp_path / "test_users.py").write_text(USERS_TESTS)
    chosen = "leave_nothing_on or is_finite or idempotent or explains or own"
    options = ["-q", "-rs", "-p", "no:cacheprovider", "-k", chosen]
    command = [sys.executable, "-m", "pytest", *options, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    report = done.stdout
    assert "hook 'users' on Dense 'dense' fails 'calls_leave_nothing_on_the_hook'" in report
    assert "wrong:    a call changed or made the attributes 'last'" in report
    assert "contract: A hook stores nothing of a call on itself" in report
    assert "way out:  local variables; between calls, `add_weight` or `add_state`" in report
    assert "constrain_is_idempotent: it has no `constrain`" in report
    assert "explains_its_options" not in report
    assert "src/kwrap" not in report  # nor where in the kit
    assert report.splitlines()[-1].startswith("3 failed"), report


def test_a_skip_that_names_no_check_is_an_error_with_the_nearest_names():
    class Suite(HookSuite):
        examples = (Example(GoodGain(), dense(), X, skip={"fit_work": "?"}),)

    class Meta:
        fixturenames = ()

    with pytest.raises(ValueError, match=r"Suite: skip names no check 'fit_work'; near: 'fit_works'"):
        Suite().pytest_generate_tests(Meta())


def test_a_hook_of_weights_on_a_layer_without_such_weights_is_one_error_when_the_suite_is_collected():
    class Suite(HookSuite):
        examples = ((GoodAdapter(), keras.layers.Dropout(0.5, name="drop"), X),)

    class Meta:
        fixturenames = ()

    with pytest.raises(ValueError, match=r"Suite: hook 'good_adapter' on Dropout 'drop' does nothing but change"):
        Suite().pytest_generate_tests(Meta())


def test_the_page_lists_every_check_as_the_kit_has_it():
    assert check_table.listed() == check_table.tables()
