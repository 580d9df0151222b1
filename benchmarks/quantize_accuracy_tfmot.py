"""The accuracy of the nets of quantize_accuracy.py when tensorflow-model-optimization quantizes them, and its steps.

TF_USE_LEGACY_KERAS=1 python benchmarks/quantize_accuracy_tfmot.py FOLDER, in an environment of its own with tensorflow,
tf_keras and tensorflow-model-optimization, after quantize_accuracy.py --save FOLDER.
"""

import pathlib
import sys

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras
from measure import interleaved, ratio
from prune_accuracy_tfmot import read


def net() -> keras.Model:
    """Return the net, untrained."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(16, 3, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(32, 3, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(10),
        ]
    )


def compiled(model: keras.Model) -> keras.Model:
    """Return the model, compiled as in quantize_accuracy.py."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    return model


def quantized(weights: list[np.ndarray], seed: int) -> keras.Model:
    """Return the net with these weights, quantized and trained for an epoch."""
    model = net()
    model.set_weights(weights)
    model = compiled(tfmot.quantization.keras.quantize_model(model))
    keras.utils.set_random_seed(100 + seed)  # the order of the batches, as in quantize_accuracy.py
    model.fit(*read("train"), batch_size=128, epochs=1, verbose=0)
    return model


def classes(content: bytes, images: np.ndarray) -> np.ndarray:
    """Return the class that a LiteRT file gives to each image."""
    interpreter = tf.lite.Interpreter(model_content=content)
    found = []
    for batch in np.split(images, 10):
        index = interpreter.get_input_details()[0]["index"]
        interpreter.resize_tensor_input(index, batch.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(index, batch)
        interpreter.invoke()
        found.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).argmax(-1))
    return np.concatenate(found)


def stepper(model: keras.Model):
    """Return a function that takes 50 steps, by the model's own compiled step, as models.py does."""
    generator = np.random.default_rng(0)
    inputs, labels = generator.random((512, 28, 28, 1), "float32"), generator.integers(10, size=512)
    data = tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(128).cache().repeat()
    compiled(model).fit(data, steps_per_epoch=2, verbose=0)
    iterator = iter(data)

    def run() -> None:
        for _ in range(50):
            logs = model.train_function(iterator)
        float(logs["loss"])

    return run


def main() -> None:
    """Print a line for each seed, and the ratio of steps."""
    images, labels = read("t10k")
    for file in sorted(pathlib.Path(sys.argv[1]).glob("float*.npz")):
        seed = int(file.stem.removeprefix("float"))
        with np.load(file) as arrays:
            model = quantized([arrays[name] for name in arrays.files], seed)
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        content = converter.convert()
        own, its = model.predict(images, batch_size=1000, verbose=0).argmax(-1), classes(content, images)
        row = (np.mean(own == labels), np.mean(its == labels), np.mean(own == its), len(content))
        print(f"{seed}: Keras {row[0]:.4f}, file {row[1]:.4f}, the same class {row[2]:.4f}, {row[3]} bytes", flush=True)
    plain = net()
    runs = {"plain": stepper(plain), "quantized": stepper(tfmot.quantization.keras.quantize_model(net()))}
    print(f"step, quantized / plain: {ratio(interleaved(runs, 15), 'quantized', 'plain')}")


if __name__ == "__main__":
    main()
