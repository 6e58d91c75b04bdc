"""Control of the lanes over one link: pauses, tries of a paused lane's message, and their ends."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from schemas import DeadLetterReason, DeductUsage
from tests.support.fakes import FakeLink, FakeOperatorPauses, FakePauses, FakeRecord, delivery
from worker.batches import Batches
from worker.broker import Delivery, Link
from worker.errors import LedgerUnavailableError, LimitExceededError
from worker.lanes.control import LaneControl
from worker.lanes.operator_pauses import OperatorPausedLanes, PauseWatch
from worker.lanes.pausing import Lanes
from worker.lanes.poison import PoisonTrials, key_of
from worker.lanes.trials import TrialRunner
from worker.ledger.operator_pauses import OperatorPause, PauseKind
from worker.ledger.trials import Trial
from worker.messages.dead_letter_limit import WATCHED, DeadLetterLimit, PauseCode
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
    has_held_queue: bool = True
    holds_unread: bool = True

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

    def hold(self, _link: Link, deliveries: Mapping[Delivery, str]) -> Sequence[Delivery]:
        self.steps.append(f"hold {len(deliveries)}")
        return [one for one in deliveries if not self.has_held_queue]

    def may_hold_unread(self, _delivery: Delivery, _type: str) -> bool:
        return self.holds_unread

    def acknowledge(self, link: Link, items: Sequence[Item]) -> None:
        self.steps.append(f"acknowledge {len(items)}")
        link.acknowledge([item.delivery for item in items])


class ControlWorld:
    """Control over a link in memory, with a clock that its test sets."""

    def __init__(self, thread: ThreadPoolExecutor, *, exits_on_limit: bool = False) -> None:
        self.now, self.link, self.record, self.pauses = 0.0, FakeLink(), FakeRecord(), FakePauses()
        self.limit = DeadLetterLimit(1, is_new_config=True)
        metrics = self.metrics = Metrics()
        self.pipeline = StepRecorder(self.limit, self.record)
        self.operator = FakeOperatorPauses()
        self.lanes = Lanes(
            QUEUES,
            self.limit,
            self.pauses,
            worker="w",
            config="c",
            clock=lambda: NOW,
            rng=random.Random(1),
            metrics=metrics,
            operator=OperatorPausedLanes(QUEUES, watch := PauseWatch(self.operator, lambda: NOW), metrics),
            seconds=lambda: self.now,
        )
        self.watch = watch
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

    def set_pauses(self, *pauses: OperatorPause) -> None:
        """Let an operator's pauses be these; the worker has read them."""
        self.operator.pauses = list(pauses)
        self.watch.look()


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


# -- pauses of operators ----------------------------------------------------------------------------------

LANE = OperatorPause(1, USAGE, None, PauseKind.PAUSE, "why", "ann", NOW)
QUIESCED = replace(LANE, kind=PauseKind.QUIESCE)
TYPE = replace(LANE, number=2, type="usage.deduct")


def deduction() -> Item:
    return Item(usage(), DeductUsage(reference_id="r", user_id="u", tokens=1))


def test_paused_lane_gives_back_what_it_holds_until_it_is_resumed(world: ControlWorld) -> None:
    world.set_pauses(LANE)
    assert world.lanes.needs_attention()
    world.control.attend()
    assert (world.link.holds, world.link.given_back) == ({USAGE: 0}, [USAGE])
    assert not world.lanes.needs_attention()
    world.lanes.raise_prefetch(world.link, 1_500)
    assert world.link.holds == {USAGE: 0, PAYMENTS: 1_500}
    world.set_pauses()
    world.control.attend()
    assert world.link.holds[USAGE] == 1_500


