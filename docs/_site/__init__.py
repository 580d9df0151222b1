"""What these pages need besides Sphinx: pictures and texts made by the build, and a check of the API pages.

What is made lies in docs/_generated, which git ignores; pages take it in by `raw` and `include`.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

from _site import docstrings, drawings, gallery, names

__all__ = ["setup"]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
GENERATED = HERE.parent / "_generated"

logger = logging.getLogger(__name__)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect what is made and checked to the build."""
    app.connect("builder-inited", _generate)
    app.connect("autodoc-process-docstring", docstrings.as_restructured_text, priority=400)
    app.connect("autodoc-process-signature", docstrings.with_options)
    app.connect("env-check-consistency", _check_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _generate(app: Sphinx) -> None:
    """Make what is older than the code that it shows."""
    GENERATED.mkdir(exist_ok=True)
    (GENERATED / "next-release.txt").write_text(_next_release(), encoding="utf-8")
    for name, svg in drawings.draw_all().items():
        (GENERATED / name).write_text(svg, encoding="utf-8")
    stamp = GENERATED / "gallery.stamp"
    if not stamp.exists() or stamp.stat().st_mtime < _last_change():
        logger.info("training a small network for the gallery")
        for name, text in gallery.make_all().items():
            (GENERATED / name).write_text(text, encoding="utf-8")
        stamp.touch()


def _last_change() -> float:
    sources = [*HERE.glob("*.py"), *ROOT.glob("src/kwrap/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py")]
    return max(source.stat().st_mtime for source in sources)


def _next_release() -> str:
    """Return the changes since the last release, as towncrier drafts them."""
    towncrier = shutil.which("towncrier", path=str(Path(sys.executable).parent))
    if towncrier is None or not (ROOT / "changelog.d").is_dir():  # as in a source distribution
        return ""
    draft = subprocess.run(
        [towncrier, "build", "--draft", "--date", "not released yet"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return draft[draft.index("\n## ") :] if "\n## " in draft else draft


def _check_names(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn, and so fail the build, of each public name that is on no page."""
    domain = env.domains.python_domain
    for name in names.public_names():
        if name not in domain.objects and name not in domain.modules:
            logger.warning("the public name %s is on no API page: add it to docs/api", name)
