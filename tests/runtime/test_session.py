"""Session: calls in the ledger's thread and over the link, through outages."""

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Semaphore, current_thread

import pytest

from tests.support.waiting import PATIENCE_S
from worker.errors import (
    BrokerUnavailableError,
    GiveBackError,
    LedgerUnavailableError,
    SchemaChangedError,
    UnansweredError,
    UnusableSchemaError,
)
from worker.runtime.backoff import Backoff, Outage
from worker.runtime.session import Session


@dataclass
class SessionWorld:
    """Link, stop and clock of one session; waiting takes no time."""

    thread: ThreadPoolExecutor
    requested: bool = False
    waited_s: list[float] = field(default_factory=list)
    on_keep_alive: Callable[[], None] = lambda: None
    outages: list[str] = field(default_factory=list)
    look: Callable[[], object] = lambda: None

    def keep_alive(self, wait_s: float = 0.0) -> None:
        self.waited_s.append(wait_s)
        self.on_keep_alive()

    def wait(self, seconds: float) -> None:
        raise AssertionError("a session waits by keeping its link alive")

    def session(self, *, hold_most_s: float = 1440.0) -> Session:
        broker, database = (self.outage(name) for name in ("broker", "database"))
        return Session(
            self,
            self.thread,
            broker=broker,
            database=database,
            backoff=lambda: Backoff(1.0, 4.0, random.Random(1)),
            stop=self,
            hold_most_s=hold_most_s,
            look=self._looked,
            seconds=lambda: sum(self.waited_s),
        )

    def _looked(self) -> None:
        self.look()

    def outage(self, server: str) -> Outage:
        return Outage(server, "waiting", on_begin=lambda: self.outages.append(server))


@pytest.fixture
def world() -> Iterator[SessionWorld]:
    with ThreadPoolExecutor(1, "ledger") as thread:
        yield SessionWorld(thread)


def failing(times: int, error: Exception) -> Callable[[], str]:
    """Return work that fails ``times`` times and then returns the name of its thread."""
    left = [error] * times

    def work() -> str:
        if left:
            raise left.pop()
        return current_thread().name

    return work


def test_call_returns_its_result_from_the_ledgers_thread(world: SessionWorld) -> None:
    assert world.session().in_ledger(failing(0, ValueError())).startswith("ledger")
    assert (world.waited_s, world.outages) == ([], [])


def test_call_under_way_keeps_the_link_alive(world: SessionWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.runtime.session._KEEP_ALIVE_EVERY_S", 0.01)
    kept = Semaphore(0)
    world.on_keep_alive = kept.release
    assert world.session().in_ledger(lambda: kept.acquire(timeout=PATIENCE_S))


def test_failed_call_is_begun_again_through_an_outage(world: SessionWorld) -> None:
    session = world.session()
    call = session.begin(failing(3, LedgerUnavailableError("down")))
    assert session.result(call).startswith("ledger")
    assert world.outages == ["database"]
    assert sum(world.waited_s) > 3
    assert max(world.waited_s) <= 0.5, "the broker hears of us meanwhile"


def test_broker_that_takes_not_all_is_asked_again(world: SessionWorld) -> None:
    answer = world.session().with_broker(failing(3, UnansweredError("full")))
    assert not answer.startswith("ledger")
    assert world.outages == ["broker"]


@pytest.mark.parametrize(
    "error", [BrokerUnavailableError("gone"), ZeroDivisionError("a bug"), TimeoutError("the work's own")]
)
def test_lost_link_and_faults_are_raised_at_once(world: SessionWorld, error: Exception) -> None:
    session = world.session()
    for run in (session.in_ledger, session.with_broker):
        with pytest.raises(type(error)):
            run(failing(1, error))
    assert (world.waited_s, world.outages) == ([], [])


def test_link_lost_while_the_ledger_works_is_raised(
    world: SessionWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.runtime.session._KEEP_ALIVE_EVERY_S", 0.01)
    lost = Semaphore(0)

    def lose() -> None:
        lost.release()
        raise BrokerUnavailableError("gone")

    world.on_keep_alive = lose
    with pytest.raises(BrokerUnavailableError):
        world.session().in_ledger(lambda: lost.acquire(timeout=PATIENCE_S))


def test_stop_in_an_outage_gives_messages_back(world: SessionWorld) -> None:
    world.on_keep_alive = lambda: setattr(world, "requested", sum(world.waited_s) > 5)
    with pytest.raises(GiveBackError, match="stop"):
        world.session().in_ledger(failing(1000, LedgerUnavailableError("down")))
    assert sum(world.waited_s) < 6


def test_outage_that_outlasts_the_hold_gives_messages_back(world: SessionWorld) -> None:
    with pytest.raises(GiveBackError, match="longer"):
        world.session(hold_most_s=20.0).in_ledger(failing(1000, LedgerUnavailableError("down")))
    assert 20 < sum(world.waited_s) < 27


def test_statement_that_does_not_fit_is_tried_again_where_the_schema_does(
    world: SessionWorld,
) -> None:
    looks: list[str] = []
    world.look = lambda: looks.append(current_thread().name)
    assert world.session().in_ledger(failing(2, SchemaChangedError("42703"))).startswith("ledger")
    assert len(looks) == 2
    assert all(name.startswith("ledger") for name in looks)


@pytest.mark.parametrize("error", [SchemaChangedError("42703"), UnusableSchemaError("not for 0.3.0")])
def test_schema_that_is_not_for_this_version_ends_the_wait_at_once(
    world: SessionWorld, error: Exception
) -> None:
    world.look = failing(1, UnusableSchemaError("not for 0.3.0"))
    with pytest.raises(UnusableSchemaError, match=r"not for 0\.3\.0"):
        world.session().in_ledger(failing(1, error))
    assert world.waited_s == []


def test_outage_that_hides_the_schema_is_waited_out(world: SessionWorld) -> None:
    world.look = failing(1, LedgerUnavailableError("down"))
    assert world.session().in_ledger(failing(1, SchemaChangedError("42703"))).startswith("ledger")
