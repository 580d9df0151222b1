import io
import itertools
import json
import os
import stat
import zipfile

import keras
import numpy as np
import pytest
from keras import layers

import kwrap
from kwrap.errors import AbsentHookError, DuplicateHookError, OptionValueError, SaveError
from kwrap_lora import AdapterFileError, AdapterMismatchError, LoRA, adapters, load_adapter, save_adapter

INPUTS = np.random.default_rng(0).normal(size=(2, 5, 8)).astype("float32")


def plain(units: int = 6, seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    tensor = keras.Input((5, 8))
    hidden = layers.Dense(units, name="hidden")(tensor)
    attended = layers.MultiHeadAttention(2, 3, name="attention")(hidden, hidden)
    model = keras.Model(tensor, layers.LSTM(4, name="lstm")(attended), name="net")
    model.compile("adam", "mse")
    return model


def trained(*hooks: kwrap.Hook) -> keras.Model:
    """Return a wrapped model, its adapters filled as if trained."""
    model = kwrap.wrap_model(plain(), list(hooks))
    generator = np.random.default_rng(1)
    for variable in (variable for _, hook in kwrap.find_hooks(model) for variable in hook.trainable_variables):
        variable.assign(variable + 0.3 * generator.normal(size=variable.shape))
    return model


@pytest.fixture(scope="module")
def adapted() -> keras.Model:
    return trained(
        LoRA(2, alpha=5, dropout=0.1).at(["hidden", "attention/query"]),
        LoRA(3, use_dora=True, use_rslora=True).at("lstm"),
    )


@pytest.fixture
def file(adapted, tmp_path):
    save_adapter(adapted, tmp_path / "adapter.npz")
    return tmp_path / "adapter.npz"


def predict(model: keras.Model) -> np.ndarray:
    return np.array(model(INPUTS))


# --- there and back ---------------------------------------------------------------------------------------------------


def test_a_loaded_adapter_makes_the_base_what_the_trained_model_is(adapted, file):
    model = plain()
    assert load_adapter(model, file) is model
    assert np.array_equal(predict(model), predict(adapted))
    # How A and B began, and which weights by default, is not in the file.
    kept = ("rank", "alpha", "dropout", "use_rslora", "use_dora", "phase", "name")
    found, expected = (
        [(path, {option: hook.get_config()[option] for option in kept}) for path, hook in kwrap.find_hooks(each)]
        for each in (model, adapted)
    )
    assert found == expected


def test_the_file_holds_what_was_trained_and_nothing_else(adapted, file):
    with zipfile.ZipFile(file) as archive:
        names = set(archive.namelist()) - {"adapter.json"}
    arrays = [np.load(file)[name.removesuffix(".npy")] for name in names]
    learned = [variable for _, hook in kwrap.find_hooks(adapted) for variable in hook.trainable_variables]
    assert sorted(array.tobytes() for array in arrays) == sorted(np.array(variable).tobytes() for variable in learned)
    assert file.stat().st_size < sum(array.nbytes for array in arrays) + 5000


def test_the_same_adapter_is_the_same_file(adapted, file, tmp_path):
    save_adapter(adapted, tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == file.read_bytes()


def test_several_adapters_go_to_files_and_come_onto_one_model_by_name(file, tmp_path):
    both = trained(LoRA(2, name="fr"), LoRA(1, name="de").at("hidden"))
    save_adapter(both, tmp_path / "fr.npz", "fr")
    save_adapter(both, tmp_path / "de.npz", name="de")
    model = load_adapter(load_adapter(plain(), tmp_path / "fr.npz"), tmp_path / "de.npz", name="en")
    assert adapters(model) == {"fr": 1.0, "en": 1.0}
    np.testing.assert_allclose(predict(model), predict(both), rtol=1e-6, atol=1e-6)
    with pytest.raises(OptionValueError, match=r"name=None does not say which adapter: there are \['fr', 'de'\]"):
        save_adapter(both, tmp_path / "which.npz")
    with pytest.raises(DuplicateHookError, match="would have two hooks named 'fr'"):
        load_adapter(model, tmp_path / "fr.npz")


def test_names_that_keras_counts_on_do_not_matter_in_a_model_of_the_same_structure(tmp_path):
    def unnamed():
        keras.utils.set_random_seed(0)
        return keras.Sequential([keras.Input((8,)), layers.Dense(8), layers.ReLU(), layers.Dense(8), layers.Dense(8)])

    first, second = unnamed(), unnamed()
    assert [layer.name for layer in first.layers] != [layer.name for layer in second.layers]
    kwrap.wrap_model(first, LoRA(2, b_initializer="ones"), where=[first.layers[0].name, first.layers[2].name])
    save_adapter(first, tmp_path / "first.npz")
    load_adapter(second, tmp_path / "first.npz")
    np.testing.assert_array_equal(second(INPUTS[0]), first(INPUTS[0]))


def test_in_a_larger_model_layers_are_found_by_their_paths(adapted, file):
    base = plain()
    model = keras.Model(base.input, layers.Dense(2, name="more")(base.output))
    load_adapter(model, file)
    assert np.array_equal(model.get_layer("lstm").output.shape, base.output.shape)
    np.testing.assert_array_equal(keras.Model(model.input, model.get_layer("lstm").output)(INPUTS), predict(adapted))


def test_weights_of_half_precision_and_a_rank_of_its_own_for_each_layer(tmp_path):
    dense = layers.Dense(6, dtype="bfloat16", name="dense")
    model = keras.Sequential([keras.Input((8,)), dense])
    base = kwrap.clone_model(model)
    kwrap.wrap_model(model, LoRA(2, b_initializer="ones"))
    save_adapter(model, tmp_path / "half.npz")
    load_adapter(base, tmp_path / "half.npz")
    assert keras.ops.all(base(INPUTS[0]) == model(INPUTS[0]))


def test_a_name_that_no_hook_can_have_is_an_error_and_changes_nothing(file):
    model = plain()
    for name in ("", "fr/de", 3):
        with pytest.raises(OptionValueError, match=f"load_adapter: name={name!r} is no hook's name"):
            load_adapter(model, file, name=name)
    assert not kwrap.find_hooks(model)
    assert len(model.trainable_variables) == len(plain().trainable_variables)


def test_an_adapter_that_cannot_be_filled_is_taken_off_again_and_others_stay(tmp_path, monkeypatch):
    save_adapter(kwrap.wrap_model(plain(), LoRA(2).at("hidden")), tmp_path / "hidden.npz")
    model = trained(LoRA(1).at("lstm"))  # of the same name as the file's
    before, hooks, training = predict(model), kwrap.find_hooks(model), len(model.trainable_variables)
    monkeypatch.setattr(LoRA, "parts", _no_memory)
    with pytest.raises(MemoryError):
        load_adapter(model, tmp_path / "hidden.npz")
    assert [(path, id(hook)) for path, hook in kwrap.find_hooks(model)] == [(path, id(hook)) for path, hook in hooks]
    assert len(model.trainable_variables) == training
    assert np.array_equal(predict(model), before)


def _no_memory(hook, target):
    raise MemoryError


# --- other models -----------------------------------------------------------------------------------------------------


def refused(model: keras.Model, file, **options) -> str:
    before = [np.array(variable) for variable in model.variables]
    with pytest.raises(AdapterMismatchError) as caught:
        load_adapter(model, file, **options)
    assert not kwrap.find_hooks(model)
    assert all(map(np.array_equal, before, model.variables))
    return str(caught.value)


def test_a_model_of_other_shapes_is_an_error_that_names_layer_weight_and_shapes(file):
    text = refused(plain(units=7), file)
    assert "'kernel' of 'hidden' has the shape (8, 7), and (8, 6) in the file" in text
    assert "'kernel' of 'attention/query' has the shape (7, 2, 3), and (6, 2, 3) in the file" in text


def test_a_model_without_the_layers_is_an_error_that_names_them_and_those_that_are_near(file):
    model = keras.Sequential([keras.Input((5, 8)), layers.Dense(6, name="hidden_1"), layers.ReLU(name="lstm")])
    text = refused(model, file)
    assert "there is no layer 'hidden' (near: 'hidden_1')" in text
    assert "'lstm', a ReLU, has no weight 'kernel'" in text


def test_a_base_of_other_values_is_an_error_that_names_the_layers_unless_it_is_said(adapted, file):
    text = refused(plain(seed=1), file)
    for path, weight in (("hidden", "kernel"), ("attention/query", "kernel"), ("lstm", "recurrent_kernel")):
        assert f"{weight!r} of {path!r} has other values" in text
    assert text.endswith("other_base=True.")
    model = load_adapter(plain(seed=1), file, other_base=True)
    assert np.any(predict(model) != predict(adapted))
    assert "shape" in refused(plain(units=7), file, other_base=True)
    # A word is no yes.
    with pytest.raises(OptionValueError, match="load_adapter: other_base='no' is not True or False"):
        load_adapter(plain(seed=1), file, other_base="no")


# --- bad files --------------------------------------------------------------------------------------------------------


def rewritten(file, target, change=lambda head: head, members=None, compression=zipfile.ZIP_STORED, offset=None):
    """Write the file anew, with a changed text and other members; `offset`: where its text is said to begin."""
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    head = json.loads(parts.pop("adapter.json"))
    parts |= members or {}
    with zipfile.ZipFile(target, "w", compression) as archive:
        archive.writestr("adapter.json", json.dumps(change(head)))
        for name, data in parts.items():
            archive.writestr(name, data)
        if offset is not None:
            archive.infolist()[0].header_offset = offset
    return target


def npy(array, **options) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, **options)
    return stream.getvalue()


def huge() -> bytes:
    """Return an array's header alone, of one that no memory holds."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**9)})
    return stream.getvalue()


def with_option(option, value):
    def change(head):
        head["layers"][0]["options"][option] = value
        return head

    return change


def with_second(what):
    """Return a change that gives the second layer the first one's path or position."""

    def change(head):
        head["layers"][1][what] = head["layers"][0][what]
        return head

    return change


def with_layer_of_no_weight(head):
    head["layers"].append({**head["layers"][0], "path": "more", "position": 0, "weights": []})
    return head


def without_layer(head):
    head["layers"].pop()
    return head


def with_weight(head):
    head["layers"][0]["weights"][0]["name"] = "bias"
    return head


FORGED = {
    "of no layer": ({"change": lambda head: {**head, "layers": []}}, "it is on no layer"),
    "of a layer less": ({"change": without_layer}, "it holds arrays that its text does not name"),
    "of another weight": ({"change": with_weight}, "it lacks the arrays '0/bias/a.npy'"),
    "no text": ({"change": lambda head: []}, "describes no adapter"),
    "of a later format": ({"change": lambda head: {**head, "format": 2}}, "it is of format 2"),
    "of no format": ({"change": lambda head: {**head, "format": -5}}, "it is of format -5, which there is not"),
    "of an empty name": ({"change": lambda head: {**head, "name": ""}}, "its adapter's name is empty"),
    "of a long text": ({"change": lambda head: {**head, "more": "x" * 16_000_000}}, "longer than 16,000,000 bytes"),
    "one path twice": ({"change": with_second("path")}, "two layers in its text have one path"),
    "one position twice": ({"change": with_second("position")}, "two layers in its text have one position"),
    "of no weight": ({"change": with_layer_of_no_weight}, "it is on no weight of layer 'more'"),
    "of a far place": ({"offset": 2**63 + 5}, "it is no zip file of arrays, or damaged"),
    "without layers": ({"change": lambda head: {**head, "layers": None}}, "no 'layers' where one is due"),
    "a layer that is none": ({"change": lambda head: {**head, "layers": [3]}}, "no 'options' where one is due"),
    "an option that cannot be": ({"change": with_option("rank", 0)}, "rank=0 is not an int"),
    "an option that is not known": ({"change": with_option("more", 1)}, "the options of layer 'hidden' are"),
    "an object for an option": ({"change": with_option("alpha", {"class_name": "X"})}, "no plain values"),
    "compressed": ({"compression": zipfile.ZIP_DEFLATED}, "is compressed, or there twice"),
    "a pickle": ({"members": {"0/kernel/a.npy": npy(np.array([{}]), allow_pickle=True)}}, "no array of float32"),
    "huge": ({"members": {"0/kernel/a.npy": huge()}}, "is not as long as its shape"),
    "of NaN": ({"members": {"0/kernel/a.npy": npy(np.full((8, 2), np.nan, "float32"))}}, "a.npy' has values .* NaN"),
    "infinite": ({"members": {"0/kernel/a.npy": npy(np.full((8, 2), np.inf, "float32"))}}, "values .* infinite"),
    "of whole numbers": ({"members": {"0/kernel/a.npy": npy(np.ones((8, 2), "int32"))}}, "no array of float32"),
    "no array": ({"members": {"0/kernel/a.npy": b"text"}}, "no array of float32"),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_file_is_an_error_that_says_what_is_wrong(kind, file, tmp_path):
    changes, text = FORGED[kind]
    model = plain()
    with pytest.raises(AdapterFileError, match=text):
        load_adapter(model, rewritten(file, tmp_path / "forged.npz", **changes))
    assert not kwrap.find_hooks(model)


def test_of_more_layers_than_the_model_has_only_one_more_is_looked_at(file, tmp_path):
    def change(head):
        head["layers"][2]["options"]["rank"] = 0
        return head

    forged = rewritten(file, tmp_path / "forged.npz", change)
    small = keras.Sequential([keras.Input((8,)), layers.Dense(6, name="hidden")])
    assert "there is no layer 'attention/query'" in refused(small, forged)


def test_matrices_that_do_not_fit_their_weight_are_an_error_that_names_it(file, tmp_path):
    forged = rewritten(file, tmp_path / "forged.npz", members={"0/kernel/a.npy": npy(np.ones((7, 2), "float32"))})
    assert "'a' beside 'kernel' of 'hidden' has the shape (8, 2), and (7, 2) in the file" in refused(plain(), forged)
    without = rewritten(file, tmp_path / "without.npz", with_option("use_dora", True))
    assert "'magnitude' beside 'kernel' of 'hidden' has the shape (6,), and None in the file" in refused(
        plain(), without
    )


def test_whichever_byte_of_a_file_is_damaged_the_error_says_so_or_the_file_is_as_good(file, tmp_path):
    whole = file.read_bytes()
    damaged = tmp_path / "damaged.npz"
    from kwrap_lora._file import read

    as_read = _content(read(file))
    refusals = 0
    for place, value in itertools.product(np.linspace(0, len(whole) - 1, 200).astype(int), (0, 0x55, 0xFF)):
        changed = bytearray(whole)
        changed[place] = value
        damaged.write_bytes(changed)
        try:
            assert _content(read(damaged)) == as_read
        except AdapterFileError:
            refusals += 1
    assert refusals > 300
    for length in range(0, len(whole), 97):
        damaged.write_bytes(whole[:length])
        with pytest.raises(AdapterFileError):
            read(damaged)


def _content(adapter):
    return (
        adapter.name,
        adapter.structure,
        [
            (
                layer.path,
                layer.position,
                layer.options,
                [(one.name, one.shape, one.base, _bytes(one.parts)) for one in layer.weights],
            )
            for layer in adapter.layers
        ],
    )


def _bytes(parts):
    return {part: array.tobytes() for part, array in parts.items()}


def test_a_file_that_is_no_zip_or_not_there_is_an_error(tmp_path):
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(AdapterFileError, match=r"text.npz' cannot be loaded as an adapter: it is no zip file"):
        load_adapter(plain(), tmp_path / "text.npz")
    with pytest.raises(FileNotFoundError):
        load_adapter(plain(), tmp_path / "none.npz")


# --- writing ----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_saved_is_an_error_and_leaves_what_was_there(adapted, file, tmp_path, monkeypatch):
    with pytest.raises(OptionValueError, match=r"save_adapter: path='.*adapter.h5' does not end in .npz"):
        save_adapter(adapted, tmp_path / "adapter.h5")
    with pytest.raises(AbsentHookError, match="no hook 'fr' is on model 'net'; on it are 'lora'"):
        save_adapter(adapted, file, "fr")
    with pytest.raises(AbsentHookError, match="on it are none"):
        save_adapter(plain(), file)
    with pytest.raises(SaveError, match="there is no folder"):
        save_adapter(adapted, tmp_path / "no_folder" / "adapter.npz")
    before = file.read_bytes()
    monkeypatch.setattr(os, "fsync", _full)
    with pytest.raises(SaveError, match=r"adapter.npz' was not written: no space"):
        save_adapter(adapted, file)
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == ["adapter.npz"]


def test_a_file_keeps_the_rights_of_the_one_that_it_replaces_and_comes_to_the_disk(
    adapted, file, tmp_path, monkeypatch
):
    file.chmod(0o604)  # as no usual umask has it
    mode, synced, sync = file.stat().st_mode, [], os.fsync

    def noted(descriptor):
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    save_adapter(adapted, file)
    assert file.stat().st_mode == mode
    assert synced == ([False] if os.name == "nt" else [False, True])


def _full(descriptor):
    raise OSError("no space left on device")
