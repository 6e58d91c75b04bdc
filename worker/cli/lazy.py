"""Groups that import a command when it is called, so that ``--help`` imports none."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

from worker.cli.text import check_texts


@dataclass(frozen=True, slots=True)
class Lazy:
    """A command that isn't imported yet: ``module:attribute``, and the first sentence of its help."""

    target: str
    help: str
    hidden: bool = False

    def load(self) -> click.Command:
        """Import the command, which refuses text that nothing can store."""
        module, _, attribute = self.target.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        check_texts(command)
        return command


class LazyGroup(click.Group):
    """Group of commands from a table of names."""

    def __init__(self, *arguments: Any, lazy: Mapping[str, Lazy], **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, in their order."""
        return sorted(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, imported now; None where there is none of this name."""
        return self.lazy[cmd_name].load() if cmd_name in self.lazy else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the names and what each command does."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self._shown()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the name of a command, or of an option of the group."""
        names = [
            CompletionItem(name, help=help_) for name, help_ in self._shown() if name.startswith(incomplete)
        ]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]

    def _shown(self) -> Iterator[tuple[str, str]]:
        return ((name, lazy.help) for name, lazy in sorted(self.lazy.items()) if not lazy.hidden)
