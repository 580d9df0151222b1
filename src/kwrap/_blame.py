"""Whatever a hook raises is raised in its name: hook, plugin and path."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kwrap._hook import Hook
from kwrap._registry import owner_of
from kwrap.errors import HookCallError, KwrapError

__all__ = ["blame", "blaming"]


def blame(hook: Hook, during: str, error: Exception) -> HookCallError:
    """Return the error that names the hook, its plugin and its path; the caller chains it to `error`."""
    owner: Any = owner_of(type(hook))
    plugin = f"{owner.name} {owner.version}" if owner else None
    return HookCallError(hook.name, plugin, hook.path or "", during, error)


@contextmanager
def blaming(hook: Hook, during: str) -> Iterator[None]:
    """Raise what a hook raises inside as HookCallError; kwrap's own errors say it already."""
    try:
        yield
    except KwrapError:
        raise
    except Exception as error:
        raise blame(hook, during, error) from error
