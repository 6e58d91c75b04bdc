"""Options and commands under the names of the version before, for one version."""

from collections.abc import Iterator

import click
import pytest

from tests.cli.commands import COMMANDS
from tests.cli.console import Cli
from tests.support.rabbit_client import RabbitClient
from worker.cli.options import AliasedOption

ALIASES = {
    ("--as", "--actor"),
    ("--before", "--cursor"),
    ("--after", "--cursor"),
    ("--since", "--from"),
    ("--until", "--to"),
}


def aliased() -> Iterator[tuple[tuple[str, ...], click.Option, str]]:
    for path, command in COMMANDS.items():
        for option in command.params:
            if isinstance(option, AliasedOption):
                yield from ((path, option, alias) for alias in option.aliases)


def test_aliases_are_these() -> None:
    assert {(alias, option.opts[0]) for _, option, alias in aliased()} == ALIASES


@pytest.mark.parametrize(
    ("path", "option", "alias"), [*aliased()], ids=lambda value: str(getattr(value, "name", value))
)
def test_alias_sets_its_option_and_is_in_no_help(
    bare_cli: Cli, path: tuple[str, ...], option: click.Option, alias: str
) -> None:
    value = {"cursor": "7", "actor": "eva"}.get(str(option.name), "2026-11-26")
    command = COMMANDS[path]
    given = [[name, value] for name in (option.opts[0], alias)]
    named, by_alias = (
        command.make_context("x", [*words], resilient_parsing=True).params[str(option.name)]
        for words in given
    )
    assert named == by_alias
    assert named is not None
    assert f"{alias} " not in bare_cli(*path, "--help").out


def test_listing_takes_reason_as_the_code(cli: Cli, rabbit: RabbitClient) -> None:
    rabbit.publish(b"oops", exchange="", routing_key="billing.dead")
    cli("dead-letters", "drain")
    for code, count in (("unknown", 1), ("not_json", 0)):
        assert cli("dead-letters", "list", "--reason", code, "--json").json["total"] == count
        assert cli("dead-letters", "list", "--code", code, "--json").json["total"] == count
