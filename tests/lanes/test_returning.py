"""Return of held messages: in their order, what is still paused stays, and nothing is lost."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.fake_broker import FakeBroker
from tests.support.fakes import FakeLink, FakeOperatorPauses, delivery
from worker.broker import BILLING, Delivery
from worker.errors import BrokerUnavailableError
from worker.lanes.operator_pauses import PauseWatch
from worker.lanes.returning import LOOK_EVERY, HeldReturner
from worker.ledger.operator_pauses import OperatorPause, PauseKind
from worker.messages.held import held_copy
from worker.messages.policy import Policy

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
USAGE, HELD = "billing.usage", BILLING.held.name
DEDUCT = OperatorPause(1, USAGE, "usage.deduct", PauseKind.PAUSE, "why", "ann", NOW)
RECORD = replace(DEDUCT, number=2, type="usage.record")
POLICY = Policy(user="worker", worker_users=frozenset({"worker"}))


class ReturnWorld:
    """A broker that holds messages, and a returner whose pauses and time its test sets."""

    def __init__(self) -> None:
        self.now = NOW
        self.broker, self.pauses = FakeBroker(), FakeOperatorPauses()
        self.links: list[FakeLink] = []
        self.seen_at: datetime | None = NOW + timedelta(hours=1)
        self.watch = PauseWatch(self.pauses, lambda: self.now)
        self.returner = HeldReturner(
            self._connect,
            self.watch,
            self.pauses,
            POLICY,
            clock=lambda: self.now,
            seen_by_all=lambda _: self.seen_at,
        )

    def _connect(self) -> FakeLink:
        self.links.append(FakeLink(broker=self.broker, consume={HELD: 0}))
        return self.links[-1]

    def hold(self, count: int, type_: str = "usage.deduct") -> None:
        for number in range(count):
            one = delivery({"type": type_, "n": number}, queue=USAGE, user_id="app")
            self.broker.put(held_copy(one, type_, POLICY))
            held = self.broker.queue(HELD)
            held[-1] = replace(held[-1], properties={**held[-1].properties, "user_id": "worker"})

    def turn(self, *pauses: OperatorPause) -> None:
        """Let the pauses be these, and some time pass before the next turn."""
        self.pauses.pauses = list(pauses)
        self.watch.look()
        self.now += timedelta(seconds=10)
        self.returner.turn()

    def waiting(self, queue: str) -> list[bytes]:
        return [one.body for one in self.broker.queue(queue)]


@pytest.fixture
def world() -> ReturnWorld:
    return ReturnWorld()


def ended(pause: OperatorPause) -> OperatorPause:
    return replace(pause, ended_at=NOW)


def test_messages_of_an_ended_pause_return_in_their_order(world: ReturnWorld) -> None:
    world.hold(1_200)
    held = world.waiting(HELD)
    world.turn(ended(DEDUCT))
    assert world.waiting(USAGE) == held
    assert world.waiting(HELD) == []
    assert world.pauses.returned == [], "more may be held by a worker that didn't know yet"
    world.turn(ended(DEDUCT))
    assert world.pauses.returned == [1]


def test_messages_of_a_type_that_is_still_paused_stay_in_their_order(world: ReturnWorld) -> None:
    world.hold(2, "usage.record")
    world.hold(2)
    records, deductions = world.waiting(HELD)[:2], world.waiting(HELD)[2:]
    world.turn(ended(DEDUCT), RECORD)
    assert (world.waiting(USAGE), world.waiting(HELD)) == (deductions, records)
    world.turn(ended(DEDUCT), RECORD)
    assert world.pauses.returned == [1]


def test_messages_return_when_every_worker_obeys_the_end(world: ReturnWorld) -> None:
    world.hold(3)
    for seen_at in (None, NOW, NOW + timedelta(seconds=1)):
        world.seen_at = seen_at
        world.turn(ended(DEDUCT))
        assert world.links == [], "a worker would hold again what returns"
    world.seen_at = NOW + timedelta(minutes=1)
    world.turn(ended(DEDUCT))
    assert len(world.waiting(USAGE)) == 3


def test_messages_that_no_pause_holds_return_by_themselves(world: ReturnWorld) -> None:
    world.hold(1)
    world.turn()
    assert world.links == [], "it looks now and then"
    world.now += LOOK_EVERY
    world.turn()
    assert len(world.waiting(USAGE)) == 1
    assert all(link.closed for link in world.links)


def test_message_that_the_broker_does_not_take_stays_held(world: ReturnWorld) -> None:
    world.hold(3)
    link = FakeLink(broker=world.broker, consume={HELD: 0})
    link.unroutable = {USAGE}
    world.returner._connect = lambda: link
    with pytest.raises(BrokerUnavailableError, match="stays held"):
        world.turn(ended(DEDUCT))
    assert len(world.waiting(HELD)) == 3
    assert world.pauses.returned == []


def test_message_that_no_worker_held_becomes_a_dead_letter(world: ReturnWorld) -> None:
    forged: Delivery = delivery({"type": "credit.bonus"}, queue=HELD, exchange="", user_id="app")
    world.broker.queue(HELD).append(forged)
    world.turn(ended(DEDUCT))
    assert len(world.waiting(BILLING.dead.name)) == 1
    assert world.waiting(USAGE) == []
