"""Back-off and outages."""

import logging
import random

import pytest

from worker.runtime.backoff import Backoff, Outage


def test_waits_double_up_to_their_bound_and_begin_anew_after_a_success() -> None:
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
