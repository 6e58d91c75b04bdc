"""``dead-letters note``, ``discard`` and ``restore``; stored dead letters need no broker."""

import pytest

from tests.cli.console import Cli
from tests.cli.dead_letters.parts import AWAY, BONUS, dead_letters, the_dead_letter, worker
from tests.support.rabbit_client import RabbitClient


def test_note_is_shown_with_the_dead_letter(cli: Cli, rabbit: RabbitClient) -> None:
    rabbit.publish(BONUS)
    worker(cli)
    assert cli("dead-letters", "note", "1", "asked the team", "--as", "eva").code == 0
    details = cli("dead-letters", "show", "1", "--json").json
    assert details["note"] == "asked the team"
    assert (details["events"][-1]["kind"], details["events"][-1]["actor"]) == ("noted", "eva")


def test_discarded_dead_letter_keeps_the_reason(cli: Cli, rabbit: RabbitClient) -> None:
    rabbit.publish(BONUS)
    worker(cli)
    ended = cli("dead-letters", "discard", "1", "--reason", "a try of Ann's, see T-17")
    assert (ended.code, ended.out) == (0, "discarded 1\n")
    shown = cli("dead-letters", "show", "1", "--json").json
    assert (shown["status"], shown["note"]) == ("discarded", "a try of Ann's, see T-17")
    assert "note\ta try of Ann's, see T-17" in cli("dead-letters", "show", "1").lines
    assert cli("dead-letters", "discard", "1", "--reason", "again").code == 1


def test_restored_dead_letter_waits_again(cli: Cli, rabbit: RabbitClient) -> None:
    rabbit.publish(BONUS)
    worker(cli)
    cli("dead-letters", "discard", "--code", "invalid_field", "--yes", "--reason", "a slip")
    assert dead_letters(cli) == []
    assert cli("dead-letters", "restore", "1").out == "restored 1\n"
    assert the_dead_letter(cli)["status"] == "parked"


@pytest.mark.parametrize(
    ("action", "status"), [("discard", "parked"), ("restore", "discarded,replaying"), ("replay", "parked")]
)
def test_question_is_about_the_dead_letters_that_the_action_changes(
    cli: Cli, action: str, status: str
) -> None:
    asked = ("dead-letters", action, "--code", "not_json", "--reason", "x")
    ended = cli(*asked, stdin=b"n\n", terminal=True)
    assert f"{action} all dead letters with status={status}, code=not_json?" in ended.err
    assert ended.code == 130


@pytest.mark.parametrize(
    "command",
    [
        ("note", "1", "asked the team"),
        ("list",),
        ("groups",),
        ("show", "1"),
        ("edit", "1", "--reason", "x", "--from-file", "-", "--unchecked"),
        ("discard", "1", "--reason", "x"),
        ("export", "1"),
        ("replay", "1", "--dry-run"),
        ("replay", "list"),
    ],
    ids=" ".join,
)
def test_stored_dead_letters_need_no_broker(cli: Cli, rabbit: RabbitClient, command: tuple[str, ...]) -> None:
    rabbit.publish(BONUS, exchange="", routing_key="billing.dead")
    cli("dead-letters", "drain")
    ended = cli("dead-letters", *command, stdin=b"{}", BILLING_BROKER_URL=AWAY)
    assert (ended.code, ended.err) == (0, "")
