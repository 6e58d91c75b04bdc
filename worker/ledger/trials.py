"""Messages that are being tried under suspicion: a row that is left behind is a crash it was part of.

Written before the messages are read, taken away when they are told: what remains is evidence of this
project's own, whatever the broker counted. A row older than a day is of no message that still comes.
"""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, Engine, bindparam, delete, func, insert, select

from worker.ledger.bulk import among
from worker.ledger.engine import translated_errors
from worker.ledger.tables import trials

_FORGOTTEN_AFTER = timedelta(days=1)
_FRESH_FOR = timedelta(hours=1)


class Trial(NamedTuple):
    """What crashes left of a message: with how many it was tried last, and how often alone."""

    together: int
    alone: int


class Trials:
    """The record of messages on trial. Every method raises LedgerUnavailableError, ContentionError."""

    def __init__(self, engine: Engine, worker: str) -> None:
        self._engine, self._worker = engine, worker

    def of(self, keys: Collection[str]) -> dict[str, Trial]:
        """Return the unfinished trials of the messages ``keys`` names; no entry where there is none."""
        with translated_errors(), self._engine.begin() as connection:
            columns = select(trials.c.message_key, trials.c.together, trials.c.alone)
            rows = connection.execute(columns.where(among(connection, trials.c.message_key, sorted(keys))))
            return {row.message_key: Trial(row.together, row.alone) for row in rows}

    def begin(self, queues: Mapping[str, str], known: Mapping[str, Trial], now: datetime) -> None:
        """Record that these messages (key to queue) are tried together from ``now`` on."""
        together = len(queues)
        rows = [
            {
                "message_key": key,
                "queue": queues[key],
                "together": together,
                "alone": (known[key].alone if key in known else 0) + (together == 1),
                "worker": self._worker,
                "began_at": now,
            }
            for key in sorted(queues)
        ]
        with translated_errors(), self._engine.begin() as connection:
            _delete(connection, queues)
            connection.execute(insert(trials), rows)

    def end(self, keys: Collection[str]) -> None:
        """Forget these messages: they were told, and nothing crashed."""
        with translated_errors(), self._engine.begin() as connection:
            _delete(connection, keys)

    def withdraw(self, queues: Mapping[str, str], known: Mapping[str, Trial], now: datetime) -> None:
        """Put the record back as ``known`` has it: the trial was broken off, and nothing crashed."""
        rows = [
            {
                "message_key": key,
                "queue": queues[key],
                **known[key]._asdict(),
                "worker": self._worker,
                "began_at": now,
            }
            for key in sorted(queues)
            if key in known
        ]
        with translated_errors(), self._engine.begin() as connection:
            _delete(connection, queues)
            if rows:
                connection.execute(insert(trials), rows)

    def smallest(self, now: datetime) -> int | None:
        """Return the size of the smallest group that crashed in the last hour; None where none did."""
        with translated_errors(), self._engine.begin() as connection:
            connection.execute(delete(trials).where(trials.c.began_at < now - _FORGOTTEN_AFTER))
            fresh = select(func.min(trials.c.together)).where(trials.c.began_at > now - _FRESH_FOR)
            smallest: int | None = connection.scalar(fresh)
            return smallest


def _delete(connection: Connection, keys: Collection[str]) -> None:
    one = delete(trials).where(trials.c.message_key == bindparam("key"))
    if connection.dialect.name == "postgresql":
        connection.execute(delete(trials).where(among(connection, trials.c.message_key, sorted(keys))))
    elif keys:
        connection.execute(one, [{"key": key} for key in sorted(keys)])
