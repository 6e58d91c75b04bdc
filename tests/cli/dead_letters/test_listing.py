"""``dead-letters list``: filters, pages and the hint where none is listed."""

from tests.cli.console import Cli
from tests.cli.dead_letters.parts import AWAY, BONUS, dead_letters, worker
from tests.support.rabbit_client import RabbitClient


def test_listing_without_dead_letters_is_empty(cli: Cli) -> None:
    ended = cli("dead-letters", "list")
    assert (ended.code, ended.out.split("\t")[0]) == (0, "number")
    assert len(ended.lines) == 1
    assert cli("dead-letters", "list", "--json").json == {
        "total": 0,
        "deadLetters": [],
        "next": None,
        "searchedTo": None,
    }


def test_dead_letter_is_listed_with_what_an_operator_needs(cli: Cli, rabbit: RabbitClient) -> None:
    rabbit.publish(BONUS)
    worker(cli)
    names, values = (line.split("\t") for line in cli("dead-letters", "list").lines)
    shown = dict(zip(names, values, strict=True))
    assert shown.pop("last failed")
    assert shown == {
        "number": "1",
        "status": "parked",
        "code": "invalid_field",
        "message": "tokens: at most 1000 is taken.",
        "reference": "bonus-1",
        "user": "ann",
        "tokens": "2000",
        "tries": "1",
    }
    on_terminal = cli("dead-letters", "list", terminal=True)
    assert "Dead letters: 1 of 1" in on_terminal.out
    assert "bonus-1" in on_terminal.out


def test_dead_letters_are_listed_newest_first_by_page_code_and_status(cli: Cli, rabbit: RabbitClient) -> None:
    for body in (b"one", b"[2]", b"three"):
        rabbit.publish(body, routing_key="usage.deduct")
    worker(cli, 3)
    assert [dead_letter["number"] for dead_letter in dead_letters(cli)] == [3, 2, 1]
    assert [dead_letter["number"] for dead_letter in dead_letters(cli, "--limit", "1", "--cursor", "3")] == [
        2
    ]
    assert [dead_letter["number"] for dead_letter in dead_letters(cli, "--code", "not_json")] == [3, 1]
    cli("dead-letters", "discard", "1", "--reason", "a try")
    assert [dead_letter["number"] for dead_letter in dead_letters(cli)] == [3, 2]
    assert [dead_letter["number"] for dead_letter in dead_letters(cli, "--status", "discarded")] == [1]
    assert [dead_letter["number"] for dead_letter in dead_letters(cli, "--status", "all")] == [3, 2, 1]


def test_empty_listing_names_the_drainer(ledger_cli: Cli) -> None:
    for command in ("list", "groups"):
        ended = ledger_cli("dead-letters", command, BILLING_BROKER_URL=AWAY)
        assert (ended.code, ended.err.count("`billing-worker dead-letters drain`")) == (0, 1)
