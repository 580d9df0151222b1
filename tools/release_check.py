"""What has to hold before a release: `make release-check`. Builds all packages into dist/, installs and runs them.

Wheels are built from the sdists, installed into a fresh environment with the versions of constraints.txt, and run from
a folder outside the checkout. Each problem that is found is a line; any makes the exit code 1.
"""

import email.message
import email.parser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import venv
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from packaging.requirements import Requirement
from trove_classifiers import classifiers

ROOT = Path(__file__).resolve().parents[1]
PLUGINS = ("lora", "noise", "norm", "probe", "prune", "quantize")
PACKAGES = [ROOT, *(ROOT / "plugins" / f"kwrap-{name}" for name in PLUGINS)]
FRAGMENT = re.compile(r"(\d+|\+[a-z0-9-]+)\.(added|changed|fixed|removed)(\.\d+)?\.md")

SMOKE_TEST = """
import sys
import keras
import numpy as np
import kwrap, kwrap_cli, kwrap_files, kwrap_lora, kwrap_noise, kwrap_norm, kwrap_probe, kwrap_prune, kwrap_quantize

plugins = (kwrap_lora, kwrap_noise, kwrap_norm, kwrap_probe, kwrap_prune, kwrap_quantize)
for module in (kwrap, kwrap_cli, kwrap_files, *plugins):
    assert module.__file__.startswith(sys.prefix), module.__file__
found = {plugin.name for plugin in kwrap.plugins.list()}
assert found >= {"lora", "noise", "norm", "probe", "prune", "quantize"}, found
model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, name="first"), keras.layers.Dense(2, name="last")])
model.compile("sgd", "mse")
x, y = np.ones((4, 8), "float32"), np.ones((4, 2), "float32")
kwrap.wrap_model(model, ["prune", kwrap.use("weight_noise").at("first")])
model.fit(x, y, verbose=0)
before = model.predict(x, verbose=0)
model.save("wrapped.keras")
loaded = keras.models.load_model("wrapped.keras")
assert np.array_equal(loaded.predict(x, verbose=0), before)
kwrap.unwrap_model(loaded)
assert not kwrap.find_hooks(loaded)
assert np.array_equal(loaded.predict(x, verbose=0), before)
assert np.mean(np.array(loaded.get_layer("first").kernel) == 0) == 0.5
"""


@dataclass(frozen=True)
class Package:
    """A package of this repository: its folder, and the `project` table of its pyproject.toml."""

    folder: Path
    project: dict[str, Any]

    @property
    def name(self) -> str:
        """The distribution's name."""
        return str(self.project["name"])

    @property
    def stem(self) -> str:
        """The first part of its files' names."""
        return f"{self.name.replace('-', '_')}-{self.project['version']}"

    def sources(self) -> set[str]:
        """Return the files that git knows under src/, as a wheel names them."""
        listed = run(["git", "-C", self.folder, "ls-files", "src"]).stdout
        return {line.removeprefix("src/") for line in listed.splitlines()}


