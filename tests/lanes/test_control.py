"""Control of the lanes over one link: pauses, tries of a paused lane's message, and their ends."""

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from schemas import DeadLetterReason
from tests.support.fakes import FakeLink, FakePauses, FakeRecord, delivery
from worker.batches import Batches
from worker.broker import Delivery, Link
from worker.errors import LimitExceededError
from worker.lanes.control import LaneControl
from worker.lanes.pausing import Lanes
from worker.lanes.poison import PoisonTrials, key_of
from worker.lanes.trials import TrialRunner
from worker.ledger.trials import Trial
from worker.messages.dead_letter_limit import WATCHED, DeadLetterLimit
from worker.messages.dead_letters import Failure
from worker.messages.policy import GIVE_UP_AFTER, TRIAL_AFTER
from worker.metrics import Metrics
from worker.pipeline import Item, Pipeline
from worker.runtime.backoff import Backoff, Outage
from worker.runtime.session import Session

NOW = datetime(2026, 11, 26, tzinfo=UTC)
PAYMENTS, USAGE = QUEUES = ("billing.payments", "billing.usage")
POISON = Failure(DeadLetterReason.UNPROCESSABLE, "crashed")


@dataclass
class StepRecorder:
    """Pipeline that records its steps; ``passes`` says of each try by itself whether it is applied."""

    limit: DeadLetterLimit
    record: FakeRecord
    passes: list[bool] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    on_record: list[int] = field(default_factory=list)
    after_tries: Callable[[Item], None] = lambda _: None

    def receive(self, deliveries: Sequence[Delivery]) -> list[Item]:
        return [Item(one) for one in deliveries]

    def give_up(self, one: Delivery, _crashes: int, *, decoded: bool) -> Item:
        del decoded
        return Item(one, failure=POISON)

    def apply(self, items: Sequence[Item]) -> None:
        self.steps.append(f"apply {len(items)}")

    def try_alone(self, item: Item) -> bool:
        self.on_record.append(len(self.record.trials))
        item.kept = False
        if item.failure is not None:
            return True
        is_applied = self.passes.pop(0)
        self.steps.append("applied" if is_applied else "fault")
        self.after_tries(item)
        return is_applied

    def reply(self, _link: Link, items: Sequence[Item]) -> None:
        self.steps.append(f"answer {len(items)}")

    def acknowledge(self, link: Link, items: Sequence[Item]) -> None:
        self.steps.append(f"acknowledge {len(items)}")
        link.acknowledge([item.delivery for item in items])


class ControlWorld:
    """Control over a link in memory, with a clock that its test sets."""

    def __init__(self, thread: ThreadPoolExecutor, *, exits_on_limit: bool = False) -> None:
        self.now, self.link, self.record, self.pauses = 0.0, FakeLink(), FakeRecord(), FakePauses()
        self.limit, metrics = DeadLetterLimit(1, is_new_config=True), Metrics()
        self.pipeline = StepRecorder(self.limit, self.record)
        self.lanes = Lanes(
            QUEUES,
            self.limit,
            self.pauses,
            worker="w",
            config="c",
            clock=lambda: NOW,
            rng=random.Random(1),
            metrics=metrics,
            seconds=lambda: self.now,
        )
        self.lanes.open(64)
        session = Session(
            self.link,
            thread,
            broker=Outage("broker", ""),
            database=Outage("database", ""),
            backoff=lambda: Backoff(0.1, 0.1, random.Random(1)),
            stop=cast(Any, None),
            hold_most_s=1.0,
        )
        batches = Batches(self.link, session, cast(Pipeline, self.pipeline), metrics)
        trials = TrialRunner(PoisonTrials(self.record, lambda: NOW), batches)
        self.control = LaneControl(self.lanes, trials, batches, exits_on_limit=exits_on_limit)

    def pause(self) -> None:
        """Pause the lane of usage for its faults; its next try has come."""
        self.limit.add_fault(USAGE)
        self.control.attend()
        self.limit.reset_all(USAGE)
        self.now += 1_000


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1, "ledger") as thread:
        yield thread


@pytest.fixture
def world(thread: ThreadPoolExecutor) -> ControlWorld:
    return ControlWorld(thread)


def usage(**options: Any) -> Delivery:
    return delivery(b"{}", queue=USAGE, **options)


def test_lane_over_its_limit_is_paused_and_the_other_goes_on(world: ControlWorld) -> None:
    world.pause()
    assert world.lanes.paused == [USAGE]
    assert [pause.queue for pause in world.pauses.lasting.values()] == [USAGE]
    items = [Item(usage()), Item(delivery(b"{}", queue=PAYMENTS))]
    assert world.control.without_paused(items) == items[1:]


