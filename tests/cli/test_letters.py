"""``dead-letters``: from a message that could not be applied, by way of an operator, to one that was."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tests.cli.console import Books, Cli, Ended
from tests.support.waiting import eventually
from tests.support.witness import PATIENCE_S, Witness
from worker.bootstrap import Application
from worker.broker import BILLING
from worker.ledger.store import Ledger
from worker.settings import load_settings

BONUS = {"type": "credit.bonus", "referenceId": "bonus-1", "userId": "ann", "tokens": 2_000}


@pytest.fixture(autouse=True)
def ann(books: Books) -> None:
    """An account for what is mended to be applied to."""
    books.open("ann")


def worker(
    cli: Cli, count: int = 1, *, most: int = 1_000, senders: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Settles the next ``count`` messages, as a worker does that takes no more than ``most`` at once."""
    environment = cli.environment
    application = Application(
        load_settings(
            broker_url=environment["BILLING_BROKER_URL"],
            database_url=environment["BILLING_DATABASE_URL"],
            max_quantity=most,
            senders=senders,
        )
    )
    pipeline = application.pipeline(Ledger(application.engine))
    link = application.link(consume=[queue.name for queue in BILLING.work])
    try:
        while count:
            deliveries = link.receive(count, PATIENCE_S)
            assert deliveries, f"{count} messages have not come"
            items = pipeline.receive(deliveries)
            pipeline.apply(items)
            pipeline.tell(link, items)
            count -= len(deliveries)
    finally:
        link.close()
        application.engine.dispose()


