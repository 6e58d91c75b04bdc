"""Consumer loop: in outages of either server, with messages that may be poison, and at its end."""

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Event, Semaphore
from typing import Any

import pytest

from tests.support.fake_broker import FakeBroker
from tests.support.fake_stop import FakeStop
from tests.support.fakes import FakeLeases, FakeLink, FakePauses, FakeRecord, delivery
from tests.support.waiting import PATIENCE_S
from worker.broker import Consumes, Delivery, Link, Publishes
from worker.consumer import Consumer, ConsumerPace
from worker.errors import BrokerUnavailableError, ConfigurationError, LedgerUnavailableError, UnansweredError
from worker.lanes.partitions import PartitionShare
from worker.lanes.pausing import Lanes
from worker.lanes.poison import PoisonTrials, key_of
from worker.lanes.schema import SchemaPause
from worker.ledger.trials import Trial
from worker.messages.dead_letter_limit import DeadLetterLimit
from worker.messages.policy import GIVE_UP_AFTER, TRIAL_AFTER
from worker.metrics import Metrics
from worker.pipeline import Item

NOW = datetime(2026, 11, 26, tzinfo=UTC)
BULK = "billing.bulk"


@dataclass
class ProbedLedger:
    """Ledger whose probe fails ``failures`` times."""

    failures: int = 0

    def probe(self) -> None:
        if self.failures:
            self.failures -= 1
            raise LedgerUnavailableError("the database is down")

    def require_usable(self) -> None:
        """Return: the schema is for this version."""


@dataclass
class BatchRecorder:
    """Pipeline that records batches; raises ``errors`` on apply and ``broker_errors`` on answer first."""

    errors: list[Exception] = field(default_factory=list)
    broker_errors: list[Exception] = field(default_factory=list)
    batches: list[list[Delivery]] = field(default_factory=list)
    given_up: list[Delivery] = field(default_factory=list)
    after: Callable[[], None] = lambda: None
    limit: DeadLetterLimit = field(default_factory=DeadLetterLimit)

    def receive(self, deliveries: Sequence[Delivery]) -> list[Item]:
        return [Item(one) for one in deliveries]

    def give_up(self, one: Delivery, _crashes: int, *, decoded: bool) -> Item:
        del decoded
        self.given_up.append(one)
        return Item(one)

    def apply(self, items: Sequence[Item]) -> None:
        if not items:
            return
        if self.errors:
            raise self.errors.pop(0)
        self.batches.append([item.delivery for item in items])
        self.after()

    def reply(self, link: Publishes, items: Sequence[Item]) -> None:
        del link, items
        if self.broker_errors:
            raise self.broker_errors.pop(0)

    def acknowledge(self, link: Consumes, items: Sequence[Item]) -> None:
        link.acknowledge([item.delivery for item in items])

    def reply_and_acknowledge(self, link: Link, items: Sequence[Item]) -> None:
        self.reply(link, items)
        self.acknowledge(link, items)


def consumer(
    links: Sequence[Any],
    pipeline: BatchRecorder,
    stop: FakeStop,
    ledger: ProbedLedger | None = None,
    metrics: Metrics | None = None,
    record: FakeRecord | None = None,
    bulk: str | None = None,
    **pace: Any,
) -> Consumer:
    """Return a loop that opens ``links`` one after the other; an exception among them is raised instead."""
    opening = iter(links)

    def connect(held: Mapping[str, int]) -> Link:
        link = next(opening)
        if isinstance(link, Exception):
            raise link
        link.prefetch = max(held.values())
        opened: Link = link
        return opened

    counters = metrics or Metrics()
    lanes = ["billing.payments", "billing.usage", BULK]
    ledger = ledger or ProbedLedger()
    fakes: dict[str, Any] = {
        "ledger": ledger,
        "pipeline": pipeline,
        "poison": PoisonTrials(record or FakeRecord(), lambda: NOW),
        "lanes": (
            own_lanes := Lanes(
                lanes,
                pipeline.limit,
                FakePauses(),
                worker="w",
                config="c",
                clock=lambda: NOW,
                rng=random.Random(1),
                metrics=counters,
            )
        ),
        "partitions": PartitionShare(
            FakeLeases(), own_lanes, worker="w", partitions=0, prefetch=3, metrics=counters
        ),
        "schema": SchemaPause(
            ledger.require_usable,
            lanes,
            FakePauses(),
            worker="w",
            config="c",
            clock=lambda: NOW,
            metrics=counters,
        ),
    }
    return Consumer(
        connect,
        **fakes,
        pace=ConsumerPace(batch_size=3, **pace),
        stop=stop,
        rng=random.Random(1),
        metrics=counters,
        bulk=bulk,
    )


