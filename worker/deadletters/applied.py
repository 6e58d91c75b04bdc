"""Dead letters whose operation the ledger has by now, with the same content: found, and resolved as a set.

A producer may have sent the message again, or another dead letter was its copy. Contents are compared as the
ledger compares them for a reference: another content is a conflict, and waits. A message of several commands
counts once all of them are applied. The drainer looks at some parked dead letters at a time and resolves
those that it finds, with a mark (``applied_at``): they wait no more, and an operator confirms them together.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection, Engine, select

from worker.deadletters.models import DeadLetterStatus, Done, StoredDeadLetter
from worker.deadletters.replay.ledger_check import expected_of, leads_to_workers, shown
from worker.deadletters.store import queries, tables
from worker.deadletters.store.activity_log import actor_named, reason_given
from worker.deadletters.store.filters import DeadLetterFilter, DeadLetterSelection, chunks, described
from worker.deadletters.store.transaction import DeadLetterTransaction, in_transaction
from worker.ledger.bulk import among
from worker.ledger.queries import snapshot

#: Dead letters of one look: their bodies are read and decoded, each up to some hundred KiB.
LOOK = 200
_NUMBERS_SHOWN = 1_000
_TEXT = "the ledger has applied its operation, with the same content"

_DEAD_LETTER = tables.dead_letters.c


@dataclass(frozen=True, slots=True)
class AppliedLook:
    """Result of a look: how many were found, and the number behind which the next look begins; 0 anew."""

    found: int
    after: int


def mark_some(engine: Engine, now: datetime, after: int) -> AppliedLook:
    """Look at the next parked dead letters behind ``after``; resolve, with a mark, those applied."""
    with snapshot(engine) as connection:
        parked = (_DEAD_LETTER.status == DeadLetterStatus.PARKED.value, _DEAD_LETTER.number > after)
        next_ones = select(_DEAD_LETTER.number).where(*parked).order_by(_DEAD_LETTER.number).limit(LOOK)
        numbers = connection.execute(next_ones).scalars().all()
        found = _applied_among(connection, numbers, now)
    marked = _mark(engine, now, found) if found else 0
    return AppliedLook(marked, numbers[-1] if len(numbers) == LOOK else 0)


def is_applied(connection: Connection, dead_letter: StoredDeadLetter, now: datetime) -> bool:
    """Return True where the ledger has applied all that the dead letter asks for, with the same content."""
    return dead_letter.number in _applied_of(connection, [dead_letter], now)


#: Bodies of applied dead letters by number, as they were when the ledger was asked.
_Bodies = Mapping[int, bytes]


def _applied_among(connection: Connection, numbers: Sequence[int], now: datetime) -> _Bodies:
    return _applied_of(connection, queries.parked_among(connection, numbers), now)


def _applied_of(connection: Connection, dead_letters: Iterable[StoredDeadLetter], now: datetime) -> _Bodies:
    asked = [
        (dead_letter, expected_of(dead_letter.current_body, now))
        for dead_letter in dead_letters
        if leads_to_workers(dead_letter)
    ]
    ledger = shown(connection, (one for _, expected in asked for one in expected))
    return {
        dead_letter.number: dead_letter.current_body
        for dead_letter, expected in asked
        if expected
        and all((outcome := ledger.agreeing(one)) is not None and outcome.is_applied for one in expected)
    }


@in_transaction
def _mark(transaction: DeadLetterTransaction, found: _Bodies) -> int:
    """Resolve those of ``found`` that are as they were; returns how many."""
    marked = transaction.dead_letters(_unchanged(transaction, found))
    for number, row in marked.items():
        transaction.change(row, status=DeadLetterStatus.RESOLVED.value, applied_at=transaction.now)
        transaction.add_event(number, "resolved", text=_TEXT, outcome="applied")
    return len(marked)


def _unchanged(transaction: DeadLetterTransaction, found: _Bodies) -> Iterator[int]:
    """Yield those that are parked with the same body. An applied operation stays applied."""
    for dead_letter in queries.parked_among(transaction.connection, found):
        if found[dead_letter.number] == dead_letter.current_body:
            yield dead_letter.number


# -- by an operator ---------------------------------------------------------------------------------------


def resolve(
    engine: Engine,
    now: datetime,
    dead_letters: DeadLetterSelection,
    reason: str,
    actor: str,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> Done:
    """Resolve the applied ones of the dead letters, marked before or found now; others stay as they are.

    Raises NotFoundError, NotPossibleError without an actor or a reason.
    """
    who, why = actor_named(actor), reason_given(reason)
    numbers = _candidates(engine, dead_letters)
    resolved: list[int] = []
    entries: list[int] = []
    for place, chunk in enumerate(chunks(numbers, LOOK), 1):
        with snapshot(engine) as connection:
            found = _applied_among(connection, chunk, now)
        done, entry = _resolve_chunk(engine, now, chunk, found, why, who, described(dead_letters))
        resolved += done
        entries += [] if entry is None else [entry]
        if on_progress is not None:
            on_progress(min(place * LOOK, len(numbers)), len(numbers))
    skipped = len(numbers) - len(resolved)
    return Done(len(resolved), skipped, tuple(resolved[:_NUMBERS_SHOWN]), tuple(entries))


def _candidates(engine: Engine, dead_letters: DeadLetterSelection) -> list[int]:
    """Return the parked and the marked ones of a filter, or the numbers given. Raises NotFoundError."""
    with snapshot(engine) as connection:
        if not isinstance(dead_letters, DeadLetterFilter):
            return queries.existing(connection, dead_letters)
        marked = replace(dead_letters, status=(DeadLetterStatus.RESOLVED,), applied=True)
        found = queries.every_number(connection, marked)
        if not dead_letters.applied:
            parked = replace(dead_letters, status=(DeadLetterStatus.PARKED,))
            found += queries.every_number(connection, parked)
        return found


@in_transaction
def _resolve_chunk(
    transaction: DeadLetterTransaction,
    numbers: Sequence[int],
    found: _Bodies,
    reason: str,
    actor: str,
    subject: str,
) -> tuple[list[int], int | None]:
    """Resolve the found and the marked ones; returns them, and the entry of the activity log."""
    connection = transaction.connection
    marked = select(_DEAD_LETTER.number).where(
        among(connection, _DEAD_LETTER.number, numbers),
        _DEAD_LETTER.status == DeadLetterStatus.RESOLVED.value,
        _DEAD_LETTER.applied_at.is_not(None),
    )
    resolved = sorted({*connection.execute(marked).scalars(), *_unchanged(transaction, found)})
    if not resolved:
        return [], None
    for number, row in transaction.dead_letters(resolved).items():
        transaction.change(row, status=DeadLetterStatus.RESOLVED.value, applied_at=None)
        transaction.add_event(number, "resolved", actor=actor, text=reason, outcome="applied")
    detail = {"letters": resolved, "count": len(resolved)}
    return resolved, transaction.record(actor, "resolve", subject, reason, detail)
