"""The `kwrap` command and how it finds its subcommands."""

import os
import warnings
from importlib import import_module
from typing import Any

import click

from kwrap_cli._command import debug_option, import_kwrap, print_warning, raise_bad_input

# Read when a command imports TensorFlow, whose start-up lines are no output of ours.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Name → what `kwrap --help` says of it, so that help imports no command: some import TensorFlow, which takes seconds.
COMMANDS = {
    "bench": "Measure what hooks cost: the wrapped model against the bare one.",
    "demo": "Wrap, fine-tune, save, load and unwrap a small network.",
    "diff": "Compare two models: weights, hooks and outputs.",
    "hooks": "List the hooks there are, or describe one.",
    "inspect": "Tell what a saved model's file needs; nothing in it is run.",
    "new-plugin": "Write a package with a hook, its tests and what else a plugin needs.",
    "plan": "Show which layers hooks would go on.",
    "plugins": "List the installed plugins.",
    "show": "Show a model's layers, hooks, sparsity and sizes.",
    "unwrap": "Take hooks off a model.",
    "wrap": "Put hooks on a model.",
}


class LazyGroup(click.Group):
    """A group that holds the names of its commands, and imports one from the module of its name when it is invoked.

    Plugins are asked for commands of other names.
    """

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Import the command that `args` begin with; an unknown name is an error that shows the nearest ones."""
        if args[0] not in self.commands:
            self._ask_plugins()
        name, command, rest = super().resolve_command(ctx, args)
        if name in COMMANDS:
            command = command_of(name)
        return name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what a plugin's command raises of kwrap's errors, or warns, is told as for kwrap's own."""
        try:
            with warnings.catch_warnings():
                warnings.showwarning = print_warning
                return super().invoke(ctx)
        except click.ClickException:
            raise
        except Exception as error:
            raise_bad_input(ctx, error)
            raise

    def _ask_plugins(self) -> None:
        """Let plugins add commands; only now, for it imports kwrap, with TensorFlow, and every plugin."""
        import_kwrap()
        from kwrap._plugins import plugins
        from kwrap.errors import PluginAnswerError

        try:
            plugins.answers("kwrap_commands", cli=self)
        except PluginAnswerError as error:
            raise click.ClickException(str(error)) from error


def command_of(name: str) -> click.Command:
    """Return one of kwrap's own commands, from the module of its name."""
    attribute = name.replace("-", "_")
    command: click.Command = getattr(import_module(f"kwrap_cli.{attribute}"), attribute)
    return command


@click.group(
    cls=LazyGroup,
    commands={name: click.Command(name, short_help=summary) for name, summary in COMMANDS.items()},
    params=[debug_option()],
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="kwrap")
def main() -> None:
    """Change what chosen layers of a Keras 3 model do, and take the change off again."""
