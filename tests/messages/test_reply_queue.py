"""The default reply queue: what waits there and who reads it is told, with the way out where nobody does."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from math import isnan, nan
from typing import Any, cast

import pytest

from tests.support.fakes import FakeLink
from worker.broker import Link
from worker.errors import BrokerUnavailableError, ConfigurationError
from worker.messages.reply_queue import LOOK_EVERY_S, UNREAD_MAX, ReplyQueueStatus, ReplyQueueWatch
from worker.metrics import Metrics

QUEUE = "billing.replies"
WAY_OUT = ("`replies: none`", "`reply_to`", "`billing-worker replies --take`")


@dataclass
class ReplyQueue(FakeLink):
    """Link to a broker of which only the reply queue matters."""

    count: int = 0
    readers: int | None = 0
    error: Exception | None = None
    closed: bool = field(default=False, init=False)

    def depth(self, queue: str) -> int:
        assert queue == QUEUE
        if self.error is not None:
            raise self.error
        return self.count

    def consumers(self, queue: str) -> int | None:
        return self.readers

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("depth", "consumers", "text"),
    [
        (0, 0, "billing.replies has 0 waiting and no consumers"),
        (UNREAD_MAX - 1, 0, "billing.replies has 9,999 waiting and no consumers"),
        (5, 1, "billing.replies has 5 waiting and 1 consumer"),
        (5, None, "billing.replies has 5 waiting and consumers that the broker doesn't know"),
    ],
)
def test_few_replies_are_no_fault(depth: int, consumers: int | None, text: str) -> None:
    status = ReplyQueueStatus(QUEUE, depth, consumers)
    assert (status.is_unread, status.text) == (False, text)


@pytest.mark.parametrize(
    ("consumers", "begin"),
    [
        (0, "billing.replies has 135,000 waiting and nobody reads them: "),
        (None, "billing.replies has 135,000 waiting and nobody reads them: "),
        (2, "billing.replies has 135,000 waiting and 2 consumers, too slow for them: "),
    ],
)
def test_unread_replies_come_with_the_way_out(consumers: int | None, begin: str) -> None:
    status = ReplyQueueStatus(QUEUE, 135_000, consumers)
    assert status.is_unread
    assert status.text.startswith(begin)
    assert all(words in status.text for words in WAY_OUT)


def watched(connect: Callable[[], ReplyQueue]) -> tuple[ReplyQueueWatch, Callable[[], list[float]]]:
    """Return a watch, and its two metrics as they are served: depth and consumers."""
    metrics = Metrics()

    def values() -> list[float]:
        names = ("billing_worker_replies_waiting", "billing_worker_reply_consumers")
        found = map(metrics.registry.get_sample_value, names)
        return [nan if value is None else value for value in found]

    return ReplyQueueWatch(cast(Callable[[], Link], connect), QUEUE, metrics), values


def test_watch_serves_what_it_sees_and_closes_its_link(caplog: pytest.LogCaptureFixture) -> None:
    link = ReplyQueue(count=7, readers=2)
    watch, values = watched(lambda: link)
    assert all(map(isnan, values())), "nobody has looked yet"
    watch.look()
    assert (values(), link.closed, caplog.text) == ([7.0, 2.0], True, "")


@pytest.mark.parametrize("error", [BrokerUnavailableError("away"), ConfigurationError("refused")])
def test_watch_does_not_know_what_an_outage_hides(error: Exception) -> None:
    link = ReplyQueue(count=7, readers=2)
    watch, values = watched(lambda: link)
    watch.look()
    link.error = error
    watch.look()
    assert all(map(isnan, values()))


def test_watch_does_not_know_consumers_that_the_broker_cannot_count() -> None:
    watch, values = watched(lambda: ReplyQueue(count=7, readers=None))
    watch.look()
    depth, consumers = values()
    assert depth == 7.0
    assert isnan(consumers)


def test_watch_warns_once_of_replies_that_nobody_reads(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    watch, _ = watched(lambda: ReplyQueue(count=UNREAD_MAX))
    for _ in range(3):
        watch.look()
    (record,) = caplog.records
    assert (record.levelname, "nobody reads them" in record.getMessage()) == ("WARNING", True)


def test_watch_looks_until_it_is_stopped() -> None:
    looks: list[None] = []

    class StopAfterThree:
        requested = False

        def wait(self, seconds: float) -> None:
            assert seconds == LOOK_EVERY_S
            self.requested = len(looks) == 3

    def connect() -> Any:
        looks.append(None)
        raise BrokerUnavailableError("away")

    watch, _ = watched(connect)
    watch.run(StopAfterThree())
    assert len(looks) == 3
