"""How long a mask of four million weights takes, beside sorting: python benchmarks/mask.py [--quick]."""

import sys
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from measure import Ratio, interleaved, ratio, table

from kwrap_prune import lowest, lowest_of_groups

SIZE = 2048 * 2048
FASTER = 40


def by_selection(scores: tf.Tensor) -> tf.Tensor:
    """Return which half is lowest, as kwrap-prune does."""
    return lowest(scores, SIZE // 2)


def by_threshold(scores: tf.Tensor) -> tf.Tensor:
    """Return which are below the middle of the sorted ones: not exact where there are ties."""
    return scores < tf.sort(scores)[SIZE // 2]


def by_sorting(scores: tf.Tensor) -> tf.Tensor:
    """Return which half is lowest, exactly, from a stable sort."""
    chosen = tf.argsort(scores, stable=True)[: SIZE // 2]
    return tf.scatter_nd(chosen[:, tf.newaxis], tf.ones([SIZE // 2], tf.bool), [SIZE])


def in_groups(scores: tf.Tensor) -> tf.Tensor:
    """Return which two of each four are lowest."""
    return lowest_of_groups(scores, 4, 2)


def in_sorted_groups(scores: tf.Tensor) -> tf.Tensor:
    """Return the same from stable sorts of the groups."""
    groups = tf.reshape(scores, [-1, 4])
    return tf.reshape(tf.argsort(tf.argsort(groups, stable=True), stable=True) < 2, [-1])


WAYS = {each.__name__: each for each in (by_selection, by_threshold, by_sorting, in_groups, in_sorted_groups)}


def compiled(function: Callable, scores: tf.Tensor, jit_compile: bool) -> Callable[[], tf.Tensor]:
    """Return a call of the function, compiled."""
    run = tf.function(function, jit_compile=jit_compile)
    return lambda: run(scores)[-1].numpy()


def check(scores: tf.Tensor) -> None:
    """Raise unless the selection is that of NumPy's stable sort."""
    expected = np.zeros(SIZE, bool)
    expected[np.argsort(scores.numpy().astype("float32"), kind="stable")[: SIZE // 2]] = True
    np.testing.assert_array_equal(by_selection(scores), expected)


def main() -> None:
    """Print the table."""
    weights = np.abs(np.random.default_rng(0).normal(size=SIZE)).astype("float32")
    rows = []
    for dtype in ("float32", "float16", "bfloat16"):
        scores = tf.cast(weights, dtype)
        check(scores)
        for jit_compile in (False, True):
            # TensorFlow sorts no float16 under XLA on CPUs, and what takes seconds is not asked of XLA twice.
            names = list(WAYS) if dtype == "float32" else ["by_selection", "in_groups"]
            runs = {name: compiled(WAYS[name], scores, jit_compile) for name in names}
            times = interleaved(runs, repeats=2 if "--quick" in sys.argv else 7)
            cells = [f"{1e3 * min(times[name]):.1f}" if name in times else "" for name in WAYS]
            faster: Ratio | str = ratio(times, "by_sorting", "by_selection") if dtype == "float32" else ""
            rows.append([dtype, "yes" if jit_compile else "no", *cells, str(faster)])
    head = [name.replace("_", " ") for name in WAYS]
    print(f"Milliseconds, the best; of the last column, ≥ {FASTER} is the target. Exact: checked against NumPy.\n")
    print(table(["dtype", "XLA", *head, "sorting / selection"], rows))


if __name__ == "__main__":
    main()
