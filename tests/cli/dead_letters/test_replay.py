"""``dead-letters replay``: mended causes, duplicates, renewed failures and refusals."""

import pytest

from tests.cli.console import Cli
from tests.cli.dead_letters.parts import AWAY, BONUS, dead_letters, replayed, the_dead_letter, worker
from tests.support.rabbit_client import RabbitClient


def test_replayed_dead_letter_is_applied_once_its_cause_is_mended(cli: Cli, rabbit: RabbitClient) -> None:
    correlation_id = rabbit.publish(BONUS)
    worker(cli)
    assert rabbit.replies({correlation_id})[correlation_id][0]["status"] == "failed"
    assert the_dead_letter(cli)["reason"] == "invalid_field"

    ended = replayed(cli, "1")
    assert (ended.code, ended.out) == (0, "replay 1 is finished: 1 applied\n")

    (reply,) = rabbit.replies({correlation_id})[correlation_id]
    assert (reply["status"], reply["balanceAfter"]) == ("applied", 12_000)
    assert dead_letters(cli) == []
    assert the_dead_letter(cli, "--status", "resolved")["number"] == 1
    details = cli("dead-letters", "show", "1", "--json").json
    assert [event["kind"] for event in details["events"]] == ["failed", "replayed", "resolved"]
    assert [(line["status"], line["agrees"]) for line in details["ledger"]] == [("applied", True)]


def test_replay_of_a_command_applied_since_is_a_duplicate_and_moves_nothing(
    cli: Cli, rabbit: RabbitClient
) -> None:
    rabbit.publish(BONUS)
    worker(cli)
    cli("dead-letters", "list")
    rabbit.publish(BONUS)  # the producer sent it again, after the limit was raised
    worker(cli, most=5_000)
    ended = replayed(cli, "1")
    assert (ended.code, ended.out) == (0, "replay 1 is finished: 1 duplicate\n")
    assert cli("balance", "ann", "--json").json["balance"] == 12_000


def test_dead_letter_that_fails_again_is_the_same_with_one_more_try(cli: Cli, rabbit: RabbitClient) -> None:
    rabbit.publish(BONUS)
    worker(cli)
    first = the_dead_letter(cli)
    ended = replayed(cli, "1", most=1_500)
    assert (ended.code, ended.out) == (1, "replay 1 is finished: 1 failed again\n")
    again = the_dead_letter(cli)
    assert (again["number"], again["attempts"]) == (first["number"], first["attempts"] + 1)
    assert again["message"] == "tokens: at most 1500 is taken."
    assert again["firstFailedAt"] == first["firstFailedAt"]
    assert again["lastFailedAt"] > first["lastFailedAt"]
    shown = cli("dead-letters", "replay", "show", "1")
    cause = "invalid_field: tokens: at most 1500 is taken."
    assert ["1", "failed_again", cause, "bonus-1", "ann", "2000"] in shown.rows


def test_discarded_dead_letter_waits_again_when_its_message_fails_again(
    cli: Cli, rabbit: RabbitClient
) -> None:
    rabbit.publish(BONUS)
    worker(cli)
    cli("dead-letters", "discard", "1", "--reason", "never mind")
    rabbit.publish(BONUS)
    worker(cli)
    assert the_dead_letter(cli)["attempts"] == 2


def test_message_of_a_forbidden_sender_is_replayed_by_an_operator_with_the_right(
    cli: Cli, rabbit: RabbitClient, broker_url: str
) -> None:
    operator = broker_url.partition("://")[2].partition(":")[0]
    rabbit.publish(BONUS, user_id=operator)
    worker(cli, most=5_000, senders={"credit.*": ["gateway"]})
    assert the_dead_letter(cli)["reason"] == "wrong_sender"

    assert replayed(cli, "1", senders={"credit.*": ["gateway"]}).code == 1
    assert the_dead_letter(cli)["attempts"] == 2, "a replay is no way around the rule"

    assert replayed(cli, "1", senders={"credit.*": ["gateway", operator]}).code == 0
    assert cli("balance", "ann", "--json").json["balance"] == 12_000


