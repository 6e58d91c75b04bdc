"""Operators' actions on dead letters: note, edit, discard, restore.

Each is one transaction with the dead letter's history and the activity log.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, Row, insert, select, update

from schemas import Message, first_malformed
from worker.broker import Delivery
from worker.catalog import Catalog
from worker.deadletters.fingerprints import tokens_at_stake
from worker.deadletters.models import DeadLetterStatus, Done, ItemState, ReplayState, StoredDeadLetter
from worker.deadletters.replay.ledger_check import leads_to_workers
from worker.deadletters.replay.message import as_delivered
from worker.deadletters.store import queries as reading
from worker.deadletters.store.filters import DeadLetterFilter, DeadLetterSelection, said
from worker.deadletters.store.transaction import (
    DeadLetterTransaction,
    actor_named,
    chunks,
    held_dead_letters,
    reason_given,
    transact,
)
from worker.errors import NotPossibleError, RefusedBodyError
from worker.ledger import tables
from worker.ledger.queries import snapshot
from worker.messages.dead_letters import Failure

CHUNK = 1_000

#: The worker's own judgement of a delivery: its message, or why it is refused.
Receive = Callable[[Delivery, datetime], Message | Failure]


@dataclass(frozen=True, slots=True)
class BodyEdit:
    """An edit as an operator asks for it; ``instead_of`` is the body that the operator saw."""

    body: bytes
    instead_of: bytes
    reason: str
    actor: str


def note(engine: Engine, number: int, text: str, actor: str, now: datetime) -> None:
    """Write a note on a dead letter. Raises NotFoundError, NotPossibleError."""
    written = reason_given(text)

    def work(transaction: DeadLetterTransaction) -> None:
        dead_letter = _held(transaction.connection, [number])[number]
        transaction.change(dead_letter, note=written)
        transaction.tell(number, "noted", actor=actor_named(actor), text=written)
        transaction.record(actor, "note", said([number]), written)

    transact(engine, now, work)


def discard(
    engine: Engine, dead_letters: DeadLetterSelection, reason: str, actor: str, now: datetime
) -> Done:
    """Discard parked dead letters, for a reason; they are kept. Others are left as they are.

    Raises NotFoundError before any is discarded.
    """
    why = reason_given(reason)

    def put_away(transaction: DeadLetterTransaction, dead_letter: Row[Any]) -> bool:
        if dead_letter.status != DeadLetterStatus.PARKED:
            return False
        transaction.change(dead_letter, status=DeadLetterStatus.DISCARDED.value, note=why)
        transaction.tell(dead_letter.number, "discarded", actor=actor, text=why)
        return True

    return _each(engine, dead_letters, DeadLetterStatus.PARKED, "discard", put_away, why, actor, now)


def restore(
    engine: Engine, dead_letters: DeadLetterSelection, reason: str | None, actor: str, now: datetime
) -> Done:
    """Restore discarded dead letters, and those under way in a replay that nobody runs any more.

    Raises NotFoundError before any is restored.
    """

    def put_back(transaction: DeadLetterTransaction, dead_letter: Row[Any]) -> bool:
        if dead_letter.status == DeadLetterStatus.REPLAYING:
            if _is_run(transaction, dead_letter.replay_id):
                return False
            transaction.item(dead_letter.replay_id, dead_letter.number, ItemState.SKIPPED, "restored by hand")
        elif dead_letter.status != DeadLetterStatus.DISCARDED:
            return False
        transaction.change(dead_letter, status=DeadLetterStatus.PARKED.value, replay_id=None)
        transaction.tell(dead_letter.number, "restored", actor=actor, text=reason)
        return True

    return _each(engine, dead_letters, DeadLetterStatus.DISCARDED, "restore", put_back, reason, actor, now)


def undo_discard(engine: Engine, entries: Sequence[int], actor: str, now: datetime) -> Done:
    """Restore the dead letters that these entries of the activity log say were discarded, and still are.

    Raises NotFoundError where an entry is no discard.
    """
    done = Done(0, 0, (), ())
    for entry in entries:
        with snapshot(engine) as connection:
            numbers = reading.discarded_by(connection, entry)
        part = restore(engine, numbers, f"undo of entry {entry} of the log", actor, now)
        done = Done(
            done.done + part.done,
            done.skipped + part.skipped,
            (*done.numbers, *part.numbers)[:CHUNK],
            (*done.entries, *part.entries),
        )
    return done


def _is_run(transaction: DeadLetterTransaction, replay_id: int) -> bool:
    """Return True where it has a runner; a runner that was killed leaves a lease that expires."""
    asked = select(tables.replays.c.state, tables.replays.c.leased_until).where(
        tables.replays.c.replay_id == replay_id
    )
    row = transaction.connection.execute(asked).one()
    return bool(row.state == ReplayState.RUNNING and row.leased_until > transaction.now)


def _each(
    engine: Engine,
    dead_letters: DeadLetterSelection,
    status: DeadLetterStatus,
    action: str,
    act: Callable[[DeadLetterTransaction, Row[Any]], bool],
    reason: str | None,
    actor: str,
    now: datetime,
) -> Done:
    """Act on dead letters, a thousand a transaction, each transaction with its entry in the activity log."""
    who, done, skipped, numbers, entries = actor_named(actor), 0, 0, list[int](), list[int]()
    if not isinstance(dead_letters, DeadLetterFilter):
        _all_exist(engine, dead_letters)
    for chunk in _chunks(engine, dead_letters, status):

        def work(
            transaction: DeadLetterTransaction, chunk: Sequence[int] = chunk
        ) -> tuple[list[int], int | None]:
            held = _held(transaction.connection, chunk)
            acted = [number for number in chunk if act(transaction, held[number])]
            if not acted:
                return acted, None
            detail = {"letters": acted, "count": len(acted)}
            return acted, transaction.record(who, action, said(dead_letters), reason, detail)

        acted, entry = transact(engine, now, work)
        entries += [] if entry is None else [entry]
        done += len(acted)
        skipped += len(chunk) - len(acted)
        numbers += acted[: CHUNK - len(numbers)]
    return Done(done, skipped, tuple(numbers), tuple(entries))


def _chunks(
    engine: Engine, dead_letters: DeadLetterSelection, status: DeadLetterStatus
) -> Iterator[Sequence[int]]:
    if not isinstance(dead_letters, DeadLetterFilter):
        yield from chunks(list(dict.fromkeys(dead_letters)), CHUNK)
        return
    asked = replace(dead_letters, status=(status,))
    before: int | None = None
    while True:
        with snapshot(engine) as connection:
            numbers, before = reading.numbers(connection, asked, CHUNK, before)
        if numbers:
            yield numbers
        if before is None:
            return


def _all_exist(engine: Engine, numbers: Sequence[int]) -> None:
    with snapshot(engine) as connection:
        for chunk in chunks(numbers, CHUNK):
            _held(connection, chunk)


def _held(connection: Connection, numbers: Sequence[int]) -> dict[int, Row[Any]]:
    """Return the dead letters with these numbers. Raises NotFoundError for the first that doesn't exist."""
    held = held_dead_letters(connection, numbers)
    for number in numbers:
        if number not in held:
            raise reading.not_found(number)
    return held


