import json
import warnings
import zipfile
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import kwrap
from kwrap import _state, errors

from . import composites
from .specimens import Adapter, Jitter, Mask, NonNegative, Times, same, values

INPUTS = np.random.default_rng(0).normal(size=(4, 4)).astype("float32")


def network(hooks: Any = None, seed: int = 1, where: Any = ("a", "b", "c", "d")) -> keras.Model:
    """Return layers of one shape, which a mix-up would fit into each other."""
    keras.utils.set_random_seed(seed)
    dense = [keras.layers.Dense(4, bias_initializer="normal", name=name) for name in "abcd"]
    model = keras.Sequential([keras.Input((4,)), *dense], name="line")
    return kwrap.wrap_model(model, hooks, where=where) if hooks and where else model


def states(model: keras.Model) -> dict[tuple[str, str, str], np.ndarray]:
    """Return the state of each hook, by the layer's path, the hook's name and the variable's."""
    found = kwrap.find_hooks(model)
    return {(path, hook.name, one.name): values([one])[0] for path, hook in found for one in hook.variables}


def own_weights(model: keras.Model) -> list[np.ndarray]:
    return values(weight for layer in model.layers for weight in (layer.kernel, layer.bias))


# --- names -----------------------------------------------------------------------------------------------------------


def test_variables_go_by_their_names_and_those_that_are_not_told_apart_by_them_are_counted():
    names = ["mask", "mask", "mask:1", None, None, "step"]
    one, two = ([keras.Variable(0.0, name=name) for name in names] for _ in range(2))
    assert list(_state.named(one)) == ["mask", "mask:1", "mask:1:1", "variable", "variable:1", "step"]
    assert list(_state.named(two)) == list(_state.named(one))  # whatever Keras counted in between
    assert [*_state.named(one).values()] == one


def test_hooks_of_one_class_read_their_own_state_in_any_order_and_number(tmp_path):
    model = network([Mask(name="x"), Mask(name="y")])
    for _, hook in kwrap.find_hooks(model, "x"):
        hook.variables[0].assign(np.eye(4) > 0)
    model.save_weights(tmp_path / "model.weights.h5")
    for names in (["y", "x"], ["y"]):
        other = network([Mask(name=name) for name in names], seed=2)
        other.load_weights(tmp_path / "model.weights.h5")
        expected = {key: value for key, value in states(model).items() if key[1] in names}
        assert states(other).keys() == expected.keys()
        assert all(same(value, expected[key]) for key, value in states(other).items())


def test_state_that_was_stored_by_position_is_read(tmp_path):
    model, other = network([Mask, NonNegative]), network([Mask, NonNegative], seed=2)
    model.save_weights(tmp_path / "model.weights.h5")
    with h5py.File(tmp_path / "model.weights.h5", "r+") as file:  # as kwrap wrote it before
        for layer in file["layers"].values():
            for hook in layer["hooks"].values():
                for place, name in enumerate(list(hook["vars"])):
                    hook["vars"].move(name, str(place))
    other.load_weights(tmp_path / "model.weights.h5")
    assert all(same(value, states(model)[key]) for key, value in states(other).items())


# --- seed generators -------------------------------------------------------------------------------------------------


