"""Usage by day and by the type of the command that took it, or by another group."""

from collections import Counter as Tally
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Connection, Select, cast, extract, func, select
from sqlalchemy.sql import ColumnElement

from schemas import Limits
from worker.core.plan import Counter
from worker.ledger.queries.days import Calendar, zone_of
from worker.ledger.queries.snapshots import AccountKey, account_row, last_posted, on_operation, within
from worker.ledger.queries.usage import USAGE_DAYS_MAX
from worker.ledger.queries.views import View
from worker.ledger.tables import entries, operations

# As for the usage by feature: an entry posted more than so long before a time occurred before that time.
_AHEAD = Limits().occurred_at_max_ahead + timedelta(days=1)


@dataclass(frozen=True)
class KindsDay(View):
    """Tokens used on one local calendar day, by the type of the command (most first)."""

    day: date
    used: int
    by_type: Mapping[str, int]


@dataclass(frozen=True)
class UsageKinds(View):
    """Tokens used on ``days`` local calendar days up to today in ``timezone``, by day and type of command.

    The days add up to ``total_used``, which is the same as that of the usage by feature, and so do the types.
    """

    user_id: str
    timezone: str
    total_used: int
    by_day: tuple[KindsDay, ...]
    by_type: Mapping[str, int]


def usage_kinds(connection: Connection, user_id: str, now: datetime, days: int, timezone: str) -> UsageKinds:
    """Return the usage of the last ``days`` (1 to 366) local calendar days in ``timezone``, today included.

    Raises NotFoundError, and QueryError for days outside the range or a time zone that isn't known.
    """
    within("days", days, 1, USAGE_DAYS_MAX)
    zone = zone_of(timezone)
    calendar = Calendar(now.astimezone(zone).date(), days, zone)
    account = account_row(connection, user_id)
    used: list[Tally[str]] = [Tally() for _ in calendar.days]
    key = AccountKey(account.slot, account.account_id)
    for piece, type_, tokens in used_by_type(connection, key, account.sequence, calendar):
        used[calendar.index(piece)][type_] += tokens
    by_type = sum(used, Tally[str]())
    return UsageKinds(
        user_id=user_id,
        timezone=timezone,
        total_used=by_type.total(),
        by_day=tuple(
            KindsDay(day, tally.total(), dict(tally.most_common()))
            for day, tally in zip(calendar.days, used, strict=True)
        ),
        by_type=dict(by_type.most_common()),
    )


def used_by_type(
    connection: Connection, key: AccountKey, sequence: int, calendar: Calendar
) -> list[tuple[int, str, int]]:
    """Return used tokens by slice of a day (see ``Calendar``) and type, of entries up to ``sequence``."""
    piece = (_seconds(connection, entries.c.occurred_at) - calendar.start) // calendar.step
    statement = _used(connection, key, sequence, calendar, piece.label("piece"), operations.c.type)
    return [(row.piece, row.type, int(row.used)) for row in connection.execute(statement)]


def used_by_group(
    connection: Connection, key: AccountKey, sequence: int, calendar: Calendar, group: str, most: int
) -> tuple[list[tuple[str | None, int]], int]:
    """Return used tokens by ``group``, most first, and those of the groups behind the first ``most``.

    ``group`` is ``feature``, ``type`` or ``metadata.<key>``; None is what has none.
    """
    column = _group_column(group)
    statement = _used(connection, key, sequence, calendar, column.label("name"))
    ranked = statement.subquery()
    first = select(ranked.c.name, ranked.c.used).order_by(ranked.c.used.desc(), ranked.c.name).limit(most)
    found = [(row.name or None, int(row.used)) for row in connection.execute(first)]
    if len(found) < most:
        return found, 0
    total = connection.execute(select(func.coalesce(func.sum(ranked.c.used), 0))).scalar_one()
    return found, int(total) - sum(tokens for _, tokens in found)


def _group_column(group: str) -> ColumnElement[Any]:
    match group.partition("."):
        case "feature", _, _:
            return entries.c.feature
        case "type", _, _:
            return operations.c.type
        case "metadata", _, name:
            value: ColumnElement[Any] = operations.c.metadata[name].as_string()
            return value
    raise AssertionError(f"{group!r} is no group of usage")


def _used(
    connection: Connection, key: AccountKey, sequence: int, calendar: Calendar, *groups: ColumnElement[Any]
) -> Select[Any]:
    """Select used tokens of the days by ``groups``.

    An index on their times would cost every message; the primary key finds entries by the time of posting.
    """
    start = datetime.fromtimestamp(calendar.start, UTC)
    before = last_posted(connection, key, sequence, lambda moment: moment < start - _AHEAD)
    return (
        select(*groups, func.sum(-entries.c.amount).label("used"))
        .join(operations, on_operation(entries.c.operation_id))
        .where(key.owns(entries), entries.c.sequence > before)
        .where(entries.c.counter == Counter.USAGE.value, entries.c.occurred_at >= start)
        .where(entries.c.occurred_at < datetime.fromtimestamp(calendar.end, UTC))
        .group_by(*groups)
    )


def _seconds(connection: Connection, column: ColumnElement[datetime]) -> ColumnElement[int]:
    """Whole seconds since 1970, cut and never rounded."""
    if connection.dialect.name == "postgresql":
        return cast(func.floor(extract("epoch", column)), BigInteger)
    return cast(func.strftime("%s", func.substr(column, 1, 19)), BigInteger)
