"""Stores drained dead letters in the table, each failure once.

The same dead letter twice is one row with one more try. The same failure twice (a crash came between the
commit and the acknowledgement) changes nothing. A dead letter that a replay sent is known by the headers that
the replay added, also where its body was edited: but only if that replay has sent that dead letter, with
these bytes. Otherwise the headers are forged, and the message is a dead letter of its own.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, insert, or_, select

from schemas import DeadLetter, DeadLetterReason
from worker.broker import Delivery
from worker.catalog import Catalog
from worker.deadletters.fingerprints import fingerprint_of
from worker.deadletters.models import DeadLetterStatus, ItemState
from worker.deadletters.store import tables
from worker.deadletters.store.encoding import clean, indexable, kept
from worker.deadletters.store.group_changes import LatestFailure
from worker.deadletters.store.transaction import HELD, DeadLetterTransaction, in_transaction
from worker.deadletters.tokens import tokens_affected
from worker.ledger.bulk import Keys, among, select_rows
from worker.messages.dead_letters import EPOCH, read_dead_letter

_TRANSPORTS_OWN = {"application_headers", "delivery_mode", "delivery_info", "body_encoding", "delivery_tag"}
#: Columns set by the latest failure.
_LATEST = ("reason", "message", "field", "traceback", "last_failed_at", "worker_version", "schema_version")


@dataclass(frozen=True, slots=True)
class DrainedDeadLetter:
    """A delivery from the dead-letter queue, with its row as it would be for a new dead letter."""

    row: Mapping[str, Any]
    claimed_item: tuple[int, int] | None  #: the replay and the number in it that the headers claim

    @property
    def id(self) -> str:
        """Id of the dead letter, from the message alone."""
        return str(self.row["letter_id"])

    @property
    def failed_at(self) -> datetime | None:
        """Time of the failure; None where unknown."""
        at: datetime | None = self.row["last_failed_at"]
        return at


@dataclass(frozen=True, slots=True)
class _Failure:
    """A failure with its time in the history."""

    row: Mapping[str, Any]
    at: datetime


_TICK = timedelta(microseconds=1)


@dataclass(slots=True)
class _Copies:
    """Drained copies of one dead letter, and its row where there is one."""

    drained: list[DrainedDeadLetter] = field(default_factory=list)
    dead_letter: Row[Any] | None = None


def drained_from(
    delivery: Delivery, catalog: Catalog | None, worker_users: Collection[str | None]
) -> DrainedDeadLetter:
    """Return the dead letter of a delivery; reads it, whatever is in it.

    Its headers are believed where the broker vouches that one of ``worker_users`` published it.
    """
    read = read_dead_letter(delivery, worker_users)
    dead_letter = read.dead_letter
    fields = dead_letter.model_dump(exclude={"headers_omitted", "replay", "replay_letter"})
    properties = {name: value for name, value in delivery.properties.items() if name not in _TRANSPORTS_OWN}
    row = indexable({name: clean(value) for name, value in fields.items()})
    row |= {
        "status": DeadLetterStatus.PARKED.value,
        "first_failed_at": _known(dead_letter.first_failed_at),
        "last_failed_at": _known(dead_letter.last_failed_at),
        "body": delivery.body,
        "properties": kept(
            {"properties": properties, "headers": dict(delivery.headers), "sender": read.sender}
        ),
        "fingerprint": fingerprint_of(
            row["reason"], row["type"], row["field"], row["message"], row["traceback"]
        ),
        "tokens_at_stake": tokens_affected(delivery.body, catalog),
    }
    return DrainedDeadLetter(row, _claimed_item(dead_letter))


def _known(time: datetime) -> datetime | None:
    """Return the time; None for the one that stands for an unknown time on the wire."""
    return None if time == EPOCH else time


def _claimed_item(dead_letter: DeadLetter) -> tuple[int, int] | None:
    claimed = (dead_letter.replay or 0, dead_letter.replay_letter or 0)
    return claimed if all(0 < number < 2**63 for number in claimed) else None


@in_transaction
def ingest(transaction: DeadLetterTransaction, drained: Sequence[DrainedDeadLetter]) -> None:
    """Store these dead letters."""
    copies = _by_dead_letter(transaction.connection, drained)
    recorded = _recorded_failures(transaction, [each for each in copies if each.dead_letter is not None])
    new: list[tuple[dict[str, Any], list[_Failure]]] = []
    for each in copies:
        known = set() if each.dead_letter is None else recorded.get(each.dead_letter.number, set())
        fresh = _fresh(each.drained, known, transaction.now)
        if each.dead_letter is None:
            new.append((_new_row(fresh), fresh))
        elif fresh:
            _fail_again(transaction, each.dead_letter, fresh)
    _insert(transaction, new)


def _by_dead_letter(connection: Connection, drained: Sequence[DrainedDeadLetter]) -> list[_Copies]:
    """Return the copies of each dead letter, in the order of the first of each."""
    sent = _sent_by_replays(connection, drained)
    copies: dict[str, _Copies] = {}
    for place, each in enumerate(drained):
        copies.setdefault(sent.get(place, each.id), _Copies()).drained.append(each)
    for row in select_rows(connection, tables.dead_letters, HELD, "letter_id", Keys(sorted(copies))):
        copies[row.letter_id].dead_letter = row
    return list(copies.values())


def _fresh(drained: Sequence[DrainedDeadLetter], recorded: set[datetime], now: datetime) -> list[_Failure]:
    """Return the failures that the history lacks; those of unknown time all count, as of now."""
    fresh, seen = [], set(recorded)
    for each in drained:
        at = each.failed_at or now
        if each.failed_at is None:
            while at in seen:  # a moment names one failure
                at += _TICK
        elif at in seen:
            continue
        seen.add(at)
        fresh.append(_Failure(each.row, at))
    return fresh


def _recorded_failures(
    transaction: DeadLetterTransaction, copies: Sequence[_Copies]
) -> dict[int, set[datetime]]:
    """Return the failures in the histories at the times of these copies, or from now on.

    Not all of them: a message sent again and again may have a million.
    """
    if not copies:
        return {}
    connection, event = transaction.connection, tables.dead_letter_events.c
    numbers = sorted(each.dead_letter.number for each in copies if each.dead_letter is not None)
    times = {at for each in copies for one in each.drained if (at := one.failed_at) is not None}
    statement = select(event.number, event.at).where(
        among(connection, event.number, numbers),
        event.kind.in_(("failed", "failed_again")),
        or_(among(connection, event.at, sorted(times)), event.at >= transaction.now),
    )
    recorded: dict[int, set[datetime]] = {}
    for row in connection.execute(statement):
        recorded.setdefault(row.number, set()).add(row.at)
    return recorded


# -- new dead letters -------------------------------------------------------------------------------------


def _new_row(fresh: Sequence[_Failure]) -> dict[str, Any]:
    """Return the first row of several failures of one dead letter, with the latest values in it."""
    first, last = fresh[0].row, fresh[-1].row
    return {
        **first,
        **{name: last[name] for name in (*_LATEST, "fingerprint")},
        "attempts": _attempts(0, fresh),
    }


def _attempts(before: int, fresh: Sequence[_Failure]) -> int:
    """Return a number of tries that the column takes: the messages' own number may be forged."""
    return min(before + sum(int(failure.row["attempts"]) for failure in fresh), 2**31 - 1)


