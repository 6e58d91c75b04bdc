"""Parts of a group: its dead letters by sender, by version of the worker, and by message."""

from typing import Any

from sqlalchemy import Connection, FromClause, func, select
from sqlalchemy.sql import ColumnElement

from worker.deadletters.models import WAITING, DeadLetterStatus, GroupParts, PartCount
from worker.deadletters.store import tables
from worker.deadletters.store.filters import DeadLetterFilter, newest, whole_fingerprint

#: Dead letters of a group that are looked at, the newest, and most values of each part.
LOOKED_AT_MAX, VALUES_MAX = 10_000, 10

_DEAD_LETTER = tables.dead_letters.c


def parts(connection: Connection, fingerprint: str) -> GroupParts:
    """Return the parts of the dead letters that wait in a group, or of all where none does.

    Raises NotFoundError, QueryError.
    """
    whole = whole_fingerprint(connection, fingerprint)
    looked_at = _looked_at(whole, WAITING)
    count = _count(connection, looked_at)
    is_waiting = bool(count)
    if not is_waiting:
        looked_at = _looked_at(whole, tuple(DeadLetterStatus))
        count = _count(connection, looked_at)
    return GroupParts(
        looked_at=count,
        is_all=count < LOOKED_AT_MAX,
        is_waiting=is_waiting,
        senders=_counted(connection, looked_at, looked_at.c.sender),
        worker_versions=_counted(connection, looked_at, func.nullif(looked_at.c.worker_version, "")),
        messages=_counted(connection, looked_at, looked_at.c.message),
    )


def _looked_at(fingerprint: str, statuses: tuple[DeadLetterStatus, ...]) -> FromClause:
    columns = (
        _DEAD_LETTER.number,
        _DEAD_LETTER.worker_version,
        _DEAD_LETTER.message,
        _DEAD_LETTER.properties["sender"].as_string().label("sender"),
    )
    filter_ = DeadLetterFilter(status=statuses, fingerprint=fingerprint)
    return newest(columns, filter_, LOOKED_AT_MAX, None).subquery()


def _count(connection: Connection, looked_at: FromClause) -> int:
    counted: int = connection.execute(select(func.count()).select_from(looked_at)).scalar_one()
    return counted


def _counted(
    connection: Connection, looked_at: FromClause, value: ColumnElement[Any]
) -> tuple[PartCount, ...]:
    count = func.count().label("dead_letters")
    statement = select(value.label("value"), count).select_from(looked_at)
    statement = statement.group_by(value).order_by(count.desc(), value).limit(VALUES_MAX)
    return tuple(PartCount(row.value, row.dead_letters) for row in connection.execute(statement))
