"""Paused lanes: tries and their times, ends of a pause, and its display."""

import random
from datetime import UTC, datetime

import pytest

from tests.support.fakes import FakeLink, FakePauses, delivery, operator_paused_lanes
from worker.errors import LedgerUnavailableError
from worker.lanes.pausing import PROBE_MOST_S, Lanes, is_new_config
from worker.messages.dead_letter_limit import DeadLetterLimit, LimitExceeded, PauseCode
from worker.metrics import Metrics
from worker.pipeline import Item

NOW = datetime(2026, 11, 26, tzinfo=UTC)
USAGE, PAYMENTS = "billing.usage", "billing.payments"
FAULTS = LimitExceeded(USAGE, PauseCode.CONSECUTIVE_FAULTS, "100 in a row")
CONFIG_PAUSE = LimitExceeded(USAGE, PauseCode.CONFIG_SUSPECT, "501 of 700")


class LanesWorld:
    """Lanes with a clock, a record, a link and metrics of their own."""

    def __init__(self, *, is_new_config: bool = False) -> None:
        self.now, self.record, self.link, self.metrics = 0.0, FakePauses(), FakeLink(), Metrics()
        self.limit = DeadLetterLimit(1, is_new_config=is_new_config)
        self.lanes = Lanes(
            [PAYMENTS, USAGE],
            self.limit,
            self.record,
            worker="w",
            config="c",
            clock=lambda: NOW,
            rng=random.Random(1),
            metrics=self.metrics,
            operator=operator_paused_lanes([PAYMENTS, USAGE], self.metrics),
            seconds=lambda: self.now,
        )

    def gauge(self, code: str) -> float | None:
        labels = {"lane": USAGE, "code": code}
        return self.metrics.registry.get_sample_value("billing_worker_lane_paused", labels)


@pytest.fixture
def world() -> LanesWorld:
    return LanesWorld()


def item() -> Item:
    return Item(delivery(b"{}"))


def test_paused_lane_gives_back_what_it_holds_and_takes_one_message(world: LanesWorld) -> None:
    world.lanes.pause(world.link, FAULTS)
    assert world.link.given_back == [USAGE]
    assert world.link.holds == {USAGE: 1}
    assert world.gauge("consecutive_faults") == 1
    world.lanes.pause(world.link, CONFIG_PAUSE)
    assert world.link.holds == {USAGE: 0}, "nothing is tried under a suspect configuration"
    assert (world.gauge("consecutive_faults"), world.gauge("config_suspect")) == (0, 1)


def test_message_is_tried_at_growing_intervals(world: LanesWorld) -> None:
    world.lanes.pause(world.link, FAULTS)
    probe, waits = item(), list[float]()
    world.lanes.add_probe(probe)
    for _ in range(12):
        began = world.now
        while world.lanes.next_probe() is None:
            world.now += 0.1
        waits.append(world.now - began)
        world.lanes.postpone(probe)
    assert waits[0] < 2 < waits[3] < waits[8]
    assert max(waits) <= 1.5 * PROBE_MOST_S + 0.1


def test_next_message_is_tried_after_one_that_is_answered(world: LanesWorld) -> None:
    world.lanes.pause(world.link, FAULTS)
    first, second = item(), item()
    world.now = 100.0
    for each in (first, second):
        world.lanes.add_probe(each)
    assert world.lanes.next_probe() is first
    world.lanes.remove_probe(first)
    assert world.lanes.next_probe() is second


def test_resumed_lane_takes_its_full_prefetch_and_returns_untried_messages(world: LanesWorld) -> None:
    world.lanes.open(1500)
    world.lanes.pause(world.link, FAULTS)
    probe = item()
    world.lanes.add_probe(probe)
    assert world.lanes.resume(world.link, USAGE, "why") == [probe]
    assert world.link.holds == {USAGE: 1500}
    assert not world.lanes.is_paused(USAGE)
    assert world.gauge("consecutive_faults") == 0


def test_pause_is_recorded_at_the_next_sync_and_ended_with_the_lane(world: LanesWorld) -> None:
    world.lanes.pause(world.link, FAULTS)
    assert world.lanes.must_sync
    assert world.lanes.sync() == []
    assert [pause.queue for pause in world.record.lasting.values()] == [USAGE]
    assert not world.lanes.must_sync
    world.lanes.resume(world.link, USAGE, "why")
    assert world.lanes.must_sync
    world.lanes.sync()
    assert world.record.lasting == {}


