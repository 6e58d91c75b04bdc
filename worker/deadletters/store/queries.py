"""Read queries of dead letters: lists, paged by the database, and one dead letter whole."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, case, func, literal, select

from worker.deadletters.models import (
    DeadLetterLine,
    DeadLetterPage,
    DeadLetterStatus,
    StoredDeadLetter,
    columns_of,
)
from worker.deadletters.store import tables
from worker.deadletters.store.filters import (
    PAGE_MAX,
    DeadLetterFilter,
    chunks,
    conditions,
    has_text,
    matching,
    newest,
    with_whole_fingerprint,
)
from worker.errors import NotFoundError
from worker.ledger.bulk import among
from worker.ledger.queries.snapshots import within

_COUNTED_MAX = 10_000
_SEARCHED = 5_000
_PAGE_OF_ALL = 100
_CHUNK = 1_000

_DEAD_LETTER = tables.dead_letters.c
_MADE = {"is_edited", "size", "attempts"}
_LINE = [
    *(_DEAD_LETTER[name] for name in columns_of(DeadLetterLine) if name not in _MADE),
    # Its tries are unknown where no worker has published it.
    case((_DEAD_LETTER.worker_version != "", _DEAD_LETTER.attempts)).label("attempts"),
    _DEAD_LETTER.edited_body.is_not(None).label("is_edited"),
    func.length(_DEAD_LETTER.body).label("size"),
]
_LINE_NAMES = columns_of(DeadLetterLine)


def dead_letter(connection: Connection, number: int) -> StoredDeadLetter:
    """Return one dead letter. Raises NotFoundError."""
    row = connection.execute(select(tables.dead_letters).where(_DEAD_LETTER.number == number)).one_or_none()
    if row is None:
        raise not_found(number)
    return StoredDeadLetter.from_row(row)


def not_found(number: int) -> NotFoundError:
    """Return the error for a missing dead letter."""
    return NotFoundError(f"there is no dead letter {number}; see `billing-worker dead-letters list`")


def page(connection: Connection, filter_: DeadLetterFilter, limit: int, before: int | None) -> DeadLetterPage:
    """Return a page of dead letters, newest first. Raises QueryError, NotFoundError for a group."""
    within("limit", limit, 1, PAGE_MAX)
    filter_ = with_whole_fingerprint(connection, filter_)
    if filter_.text is not None:
        return _searched(connection, filter_, filter_.text, limit, before)
    rows = connection.execute(newest(_LINE, filter_, limit + 1, before)).all()
    lines = tuple(_line(row) for row in rows[:limit])
    return DeadLetterPage(
        dead_letters=lines,
        next=lines[-1].number if len(rows) > limit else None,
        total=_total(connection, filter_),
        searched_to=None,
    )


def _line(row: Row[Any]) -> DeadLetterLine:
    values = {name: getattr(row, name) for name in _LINE_NAMES}
    return DeadLetterLine(**values | {"is_edited": bool(row.is_edited)})


def _searched(
    connection: Connection, filter_: DeadLetterFilter, wanted: str, limit: int, before: int | None
) -> DeadLetterPage:
    """Return the matches among the next few thousand dead letters: no index covers a text."""
    columns = [*_LINE, _DEAD_LETTER.body]
    candidates = newest(columns, filter_, _SEARCHED, before).subquery()
    count, lowest = connection.execute(select(func.count(), func.min(candidates.c.number))).one()
    found = (
        select(*(candidates.c[name] for name in _LINE_NAMES))
        .where(has_text(connection, wanted, candidates.c))
        .order_by(candidates.c.number.desc())
        .limit(limit + 1)
    )
    rows = connection.execute(found).all()
    lines = tuple(_line(row) for row in rows[:limit])
    is_full = len(rows) > limit
    lowest_seen = lines[-1].number if is_full else lowest
    return DeadLetterPage(
        dead_letters=lines,
        next=lowest_seen if is_full or count == _SEARCHED else None,
        total=None,
        searched_to=lowest_seen,
    )


def _total(connection: Connection, filter_: DeadLetterFilter) -> int | None:
    """Return the total: from the groups where they can tell, else by counting up to some thousands."""
    if all(
        value is None
        for value in (
            filter_.type,
            filter_.user_id,
            filter_.reference_id,
            filter_.since,
            filter_.until,
            filter_.applied,
        )
    ):
        return _total_of_groups(connection, filter_)
    where = [_DEAD_LETTER.status.in_([status.value for status in filter_.status]), *conditions(filter_)]
    some = (
        select(literal(1)).select_from(tables.dead_letters).where(*where).limit(_COUNTED_MAX + 1).subquery()
    )
    count: int = connection.execute(select(func.count()).select_from(some)).scalar_one()
    return count if count <= _COUNTED_MAX else None


def _total_of_groups(connection: Connection, filter_: DeadLetterFilter) -> int:
    group = tables.dead_letter_groups.c
    counted = (group[status.value] for status in dict.fromkeys(filter_.status))
    total = select(func.coalesce(func.sum(sum(counted, start=literal(0))), 0))
    if filter_.code is not None:
        total = total.where(group.reason == filter_.code)
    if filter_.fingerprint is not None:
        total = total.where(group.fingerprint == filter_.fingerprint)
    return int(connection.execute(total).scalar_one())


def numbers(
    connection: Connection, filter_: DeadLetterFilter, limit: int, before: int | None
) -> tuple[list[int], int | None]:
    """Return the next matching numbers, newest first, and the number to go on before; None at the end."""
    found = page(connection, filter_, limit, before)
    return [line.number for line in found.dead_letters], found.next


def every_number(connection: Connection, filter_: DeadLetterFilter) -> list[int]:
    """Return the numbers of all dead letters that match, newest first. Raises QueryError, NotFoundError."""
    where = matching(connection, with_whole_fingerprint(connection, filter_))
    return list(
        connection.execute(
            select(_DEAD_LETTER.number).where(*where).order_by(_DEAD_LETTER.number.desc())
        ).scalars()
    )


def existing(connection: Connection, numbers: Iterable[int]) -> list[int]:
    """Return the numbers, each once. Raises NotFoundError for the first that no dead letter has."""
    wanted = list(dict.fromkeys(numbers))
    for chunk in chunks(wanted, _CHUNK):
        statement = select(_DEAD_LETTER.number).where(among(connection, _DEAD_LETTER.number, chunk))
        found = set(connection.execute(statement).scalars())
        for number in chunk:
            if number not in found:
                raise not_found(number)
    return wanted


def parked_numbers(connection: Connection, filter_: DeadLetterFilter) -> list[int]:
    """Return the numbers of the parked ones that match, in the order in which a replay sends them."""
    return every_number(connection, replace(filter_, status=(DeadLetterStatus.PARKED,)))[::-1]


def parked_among(connection: Connection, numbers: Collection[int]) -> list[StoredDeadLetter]:
    """Return the parked ones of these dead letters, whole, newest first."""
    statement = select(tables.dead_letters).where(
        among(connection, _DEAD_LETTER.number, numbers), _DEAD_LETTER.status == DeadLetterStatus.PARKED.value
    )
    rows = connection.execute(statement.order_by(_DEAD_LETTER.number.desc()))
    return [StoredDeadLetter.from_row(row) for row in rows]


def every_dead_letter(connection: Connection, filter_: DeadLetterFilter) -> Iterator[StoredDeadLetter]:
    """Yield all dead letters that match, whole, newest first."""
    before: int | None = None
    while True:
        some, before = numbers(connection, filter_, _PAGE_OF_ALL, before)
        rows = connection.execute(
            select(tables.dead_letters)
            .where(_DEAD_LETTER.number.in_(some))
            .order_by(_DEAD_LETTER.number.desc())
        )
        yield from (StoredDeadLetter.from_row(row) for row in rows.all())
        if before is None:
            return
