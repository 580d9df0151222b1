"""Run all benchmarks of speed and write RESULTS.md: python benchmarks/run.py [--quick] PYTHON.

Takes some fifteen minutes on two cores; the machine should do nothing else.
"""

import argparse
import os
import pathlib
import subprocess
import sys

import measure

HERE = pathlib.Path(__file__).parent
LEGACY = "prune_steps_tfmot.py"
SCRIPTS = {
    "eager.py": "An eager call",
    "mask.py": "A mask of four million weights",
    "prune_steps.py": "Training steps with pruning",
    LEGACY: "Training steps with tensorflow-model-optimization's pruning",
    "steps.py": "Training steps",
    "norm.py": "Training steps with spectral normalization",
    "lora.py": "Training steps with LoRA, beside Keras' own",
    "probe.py": "Training steps with probes",
    "wrapping.py": "Wrapping, memory, tracing",
    "size.py": "Growth with the number of layers",
    "limits.py": "Where the time goes that misses a target",
}


def output_of(python: str, script: str, options: list[str]) -> str:
    """Run a script and return what it prints; its warnings go to this process's."""
    print(f"{script} ...", file=sys.stderr, flush=True)
    command = [python, "-W", "ignore", str(HERE / script), *options]
    environment = os.environ | ({"TF_USE_LEGACY_KERAS": "1"} if script == LEGACY else {})
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def main() -> None:
    """Print the results and write them, under another name until all are there."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="in a few minutes, and write nothing")
    parser.add_argument("python", help="that of tfmot's environment")
    options = parser.parse_args()
    unfinished = HERE / "RESULTS.md.unfinished"
    parts = [
        "# Results",
        measure.environment("kwrap", "kwrap-prune", "kwrap-lora", "keras", "tensorflow"),
        (HERE / "reading.md").read_text(),
    ]
    for script, title in SCRIPTS.items():
        python = options.python if script == LEGACY else sys.executable
        parts += [f"## {title}", f"`{script}`", output_of(python, script, ["--quick"] * options.quick)]
        unfinished.write_text("\n\n".join(map(str.strip, parts)) + "\n")
    print(unfinished.read_text())
    if not options.quick:
        unfinished.replace(HERE / "RESULTS.md")


if __name__ == "__main__":
    main()
