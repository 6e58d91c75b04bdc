"""Pauses that operators have asked for: of a lane, or of one type of it.

They last until an operator ends them, whichever workers come and go. What workers pause by themselves is in
``pauses``. Of a paused type messages are held in a queue of their own; its pause is over for operators when
it ends, and *returned* when what was held is back in its lane.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Engine, insert, select, update
from sqlalchemy.sql import ColumnElement

from worker.ledger.bulk import among
from worker.ledger.engine import translated_errors
from worker.ledger.tables import operator_pauses


class PauseKind(StrEnum):
    """Kind of a pause: give back what is held, or finish it (``QUIESCE``); then take nothing."""

    PAUSE = "pause"
    QUIESCE = "quiesce"


@dataclass(frozen=True, slots=True)
class OperatorPause:
    """Pause of the lane ``queue``, or of one ``type`` of it, with who asked for it and why."""

    number: int
    queue: str
    type: str | None
    kind: PauseKind
    reason: str
    actor: str
    began_at: datetime
    ended_at: datetime | None = None

    @property
    def lasts(self) -> bool:
        """True until an operator ends it."""
        return self.ended_at is None

    @property
    def text(self) -> str:
        """The pause for people, without its lane."""
        verb = "quiesced" if self.kind is PauseKind.QUIESCE else "paused"
        return f"{self.type or 'all of it'} {verb} by {self.actor}: {self.reason}"


def begin_pause(
    connection: Connection,
    queue: str,
    type_: str | None,
    kind: PauseKind,
    *,
    reason: str,
    actor: str,
    now: datetime,
) -> OperatorPause | None:
    """Record a pause in the caller's transaction; None where it lasts already.

    A quiesced lane that is to be paused, or the other way round, changes its kind.
    """
    same = _of(queue, type_) & operator_pauses.c.ended_at.is_(None)
    for found in _selected(connection, same):
        if found.kind is kind:
            return None
        _end(connection, [found], actor, now)
    row = {"queue": queue, "type": type_, "kind": kind, "reason": reason, "actor": actor, "began_at": now}
    statement = insert(operator_pauses).values(row).returning(operator_pauses.c.pause_id)
    number = int(connection.execute(statement).scalar_one())
    return OperatorPause(number, queue, type_, kind, reason, actor, now)


def end_pauses(
    connection: Connection, queue: str | None, type_: str | None, *, actor: str, now: datetime
) -> Sequence[OperatorPause]:
    """End the pauses of ``queue`` (None: all), or of one type, in the caller's transaction; return them."""
    chosen: ColumnElement[bool] = operator_pauses.c.ended_at.is_(None)
    if queue is not None:
        chosen &= operator_pauses.c.queue == queue
    if type_ is not None:
        chosen &= operator_pauses.c.type == type_
    found = _selected(connection, chosen)
    _end(connection, found, actor, now)
    return found


class OperatorPauses:
    """Pauses in the ledger's database, as workers read them. Every method raises LedgerUnavailableError."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def current(self) -> Sequence[OperatorPause]:
        """Return the pauses that last, and those of types whose messages are still to return."""
        with translated_errors(), self._engine.connect() as connection:
            reading = connection.execution_options(read_only=True)  # on SQLite it waits for no writer
            return _selected(reading, operator_pauses.c.returned_at.is_(None))

    def mark_returned(self, numbers: Sequence[int], now: datetime) -> None:
        """Record that nothing is held any more of pauses that have ended."""
        with translated_errors(), self._engine.begin() as connection:
            chosen = among(connection, operator_pauses.c.pause_id, sorted(numbers))
            connection.execute(
                update(operator_pauses)
                .where(chosen, operator_pauses.c.ended_at.is_not(None))
                .values(returned_at=now)
            )


def _of(queue: str, type_: str | None) -> ColumnElement[bool]:
    type_column = operator_pauses.c.type
    return (operator_pauses.c.queue == queue) & (
        type_column.is_(None) if type_ is None else type_column == type_
    )


def _end(connection: Connection, pauses: Sequence[OperatorPause], actor: str, now: datetime) -> None:
    """End pauses; of whole lanes nothing is held, so that they have returned at once."""
    for pause in pauses:
        values: dict[str, Any] = {"ended_at": now, "ended_by": actor}
        if pause.type is None:
            values["returned_at"] = now
        own = operator_pauses.c.pause_id == pause.number
        connection.execute(update(operator_pauses).where(own).values(values))


def _selected(connection: Connection, chosen: ColumnElement[bool]) -> Sequence[OperatorPause]:
    columns = operator_pauses.c
    statement = select(
        columns.pause_id,
        columns.queue,
        columns.type,
        columns.kind,
        columns.reason,
        columns.actor,
        columns.began_at,
        columns.ended_at,
    )
    rows = connection.execute(statement.where(chosen).order_by(columns.pause_id))
    return [
        OperatorPause(
            row.pause_id,
            row.queue,
            row.type,
            PauseKind(row.kind),
            row.reason,
            row.actor,
            row.began_at,
            row.ended_at,
        )
        for row in rows
    ]
