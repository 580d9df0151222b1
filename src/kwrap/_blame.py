"""Whatever a hook raises is raised in its name: hook, plugin and path."""

from collections.abc import Iterator
from contextlib import contextmanager

from kwrap._hook import Hook
from kwrap._registry import owner_of
from kwrap.errors import HookCallError, KwrapError

__all__ = ["blame", "blaming"]


def blame(hook: Hook, during: str, error: Exception) -> HookCallError:
    """Return the error that names the hook, its plugin and its path; the caller chains it to `error`."""
    owner = owner_of(type(hook))
    return HookCallError(hook.name, owner.origin if owner else None, hook.path or "", during, error)


@contextmanager
def blaming(hook: Hook, during: str) -> Iterator[None]:
    """Raise what a hook raises inside as HookCallError; kwrap's own errors say it already."""
    try:
        yield
    except KwrapError:
        raise
    except Exception as error:
        raise blame(hook, during, error) from error
