"""Edits of many dead letters as one: a thousand a transaction, in some ten statements.

Each dead letter gets an edit of its own, with its event in the history, as from an edit by hand; the original
stays. The edit of the set names them, so that all are taken back together.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, case, insert, select, update

from worker.catalog import Catalog
from worker.deadletters.models import SetEdit, StoredDeadLetter, UneditedCause
from worker.deadletters.store import queries, tables
from worker.deadletters.store.activity_log import actor_named, reason_given
from worker.deadletters.store.filters import DeadLetterFilter, DeadLetterSelection, chunks
from worker.deadletters.store.transaction import DeadLetterTransaction, in_transaction
from worker.deadletters.tokens import tokens_affected
from worker.errors import NotFoundError
from worker.ledger.bulk import among
from worker.ledger.queries import snapshot

CHUNK = 1_000
#: Most causes that are kept apart; the texts come from bodies.
_CAUSES_MAX = 50
_OTHER = "other causes"

_EDIT = tables.dead_letter_edits.c
_DEAD_LETTER = tables.dead_letters.c


@dataclass(slots=True)
class EditTally:
    """Counts of an edit of a set, and the causes for which dead letters stay as they are."""

    changed: int = 0
    unchanged: int = 0
    skipped: int = 0
    causes: Counter[str] = field(default_factory=Counter)
    samples: dict[str, int] = field(default_factory=dict)

    def count_unedited(self, cause: str, number: int) -> None:
        """Count a dead letter that stays as it is, for a cause."""
        self._count(cause, 1, number)

    def _count(self, cause: str, count: int, sample: int) -> None:
        text = cause if cause in self.causes or len(self.causes) < _CAUSES_MAX else _OTHER
        self.causes[text] += count
        self.samples.setdefault(text, sample)

    def add(self, other: "EditTally") -> None:
        """Add the counts of a part."""
        self.changed += other.changed
        self.unchanged += other.unchanged
        self.skipped += other.skipped
        for cause, count in other.causes.items():
            self._count(cause, count, other.samples[cause])

    @property
    def total(self) -> int:
        """Number of dead letters looked at."""
        return self.changed + self.unchanged + self.skipped + self.causes.total()

    @property
    def unedited(self) -> tuple[UneditedCause, ...]:
        """Causes with their numbers, the commonest first."""
        return tuple(UneditedCause(text, n, self.samples[text]) for text, n in self.causes.most_common())


class BodyPair(NamedTuple):
    """Body of a dead letter before and after its edit."""

    before: bytes
    after: bytes


#: Returns the new body of a dead letter; None, and counted, where it stays as it is.
Edited = Callable[[StoredDeadLetter, EditTally], bytes | None]


@dataclass(frozen=True, slots=True)
class SetEditRequest:
    """An edit of a set as an operator asks for it; ``changes`` are stored, ``undoes`` names another edit."""

    source: str
    changes: Mapping[str, Any]
    reason: str
    actor: str
    undoes: int | None = None


def edit_set(
    engine: Engine,
    now: datetime,
    dead_letters: DeadLetterSelection,
    request: SetEditRequest,
    edited: Edited,
    catalog: Catalog | None,
    on_progress: Callable[[int, int], None] | None = None,
) -> SetEdit:
    """Edit the parked ones of the dead letters, each with the body that ``edited`` returns.

    Raises NotFoundError before any is edited; NotPossibleError without an actor or a reason.
    """
    numbers = numbers_of(engine, dead_letters)

    def changes_of(connection: Connection, chunk: Sequence[int], tally: EditTally) -> dict[int, BodyPair]:
        parked = queries.parked_among(connection, chunk)
        tally.skipped += len(chunk) - len(parked)
        found = {}
        for dead_letter in parked:
            if (body := edited(dead_letter, tally)) is not None:
                found[dead_letter.number] = BodyPair(dead_letter.current_body, body)
        return found

    return _each(engine, now, numbers, request, changes_of, catalog, on_progress)


def undo_set_edit(
    engine: Engine,
    now: datetime,
    number: int,
    reason: str,
    actor: str,
    catalog: Catalog | None,
    on_progress: Callable[[int, int], None] | None = None,
) -> SetEdit:
    """Give the dead letters of an edit of a set the bodies back that they had before it.

    Those that were edited again since, or are not parked any more, are skipped. Raises NotFoundError.
    """
    with snapshot(engine) as connection:
        source = _source(connection, number)
        of_set = select(_EDIT.number).where(_EDIT.set_edit_id == number).order_by(_EDIT.number.desc())
        numbers = list(connection.execute(of_set).scalars())
    request = SetEditRequest(source, {}, reason, actor, undoes=number)

    def changes_of(connection: Connection, chunk: Sequence[int], tally: EditTally) -> dict[int, BodyPair]:
        made = select(_EDIT.number, _EDIT.before, _EDIT.after).where(
            _EDIT.set_edit_id == number, among(connection, _EDIT.number, chunk)
        )
        pairs = {row.number: BodyPair(row.after, row.before) for row in connection.execute(made)}
        bodies = {one.number: one.current_body for one in queries.parked_among(connection, chunk)}
        found = {place: pair for place, pair in pairs.items() if bodies.get(place) == pair.before}
        tally.skipped += len(chunk) - len(found)
        return found

    return _each(engine, now, numbers, request, changes_of, catalog, on_progress)


def _source(connection: Connection, number: int) -> str:
    """Return the selection of an edit of a set. Raises NotFoundError."""
    edit = tables.dead_letter_set_edits.c
    source: str | None = connection.execute(
        select(edit.source).where(edit.set_edit_id == number)
    ).scalar_one_or_none()
    if source is None:
        raise NotFoundError(
            f"there is no edit {number} of a set; see `billing-worker activity --action edit`"
        )
    return source


def numbers_of(engine: Engine, dead_letters: DeadLetterSelection) -> list[int]:
    """Return the numbers of the parked dead letters of a filter, the oldest first, or those given.

    Raises NotFoundError for a number or a group that doesn't exist.
    """
    with snapshot(engine) as connection:
        if isinstance(dead_letters, DeadLetterFilter):
            return queries.parked_numbers(connection, dead_letters)
        return queries.existing(connection, dead_letters)


#: Returns the bodies before and after, by number, of those of a chunk that change; counts the others.
_ChangesOf = Callable[[Connection, Sequence[int], EditTally], dict[int, BodyPair]]


def _each(
    engine: Engine,
    now: datetime,
    numbers: Sequence[int],
    request: SetEditRequest,
    changes_of: _ChangesOf,
    catalog: Catalog | None,
    on_progress: Callable[[int, int], None] | None,
) -> SetEdit:
    named = replace(request, actor=actor_named(request.actor), reason=reason_given(request.reason))
    set_edit: int | None = None
    tally = EditTally()
    for chunk in chunks(numbers, CHUNK):
        set_edit, part = _edit_chunk(engine, now, chunk, named, changes_of, catalog, set_edit)
        tally.add(part)
        if on_progress is not None:
            on_progress(tally.total, len(numbers))
    return SetEdit(set_edit, tally.changed, tally.unchanged, tally.skipped, tally.unedited)


@in_transaction
def _edit_chunk(
    transaction: DeadLetterTransaction,
    numbers: Sequence[int],
    request: SetEditRequest,
    changes_of: _ChangesOf,
    catalog: Catalog | None,
    set_edit: int | None,
) -> tuple[int | None, EditTally]:
    """Edit some; returns the number of the edit of the set, which the first change makes, and the counts."""
    tally = EditTally()
    pairs = changes_of(transaction.connection, numbers, tally)
    if not pairs:
        return set_edit, tally
    tally.changed = len(pairs)
    if set_edit is None:
        set_edit = _new_set_edit(transaction, request)
    _save_bodies(transaction, set_edit, pairs, request)
    for number, dead_letter in transaction.dead_letters(pairs).items():
        after = pairs[number].after
        transaction.change(dead_letter, tokens_at_stake=tokens_affected(after, catalog))
        transaction.add_event(
            number,
            "edited",
            actor=request.actor,
            text=request.reason,
            set_edit=set_edit,
            undoes=request.undoes,
        )
    what = f"edit {set_edit}" if request.undoes is None else f"edit {set_edit}, which undoes {request.undoes}"
    detail: dict[str, Any] = {
        "set_edit": set_edit,
        "undoes": request.undoes,
        "letters": sorted(pairs),
        "count": len(pairs),
    }
    detail |= {} if request.undoes else {"changes": dict(request.changes)}
    action = "edit.set" if request.undoes is None else "edit.undo"
    transaction.record(request.actor, action, f"{what}: {request.source}", request.reason, detail)
    return set_edit, tally


def _new_set_edit(transaction: DeadLetterTransaction, request: SetEditRequest) -> int:
    made = insert(tables.dead_letter_set_edits).returning(tables.dead_letter_set_edits.c.set_edit_id)
    values = {
        "at": transaction.now,
        "actor": request.actor,
        "reason": request.reason,
        "source": request.source,
        "changes": dict(request.changes),
        "undoes": request.undoes,
    }
    return int(transaction.connection.execute(made, values).scalar_one())


def _save_bodies(
    transaction: DeadLetterTransaction,
    set_edit: int,
    pairs: Mapping[int, BodyPair],
    request: SetEditRequest,
) -> None:
    """Save the edits, then the bodies from them; one that is the original again is no edited body."""
    common = {
        "at": transaction.now,
        "actor": request.actor,
        "reason": request.reason,
        "set_edit_id": set_edit,
    }
    rows = [{"number": number, **pair._asdict(), **common} for number, pair in sorted(pairs.items())]
    transaction.connection.execute(insert(tables.dead_letter_edits), rows)
    saved = (
        update(tables.dead_letters)
        .where(
            _EDIT.number == _DEAD_LETTER.number,
            _EDIT.set_edit_id == set_edit,
            among(transaction.connection, _DEAD_LETTER.number, sorted(pairs)),
        )
        .values(edited_body=case((_EDIT.after == _DEAD_LETTER.body, None), else_=_EDIT.after))
    )
    transaction.connection.execute(saved)
