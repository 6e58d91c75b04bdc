"""Puts drained dead letters into the table, each failure once.

The same dead letter twice is one row with one more try. The same failure twice (a crash came between the
commit and the acknowledgement) changes nothing. A dead letter that a replay sent is known by the headers that
the replay added, also where its body was edited: but only if that replay has sent that dead letter, with
these bytes. Otherwise the headers are forged, and the message is a dead letter of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, insert, or_, select

from schemas import DeadLetter, DeadLetterReason
from worker.broker import Delivery
from worker.catalog import Catalog
from worker.deadletters.fingerprints import fingerprint_of, tokens_at_stake
from worker.deadletters.models import DeadLetterStatus, ItemState
from worker.deadletters.store.encoding import clean, indexable, kept
from worker.deadletters.store.transaction import HELD, DeadLetterTransaction, LatestFailure
from worker.ledger import tables
from worker.ledger.bulk import among, select_rows
from worker.messages.dead_letters import EPOCH, dead_letter_in

_TRANSPORTS_OWN = {"application_headers", "delivery_mode", "delivery_info", "body_encoding", "delivery_tag"}
#: Columns set by the latest failure.
_LATEST = ("reason", "message", "field", "traceback", "last_failed_at", "worker_version", "schema_version")


@dataclass(frozen=True, slots=True)
class Arrival:
    """A delivery from the dead-letter queue, with its row as it would be for a new dead letter."""

    row: Mapping[str, Any]
    replay: tuple[int, int] | None  #: the replay and the number, as the message says

    @property
    def letter_id(self) -> str:
        """Id of the dead letter, from the message alone."""
        return str(self.row["letter_id"])

    @property
    def failed_at(self) -> datetime | None:
        """Time of the failure; None where unknown."""
        at: datetime = self.row["last_failed_at"]
        return None if at == EPOCH else at


#: A failure, and its time in the history.
_Failed = tuple[Arrival, datetime]
_TICK = timedelta(microseconds=1)


@dataclass(slots=True)
class _Same:
    """Arrivals of one dead letter, and its row where there is one."""

    arrivals: list[Arrival] = field(default_factory=list)
    dead_letter: Row[Any] | None = None


def arrival_of(delivery: Delivery, catalog: Catalog | None) -> Arrival:
    """Return the arrival of a delivery; reads it, whatever is in it, and judges nothing."""
    dead_letter = dead_letter_in(delivery)
    fields = dead_letter.model_dump(exclude={"headers_omitted", "replay", "replay_letter"})
    properties = {name: value for name, value in delivery.properties.items() if name not in _TRANSPORTS_OWN}
    row = indexable({name: clean(value) for name, value in fields.items()})
    row |= {
        "status": DeadLetterStatus.PARKED.value,
        "body": delivery.body,
        "properties": kept({"properties": properties, "headers": dict(delivery.headers)}),
        "fingerprint": fingerprint_of(row["reason"], row["type"], row["field"], row["traceback"]),
        "tokens_at_stake": tokens_at_stake(delivery.body, catalog),
    }
    return Arrival(row, _replay_said(dead_letter))


def _replay_said(dead_letter: DeadLetter) -> tuple[int, int] | None:
    said = (dead_letter.replay or 0, dead_letter.replay_letter or 0)
    return said if all(0 < number < 2**63 for number in said) else None


def park(transaction: DeadLetterTransaction, arrivals: Sequence[Arrival]) -> None:
    """Keep these dead letters."""
    sames = _by_dead_letter(transaction.connection, arrivals)
    told = _failures_told(transaction, [same for same in sames if same.dead_letter is not None])
    new: list[tuple[dict[str, Any], list[_Failed]]] = []
    for same in sames:
        known = set() if same.dead_letter is None else told.get(same.dead_letter.number, set())
        fresh = _fresh(same.arrivals, known, transaction.now)
        if same.dead_letter is None:
            new.append((_new_row(fresh), fresh))
        elif fresh:
            _fail_again(transaction, same.dead_letter, fresh)
    _insert(transaction, new)


def _by_dead_letter(connection: Connection, arrivals: Sequence[Arrival]) -> list[_Same]:
    """Return the arrivals by dead letter, in the order of the first of each."""
    sent = _sent_by_replays(connection, arrivals)
    sames: dict[str, _Same] = {}
    for arrival in arrivals:
        sames.setdefault(sent.get(id(arrival), arrival.letter_id), _Same()).arrivals.append(arrival)
    for row in select_rows(connection, tables.dead_letters, HELD, "letter_id", sorted(sames)):
        sames[row.letter_id].dead_letter = row
    return list(sames.values())


def _fresh(arrivals: Sequence[Arrival], told: set[datetime], now: datetime) -> list[_Failed]:
    """Return the failures that the history lacks; those of unknown time all count, as of now."""
    fresh, seen = [], set(told)
    for arrival in arrivals:
        at = arrival.failed_at or now
        if arrival.failed_at is None:
            while at in seen:  # a moment names one failure
                at += _TICK
        elif at in seen:
            continue
        seen.add(at)
        fresh.append((arrival, at))
    return fresh


def _failures_told(transaction: DeadLetterTransaction, sames: Sequence[_Same]) -> dict[int, set[datetime]]:
    """Return the failures in the histories at the times of these arrivals, or from now on.

    Not all of them: a message sent again and again may have a million.
    """
    if not sames:
        return {}
    connection, event = transaction.connection, tables.dead_letter_events.c
    numbers = sorted(same.dead_letter.number for same in sames if same.dead_letter is not None)
    times = {at for same in sames for arrival in same.arrivals if (at := arrival.failed_at) is not None}
    statement = select(event.number, event.at).where(
        among(connection, event.number, numbers),
        event.kind.in_(("failed", "failed_again")),
        or_(among(connection, event.at, sorted(times)), event.at >= transaction.now),
    )
    told: dict[int, set[datetime]] = {}
    for row in connection.execute(statement):
        told.setdefault(row.number, set()).add(row.at)
    return told


# -- new dead letters -------------------------------------------------------------------------------------


def _new_row(fresh: Sequence[_Failed]) -> dict[str, Any]:
    """Return the first row of several failures of one dead letter, with the latest values in it."""
    first, last = fresh[0][0].row, fresh[-1][0].row
    return {
        **first,
        **{name: last[name] for name in (*_LATEST, "fingerprint")},
        "attempts": _attempts(0, fresh),
    }


def _attempts(before: int, fresh: Sequence[_Failed]) -> int:
    """Return a number of tries that the column takes: the messages' own number may be forged."""
    return min(before + sum(int(arrival.row["attempts"]) for arrival, _ in fresh), 2**31 - 1)