def _insert(transaction: DeadLetterTransaction, new: Sequence[tuple[dict[str, Any], list[_Failure]]]) -> None:
    numbers = inserted(transaction.connection, [row for row, _ in new])
    for row, fresh in new:
        number = numbers[row["letter_id"]]
        transaction.add(row)
        transaction.set_latest(row["fingerprint"], LatestFailure.of(number, row, row["first_failed_at"]))
        for place, failure in enumerate(fresh):
            _add_event(transaction, number, failure, "failed_again" if place else "failed")


def inserted(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Insert dead letters; returns their numbers by their ids."""
    if not rows:
        return {}
    dead_letter = tables.dead_letters.c
    statement = insert(tables.dead_letters).returning(dead_letter.letter_id, dead_letter.number)
    return {row.letter_id: row.number for row in connection.execute(statement, rows)}


# -- known dead letters -----------------------------------------------------------------------------------


def _fail_again(transaction: DeadLetterTransaction, dead_letter: Row[Any], fresh: Sequence[_Failure]) -> None:
    last, number = fresh[-1].row, dead_letter.number
    replay_id = dead_letter.replay_id if dead_letter.status == DeadLetterStatus.REPLAYING else None
    transaction.change(
        dead_letter,
        status=DeadLetterStatus.PARKED.value,
        replay_id=None,
        applied_at=None,
        attempts=_attempts(dead_letter.attempts, fresh),
        fingerprint=last["fingerprint"],
        **{name: last[name] for name in _LATEST},
    )
    transaction.set_latest(last["fingerprint"], LatestFailure.of(number, last, last["last_failed_at"]))
    for failure in fresh:
        _add_event(transaction, number, failure, "failed_again", replay_id)
    if replay_id is not None:
        is_conflict = last["reason"] == DeadLetterReason.REFERENCE_CONFLICT
        state = ItemState.CONFLICT if is_conflict else ItemState.FAILED_AGAIN
        transaction.set_item(replay_id, number, state, f"{last['reason']}: {last['message']}")


def _add_event(
    transaction: DeadLetterTransaction,
    number: int,
    failure: _Failure,
    kind: str,
    replay_id: int | None = None,
) -> None:
    row = failure.row
    transaction.add_event(
        number,
        kind,
        actor=f"worker {row['worker_version']}" if row["worker_version"] else None,
        text=row["message"],
        at=failure.at,
        replay_id=replay_id,
        reason=row["reason"],
        field=row["field"],
        attempts=row["attempts"] if row["worker_version"] else None,
    )


# -- dead letters that a replay sent ----------------------------------------------------------------------


def _sent_by_replays(connection: Connection, drained: Sequence[DrainedDeadLetter]) -> dict[int, str]:
    """Return the ids of dead letters that replays sent, by the places of their copies in ``drained``."""
    claimed = {each.claimed_item for each in drained if each.claimed_item is not None}
    if not claimed:
        return {}
    item, dead_letter = tables.replay_items.c, tables.dead_letters.c
    columns = (item.replay_id, dead_letter.number, dead_letter.letter_id)
    statement = (
        select(*columns, dead_letter.body, dead_letter.edited_body)
        .join(tables.dead_letters, dead_letter.number == item.number)
        .where(
            among(connection, item.replay_id, sorted({replay_id for replay_id, _ in claimed})),
            among(connection, item.number, sorted({number for _, number in claimed})),
            item.state != ItemState.WAITING.value,
        )
    )
    sent = {(row.replay_id, row.number): row for row in connection.execute(statement)}
    return {
        place: row.letter_id
        for place, each in enumerate(drained)
        if each.claimed_item is not None
        and (row := sent.get(each.claimed_item)) is not None
        and _has_had_body(connection, row, each.row["body"])
    }


def _has_had_body(connection: Connection, dead_letter: Any, body: bytes) -> bool:
    """Return True where ``body`` is the dead letter's, or was before a later edit."""
    if body in (dead_letter.body, dead_letter.edited_body):
        return True
    edits = select(tables.dead_letter_edits.c.after).where(
        tables.dead_letter_edits.c.number == dead_letter.number
    )
    return body in {bytes(row.after) for row in connection.execute(edits)}
