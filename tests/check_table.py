"""The list of checks in docs/testing-hooks.md.

To write it anew: python -m tests.check_table
"""

import re
from pathlib import Path

from kwrap.testing import CHECKS

PAGE = Path(__file__).parent.parent / "docs" / "testing-hooks.md"

TITLES = {
    "options": "Definition and options",
    "calls": "Calls",
    "graphs": "Graphs, XLA and dtypes",
    "weights": "Weights, and what is left",
    "training": "Training",
    "saving": "Saving and loading",
    "places": "Places, and other hooks",
}

_LIST = re.compile(r"(?<=\n## The checks\n\n).*?(?=\n## |\Z)", re.DOTALL)


def tables() -> str:
    """Return the list as Markdown: a heading and a table for each subject."""
    parts = []
    for subject, title in TITLES.items():
        rows = [f"| `{c.name}` | {c.promise} | `{c.where}` |" for c in CHECKS.values() if c.subject == subject]
        parts.append(
            "\n".join([f"### {title}\n", "| check | what the contract says | where |", "|---|---|---|", *rows])
        )
    return "\n\n".join(parts) + "\n"


def listed() -> str:
    """Return the list as the page has it."""
    found = _LIST.search(PAGE.read_text())
    return found.group() if found else ""


if __name__ == "__main__":
    PAGE.write_text(_LIST.sub(lambda _: tables(), PAGE.read_text()))
