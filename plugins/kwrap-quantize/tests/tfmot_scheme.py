"""Write tfmot_scheme.json: what tensorflow-model-optimization 0.8.1 makes of a small network, by its default scheme.

It is for an environment of its own, as tfmot works with Keras 2 only:

    pip install tensorflow-model-optimization==0.8.1 tensorflow==2.21.0 tf_keras==2.21.0
    TF_USE_LEGACY_KERAS=1 python tfmot_scheme.py
"""

import json
import pathlib

import numpy as np

STEPS = 3
IMAGES = np.random.default_rng(0).normal(size=(16, 6, 6, 2)).astype("float32")


def layers_of(layers) -> list:
    """Return the layers of the network, of either Keras."""
    return [
        layers.Conv2D(3, 3, use_bias=False, name="conv"),
        layers.BatchNormalization(name="norm"),
        layers.ReLU(name="relu"),
        layers.Conv2D(3, 2, activation="relu", name="second"),
        layers.MaxPooling2D(name="pool"),
        layers.Flatten(name="flatten"),
        layers.Dense(4, activation="relu", name="hidden"),
        layers.Dense(2, name="logits"),
    ]


def weights_of(quantized) -> dict:
    """Return the weights and ranges of a model of tfmot by their names."""
    return {
        f"{layer.name}/{weight.name.split('/')[-1].split(':')[0]}": np.asarray(weight).tolist()
        for layer in quantized.layers
        for weight in layer.weights
    }


def main() -> None:
    """Ask tfmot, and write its answers beside this file."""
    import tensorflow_model_optimization as tfmot
    import tf_keras as keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6, 6, 2)), *layers_of(keras.layers)])
    quantized = tfmot.quantization.keras.quantize_model(model)
    quantized.compile("sgd", "mse")
    quantized.fit(IMAGES, np.zeros((16, 2)), batch_size=4, epochs=2, verbose=0)
    outputs = quantized.predict(IMAGES, verbose=0).tolist()
    saved = {"tfmot": tfmot.__version__, "weights": weights_of(quantized), "outputs": outputs}
    keras.backend.clear_session()  # the names begin anew
    again = tfmot.quantization.keras.quantize_model(model)
    again.compile("sgd", "mse")
    start = weights_of(again)
    losses = [float(again.train_on_batch(batch, np.zeros((4, 2)))) for batch in IMAGES.reshape(-1, 4, 6, 6, 2)[:STEPS]]
    text = json.dumps({**saved, "start": start, "losses": losses, "end": weights_of(again)})
    pathlib.Path(__file__).with_suffix(".json").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