def distinct(count: int, **options: Any) -> list[Delivery]:
    return [delivery({"type": "usage.deduct", "n": number}, **options) for number in range(count)]


def messages(count: int, **options: Any) -> list[Delivery]:
    return [delivery(b"{}", **options) for _ in range(count)]


def test_arrived_deliveries_are_processed_in_batches_up_to_the_maximum() -> None:
    link, pipeline = FakeLink(*messages(7)), BatchRecorder()
    consumer([link], pipeline, FakeStop()).run(drain=True)
    assert [len(batch) for batch in pipeline.batches] == [3, 3, 1]
    assert link.closed


def test_database_outage_keeps_the_batch_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    deliveries = messages(2)
    link = FakeLink(*deliveries)
    pipeline = BatchRecorder(errors=[LedgerUnavailableError("the database is down")] * 9)
    consumer([link], pipeline, FakeStop()).run(drain=True)
    assert link.acknowledged == deliveries
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
    assert "keeping the messages" in caplog.records[0].getMessage()
    assert "back after" in caplog.records[1].getMessage()


def test_waits_grow_and_stay_below_their_bound() -> None:
    stop = FakeStop()
    consumer([FakeLink()], BatchRecorder(), stop, ProbedLedger(failures=20)).run(drain=True)
    assert len(stop.waited_s) == 20
    assert stop.waited_s[0] < 0.2
    assert max(stop.waited_s) <= 7.5
    assert min(stop.waited_s[-5:]) >= 2.5


def test_stop_ends_a_long_wait() -> None:
    stop, link = FakeStop(), FakeLink(*messages(1))
    pipeline = BatchRecorder(errors=[LedgerUnavailableError("down")] * 1000)
    link.on_keep_alive = lambda: setattr(stop, "requested", sum(link.waited_s) > 12)
    consumer([link], pipeline, stop).run()
    assert sum(link.waited_s) < 13
    assert max(link.waited_s) <= 0.5
    assert link.acknowledged == []


def test_lost_broker_is_connected_again_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    pipeline = BatchRecorder(broker_errors=[BrokerUnavailableError("gone")])
    first, last = FakeLink(*messages(1)), FakeLink(*messages(1))
    gone = [BrokerUnavailableError("refused")] * 5
    consumer([first, *gone, last], pipeline, FakeStop()).run(drain=True)
    assert first.acknowledged == []  # the broker still has it, and delivers it again
    assert first.closed
    assert len(last.acknowledged) == 1
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


def test_consumer_takes_nothing_from_the_broker_before_the_ledger_answers() -> None:
    ledger, stop, link = ProbedLedger(failures=4), FakeStop(), FakeLink(*messages(1))
    consumer([link], BatchRecorder(), stop, ledger).run(drain=True)
    assert len(stop.waited_s) == 4
    assert len(link.acknowledged) == 1


def test_wrong_configuration_ends_a_worker_that_was_never_connected() -> None:
    with pytest.raises(ConfigurationError):
        consumer([ConfigurationError("no such vhost")], BatchRecorder(), FakeStop()).run()


def test_known_broker_may_refuse_a_worker_while_it_starts() -> None:
    pipeline = BatchRecorder(broker_errors=[BrokerUnavailableError("gone")])
    links: list[Any] = [FakeLink(*messages(1)), ConfigurationError("not yet"), FakeLink(*messages(1))]
    consumer(links, pipeline, FakeStop()).run(drain=True)
    assert len(links[-1].acknowledged) == 1


def test_stop_finishes_the_batch_and_takes_no_other() -> None:
    stop, link = FakeStop(), FakeLink(*messages(9))
    pipeline = BatchRecorder()
    pipeline.after = lambda: setattr(stop, "requested", len(pipeline.batches) == 2)
    consumer([link], pipeline, stop).run()
    assert [len(batch) for batch in pipeline.batches] == [3, 3]
    assert len(link.acknowledged) == 6
    assert link.closed


