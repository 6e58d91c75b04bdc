"""``resume``: paused queues go on, and the activity log says by whom."""

import pytest

from tests.cli.console import Cli, FilledLedger
from worker.bootstrap import utc_now
from worker.ledger.pauses import Pause, Pauses


@pytest.fixture(autouse=True)
def paused(ledger: FilledLedger) -> Pauses:
    """The usage queue and the payments queue, paused by one worker."""
    pauses = Pauses(ledger.engine)
    for queue in ("billing.usage", "billing.payments"):
        pauses.begin(Pause(queue, "host:1", "faults", "too many faults", utc_now()), "config")
    return pauses


def test_one_queue_is_resumed(ledger_cli: Cli, paused: Pauses) -> None:
    ended = ledger_cli("resume", "billing.usage", "--actor", "eva")
    assert ended.code == 0
    assert ended.out.startswith("resumed billing.usage, paused by host:1 since 20")
    assert [pause.queue for pause in paused.lasting(utc_now())] == ["billing.payments"]


def test_all_queues_are_resumed_as_one_json_object(ledger_cli: Cli, paused: Pauses) -> None:
    shown = ledger_cli("resume", "--json").json
    assert {(one["queue"], one["worker"]) for one in shown["resumed"]} == {
        ("billing.usage", "host:1"),
        ("billing.payments", "host:1"),
    }
    assert paused.lasting(utc_now()) == []


def test_queue_that_is_not_paused_exits_with_4(ledger_cli: Cli) -> None:
    ended = ledger_cli("resume", "billing.bulk")
    assert (ended.code, ended.error) == (4, "billing.bulk is not paused: see `billing-worker check`")
