"""Read queries: groups, lists, one dead letter whole, the activity log; paged by the database."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, Row, and_, case, func, literal, or_, select, text

from worker.deadletters.models import (
    WAITING,
    AuditEntry,
    AuditPage,
    Counts,
    DeadLetterGroup,
    DeadLetterLine,
    DeadLetterPage,
    DeadLetterStatus,
    Edit,
    Event,
    GroupDrift,
    GroupPage,
    StoredDeadLetter,
    columns_of,
)
from worker.deadletters.store.filters import (
    DeadLetterFilter,
    conditions,
    has_text,
    matching,
    newest,
    whole_fingerprint,
    with_whole_fingerprint,
)
from worker.errors import NotFoundError, QueryError
from worker.ledger import tables
from worker.ledger.queries.snapshots import within
from worker.messages.dead_letters import EPOCH

GroupOrder = Literal["last", "count", "tokens"]

PAGE_MAX = 1_000
_COUNTED_MAX = 10_000
_SEARCHED = 5_000
_USERS_MAX = 1_000
_HISTORY_MAX = 500
_EDITS_MAX = 100
_PAGE_OF_ALL = 100

_DEAD_LETTER = tables.dead_letters.c
_LINE = [
    *(_DEAD_LETTER[name] for name in columns_of(DeadLetterLine) if name not in {"is_edited", "size"}),
    _DEAD_LETTER.edited_body.is_not(None).label("is_edited"),
    func.length(_DEAD_LETTER.body).label("size"),
]
_LINE_NAMES = columns_of(DeadLetterLine)


# -- dead letters -----------------------------------------------------------------------------------------


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
    times = {name: known_time(values[name]) for name in ("first_failed_at", "last_failed_at")}
    return DeadLetterLine(**values | times | {"is_edited": bool(row.is_edited)})


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
        for value in (filter_.type, filter_.user_id, filter_.reference_id, filter_.since, filter_.until)
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
    if filter_.reason is not None:
        total = total.where(group.reason == filter_.reason)
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


# -- one dead letter's history ----------------------------------------------------------------------------


def events(connection: Connection, number: int) -> tuple[Event, ...]:
    """Return the dead letter's history, oldest first; of very many events the newest."""
    event = tables.dead_letter_events.c
    statement = (
        select(tables.dead_letter_events)
        .where(event.number == number)
        .order_by(event.event_id.desc())
        .limit(_HISTORY_MAX)
    )
    rows = connection.execute(statement).all()
    return tuple(
        Event(row.at, row.kind, row.actor, row.text, row.replay_id, row.detail or {}) for row in rows[::-1]
    )


def edits(connection: Connection, number: int) -> tuple[Edit, ...]:
    """Return its edits, oldest first; of very many the newest."""
    edit = tables.dead_letter_edits.c
    statement = (
        select(tables.dead_letter_edits)
        .where(edit.number == number)
        .order_by(edit.edit_id.desc())
        .limit(_EDITS_MAX)
    )
    rows = connection.execute(statement).all()
    return tuple(
        Edit(row.edit_id, row.at, row.actor, row.reason, row.before, row.after) for row in rows[::-1]
    )


# -- groups -----------------------------------------------------------------------------------------------

_ORDERS = {
    "last": tables.dead_letter_groups.c.last_failed_at,
    "count": tables.dead_letter_groups.c.waiting,
    "tokens": tables.dead_letter_groups.c.tokens_at_stake,
}

# A loop from user to user along the index, as many steps as users are counted. The condition is written as in
# the index, or the database would not use it.
_USERS = text(
    "WITH RECURSIVE users (user_id, counted) AS ("
    " SELECT (SELECT min(user_id) FROM dead_letters WHERE fingerprint = :fingerprint"
    " AND status IN ('parked', 'replaying')), 1"
    " UNION ALL SELECT (SELECT min(user_id) FROM dead_letters WHERE fingerprint = :fingerprint"
    " AND status IN ('parked', 'replaying') AND user_id > users.user_id), counted + 1"
    " FROM users WHERE users.user_id IS NOT NULL AND counted <= :most)"
    " SELECT count(user_id) FROM users"
)