def test_previous_batch_is_answered_while_the_next_is_in_flight() -> None:
    answered, began = Event(), Event()

    class Overlapping(BatchRecorder):
        def apply(self, items: Sequence[Item]) -> None:
            if len(self.batches) == 1 and items:
                began.set()
                assert answered.wait(PATIENCE_S)
            super().apply(items)

        def reply_and_acknowledge(self, link: Link, items: Sequence[Item]) -> None:
            if len(self.batches) == 1:
                assert began.wait(PATIENCE_S)
                answered.set()
            super().reply_and_acknowledge(link, items)

    link, pipeline = FakeLink(*messages(7)), Overlapping()
    consumer([link], pipeline, FakeStop()).run(drain=True)
    assert [len(batch) for batch in pipeline.batches] == [3, 3, 1]
    assert link.acknowledged == [delivery for batch in pipeline.batches for delivery in batch]


def test_lone_message_is_answered_before_the_loop_reads_on() -> None:
    steps: list[str] = []

    class Noting(BatchRecorder):
        def reply_and_acknowledge(self, link: Link, items: Sequence[Item]) -> None:
            steps.append("reply")
            super().reply_and_acknowledge(link, items)

    class NotingLink(FakeLink):
        def receive(self, *arguments: Any) -> list[Delivery]:
            steps.append("receive")
            return list(super().receive(*arguments))

    consumer([NotingLink(*messages(1))], Noting(), FakeStop()).run(drain=True)
    assert steps == ["receive", "reply", "receive"]


def test_replies_are_sent_only_after_the_ledger_has_the_batch() -> None:
    class Orderly(BatchRecorder):
        def reply_and_acknowledge(self, link: Link, items: Sequence[Item]) -> None:
            assert [item.delivery for item in items] in self.batches
            super().reply_and_acknowledge(link, items)

    link = FakeLink(*messages(20))
    consumer([link], Orderly(), FakeStop()).run(drain=True)
    assert len(link.acknowledged) == 20


def test_database_outage_does_not_hold_the_replies_of_the_previous_batch() -> None:
    deliveries, stop = messages(7), FakeStop()
    link, pipeline = FakeLink(*deliveries), BatchRecorder()

    def fail_from_now_on() -> None:
        if len(pipeline.batches) == 1:
            pipeline.errors = [LedgerUnavailableError("down")] * 1000

    pipeline.after = fail_from_now_on
    link.on_keep_alive = lambda: setattr(stop, "requested", sum(link.waited_s) > 2)
    consumer([link], pipeline, stop).run()
    assert link.acknowledged == deliveries[:3]


def test_replies_are_sent_again_and_nothing_is_applied_while_the_broker_takes_none() -> None:
    link, pipeline = FakeLink(*messages(13)), BatchRecorder()
    applied: list[int] = []
    pipeline.broker_errors = [UnansweredError("full")] * 9
    link.on_keep_alive = lambda: applied.append(len(pipeline.batches))
    consumer([link], pipeline, FakeStop()).run(drain=True)
    assert len(set(applied[1:9])) == 1, "no batch more than the one that was under way"
    assert len(link.acknowledged) == 13


def test_link_is_kept_alive_while_the_ledger_works() -> None:
    kept, link = Semaphore(0), FakeLink(*messages(4))
    link.on_keep_alive = kept.release

    class Slow(BatchRecorder):
        def apply(self, items: Sequence[Item]) -> None:
            # The loop does it once a round; the second time is while the ledger works.
            assert not self.batches or not items or all(kept.acquire(timeout=PATIENCE_S) for _ in range(2))
            super().apply(items)

    consumer([link], Slow(), FakeStop()).run(drain=True)
    assert len(link.acknowledged) == 4


def test_fault_in_the_ledgers_thread_ends_the_loop() -> None:
    link, pipeline = FakeLink(*messages(7)), BatchRecorder()

    def fail() -> None:
        if len(pipeline.batches) == 2:
            raise ZeroDivisionError("a bug")

    pipeline.after = fail
    with pytest.raises(ZeroDivisionError):
        consumer([link], pipeline, FakeStop()).run(drain=True)
    assert link.closed


def test_stop_in_an_outage_gives_the_messages_back() -> None:
    stop, link = FakeStop(), FakeLink(*messages(2))

    class Down(BatchRecorder):
        def apply(self, items: Sequence[Item]) -> None:
            stop.requested = True
            raise LedgerUnavailableError("down")

    consumer([link], Down(), stop).run()
    assert link.acknowledged == []
    assert link.closed