def test_worker_that_exits_on_a_limit_pauses_nothing(thread: ThreadPoolExecutor) -> None:
    world = ControlWorld(thread, exits_on_limit=True)
    with pytest.raises(LimitExceededError, match="stopped"):
        world.pause()


def test_applied_message_resumes_its_lane(world: ControlWorld) -> None:
    world.pause()
    world.pipeline.passes = [True]
    first, second = usage(), usage()
    world.control.without_paused([Item(first), Item(second)])
    world.control.attend()
    assert world.pipeline.steps == ["applied", "answer 1", "acknowledge 1"]
    assert world.link.acknowledged == [first]
    assert world.lanes.paused == []
    assert world.link.holds == {USAGE: 64}


def test_message_that_meets_its_fault_is_kept_off_the_record(world: ControlWorld) -> None:
    world.pause()
    world.pipeline.passes = [False]
    world.control.without_paused([Item(usage())])
    world.control.attend()
    assert (world.pipeline.on_record, world.record.trials) == ([1], {})
    assert world.link.acknowledged == []
    assert world.lanes.paused == [USAGE]
    assert world.lanes.next_probe() is None, "it waits for its next try"


def test_message_out_of_tries_becomes_a_dead_letter_and_its_lane_stays_paused(world: ControlWorld) -> None:
    world.pause()
    world.pipeline.passes = [False]
    world.pipeline.after_tries = lambda item: setattr(item, "failure", POISON)
    dead, following = usage(), usage()
    world.control.without_paused([Item(dead), Item(following)])
    world.control.attend()
    assert world.link.acknowledged == [dead]
    assert world.lanes.paused == [USAGE]
    assert world.lanes.next_probe() is None
    world.now += 1_000
    probe = world.lanes.next_probe()
    assert probe is not None
    assert probe.delivery is following


def test_refusal_is_answered_and_leaves_its_lane_paused(world: ControlWorld) -> None:
    world.pause()
    world.control.without_paused([Item(usage(), failure=POISON)])
    world.control.attend()
    assert world.pipeline.steps == ["answer 1", "acknowledge 1"]
    assert world.lanes.paused == [USAGE]


def test_poison_message_of_a_paused_lane_is_given_up(world: ControlWorld) -> None:
    world.pause()
    poison = usage(delivery_count=TRIAL_AFTER)
    world.record.trials = {key_of(poison): Trial(1, GIVE_UP_AFTER, TRIAL_AFTER - 1)}
    world.control.try_on_record([poison])
    assert world.pipeline.steps == [], "it waits for its turn"
    world.control.attend()
    assert world.pipeline.steps == ["answer 1", "acknowledge 1"]
    assert world.link.acknowledged == [poison]
    assert world.lanes.paused == [USAGE]


def test_lane_that_an_operator_released_tries_what_it_held(world: ControlWorld) -> None:
    world.pause()
    world.lanes.postpone(item := Item(usage()))
    world.control.without_paused([item])
    world.pauses.resumed = set(world.pauses.lasting)
    world.control.attend()
    assert world.lanes.paused == []
    assert world.pipeline.steps == ["apply 1", "answer 1", "acknowledge 1"]
    assert world.link.acknowledged == [item.delivery]


def refuse_most(world: ControlWorld, *queues: str) -> None:
    """Refuse each message of the lanes until the watch over the new configuration ends."""
    for queue in queues or (USAGE,):
        for _ in range(WATCHED // len(queues or (USAGE,))):
            world.limit.add_message(queue, DeadLetterReason.NOT_JSON)


def test_new_configuration_that_refuses_most_pauses_its_lane_without_tries(world: ControlWorld) -> None:
    world.pauses.new = {"c"}
    refuse_most(world)
    world.control.attend()
    assert world.link.holds == {USAGE: 0}
    assert world.link.given_back == [USAGE]


def test_accepted_configuration_goes_on_and_gets_its_messages_again(world: ControlWorld) -> None:
    refuse_most(world)
    world.control.attend()
    assert world.lanes.paused == []
    assert world.link.holds == {USAGE: 64}
    assert world.link.given_back == [USAGE]
    assert not world.limit.is_watching


def test_accepted_configuration_gives_back_the_messages_of_every_lane(world: ControlWorld) -> None:
    refuse_most(world, PAYMENTS, USAGE)
    world.control.attend()
    assert world.lanes.paused == []
    assert world.link.holds == {PAYMENTS: 64, USAGE: 64}
    assert world.link.given_back == [PAYMENTS, USAGE]