def letters(cli: Cli, *options: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = cli("dead-letters", "list", "--json", *options).json["letters"]
    return listed


def the_letter(cli: Cli, *options: str) -> dict[str, Any]:
    (letter,) = letters(cli, *options)
    return letter


# -- seeing -----------------------------------------------------------------------------------------------


def test_no_letters_are_an_empty_list(cli: Cli) -> None:
    ended = cli("dead-letters", "list")
    assert (ended.code, ended.out.split("\t")[0]) == (0, "number")
    assert len(ended.lines) == 1
    assert cli("dead-letters", "list", "--json").json == {"total": 0, "letters": []}


def test_a_letter_is_listed_with_what_an_operator_needs(cli: Cli, witness: Witness) -> None:
    witness.publish(BONUS)
    worker(cli)
    names, values = (line.split("\t") for line in cli("dead-letters", "list").lines)
    shown = dict(zip(names, values, strict=True))
    assert shown.pop("last failed")
    assert shown == {
        "number": "1",
        "status": "parked",
        "reason": "invalid_field",
        "message": "tokens: at most 1000 is taken.",
        "reference": "bonus-1",
        "user": "ann",
        "tries": "1",
    }
    on_terminal = cli("dead-letters", "list", terminal=True)
    assert "Dead letters: 1 of 1" in on_terminal.out
    assert "bonus-1" in on_terminal.out


def test_letters_are_listed_newest_first_by_page_reason_and_status(cli: Cli, witness: Witness) -> None:
    for body in (b"one", b"[2]", b"three"):
        witness.publish(body, routing_key="usage.deduct")
    worker(cli, 3)
    assert [letter["number"] for letter in letters(cli)] == [3, 2, 1]
    assert [letter["number"] for letter in letters(cli, "--limit", "1", "--offset", "1")] == [2]
    assert [letter["number"] for letter in letters(cli, "--reason", "not_json")] == [3, 1]
    cli("dead-letters", "discard", "1", "--reason", "a try")
    assert [letter["number"] for letter in letters(cli)] == [3, 2]
    assert [letter["number"] for letter in letters(cli, "--status", "discarded")] == [1]
    assert [letter["number"] for letter in letters(cli, "--status", "all")] == [3, 2, 1]


def test_a_letter_is_shown_whole(cli: Cli, witness: Witness) -> None:
    witness.publish(BONUS, message_id="m-1", correlation_id="c-1", headers={"x-trace": "t-1"})
    worker(cli)
    shown = cli("dead-letters", "show", "1")
    assert shown.code == 0
    fields = dict(line.split("\t") for line in shown.lines if "\t" in line)
    assert fields["reason"] == "invalid_field"
    assert fields["queue"] == "billing.payments"
    assert (fields["exchange"], fields["routing key"]) == ("billing", "credit.bonus")
    assert (fields["type"], fields["reference id"], fields["user id"]) == ("credit.bonus", "bonus-1", "ann")
    for piece in ('"message_id": "m-1"', '"correlation_id": "c-1"', '"x-trace": "t-1"'):
        assert piece in shown.out
    body = shown.out.partition("\nbody, ")[2]
    assert json.loads(body.partition("\n")[2]) == BONUS
    assert '\n  "tokens": 2000\n' in body, "it is pretty"


def test_a_letter_is_json_for_scripts(cli: Cli, witness: Witness) -> None:
    witness.publish(BONUS, message_id="m-1")
    worker(cli)
    shown = cli("dead-letters", "show", "1", "--json").json
    assert json.loads(shown["body"]) == BONUS
    assert shown["properties"]["properties"]["message_id"] == "m-1"
    assert shown["firstFailedAt"] == shown["lastFailedAt"]


def body_shown(ended: Ended) -> str:
    return ended.out.partition("\nbody, ")[2].partition("\n")[2].rstrip("\n")


BODIES: list[tuple[bytes, str]] = [
    (b"plain text", "plain text"),
    (b"\xff\xfe\x00\x01", "fffe 0001"),
    (b"", ""),
    (b"tab\there", "7461 6209 6865 7265"),
    (b"\x1b[2J", "1b5b 324a"),
    ('{"ü": "\u009b2J"}'.encode(), '{\n  "ü": "\\x9b2J"\n}'),
    (b'{"a": "\\ud800"}', '{\n  "a": "\\ud800"\n}'),
    # What pretty printing would hide is shown as it is: it may be why the message is here.
    (b'{"tokens": 1, "tokens": 2}', '{"tokens": 1, "tokens": 2}'),
    (b'{"tokens": 1.50}', '{"tokens": 1.50}'),
    (b'{"tokens": 1e2}', '{"tokens": 1e2}'),
    (b'{"tokens": 1.5}', '{\n  "tokens": 1.5\n}'),
    (b'{"tokens": ' + b"9" * 5_000 + b"}", '{"tokens": ' + "9" * 5_000 + "}"),
    (b"[" * 2_000, "[" * 2_000),
]


def test_the_body_is_readable_where_it_can_be_and_hexadecimal_where_not(cli: Cli, witness: Witness) -> None:
    for body, _ in BODIES:
        witness.publish(body, routing_key="usage.deduct")
    worker(cli, len(BODIES))
    for number, (body, shown) in enumerate(BODIES, 1):
        ended = cli("dead-letters", "show", str(number))
        assert ended.code == 0
        assert f"\nbody, {len(body)} bytes\n" in ended.out
        assert body_shown(ended) == shown


def test_bytes_that_are_no_text_are_hexadecimal_in_json(cli: Cli, witness: Witness) -> None:
    witness.publish(bytes(range(256)), routing_key="usage.deduct")
    worker(cli)
    shown = cli("dead-letters", "show", "1", "--json").json
    assert bytes.fromhex(shown["bodyHex"]) == bytes(range(256))
    assert "body" not in shown


def test_looking_disturbs_nothing(cli: Cli, witness: Witness) -> None:
    witness.publish(BONUS)
    worker(cli)
    before = cli("dead-letters", "list", "--json").out
    for _ in range(2):
        cli("dead-letters", "show", "1")
    assert cli("dead-letters", "list", "--json").out == before
    assert witness.depth("billing.dead") == 0


@pytest.mark.parametrize(
    "command", [("show", "7"), ("replay", "7"), ("discard", "7", "--reason", "none")], ids=" ".join
)
def test_a_letter_that_does_not_exist_exits_with_4(cli: Cli, command: tuple[str, ...]) -> None:
    ended = cli("dead-letters", *command)
    assert ended.code == 4
    assert ended.error == "there is no dead letter 7; see `billing-worker dead-letters list`"


# -- sending again ----------------------------------------------------------------------------------------


def test_a_letter_is_applied_when_its_cause_is_mended_and_it_is_replayed(cli: Cli, witness: Witness) -> None:
    correlation_id = witness.publish(BONUS)
    worker(cli)
    assert witness.replies({correlation_id})[correlation_id][0]["status"] == "failed"
    assert the_letter(cli)["reason"] == "invalid_field"

    ended = cli("dead-letters", "replay", "1")
    assert (ended.code, ended.out) == (0, "replayed 1\n")
    worker(cli, most=5_000)

    (reply,) = witness.replies({correlation_id})[correlation_id]
    assert (reply["status"], reply["balanceAfter"]) == ("applied", 12_000)
    assert letters(cli) == []
    assert the_letter(cli, "--status", "replayed")["number"] == 1


def test_a_replay_of_what_has_been_applied_since_is_applied_no_more(cli: Cli, witness: Witness) -> None:
    witness.publish(BONUS)
    worker(cli)
    cli("dead-letters", "list")
    witness.publish(BONUS)  # the producer sent it again, after the limit was raised
    worker(cli, most=5_000)
    cli("dead-letters", "replay", "1")
    worker(cli, most=5_000)
    assert cli("balance", "ann", "--json").json["balance"] == 12_000


def test_a_letter_that_fails_again_is_the_same_with_one_more_try(cli: Cli, witness: Witness) -> None:
    witness.publish(BONUS)
    worker(cli)
    first = the_letter(cli)
    cli("dead-letters", "replay", "1")
    worker(cli, most=1_500)
    again = the_letter(cli)
    assert (again["number"], again["attempts"]) == (first["number"], first["attempts"] + 1)
    assert again["message"] == "tokens: at most 1500 is taken."
    assert again["firstFailedAt"] == first["firstFailedAt"]
    assert again["lastFailedAt"] > first["lastFailedAt"]


def test_a_letter_that_was_put_away_comes_back_when_its_message_fails_again(
    cli: Cli, witness: Witness
) -> None:
    witness.publish(BONUS)
    worker(cli)
    cli("dead-letters", "discard", "1", "--reason", "never mind")
    witness.publish(BONUS)
    worker(cli)
    assert the_letter(cli)["attempts"] == 2


def test_a_sender_who_may_not_is_replayed_by_an_operator_who_may(
    cli: Cli, witness: Witness, broker_url: str
) -> None:
    operator = broker_url.partition("://")[2].partition(":")[0]
    witness.publish(BONUS, user_id=operator)
    worker(cli, most=5_000, senders={"credit.*": ["gateway"]})
    assert the_letter(cli)["reason"] == "wrong_sender"

    cli("dead-letters", "replay", "1")
    worker(cli, most=5_000, senders={"credit.*": ["gateway"]})
    assert the_letter(cli)["attempts"] == 2, "a replay is no way around the rule"

    cli("dead-letters", "replay", "1")
    worker(cli, most=5_000, senders={"credit.*": ["gateway", operator]})
    assert cli("balance", "ann", "--json").json["balance"] == 12_000


def test_several_letters_are_replayed_in_one_call_each_once(cli: Cli, witness: Witness) -> None:
    for number in range(3):
        witness.publish(BONUS | {"referenceId": f"bonus-{number}"})
    worker(cli, 3)
    assert cli("dead-letters", "replay", "3", "1", "2", "1").out == "replayed 3\n"
    worker(cli, 3, most=5_000)
    assert cli("balance", "ann", "--json").json["balance"] == 16_000


def test_nothing_is_replayed_or_put_away_where_one_of_the_numbers_is_wrong(
    cli: Cli, witness: Witness
) -> None:
    witness.publish(BONUS)
    worker(cli)
    assert cli("dead-letters", "replay", "1", "9").code == 4
    assert cli("dead-letters", "discard", "1", "9", "--reason", "none").code == 4
    assert the_letter(cli)["status"] == "parked"
    assert witness.depth("billing.payments") == 0


def test_a_letter_that_reaches_no_queue_stays_parked(cli: Cli, witness: Witness) -> None:
    witness.publish(BONUS)
    worker(cli)
    witness.channel.queue_unbind("billing.payments", "billing", "credit.*")
    ended = cli("dead-letters", "replay", "1")
    assert ended.code == 3
    assert ended.error == "dead letter 1 reached no queue: billing has no route for 'credit.bonus'"
    assert the_letter(cli)["status"] == "parked"


# -- putting away -----------------------------------------------------------------------------------------


def test_a_letter_that_is_put_away_keeps_the_reason(cli: Cli, witness: Witness) -> None:
    witness.publish(BONUS)
    worker(cli)
    ended = cli("dead-letters", "discard", "1", "--reason", "a try of Ann's, see T-17")
    assert (ended.code, ended.out) == (0, "discarded 1\n")
    shown = cli("dead-letters", "show", "1", "--json").json
    assert (shown["status"], shown["note"]) == ("discarded", "a try of Ann's, see T-17")
    assert "note\ta try of Ann's, see T-17" in cli("dead-letters", "show", "1").lines


# -- many -------------------------------------------------------------------------------------------------


def test_more_letters_than_one_delivery_holds_are_all_there_at_the_first_look(
    cli: Cli, witness: Witness
) -> None:
    for number in range(450):
        witness.publish(f"broken {number}".encode(), routing_key="usage.deduct")
    worker(cli, 450)
    eventually(lambda: witness.depth("billing.dead") == 450)
    assert cli("dead-letters", "list", "--limit", "1", "--json").json["total"] == 450