def test_one_call_replays_several_dead_letters_once_each(cli: Cli, rabbit: RabbitClient) -> None:
    for number in range(3):
        rabbit.publish(BONUS | {"referenceId": f"bonus-{number}"})
    worker(cli, 3)
    assert replayed(cli, "3", "1", "2", "1").out == "replay 1 is finished: 3 applied\n"
    assert cli("balance", "ann", "--json").json["balance"] == 16_000


def test_one_unknown_number_stops_the_whole_replay_or_discard(cli: Cli, rabbit: RabbitClient) -> None:
    rabbit.publish(BONUS)
    worker(cli)
    assert cli("dead-letters", "replay", "1", "9", "--reason", "none").code == 4
    assert cli("dead-letters", "discard", "1", "9", "--reason", "none").code == 4
    assert the_dead_letter(cli)["status"] == "parked"
    assert rabbit.depth("billing.payments") == 0


def test_dead_letter_that_reaches_no_queue_stays_parked(cli: Cli, rabbit: RabbitClient) -> None:
    rabbit.publish(BONUS)
    worker(cli)
    rabbit.channel.queue_unbind("billing.payments", "billing", "credit.*")
    ended = cli("dead-letters", "replay", "1", "--reason", "none")
    assert (ended.code, ended.out) == (1, "replay 1 is finished: 1 unroutable\n")
    assert the_dead_letter(cli)["status"] == "parked"
    shown = cli("dead-letters", "replay", "show", "1")
    cause = "reached no queue: billing has no route for 'credit.bonus'"
    assert ["1", "unroutable", cause, "bonus-1", "ann", "2000"] in shown.rows


def test_replay_without_a_broker_creates_nothing(cli: Cli, rabbit: RabbitClient) -> None:
    rabbit.publish(BONUS)
    worker(cli)
    ended = cli("dead-letters", "replay", "1", "--reason", "none", BILLING_BROKER_URL=AWAY)
    assert ended.code == 3
    assert "the broker is not available" in ended.error
    assert cli("dead-letters", "replay", "list", "--json").json["replays"] == []


def test_resumed_replay_without_a_broker_stays_as_it_is(cli: Cli, rabbit: RabbitClient) -> None:
    rabbit.publish(BONUS)
    worker(cli)
    assert cli("dead-letters", "replay", "1", "--reason", "none", "--patience", "0").code == 1
    before = cli("dead-letters", "replay", "show", "1", "--json").json
    assert cli("dead-letters", "replay", "resume", "1", BILLING_BROKER_URL=AWAY).code == 3
    assert cli("dead-letters", "replay", "show", "1", "--json").json == before


def test_replay_asks_before_it_takes_all_dead_letters_of_a_filter(cli: Cli) -> None:
    ended = cli("dead-letters", "replay", "--code", "not_json", "--reason", "none")
    assert ended.code == 2
    assert "add --yes" in ended.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("replay", "7"), "Missing option '--reason'"),
        (("replay", "--reason", "x"), "give the numbers of dead letters, or a filter"),
        (("replay", "7", "--code", "x", "--reason", "x"), "either numbers or filters"),
        (("replay", "7", "--reason", "x", "--rate", "fast"), "must be like 50/s"),
        (("replay", "7", "--reason", "x", "--canary", "0"), "numbers of dead letters from 1"),
        (("replay", "--text", "", "--reason", "x", "--yes"), "--text must not be empty: leave it out"),
        (("discard", "--user", "", "--reason", "x", "--yes"), "--user must not be empty: leave it out"),
        (("list", "--since", "last week"), "is no time; write 15m, 2h or 3d (ago)"),
    ],
)
def test_invalid_arguments_are_refused_before_anything_is_done(
    cli: Cli, arguments: tuple[str, ...], said: str
) -> None:
    ended = cli("dead-letters", *arguments)
    assert ended.code == 2
    assert said in ended.err


def test_help_of_replay_shows_its_options_and_its_commands(bare_cli: Cli) -> None:
    ended = bare_cli("dead-letters", "replay", "--help")
    assert ended.code == 0
    for piece in ("--canary", "--dry-run", "--rate", "resume", "cancel", "fixed"):
        assert piece in ended.out