def test_operator_ends_a_pause(world: LanesWorld) -> None:
    world.lanes.pause(world.link, FAULTS)
    world.lanes.sync()
    world.record.resumed = set(world.record.lasting)
    assert world.lanes.sync() == [USAGE]


def test_outage_leaves_a_pause_to_a_later_sync(world: LanesWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(*_: object) -> int:
        raise LedgerUnavailableError("down")

    world.lanes.pause(world.link, FAULTS)
    with monkeypatch.context() as outage:
        outage.setattr(world.record, "begin", unavailable)
        assert world.lanes.sync() == []
    world.lanes.sync()
    assert len(world.record.lasting) == 1


def test_config_pause_of_another_worker_is_adopted_and_outlasts_this_one(world: LanesWorld) -> None:
    world.record.suspicions = {USAGE: "501 of 700"}
    world.lanes.adopt_pauses()
    world.lanes.adopt_pauses()
    assert world.lanes.paused == [USAGE]
    assert world.lanes.open(64) == {PAYMENTS: 64, USAGE: 0}
    world.lanes.sync()
    world.lanes.end()
    assert len(world.record.lasting) == 1


def test_config_pause_that_is_recorded_after_an_operator_resumed_ends(world: LanesWorld) -> None:
    world.record.suspicions = {USAGE: "501 of 700"}
    world.lanes.adopt_pauses()
    world.record.accept("c", "ann", NOW)  # a resume, which ends the pauses that are on record
    assert world.lanes.sync() == [USAGE]
    world.lanes.resume_released(world.link, USAGE)
    world.lanes.sync()
    assert (world.lanes.paused, world.record.lasting) == ([], {})


def test_pause_for_faults_ends_with_its_worker(world: LanesWorld) -> None:
    world.lanes.pause(world.link, FAULTS)
    world.lanes.sync()
    world.lanes.end()
    assert world.record.lasting == {}


def test_configuration_that_proved_right_is_accepted_once() -> None:
    world = LanesWorld(is_new_config=True)
    assert not world.lanes.needs_attention()
    world.limit.accept_config()  # as after its first thousand messages
    for _ in range(3):
        assert world.lanes.needs_attention() == (world.record.accepted == [])
        world.lanes.sync()
    assert world.record.accepted == ["c"]


def test_lane_over_its_limit_is_exceeded_until_it_is_paused(world: LanesWorld) -> None:
    assert (world.lanes.exceeded(), world.lanes.needs_attention()) == ([], False)
    world.limit.add_fault(USAGE)
    (exceeded,) = world.lanes.exceeded()
    assert (exceeded.queue, exceeded.code) == (USAGE, PauseCode.CONSECUTIVE_FAULTS)
    assert world.lanes.needs_attention()
    world.lanes.pause(world.link, exceeded)
    assert world.lanes.exceeded() == []


def test_lane_that_an_operator_released_counts_its_faults_anew(world: LanesWorld) -> None:
    world.limit.add_fault(USAGE)
    world.lanes.pause(world.link, FAULTS)
    world.lanes.resume_released(world.link, USAGE)
    assert not world.limit.is_over(USAGE)
    assert world.lanes.exceeded() == []


def test_prefetch_is_raised_for_lanes_that_go_on(world: LanesWorld) -> None:
    world.lanes.open(2)
    world.lanes.pause(world.link, FAULTS)
    world.lanes.raise_prefetch(world.link, 100, factor=8)
    assert world.link.holds == {USAGE: 1, PAYMENTS: 16}
    world.lanes.raise_prefetch(world.link, 100)
    assert world.link.holds == {USAGE: 1, PAYMENTS: 100}


def test_new_link_forgets_the_messages_that_the_old_one_gave_back(world: LanesWorld) -> None:
    world.lanes.pause(world.link, FAULTS)
    world.lanes.add_probe(item())
    world.now = 100.0
    assert world.lanes.open(64) == {PAYMENTS: 64, USAGE: 1}
    assert world.lanes.next_probe() is None


def test_new_configuration_is_watched_and_a_known_one_is_accepted(world: LanesWorld) -> None:
    world.record.new = {"new"}
    assert is_new_config(world.record, "new", "w", NOW)
    assert not is_new_config(world.record, "known", "w", NOW)
    assert world.record.accepted == ["known"]


def test_configuration_is_not_watched_where_an_outage_hides_the_record(
    world: LanesWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(_: str) -> bool:
        raise LedgerUnavailableError("down")

    monkeypatch.setattr(world.record, "is_new", unavailable)
    assert not is_new_config(world.record, "new", "w", NOW)
