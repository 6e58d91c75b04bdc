"""``dead-letters drain``: from the queue into the table."""

import pytest

from tests.cli.console import Cli
from tests.cli.dead_letters.parts import AWAY, BONUS, worker
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import eventually
from worker.deadletters.link_drainer import LinkDrainer
from worker.errors import NotKeptError


def test_drain_counts_what_it_drained_and_what_waits(cli: Cli, rabbit: RabbitClient) -> None:
    for number in range(2):
        rabbit.publish(b"oops", exchange="", routing_key="billing.dead", message_id=f"m-{number}")
    first = cli("dead-letters", "drain")
    assert first.out == "drained 2, ended 0 of replays that nobody runs; 2 dead letters wait, in 1 group\n"
    again = cli("dead-letters", "park", "--json").json
    assert (again["drained"], again["ended"], again["parked"], again["groups"]) == (0, 0, 2, 1)


def test_drain_takes_more_dead_letters_than_one_delivery_holds(cli: Cli, rabbit: RabbitClient) -> None:
    for number in range(450):
        rabbit.publish(f"broken {number}".encode(), routing_key="usage.deduct", user_id="billing")
    worker(cli, 450, drains=False)
    eventually(lambda: rabbit.depth("billing.dead") == 450)
    assert cli("dead-letters", "drain", "--json").json["drained"] == 450
    assert cli("dead-letters", "list", "--limit", "1", "--json").json["total"] == 450


def test_drain_ends_with_1_where_a_dead_letter_cannot_be_stored(
    cli: Cli, rabbit: RabbitClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    rabbit.publish(BONUS)
    worker(cli)
    rabbit.publish({**BONUS, "referenceId": "bonus-2"}, exchange="", routing_key="billing.dead")

    def drain_all(*_: object, **__: object) -> int:
        raise NotKeptError("1 dead letters can't be kept")

    monkeypatch.setattr(LinkDrainer, "drain_all", drain_all)
    ended = cli("dead-letters", "drain")
    assert (ended.code, ended.error) == (1, "1 dead letters can't be kept")
    assert ended.out.startswith("drained unknown, ended 0 of replays")


def test_drain_needs_the_broker(ledger_cli: Cli) -> None:
    assert ledger_cli("dead-letters", "drain", BILLING_BROKER_URL=AWAY).code == 3
