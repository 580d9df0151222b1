"""Train and prune a network in several processes, which may be on several machines.

TF_CONFIG='{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
python train_on_workers.py FOLDER

Each process runs this with its own index. FOLDER is one that all see: the first worker writes checkpoints there, and
all start from the last one.
"""

import os
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

import kwrap
from kwrap_prune import PolynomialDecay, Prune

STEPS, BATCH, EVERY = 12, 8, 4  # updates, examples of all workers together, updates between checkpoints


def network() -> keras.Model:
    """Return a compiled network whose layers are pruned."""
    keras.utils.set_random_seed(0)  # the same first weights on all workers
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(8, activation="relu", name="hidden"), keras.layers.Dense(3)]
    )
    kwrap.wrap_model(model, Prune(PolynomialDecay(0.0, 0.75, begin_step=0, end_step=10, frequency=2)))
    model.compile(keras.optimizers.Adam(0.01))
    return model


def examples() -> tf.data.Dataset:
    """Return the batches of all workers together, from the first on."""
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(STEPS * BATCH, 6)).astype("float32")
    labels = generator.integers(3, size=STEPS * BATCH)
    return tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(BATCH)


def train(folder: pathlib.Path) -> keras.Model:
    """Train from the last checkpoint to the end."""
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    cluster = strategy.cluster_resolver
    is_first = cluster.task_id in (None, 0)
    checkpoint = folder / "checkpoint.keras"
    with strategy.scope():
        model = keras.models.load_model(checkpoint) if checkpoint.exists() else network()
        model.optimizer.build(model.trainable_variables)

    def step_of_replica(inputs: tf.Tensor, labels: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            losses = keras.losses.sparse_categorical_crossentropy(
                labels, model(inputs, training=True), from_logits=True
            )
            loss = tf.reduce_sum(losses) / BATCH  # gradients of all workers are added
        variables = model.trainable_variables
        model.optimizer.apply(tape.gradient(loss, variables), variables)

    step = tf.function(lambda batch: strategy.run(step_of_replica, args=batch))
    done = int(keras.ops.convert_to_numpy(model.optimizer.iterations))
    for batch in strategy.experimental_distribute_dataset(examples().skip(done)):
        step(batch)
        done += 1
        if done % EVERY == 0 and is_first:
            model.save(folder / "unfinished.keras")
            (folder / "unfinished.keras").replace(checkpoint)
        if os.environ.get("KILLED_AT") == f"{cluster.task_id} {done}":  # a failure, to see what comes of it
            os.kill(os.getpid(), 9)
    return model


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    model = train(folder)
    worker = tf.distribute.cluster_resolver.TFConfigClusterResolver().task_id or 0
    np.savez(folder / f"worker_{worker}.npz", *[keras.ops.convert_to_numpy(weight) for weight in model.weights])
