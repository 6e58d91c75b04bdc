"""The only way to change dead letters: with groups, history and activity log, in one transaction.

One change at a time holds the lock. Operators and drainers are few. What they change together (a dead letter,
the counts of two groups, an item of a replay) is then changed in any order without a deadlock, and counted
without a lock for each row. No message of the worker's waits for it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, Row, text

from worker.deadletters.models import ItemState
from worker.deadletters.store import activity_log, tables
from worker.deadletters.store.encoding import clean
from worker.deadletters.store.group_changes import GroupChanges, LatestFailure
from worker.deadletters.store.item_changes import ItemChanges
from worker.ledger.bulk import Keys, insert_rows, select_rows, update_rows
from worker.ledger.engine import translated_errors
from worker.runtime.retry import ContentionRetry

P = ParamSpec("P")
T = TypeVar("T")

_LOCK = 7301989  # any number, the same in every version, and not the one of the migrations
_CONTENTION = ContentionRetry(20, 0.01, "the dead letters are being changed")

#: Columns of a dead letter that a change needs.
HELD = ("number", "letter_id", "status", "fingerprint", "tokens_at_stake", "replay_id", "attempts", "note")
_COUNTED_BY = ("fingerprint", "status", "tokens_at_stake")


class DeadLetterTransaction:
    """The dead letters in one transaction. ``now`` (aware, UTC) is the time recorded for its changes."""

    def __init__(self, connection: Connection, now: datetime) -> None:
        self.connection = connection
        self.now = now
        self._changes: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
        self._events: list[dict[str, Any]] = []
        self._groups = GroupChanges()
        self._items = ItemChanges()

    def dead_letters(self, numbers: Iterable[int]) -> dict[int, Row[Any]]:
        """Return the columns that a change needs, by number; missing dead letters are left out."""
        return held_dead_letters(self.connection, numbers)

    def change(self, dead_letter: Row[Any], **values: Any) -> None:
        """Set columns of a dead letter, each one once; its group follows. Not for bodies, which are bytes."""
        self._changes[tuple(sorted(values))].append({"number": dead_letter.number, **values})
        before = {name: getattr(dead_letter, name) for name in _COUNTED_BY}
        self._groups.count(before, -1)
        self._groups.count({**before, **values}, +1)

    def add(self, dead_letter: Mapping[str, Any]) -> None:
        """Count a dead letter that was just inserted."""
        self._groups.count(dead_letter, +1)

    def set_latest(self, fingerprint: str, failure: LatestFailure) -> None:
        """Make ``failure`` the latest one of its group."""
        self._groups.set_latest(fingerprint, failure)

    def add_event(
        self,
        number: int,
        kind: str,
        *,
        actor: str | None = None,
        text: str | None = None,
        at: datetime | None = None,
        replay_id: int | None = None,
        **detail: Any,
    ) -> None:
        """Add to a dead letter's history."""
        self._events.append(
            {
                "number": number,
                "at": self.now if at is None else at,
                "kind": kind,
                "actor": clean(actor),
                "text": clean(text),
                "replay_id": replay_id,
                "detail": {name: clean(value) for name, value in detail.items() if value is not None} or None,
            }
        )

    def set_item(self, replay_id: int, number: int, state: ItemState, detail: str | None = None) -> None:
        """Set the state of the dead letter's item in a replay; an item that has ended stays as it is."""
        self._items.set(replay_id, number, state, detail)

    def record(
        self,
        actor: str,
        action: str,
        subject: str,
        reason: str | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> int:
        """Write an operator's action into the activity log; returns the number of the entry."""
        return activity_log.write(self.connection, self.now, actor, action, subject, reason, detail)

    def flush(self) -> None:
        """Write all of it; the last step of the transaction."""
        for rows in self._changes.values():
            update_rows(self.connection, tables.dead_letters, rows, key=("number",))
        insert_rows(self.connection, tables.dead_letter_events, self._events)
        self._items.flush(self.connection, self.now)
        self._groups.flush(self.connection)


def held_dead_letters(connection: Connection, numbers: Iterable[int]) -> dict[int, Row[Any]]:
    """Return the columns that a change needs, by number; missing dead letters are left out."""
    found = select_rows(connection, tables.dead_letters, HELD, "number", Keys(sorted(set(numbers))))
    return {row.number: row for row in found}


def in_transaction(
    work: Callable[Concatenate[DeadLetterTransaction, P], T],
) -> Callable[Concatenate[Engine, datetime, P], T]:
    """Make ``work`` a function of an engine and a time; it runs again after contention.

    The function raises LedgerUnavailableError where the contention lasts.
    """

    @wraps(work)
    def run(engine: Engine, now: datetime, /, *arguments: P.args, **named: P.kwargs) -> T:
        def attempt() -> T:
            with _transaction(engine, now) as transaction:
                return work(transaction, *arguments, **named)

        return _CONTENTION.run(attempt)

    return run


@contextmanager
def _transaction(engine: Engine, now: datetime) -> Iterator[DeadLetterTransaction]:
    with translated_errors(), engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        transaction = DeadLetterTransaction(connection, now)
        yield transaction
        transaction.flush()
