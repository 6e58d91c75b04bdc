"""Partitions of one worker: what it consumes by its leases, and the order of a hand-over."""

import random
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import TypeVar, cast

import pytest

from tests.support.fake_broker import FakeBroker
from tests.support.fakes import FakeLeases, FakeLink, FakeOperatorPauses, FakePauses, delivery
from worker.batches import Batches
from worker.errors import LedgerUnavailableError
from worker.lanes.operator_pauses import OperatorPausedLanes, PauseWatch
from worker.lanes.partitions import PartitionShare, SharePace, prefetch_of
from worker.lanes.pausing import Lanes
from worker.ledger.operator_pauses import OperatorPause, PauseKind
from worker.messages.dead_letter_limit import DeadLetterLimit, LimitExceeded, PauseCode
from worker.metrics import Metrics
from worker.pipeline import Item
from worker.runtime.session import LedgerCall

T = TypeVar("T")

NOW = datetime(2026, 11, 27, tzinfo=UTC)
PACE = SharePace(10.0)
PAYMENTS, USAGE = "billing.payments", "billing.usage"
PARTITIONS = 4


class ImmediateSession:
    """Session whose calls have ended when they begin."""

    def begin(self, work: Callable[[], T]) -> LedgerCall[T]:
        ended: Future[T] = Future()
        ended.set_result(work())
        return LedgerCall(work, ended)

    def result(self, call: LedgerCall[T]) -> T:
        assert call.under_way is not None
        return call.under_way.result()


class LateSession:
    """Session whose calls end when somebody waits for them."""

    def begin(self, work: Callable[[], T]) -> LedgerCall[T]:
        return LedgerCall(work, Future())

    def result(self, call: LedgerCall[T]) -> T:
        return call.work()


class FakeBatches:
    """Batches over ``link``, which count how often what is in flight was finished."""

    session: ImmediateSession | LateSession

    def __init__(self, link: FakeLink) -> None:
        self.link, self.session, self.finished, self.is_idle = link, ImmediateSession(), 0, False

    def finish(self) -> None:
        self.finished += 1


class ShareWorld:
    """Worker with a link of its own, on leases and a broker that others may share."""

    def __init__(self, name: str, leases: FakeLeases, broker: FakeBroker, partitions: int) -> None:
        self.now, self.leases, self.metrics = 0.0, leases, Metrics()
        self.link = FakeLink(broker=broker, consume={PAYMENTS: 9, USAGE: 9})
        self.batches = FakeBatches(self.link)
        self.pauses = FakeOperatorPauses()
        self.watch = PauseWatch(self.pauses, lambda: NOW)
        self.lanes = Lanes(
            [PAYMENTS, USAGE],
            DeadLetterLimit(1),
            FakePauses(),
            worker=name,
            config="c",
            clock=lambda: NOW,
            rng=random.Random(1),
            metrics=self.metrics,
            operator=OperatorPausedLanes([PAYMENTS, USAGE], self.watch, self.metrics),
            seconds=lambda: self.now,
        )
        self.share = PartitionShare(
            leases,
            self.lanes,
            worker=name,
            partitions=partitions,
            prefetch=5,
            metrics=self.metrics,
            pace=PACE,
            seconds=lambda: self.now,
        )
        self.lanes.open(9)
        self.share.begin()

    def attend(self) -> None:
        """Do all that is due at this moment."""
        for _ in range(9):
            if self.share.is_due:
                self.share.attend(cast("Batches", self.batches))

    def look(self) -> None:
        """Look after the time between two looks."""
        self.now += PACE.look_s
        self.attend()

    def obey(self) -> None:
        """Read the pauses of operators, and act on them."""
        self.watch.look()
        for queue in self.lanes.operator.attend(self.lanes.on(self.link), self.lanes.prefetch_of):
            self.lanes.forget_probes(queue)

    @property
    def takes(self) -> set[int]:
        """The partitions of which it consumes every lane."""
        consuming = self.broker.consuming[self.link]
        return {
            number
            for number in range(PARTITIONS)
            if {f"{lane}.{number:02d}" for lane in (PAYMENTS, USAGE)} <= consuming
        }

    @property
    def broker(self) -> FakeBroker:
        return self.link._broker


@pytest.fixture
def new_worker() -> Callable[..., ShareWorld]:
    leases, broker = FakeLeases(), FakeBroker()

    def start(name: str, partitions: int = PARTITIONS) -> ShareWorld:
        return ShareWorld(name, leases, broker, partitions)

    return start


