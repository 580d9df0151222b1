"""Run the benchmarks of speed and write RESULTS.md: python benchmarks/run.py [--quick] PYTHON [SCRIPT ...].

All of them, or the scripts that are named: the others' results stay, each with its date. The machine should do nothing
else.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import time

import measure

HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
PACKAGES = ("kwrap", "keras", "tensorflow")
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


def sections() -> dict[str, str]:
    """Return what RESULTS.md has by title, without the titles."""
    if not RESULTS.exists():
        return {}
    _, *parts = RESULTS.read_text().split("\n## ")
    return {title: text.strip() for title, _, text in (part.partition("\n") for part in parts)}


def write(found: dict[str, str]) -> None:
    """Write RESULTS.md: under another name first, so that it is whole or as it was."""
    head = ["# Results", (HERE / "reading.md").read_text()]
    parts = [f"## {title}\n\n{found.get(title, 'Not run yet.')}" for title in SCRIPTS.values()]
    unfinished = RESULTS.with_suffix(".md.unfinished")
    unfinished.write_text("\n\n".join(map(str.strip, [*head, *parts])) + "\n")
    unfinished.replace(RESULTS)


def main() -> None:
    """Run the scripts; print the results, and keep them after each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="in a few minutes, and write nothing")
    parser.add_argument("python", help="that of tfmot's environment")
    parser.add_argument("scripts", nargs="*", metavar="script", help="default: all")
    options = parser.parse_args()
    if unknown := set(options.scripts) - set(SCRIPTS):
        parser.error(f"no such scripts: {', '.join(sorted(unknown))}; there are {', '.join(SCRIPTS)}")
    for script in options.scripts or SCRIPTS:
        python = options.python if script == LEGACY else sys.executable
        start = time.monotonic()
        printed = output_of(python, script, ["--quick"] * options.quick)
        taken = f"{time.monotonic() - start:.0f} s"
        text = f"`{script}`, {taken}; {measure.environment(*PACKAGES)}\n\n{printed}"
        print(f"## {SCRIPTS[script]}\n\n{text}\n", flush=True)
        if not options.quick:
            write(sections() | {SCRIPTS[script]: text})


if __name__ == "__main__":
    main()
