"""Pauses of operators: they last until somebody ends them, by lane and by type."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine

from worker.ledger.operator_pauses import OperatorPause, OperatorPauses, PauseKind, begin_pause, end_pauses

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
USAGE, PAYMENTS = "billing.usage", "billing.payments"


class PausesWorld:
    """Pauses of one database, begun and ended by ann."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.pauses = engine, OperatorPauses(engine)

    def begin(
        self, queue: str, type_: str | None = None, kind: PauseKind = PauseKind.PAUSE
    ) -> OperatorPause | None:
        with self.engine.begin() as connection:
            return begin_pause(connection, queue, type_, kind, reason="why", actor="ann", now=NOW)

    def end(self, queue: str | None = None, type_: str | None = None) -> list[tuple[str, str | None]]:
        with self.engine.begin() as connection:
            ended = end_pauses(connection, queue, type_, actor="ann", now=NOW)
        return [(pause.queue, pause.type) for pause in ended]

    def current(self) -> list[tuple[str, str | None, bool]]:
        return [(pause.queue, pause.type, pause.lasts) for pause in self.pauses.current()]


@pytest.fixture
def world(engine: Engine) -> PausesWorld:
    return PausesWorld(engine)


def test_pause_lasts_until_it_is_ended(world: PausesWorld) -> None:
    begun = world.begin(USAGE)
    assert world.pauses.current() == [begun]
    assert world.begin(USAGE) is None, "it lasts already"
    assert world.end(PAYMENTS) == []
    assert world.end(USAGE) == [(USAGE, None)]
    assert world.current() == []


def test_all_lanes_are_ended_at_once(world: PausesWorld) -> None:
    world.begin(USAGE)
    world.begin(PAYMENTS)
    assert world.end() == [(USAGE, None), (PAYMENTS, None)]


def test_paused_lane_becomes_a_quiesced_one(world: PausesWorld) -> None:
    world.begin(USAGE)
    changed = world.begin(USAGE, kind=PauseKind.QUIESCE)
    assert world.pauses.current() == [changed]


def test_pause_of_a_type_stays_until_what_it_held_has_returned(world: PausesWorld) -> None:
    begun = world.begin(USAGE, "usage.deduct")
    assert begun is not None
    world.pauses.mark_returned([begun.number], NOW)
    assert world.current() == [(USAGE, "usage.deduct", True)], "a pause that lasts holds messages"
    assert world.end(USAGE, "usage.record") == []
    assert world.end(USAGE, "usage.deduct") == [(USAGE, "usage.deduct")]
    assert world.current() == [(USAGE, "usage.deduct", False)]
    world.pauses.mark_returned([begun.number], NOW)
    assert world.current() == []
