"""Usage by day, by feature and by type of command, and how long the balance lasts."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import Connection

from worker.catalog import Catalog
from worker.ledger.queries.days import Calendar, zone_of
from worker.ledger.queries.posted import posted_state
from worker.ledger.queries.snapshots import key_of, within
from worker.ledger.queries.usage_groups import UsedOnDay, used_by_day
from worker.ledger.queries.views import View

USAGE_DAYS_MAX = 366


@dataclass(frozen=True)
class UsageDay(View):
    """Tokens used on one local calendar day, in how many entries, by which feature and type (most first)."""

    day: date
    used: int
    entries: int
    by_feature: Mapping[str, int]
    by_type: Mapping[str, int]


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
    ``total_used``, and so do the features and the types. ``average_per_day`` is over all days, rounded
    down. An operation that took from two lots is two ``entries``.
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
    by_type: Mapping[str, int]
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
    key, sequence = key_of(posted.state), posted.state.sequence
    by_feature, by_type = used_by_day(connection, key, sequence, calendar, "feature", "type")
    balance = posted.now(now, catalog).state.balance
    first = posted.known_since.astimezone(zone).date()
    return UsageReport(
        user_id=user_id,
        timezone=timezone,
        days=days,
        first_day=calendar.days[0],
        last_day=calendar.days[-1],
        total_used=by_feature.total,
        average_per_day=by_feature.average_per_day,
        entries=sum(day.entries for day in by_feature.days),
        by_day=tuple(map(_usage_day, by_feature.days, by_type.days)),
        by_feature=by_feature.by_group,
        by_type=by_type.by_group,
        balance=balance,
        projection=_projection(balance, by_feature.total, sum(day >= first for day in calendar.days)),
    )


def _usage_day(by_feature: UsedOnDay, by_type: UsedOnDay) -> UsageDay:
    return UsageDay(
        by_feature.day, by_feature.total, by_feature.entries, by_feature.by_group, by_type.by_group
    )


def _projection(balance: int, total: int, days_open: int) -> Projection:
    observed = max(days_open, 1)
    return Projection(None if total == 0 else max(balance, 0) * observed // total, observed)
