"""Runs of a recovery: the place, the rate, full queues and the stop, on a journal in memory."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine

from tests.support.fakes import FakeLink
from worker.broker import Delivery
from worker.broker.journal import JournalMessage, Offsets, ReadsJournal
from worker.errors import BrokerUnavailableError, ConfigurationError, NotFoundError
from worker.ledger.engine import ledger_engine
from worker.ledger.recoveries import Advance, Recoveries, Recovery
from worker.messages.policy import Policy
from worker.recovery.run import RecoveryControls, RecoveryResources, RecoveryRun
from worker.recovery.span import Span, span_since

OURS = Policy(worker_users=frozenset({"ops"}))
NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)


@dataclass
class FakeJournal(ReadsJournal):
    """A journal of so many deductions, in chunks of 100; its waits pass the time.

    With ``gap`` its last offset has no message.
    """

    count: int
    first: int = 0
    since: int | None = 0
    gap: bool = False
    passed_s: float = 0.0

    def offsets(self) -> Offsets | None:
        return Offsets(self.first, self.first + self.count - 1) if self.count else None

    def offset_at(self, moment: datetime) -> int | None:
        return self.since

    def begins_at(self, kept: Offsets, now: datetime) -> datetime | None:
        return now

    def read(self, start: int, last: int) -> Iterator[Sequence[JournalMessage]]:
        end = last if self.gap else last + 1
        for begin in range(start, end, 100):
            yield [_message(offset) for offset in range(begin, min(begin + 100, end))]

    def keep_alive(self, wait_s: float = 0.0) -> None:
        self.passed_s += wait_s

    def close(self) -> None:
        pass


def _message(offset: int) -> JournalMessage:
    body = {"type": "usage.deduct", "referenceId": f"d-{offset}", "userId": "ann", "tokens": 1}
    delivery = Delivery(json.dumps(body).encode(), "billing.journal", "billing", "usage.deduct", offset)
    return JournalMessage(offset, delivery)


@dataclass
class _Stop:
    requested: bool = False


@dataclass
class JournalWorld:
    """A recovery of ``journal``, with its link and its database."""

    engine: Engine
    journal: FakeJournal
    link: FakeLink = field(default_factory=FakeLink)
    stop: _Stop = field(default_factory=_Stop)
    troubles: list[str] = field(default_factory=list)

    def begin(self) -> Recovery:
        kept = self.journal.offsets()
        assert kept is not None
        return Recoveries(self.engine).begin("bob", NOW, kept.first, kept.last, NOW)

    def run(self, recovery: Recovery, rate: float | None = None) -> RecoveryRun:
        journal = self.journal
        resources = RecoveryResources(
            journal, self.link, self.engine, OURS, lambda: NOW, lambda: journal.passed_s, "ops"
        )
        return RecoveryRun(resources, recovery, RecoveryControls(self.stop, self.troubles.append), rate)

    @property
    def references(self) -> list[str]:
        return [json.loads(message.body)["referenceId"] for message in self.link.published]


@pytest.fixture
def engine(sqlite_url: str) -> Iterator[Engine]:
    engine = ledger_engine(sqlite_url)
    yield engine
    engine.dispose()


def test_run_publishes_everything_in_order_and_records_the_end(engine: Engine) -> None:
    world = JournalWorld(engine, FakeJournal(250, first=40))
    run = world.run(world.begin())
    assert [message.offset for message in run.messages()] == list(range(40, 290))
    assert world.references == [f"d-{offset}" for offset in range(40, 290)]
    stored = Recoveries(engine).get(1)
    assert stored == run.recovery
    assert (stored.next, stored.published, stored.is_done, stored.ended_at) == (290, 250, True, NOW)


def test_run_ends_where_its_last_offset_has_no_message(engine: Engine) -> None:
    world = JournalWorld(engine, FakeJournal(100, gap=True))
    run = world.run(world.begin())
    assert [message.offset for message in run.messages()][-1] == 98
    assert (run.recovery.published, run.recovery.is_done) == (99, True)


def test_run_that_the_broker_interrupts_goes_on_at_its_place(engine: Engine) -> None:
    world = JournalWorld(engine, FakeJournal(250))
    calls = iter(range(10))

    def fail() -> None:
        if next(calls) == 1:
            raise BrokerUnavailableError("gone")

    world.link.on_publish = fail
    with pytest.raises(BrokerUnavailableError):
        list(world.run(world.begin()).messages())
    stored = Recoveries(engine).get(1)
    assert (stored.next, stored.is_done) == (100, False)
    list(world.run(stored).messages())
    assert world.references == [f"d-{offset}" for offset in range(250)]
    assert Recoveries(engine).get(1).published == 250


def test_run_stops_between_two_pieces(engine: Engine) -> None:
    world = JournalWorld(engine, FakeJournal(250))
    run = world.run(world.begin())
    for message in run.messages():
        world.stop.requested = message.offset >= 120
    assert (run.recovery.next, run.recovery.is_done) == (200, False)


def test_run_keeps_its_rate(engine: Engine) -> None:
    world = JournalWorld(engine, FakeJournal(100))
    list(world.run(world.begin(), rate=20.0).messages())
    assert world.journal.passed_s == pytest.approx(100 / 20, abs=0.5)


def test_message_that_a_full_queue_refuses_is_sent_again(engine: Engine) -> None:
    world = JournalWorld(engine, FakeJournal(100))
    world.link.refusing = {"usage.deduct"}

    def empty() -> None:
        world.link.refusing = set()

    world.link.on_keep_alive = empty
    list(world.run(world.begin()).messages())
    assert len(world.references) == 100
    (trouble,) = world.troubles
    assert "is the queue full?" in trouble


def test_run_without_a_queue_names_the_way_out_and_keeps_its_place(engine: Engine) -> None:
    world = JournalWorld(engine, FakeJournal(100))
    world.link.unroutable = {"usage.deduct"}
    with pytest.raises(ConfigurationError, match=r"no queue takes usage\.deduct"):
        list(world.run(world.begin()).messages())
    assert Recoveries(engine).get(1).next == 0


@pytest.mark.parametrize(
    ("first", "since", "expected"),
    [
        (0, 0, Span(NOW, 0, 9, Offsets(0, 9))),
        (0, 5, Span(NOW, 5, 9, Offsets(0, 9))),
        (100, 100, Span(NOW, 100, 109, Offsets(100, 109))),
        (0, None, None),
    ],
)
def test_span_is_what_the_journal_keeps_since_the_time(
    first: int, since: int | None, expected: Span | None
) -> None:
    assert span_since(FakeJournal(10, first=first, since=since), NOW) == expected


def test_span_is_not_covered_where_the_limits_may_have_dropped_messages() -> None:
    assert Span(NOW, 0, 9, Offsets(0, 9)).is_covered
    assert Span(NOW, 105, 109, Offsets(100, 109)).is_covered
    assert not Span(NOW, 100, 109, Offsets(100, 109)).is_covered


def test_empty_journal_has_no_span() -> None:
    assert span_since(FakeJournal(0), NOW) is None


def test_recovery_is_kept_in_both_databases(request: pytest.FixtureRequest) -> None:
    engine = ledger_engine(request.getfixturevalue("postgres_url"))
    recoveries = Recoveries(engine)
    begun = recoveries.begin("bob", NOW, 5, 9, NOW)
    moved = recoveries.advance(begun.number, Advance(7, 1, 1, 0, 0), NOW)
    assert (moved.next, moved.published, moved.dead_letters, moved.ended_at) == (7, 1, 1, None)
    assert recoveries.advance(begun.number, Advance(10, 3, 0, 0, 0), NOW).ended_at == NOW
    with pytest.raises(NotFoundError, match="no recovery 99"):
        recoveries.get(99)
    engine.dispose()
