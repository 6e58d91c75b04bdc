"""Recoveries from the journal, and the place that each has reached.

The place is in the ledger's database on purpose: a ledger that is restored once more goes back with the
place, and nothing is taken for recovered that isn't.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, insert, select, update

from worker.errors import NotFoundError
from worker.ledger.engine import translated_errors
from worker.ledger.tables import recoveries


@dataclass(frozen=True, slots=True)
class Recovery:
    """A recovery: offsets of the journal from ``first`` to ``last``; ``next`` is the one to go on with."""

    number: int
    actor: str
    since: datetime
    first: int
    next: int
    last: int
    published: int
    dead_letters: int
    refused: int
    skipped: int
    began_at: datetime
    ended_at: datetime | None

    @property
    def is_done(self) -> bool:
        """True where all of it is published."""
        return self.next > self.last


@dataclass(frozen=True, slots=True)
class Advance:
    """Progress of a recovery: messages by their use, up to before ``next``."""

    next: int
    published: int = 0
    dead_letters: int = 0
    refused: int = 0
    skipped: int = 0


class Recoveries:
    """Recoveries in the ledger's database. Every method raises LedgerUnavailableError."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def begin(self, actor: str, since: datetime, first: int, last: int, now: datetime) -> Recovery:
        """Record a new recovery."""
        row = {
            "actor": actor,
            "since": since,
            "first_offset": first,
            "next_offset": first,
            "last_offset": last,
            "published": 0,
            "dead_letters": 0,
            "refused": 0,
            "skipped": 0,
            "began_at": now,
        }
        with translated_errors(), self._engine.begin() as connection:
            statement = insert(recoveries).values(row).returning(recoveries)
            return _recovery(connection.execute(statement).one())

    def get(self, number: int) -> Recovery:
        """Return a recovery. Raises NotFoundError."""
        statement = select(recoveries).where(recoveries.c.recovery_id == number)
        with translated_errors(), self._engine.begin() as connection:
            row = connection.execute(statement).one_or_none()
        if row is None:
            raise NotFoundError(
                f"there is no recovery {number} in this ledger: begin with `billing-worker recover --since`"
            )
        return _recovery(row)

    def advance(self, number: int, by: Advance, now: datetime) -> Recovery:
        """Record what is handled; a recovery that has reached its last offset has ended."""
        column = recoveries.c
        statement = (
            update(recoveries)
            .where(column.recovery_id == number)
            .values(
                next_offset=by.next,
                published=column.published + by.published,
                dead_letters=column.dead_letters + by.dead_letters,
                refused=column.refused + by.refused,
                skipped=column.skipped + by.skipped,
            )
            .returning(recoveries)
        )
        with translated_errors(), self._engine.begin() as connection:
            row = connection.execute(statement).one()
            if row.next_offset > row.last_offset and row.ended_at is None:
                ended = (
                    update(recoveries)
                    .where(column.recovery_id == number)
                    .values(ended_at=now)
                    .returning(recoveries)
                )
                row = connection.execute(ended).one()
        return _recovery(row)


def _recovery(row: Any) -> Recovery:
    return Recovery(
        row.recovery_id,
        row.actor,
        row.since,
        row.first_offset,
        row.next_offset,
        row.last_offset,
        row.published,
        row.dead_letters,
        row.refused,
        row.skipped,
        row.began_at,
        row.ended_at,
    )
