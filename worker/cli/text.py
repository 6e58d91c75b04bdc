"""Text of others: shown on a terminal and never obeyed, refused in an argument where nothing can store it."""

from typing import Any

import click
from click.types import StringParamType

from worker.runtime.printable import printable as printable
from worker.runtime.shown_ids import with_escapes


def shown_id(id_: str) -> str:
    """Return an id for people: one line, with escapes beside it where it isn't ASCII."""
    return with_escapes(printable(id_), id_)


class _Text(StringParamType):
    """Text that every store takes: UTF-8, without a NUL."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = super().convert(value, param, ctx)
        try:
            text.encode()
        except UnicodeEncodeError:  # such bytes come as halves of surrogate pairs
            self.fail("it is not UTF-8", param, ctx)
        if "\0" in text:
            self.fail("it holds a NUL", param, ctx)
        return text


_TEXT = _Text()


def check_texts(command: click.Command) -> None:
    """Let a command, and each command in it, refuse text that nothing can store, whatever takes it."""
    for parameter in command.params:
        if parameter.type is click.STRING:
            parameter.type = _TEXT
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            check_texts(inner)