New = Callable[..., ShareWorld]


def test_idle_worker_waits_for_its_look_and_a_busy_one_goes_on(
    new_worker: New,
) -> None:
    world = new_worker("a")
    world.batches.session = LateSession()
    world.attend()
    assert world.takes == set()
    world.batches.is_idle = True
    world.attend()
    assert world.takes == {0, 1, 2, 3}


def test_idle_worker_waits_for_messages_until_its_next_look_and_no_longer(new_worker: New) -> None:
    world = new_worker("a")
    assert world.share.wait_s(9.0) == 0
    world.attend()
    assert world.share.wait_s(9.0) == PACE.eager_look_s
    assert world.share.wait_s(0.01) == 0.01
    world.look()
    assert world.share.wait_s(9.0) == PACE.look_s
    assert new_worker("b", 0).share.wait_s(9.0) == 9.0


def test_worker_without_partitions_never_looks(new_worker: New) -> None:
    world = new_worker("a", 0)
    assert not world.share.is_due
    assert world.share.is_settled
    assert world.share.has_handed_over_all(cast("Batches", world.batches))
    world.share.end()
    assert world.leases.members == {}


def test_first_worker_takes_every_partition_with_a_smaller_prefetch(new_worker: New) -> None:
    world = new_worker("a")
    assert not world.share.is_settled
    world.attend()
    assert world.takes == {0, 1, 2, 3}
    assert not world.share.is_settled, "nothing of it can have come yet"
    world.look()
    assert world.share.is_settled
    assert world.metrics.registry.get_sample_value("billing_worker_partitions") == 4
    world.broker.queue("billing.usage.01").extend(delivery(b"", queue="billing.usage.01") for _ in range(8))
    assert len(world.link.receive(500, 0)) == 5


def test_partition_is_handed_over_once_nothing_of_it_is_held(new_worker: New) -> None:
    first, second = new_worker("a"), new_worker("b")
    first.attend()
    for number in range(PARTITIONS):
        queue = f"billing.usage.{number:02d}"
        first.broker.queue(queue).append(delivery(b"", queue=queue))
    held = first.link.receive(500, 0)
    second.attend()
    first.look()
    second.look()
    assert (first.takes, second.takes) == ({0, 1}, set()), "it takes no more, and still has the lease"
    assert set(first.leases.held.values()) == {"a"}
    first.link.acknowledge(held)
    first.attend()
    second.look()
    assert (first.takes, second.takes) == ({0, 1}, {2, 3})
    assert first.batches.finished == 0
    assert not any(one.redelivered for one in second.link.receive(500, 0))


def test_message_that_does_not_end_in_time_goes_back_to_its_place(new_worker: New) -> None:
    first, second = new_worker("a"), new_worker("b")
    first.attend()
    held = [delivery(b"%d" % number, queue="billing.usage.03") for number in range(3)]
    first.broker.queue("billing.usage.03").extend(held)
    first.link.receive(500, 0)
    second.attend()
    first.look()
    first.now += PACE.hand_over_s
    first.attend()
    assert first.batches.finished == 1, "what is in flight ends first"
    second.look()
    assert [one.body for one in second.link.receive(500, 0)] == [b"0", b"1", b"2"]


def test_worker_that_finds_its_lease_with_another_stops_at_once(new_worker: New) -> None:
    world = new_worker("a")
    world.attend()
    world.broker.queue("billing.usage.03").append(delivery(b"", queue="billing.usage.03"))
    world.link.receive(500, 0)
    world.leases.members["b"] = PARTITIONS
    world.leases.held |= {2: "b", 3: "b"}
    world.look()
    assert world.takes == {0, 1}
    assert world.batches.finished == 1
    assert len(world.broker.queue("billing.usage.03")) == 1


def test_worker_keeps_what_it_has_in_an_outage_and_takes_nothing_new(new_worker: New) -> None:
    first, second = new_worker("a"), new_worker("b")
    first.attend()
    first.leases.errors = [LedgerUnavailableError("down"), LedgerUnavailableError("down")]
    first.look()
    second.attend()
    assert (first.takes, second.takes) == ({0, 1, 2, 3}, set())
    first.look()
    second.look()
    first.look()
    second.look()
    assert (len(first.takes), len(second.takes)) == (2, 2)


