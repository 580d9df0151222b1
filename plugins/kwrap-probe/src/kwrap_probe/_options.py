"""What the options of the hooks may be: checked when a hook is made, before anything has changed."""

from collections.abc import Sequence
from typing import Any

from kwrap.errors import OptionValueError, listed

__all__ = ["checked_log", "checked_watch"]

# In the order in which they are shown. Those of weights have one vector for each weight.
SOURCES = ("inputs", "outputs", "output_gradients", "weights", "weight_gradients")
STATISTICS = ("mean", "spread", "minimum", "maximum", "zeros", "non_finite")


def checked_watch(watch: Any, owner: str) -> tuple[str, ...]:
    """Return the sources, each once, in their order; raise if there are none, or one is not known."""
    names = _names("watch", watch, owner)
    if unknown := [name for name in names if name not in SOURCES]:
        raise OptionValueError(owner, "watch", watch, f"has {listed(unknown)}; there are {listed(SOURCES)}")
    if not names:
        raise OptionValueError(owner, "watch", watch, f"is empty; there are {listed(SOURCES)}")
    return tuple(source for source in SOURCES if source in names)


def checked_log(log: Any, watch: Sequence[str], owner: str) -> tuple[tuple[str, str], ...]:
    """Return (source, statistic) of each entry; raise if one is not known, or its source not watched."""
    pairs = []
    for entry in _names("log", log, owner):
        source, _, statistic = entry.partition("/")
        if source not in SOURCES or statistic not in STATISTICS:
            problem = f"has {entry!r}, which is not <source>/<statistic>, of {listed(SOURCES)} and {listed(STATISTICS)}"
            raise OptionValueError(owner, "log", log, problem)
        if source not in watch:
            raise OptionValueError(
                owner, "log", log, f"has {entry!r}, and watch={tuple(watch)!r} leaves {source!r} out"
            )
        pairs.append((source, statistic))
    return tuple(dict.fromkeys(pairs))


def _names(option: str, value: Any, owner: str) -> list[str]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise OptionValueError(owner, option, value, "is not a list of names")
    return list(names)
