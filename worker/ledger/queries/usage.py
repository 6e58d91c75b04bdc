"""Usage by day and by feature, and how long the balance lasts."""

from collections import Counter as Tally
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Connection, Row, cast, extract, func, select
from sqlalchemy.sql import ColumnElement

from schemas import Limits
from worker.catalog import Catalog
from worker.core import AccountState
from worker.core.plan import Counter
from worker.ledger.queries.days import Calendar, zone_of
from worker.ledger.queries.posted import posted_state
from worker.ledger.queries.snapshots import key_of, last_posted, within
from worker.ledger.queries.views import View
from worker.ledger.tables import entries

USAGE_DAYS_MAX = 366
UNLABELLED = "unlabelled"

# An entry posted more than so long before a time occurred before that time: no command is taken whose time is
# further ahead of its worker's clock, and no two workers' clocks are a day apart.
_AHEAD = Limits().occurred_at_max_ahead + timedelta(days=1)


@dataclass(frozen=True)
class UsageDay(View):
    """Tokens used on one local calendar day, in how many entries, and by which feature (most first)."""

    day: date
    used: int
    entries: int
    by_feature: Mapping[str, int]


@dataclass(frozen=True)
class Projection(View):
    """Days that the balance lasts if usage goes on as it was, whole, rounded down; None without usage.

    ``days_observed`` are the days of the range on which the account was open, at least one. What will expire
    meanwhile isn't counted.
    """

    days_to_empty: int | None
    days_observed: int
    method: str = "balance / (totalUsed / daysObserved), rounded down"


@dataclass(frozen=True)
class UsageReport(View):
    """Tokens used from ``first_day`` to ``last_day`` (today), both included, in ``timezone``.

    All that was taken for usage counts: at once, of a hold, or by a meter. It counts at the time of the
    event, not of its posting. Refunds give tokens back and don't lower the usage. The days add up to
    ``total_used``, and so do the features. ``average_per_day`` is over all days, rounded down. An operation
    that took from two lots is two ``entries``.
    """

    user_id: str
    timezone: str
    days: int
    first_day: date
    last_day: date
    total_used: int
    average_per_day: int
    entries: int
    by_day: tuple[UsageDay, ...]
    by_feature: Mapping[str, int]
    balance: int
    projection: Projection


def usage(
    connection: Connection, user_id: str, now: datetime, catalog: Catalog, days: int, timezone: str
) -> UsageReport:
    """Return the usage of the last ``days`` local calendar days in ``timezone``, today included.

    Raises NotFoundError, and QueryError for days outside 1 to 366 or a time zone that isn't known.
    """
    within("days", days, 1, USAGE_DAYS_MAX)
    zone = zone_of(timezone)
    calendar = Calendar(now.astimezone(zone).date(), days, zone)
    posted = posted_state(connection, user_id)
    by_day = _used_by_day(connection, posted.state, calendar)
    balance = posted.now(now, catalog).state.balance
    by_feature = sum((Tally(day.by_feature) for day in by_day), Tally[str]())
    total = by_feature.total()
    first = posted.known_since.astimezone(zone).date()
    return UsageReport(
        user_id=user_id,
        timezone=timezone,
        days=days,
        first_day=calendar.days[0],
        last_day=calendar.days[-1],
        total_used=total,
        average_per_day=total // days,
        entries=sum(day.entries for day in by_day),
        by_day=by_day,
        by_feature=_most_first(by_feature),
        balance=balance,
        projection=_projection(balance, total, sum(day >= first for day in calendar.days)),
    )


def _used_by_day(connection: Connection, state: AccountState, calendar: Calendar) -> tuple[UsageDay, ...]:
    used: list[Tally[str]] = [Tally() for _ in calendar.days]
    count = [0] * len(calendar.days)
    for row in _used_by_slice(connection, state, calendar):
        index = calendar.index(row.piece)
        used[index][row.feature or UNLABELLED] += int(row.used)
        count[index] += row.entries
    return tuple(
        UsageDay(day, tokens.total(), number, _most_first(tokens))
        for day, tokens, number in zip(calendar.days, used, count, strict=True)
    )


def _used_by_slice(connection: Connection, state: AccountState, calendar: Calendar) -> Sequence[Row[Any]]:
    """Return the usage by slice of a day and by feature, of the entries that may belong to the days.

    An index on their times would cost every message; the primary key finds entries by the time of posting.
    """
    start = datetime.fromtimestamp(calendar.start, UTC)
    key = key_of(state)
    before = last_posted(connection, key, state.sequence, lambda moment: moment < start - _AHEAD)
    piece = (_seconds(connection, entries.c.occurred_at) - calendar.start) // calendar.step
    statement = (
        select(
            piece.label("piece"),
            entries.c.feature,
            func.sum(-entries.c.amount).label("used"),
            func.count().label("entries"),
        )
        .where(key.owns(entries), entries.c.sequence > before)
        .where(entries.c.counter == Counter.USAGE.value, entries.c.occurred_at >= start)
        .where(entries.c.occurred_at < datetime.fromtimestamp(calendar.end, UTC))
        .group_by("piece", entries.c.feature)
    )
    return connection.execute(statement).all()


def _seconds(connection: Connection, column: ColumnElement[datetime]) -> ColumnElement[int]:
    """Whole seconds since 1970, cut and never rounded: 23:59:59.9999 belongs to its day."""
    if connection.dialect.name == "postgresql":
        return cast(func.floor(extract("epoch", column)), BigInteger)
    return cast(func.strftime("%s", func.substr(column, 1, 19)), BigInteger)


def _most_first(tokens: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(tokens.items(), key=lambda item: (-item[1], item[0])))


def _projection(balance: int, total: int, days_open: int) -> Projection:
    observed = max(days_open, 1)
    return Projection(None if total == 0 else max(balance, 0) * observed // total, observed)
