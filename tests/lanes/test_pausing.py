"""Paused lanes: tries and their times, ends of a pause, and its display."""

import random
from datetime import UTC, datetime

import pytest

from tests.support.fakes import FakeLink, FakePauses, delivery
from worker.errors import LedgerUnavailableError
from worker.lanes.pausing import PROBE_MOST_S, Lanes
from worker.messages.dead_letter_limit import LimitExceeded, PauseCode
from worker.metrics import Metrics
from worker.pipeline import Item

NOW = datetime(2026, 11, 26, tzinfo=UTC)
USAGE, PAYMENTS = "billing.usage", "billing.payments"
FAULTS = LimitExceeded(USAGE, PauseCode.CONSECUTIVE_FAULTS, "100 in a row")
SUSPICION = LimitExceeded(USAGE, PauseCode.CONFIG_SUSPECT, "501 of 700")


class World:
    """Lanes with a clock, a record, a link and metrics of their own."""

    def __init__(self) -> None:
        self.now, self.record, self.link, self.metrics = 0.0, FakePauses(), FakeLink(), Metrics()
        self.lanes = Lanes(
            self.record,
            worker="w",
            config="c",
            clock=lambda: NOW,
            rng=random.Random(1),
            metrics=self.metrics,
            seconds=lambda: self.now,
        )

    def gauge(self, code: str) -> float | None:
        labels = {"lane": USAGE, "code": code}
        return self.metrics.registry.get_sample_value("billing_worker_lane_paused", labels)


@pytest.fixture
def world() -> World:
    return World()


def item() -> Item:
    return Item(delivery(b"{}"))


def test_paused_lane_gives_back_what_it_holds_and_takes_one_message(world: World) -> None:
    world.lanes.pause(world.link, FAULTS)
    assert world.link.given_back == [USAGE]
    assert world.link.holds == {USAGE: 1}
    assert world.gauge("consecutive_faults") == 1
    world.lanes.pause(world.link, SUSPICION)
    assert world.link.holds == {USAGE: 0}, "nothing is tried under suspicion"
    assert (world.gauge("consecutive_faults"), world.gauge("config_suspect")) == (0, 1)


def test_message_is_tried_at_growing_intervals(world: World) -> None:
    world.lanes.pause(world.link, FAULTS)
    probe, waits = item(), list[float]()
    world.lanes.hold(probe)
    for _ in range(12):
        began = world.now
        while world.lanes.due() is None:
            world.now += 0.1
        waits.append(world.now - began)
        world.lanes.failed(probe)
    assert waits[0] < 2 < waits[3] < waits[8]
    assert max(waits) <= 1.5 * PROBE_MOST_S + 0.1


def test_next_message_is_tried_after_one_that_is_told(world: World) -> None:
    world.lanes.pause(world.link, FAULTS)
    first, second = item(), item()
    world.now = 100.0
    for each in (first, second):
        world.lanes.hold(each)
    assert world.lanes.due() is first
    world.lanes.let_go(first)
    assert world.lanes.due() is second


def test_resumed_lane_holds_as_much_as_ever_and_returns_what_it_was_to_try(world: World) -> None:
    world.lanes.pause(world.link, FAULTS)
    probe = item()
    world.lanes.hold(probe)
    assert world.lanes.resume(world.link, USAGE, 1500, "why") == [probe]
    assert world.link.holds == {USAGE: 1500}
    assert not world.lanes.is_paused(USAGE)
    assert world.gauge("consecutive_faults") == 0


def test_pause_is_shown_with_the_next_look_and_ended_with_the_lane(world: World) -> None:
    world.lanes.pause(world.link, FAULTS)
    assert world.lanes.must_look
    assert world.lanes.look() == []
    assert [pause.queue for pause in world.record.lasting.values()] == [USAGE]
    assert not world.lanes.must_look
    world.lanes.resume(world.link, USAGE, 1500, "why")
    assert world.lanes.must_look
    world.lanes.look()
    assert world.record.lasting == {}


def test_operator_ends_a_pause(world: World) -> None:
    world.lanes.pause(world.link, FAULTS)
    world.lanes.look()
    world.record.resumed = set(world.record.lasting)
    assert world.lanes.look() == [USAGE]


def test_outage_hides_a_pause_until_a_later_look(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(*_: object) -> int:
        raise LedgerUnavailableError("down")

    world.lanes.pause(world.link, FAULTS)
    with monkeypatch.context() as outage:
        outage.setattr(world.record, "begin", unavailable)
        assert world.lanes.look() == []
    world.lanes.look()
    assert len(world.record.lasting) == 1


def test_suspicion_of_another_worker_is_adopted_and_stays_when_this_one_ends(world: World) -> None:
    world.record.suspicions = {USAGE: "501 of 700"}
    world.lanes.adopt_suspicions()
    world.lanes.adopt_suspicions()
    assert world.lanes.is_suspicion(USAGE)
    assert (world.lanes.holds(USAGE, 64), world.lanes.holds(PAYMENTS, 64)) == (0, 64)
    world.lanes.look()
    world.lanes.end()
    assert len(world.record.lasting) == 1


def test_pause_for_faults_ends_with_its_worker(world: World) -> None:
    world.lanes.pause(world.link, FAULTS)
    world.lanes.look()
    world.lanes.end()
    assert world.record.lasting == {}


def test_configuration_that_has_shown_to_be_right_is_accepted_once(world: World) -> None:
    world.lanes.accept_config()
    for _ in range(3):
        world.lanes.look()
    assert world.record.accepted == ["c"]
