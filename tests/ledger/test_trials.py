"""The record of messages on trial: what crashes leave, and what is forgotten."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from worker.ledger.trials import Trial, Trials

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
QUEUES = {"a": "billing.usage", "b": "billing.usage"}


@pytest.fixture
def trials(engine: Engine) -> Trials:
    return Trials(engine, "worker")


def test_finished_trial_leaves_nothing(trials: Trials) -> None:
    trials.begin(QUEUES, {}, NOW)
    assert trials.of(["a", "b", "c"]) == {"a": Trial(2, 0), "b": Trial(2, 0)}
    trials.end(["a", "b"])
    assert trials.of(["a", "b"]) == {}


def test_crashes_alone_are_counted_and_those_of_a_group_are_not(trials: Trials) -> None:
    alone = {"a": "billing.usage"}
    trials.begin(QUEUES, {}, NOW)
    for crashes in range(1, 4):
        trials.begin(alone, trials.of(["a"]), NOW)
        assert trials.of(["a", "b"]) == {"a": Trial(1, crashes), "b": Trial(2, 0)}


def test_withdrawn_trial_leaves_the_record_as_it_was(trials: Trials) -> None:
    trials.begin({"a": "billing.usage"}, {}, NOW)
    before = trials.of(["a", "b"])
    trials.begin(QUEUES, before, NOW)
    trials.withdraw(QUEUES, before, NOW)
    assert trials.of(["a", "b"]) == before == {"a": Trial(1, 1)}


def test_smallest_group_is_of_the_last_hour(trials: Trials) -> None:
    assert trials.smallest(NOW) is None
    trials.begin(QUEUES, {}, NOW)
    trials.begin({"c": "billing.payments"}, {}, NOW - timedelta(hours=2))
    assert trials.smallest(NOW) == 2


def test_record_of_a_message_that_never_came_again_is_forgotten_after_a_day(trials: Trials) -> None:
    trials.begin(QUEUES, {}, NOW)
    trials.smallest(NOW + timedelta(hours=25))
    assert trials.of(["a", "b"]) == {}