def groups(
    connection: Connection, *, waiting_only: bool, order: GroupOrder, limit: int, after: str | None
) -> GroupPage:
    """Return a page of groups: by the latest failure, or by the most that waits. Raises QueryError."""
    within("limit", limit, 1, PAGE_MAX)
    group, by = tables.dead_letter_groups.c, _ORDERS[order]
    where = [group.waiting > 0] if waiting_only else []
    total = connection.execute(
        select(func.count()).select_from(tables.dead_letter_groups).where(*where)
    ).scalar_one()
    if after is not None:
        value, fingerprint = _behind(order, after)
        where.append(or_(by < value, and_(by == value, group.fingerprint < fingerprint)))
    statement = (
        select(tables.dead_letter_groups)
        .where(*where)
        .order_by(by.desc(), group.fingerprint.desc())
        .limit(limit + 1)
    )
    try:
        rows = connection.execute(statement).all()
    except OverflowError as error:  # SQLite's largest number is smaller than what may be asked for
        raise QueryError(f"{after!r:.60} is no place in a list of groups by {order}") from error
    shown = rows[:limit]
    return GroupPage(
        groups=tuple(_group(connection, row) for row in shown),
        next=_mark(order, shown[-1]) if len(rows) > limit else None,
        total=total,
    )


def group(connection: Connection, fingerprint: str) -> DeadLetterGroup:
    """Return one group, by the beginning of its fingerprint. Raises NotFoundError, QueryError."""
    whole = whole_fingerprint(connection, fingerprint)
    table = tables.dead_letter_groups
    return _group(connection, connection.execute(select(table).where(table.c.fingerprint == whole)).one())


def _group(connection: Connection, row: Row[Any]) -> DeadLetterGroup:
    users = _users(connection, row.fingerprint) if row.waiting else 0
    return DeadLetterGroup(
        fingerprint=row.fingerprint,
        reason=row.reason,
        type=row.type,
        field=row.field,
        message=row.message,
        sample=_sample(connection, row),
        waiting=row.waiting,
        parked=row.parked,
        replaying=row.replaying,
        resolved=row.resolved,
        discarded=row.discarded,
        tokens_at_stake=int(row.tokens_at_stake),
        tokens_unknown=row.tokens_unknown,
        users=min(users, _USERS_MAX),
        users_is_least=users > _USERS_MAX,
        first_failed_at=known_time(row.first_failed_at),
        last_failed_at=known_time(row.last_failed_at),
    )


def _sample(connection: Connection, row: Row[Any]) -> int:
    """Return the newest of the group that waits; the group's latest may have ended or moved since."""
    if not row.waiting:
        return int(row.sample)
    waiting = newest([_DEAD_LETTER.number], DeadLetterFilter(fingerprint=row.fingerprint), 1, None)
    found: int | None = connection.execute(waiting).scalar_one_or_none()
    return int(row.sample) if found is None else found


def _users(connection: Connection, fingerprint: str) -> int:
    counted: int = connection.execute(_USERS, {"fingerprint": fingerprint, "most": _USERS_MAX}).scalar_one()
    return counted


def _mark(order: GroupOrder, row: Row[Any]) -> str:
    value = {"last": row.last_failed_at.isoformat(), "count": row.waiting, "tokens": row.tokens_at_stake}[
        order
    ]
    return f"{value}|{row.fingerprint}"


def _behind(order: GroupOrder, mark: str) -> tuple[Any, str]:
    value, _, fingerprint = mark.rpartition("|")
    refusal = QueryError(f"{mark[:60]!r} is no place in a list of groups by {order}")
    try:
        place: Any = datetime.fromisoformat(value) if order == "last" else int(value)
    except ValueError as error:
        raise refusal from error
    if order == "last" and place.tzinfo is None:
        raise refusal
    return place, fingerprint