def test_returned_messages_are_tried_together_on_record_and_leave_none() -> None:
    returned, clean = distinct(2, delivery_count=TRIAL_AFTER), messages(2)
    pipeline, record, link = BatchRecorder(), FakeRecord(), FakeLink(*returned, *clean)
    on_record: list[int] = []
    pipeline.after = lambda: on_record.append(len(record.trials))
    consumer([link], pipeline, FakeStop(), record=record).run(drain=True)
    assert pipeline.batches == [clean[:1], returned, clean[1:]]
    assert on_record == [0, 2, 0]
    assert record.trials == {}
    assert len(link.acknowledged) == 4


@pytest.mark.parametrize(("together", "sizes"), [(16, [2, 2]), (8, [1, 1, 1, 1]), (1, [1, 1, 1, 1])])
def test_messages_of_a_group_that_crashed_are_tried_in_smaller_groups(
    together: int, sizes: list[int]
) -> None:
    returned = distinct(4, delivery_count=TRIAL_AFTER)
    record = FakeRecord({key_of(one): Trial(together, 0, TRIAL_AFTER - 1) for one in returned})
    pipeline = BatchRecorder()
    consumer([FakeLink(*returned)], pipeline, FakeStop(), record=record).run(drain=True)
    assert [len(batch) for batch in pipeline.batches] == sizes
    assert record.trials == {}


def test_message_that_was_tried_alone_when_workers_crashed_is_given_up() -> None:
    poison, innocent = distinct(2, delivery_count=TRIAL_AFTER)
    record = FakeRecord(
        {
            key_of(poison): Trial(1, GIVE_UP_AFTER, TRIAL_AFTER - 1),
            key_of(innocent): Trial(1, GIVE_UP_AFTER - 1, TRIAL_AFTER - 1),
        }
    )
    pipeline = BatchRecorder()
    consumer([FakeLink(poison, innocent)], pipeline, FakeStop(), record=record).run(drain=True)
    assert pipeline.given_up == [poison]
    assert record.trials == {}


def test_trial_of_a_copy_that_is_under_way_elsewhere_is_no_crash() -> None:
    (copy,) = distinct(1, delivery_count=TRIAL_AFTER)
    record = FakeRecord({key_of(copy): Trial(1, GIVE_UP_AFTER, TRIAL_AFTER)})
    pipeline = BatchRecorder()
    consumer([FakeLink(copy)], pipeline, FakeStop(), record=record).run(drain=True)
    assert pipeline.batches == [[copy]]


def test_trial_whose_begin_nobody_confirmed_is_no_crash() -> None:
    (returned,) = distinct(1, delivery_count=TRIAL_AFTER)
    record, stop, link = FakeRecord(), FakeStop(), FakeLink(returned)
    record.errors = [LedgerUnavailableError("written, and the answer is lost")]
    link.on_keep_alive = lambda: setattr(stop, "requested", not record.errors)
    consumer([link], BatchRecorder(), stop, record=record).run()
    assert record.trials == {}


def test_delivery_count_alone_gives_no_message_up() -> None:
    often = messages(3, delivery_count=10_000)
    pipeline, link = BatchRecorder(), FakeLink(*often)
    consumer([link], pipeline, FakeStop()).run(drain=True)
    assert pipeline.given_up == []
    assert link.acknowledged == often


@pytest.mark.parametrize("lost", ["broker", "stop"])
def test_trial_that_an_outage_ends_is_no_crash(lost: str) -> None:
    returned = distinct(2, delivery_count=TRIAL_AFTER)
    before = {key_of(returned[0]): Trial(16, 1, 2)}
    record, stop = FakeRecord(dict(before)), FakeStop()
    pipeline, link = BatchRecorder(), FakeLink(*returned)
    if lost == "broker":
        pipeline.broker_errors = [BrokerUnavailableError("gone")]
        pipeline.after = lambda: setattr(stop, "waits_left", 1)
    else:
        pipeline.errors = [LedgerUnavailableError("down")] * 1000
        link.on_keep_alive = lambda: setattr(stop, "requested", bool(record.trials) and not pipeline.batches)
    consumer([link], pipeline, stop, record=record).run()
    assert record.trials == before
    assert link.acknowledged == []


