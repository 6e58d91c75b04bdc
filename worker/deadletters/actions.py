"""Operators' actions on dead letters: note, discard, restore.

Each is one transaction with the dead letter's history and the activity log, a thousand dead letters at most.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, Row

from worker.deadletters.models import RESTORABLE, DeadLetterStatus, Done
from worker.deadletters.replay import abandoned
from worker.deadletters.store import activity_log, queries
from worker.deadletters.store.activity_log import actor_named, reason_given
from worker.deadletters.store.filters import DeadLetterFilter, DeadLetterSelection, chunks, described
from worker.deadletters.store.transaction import DeadLetterTransaction, held_dead_letters, in_transaction
from worker.ledger.queries import snapshot

CHUNK = 1_000
_DISCARDABLE = (DeadLetterStatus.PARKED,)

#: Changes a dead letter; returns False where it stays as it is.
_Change = Callable[[DeadLetterTransaction, Row[Any], str, str | None], bool]


@in_transaction
def note(transaction: DeadLetterTransaction, number: int, text: str, actor: str) -> None:
    """Write a note on a dead letter. Raises NotFoundError, NotPossibleError."""
    written = reason_given(text)
    transaction.change(_held(transaction.connection, [number])[number], note=written)
    transaction.add_event(number, "noted", actor=actor_named(actor), text=written)
    transaction.record(actor, "note", described([number]), written)


def discard(
    engine: Engine, now: datetime, dead_letters: DeadLetterSelection, reason: str, actor: str
) -> Done:
    """Discard parked dead letters, for a reason; they are kept. Others are left as they are.

    Raises NotFoundError before any is discarded.
    """
    why = reason_given(reason)
    return _each(engine, now, dead_letters, _DISCARDABLE, "discard", _discarded, why, actor)


def _discarded(
    transaction: DeadLetterTransaction, dead_letter: Row[Any], actor: str, reason: str | None
) -> bool:
    if dead_letter.status != DeadLetterStatus.PARKED:
        return False
    transaction.change(dead_letter, status=DeadLetterStatus.DISCARDED.value, note=reason)
    transaction.add_event(dead_letter.number, "discarded", actor=actor, text=reason)
    return True


def restore(
    engine: Engine, now: datetime, dead_letters: DeadLetterSelection, reason: str | None, actor: str
) -> Done:
    """Restore discarded dead letters, and those under way in a replay that nobody runs any more.

    One of the latter whose outcome the ledger shows is resolved instead. Raises NotFoundError before any is
    restored.
    """
    return _each(engine, now, dead_letters, RESTORABLE, "restore", _restored, reason, actor)


def _restored(
    transaction: DeadLetterTransaction, dead_letter: Row[Any], actor: str, reason: str | None
) -> bool:
    if dead_letter.status == DeadLetterStatus.REPLAYING:
        if not abandoned.give_up(transaction, dead_letter, "restored by hand"):
            return False
    elif dead_letter.status != DeadLetterStatus.DISCARDED:
        return False
    transaction.change(dead_letter, status=DeadLetterStatus.PARKED.value, replay_id=None)
    transaction.add_event(dead_letter.number, "restored", actor=actor, text=reason)
    return True


def undo_discard(engine: Engine, now: datetime, entries: Sequence[int], actor: str) -> Done:
    """Restore the dead letters that these entries of the activity log say were discarded, and still are.

    Raises NotFoundError where an entry is no discard.
    """
    done = Done(0, 0, (), ())
    for entry in entries:
        with snapshot(engine) as connection:
            numbers = activity_log.discarded_by(connection, entry)
        part = restore(engine, now, numbers, f"undo of entry {entry} of the log", actor)
        done = Done(
            done.done + part.done,
            done.skipped + part.skipped,
            (*done.numbers, *part.numbers)[:CHUNK],
            (*done.entries, *part.entries),
        )
    return done


def _each(
    engine: Engine,
    now: datetime,
    dead_letters: DeadLetterSelection,
    statuses: tuple[DeadLetterStatus, ...],
    action: str,
    change: _Change,
    reason: str | None,
    actor: str,
) -> Done:
    """Change dead letters, a thousand a transaction, each transaction with its entry in the activity log."""
    who, done, skipped, numbers, entries = actor_named(actor), 0, 0, list[int](), list[int]()
    for chunk in _chunks(engine, dead_letters, statuses):
        changed, entry = _changed(
            engine, now, chunk, change, action, who, reason, subject=described(dead_letters)
        )
        entries += [] if entry is None else [entry]
        done += len(changed)
        skipped += len(chunk) - len(changed)
        numbers += changed[: CHUNK - len(numbers)]
    return Done(done, skipped, tuple(numbers), tuple(entries))


@in_transaction
def _changed(
    transaction: DeadLetterTransaction,
    numbers: Sequence[int],
    change: _Change,
    action: str,
    actor: str,
    reason: str | None,
    *,
    subject: str,
) -> tuple[list[int], int | None]:
    """Change some dead letters; returns those that changed, and the entry of the activity log."""
    held = _held(transaction.connection, numbers)
    changed = [number for number in numbers if change(transaction, held[number], actor, reason)]
    if not changed:
        return changed, None
    detail = {"letters": changed, "count": len(changed)}
    return changed, transaction.record(actor, action, subject, reason, detail)


def _chunks(
    engine: Engine, dead_letters: DeadLetterSelection, statuses: tuple[DeadLetterStatus, ...]
) -> Iterator[Sequence[int]]:
    """Yield the numbers in pieces. Raises NotFoundError before the first one where one doesn't exist.

    Of a filter those in one of ``statuses``, or in fewer where it asks for some of these and no others.
    """
    if not isinstance(dead_letters, DeadLetterFilter):
        with snapshot(engine) as connection:
            for chunk in chunks(dead_letters, CHUNK):
                _held(connection, chunk)
        yield from chunks(list(dict.fromkeys(dead_letters)), CHUNK)
        return
    is_narrower = bool(dead_letters.status) and {*dead_letters.status} <= {*statuses}
    filter_ = dead_letters if is_narrower else replace(dead_letters, status=statuses)
    before: int | None = None
    while True:
        with snapshot(engine) as connection:
            numbers, before = queries.numbers(connection, filter_, CHUNK, before)
        if numbers:
            yield numbers
        if before is None:
            return


def _held(connection: Connection, numbers: Sequence[int]) -> dict[int, Row[Any]]:
    """Return the dead letters with these numbers. Raises NotFoundError for the first that doesn't exist."""
    held = held_dead_letters(connection, numbers)
    for number in numbers:
        if number not in held:
            raise queries.not_found(number)
    return held