def known_time(moment: datetime) -> datetime | None:
    """Return the time; None where unknown."""
    return None if moment == EPOCH else moment


def drifts(connection: Connection) -> list[GroupDrift]:
    """Return the groups that differ from their dead letters; none unless others write into these tables."""
    dead_letters = {row.fingerprint: row for row in connection.execute(_COUNTED)}
    group = tables.dead_letter_groups.c
    stored = {
        row.fingerprint: row
        for row in connection.execute(select(group.fingerprint, *(group[name] for name in _COUNTS)))
    }
    found = []
    for fingerprint in sorted(dead_letters.keys() | stored.keys()):
        for name in _COUNTS:
            expected = int(getattr(dead_letters.get(fingerprint), name, 0))
            actual = int(getattr(stored.get(fingerprint), name, 0))
            if expected != actual:
                found.append(GroupDrift(fingerprint, name, expected, actual))
    return found


_COUNTS = ("parked", "replaying", "resolved", "discarded", "tokens_at_stake", "tokens_unknown")
_IS_WAITING = _DEAD_LETTER.status.in_([status.value for status in WAITING])


def _sum_of(condition: Any, value: Any = 1) -> Any:
    return func.coalesce(func.sum(case((condition, value), else_=0)), 0)


_COUNTED = select(
    _DEAD_LETTER.fingerprint,
    *(_sum_of(_DEAD_LETTER.status == status.value).label(status.value) for status in DeadLetterStatus),
    _sum_of(and_(_IS_WAITING, _DEAD_LETTER.tokens_at_stake.is_not(None)), _DEAD_LETTER.tokens_at_stake).label(
        "tokens_at_stake"
    ),
    _sum_of(and_(_IS_WAITING, _DEAD_LETTER.tokens_at_stake.is_(None))).label("tokens_unknown"),
).group_by(_DEAD_LETTER.fingerprint)


def counts(connection: Connection) -> Counts:
    """Return the counts of all dead letters, from their groups."""
    group = tables.dead_letter_groups.c
    names = ("parked", "replaying", "resolved", "discarded", "tokens_at_stake", "tokens_unknown")
    statement = select(*(func.coalesce(func.sum(group[name]), 0).label(name) for name in names))
    row = connection.execute(statement).one()
    waiting, last = connection.execute(
        select(func.count(), func.max(group.last_failed_at)).where(group.waiting > 0)
    ).one()
    return Counts(
        groups=waiting,
        last_failed_at=None if last is None else known_time(last),
        **{name: int(getattr(row, name)) for name in names},
    )


# -- the activity log -------------------------------------------------------------------------------------


def discarded_by(connection: Connection, entry: int) -> list[int]:
    """Return the dead letters that an entry of the activity log discarded. Raises NotFoundError."""
    found = select(tables.audit_log.c.detail).where(
        tables.audit_log.c.entry_id == entry, tables.audit_log.c.action == "discard"
    )
    detail = connection.execute(found).scalar_one_or_none()
    if detail is None:
        raise NotFoundError(f"entry {entry} of the log tells of no discarded letters")
    return [int(number) for number in detail["letters"]]


def audit_entries(
    connection: Connection,
    limit: int,
    before: int | None,
    named: Sequence[tuple[str, str | None]],
) -> AuditPage:
    """Return a page of the activity log, newest first; ``named`` are columns and their values."""
    within("limit", limit, 1, PAGE_MAX)
    entry = tables.audit_log.c
    where = [entry[column] == value for column, value in named if value is not None]
    if before is not None:
        where.append(entry.entry_id < before)
    rows = connection.execute(
        select(tables.audit_log).where(*where).order_by(entry.entry_id.desc()).limit(limit + 1)
    ).all()
    shown = rows[:limit]
    return AuditPage(
        entries=tuple(
            AuditEntry(row.entry_id, row.at, row.actor, row.action, row.subject, row.reason, row.detail or {})
            for row in shown
        ),
        next=shown[-1].entry_id if len(rows) > limit else None,
    )
