"""Run all benchmarks of speed and write RESULTS.md: python benchmarks/run.py [--quick] [PYTHON of tfmot's environment].

Takes some fifteen minutes on two cores; the machine should do nothing else.
"""

import os
import pathlib
import subprocess
import sys

from measure import environment

HERE = pathlib.Path(__file__).parent
SCRIPTS = {
    "eager.py": "An eager call",
    "steps.py": "Training steps",
    "wrapping.py": "Wrapping, memory, tracing",
    "size.py": "Growth with the number of layers",
    "mask.py": "A mask of four million weights",
    "prune_steps.py": "Training steps with pruning",
}
LEGACY = "prune_steps_tfmot.py"


def output_of(python: str, script: str, options: list[str], **variables: str) -> str:
    """Run a script and return what it prints; its warnings go to this process's."""
    print(f"{script} ...", file=sys.stderr, flush=True)
    command = [python, "-W", "ignore", str(HERE / script), *options]
    done = subprocess.run(command, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def main() -> None:
    """Print the results and write them, all or nothing."""
    options = [option for option in sys.argv[1:] if option == "--quick"]
    legacy = [option for option in sys.argv[1:] if option not in options]
    parts = ["# Results", environment("kwrap", "kwrap-prune", "keras", "tensorflow"), (HERE / "reading.md").read_text()]
    for script, title in SCRIPTS.items():
        parts += [f"## {title}", f"`{script}`", output_of(sys.executable, script, options)]
    if legacy:
        parts += [f"`{LEGACY}`", output_of(legacy[0], LEGACY, options, TF_USE_LEGACY_KERAS="1")]
    text = "\n\n".join(part.strip() for part in parts) + "\n"
    print(text)
    if not options:
        unfinished = HERE / "RESULTS.md.unfinished"
        unfinished.write_text(text)
        unfinished.replace(HERE / "RESULTS.md")


if __name__ == "__main__":
    main()