def test_worker_holds_its_full_prefetch_where_nothing_crashed() -> None:
    returned = distinct(4, delivery_count=TRIAL_AFTER)
    link, pipeline, held = FakeLink(*returned), BatchRecorder(), list[int]()
    pipeline.after = lambda: held.append(link.prefetch)
    consumer([link], pipeline, FakeStop()).run(drain=True)
    assert set(held) == {ConsumerPace().prefetch}


def test_worker_holds_one_message_where_one_crashed_alone_and_more_with_each_trial() -> None:
    returned = distinct(20, delivery_count=TRIAL_AFTER)
    record = FakeRecord({key_of(returned[0]): Trial(1, 1, 2)})
    pipeline, link, held = BatchRecorder(), FakeLink(*returned), list[int]()
    pipeline.after = lambda: held.append(link.prefetch)
    consumer([link], pipeline, FakeStop(), record=record).run(drain=True)
    assert held[:4] == [1, 8, 64, 512]
    assert link.prefetch == ConsumerPace().prefetch


def test_deliveries_of_a_long_outage_are_given_back_before_the_broker_takes_them() -> None:
    link, pipeline, stop = FakeLink(*messages(1)), BatchRecorder(), FakeStop()
    pipeline.errors = [LedgerUnavailableError("down")] * 1000
    again = FakeLink(*messages(1))
    again.on_keep_alive = lambda: setattr(stop, "requested", True)
    consumer([link, again], pipeline, stop, hold_most_s=0.0).run()
    assert link.closed
    assert link.acknowledged == []


def test_batches_and_outages_are_counted() -> None:
    metrics = Metrics()
    pipeline = BatchRecorder(errors=[LedgerUnavailableError("down")] * 2)
    consumer([FakeLink(*messages(4))], pipeline, FakeStop(), metrics=metrics).run(drain=True)
    assert metrics.registry.get_sample_value("billing_worker_batch_size_count") == 2
    assert metrics.registry.get_sample_value("billing_worker_outages_total", {"server": "database"}) == 1


def test_bulk_is_served_last_and_in_every_batch() -> None:
    bulk, others = messages(5, queue=BULK), messages(5)
    link, pipeline = FakeLink(*bulk, *others), BatchRecorder()
    consumer([link], pipeline, FakeStop(), bulk=BULK).run(drain=True)
    assert pipeline.batches[:2] == [[*others[:2], bulk[0]], [*others[2:4], bulk[1]]]
    assert pipeline.batches[2][:2] == [others[4], bulk[2]]
    assert len(link.acknowledged) == 10


def test_message_that_comes_while_a_batch_with_bulk_waits_joins_it_ahead_of_bulk() -> None:
    """The second batch is received and waits for the first, which is in the ledger when the others come."""
    early, bulk, late = messages(2), messages(2, queue=BULK), messages(1)
    broker = FakeBroker()
    link, pipeline = FakeLink(*early, *bulk, broker=broker), BatchRecorder()
    received = Event()

    def arrive() -> None:
        if len(pipeline.batches) == 1:
            assert received.wait(PATIENCE_S)
            broker.queue("billing.usage").extend(late)  # while the next one waits

    pipeline.after = arrive
    original = pipeline.receive

    def receive(deliveries: Sequence[Delivery]) -> list[Item]:
        if bulk[1] in deliveries:
            received.set()
        return original(deliveries)

    pipeline.receive = receive  # type: ignore[method-assign]
    consumer([link], pipeline, FakeStop(), bulk=BULK).run(drain=True)
    assert pipeline.batches == [[*early, bulk[0]], [*late, bulk[1]]]
    assert len(link.acknowledged) == 5


def test_message_that_may_be_poison_joins_no_batch() -> None:
    (poison,) = distinct(1, delivery_count=TRIAL_AFTER)
    bulk, broker = messages(4, queue=BULK), FakeBroker()
    link, pipeline = FakeLink(*bulk, broker=broker), BatchRecorder()

    def arrive() -> None:
        if len(pipeline.batches) == 1:
            broker.queue("billing.usage").append(poison)

    pipeline.after = arrive
    consumer([link], pipeline, FakeStop(), bulk=BULK).run(drain=True)
    assert [poison] in pipeline.batches
    assert len(link.acknowledged) == 5
