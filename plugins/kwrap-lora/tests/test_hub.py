"""LoRA on a backbone of KerasHub, by one pattern."""

import keras
import numpy as np

import kwrap
from kwrap_lora import LoRA, load_adapter, save_adapter

WORDS = np.random.default_rng(0).integers(0, 12, size=(2, 6))
INPUTS = {"token_ids": WORDS, "segment_ids": np.zeros((2, 6), "int32"), "padding_mask": np.ones((2, 6), "int32")}


def test_one_pattern_puts_it_on_every_query_and_value_of_a_backbone(tmp_path):
    from keras_hub import models

    def bert() -> keras.Model:
        keras.utils.set_random_seed(3)
        sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 12, "max_sequence_length": 6}
        return models.BertTextClassifier(models.BertBackbone(vocabulary_size=12, **sizes), 2)

    model = bert()
    model.trainable = False
    kwrap.wrap_model(model, LoRA(rank=2), where=["**/query", "**/value"])
    paths = [path for path, _ in kwrap.find_hooks(model)]
    assert [path.rpartition("/")[2] for path in paths] == ["query", "value"] * 2
    # 8 inputs to 2 heads of 4.
    assert sum(int(np.prod(each.shape)) for each in model.trainable_variables) == 4 * (8 * 2 + 2 * 8)
    frozen = [each for each in model.non_trainable_variables if "seed_generator" not in each.path]
    base = [np.array(each) for each in frozen]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.1), loss)
    model.fit(INPUTS, np.array([0, 1]), epochs=2, shuffle=False, verbose=0)
    assert all(map(np.array_equal, base, frozen))
    save_adapter(model, tmp_path / "adapter.npz")
    other = load_adapter(bert(), tmp_path / "adapter.npz")
    np.testing.assert_array_equal(other.predict(INPUTS, verbose=0), model.predict(INPUTS, verbose=0))
    kwrap.unwrap_model(other)
    np.testing.assert_allclose(other.predict(INPUTS, verbose=0), model.predict(INPUTS, verbose=0), rtol=1e-5, atol=1e-6)
