"""The public names: what has to be on an API page."""

import importlib
from collections.abc import Iterator

__all__ = ["public_names"]

MODULES = (
    "kwrap",
    "kwrap.errors",
    "kwrap.options",
    "kwrap.tables",
    "kwrap.hookspecs",
    "kwrap.testing",
    "kwrap_prune",
    "kwrap_prune.tfmot",
    "kwrap_noise",
    "kwrap_norm",
    "kwrap_lora",
    "kwrap_probe",
    "kwrap_quantize",
    "kwrap_quantize.tfmot",
)


def public_names() -> Iterator[str]:
    """Yield the full name of each public name of kwrap and its plugins."""
    for module in MODULES:
        for name in importlib.import_module(module).__all__:
            yield f"{module}.{name}"
