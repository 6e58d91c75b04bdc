"""``adjust``: through the queue to a worker and back, like any command."""

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cli.console import Cli, Ended, FilledLedger
from tests.support.rabbit_client import RabbitClient
from tests.support.worker_thread import running
from worker.bootstrap import Application
from worker.broker import open_link
from worker.settings import load_settings

WHY = ("--reason", "booked twice", "--actor", "ann")


@pytest.fixture(autouse=True)
def ada(ledger: FilledLedger) -> None:
    """An account with 10,000 tokens."""
    ledger.open("ada")


@contextmanager
def worker(cli: Cli, **more: Any) -> Iterator[None]:
    """A worker on the broker and the ledger of ``cli``."""
    environment = cli.environment
    settings = load_settings(
        broker_url=environment["BILLING_BROKER_URL"],
        database_url=environment["BILLING_DATABASE_URL"],
        **more,
    )
    application = Application(settings)
    with running(application):
        yield
    application.engine.dispose()


def shown_reference(ended: Ended) -> str:
    """Return the reference from standard error, where the worker in this process writes its log as well."""
    (line,) = [line for line in ended.err.splitlines() if line.startswith("reference ")]
    return line.removeprefix("reference ")


def fields(ended: Ended) -> dict[str, str]:
    return dict(line.split("\t") for line in ended.lines)


def test_applied_adjustment_is_shown_and_exits_with_0(cli: Cli) -> None:
    with worker(cli):
        ended = cli("adjust", "ada", "-400", *WHY, "--reference", "slip-1", "--timeout", "60")
    assert (ended.code, shown_reference(ended)) == (0, "slip-1")
    assert fields(ended) == {
        "outcome": "applied",
        "message": "Debited 400 tokens by hand. Balance: 9.6K",
        "reference": "slip-1",
        "balance before": "10000",
        "balance after": "9600",
    }
    (outcome,) = cli("explain", "slip-1", "--json").json["outcomes"]
    assert outcome["detail"] == {"reason": "booked twice", "actor": "ann"}


def test_rejected_adjustment_exits_with_1_and_a_higher_attempt_is_judged_anew(cli: Cli) -> None:
    again = ("adjust", "ada", "-10001", *WHY, "--reference", "slip-1", "--timeout", "60", "--json")
    with worker(cli):
        refused = cli(*again)
        still = cli(*again)
        negative = cli(
            "adjust", "ada", "-10001", *WHY, "--reference", "slip-2", "--allow-negative", "--timeout", "60"
        )
        given = cli("adjust", "ada", "20000", *WHY, "--timeout", "60")
        judged_anew = cli(*again, "--attempt", "2")
    assert (refused.code, refused.json["code"], refused.json["shortfall"]) == (1, "insufficient_balance", 1)
    assert (still.code, still.json["duplicate"]) == (1, True)
    assert (negative.code, fields(negative)["debt"]) == (0, "1")
    assert (given.code, judged_anew.code, judged_anew.json["balanceAfter"]) == (0, 0, 9_998)


def test_generated_reference_is_shown_and_repeats_the_adjustment_safely(cli: Cli) -> None:
    with worker(cli):
        first = cli("adjust", "ada", "70", "--reason", "outage", "--timeout", "60")
        reference = shown_reference(first)
        again = cli("adjust", "ada", "70", "--reason", "outage", "--reference", reference, "--timeout", "60")
    assert reference.startswith("adjust-")
    assert fields(again)["outcome"] == "applied, as it was before"
    assert cli("balance", "ada", "--json").json["balance"] == 10_070
    (outcome,) = cli("explain", reference, "--json").json["outcomes"]
    assert outcome["detail"]["actor"] == getpass.getuser()


def test_adjustment_without_a_worker_names_the_repeating_command_and_leaves_no_queue(
    cli: Cli, rabbit: RabbitClient
) -> None:
    ended = cli("adjust", "ada", "5", *WHY, "--reference", "slip-1", "--timeout", "0.2")
    assert ended.code == 3
    last = ended.err.splitlines()[-1]
    assert "no reply to 'slip-1' within 0.2 s" in last
    assert "Repeat it with --reference slip-1: it is applied once" in last
    ((properties, _),) = rabbit.take("billing.payments", 1)
    assert (properties.delivery_mode, properties.app_id) == (2, "billing-worker adjust")
    assert properties.reply_to.startswith("billing.replies.")
    link = open_link(cli.environment["BILLING_BROKER_URL"])
    with pytest.raises(Exception, match=properties.reply_to):
        link.depth(properties.reply_to)
    link.close()


def test_adjustment_without_a_topology_is_not_sent_and_names_the_way_out(
    ledger_cli: Cli, bare_broker_url: str
) -> None:
    ended = ledger_cli("adjust", "ada", "5", *WHY, BILLING_BROKER_URL=bare_broker_url)
    assert ended.code == 3
    assert "topology declare" in ended.err


def test_reply_queue_is_the_users_own_below_the_workers_reply_queue(cli: Cli, rabbit: RabbitClient) -> None:
    cli("adjust", "ada", "5", *WHY, "--timeout", "0", BILLING_REPLY_QUEUE="app.answers")
    ((properties, _),) = rabbit.take("billing.payments", 1)
    assert properties.user_id == rabbit.user
    assert properties.reply_to.startswith(f"app.answers.{rabbit.user}.")


def test_broker_that_does_not_answer_exits_with_3(ledger_cli: Cli) -> None:
    ended = ledger_cli("adjust", "ada", "5", *WHY, BILLING_BROKER_URL="amqp://u:p@127.0.0.1:9/")
    assert ended.code == 3


def test_user_without_a_login_name_must_name_an_actor(
    ledger_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody() -> str:
        raise OSError("no such user")

    monkeypatch.setattr(getpass, "getuser", nobody)
    ended = ledger_cli("adjust", "ada", "5", "--reason", "outage")
    assert ended.code == 2
    assert "say who does it with --actor" in ended.err


def test_correction_goes_by_the_partition_of_its_user(cli: Cli) -> None:
    assert cli("topology", "declare", "--partitions", "8").code == 0
    cli.environment["BILLING_PARTITIONS"] = "8"
    with worker(cli, partitions=8):
        ended = cli("adjust", "ada", "5", *WHY)
    assert (ended.code, fields(ended)["outcome"]) == (0, "applied")