def run(command: list[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command and return what it printed; end with its last lines if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        end = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        said = " ".join(part for part in map(str, command) if "\n" not in part)
        raise SystemExit(f"{said} ended with {done.returncode}:\n{end}")
    return done


def package(folder: Path) -> Package:
    """Return the package in `folder`."""
    return Package(folder, tomllib.loads((folder / "pyproject.toml").read_text())["project"])


def version_problems(packages: list[Package]) -> Iterator[str]:
    """Yield where versions disagree: among the packages, and with what the plugins require of kwrap."""
    core = packages[0].project["version"]
    for one in packages[1:]:
        if one.project["version"] != core:
            yield f"{one.name} is {one.project['version']}, kwrap is {core}"
        needs = [Requirement(text) for text in one.project["dependencies"]]
        for requirement in needs:
            if requirement.name == "kwrap" and core not in requirement.specifier:
                yield f"{one.name} requires {requirement}, kwrap is {core}"


def changelog_problems(folder: Path, version: str, changelog: str) -> Iterator[str]:
    """Yield fragments of wrong names or without text, and a release that the changelog would say nothing of."""
    fragments = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    for path in fragments:
        if not FRAGMENT.fullmatch(path.name):
            yield f"{path.name} is no name of a fragment, as 12.added.md or +name.fixed.2.md"
        elif not path.read_text().strip():
            yield f"{path.name} is empty"
    released = re.search(rf"^## {re.escape(version)} ", changelog, re.MULTILINE) is not None
    if released and fragments:
        yield f"CHANGELOG.md has {version}, and yet {len(fragments)} fragments are left in {folder.name}/"
    if not released and not fragments:
        yield f"nothing in {folder.name}/, and CHANGELOG.md has no {version}"


def wheel_problems(names: Iterable[str], sources: set[str]) -> Iterator[str]:
    """Yield what a wheel has too much, as tests, or too little, as py.typed; `sources` is what it should have."""
    found = {name for name in names if ".dist-info/" not in name}
    yield from (f"lacks {name}" for name in sorted(sources - found))
    yield from (f"has {name}, which is no source of the package" for name in sorted(found - sources))
    for top in sorted({name.partition("/")[0] for name in sources}):
        if f"{top}/py.typed" not in found:
            yield f"lacks {top}/py.typed, so that type checkers ignore its types"
        if top in {"tests", "test", "docs"}:
            yield f"would install {top}/ beside the package"


def metadata_problems(metadata: email.message.Message, project: dict[str, Any], readme: str) -> Iterator[str]:
    """Yield where a wheel's metadata is not what pyproject.toml and the README say, or an index would refuse it."""
    expected = {
        "Name": project["name"],
        "Version": project["version"],
        "Summary": project["description"],
        "License-Expression": project["license"],
        "Description-Content-Type": "text/markdown",
    }
    for field, value in expected.items():
        if metadata[field] != value:
            yield f"{field} is {metadata[field]!r}, not {value!r}"
    if metadata.get_all("License-File") != project["license-files"]:
        yield f"license files are {metadata.get_all('License-File')}, not {project['license-files']}"
    yield from (f"unknown classifier {one!r}" for one in metadata.get_all("Classifier", []) if one not in classifiers)
    if metadata.get_all("Classifier", []) != project["classifiers"]:
        yield "classifiers are not those of pyproject.toml"
    description = metadata.get_payload()
    if str(description).strip() != readme.strip():
        yield "the description is not README.md"
    yield from readme_problems(readme)


def readme_problems(readme: str) -> Iterator[str]:
    """Yield what would look wrong on an index's page: no title, an open code block, links that lead nowhere there."""
    tokens = MarkdownIt("commonmark").enable("table").parse(readme)
    if not tokens or (tokens[0].type, tokens[0].tag) != ("heading_open", "h1"):
        yield "README.md does not begin with a title"
    if readme.count("\n```") % 2:
        yield "README.md has a code block that does not end"
    for token in (child for block in tokens for child in block.children or []):
        target = str(token.attrGet("href") or token.attrGet("src") or "")
        if target and not re.match(r"https://|mailto:|#", target):
            yield f"README.md has the relative link {target!r}, dead outside the repository"


def entry_point_problems(text: str, project: dict[str, Any]) -> Iterator[str]:
    """Yield entry points that a wheel lacks."""
    groups = {"console_scripts": project.get("scripts", {}), **project.get("entry-points", {})}
    for group, points in groups.items():
        for name, value in points.items():
            if not re.search(rf"^{re.escape(name)} = {re.escape(value)}$", text, re.MULTILINE):
                yield f"lacks the entry point {name} = {value} of {group}"


def built_problems(one: Package, dist: Path) -> Iterator[str]:
    """Yield what is wrong with the wheel and the sdist of a package in `dist`."""
    with zipfile.ZipFile(dist / f"{one.stem}-py3-none-any.whl") as wheel:
        info = f"{one.stem}.dist-info"
        names = wheel.namelist()
        readme = (one.folder / "README.md").read_text()
        metadata = email.parser.Parser().parsestr(wheel.read(f"{info}/METADATA").decode())
        yield from wheel_problems(names, one.sources())
        yield from metadata_problems(metadata, one.project, readme)
        points = wheel.read(f"{info}/entry_points.txt").decode() if f"{info}/entry_points.txt" in names else ""
        yield from entry_point_problems(points, one.project)
        yield from (f"lacks {file}" for file in one.project["license-files"] if f"{info}/licenses/{file}" not in names)
    with tarfile.open(dist / f"{one.stem}.tar.gz") as sdist:
        held = {name.partition("/")[2] for name in sdist.getnames()}
    needed = {"LICENSE", "PKG-INFO", "README.md", "pyproject.toml", *(f"src/{name}" for name in one.sources())}
    yield from (f"the sdist lacks {name}" for name in sorted(needed - held))


def build(packages: list[Package], dist: Path) -> None:
    """Build an sdist of each package, and its wheel from that, into an empty `dist`."""
    shutil.rmtree(dist, ignore_errors=True)
    for one in packages:
        run([sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, one.folder])


def run_installed(packages: list[Package], dist: Path) -> None:
    """Install the wheels into a fresh environment and use them from a folder outside the checkout."""
    left_out = ("PYTHONPATH", "VIRTUAL_ENV", "KWRAP_PLUGINS", "KWRAP_BLOCK")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    with tempfile.TemporaryDirectory() as folder:
        binaries = Path(folder) / "venv" / "bin"
        options: dict[str, Any] = {"cwd": folder, "env": environment}
        # The files themselves: by name alone, pip would take a package of that name from an index.
        wheels = [f"{dist / one.stem}-py3-none-any.whl{'[demo]' if one.folder == ROOT else ''}" for one in packages]
        pip: list[str | Path] = [binaries / "python", "-m", "pip"]
        with step("installed into a fresh environment"):
            venv.create(Path(folder) / "venv", with_pip=True, symlinks=True)
            run([*pip, "install", "-q", "--constraint", ROOT / "constraints.txt", *wheels], **options)
            run([*pip, "check"], **options)
        with step("smoke test from outside the checkout"):
            run([binaries / "python", "-c", SMOKE_TEST], **options)
            listed = run([binaries / "kwrap", "plugins"], **options).stdout
            if not all(name in listed for name in ("prune", "noise")):
                raise SystemExit(f"kwrap plugins lists:\n{listed}")
        with step("kwrap demo"):
            print(run([binaries / "kwrap", "demo"], **options).stdout.splitlines()[-1])


@contextmanager
def step(what: str) -> Iterator[None]:
    """Print how long something took, if it succeeded."""
    start = time.monotonic()
    yield
    print(f"ok: {what} ({time.monotonic() - start:.0f} s)", flush=True)


def main() -> int:
    """Check everything; return the exit code."""
    packages, dist = [package(folder) for folder in PACKAGES], ROOT / "dist"
    version = packages[0].project["version"]
    problems = [f"versions: {text}" for text in version_problems(packages)]
    changelog = (ROOT / "CHANGELOG.md").read_text()
    problems += [f"changelog: {text}" for text in changelog_problems(ROOT / "changelog.d", version, changelog)]
    changed = run(["git", "-C", ROOT, "status", "--porcelain"]).stdout.splitlines()
    problems += [f"git: not committed: {line}" for line in changed]
    with step("built: " + ", ".join(one.stem for one in packages)):
        build(packages, dist)
    problems += [f"{one.name}: {text}" for one in packages for text in built_problems(one, dist)]
    print("\n".join(problems) or "ok: versions, changelog, contents and metadata", flush=True)
    run_installed(packages, dist)
    print(f"kwrap {version} is {'not ready' if problems else 'ready: what was checked is in dist/'}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
