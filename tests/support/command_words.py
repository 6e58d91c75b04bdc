"""Words of a command, parsed as ``billing-worker`` parses them."""

from collections.abc import Sequence

import click

from worker.cli.root import cli


def resolved(words: Sequence[str]) -> click.Context:
    """Return the context of the command that ``words`` name, with its options parsed.

    Raises click.UsageError for a command or an option that there isn't.
    """
    command: click.Command = cli
    rest = list(words)
    context = click.Context(cli, info_name="billing-worker")
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command, context = found, click.Context(found, info_name=name, parent=context)
    return command.make_context(context.info_name, rest)
