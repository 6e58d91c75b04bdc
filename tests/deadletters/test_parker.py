"""Parking as letters come: through outages, and past a letter that nobody can keep."""

import logging
import random
from collections.abc import Callable

import pytest

from tests.deadletters.parts import DeadQueue, World, failed
from worker.broker import Delivery, Link
from worker.deadletters import office as office_module
from worker.deadletters.desk import Desk
from worker.deadletters.letters import Reason
from worker.deadletters.office import NotKeptError
from worker.deadletters.parker import Parker
from worker.errors import BrokerUnavailableError


def parker(world: World, connect: Callable[[], Link]) -> Parker:
    return Parker(connect, world.office, random.Random(1))


class Queue(DeadQueue):
    """Ends the loop when nothing waits any more."""

    def __init__(self, world: World) -> None:
        super().__init__(failed(b"one"), failed(b"two"))
        self._world = world

    def receive(self, most: int, timeout_s: float) -> list[Delivery]:
        found = super().receive(most, timeout_s)
        self._world.is_stopped = not found
        return found


def test_letters_are_parked_as_long_as_it_runs(world: World) -> None:
    queue = Queue(world)
    parker(world, lambda: queue.link).run(world)
    assert queue.acknowledged == 2
    assert world.office.counts().parked == 2


def test_an_outage_is_told_once_and_waited_out(world: World, caplog: pytest.LogCaptureFixture) -> None:
    queue, tries = Queue(world), iter(range(5))

    def connect() -> Link:
        if next(tries, None) is not None:
            raise BrokerUnavailableError("the broker is away")
        return queue.link

    with caplog.at_level(logging.INFO):
        parker(world, connect).run(world)
    assert caplog.text.count("dead letters wait in their queue until it is back") == 1
    assert caplog.text.count("dead letters are parked again") == 1
    assert world.office.counts().parked == 2


class _Endless(DeadQueue):
    """One letter after the other, without a pause; the stop comes with the fifth."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self.given = 0

    def receive(self, most: int, timeout_s: float) -> list[Delivery]:
        self.given += 1
        self._world.is_stopped = self.given >= 5
        return [failed(b"%d" % self.given)] if self.given < 100 else []


def test_letters_that_never_cease_do_not_keep_it_from_the_stop(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    queue = _Endless(world)
    with caplog.at_level(logging.INFO):
        parker(world, lambda: queue.link).run(world)
    assert queue.given == queue.acknowledged == 5
    assert caplog.text.count("parked 5 dead letters") == 1, "once, not five times"


def test_a_letter_that_cannot_be_kept_is_held_and_not_given_back(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _poison(monkeypatch)
    queue, opened = Queue(world), list[Link]()
    queue.waiting.appendleft(failed(b"bad", reason=Reason("unprocessable", "poison")))
    monkeypatch.setattr(office_module, "_BATCH", 1)

    def connect() -> Link:
        opened.append(queue.link)
        return queue.link

    parker(world, connect).run(world)
    assert len(opened) == 1, "a link that is closed gives it back, which counts a delivery"
    assert (queue.acknowledged, world.office.counts().parked) == (2, 2)
    assert caplog.text.count("they stay in their queue") == 1


def _poison(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Desk.close

    def close(desk: Desk) -> None:
        if any(event["text"] == "poison" for event in desk._events):
            raise OverflowError("nobody foresaw this")
        real(desk)

    monkeypatch.setattr(Desk, "close", close)


def test_a_letter_that_cannot_be_kept_holds_no_other_up_and_stays_in_its_queue(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _poison(monkeypatch)
    queue = DeadQueue(
        failed(b"one"), failed(b"bad", reason=Reason("unprocessable", "poison")), failed(b"two")
    )
    assert world.office.park(queue.link) == 2
    assert queue.acknowledged == 2
    assert [letter.body for letter in world.parked()] == [b"one", b"two"]
    assert "a dead letter can't be kept (OverflowError)" in caplog.text
    assert "poison" not in caplog.text, "what it holds is the producer's"
    alone = DeadQueue(failed(b"bad", reason=Reason("unprocessable", "poison")))
    with pytest.raises(NotKeptError, match="they stay in their queue"):
        world.office.park(alone.link)
    assert alone.acknowledged == 0
