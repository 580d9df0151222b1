"""Write tfmot_schedules.json: what the schedules of tensorflow-model-optimization 0.8.1 say at each step.

It is for an environment of its own, as tfmot works with Keras 2 only:

    pip install tensorflow-model-optimization==0.8.1 tensorflow==2.21.0 tf_keras==2.21.0
    TF_USE_LEGACY_KERAS=1 python tfmot_schedules.py
"""

import json
import pathlib

CASES = [
    ("ConstantSparsity", {"target_sparsity": 0.5, "begin_step": 0}),
    ("ConstantSparsity", {"target_sparsity": 0.8, "begin_step": 7, "end_step": 27, "frequency": 10}),
    ("ConstantSparsity", {"target_sparsity": 0.999, "begin_step": 3, "end_step": 3, "frequency": 1}),
    ("PolynomialDecay", {"initial_sparsity": 0.0, "final_sparsity": 0.8, "begin_step": 0, "end_step": 100}),
    (
        "PolynomialDecay",
        {"initial_sparsity": 0.2, "final_sparsity": 0.95, "begin_step": 10, "end_step": 90, "frequency": 7},
    ),
    (
        "PolynomialDecay",
        {
            "initial_sparsity": 0.9,
            "final_sparsity": 0.1,
            "begin_step": 5,
            "end_step": 6,
            "power": 1,
            "frequency": 1,
        },
    ),
    (
        "PolynomialDecay",
        {
            "initial_sparsity": 0.1,
            "final_sparsity": 0.6,
            "begin_step": 20,
            "end_step": 80,
            "power": 2.5,
            "frequency": 20,
        },
    ),
]
STEPS = range(121)


def main() -> None:
    """Ask tfmot, and write its answers beside this file."""
    import tensorflow_model_optimization as tfmot

    rows = []
    for name, options in CASES:
        schedule = getattr(tfmot.sparsity.keras, name)(**options)
        answers = [schedule(step) for step in STEPS]
        rows.append(
            {
                "schedule": name,
                "options": options,
                "due": [step for step, (due, _) in enumerate(answers) if due],
                "sparsity": [float(f"{float(sparsity):.7g}") for _, sparsity in answers],  # float32 has no more
            }
        )
    text = json.dumps({"tfmot": tfmot.__version__, "rows": rows})
    pathlib.Path(__file__).with_suffix(".json").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
