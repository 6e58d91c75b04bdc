"""The loop: through outages of either server, in suspicion, and to its end."""

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Event, Semaphore
from typing import Any

import pytest

from tests.support.fakes import FakeLink, delivery
from tests.support.waiting import PATIENCE_S
from worker.broker import Delivery, Link
from worker.consumer import Consumer, Pace
from worker.errors import BrokerUnavailableError, ConfigurationError, LedgerUnavailableError
from worker.flood import Flood
from worker.metrics import Metrics
from worker.pipeline import Item, UnansweredError
from worker.policy import SUSPECT_AFTER


@dataclass
class FakeStop:
    """Stops after so many waits; waits for nothing."""

    waits_left: int = 1000
    requested: bool = False
    waited_s: list[float] = field(default_factory=list)

    def wait(self, seconds: float) -> None:
        self.waited_s.append(seconds)
        self.waits_left -= 1
        self.requested |= self.waits_left <= 0


@dataclass
class FakeLedger:
    """Fails to answer as often as said."""

    failures: int = 0

    def probe(self) -> None:
        if self.failures:
            self.failures -= 1
            raise LedgerUnavailableError("the database is down")


@dataclass
class FakePipeline:
    """Remembers the batches; fails with each of ``errors`` first, and tells the broker after its own."""

    errors: list[Exception] = field(default_factory=list)
    broker_errors: list[Exception] = field(default_factory=list)
    batches: list[list[Delivery]] = field(default_factory=list)
    after: Callable[[], None] = lambda: None
    flood: Flood = field(default_factory=Flood)

    def receive(self, deliveries: Sequence[Delivery]) -> list[Item]:
        return [Item(one) for one in deliveries]

    def apply(self, items: Sequence[Item]) -> None:
        if not items:
            return
        if self.errors:
            raise self.errors.pop(0)
        self.batches.append([item.delivery for item in items])
        self.after()

    def tell(self, link: Link, items: Sequence[Item]) -> None:
        if self.broker_errors:
            raise self.broker_errors.pop(0)
        link.acknowledge([item.delivery for item in items])


def consumer(
    links: Sequence[Any],
    pipeline: FakePipeline,
    stop: FakeStop,
    ledger: FakeLedger | None = None,
    metrics: Metrics | None = None,
) -> Consumer:
    """A loop that opens ``links`` one after the other; an exception among them is raised instead.

    What a link had delivered and was not acknowledged comes again when it is opened again.
    """
    opening = iter(links)
    opened: list[FakeLink] = []

    def connect(prefetch: int) -> Link:
        # A worker begins with care and goes on with full hands: the same fake serves it twice.
        if prefetch == 1:
            link = next(opening)
            if isinstance(link, Exception):
                raise link
            opened.append(link)
        opened[-1].prefetch = prefetch
        return opened[-1]

    fakes: dict[str, Any] = {"ledger": ledger or FakeLedger(), "pipeline": pipeline}
    return Consumer(
        connect,
        **fakes,
        pace=Pace(batch_size=3),
        stop=stop,
        rng=random.Random(1),
        metrics=metrics or Metrics(),
    )


def messages(count: int, **options: Any) -> list[Delivery]:
    return [delivery(b"{}", **options) for _ in range(count)]


def test_what_has_arrived_is_settled_in_batches_of_at_most_the_maximum() -> None:
    link, pipeline = FakeLink(*messages(7)), FakePipeline()
    consumer([link], pipeline, FakeStop()).run(drain=True)
    assert [len(batch) for batch in pipeline.batches] == [1, 3, 3]
    assert link.closed


def test_an_outage_of_the_database_keeps_the_batch_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    deliveries = messages(2)
    link = FakeLink(*deliveries)
    pipeline = FakePipeline(errors=[LedgerUnavailableError("the database is down")] * 9)
    consumer([link], pipeline, FakeStop()).run(drain=True)
    assert link.acknowledged == deliveries
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
    assert "keeping the messages" in caplog.records[0].getMessage()
    assert "back after" in caplog.records[1].getMessage()


def test_waits_grow_and_stay_below_their_bound() -> None:
    stop = FakeStop()
    consumer([FakeLink()], FakePipeline(), stop, FakeLedger(failures=20)).run(drain=True)
    assert len(stop.waited_s) == 20
    assert stop.waited_s[0] < 0.2
    assert max(stop.waited_s) <= 15.0
    assert min(stop.waited_s[-5:]) >= 5.0