# -- bodies -----------------------------------------------------------------------------------------------


def problem_with(
    dead_letter: StoredDeadLetter, body: bytes, receive: Receive | None, now: datetime, sent_as: str | None
) -> RefusedBodyError | None:
    """Return the error with which a worker would refuse this body; None where it would accept it.

    A dead letter that is no command (a reply, a notice) is not judged.
    """
    if receive is None or not leads_to_workers(dead_letter):
        return None
    taken = receive(as_delivered(dead_letter, sent_as, body), now)
    if isinstance(taken, Failure):
        return RefusedBodyError(taken.code, taken.field, taken.message)
    item = first_malformed(taken)
    return None if item is None else RefusedBodyError(item.reason, item.field, item.message)


def edit(
    engine: Engine, number: int, mended: BodyEdit, catalog: Catalog | None, now: datetime
) -> StoredDeadLetter:
    """Set the body that a replay sends; the original stays, and a body equal to it takes the edit back.

    Raises NotFoundError. Raises NotPossibleError where the dead letter is not parked, or its body is another
    one than the operator saw.
    """
    actor, why = actor_named(mended.actor), reason_given(mended.reason)

    def work(transaction: DeadLetterTransaction) -> StoredDeadLetter:
        held = _held(transaction.connection, [number])[number]
        dead_letter = reading.dead_letter(transaction.connection, number)
        _may_be_edited(dead_letter, mended)
        body = None if mended.body == dead_letter.body else mended.body
        edited = insert(tables.dead_letter_edits).returning(tables.dead_letter_edits.c.edit_id)
        edit_id = transaction.connection.execute(
            edited,
            {
                "number": number,
                "at": now,
                "actor": actor,
                "reason": why,
                "before": dead_letter.current_body,
                "after": mended.body,
            },
        ).scalar_one()
        transaction.connection.execute(
            update(tables.dead_letters).where(tables.dead_letters.c.number == number).values(edited_body=body)
        )
        transaction.change(held, tokens_at_stake=tokens_at_stake(mended.body, catalog))
        transaction.tell(
            number, "edited", actor=actor, text=why, edit=edit_id, taken_back=body is None or None
        )
        transaction.record(actor, "edit", said([number]), why, {"edit": edit_id})
        return dead_letter

    transact(engine, now, work)
    with snapshot(engine) as connection:
        return reading.dead_letter(connection, number)


def _may_be_edited(dead_letter: StoredDeadLetter, mended: BodyEdit) -> None:
    if dead_letter.status != DeadLetterStatus.PARKED:
        raise NotPossibleError(
            f"letter {dead_letter.number} is {dead_letter.status}, and only a parked one can be edited"
            + (
                f"; see replay {dead_letter.replay_id}"
                if dead_letter.status == DeadLetterStatus.REPLAYING
                else ""
            )
        )
    if dead_letter.current_body != mended.instead_of:
        raise NotPossibleError(
            f"letter {dead_letter.number} was edited by somebody else meanwhile: look at it again"
        )
    if mended.body == dead_letter.current_body:
        raise NotPossibleError(f"the body of letter {dead_letter.number} is that already: nothing to change")