def test_the_states_of_seed_generators_are_in_the_file_those_of_layers_that_a_hook_holds_too(tmp_path):
    @kwrap.hook(layer_type=keras.layers.Layer)
    class Drawing(kwrap.Hook):
        """Draw by two generators, and by a layer of its own, which has no weights."""

        def build(self, layer):
            self.first, self.second = (keras.random.SeedGenerator(seed, name=f"of_{seed}") for seed in (1, 2))
            self.dropout = keras.layers.Dropout(0.5, seed=3)

        def call(self, call_next, inputs):
            shape = keras.ops.shape(inputs)
            noise = [keras.random.normal(shape, seed=seed) for seed in (self.first, self.second, self.second)]
            return call_next(self.dropout(inputs + sum(noise), training=True))

    model, other = network(Drawing(), where="a"), network(Drawing(), seed=2, where="a")
    for _ in range(3):
        model(INPUTS)
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    names = ["seed_generator_state", "seed_generator_state:1", "seed_generator_state:2"]
    with h5py.File(path) as file:
        stored = file["layers/dense/hooks/drawing/vars"]
        assert sorted(stored) == names
        assert [stored[name][()].tolist() for name in names] == [[1, 3], [2, 6], [3, 3]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.load_weights(path)
    assert same(other(INPUTS), model(INPUTS))
    network(seed=3).load_weights(path)  # a plain model, which has none


def test_a_plain_models_file_leaves_the_seed_generators_and_files_of_plain_models_have_none(tmp_path):
    plain, path = network(), tmp_path / "plain.weights.h5"
    plain.save_weights(path)
    model = network([Jitter()])
    model(INPUTS, training=True)
    before = [values([hook.seed.state])[0] for _, hook in kwrap.find_hooks(model)]
    with pytest.warns(errors.HookStateWarning, match="has no 'calls' of hook") as caught:
        model.load_weights(path)
    assert len(caught) == 1
    assert all(same(hook.seed.state, state) for (_, hook), state in zip(kwrap.find_hooks(model), before, strict=True))


# --- what a file lacks -----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")  # which the file has none of
def test_a_plain_models_file_is_one_warning_a_hook_and_all_is_as_newly_wrapped(tmp_path):
    network(seed=2).save_weights(tmp_path / "plain.weights.h5")
    model = network([Mask, NonNegative])
    model.compile("sgd", "mse", run_eagerly=True)
    model.train_on_batch(INPUTS, INPUTS)
    with pytest.warns(errors.HookStateWarning) as caught:
        model.load_weights(tmp_path / "plain.weights.h5")
    own = [warning.message for warning in caught if warning.category is errors.HookStateWarning]
    assert [(warning.hook, warning.path, warning.missing) for warning in own] == [
        ("specimen_mask", "a", ["kernel_mask"]),
        ("specimen_non_negative", "a", ["kernel_step"]),
    ]
    assert same(own_weights(model), own_weights(network(seed=2)))
    fresh = network([Mask, NonNegative], seed=2)
    assert all(same(value, states(fresh)[key]) for key, value in states(model).items())
    with pytest.warns(errors.HookStateWarning):  # the next file says it again
        model.load_weights(tmp_path / "plain.weights.h5")


def test_where_a_file_lacks_one_layers_hook_that_one_is_initialized_and_named(tmp_path):
    network(Mask, where=["a", "b", "d"]).save_weights(tmp_path / "model.weights.h5")
    model = network(Mask, seed=2)
    with pytest.warns(errors.HookStateWarning, match="of hook 'specimen_mask' at 'c'") as caught:
        model.load_weights(tmp_path / "model.weights.h5")
    assert len(caught) == 1
    assert same(states(model)["c", "specimen_mask", "kernel_mask"], values([model.get_layer("c").kernel])[0] > 0)


@pytest.mark.parametrize("skip_mismatch", [False, True])
@pytest.mark.parametrize(("one", "other"), [("", "bd"), ("bd", ""), ("ab", "bc"), ("abcd", "c"), ("ad", "abcd")])
def test_layers_of_one_shape_are_never_mixed_up_whichever_are_wrapped(one, other, skip_mismatch, tmp_path):
    source, target = (network(Times, seed, where=[*at]) for seed, at in ((1, one), (2, other)))
    source.save_weights(tmp_path / "model.weights.h5")
    target.load_weights(tmp_path / "model.weights.h5", skip_mismatch=skip_mismatch)
    assert same(own_weights(target), own_weights(source))


@pytest.mark.parametrize("skip_mismatch", [False, True])
@pytest.mark.parametrize("make", [composites.in_graph, composites.tagger])
def test_nor_are_those_in_composites_and_lists(make, skip_mismatch, tmp_path):
    bare, wrapped = make(), kwrap.wrap_model(make(), Times(factor=0.5), where=["**/down", "**/attention/query"])
    bare.save_weights(tmp_path / "bare.weights.h5")
    wrapped.load_weights(tmp_path / "bare.weights.h5", skip_mismatch=skip_mismatch)
    assert same(values(wrapped.weights), values(bare.weights))
    back = make()
    wrapped.save_weights(tmp_path / "wrapped.weights.h5")
    back.load_weights(tmp_path / "wrapped.weights.h5", skip_mismatch=skip_mismatch)
    assert same(values(back.weights), values(bare.weights))


def test_a_backbone_of_kerashub_reads_plain_and_partly_wrapped_files_and_writes_them(tmp_path):
    from keras_hub.models import BertBackbone

    sizes = {"num_layers": 2, "num_heads": 1, "hidden_dim": 4, "intermediate_dim": 4, "max_sequence_length": 3}
    plain, wrapped, back = (BertBackbone(vocabulary_size=7, dropout=0.0, **sizes) for _ in range(3))
    kwrap.wrap_model(wrapped, [Mask().at("transformer_layer_1/**/query"), Adapter().at("pooled_dense")])
    plain.save_weights(tmp_path / "plain.weights.h5")
    with pytest.warns(errors.HookStateWarning):
        wrapped.load_weights(tmp_path / "plain.weights.h5")
    hooks = {id(variable) for _, hook in kwrap.find_hooks(wrapped) for variable in hook.variables}
    masked = [value for value in wrapped.weights if id(value) not in hooks]
    assert same(values(masked), values(plain.weights))
    wrapped.save_weights(tmp_path / "wrapped.weights.h5")
    back.load_weights(tmp_path / "wrapped.weights.h5")
    different = [one.path for one, other in zip(plain.weights, back.weights, strict=True) if not same(one, other)]
    assert [path.split("/")[-2:] for path in different] == [["query", "kernel"]]  # masked, as it is stored
    query = wrapped.get_layer("transformer_layer_1")._self_attention_layer._query_dense
    expected = np.where(np.array(query.kernel) > 0, query.kernel, 0)
    assert same(
        [one for one, other in zip(back.weights, plain.weights, strict=True) if not same(one, other)], [expected]
    )


# --- versions --------------------------------------------------------------------------------------------------------


def define(version: int) -> type[kwrap.Hook]:
    """Return a hook in a version that has one state more for each target than the version before."""

    @kwrap.hook(layer_type=keras.layers.Dense, name="state_counted")
    class Counted(kwrap.Hook):
        def build(self, layer):
            for target in self.target_weights:
                for number in range(version):
                    self.add_state(target, f"state_{number}", target.shape)

        def initialize(self, layer):
            for target in self.target_weights:
                for number in range(version):
                    self.state(target, f"state_{number}").assign(target.variable * (number + 1))

        def parametrize(self, target, value):
            return value + self.state(target, "state_0")

        @classmethod
        def migrate(cls, options, from_version):
            return options

    Counted.version = version
    return Counted


def test_a_later_version_with_more_state_keeps_what_the_file_has_and_initializes_the_rest(tmp_path):
    model = network(define(1))
    for _, hook in kwrap.find_hooks(model):
        hook.variables[0].assign(np.eye(4))
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    later = network(define(2), seed=2)
    lacks = r"has no 'kernel_state_1' of hook 'state_counted' at 'a'"
    with pytest.warns(errors.HookStateWarning, match=lacks):
        later.load_weights(tmp_path / "model.weights.h5")
    with pytest.warns(errors.HookStateWarning, match=lacks):
        loaded = keras.models.load_model(tmp_path / "model.keras")
    for one in (later, loaded):
        assert same(own_weights(one), own_weights(model))
        for path in "abcd":
            assert same(states(one)[path, "state_counted", "kernel_state_0"], np.eye(4, dtype="float32"))
            doubled = values([one.get_layer(path).kernel])[0] * 2
            assert same(states(one)[path, "state_counted", "kernel_state_1"], doubled)


def test_a_file_with_state_that_a_hook_has_not_is_an_error_that_names_both(tmp_path):
    network(define(2)).save_weights(tmp_path / "model.weights.h5")
    model = network(define(1), seed=2)
    before = states(model)
    # Keras gathers the errors of all layers and shows the first.
    unknown = r"'state_counted' at 'a': the file has \['kernel_state_1'\], and the hook has"
    with pytest.raises(ValueError, match=unknown):
        model.load_weights(tmp_path / "model.weights.h5")
    assert all(same(value, before[key]) for key, value in states(model).items())


@pytest.mark.parametrize(
    ("store", "problem"),
    [
        ({"kernel_mask": np.ones((4, 3))}, r"'kernel_mask' of shape \(4, 3\), and the hook has it of shape \(4, 4\)"),
        ({"kernel_mask": np.ones((4, 4)), "other": np.ones(1)}, r"\['other'\], and the hook has \['kernel_mask'\]"),
        ({"0": np.ones((4, 4)), "1": np.ones(1)}, "2 variables where the hook has 1"),
    ],
)
def test_state_that_does_not_fit_is_a_typed_error_and_nothing_is_assigned(store, problem):
    model = network(Mask)
    (_, hook), *_ = kwrap.find_hooks(model)
    before = values(hook.variables)
    with pytest.raises(errors.HookStateError, match=problem) as caught:
        hook.load_own_variables(store)
    assert (caught.value.hook, caught.value.path) == ("specimen_mask", "a")
    assert same(values(hook.variables), before)
    assert hook.initialized


def test_a_hook_that_left_out_a_state_reads_older_files_by_a_method_of_its_own(tmp_path):
    class Fewer(Mask):
        def load_own_variables(self, store):
            super().load_own_variables({name: store[name] for name in {*store.keys()} - {"kernel_old"}})

    kwrap.hook(layer_type=keras.layers.Dense, name="state_fewer")(Fewer)
    model = network(Fewer)
    (_, hook), *_ = kwrap.find_hooks(model)
    hook.load_own_variables({"kernel_mask": np.eye(4), "kernel_old": np.ones(3)})
    assert same(values(hook.variables), [np.eye(4) > 0])


# --- the format ------------------------------------------------------------------------------------------------------


def edit(path, change) -> None:
    """Rewrite the config in a file."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    members["config.json"] = change(members["config.json"].decode()).encode()
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)


@pytest.mark.parametrize("make", [network, composites.in_graph, composites.tagger])
def test_a_file_of_a_later_format_says_to_update_kwrap_and_one_without_a_format_is_read(make, tmp_path):
    path = tmp_path / "model.keras"
    kwrap.wrap_model(make(), Mask).save(path)
    assert '"format": 1' in json.dumps(json.loads(zipfile.ZipFile(path).read("config.json")))
    edit(path, lambda config: config.replace('"format": 1', '"format": 2'))
    with pytest.raises(errors.SavedFormatError, match=r"format 2, .*up to 1: pip install --upgrade kwrap"):
        keras.models.load_model(path)
    edit(path, lambda config: config.replace('"format": 2, ', ""))
    assert kwrap.find_hooks(keras.models.load_model(path), Mask)


# --- what a layer holds under names that a Wrapper has, too ---------------------------------------------------------


def holding(attribute: str, of_one: bool) -> type[keras.layers.Layer]:
    """Return a class of layers that hold another of equal weights under `attribute`, alone or in a list."""

    @keras.saving.register_keras_serializable("tests", f"Holding_{attribute}_{of_one}")
    class Holding(keras.layers.Layer):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            inner = keras.layers.Dense(4, bias_initializer="normal", name="inner")
            setattr(self, attribute, inner if of_one else [inner])

        @property
        def inner(self) -> keras.layers.Dense:
            held = vars(self)[attribute]
            return held if of_one else held[0]

        def build(self, shape: Any) -> None:
            self.kernel = self.add_weight(shape=(4, 4), initializer="normal", name="kernel")
            self.bias = self.add_weight(shape=(4,), initializer="normal", name="bias")
            self.inner.build(shape)

        def call(self, inputs: Any) -> Any:
            return self.inner(keras.ops.matmul(inputs, self.kernel) + self.bias)

    return Holding


def around(layer: keras.Layer, seed: int, hooks: Any = None) -> keras.Model:
    """Return a model of `layer` alone, wrapped or not."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((3, 4))
    model = keras.Model(inputs, layer(inputs))
    return kwrap.wrap_model(model, hooks, where=layer.name) if hooks else model


def layers_that_clash() -> dict[str, Any]:
    names = ("layer", "hooks", "place", "bypassed", "bypass", "weight_hooks", "make_ready", "_links", "_parametrizing")
    made = {f"own {name}": holding(name, name not in ("hooks", "bypassed", "_links")) for name in names}
    hooks_alone = holding("hooks", True)
    return {
        **made,
        "own hooks, not in a list": hooks_alone,
        "TimeDistributed": lambda name: keras.layers.TimeDistributed(keras.layers.Dense(4), name=name),
        "SpectralNormalization": lambda name: keras.layers.SpectralNormalization(keras.layers.Dense(4), name=name),
        "Bidirectional": lambda name: keras.layers.Bidirectional(keras.layers.LSTM(2), name=name),
    }


CLASHES = layers_that_clash()


def datasets(path: Any) -> set[str]:
    """Return the names of what an HDF5 file holds."""
    found: list[str] = []
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    return set(found)


@kwrap.hook(layer_type=keras.layers.Layer)
class Sum(kwrap.Hook):
    """A hook on layers of any kind, with the sum of all weights for its state."""

    def build(self, layer: keras.Layer) -> None:
        self.sum = self.add_weight(shape=(), trainable=False, name="sum")

    def initialize(self, layer: keras.Layer) -> None:
        self.sum.assign(sum(float(keras.ops.sum(weight)) for weight in layer.weights))

    def call(self, call_next: Any, inputs: Any) -> Any:
        return call_next(inputs) + 0 * self.sum


@pytest.mark.filterwarnings("ignore::kwrap.errors.HookStateWarning")
@pytest.mark.parametrize("case", CLASHES)
def test_what_a_layer_holds_under_a_name_of_the_wrappers_is_in_the_file_as_without_it(case, tmp_path):
    def make(seed: int, hooks: Any = None) -> keras.Model:
        return around(CLASHES[case](name="outer"), seed, hooks)

    plain, wrapped = make(1), make(2, Sum())
    plain.save_weights(tmp_path / "plain.weights.h5")
    wrapped.save_weights(tmp_path / "wrapped.weights.h5")
    held, states_too = (datasets(tmp_path / f"{name}.weights.h5") for name in ("plain", "wrapped"))
    added = "kwrap.hooks" if "own hooks" in case else "hooks"
    assert states_too - held == {next(iter(states_too - held))}
    assert held <= states_too
    assert next(iter(states_too - held)).endswith(f"/{added}/sum/vars/sum")

    bare = make(3)
    bare.load_weights(tmp_path / "wrapped.weights.h5")
    assert same(values(bare.weights), values(wrapped.get_layer("outer").layer.weights))
    other = make(4, Sum())
    other.load_weights(tmp_path / "wrapped.weights.h5")
    assert same(values(other.weights), values(wrapped.weights))
    wrapped.load_weights(tmp_path / "plain.weights.h5")
    assert same(values(wrapped.get_layer("outer").layer.weights), values(plain.weights))
    wrapped.load_weights(tmp_path / "plain.weights.h5", skip_mismatch=True)
    assert same(values(wrapped.get_layer("outer").layer.weights), values(plain.weights))


@pytest.mark.parametrize("case", [name for name in CLASHES if name != "Bidirectional"])
def test_such_a_layer_comes_back_from_a_model_file(case, tmp_path):
    model = around(CLASHES[case](name="outer"), 1, Sum())
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    inputs = np.stack([INPUTS[:3]])
    assert same(values(loaded.variables), values(model.variables))
    assert same(loaded(inputs), model(inputs))


def test_a_hook_named_as_the_layer_in_the_layers_own_hooks_has_a_place_of_its_own(tmp_path):
    model, other = (around(CLASHES["own hooks"](name="outer"), seed, Sum(name="dense")) for seed in (1, 2))
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    assert same(values(other.variables), values(model.variables))


def test_hooks_of_a_wrapper_around_a_wrapper_are_all_in_the_file(tmp_path):
    def make(seed: int) -> keras.Model:
        keras.utils.set_random_seed(seed)
        dense = keras.layers.Dense(4, bias_initializer="normal")
        dense.build((None, 4))
        inner = kwrap.Wrapper(dense, [Sum()])
        return keras.Sequential([keras.Input((4,)), kwrap.Wrapper(inner, [Times(factor=2.0), Sum()])])

    model, other = make(1), make(2)
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    assert same(values(other.variables), values(model.variables))
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)]).load_weights(tmp_path / "model.weights.h5")


