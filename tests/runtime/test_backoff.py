"""Back-off and outages."""

import logging
import random

import pytest

from tests.support.fake_stop import FakeStop
from worker.errors import ConfigurationError, LedgerUnavailableError
from worker.runtime.backoff import Backoff, Outage, await_server


def test_waits_double_up_to_their_bound_until_a_success() -> None:
    backoff = Backoff(1.0, 8.0, random.Random(1))
    waits = [backoff.next() for _ in range(50)]
    assert all(0.5 * 2**n <= wait <= 1.5 * 2**n for n, wait in enumerate(waits[:3]))
    assert max(waits) <= 12.0
    assert min(waits[10:]) >= 4.0
    backoff.reset()
    assert backoff.next() <= 1.5


def test_outage_is_logged_once_when_it_begins_and_once_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now, begun = 100.0, list[int]()
    outage = Outage("database", "keeping all", on_begin=lambda: begun.append(1), seconds=lambda: now)
    outage.ended()
    for _ in range(5):
        outage.began(RuntimeError("no answer"))
    now = 107.5
    outage.ended()
    outage.ended()
    assert [record.getMessage() for record in caplog.records] == [
        "no answer: keeping all",
        "the database is back after 7.5 s and 5 tries",
    ]
    assert begun == [1]


def test_server_is_awaited_until_it_answers() -> None:
    errors = [LedgerUnavailableError("down")] * 3
    outage, stop = Outage("database", "waiting"), FakeStop()

    def probe() -> None:
        if errors:
            raise errors.pop()

    await_server(probe, outage, Backoff(1.0, 8.0, random.Random(1)), stop)
    assert len(stop.waited_s) == 3
    assert stop.waited_s == sorted(stop.waited_s)


def test_stop_ends_the_wait_for_a_server() -> None:
    def probe() -> None:
        raise LedgerUnavailableError("down")

    stop = FakeStop(waits_left=2)
    await_server(probe, Outage("database", "waiting"), Backoff(1.0, 8.0, random.Random(1)), stop)
    assert len(stop.waited_s) == 2


def test_error_that_no_wait_mends_is_raised_at_once() -> None:
    def probe() -> None:
        raise ConfigurationError("another schema")

    with pytest.raises(ConfigurationError):
        await_server(probe, Outage("database", "waiting"), Backoff(1.0, 8.0, random.Random(1)), FakeStop())
