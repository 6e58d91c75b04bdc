"""``pause``, ``quiesce``, ``resume`` and ``status``: what operators ask for, and what they see."""

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.cli.console import Cli, FilledLedger
from tests.support.rabbit_client import RabbitClient
from worker.bootstrap import utc_now
from worker.broker import BILLING
from worker.broker.link import open_link
from worker.ledger.operator_pauses import OperatorPauses
from worker.ledger.workers import KnownWorker, LaneProgress, WorkerKind, Workers, WorkerState

AWAY = "amqp://guest:guest@127.0.0.1:1/"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look twice at depths without a wait."""
    monkeypatch.setattr("worker.cli.status._APART_S", 0.0)


def worker() -> KnownWorker:
    now = utc_now()
    return KnownWorker(
        name="host:1:aa",
        kind=WorkerKind.WORKER,
        host="host",
        pid=1,
        version="0.5.0",
        settings_hash="abcdef0123",
        started_at=now,
        seen_at=now,
        state=WorkerState.CONSUMING,
        lanes={queue.name: LaneProgress(5, 1.0, now) for queue in BILLING.work},
        last_batch_at=now,
        last_batch_size=3,
    )


# -- pause, quiesce, resume -------------------------------------------------------------------------------


def test_lane_is_paused_until_it_is_resumed_and_the_activity_log_says_by_whom(
    ledger_cli: Cli, ledger: FilledLedger
) -> None:
    Workers(ledger.engine).write(worker())
    paused = ledger_cli("pause", "usage", "--reason", "a wrong price", "--actor", "ann")
    assert paused.code == 0
    assert paused.lines[0] == "paused billing.usage"
    assert paused.lines[1].startswith("1 worker obeys within seconds")
    (pause,) = OperatorPauses(ledger.engine).current()
    assert (pause.queue, pause.type, pause.reason, pause.actor) == (
        "billing.usage",
        None,
        "a wrong price",
        "ann",
    )
    again = ledger_cli("pause", "billing.usage", "--reason", "x")
    assert again.lines == ["nothing to do: it is paused already, see `billing-worker status`"]
    resumed = ledger_cli("resume", "usage", "--actor", "bob", "--reason", "the price is right")
    assert resumed.out.startswith("resumed billing.usage, paused by ann since 20")
    assert ledger_cli("resume", "usage").code == 4
    entries = ledger_cli("activity", "--subject", "billing.usage", "--json").json["entries"]
    assert [(one["actor"], one["action"], one["reason"]) for one in entries] == [
        ("bob", "lane.resume", "the price is right"),
        ("ann", "lane.pause", "a wrong price"),
    ]


def test_all_lanes_are_quiesced_and_resumed_at_once(ledger_cli: Cli) -> None:
    quiesced = ledger_cli("quiesce", "--reason", "move the database", "--json").json
    assert {one["queue"] for one in quiesced["paused"]} == {queue.name for queue in BILLING.work}
    assert {one["kind"] for one in quiesced["paused"]} == {"quiesce"}
    assert len(ledger_cli("resume", "--json").json["resumed"]) == 3


def test_type_is_paused_in_each_lane_that_takes_it(cli: Cli) -> None:
    paused = cli("pause", "--type", "usage.deduct", "--reason", "x")
    assert paused.lines[:2] == [
        "paused billing.usage, usage.deduct alone",
        "paused billing.bulk, usage.deduct alone",
    ]
    resumed = cli("resume", "bulk", "--type", "usage.deduct")
    assert resumed.out.startswith("resumed usage.deduct of billing.bulk, paused by ")
    assert resumed.out.endswith("; what was held of it returns\n")
    assert cli("resume", "bulk", "--type", "usage.deduct").code == 4


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("usages", "--reason", "x"), "there is no lane 'usages': one of payments, usage, bulk"),
        (("usage", "--reason", "x", "--type", "usage.deducts"), "there is no type 'usage.deducts'"),
        (("usage", "--reason", "x", "--type", "credit.bonus"), "usage takes no credit.bonus"),
    ],
)
def test_pause_of_what_is_not_there_is_wrong_usage(
    ledger_cli: Cli, arguments: tuple[str, ...], expected: str
) -> None:
    ended = ledger_cli("pause", *arguments)
    assert ended.code == 2
    assert ended.error.startswith(expected)


def test_pause_needs_a_reason(ledger_cli: Cli) -> None:
    assert ledger_cli("pause", "usage").code == 2
    assert ledger_cli("pause", "usage", "--reason", " ").error.startswith("say why")


def test_type_is_not_paused_where_the_broker_has_no_queue_to_hold_it(cli: Cli, broker_url: str) -> None:
    link = open_link(broker_url)
    link.delete(BILLING.held.name)
    link.close()
    ended = cli("pause", "--type", "usage.deduct", "--reason", "x")
    assert ended.code == 2
    assert "has no queue billing.held" in ended.error
    assert "topology declare" in ended.error


def test_lane_is_paused_while_the_broker_is_away_and_not_while_the_database_is(ledger_cli: Cli) -> None:
    assert ledger_cli("pause", "usage", "--reason", "x", BILLING_BROKER_URL=AWAY).code == 0
    assert ledger_cli("pause", "--type", "usage.deduct", "--reason", "x", BILLING_BROKER_URL=AWAY).code == 0
    away = "postgresql://nobody@127.0.0.1:1/none"
    assert ledger_cli("pause", "usage", "--reason", "x", BILLING_DATABASE_URL=away).code == 3


# -- status -----------------------------------------------------------------------------------------------


def test_status_shows_lanes_and_workers(cli: Cli, ledger: FilledLedger) -> None:
    Workers(ledger.engine).write(worker())
    shown = cli("status")
    assert shown.code == 0
    rows = {row[0]: row for row in shown.rows if row}
    assert rows["lane"] == ["lane", "waiting", "in/s", "out/s", "lag", "eta", "workers", "consumers", "state"]
    assert rows["usage"] == ["usage", "0", "0.0", "0.0", "0 s", "0 s", "1", "0", "consuming"]
    assert rows["host:1"][1:4] == ["worker", "consuming", "0.5.0"]
    assert rows["host:1"][5] == "payments, usage, bulk"


def test_status_says_why_a_lane_is_paused_and_exits_with_1(cli: Cli, ledger: FilledLedger) -> None:
    silent = replace(worker(), seen_at=utc_now() - timedelta(minutes=2))
    Workers(ledger.engine).write(silent)
    cli("pause", "usage", "--reason", "a wrong price", "--actor", "ann")
    shown = cli("status")
    assert shown.code == 1
    assert "paused by ann: a wrong price" in shown.out
    assert "to go on: `billing-worker resume usage`" in shown.out
    assert "not seen since 20" in shown.out
    found = cli("status", "--json").json
    assert found["needsSomebody"] is True
    (usage,) = [lane for lane in found["lanes"] if lane["lane"] == "usage"]
    assert [pause["reason"] for pause in usage["pauses"]] == ["a wrong price"]


def test_status_shows_what_the_server_that_answers_knows(cli: Cli, ledger: FilledLedger) -> None:
    Workers(ledger.engine).write(worker())
    without_broker = cli("status", BILLING_BROKER_URL=AWAY)
    assert without_broker.code == 1
    assert "host:1" in without_broker.out
    assert "unknown" in without_broker.out
    without_database = cli("status", BILLING_DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert without_database.code == 1
    assert "usage\t0" in without_database.out
    assert "workers and pauses are unknown" in without_database.out


def test_watched_status_ends_with_ctrl_c(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = iter([None, None])

    def sleep(_: float) -> None:
        if next(waits, KeyboardInterrupt) is KeyboardInterrupt:
            raise KeyboardInterrupt

    monkeypatch.setattr("worker.cli.status.time.sleep", sleep)
    shown = cli("status", "--watch", terminal=True)
    assert shown.code == 0
    assert shown.out.count("Lanes at") == 2


def test_check_notes_the_pause_of_an_operator(cli: Cli) -> None:
    cli("pause", "usage", "--reason", "a wrong price", "--actor", "ann")
    (line,) = [line for line in cli("check").lines if "paused:" in line]
    assert line.startswith("note")
    assert "billing.usage: all of it paused by ann: a wrong price" in line


def test_check_asks_nobody_to_start_a_worker_while_the_lane_is_paused(cli: Cli, rabbit: RabbitClient) -> None:
    rabbit.publish({"type": "usage.deduct", "referenceId": "r", "userId": "u", "tokens": 1})
    (line,) = [line for line in cli("check").lines if "workers:" in line]
    assert "start a worker" in line
    cli("pause", "usage", "--reason", "x")
    (line,) = [line for line in cli("check").lines if "workers:" in line]
    assert line.startswith("note")
    assert "start a worker" not in line
