"""Drainer of dead letters: it survives outages and passes a dead letter that cannot be stored."""

import logging
import random
from collections.abc import Callable
from typing import Any

import pytest

from schemas import DeadLetterReason, DeductUsage
from tests.deadletters.parts import DeadQueue, World, deduct, failed
from worker.broker import BulkShare, Consumes, Delivery
from worker.deadletters import link_drainer
from worker.deadletters.drainer import Drainer
from worker.deadletters.store.transaction import DeadLetterTransaction
from worker.errors import BrokerUnavailableError, LedgerUnavailableError, NotKeptError
from worker.messages.dead_letters import Failure


def drainer(world: World, connect: Callable[[], Consumes], **options: Any) -> Drainer:
    return Drainer(connect, world.service, random.Random(1), **options)


class EndingQueue(DeadQueue):
    """Queue of two dead letters that ends the loop when it is empty."""

    def __init__(self, world: World) -> None:
        super().__init__(failed(b"one"), failed(b"two"))
        self._world = world

    def receive(self, most: int, timeout_s: float, bulk: BulkShare | None = None) -> list[Delivery]:
        found = super().receive(most, timeout_s, bulk)
        self._world.is_stopped = not found
        return found


def test_dead_letters_are_drained_as_long_as_it_runs(world: World) -> None:
    queue = EndingQueue(world)
    drainer(world, lambda: queue).run(world)
    assert len(queue.acknowledged) == 2
    assert world.service.counts().parked == 2


def test_outage_of_the_broker_is_logged_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    queue, tries = EndingQueue(world), iter(range(5))

    def connect() -> Consumes:
        if next(tries, None) is not None:
            raise BrokerUnavailableError("the broker is away")
        return queue

    with caplog.at_level(logging.INFO):
        drainer(world, connect).run(world)
    assert caplog.text.count("dead letters wait in their queue until it is back") == 1
    assert caplog.text.count("the broker is back after") == 1
    assert world.service.counts().parked == 2


def test_drainer_takes_nothing_before_the_database_takes_writes(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    queue, failures, probes = EndingQueue(world), iter(range(4)), list[int]()

    def probe() -> None:
        probes.append(len(queue.waiting))
        if next(failures, None) is not None:
            raise LedgerUnavailableError("read-only")

    monkeypatch.setattr(world.service, "probe", probe)
    with caplog.at_level(logging.INFO):
        drainer(world, lambda: queue).run(world)
    assert probes == [2] * 5
    assert caplog.text.count("the database is back after") == 1
    assert world.service.counts().parked == 2


@pytest.mark.parametrize(("hold_most_s", "links"), [(1_000.0, 1), (-1.0, 2)])
def test_drainer_returns_deliveries_before_the_broker_takes_them_in_a_long_outage(
    world: World, monkeypatch: pytest.MonkeyPatch, hold_most_s: float, links: int
) -> None:
    queue, failures, opened = EndingQueue(world), iter(range(3)), list[int]()
    real = world.service._ingest

    def ingest(deliveries: Any) -> None:
        if next(failures, None) is not None:
            raise LedgerUnavailableError("down")
        real(deliveries)

    def connect() -> Consumes:
        opened.append(len(queue.waiting))
        return queue

    monkeypatch.setattr(world.service, "_ingest", ingest)
    drainer(world, connect, hold_most_s=hold_most_s).run(world)
    assert len(opened) >= links
    assert (len(opened) == 1) == (links == 1)
    assert world.service.counts().parked == 2


class _Endless(DeadQueue):
    """Queue that gives one dead letter after the other; the stop comes with the fifth."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self.given = 0

    def receive(self, most: int, timeout_s: float, bulk: BulkShare | None = None) -> list[Delivery]:
        self.given += 1
        self._world.is_stopped = self.given >= 5
        return [failed(b"%d" % self.given)] if self.given < 100 else []


def test_dead_letters_that_never_cease_do_not_keep_it_from_the_stop(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    queue = _Endless(world)
    with caplog.at_level(logging.INFO):
        drainer(world, lambda: queue).run(world)
    assert queue.given == len(queue.acknowledged) == 5
    assert caplog.text.count("drained 5 dead letters") == 1, "once, not five times"


def test_a_dead_letter_that_cannot_be_kept_is_held_and_not_given_back(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _poison(monkeypatch)
    queue, opened = EndingQueue(world), list[Consumes]()
    queue.waiting.appendleft(failed(b"bad", reason=Failure(DeadLetterReason.UNPROCESSABLE, "poison")))
    monkeypatch.setattr(link_drainer, "_BATCH", 1)

    def connect() -> Consumes:
        opened.append(queue)
        return queue

    drainer(world, connect).run(world)
    assert len(opened) == 1, "a link that is closed gives it back, which counts a delivery"
    assert (len(queue.acknowledged), world.service.counts().parked) == (2, 2)
    assert caplog.text.count("they stay in their queue") == 1


def _poison(monkeypatch: pytest.MonkeyPatch) -> None:
    real = DeadLetterTransaction.flush

    def flush(transaction: DeadLetterTransaction) -> None:
        if any(event["text"] == "poison" for event in transaction._events):
            raise OverflowError("nobody foresaw this")
        real(transaction)

    monkeypatch.setattr(DeadLetterTransaction, "flush", flush)


def test_a_dead_letter_that_cannot_be_kept_holds_no_other_up_and_stays_in_its_queue(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _poison(monkeypatch)
    queue = DeadQueue(
        failed(b"one"),
        failed(b"bad", reason=Failure(DeadLetterReason.UNPROCESSABLE, "poison")),
        failed(b"two"),
    )
    assert world.service.drain(queue) == 2
    assert len(queue.acknowledged) == 2
    assert [dead_letter.body for dead_letter in world.parked()] == [b"one", b"two"]
    assert "a dead letter can't be kept (OverflowError)" in caplog.text
    assert "poison" not in caplog.text, "what it holds is the producer's"
    alone = DeadQueue(failed(b"bad", reason=Failure(DeadLetterReason.UNPROCESSABLE, "poison")))
    with pytest.raises(NotKeptError, match="they stay in their queue"):
        world.service.drain(alone)
    assert alone.acknowledged == []


def test_drainer_finds_dead_letters_applied_meanwhile(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.open("ann")
    (number,) = world.park_failed(deduct("r-1"))
    world.apply(DeductUsage(reference_id="r-1", user_id="ann", tokens=5))
    queue = EndingQueue(world)
    with caplog.at_level(logging.INFO):
        drainer(world, lambda: queue).run(world)
    assert world.service.dead_letter(number).state == "applied"
    assert "1 dead letters were applied meanwhile: confirm them with" in caplog.text