def test_state_is_saved_in_its_place_while_the_hooks_are_bypassed(tmp_path):
    model = network([Mask()])
    with kwrap.bypass(model):
        model.save_weights(tmp_path / "bypassed.weights.h5")
    model.save_weights(tmp_path / "model.weights.h5")
    assert datasets(tmp_path / "bypassed.weights.h5") == datasets(tmp_path / "model.weights.h5")


# --- what a hook holds, and hooks that look at layers inside ---------------------------------------------------------


@kwrap.hook(layer_type=keras.layers.Dense)
class Holds(kwrap.Hook):
    """A hook that holds a layer and a metric, the layer started from the wrapped layer's bias."""

    def build(self, layer: keras.Layer) -> None:
        self.inside = keras.layers.Dense(4, name="inside")
        self.inside.build((None, 4))
        self.mean = keras.metrics.Mean(name="mean")

    def initialize(self, layer: keras.Layer) -> None:
        self.inside.bias.assign(layer.bias)

    def call(self, call_next: Any, inputs: Any) -> Any:
        return self.inside(call_next(inputs))


@pytest.mark.parametrize("options", [{}, {"max_shard_size": 1e-6}])
def test_a_plain_models_file_loads_where_a_hook_holds_layers_and_its_own_file_brings_them_back(options, tmp_path):
    kind = "json" if options else "h5"
    plain, wrapped = network(), network([Holds()], seed=2, where="a")
    plain.save_weights(tmp_path / f"plain.weights.{kind}", **options)
    wrapped.save_weights(tmp_path / f"wrapped.weights.{kind}", **options)
    other = network([Holds()], seed=3, where="a")
    with pytest.warns(errors.HookStateWarning, match="no 'inside/kernel', .* of hook 'holds' at 'a'") as said:
        other.load_weights(tmp_path / f"plain.weights.{kind}")
    assert len(said) == 1
    assert same(own_weights(other), own_weights(plain))
    hook = kwrap.find_hooks(other)[0][1]
    assert same(values([hook.inside.bias]), values([other.get_layer("a").bias]))
    other.load_weights(tmp_path / f"wrapped.weights.{kind}")  # what was absent once is looked for again
    assert same(values(other.weights), values(wrapped.weights))