def test_a_stop_in_the_middle_of_a_long_wait_ends_it() -> None:
    stop, link = FakeStop(), FakeLink(*messages(1))
    pipeline = FakePipeline(errors=[LedgerUnavailableError("down")] * 1000)
    link.on_keep_alive = lambda: setattr(stop, "requested", sum(link.waited_s) > 12)
    consumer([link], pipeline, stop).run()
    assert sum(link.waited_s) < 13
    assert max(link.waited_s) <= 0.5
    assert link.acknowledged == []


def test_a_lost_broker_is_connected_again_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    pipeline = FakePipeline(broker_errors=[BrokerUnavailableError("gone")])
    first, last = FakeLink(*messages(1)), FakeLink(*messages(1))
    gone = [BrokerUnavailableError("refused")] * 5
    consumer([first, *gone, last], pipeline, FakeStop()).run(drain=True)
    assert first.acknowledged == []  # the broker has it still, and delivers it again
    assert first.closed
    assert len(last.acknowledged) == 1
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


def test_nothing_is_taken_from_the_broker_before_the_ledger_answers() -> None:
    ledger, stop, link = FakeLedger(failures=4), FakeStop(), FakeLink(*messages(1))
    consumer([link], FakePipeline(), stop, ledger).run(drain=True)
    assert len(stop.waited_s) == 4
    assert len(link.acknowledged) == 1


def test_a_wrong_configuration_ends_a_worker_that_has_never_been_connected() -> None:
    with pytest.raises(ConfigurationError):
        consumer([ConfigurationError("no such vhost")], FakePipeline(), FakeStop()).run()


def test_a_broker_that_starts_up_may_refuse_a_worker_it_has_known() -> None:
    pipeline = FakePipeline(broker_errors=[BrokerUnavailableError("gone")])
    links: list[Any] = [FakeLink(*messages(1)), ConfigurationError("not yet"), FakeLink(*messages(1))]
    consumer(links, pipeline, FakeStop()).run(drain=True)
    assert len(links[-1].acknowledged) == 1


def test_a_stop_finishes_the_batch_and_takes_no_other() -> None:
    stop, link = FakeStop(), FakeLink(*messages(9))
    pipeline = FakePipeline()
    pipeline.after = lambda: setattr(stop, "requested", len(pipeline.batches) == 2)
    consumer([link], pipeline, stop).run()
    assert [len(batch) for batch in pipeline.batches] == [1, 3]
    assert len(link.acknowledged) == 4
    assert link.closed


def test_the_broker_is_told_of_one_batch_while_the_ledger_has_the_next() -> None:
    told, began = Event(), Event()

    class Overlapping(FakePipeline):
        def apply(self, items: Sequence[Item]) -> None:
            if len(self.batches) == 2 and items:
                began.set()
                assert told.wait(PATIENCE_S)
            super().apply(items)

        def tell(self, link: Link, items: Sequence[Item]) -> None:
            if len(self.batches) == 2:
                assert began.wait(PATIENCE_S)
                told.set()
            super().tell(link, items)

    link, pipeline = FakeLink(*messages(7)), Overlapping()
    consumer([link], pipeline, FakeStop()).run(drain=True)
    assert [len(batch) for batch in pipeline.batches] == [1, 3, 3]
    assert link.acknowledged == [delivery for batch in pipeline.batches for delivery in batch]


def test_nothing_is_told_before_the_ledger_has_it() -> None:
    class Orderly(FakePipeline):
        def tell(self, link: Link, items: Sequence[Item]) -> None:
            assert [item.delivery for item in items] in self.batches
            super().tell(link, items)

    link = FakeLink(*messages(20))
    consumer([link], Orderly(), FakeStop()).run(drain=True)
    assert len(link.acknowledged) == 20


def test_an_outage_of_the_database_does_not_hold_the_replies_of_the_batch_before() -> None:
    deliveries, stop = messages(7), FakeStop()
    link, pipeline = FakeLink(*deliveries), FakePipeline()

    def fail_from_now_on() -> None:
        if len(pipeline.batches) == 2:
            pipeline.errors = [LedgerUnavailableError("down")] * 1000

    pipeline.after = fail_from_now_on
    link.on_keep_alive = lambda: setattr(stop, "requested", sum(link.waited_s) > 2)
    consumer([link], pipeline, stop).run()
    assert link.acknowledged == deliveries[:4]