def test_quiesced_lane_finishes_what_it_holds(world: ControlWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    arrived = [2]
    monkeypatch.setattr(world.link, "arrived", lambda _: arrived[0])
    world.set_pauses(QUIESCED)
    world.control.attend()
    assert (world.link.cancelled, world.link.given_back) == ([USAGE], [])
    assert world.lanes.needs_attention(), "it is not done"
    items = [Item(usage())]
    assert world.control.without_paused(items) == items
    arrived[0] = 0
    world.control.attend()
    assert world.link.given_back == [USAGE]
    assert world.lanes.operator.is_quiesced(USAGE)
    assert not world.lanes.needs_attention()


def test_quiesced_lane_that_is_paused_gives_back_at_once(
    world: ControlWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.link, "arrived", lambda _: 2)
    world.set_pauses(QUIESCED)
    world.control.attend()
    world.set_pauses(LANE)
    world.control.attend()
    assert world.link.given_back == [USAGE]
    assert not world.lanes.needs_attention()


def test_trial_of_a_worker_never_resumes_an_operators_pause(world: ControlWorld) -> None:
    world.pause()
    world.control.without_paused([Item(usage())])
    world.pipeline.passes = [True]
    world.set_pauses(LANE)
    world.control.attend()
    assert world.pipeline.steps == [], "nothing is tried"
    assert world.link.holds == {USAGE: 0}
    world.set_pauses()
    world.control.attend()
    assert world.link.holds == {USAGE: 1}, "the worker's own pause goes on"


def test_fault_in_a_lane_that_an_operator_paused_takes_nothing_of_it(world: ControlWorld) -> None:
    world.set_pauses(LANE)
    world.control.attend()
    world.pause()
    assert world.link.holds == {USAGE: 0}
    assert world.lanes.open(64) == {PAYMENTS: 64, USAGE: 0}


def test_message_of_a_paused_type_is_held_and_its_lane_goes_on(world: ControlWorld) -> None:
    world.set_pauses(TYPE)
    world.control.attend()
    held, other = deduction(), Item(usage())
    assert world.control.without_paused([held, other]) == [other]
    assert world.pipeline.steps == ["hold 1"]
    assert world.link.acknowledged == [held.delivery]
    assert USAGE not in world.link.holds
    world.set_pauses()
    world.control.attend()
    assert world.control.without_paused([again := deduction()]) == [again]


def test_refused_message_of_a_paused_type_is_refused(world: ControlWorld) -> None:
    world.set_pauses(TYPE)
    world.control.attend()
    refused = Item(usage(), failure=replace(POISON, type="usage.deduct"))
    assert world.control.without_paused([refused]) == [refused]


def test_lane_whose_type_cannot_be_held_is_paused_as_a_whole(world: ControlWorld) -> None:
    world.pipeline.has_held_queue = False
    world.set_pauses(TYPE)
    world.control.attend()
    assert world.control.without_paused([deduction()]) == []
    assert world.link.acknowledged == []
    world.control.attend()
    assert (world.link.holds, world.link.given_back) == ({USAGE: 0}, [USAGE])
    world.set_pauses()
    world.control.attend()
    assert world.link.holds == {USAGE: 64}


def test_possible_poison_message_of_a_paused_type_is_held_unread(world: ControlWorld) -> None:
    world.set_pauses(TYPE)
    world.control.attend()
    poison = usage(delivery_count=TRIAL_AFTER)
    world.control.try_on_record([poison])
    assert world.pipeline.steps == ["hold 1"]
    assert world.link.acknowledged == [poison]


def test_possible_poison_message_of_a_type_that_another_lane_pauses_is_tried(world: ControlWorld) -> None:
    world.set_pauses(replace(TYPE, queue=PAYMENTS))
    world.control.attend()
    world.control.try_on_record([usage(delivery_count=TRIAL_AFTER)])
    assert world.pipeline.steps == ["apply 1", "answer 1", "acknowledge 1"]


def test_paused_lane_and_paused_type_have_gauges_of_their_own(world: ControlWorld) -> None:
    def shown() -> dict[str, float]:
        (gauge,) = world.metrics.paused.collect()
        return {one.labels["code"]: one.value for one in gauge.samples if one.labels["lane"] == USAGE}

    for pauses, expected in (([TYPE], (0, 1)), ([LANE], (1, 0)), ([LANE, TYPE], (1, 1)), ([], (0, 0))):
        world.set_pauses(*pauses)
        world.control.attend()
        assert (shown()[PauseCode.OPERATOR], shown()[PauseCode.OPERATOR_TYPE]) == expected


def test_message_that_may_not_be_held_unread_is_judged_at_once(world: ControlWorld) -> None:
    world.pipeline.holds_unread = False
    world.set_pauses(TYPE)
    world.control.attend()
    world.control.try_on_record([usage(delivery_count=TRIAL_AFTER)])
    unruly = Item(usage(), failure=Failure(DeadLetterReason.INVALID_ID, "unruly", type="usage.deduct"))
    assert world.control.without_paused([unruly]) == [unruly]
    assert "hold 1" not in world.pipeline.steps


def test_outage_of_the_database_leaves_pauses_as_they_are(world: ControlWorld) -> None:
    world.set_pauses(LANE)
    world.control.attend()
    world.operator.down = True
    with pytest.raises(LedgerUnavailableError):
        world.watch.look()
    assert not world.lanes.needs_attention()
    assert world.lanes.operator.is_paused(USAGE)


def test_worker_says_which_pauses_it_obeys(world: ControlWorld) -> None:
    assert world.lanes.operator.obeyed_at is None
    world.set_pauses(TYPE)
    assert world.lanes.operator.obeyed_at is None, "it has read them and holds nothing yet"
    world.control.attend()
    assert world.lanes.operator.obeyed_at == NOW
