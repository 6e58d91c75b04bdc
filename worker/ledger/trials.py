"""Messages on trial as possible poison messages: a row that is left behind is a crash it was part of.

A row is written before the messages are read, and deleted when they are done. A row that remains is evidence
of this project's own, whatever the broker counted. A row older than a day is of no message that still comes.
"""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, Engine, delete, func, select

from worker.ledger.bulk import among, insert_rows
from worker.ledger.engine import translated_errors
from worker.ledger.tables import trials

_FORGOTTEN_AFTER = timedelta(days=1)
_FRESH_FOR = timedelta(hours=1)


class Trial(NamedTuple):
    """Trace of crashes that a message was part of.

    ``together`` is the number of messages in its last trial, ``alone`` how often it was tried by itself,
    ``delivery_count`` the broker's count at that time.
    """

    together: int
    alone: int
    delivery_count: int = 0


class Trying(NamedTuple):
    """Message that is to be tried: its queue, and the broker's count of its deliveries."""

    queue: str
    delivery_count: int


class Trials:
    """Record of messages on trial. Every method raises LedgerUnavailableError, ContentionError."""

    def __init__(self, engine: Engine, worker: str) -> None:
        self._engine, self._worker = engine, worker

    def of(self, keys: Collection[str]) -> dict[str, Trial]:
        """Return the unfinished trials of the messages ``keys`` names; no entry where there is none."""
        columns = (trials.c[name] for name in ("message_key", *Trial._fields))
        with translated_errors(), self._engine.begin() as connection:
            chosen = among(connection, trials.c.message_key, sorted(keys))
            rows = connection.execute(select(*columns).where(chosen))
            return {row.message_key: Trial(row.together, row.alone, row.delivery_count) for row in rows}

    def begin(self, messages: Mapping[str, Trying], known: Mapping[str, Trial], now: datetime) -> None:
        """Record that these messages are tried together from ``now`` on."""
        together = len(messages)
        rows = {
            key: Trial(
                together,
                (known[key].alone if key in known else 0) + (together == 1),
                message.delivery_count,
            )
            for key, message in messages.items()
        }
        with translated_errors(), self._engine.begin() as connection:
            self._put(connection, messages, rows, now)

    def end(self, keys: Collection[str]) -> None:
        """Forget these messages: they are done, and nothing crashed."""
        with translated_errors(), self._engine.begin() as connection:
            _delete(connection, keys)

    def withdraw(self, messages: Mapping[str, Trying], known: Mapping[str, Trial], now: datetime) -> None:
        """Put the record back as ``known`` has it: the trial was broken off, and nothing crashed."""
        with translated_errors(), self._engine.begin() as connection:
            _delete(connection, messages.keys() - known.keys())
            self._put(connection, messages, {key: known[key] for key in messages if key in known}, now)

    def smallest(self, now: datetime) -> int | None:
        """Return the size of the smallest group that crashed in the last hour; None where none did."""
        with translated_errors(), self._engine.begin() as connection:
            connection.execute(delete(trials).where(trials.c.began_at < now - _FORGOTTEN_AFTER))
            fresh = select(func.min(trials.c.together)).where(trials.c.began_at > now - _FRESH_FOR)
            smallest: int | None = connection.scalar(fresh)
            return smallest

    def _put(
        self,
        connection: Connection,
        messages: Mapping[str, Trying],
        rows: Mapping[str, Trial],
        now: datetime,
    ) -> None:
        """Write a row a message; a copy of it may be on trial elsewhere at the same time."""
        beside = {"worker": self._worker, "began_at": now}
        values = [
            {"message_key": key, "queue": messages[key].queue, **rows[key]._asdict(), **beside}
            for key in sorted(rows)
        ]
        insert_rows(connection, trials, values, on_conflict="update")


def _delete(connection: Connection, keys: Collection[str]) -> None:
    if keys:
        connection.execute(delete(trials).where(among(connection, trials.c.message_key, sorted(keys))))
