"""What the commands share: bad input as one line with exit code 2, `--debug`, and options that several have."""

import importlib
import logging
import os
import re
import sys
import tempfile
import textwrap
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from kwrap_files import printable

__all__ = [
    "BadInput",
    "Command",
    "ModelCommand",
    "as_json",
    "debug_option",
    "force",
    "hooks_and_places",
    "import_kwrap",
    "imports",
    "inputs_file",
    "model_file",
    "one_line",
    "output_file",
    "print_warning",
    "raise_bad_input",
    "short_line",
]

# Keras prints the first sentence of some errors so.
_BOLD = re.compile(r"\x1b\[[01]m")
# An array as NumPy and TensorFlow print it, past a few numbers.
_VALUES = re.compile(r"\[[-+.,\deinaf\s\[\]]{40,}\]")
# Of an `.h5` file's model: that it is not compiled, or has no metrics before it is evaluated.
_UNASKED = ("No training configuration found", "the compiled metrics have yet to be built")

Function = TypeVar("Function", bound=Callable[..., Any])


class BadInput(click.ClickException):
    """What was given cannot be used; the message says why, and the way out."""

    exit_code = 2


class Command(click.Command):
    """A command that tells bad input in one line and exits with 2; `--debug` shows the traceback above it.

    Bad input is a `BadInput`, an error of `kwrap.errors`, or one of the operating system. Any other error is a fault of
    kwrap's own, and stays a traceback. Warnings are one line each, on stderr.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(debug_option())

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            with warnings.catch_warnings():
                warnings.showwarning = print_warning
                return super().invoke(ctx)
        except Exception as error:
            raise_bad_input(ctx, error)
            raise


class ModelCommand(Command):
    """A command that works on models, and so imports TensorFlow, without its lines about itself."""

    def invoke(self, ctx: click.Context) -> Any:
        """Import kwrap, then run the command."""
        import_kwrap()
        with _logged_as_warnings("absl"):
            return super().invoke(ctx)


@contextmanager
def _logged_as_warnings(name: str) -> Iterator[None]:
    """Print what a logger says as our warnings are: Keras logs some of its own, past `warnings` and `sys.stderr`."""
    logger, lines = logging.getLogger(name), _WarningLines(logging.WARNING)
    propagate, logger.propagate = logger.propagate, False
    handlers, logger.handlers = logger.handlers, [lines]
    try:
        yield
    finally:
        logger.propagate, logger.handlers = propagate, handlers


class _WarningLines(logging.Handler):
    """Prints records as `print_warning` does, but for those on what no command asks of a model."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one."""
        said = record.getMessage()
        if not any(unasked in said for unasked in _UNASKED):
            print_warning(said)


def import_kwrap() -> None:
    """Import kwrap, if nobody has; what is written on stderr meanwhile is shown only if that fails.

    TensorFlow's C++ writes there before it reads TF_CPP_MIN_LOG_LEVEL, past Python's `sys.stderr`.
    """
    if "kwrap" in sys.modules:
        return
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            importlib.import_module("kwrap")
        except BaseException:
            written.seek(0)
            os.write(stderr, written.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)


def debug_option() -> click.Option:
    """Return the option `--debug`, whose value `raise_bad_input` finds in the context."""
    return click.Option(
        ["--debug"], is_flag=True, expose_value=False, callback=_remember, help="Show the traceback of an error."
    )


def raise_bad_input(ctx: click.Context, error: Exception) -> None:
    """Raise `error` as a `BadInput` of one line if it is bad input; with `--debug`, print its traceback before."""
    if isinstance(error, (BadInput, OSError, *_errors_of_kwrap())):
        if ctx.meta.get("kwrap.debug"):
            traceback.print_exception(error)
        raise BadInput(one_line(error)) from error


def one_line(text: object) -> str:
    """Return a text as one line that commands no terminal: files' names may be in it."""
    return printable(" ".join(_BOLD.sub("", str(text)).split()))


def short_line(error: Exception) -> str:
    """Return what an error of Keras says, in one line, without the values of the tensors it was about."""
    said, _, _ = str(error).partition("Arguments received by")
    return textwrap.shorten(one_line(_VALUES.sub("[...]", said)), 300, placeholder=" ...")


def print_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print a warning as one line on stderr; what `warnings.showwarning` may be."""
    click.echo(f"Warning: {one_line(message)}", err=True)


def _remember(context: click.Context, _: click.Parameter, debug: bool) -> None:
    context.meta["kwrap.debug"] = debug or context.meta.get("kwrap.debug", False)


def _errors_of_kwrap() -> tuple[type[Exception], ...]:
    """Return the base of kwrap's errors; none while kwrap is not imported, for importing it takes seconds."""
    errors = sys.modules.get("kwrap.errors")
    return (errors.KwrapError,) if errors else ()


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
force = click.option("--force", is_flag=True, help="Overwrite what is there.")
imports = click.option(
    "--import",
    "modules",
    multiple=True,
    metavar="MODULE",
    help="Import a module first that registers classes or hooks of your own; also from this folder. Repeatable.",
)
inputs_file = click.option(
    "--input",
    "inputs",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Inputs: .npy, or .npz with an array for each input by its name. Default: random.",
)
model_file = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
output_file = click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The .keras file to write."
)
_options_of_hooks = (
    click.option(
        "--hook",
        "hooks",
        multiple=True,
        metavar="NAME[:OPTION=VALUE,...][@WHERE,...]",
        help="A hook to put on, e.g. prune:schedule.target_sparsity=0.8@conv*. Repeatable, outermost first.",
    ),
    click.option(
        "--where",
        multiple=True,
        metavar="WHERE",
        help="The layers of hooks without an @: a pattern on the path, e.g. 'block_*/**', or a class of Keras, e.g. "
        "keras.layers.Dense. Repeatable.",
    ),
    click.option("--exclude", multiple=True, metavar="WHERE", help="The layers to leave out. Repeatable."),
)


def hooks_and_places(function: Function) -> Function:
    """Add `--hook`, `--where` and `--exclude` to a command."""
    for option in reversed(_options_of_hooks):
        function = option(function)
    return function
