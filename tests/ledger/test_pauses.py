"""Paused lanes as operators see and end them, and configurations that have shown to be right."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from worker.ledger.pauses import Pause, Pauses
from worker.ledger.workers import SILENT_AFTER

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
LATER = NOW + timedelta(seconds=10)
USAGE = Pause("billing.usage", "host:1", "consecutive_faults", "100 in a row", NOW)
CONFIG = Pause("billing.payments", "host:1", "config_suspect", "501 of 700", NOW)


@pytest.fixture
def pauses(engine: Engine) -> Pauses:
    return Pauses(engine)


def test_pause_lasts_while_its_worker_says_so(pauses: Pauses) -> None:
    pause_id = pauses.begin(USAGE, "config")
    assert pauses.lasting(LATER) == [USAGE]
    assert pauses.see([pause_id], LATER) == set()
    assert pauses.lasting(LATER + SILENT_AFTER - timedelta(seconds=1)) == [USAGE]
    assert pauses.lasting(LATER + SILENT_AFTER) == []


def test_worker_ends_its_own_pause(pauses: Pauses) -> None:
    pauses.end([pauses.begin(USAGE, "config")], LATER)
    assert pauses.lasting(LATER) == []


def test_worker_hears_that_an_operator_resumed_its_lane(pauses: Pauses) -> None:
    ids = [pauses.begin(USAGE, "config"), pauses.begin(CONFIG, "config")]
    assert pauses.resume("billing.usage", "ada", LATER) == [USAGE]
    assert pauses.see(ids, LATER) == {ids[0]}
    assert pauses.lasting(LATER) == [CONFIG]
    assert pauses.resume(None, "ada", LATER) == [CONFIG]
    assert pauses.resume(None, "ada", LATER) == []


def test_suspicion_holds_for_the_next_worker_with_the_same_configuration(pauses: Pauses) -> None:
    pauses.begin(CONFIG, "bad")
    long_after = NOW + timedelta(days=1)
    assert pauses.suspected("bad") == {"billing.payments": "501 of 700"}
    assert pauses.suspected("good") == {}
    assert pauses.lasting(long_after) == [], "nobody runs with it any more"


def test_resumed_suspicion_makes_the_configuration_right(pauses: Pauses) -> None:
    pauses.accept("before", "host:0", NOW)
    pauses.begin(CONFIG, "after")
    assert pauses.is_new("after")
    pauses.resume(None, "ada", LATER)
    assert not pauses.is_new("after")
    assert pauses.suspected("after") == {}


def test_resumed_suspicion_leaves_none_of_workers_that_have_ended(pauses: Pauses) -> None:
    pauses.begin(CONFIG, "after")  # by a worker that has ended since
    much_later = NOW + timedelta(hours=1)
    pauses.begin(replace(CONFIG, worker="host:2", began_at=much_later), "after")
    pauses.resume("billing.payments", "ada", much_later)
    assert pauses.suspected("after") == {}


def test_resume_accepts_no_configuration_that_nobody_runs_with(pauses: Pauses) -> None:
    pauses.accept("before", "host:0", NOW)
    pauses.begin(CONFIG, "rolled back")
    much_later = NOW + timedelta(hours=1)
    pauses.begin(replace(USAGE, began_at=much_later), "before")
    pauses.resume(None, "ada", much_later)
    assert pauses.is_new("rolled back")


def test_first_configuration_of_all_is_not_new(pauses: Pauses) -> None:
    assert not pauses.is_new("first")
    pauses.accept("first", "host:1", NOW)
    pauses.accept("first", "host:2", NOW)
    assert not pauses.is_new("first")
    assert pauses.is_new("second")
