"""Read queries of groups: lists, one group, the counts of all, and the proof that counts are true."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, FromClause, Row, Select, and_, case, distinct, func, or_, select, text
from sqlalchemy.sql import ColumnElement

from worker.deadletters.models import (
    WAITING,
    Counts,
    DeadLetterGroup,
    DeadLetterStatus,
    GroupDrift,
    GroupOrder,
    GroupPage,
)
from worker.deadletters.store import tables
from worker.deadletters.store.bounded_sum import bounded_sum
from worker.deadletters.store.filters import PAGE_MAX, DeadLetterFilter, newest, searchable, whole_fingerprint
from worker.errors import QueryError
from worker.ledger.bulk import among
from worker.ledger.queries.snapshots import in_utc, within

_USERS_MAX = 1_000

_DEAD_LETTER = tables.dead_letters.c
_GROUP = tables.dead_letter_groups.c
_IS_APPLIED = (
    _DEAD_LETTER.applied_at.is_not(None),
    _DEAD_LETTER.status == DeadLetterStatus.RESOLVED.value,
)
_APPLIED_MAX = 10_000
_WAITING_USERS = (
    select(_DEAD_LETTER.fingerprint, func.count(distinct(_DEAD_LETTER.user_id)).label("users"))
    .where(text("status IN ('parked', 'replaying')"))  # as in the index
    .group_by(_DEAD_LETTER.fingerprint)
    .subquery("waiting_users")
)
_ORDERS: dict[GroupOrder, ColumnElement[Any]] = {
    "tokens": _GROUP.tokens_at_stake,
    "users": func.coalesce(_WAITING_USERS.c.users, 0),
    "count": _GROUP.waiting,
    "last": _GROUP.last_failed_at,
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


def page(
    connection: Connection, *, waiting_only: bool, order: GroupOrder, limit: int, after: str | None
) -> GroupPage:
    """Return a page of groups: by the most that waits, or by the latest failure. Raises QueryError.

    Groups whose failures have unknown times come last.
    """
    within("limit", limit, 1, PAGE_MAX)
    by, where = _ORDERS[order], [_GROUP.waiting > 0] if waiting_only else []
    counted = select(func.count()).select_from(tables.dead_letter_groups).where(*where)
    total = connection.execute(counted).scalar_one()
    if after is not None:
        where.append(_comes_after(order, after))
    most_first = by.desc().nulls_last() if order == "last" else by.desc()
    ordered = tables.dead_letter_groups if order != "users" else _with_users()
    statement = select(tables.dead_letter_groups, by.label("ordered_by")).select_from(ordered).where(*where)
    statement = statement.order_by(most_first, _GROUP.fingerprint.desc()).limit(limit + 1)
    try:
        rows = connection.execute(statement).all()
    except OverflowError as error:  # SQLite's largest number is smaller than what may be asked for
        raise _no_cursor(order, str(after)) from error
    return GroupPage(
        groups=tuple(_views(connection, rows[:limit])),
        next=_cursor(rows[limit - 1]) if len(rows) > limit else None,
        total=total,
    )


def _with_users() -> FromClause:
    """Return the groups with the users that wait in each; all that wait are counted for it."""
    is_of = _GROUP.fingerprint == _WAITING_USERS.c.fingerprint
    return tables.dead_letter_groups.outerjoin(_WAITING_USERS, is_of)


def group(connection: Connection, fingerprint: str) -> DeadLetterGroup:
    """Return one group, by the beginning of its fingerprint. Raises NotFoundError, QueryError."""
    whole = whole_fingerprint(connection, fingerprint)
    statement = select(tables.dead_letter_groups).where(_GROUP.fingerprint == whole)
    return _views(connection, connection.execute(statement).all())[0]


def _views(connection: Connection, rows: Sequence[Row[Any]]) -> list[DeadLetterGroup]:
    applied = _applied(connection, [row.fingerprint for row in rows])
    return [_view(connection, row, applied.get(row.fingerprint, 0)) for row in rows]


def _applied(connection: Connection, fingerprints: Sequence[str]) -> dict[str, int]:
    """Return how many of each group were found applied and are not confirmed."""
    counted = select(_DEAD_LETTER.fingerprint, func.count()).where(
        *_IS_APPLIED, among(connection, _DEAD_LETTER.fingerprint, fingerprints)
    )
    rows = connection.execute(counted.group_by(_DEAD_LETTER.fingerprint))
    return {row[0]: row[1] for row in rows}


def _view(connection: Connection, row: Row[Any], applied: int) -> DeadLetterGroup:
    users = _users(connection, row.fingerprint) if row.waiting else 0
    sample, field, message = _headline(connection, row)
    return DeadLetterGroup(
        fingerprint=row.fingerprint,
        reason=row.reason,
        type=row.type,
        field=field,
        message=message,
        sample=sample,
        waiting=row.waiting,
        parked=row.parked,
        replaying=row.replaying,
        resolved=row.resolved,
        discarded=row.discarded,
        tokens_at_stake=int(row.tokens_at_stake),
        tokens_unknown=row.tokens_unknown,
        users=min(users, _USERS_MAX),
        users_is_least=users > _USERS_MAX,
        applied=applied,
        first_failed_at=row.first_failed_at,
        last_failed_at=row.last_failed_at,
    )


def _headline(connection: Connection, row: Row[Any]) -> tuple[int, str | None, str]:
    """Return number, field and message of the newest that waits, or of the latest where none does.

    The group's own are those of its latest failure, which may have ended, or moved to another group.
    """
    if not row.waiting:
        return row.sample, row.field, row.message
    columns = (_DEAD_LETTER.number, _DEAD_LETTER.field, _DEAD_LETTER.message)
    waiting = newest(columns, DeadLetterFilter(fingerprint=row.fingerprint), 1, None)
    found = connection.execute(waiting).one_or_none()
    return (row.sample, row.field, row.message) if found is None else (found[0], found[1], found[2])


def _users(connection: Connection, fingerprint: str) -> int:
    counted: int = connection.execute(_USERS, {"fingerprint": fingerprint, "most": _USERS_MAX}).scalar_one()
    return counted


def _cursor(row: Row[Any]) -> str:
    """Return the place of a group in a list; the value is empty where it is unknown."""
    value = row.ordered_by
    if isinstance(value, datetime):
        value = value.isoformat()
    return f"{'' if value is None else value}|{row.fingerprint}"


def _comes_after(order: GroupOrder, cursor: str) -> ColumnElement[bool]:
    """Return the condition that a group comes after the place. Raises QueryError."""
    by, (value, fingerprint) = _ORDERS[order], _place(order, cursor)
    if value is None:
        return and_(by.is_(None), _GROUP.fingerprint < fingerprint)
    after = or_(by < value, and_(by == value, _GROUP.fingerprint < fingerprint))
    return or_(after, by.is_(None)) if order == "last" else after


def _place(order: GroupOrder, cursor: str) -> tuple[datetime | int | None, str]:
    value, separator, fingerprint = cursor.rpartition("|")
    if not separator:
        raise _no_cursor(order, cursor)
    searchable("the cursor", fingerprint)
    if order == "last" and not value:
        return None, fingerprint
    try:
        place = in_utc("a place", datetime.fromisoformat(value)) if order == "last" else int(value)
    except (ValueError, QueryError) as error:
        raise _no_cursor(order, cursor) from error
    return place, fingerprint


def _no_cursor(order: GroupOrder, cursor: str) -> QueryError:
    return QueryError(f"{cursor[:60]!r} is no place in a list of groups by {order}")


def drifts(connection: Connection) -> list[GroupDrift]:
    """Return the groups that differ from their dead letters; none unless others write into these tables."""
    dead_letters = {row.fingerprint: row for row in connection.execute(_counted(connection))}
    statement = select(_GROUP.fingerprint, *(_GROUP[name] for name in _COUNTS))
    stored = {row.fingerprint: row for row in connection.execute(statement)}
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


def _count_of(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)


def _counted(connection: Connection) -> Select[Any]:
    tokens = _DEAD_LETTER.tokens_at_stake
    return select(
        _DEAD_LETTER.fingerprint,
        *(_count_of(_DEAD_LETTER.status == status.value).label(status.value) for status in DeadLetterStatus),
        bounded_sum(connection, case((_IS_WAITING, tokens))).label("tokens_at_stake"),
        _count_of(and_(_IS_WAITING, tokens.is_(None))).label("tokens_unknown"),
    ).group_by(_DEAD_LETTER.fingerprint)


def counts(connection: Connection) -> Counts:
    """Return the counts of all dead letters, from their groups."""
    row = connection.execute(
        select(*(bounded_sum(connection, _GROUP[name]).label(name) for name in _COUNTS))
    ).one()
    waiting = select(func.count(), func.max(_GROUP.last_failed_at)).where(_GROUP.waiting > 0)
    groups, last_failed_at = connection.execute(waiting).one()
    some = select(_DEAD_LETTER.number).where(*_IS_APPLIED).limit(_APPLIED_MAX).subquery()
    return Counts(
        groups=groups,
        applied=connection.execute(select(func.count()).select_from(some)).scalar_one(),
        last_failed_at=last_failed_at,
        **{name: int(getattr(row, name)) for name in _COUNTS},
    )