@kwrap.hook(layer_type=keras.layers.Layer)
class Shown(Sum):
    """A hook that gives its state, the sum of the kernel inside, for outputs."""

    def initialize(self, layer: keras.Layer) -> None:
        self.sum.assign(keras.ops.sum(layer.inner.kernel))

    def call(self, call_next: Any, inputs: Any) -> Any:
        return 0 * call_next(inputs) + self.sum


def test_initialize_runs_at_once_with_the_weights_inside_also_in_a_model_that_is_traced(tmp_path):
    plain, model = (around(holding("inner_one", True)(name="outer"), seed) for seed in (1, 2))
    plain.save_weights(tmp_path / "plain.weights.h5")
    kwrap.wrap_model(model, Shown(targets=[]).at("outer"))
    inputs = np.stack([INPUTS[:3]])
    model.predict(inputs, verbose=0)
    with pytest.warns(errors.HookStateWarning):
        model.load_weights(tmp_path / "plain.weights.h5")
    expected = np.sum(values([plain.get_layer("outer").inner.kernel])[0])
    assert model.predict(inputs, verbose=0)[0, 0, 0] == pytest.approx(expected, rel=1e-6)


def test_a_checkpoint_of_the_plain_model_leaves_the_hooks_state_until_it_is_wrapped_after(tmp_path):
    """Two ways past Keras' files, with what docs/saving.md says of them."""
    plain = network()
    plain.compile("sgd", "mse")
    path = tf.train.Checkpoint(model=plain).save(tmp_path / "plain")
    for restore in (
        lambda model: tf.train.Checkpoint(model=model).restore(path),
        lambda model: (model.compile("sgd", "mse"), model.set_state_tree(plain.get_state_tree())),
    ):
        model = network([Sum()], seed=2, where="a")
        before = states(model)
        restore(model)
        assert same(own_weights(model), own_weights(plain))
        assert same([*states(model).values()], [*before.values()])
        model = network(seed=2)
        restore(model)
        kwrap.wrap_model(model, Sum(), where="a")
        expected = sum(np.sum(one) for one in own_weights(plain)[:2])
        assert [*states(model).values()] == [pytest.approx(expected, rel=1e-5)]
