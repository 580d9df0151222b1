"""What LiteRT makes of quantized models of keras.applications: their operators, and whether it agrees with Keras.

    .venv/bin/python benchmarks/quantize_zoo.py [name ...]

Small images, random weights, a few steps of training, and ranges from a calibration after it: what is shown is that
the whole way works and which operators are integers, not how good the models are. Minutes for each.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from kwrap_quantize import calibrate, quantize, ranges, to_litert

SIZE, COUNT, CLASSES = 32, 32, 10

Make = Callable[..., keras.Model]
ZOO: dict[str, tuple[Make, dict[str, float]]] = {
    "MobileNetV2": (keras.applications.MobileNetV2, {"alpha": 0.35}),
    "MobileNetV3Small": (keras.applications.MobileNetV3Small, {"alpha": 0.75}),
    "EfficientNetB0": (keras.applications.EfficientNetB0, {}),
    "ResNet50V2": (keras.applications.ResNet50V2, {}),
}


def row(name: str) -> list[str]:
    """Return a row of the table: the model, how much is int8, the file's size, how it compares, seconds."""
    start = time.perf_counter()
    keras.utils.set_random_seed(0)
    make, options = ZOO[name]
    base = make(input_shape=(SIZE, SIZE, 3), include_top=False, pooling="avg", weights=None, **options)
    model = keras.Model(base.input, keras.layers.Dense(CLASSES, name="logits")(base.output))
    generator = np.random.default_rng(0)
    images = generator.uniform(0, 255, size=(COUNT, SIZE, SIZE, 3)).astype("float32")
    plan = quantize(model)
    plan.apply()
    model.compile(keras.optimizers.SGD(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(images, generator.integers(0, CLASSES, COUNT), batch_size=8, verbose=0)
    calibrate(model, images)
    with tempfile.TemporaryDirectory() as folder:
        report = to_litert(model, Path(folder) / "model.tflite", validate=images)
    print(report, *plan.skipped, sep="\n")
    steps = {(one.path, one.of): one.step for one in ranges(model).tensors}
    inner = sum(count for kind, dtypes in report.counts.items() if kind != "DEQUANTIZE" for count in dtypes.values())
    assert report.comparison is not None
    return [
        name,
        str(inner),
        str(len(report.left_in_float)),
        f"{model.count_params() * 4:,}",
        f"{report.size:,}",
        f"{report.comparison.largest_difference / steps['logits', 'outputs']:.1f}",
        f"{time.perf_counter() - start:.0f}",
    ]


def main() -> None:
    """Print the table."""
    head = ["model", "operators", "in float", "bytes of weights", "bytes of the file", "largest difference, steps", "s"]
    rows = [row(name) for name in sys.argv[1:] or ZOO]
    for cells in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