def test_worker_begins_again_with_a_new_link(new_worker: New) -> None:
    world = new_worker("a")
    world.attend()
    world.link = world.batches.link = FakeLink(broker=world.broker, consume={PAYMENTS: 9, USAGE: 9})
    world.lanes.open(9)
    world.share.begin()
    assert world.takes == set()
    world.attend()
    assert world.takes == {0, 1, 2, 3}


def test_worker_that_stops_finishes_what_it_holds_and_frees_all(new_worker: New) -> None:
    world = new_worker("a")
    batches = cast("Batches", world.batches)
    world.attend()
    world.broker.queue("billing.usage.03").append(delivery(b"", queue="billing.usage.03"))
    held = world.link.receive(500, 0)
    assert not world.share.has_handed_over_all(batches)
    world.now += PACE.look_s
    world.attend()
    assert world.takes == set(), "it takes nothing any more"
    world.link.acknowledge(held)
    assert world.share.has_handed_over_all(batches)
    world.share.end()
    assert (world.leases.held, world.leases.members) == ({}, {})


def test_lane_pauses_in_every_partition(new_worker: New) -> None:
    world = new_worker("a")
    world.attend()
    world.lanes.pause(world.link, LimitExceeded(USAGE, PauseCode.CONSECUTIVE_FAULTS, "100 in a row"))
    assert world.link.most_of(USAGE) == {1}
    assert world.link.most_of(PAYMENTS) == {9, 5}
    assert world.lanes.is_paused("billing.usage.03")
    probe = Item(delivery(b"", queue="billing.usage.03"))
    world.lanes.add_probe(probe)
    world.broker.queue("billing.usage.03").append(probe.delivery)
    world.link.receive(500, 0)
    assert not world.lanes.holds_partition(world.link, 3), "nobody waits for a message that is to be tried"
    world.lanes.leave_partition(world.link, 3)
    world.now += 100.0
    assert world.lanes.next_probe() is None, "it went back with its partition"
    world.lanes.resume(world.link, USAGE, "why")
    assert world.link.most_of(USAGE) == {9, 5}


@pytest.mark.parametrize("kind", list(PauseKind))
def test_operator_pauses_a_lane_in_every_partition(new_worker: New, kind: PauseKind) -> None:
    world = new_worker("a")
    world.attend()
    world.broker.queue("billing.usage.03").append(delivery(b"", queue="billing.usage.03"))
    held = world.link.receive(500, 0)
    pause = OperatorPause(1, USAGE, None, kind, "ann", "why", NOW)
    world.pauses.pauses = [pause]
    world.obey()
    assert world.link.most_of(USAGE) == {0}
    assert world.link.most_of(PAYMENTS) == {9, 5}
    assert "billing.usage.03" in world.link.given_back
    assert ("billing.usage.03" in world.link.cancelled) is (kind is PauseKind.QUIESCE)
    assert held, "what was received before is applied before anything is given back"
    world.lanes.raise_prefetch(world.link, 8)
    world.lanes.leave_partition(world.link, 3)
    world.lanes.take_partition(world.link, 3, 5)
    assert world.link.most_of(USAGE) == {0}
    world.pauses.pauses = []
    world.obey()
    assert world.link.most_of(USAGE) == {8, 5}


def test_lane_that_an_operator_pauses_gives_back_what_a_leaving_partition_holds(new_worker: New) -> None:
    world = new_worker("a")
    world.attend()
    world.lanes.quiesce_partition(world.link, 3)
    world.pauses.pauses = [OperatorPause(1, USAGE, None, PauseKind.PAUSE, "ann", "why", NOW)]
    world.obey()
    assert "billing.usage.03" in world.link.given_back
    assert "billing.payments.03" not in world.link.given_back
    world.pauses.pauses = []
    world.obey()
    assert world.link.most_of(USAGE) == {9, 5, 0}, "nothing more is taken of what is handed over"


@pytest.mark.parametrize(
    ("partitions", "prefetch", "expected"),
    [(0, 1500, 1500), (8, 1500, 750), (16, 1500, 375), (64, 1500, 100), (64, 50, 50), (8, 100, 100)],
)
def test_queues_of_partitions_hold_less_each(partitions: int, prefetch: int, expected: int) -> None:
    assert prefetch_of(partitions, prefetch) == expected


@pytest.mark.parametrize(("lease_s", "expected"), [(2.0, 1.0), (10.0, 5.0), (600.0, 5.0)])
def test_hand_over_is_short_whatever_the_lease(lease_s: float, expected: float) -> None:
    assert SharePace(lease_s).hand_over_s == expected
