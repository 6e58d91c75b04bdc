"""Status from known facts: rates, lag, time until nothing waits, and advice that is never wrong."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from worker.broker.management import QueueStatistics
from worker.ledger.operator_pauses import OperatorPause, PauseKind
from worker.ledger.pauses import Pause
from worker.ledger.workers import KnownWorker, LaneProgress, WorkerKind, WorkerState
from worker.status import BrokerFacts, LaneStatus, LedgerFacts, QueueFacts, status_of

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
PAYMENTS, USAGE, BULK, HELD = "billing.payments", "billing.usage", "billing.bulk", "billing.held"

WORKER = KnownWorker(
    name="host:1:aa",
    kind=WorkerKind.WORKER,
    host="host",
    pid=1,
    version="0.5.0",
    settings_hash="s",
    started_at=NOW - timedelta(hours=1),
    seen_at=NOW,
    state=WorkerState.CONSUMING,
    catalog_hash="c",
    lanes={queue: LaneProgress(10, 100.0, NOW - timedelta(seconds=7)) for queue in (PAYMENTS, USAGE, BULK)},
)
LANE = OperatorPause(1, USAGE, None, PauseKind.PAUSE, "a wrong price", "ann", NOW)
TYPE = replace(LANE, type="usage.deduct")
FAULTS = Pause(USAGE, "host:1", "consecutive_faults", "100 in a row", NOW)


def broker(depth: int | None = 0, *, at: datetime = NOW, held: int = 0, **facts: object) -> BrokerFacts:
    """Return what the broker says of the usage queue; nothing waits in the others."""
    queues = {queue: QueueFacts(0, 1) for queue in (PAYMENTS, BULK)}
    usage = QueueFacts(depth, **{"consumers": 1, **facts})  # type: ignore[arg-type]
    return BrokerFacts(at, {**queues, USAGE: usage, HELD: QueueFacts(held)})


def ledger(*workers: KnownWorker, **facts: object) -> LedgerFacts:
    return LedgerFacts(workers, **facts)  # type: ignore[arg-type]


def usage_of(
    found: BrokerFacts, known: LedgerFacts | None = None, before: BrokerFacts | None = None
) -> LaneStatus:
    return status_of(found, ledger(WORKER) if known is None else known, before).lanes[1]


def advice_on(found: BrokerFacts, known: LedgerFacts) -> tuple[list[str], bool]:
    status = status_of(found, known)
    return [one.text for one in status.advice], status.needs_somebody


# -- numbers ----------------------------------------------------------------------------------------------


def test_rates_are_those_that_the_broker_counts() -> None:
    lane = usage_of(broker(600, arrivals=40.0, departures=100.0))
    assert (lane.arrivals, lane.departures, lane.eta) == (40.0, 100.0, timedelta(seconds=10))


def test_rates_come_from_workers_and_two_depths_where_the_broker_counts_none() -> None:
    before = broker(500, at=NOW - timedelta(seconds=2))
    lane = usage_of(broker(600), ledger(WORKER, replace(WORKER, name="host:2:bb")), before)
    assert (lane.departures, lane.arrivals, lane.growth) == (200.0, 250.0, 50.0)
    assert lane.eta is None, "it grows"


def test_rates_that_nobody_knows_are_unknown() -> None:
    assert usage_of(broker(600)).arrivals is None, "one look tells no arrivals"
    new = replace(WORKER, lanes={USAGE: LaneProgress(per_second=None)})
    lane = usage_of(broker(600), ledger(WORKER, new), broker(600, at=NOW - timedelta(seconds=2)))
    assert (lane.departures, lane.arrivals, lane.eta) == (None, None, None)
    stranger = usage_of(broker(600, consumers=1), ledger())
    assert stranger.departures is None, "a process that is not known consumes"


def test_queue_without_consumers_has_no_departures() -> None:
    lane = usage_of(broker(600, consumers=0), ledger(), broker(500, at=NOW - timedelta(seconds=10)))
    assert (lane.departures, lane.arrivals, lane.eta) == (0.0, 10.0, None)


def test_lag_is_the_age_of_what_is_taken_now_and_unknown_while_nothing_is() -> None:
    assert usage_of(broker(600)).lag == timedelta(seconds=7)
    assert usage_of(broker(600, oldest_at=NOW - timedelta(minutes=1))).lag == timedelta(minutes=1)
    assert usage_of(broker(0), ledger()).lag == timedelta(0), "nothing waits"
    assert usage_of(broker(600), ledger()).lag is None
    paused = replace(WORKER, lanes={USAGE: replace(WORKER.lanes[USAGE], paused="by ann")})
    assert usage_of(broker(600), ledger(paused)).lag is None


def test_unknown_depth_is_no_zero() -> None:
    lag = timedelta(seconds=7)
    lane = usage_of(BrokerFacts(NOW, problem="away"))
    assert (lane.depth, lane.consumers, lane.arrivals, lane.lag, lane.eta) == (None, None, None, lag, None)


def test_statistics_of_the_management_api_are_read_as_far_as_it_counts() -> None:
    counted = {
        "message_stats": {"publish_details": {"rate": 3}, "ack_details": {"rate": 2.5}},
        "head_message_timestamp": 1_764_158_400,
    }
    found = QueueStatistics.parse(counted)
    assert (found.arrivals, found.departures) == (3.0, 2.5)
    assert found.oldest_at == datetime(2025, 11, 26, 12, tzinfo=UTC)
    for nothing in (
        {},
        {"message_stats": {"publish": 7}},
        {"head_message_timestamp": ""},
        {"head_message_timestamp": 2**64 - 1},
    ):
        assert QueueStatistics.parse(nothing) == QueueStatistics()


# -- advice -----------------------------------------------------------------------------------------------

ENDED = replace(TYPE, ended_at=NOW)
WAITING = replace(WORKER, state=WorkerState.WAITING, why="the database")
STARTING = replace(WORKER, state=WorkerState.STARTING)
PAUSED = replace(WORKER, state=WorkerState.PAUSED, why="the schema is too new")
SILENT = replace(WORKER, seen_at=NOW - timedelta(minutes=5))
WAIT = "5 messages wait in billing.usage"
UNTAKEN = (
    "3 messages wait in partitions of billing.usage that no worker takes: see `billing-worker check`, "
    "and BILLING_PARTITIONS of the workers"
)
START = f"{WAIT} and no worker runs: start one with `billing-worker run`"
STRANGER = f"{WAIT}; it is consumed by processes that are not known, such as an older version"
SINCE = "since 2026-11-26 12:00:00 UTC"
OF_LANE = f"usage is paused by ann {SINCE}: a wrong price; to go on: `billing-worker resume usage`"
OF_TYPE = f"usage.deduct of {OF_LANE[:-1]} --type usage.deduct`"
OF_WORKER = (
    f"usage is paused (consecutive faults) by host:1 {SINCE}: 100 in a row; "
    "to go on: `billing-worker resume usage`"
)
SCHEMA = replace(FAULTS, code="schema_unusable", text="update the worker")
OF_SCHEMA = (
    f"usage is paused (schema unusable) by host:1 {SINCE}: update the worker; it goes on by itself then"
)
KILLED = "worker host:1 was last seen at 11:55:00 UTC: it was killed, or doesn't reach the database"
GROWS = (
    "2,000 messages wait in billing.usage, 300 more each second: 1 workers take 100 a second; "
    "if their machines have room, run more"
)
OTHER_SETTINGS = replace(WORKER, pid=2, settings_hash="t", settings={"BILLING_TRIES": 5})


@pytest.mark.parametrize(
    ("found", "known", "texts", "needs"),
    [
        (broker(), ledger(WORKER), [], False),
        (broker(5), ledger(WORKER), [], False),
        (broker(), ledger(), [], False),
        (broker(5, consumers=0), ledger(), [START], True),
        (broker(5, consumers=None), ledger(), [START], True),
        (broker(5, consumers=0), ledger(WAITING), [f"{WAIT}; workers wait for a server: the database"], True),
        (broker(5, consumers=0), ledger(STARTING), [f"{WAIT}; a worker is starting"], False),
        (
            broker(5, consumers=0),
            ledger(PAUSED),
            [f"{WAIT}; the workers are paused: the schema is too new"],
            True,
        ),
        (broker(5, consumers=2), ledger(), [STRANGER], False),
        (
            broker(5, consumers=0),
            ledger(problem="down"),
            ["the database: down; workers and pauses are unknown"],
            True,
        ),
        (
            BrokerFacts(NOW, problem="down"),
            ledger(WORKER),
            ["the broker: down; depths are unknown, workers wait for it"],
            True,
        ),
        (broker(5, consumers=0), ledger(WORKER, by_operators=[LANE]), [OF_LANE], True),
        (broker(5, consumers=0), ledger(by_workers=[FAULTS]), [OF_WORKER], True),
        (broker(5, held=3), ledger(WORKER, by_operators=[TYPE]), [OF_TYPE], True),
        (broker(5, consumers=0), ledger(by_workers=[SCHEMA]), [OF_SCHEMA], True),
        (
            broker(held=3),
            ledger(WORKER, by_operators=[ENDED]),
            ["3 held messages return to their lanes now"],
            False,
        ),
        (
            broker(held=3),
            ledger(WORKER),
            ["3 held messages return within five minutes: no pause holds them"],
            False,
        ),
        (
            broker(held=3),
            ledger(by_operators=[ENDED]),
            ["3 held messages return when a worker runs: `billing-worker run`"],
            True,
        ),
        (broker(), ledger(SILENT), [KILLED], False),
        (
            broker(),
            ledger(WORKER, replace(WORKER, catalog_hash="d")),
            ["workers price with different catalogs: give all of them the same one"],
            True,
        ),
        (
            broker(),
            ledger(WORKER, replace(WORKER, version="0.4.0")),
            ["workers of versions 0.4.0 and 0.5.0 run beside each other"],
            False,
        ),
        (
            broker(),
            ledger(WORKER, OTHER_SETTINGS),
            ["worker host:2 differs from host:1 in BILLING_TRIES"],
            False,
        ),
        (broker(2_000, arrivals=400.0, departures=100.0), ledger(WORKER), [GROWS], False),
        (broker(5, untaken=3), ledger(WORKER), [UNTAKEN], True),
        (broker(5, untaken=3), ledger(WORKER, by_operators=[LANE]), [OF_LANE], True),
    ],
)
def test_advice_follows_from_what_is_known(
    found: BrokerFacts, known: LedgerFacts, texts: list[str], *, needs: bool
) -> None:
    assert advice_on(found, known) == (texts, needs)


@pytest.mark.parametrize(
    "known",
    [
        ledger(by_operators=[LANE]),
        ledger(by_workers=[FAULTS]),
        ledger(WORKER, by_operators=[LANE]),
        ledger(WAITING),
        ledger(STARTING),
        ledger(PAUSED),
        ledger(problem="down"),
    ],
)
def test_advice_to_start_a_worker_needs_certainty_that_none_is_there(known: LedgerFacts) -> None:
    texts, _ = advice_on(broker(5, consumers=0), known)
    assert texts
    assert not [text for text in texts if "start one" in text or "billing-worker run`" in text]


def test_status_has_the_unknown_as_null_in_json() -> None:
    shown = status_of(BrokerFacts(NOW, problem="down"), ledger(SILENT)).to_dict()
    (_, lane, _), (worker,) = shown["lanes"], shown["workers"]
    assert (lane["lane"], lane["depth"], lane["etaSeconds"], lane["workers"]) == ("usage", None, None, 0)
    assert (worker["state"], shown["held"], shown["needsSomebody"]) == (None, None, True)