def test_a_broker_that_takes_no_replies_is_asked_again_and_nothing_is_settled_meanwhile() -> None:
    link, pipeline = FakeLink(*messages(13)), FakePipeline()
    settled: list[int] = []
    pipeline.broker_errors = [UnansweredError("full")] * 9
    link.on_keep_alive = lambda: settled.append(len(pipeline.batches))
    consumer([link], pipeline, FakeStop()).run(drain=True)
    assert settled[:9] == [1] * 9
    assert len(link.acknowledged) == 13


def test_the_link_is_kept_alive_while_the_ledger_takes_its_time() -> None:
    kept, link = Semaphore(0), FakeLink(*messages(4))
    link.on_keep_alive = kept.release

    class Slow(FakePipeline):
        def apply(self, items: Sequence[Item]) -> None:
            # The loop does it once a round; the second time is for the ledger's sake.
            assert not self.batches or not items or all(kept.acquire(timeout=PATIENCE_S) for _ in range(2))
            super().apply(items)

    consumer([link], Slow(), FakeStop()).run(drain=True)
    assert len(link.acknowledged) == 4


def test_a_fault_of_ours_ends_the_loop_from_whichever_thread() -> None:
    link, pipeline = FakeLink(*messages(7)), FakePipeline()

    def fail() -> None:
        if len(pipeline.batches) == 2:
            raise ZeroDivisionError("a bug")

    pipeline.after = fail
    with pytest.raises(ZeroDivisionError):
        consumer([link], pipeline, FakeStop()).run(drain=True)
    assert link.closed


def test_a_stop_in_an_outage_gives_the_messages_back() -> None:
    stop, link = FakeStop(), FakeLink(*messages(2))

    class Down(FakePipeline):
        def apply(self, items: Sequence[Item]) -> None:
            stop.requested = True
            raise LedgerUnavailableError("down")

    consumer([link], Down(), stop).run()
    assert link.acknowledged == []
    assert link.closed


def test_suspects_go_alone_and_one_at_a_time_is_held() -> None:
    clean, suspects = messages(1), messages(2, delivery_count=SUSPECT_AFTER)
    pipeline, link = FakePipeline(), FakeLink(*suspects, *clean)
    held: list[int] = []
    pipeline.after = lambda: held.append(link.prefetch)
    consumer([link], pipeline, FakeStop()).run(drain=True)
    assert pipeline.batches == [[suspects[0]], [suspects[1]], clean]
    assert held == [1, 1, 1]


def test_a_suspect_among_others_is_left_for_a_careful_look() -> None:
    deliveries = messages(4)
    suspect = messages(1, delivery_count=SUSPECT_AFTER)[0]
    first, again = FakeLink(*deliveries[:2], suspect, deliveries[2]), FakeLink(suspect, deliveries[3])
    pipeline = FakePipeline()
    consumer([first, again], pipeline, FakeStop()).run(drain=True)
    assert pipeline.batches == [[deliveries[0]], [deliveries[1], deliveries[2]], [suspect], [deliveries[3]]]
    assert again.prefetch == Pace().prefetch


def test_suspicion_does_not_wear_off_while_the_batch_before_takes_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0

    def ticking(seconds: float = 0.01) -> float:
        nonlocal now
        now += seconds
        return now

    monkeypatch.setattr("worker.consumer.monotonic", ticking)
    suspect = messages(1, delivery_count=SUSPECT_AFTER)[0]
    clean = messages(5, queue="billing.payments")
    first, again = FakeLink(*clean[:3], suspect), FakeLink(clean[3], suspect, clean[4])
    pipeline, held = FakePipeline(), list[int]()

    def pass_time() -> None:
        held.append(again.prefetch)
        if len(pipeline.batches) == 2:
            ticking(60)

    pipeline.after = pass_time
    consumer([first, again], pipeline, FakeStop()).run(drain=True)
    assert pipeline.batches == [clean[:1], clean[1:3], [clean[3]], [suspect], [clean[4]]]
    assert held[2:4] == [1, 1]


def test_batches_and_outages_are_counted() -> None:
    metrics = Metrics()
    pipeline = FakePipeline(errors=[LedgerUnavailableError("down")] * 2)
    consumer([FakeLink(*messages(4))], pipeline, FakeStop(), metrics=metrics).run(drain=True)
    assert metrics.registry.get_sample_value("billing_worker_batch_size_count") == 2
    assert metrics.registry.get_sample_value("billing_worker_outages_total", {"server": "database"}) == 1
