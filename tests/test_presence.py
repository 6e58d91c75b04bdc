"""Presence of a process: its row and the pauses it reads, and nothing that can end or delay it."""

import logging
from dataclasses import replace
from datetime import UTC, datetime
from typing import cast

import pytest

from tests.support.fake_stop import FakeStop
from tests.support.fakes import FakeOperatorPauses
from worker.errors import LedgerUnavailableError
from worker.lanes.operator_pauses import PauseWatch
from worker.ledger.operator_pauses import OperatorPause, PauseKind
from worker.ledger.workers import KnownWorker, WorkerKind, Workers, WorkerState
from worker.presence import Presence

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
WORKER = KnownWorker("w", WorkerKind.WORKER, "host", 1, "0.5.0", "s", NOW, NOW)


class WorkerRows:
    """Rows in memory; ``fails`` is raised instead of a write."""

    def __init__(self) -> None:
        self.written: list[KnownWorker] = []
        self.ended: list[str] = []
        self.tidied = 0
        self.fails: Exception | None = None

    def write(self, worker: KnownWorker) -> None:
        if self.fails is not None:
            raise self.fails
        self.written.append(worker)

    def end(self, name: str, now: datetime) -> None:
        del now
        if self.fails is not None:
            raise self.fails
        self.ended.append(name)

    def remove_old(self, now: datetime) -> None:
        del now
        self.tidied += 1


class PresenceWorld:
    """Presence with rows, pauses and a clock of its own."""

    def __init__(self) -> None:
        self.now, self.state = 0.0, WorkerState.CONSUMING
        self.rows, self.pauses = WorkerRows(), FakeOperatorPauses()
        self.watch = PauseWatch(self.pauses, lambda: NOW)
        self.presence = Presence(
            lambda: replace(WORKER, state=self.state),
            cast(Workers, self.rows),
            clock=lambda: NOW,
            watch=self.watch,
            seconds=lambda: self.now,
        )


@pytest.fixture
def world() -> PresenceWorld:
    return PresenceWorld()


def test_row_is_written_at_most_every_five_seconds(world: PresenceWorld) -> None:
    for world.now in range(11):
        world.presence.turn()
    assert len(world.rows.written) == 3
    assert world.rows.tidied == 1


def test_row_is_written_at_each_look_after_the_pauses_changed(world: PresenceWorld) -> None:
    world.presence.turn()
    world.pauses.pauses = [OperatorPause(1, "billing.usage", None, PauseKind.PAUSE, "why", "ann", NOW)]
    for world.now in range(1, 4):
        world.presence.turn()
    assert len(world.rows.written) == 4


def test_pauses_are_read_each_second(world: PresenceWorld) -> None:
    world.presence.turn()
    world.pauses.pauses = [OperatorPause(1, "billing.usage", None, PauseKind.PAUSE, "why", "ann", NOW)]
    world.now = 1.0
    world.presence.turn()
    assert [pause.number for pause in world.watch.lasting] == [1]


@pytest.mark.parametrize("fault", [LedgerUnavailableError("down"), PermissionError("no right")])
def test_failing_database_ends_nothing(
    world: PresenceWorld, caplog: pytest.LogCaptureFixture, fault: Exception
) -> None:
    world.rows.fails, world.pauses.down = fault, True
    with caplog.at_level(logging.INFO):
        for world.now in range(0, 30, 5):
            world.presence.turn()
        world.presence.end()
    assert len(caplog.records) == (0 if isinstance(fault, LedgerUnavailableError) else 1)
    world.rows.fails, world.pauses.down = None, False
    world.now = 35.0
    world.presence.turn()
    assert len(world.rows.written) == 1


def test_last_row_says_that_the_process_stops(world: PresenceWorld) -> None:
    stop = FakeStop(waits_left=1, on_wait=lambda: setattr(world, "state", WorkerState.STOPPING))
    world.presence.run(stop)
    world.presence.end()
    assert [row.state for row in world.rows.written] == [WorkerState.CONSUMING, WorkerState.STOPPING]
    assert world.rows.ended == ["w"]
