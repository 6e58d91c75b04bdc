"""The only way to change a dead letter: with its group, its history and the activity log, in one transaction.

One change at a time holds the lock. Operators and drainers are few. What they change together (a dead letter,
the counts of two groups, an item of a replay) is then changed in any order without a deadlock, and counted
without a lock for each row. No message of the worker's waits for it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Row, insert, select, text, update

from worker.deadletters.models import OPEN_STATES, WAITING, ItemState
from worker.deadletters.store.encoding import clean
from worker.errors import NotPossibleError
from worker.ledger import tables
from worker.ledger.bulk import among, insert_rows, select_rows, update_rows
from worker.ledger.engine import translated_errors
from worker.messages.dead_letters import EPOCH
from worker.runtime.retry import ContentionRetry

T = TypeVar("T")

_LOCK = 7301989  # any number, the same in every version, and not the one of the migrations
_CONTENTION = ContentionRetry(20, 0.01, "the dead letters are being changed")
_SQLITE_MAX = 2**63 - 1
_ACTOR_MAX = 200
_TEXT_MAX = 4_000

#: Columns of a dead letter that a change needs.
HELD = ("number", "letter_id", "status", "fingerprint", "tokens_at_stake", "replay_id", "attempts", "note")
_COUNTED_BY = ("fingerprint", "status", "tokens_at_stake")
_COUNTED = ("parked", "replaying", "resolved", "discarded")
_GROUP = tuple(column.name for column in tables.dead_letter_groups.columns)


@dataclass(frozen=True, slots=True)
class LatestFailure:
    """Fields of a group's latest dead letter, shown by the group."""

    number: int
    reason: str
    type: str | None
    field: str | None
    message: str
    first_failed_at: datetime
    last_failed_at: datetime


