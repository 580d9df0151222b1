"""The command line of kwrap: one module a command, imported when that command is invoked."""

from kwrap_cli._group import main

__all__ = ["main"]
