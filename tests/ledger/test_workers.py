"""Rows of the processes that run: written, read, ended, and removed when they are old."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from worker.ledger.workers import (
    KEPT_FOR,
    SILENT_AFTER,
    KnownWorker,
    LaneProgress,
    Workers,
    WorkerState,
    seen_by_all,
)
from worker.ledger.workers import WorkerKind as Kind

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
WORKER = KnownWorker(
    name="host:1:aa",
    kind=Kind.WORKER,
    host="host",
    pid=1,
    version="0.5.0",
    settings_hash="abc",
    started_at=NOW,
    seen_at=NOW,
    settings={"BILLING_BATCH_SIZE": 100},
    lanes={"billing.usage": LaneProgress(12, 2.5, NOW, None)},
)


@pytest.fixture
def workers(engine: Engine) -> Workers:
    return Workers(engine)


def test_row_is_what_its_process_said_last(workers: Workers) -> None:
    workers.write(WORKER)
    later = replace(WORKER, state=WorkerState.PAUSED, why="by ann", last_batch_at=NOW, last_batch_size=3)
    workers.write(later)
    assert workers.all(NOW) == [later]


def test_ended_process_is_listed_no_more(workers: Workers) -> None:
    workers.write(WORKER)
    workers.end(WORKER.name, NOW)
    assert workers.all(NOW) == []


def test_silent_process_stays_listed_until_its_row_is_removed(workers: Workers) -> None:
    workers.write(WORKER)
    silent = NOW + SILENT_AFTER
    assert [one.is_silent(silent) for one in workers.all(silent)] == [True]
    workers.remove_old(silent)
    assert len(workers.all(silent)) == 1
    long_after = NOW + KEPT_FOR + timedelta(seconds=1)
    assert workers.all(long_after) == []
    workers.remove_old(long_after)
    assert workers.all(NOW) == []


def test_worker_consumes_a_lane_that_it_serves_and_has_not_paused() -> None:
    consuming = replace(WORKER, state=WorkerState.CONSUMING)
    assert consuming.consumes("billing.usage")
    assert not consuming.consumes("billing.payments")
    assert not WORKER.consumes("billing.usage"), "it is starting"
    paused = replace(consuming, lanes={"billing.usage": LaneProgress(paused="by ann")})
    assert not paused.consumes("billing.usage")


def test_pauses_are_obeyed_by_all_as_far_as_the_last_living_worker() -> None:
    early = replace(WORKER, pauses_seen_at=NOW)
    late = replace(WORKER, name="w:2", pauses_seen_at=NOW + timedelta(seconds=3))
    silent = replace(WORKER, name="w:3", seen_at=NOW - SILENT_AFTER)
    reader = replace(WORKER, name="w:4", kind=Kind.READER)
    assert seen_by_all([early, late, silent, reader], NOW) == NOW
    assert seen_by_all([early, WORKER], NOW) is None, "one obeys none yet"
    assert seen_by_all([silent, reader], NOW) is None, "none lives"
