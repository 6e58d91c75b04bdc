"""Text in arguments: refused where nothing can store it, by every command."""

import click
import pytest

from tests.cli.commands import COMMANDS

TEXTS = [
    pytest.param(command, parameter, id=f"{'-'.join(path)}:{parameter.name}")
    for path, command in COMMANDS.items()
    for parameter in command.params
    if parameter.type.name == click.STRING.name and parameter.nargs == 1
]


@pytest.mark.parametrize(("text", "problem"), [("caf\udce9", "it is not UTF-8"), ("a\0b", "it holds a NUL")])
@pytest.mark.parametrize(("command", "parameter"), TEXTS)
def test_every_text_of_every_command_can_be_stored(
    command: click.Command, parameter: click.Parameter, text: str, problem: str
) -> None:
    def cast(value: str) -> object:
        given = (value,) if parameter.multiple else value
        return parameter.type_cast_value(click.Context(command), given)

    with pytest.raises(click.BadParameter, match=problem):
        cast(text)
    assert cast("café 😀") in ("café 😀", ("café 😀",))