def _insert(transaction: DeadLetterTransaction, new: Sequence[tuple[dict[str, Any], list[_Failed]]]) -> None:
    if not new:
        return
    statement = insert(tables.dead_letters).returning(
        tables.dead_letters.c.letter_id, tables.dead_letters.c.number
    )
    inserted = transaction.connection.execute(statement, [row for row, _ in new])
    numbers: dict[str, int] = {row.letter_id: row.number for row in inserted}
    for row, fresh in new:
        number = numbers[row["letter_id"]]
        transaction.add(row)
        transaction.failed(row["fingerprint"], _failure(number, row, row["first_failed_at"]))
        for place, failed in enumerate(fresh):
            _tell(transaction, number, failed, "failed_again" if place else "failed")


# -- known dead letters -----------------------------------------------------------------------------------


def _fail_again(transaction: DeadLetterTransaction, dead_letter: Row[Any], fresh: Sequence[_Failed]) -> None:
    last = fresh[-1][0].row
    replay_id = dead_letter.replay_id if dead_letter.status == DeadLetterStatus.REPLAYING else None
    transaction.change(
        dead_letter,
        status=DeadLetterStatus.PARKED.value,
        replay_id=None,
        attempts=_attempts(dead_letter.attempts, fresh),
        fingerprint=last["fingerprint"],
        **{name: last[name] for name in _LATEST},
    )
    transaction.failed(last["fingerprint"], _failure(dead_letter.number, last, last["last_failed_at"]))
    for failed in fresh:
        _tell(transaction, dead_letter.number, failed, "failed_again", replay_id)
    if replay_id is not None:
        is_conflict = last["reason"] == DeadLetterReason.REFERENCE_CONFLICT
        state = ItemState.CONFLICT if is_conflict else ItemState.FAILED_AGAIN
        transaction.item(replay_id, dead_letter.number, state, f"{last['reason']}: {last['message']}")


def _failure(number: int, row: Mapping[str, Any], first: datetime) -> LatestFailure:
    return LatestFailure(
        number, row["reason"], row["type"], row["field"], row["message"], first, row["last_failed_at"]
    )


def _tell(
    transaction: DeadLetterTransaction, number: int, failed: _Failed, kind: str, replay_id: int | None = None
) -> None:
    arrival, at = failed
    row = arrival.row
    transaction.tell(
        number,
        kind,
        actor=f"worker {row['worker_version']}",
        text=row["message"],
        at=at,
        replay_id=replay_id,
        reason=row["reason"],
        field=row["field"],
        attempts=row["attempts"],
    )


# -- dead letters that a replay sent ----------------------------------------------------------------------


def _sent_by_replays(connection: Connection, arrivals: Sequence[Arrival]) -> dict[int, str]:
    """Return the ids of dead letters that replays sent, by their arrivals (``id``)."""
    said = {arrival.replay for arrival in arrivals if arrival.replay is not None}
    if not said:
        return {}
    item, dead_letter = tables.replay_items.c, tables.dead_letters.c
    statement = (
        select(
            item.replay_id,
            dead_letter.number,
            dead_letter.letter_id,
            dead_letter.body,
            dead_letter.edited_body,
        )
        .join(tables.dead_letters, dead_letter.number == item.number)
        .where(
            among(connection, item.replay_id, sorted({replay_id for replay_id, _ in said})),
            among(connection, item.number, sorted({number for _, number in said})),
            item.state != ItemState.WAITING.value,
        )
    )
    sent = {(row.replay_id, row.number): row for row in connection.execute(statement)}
    return {
        id(arrival): row.letter_id
        for arrival in arrivals
        if arrival.replay is not None
        and (row := sent.get(arrival.replay)) is not None
        and _is_one_of(connection, row, arrival.row["body"])
    }


def _is_one_of(connection: Connection, dead_letter: Any, body: bytes) -> bool:
    """Return True where ``body`` is the dead letter's, or was before a later edit."""
    if body in (dead_letter.body, dead_letter.edited_body):
        return True
    edits = select(tables.dead_letter_edits.c.after).where(
        tables.dead_letter_edits.c.number == dead_letter.number
    )
    return body in {bytes(row.after) for row in connection.execute(edits)}