class DeadLetterTransaction:
    """The dead letters in one transaction. ``now`` (aware, UTC) is the time recorded for its changes."""

    def __init__(self, connection: Connection, now: datetime) -> None:
        self.connection = connection
        self.now = now
        self._changes: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
        self._counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self._newest: dict[str, LatestFailure] = {}
        self._events: list[dict[str, Any]] = []
        self._items: dict[int, dict[int, tuple[ItemState, str | None]]] = defaultdict(dict)

    def dead_letters(self, numbers: Iterable[int]) -> dict[int, Row[Any]]:
        """See ``held_letters``."""
        return held_dead_letters(self.connection, numbers)

    # -- dead letters -------------------------------------------------------------------------------------

    def change(self, dead_letter: Row[Any], **values: Any) -> None:
        """Set columns of a dead letter, each one once; its group follows. Not for bodies, which are bytes."""
        self._changes[tuple(sorted(values))].append({"number": dead_letter.number, **values})
        before = {name: getattr(dead_letter, name) for name in _COUNTED_BY}
        self._count(before, -1)
        self._count({**before, **values}, +1)

    def add(self, dead_letter: Mapping[str, Any]) -> None:
        """Count a dead letter that was just inserted."""
        self._count(dead_letter, +1)

    def failed(self, fingerprint: str, failure: LatestFailure) -> None:
        """Make the dead letter the one that its group shows."""
        known = self._newest.get(fingerprint)
        if known is not None:
            first = _earlier(known.first_failed_at, failure.first_failed_at)
            last = max(known.last_failed_at, failure.last_failed_at)
            failure = LatestFailure(
                failure.number,
                failure.reason,
                failure.type,
                failure.field,
                failure.message,
                first,
                last,
            )
        self._newest[fingerprint] = failure

    def tell(
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

    # -- replays ------------------------------------------------------------------------------------------

    def item(self, replay_id: int, number: int, state: ItemState, detail: str | None = None) -> None:
        """Set the state of the dead letter's item in a replay; an item that has ended stays as it is."""
        self._items[replay_id][number] = (state, clean(detail))

    # -- the activity log ---------------------------------------------------------------------------------

    def record(
        self,
        actor: str,
        action: str,
        subject: str,
        reason: str | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> int:
        """Write an operator's action into the activity log; returns the number of the entry."""
        written = self.connection.execute(
            insert(tables.audit_log).returning(tables.audit_log.c.entry_id),
            {
                "at": self.now,
                "actor": actor_named(actor),
                "action": action,
                "subject": clean(subject),
                "reason": clean(reason),
                "detail": None if detail is None else dict(detail),
            },
        )
        return int(written.scalar_one())

    # -- the end ------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Write all of it; the last step of the transaction."""
        for rows in self._changes.values():
            update_rows(self.connection, tables.dead_letters, rows, key=("number",))
        insert_rows(self.connection, tables.dead_letter_events, self._events)
        for replay_id in sorted(self._items):
            self._move_items(replay_id, self._items[replay_id])
        self._write_groups()

    def _move_items(self, replay_id: int, moves: Mapping[int, tuple[ItemState, str | None]]) -> None:
        item = tables.replay_items.c
        statement = select(item.position, item.number, item.state, item.sent_at).where(
            item.replay_id == replay_id, among(self.connection, item.number, sorted(moves))
        )
        rows, shifts = [], dict[str, int]()
        for row in self.connection.execute(statement):
            state, detail = moves[row.number]
            if row.state == state or row.state not in _MAY_MOVE:
                continue
            shifts[row.state] = shifts.get(row.state, 0) - 1
            shifts[state] = shifts.get(state, 0) + 1
            has_ended = state not in _MAY_MOVE
            rows.append(
                {
                    "replay_id": replay_id,
                    "position": row.position,
                    "state": state.value,
                    "detail": detail,
                    "sent_at": self.now if state is ItemState.SENT else row.sent_at,
                    "settled_at": self.now if has_ended else None,
                }
            )
        update_rows(self.connection, tables.replay_items, rows, key=("replay_id", "position"))
        if shifts:
            self._shift(replay_id, shifts)

    def _shift(self, replay_id: int, shifts: Mapping[str, int]) -> None:
        where = tables.replays.c.replay_id == replay_id
        counts = dict(self.connection.execute(select(tables.replays.c.counts).where(where)).scalar_one())
        for state, by in shifts.items():
            counts[state] = counts.get(state, 0) + by
        self.connection.execute(update(tables.replays).where(where).values(counts=counts))

    # -- groups -------------------------------------------------------------------------------------------

    def _count(self, dead_letter: Mapping[str, Any], by: int) -> None:
        counts = self._counts[dead_letter["fingerprint"]]
        counts[dead_letter["status"]] += by
        if dead_letter["status"] in WAITING:
            tokens = dead_letter["tokens_at_stake"]
            counts["tokens_unknown"] += by if tokens is None else 0
            counts["tokens_at_stake"] += 0 if tokens is None else by * tokens

    def _write_groups(self) -> None:
        touched = sorted(self._counts.keys() | self._newest.keys())
        found = select_rows(self.connection, tables.dead_letter_groups, _GROUP, "fingerprint", touched)
        known = {row.fingerprint: {name: getattr(row, name) for name in _GROUP} for row in found}
        changed, added = [], []
        for fingerprint in touched:
            group = known.get(fingerprint)
            row = self._group(fingerprint, group)
            if group is None:
                added.append(row)
            elif row != group:
                changed.append(row)
        insert_rows(self.connection, tables.dead_letter_groups, added)
        update_rows(self.connection, tables.dead_letter_groups, changed, key=("fingerprint",))

    def _group(self, fingerprint: str, group: Mapping[str, Any] | None) -> dict[str, Any]:
        row: dict[str, Any] = (
            {"fingerprint": fingerprint, **dict.fromkeys((*_COUNTED, "tokens_at_stake", "tokens_unknown"), 0)}
            if group is None
            else {**group, "tokens_at_stake": int(group["tokens_at_stake"])}
        )
        for name, by in self._counts[fingerprint].items():
            row[name] += by
        if self.connection.dialect.name == "sqlite":  # whose numbers end somewhere
            row["tokens_at_stake"] = min(max(row["tokens_at_stake"], 0), _SQLITE_MAX)
        row["waiting"] = row["parked"] + row["replaying"]
        if (newest := self._newest.get(fingerprint)) is not None:
            first, last = newest.first_failed_at, newest.last_failed_at
            row |= {
                "reason": newest.reason,
                "type": newest.type,
                "field": newest.field,
                "message": newest.message,
                "sample": newest.number,
                "first_failed_at": first if group is None else _earlier(group["first_failed_at"], first),
                "last_failed_at": last if group is None else max(group["last_failed_at"], last),
            }
        return {name: row[name] for name in _GROUP}


_MAY_MOVE = frozenset(state.value for state in OPEN_STATES)


def _earlier(one: datetime, other: datetime) -> datetime:
    """Return the earlier of two times; an unknown one does not count."""
    if EPOCH in (one, other):
        return max(one, other)
    return min(one, other)


def held_dead_letters(connection: Connection, numbers: Iterable[int]) -> dict[int, Row[Any]]:
    """Return the columns that a change needs, by number; missing dead letters are left out."""
    found = select_rows(connection, tables.dead_letters, HELD, "number", sorted(set(numbers)))
    return {row.number: row for row in found}


def transact(engine: Engine, now: datetime, work: Callable[[DeadLetterTransaction], T]) -> T:
    """Return the result of ``work``, in one transaction, tried again after contention.

    Raises LedgerUnavailableError.
    """
    return _CONTENTION.run(lambda: _transact(engine, now, work))


def _transact(engine: Engine, now: datetime, work: Callable[[DeadLetterTransaction], T]) -> T:
    with translated_errors(), engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        transaction = DeadLetterTransaction(connection, now)
        result = work(transaction)
        transaction.close()
    return result


def actor_named(actor: str) -> str:
    """Return the actor's name. Raises NotPossibleError where it is empty or too long."""
    name = str(clean(actor)).strip()
    if not name or len(name) > _ACTOR_MAX:
        raise NotPossibleError(f"say who you are, in 1 to {_ACTOR_MAX} characters")
    return name


def reason_given(reason: str | None) -> str:
    """Return the reason. Raises NotPossibleError where it is empty or too long."""
    given = str(clean(reason or "")).strip()
    if not given or len(given) > _TEXT_MAX:
        raise NotPossibleError(f"say why, in 1 to {_TEXT_MAX} characters: others will want to know")
    return given


def chunks(numbers: Sequence[int], size: int) -> Iterable[Sequence[int]]:
    """Return ``numbers`` in pieces."""
    return (numbers[start : start + size] for start in range(0, len(numbers), size))
