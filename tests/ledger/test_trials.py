"""The record of messages on trial: what crashes leave, and what is forgotten."""

from datetime import UTC, datetime, timedelta
from threading import Thread

import pytest
from sqlalchemy import Engine

from worker.errors import TransientError
from worker.ledger.trials import Trial, Trials, Trying

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
QUEUES = {"a": Trying("billing.usage", 3), "b": Trying("billing.usage", 4)}
ALONE = {"a": QUEUES["a"]}


@pytest.fixture
def trials(engine: Engine) -> Trials:
    return Trials(engine, "worker")


def test_finished_trial_leaves_nothing(trials: Trials) -> None:
    trials.begin(QUEUES, {}, NOW)
    assert trials.of(["a", "b", "c"]) == {"a": Trial(2, 0, 3), "b": Trial(2, 0, 4)}
    trials.end(["a", "b"])
    assert trials.of(["a", "b"]) == {}


def test_crashes_alone_are_counted_and_those_of_a_group_are_not(trials: Trials) -> None:
    trials.begin(QUEUES, {}, NOW)
    for crashes in range(1, 4):
        trials.begin(ALONE, trials.of(["a"]), NOW)
        assert trials.of(["a", "b"]) == {"a": Trial(1, crashes, 3), "b": Trial(2, 0, 4)}


def test_withdrawn_trial_leaves_the_record_as_it_was(trials: Trials) -> None:
    trials.begin(ALONE, {}, NOW)
    before = trials.of(["a", "b"])
    trials.begin(QUEUES, before, NOW)
    trials.withdraw(QUEUES, before, NOW)
    assert trials.of(["a", "b"]) == before == {"a": Trial(1, 1, 3)}


def test_smallest_group_is_of_the_last_hour(trials: Trials) -> None:
    assert trials.smallest(NOW) is None
    trials.begin(QUEUES, {}, NOW)
    trials.begin({"c": Trying("billing.payments", 9)}, {}, NOW - timedelta(hours=2))
    assert trials.smallest(NOW) == 2


def test_record_of_a_message_that_never_came_again_is_forgotten_after_a_day(trials: Trials) -> None:
    trials.begin(QUEUES, {}, NOW)
    trials.smallest(NOW + timedelta(hours=25))
    assert trials.of(["a", "b"]) == {}


def test_copies_that_are_tried_at_once_disturb_nobody(postgres_engine: Engine) -> None:
    failures: list[Exception] = []

    def try_often(worker: str) -> None:
        trials = Trials(postgres_engine, worker)
        try:
            for _ in range(50):
                trials.begin(QUEUES, {}, NOW)
                trials.end(["a", "b"])
        except TransientError:
            return  # an outage or contention is waited out
        except Exception as error:  # noqa: BLE001 - any ends a worker
            failures.append(error)

    threads = [Thread(target=try_often, args=(str(number),)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
