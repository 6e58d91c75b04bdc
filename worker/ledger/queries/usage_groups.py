"""Used tokens by local day and group: what every view of usage is made of."""

from collections import Counter as Tally
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Connection, Label, Select, cast, extract, func, select
from sqlalchemy.sql import ColumnElement

from schemas import Limits
from worker.core.plan import Counter
from worker.ledger.queries.days import Calendar
from worker.ledger.queries.snapshots import AccountKey, last_posted, on_operation
from worker.ledger.tables import entries, operations

#: Name of the group of usage that names no feature.
UNLABELLED = "unlabelled"

# An entry posted more than so long before a time occurred before that time: no command is taken whose time is
# further ahead of its worker's clock, and no two workers' clocks are a day apart.
_AHEAD = Limits().occurred_at_max_ahead + timedelta(days=1)


@dataclass(frozen=True, slots=True)
class UsedOnDay:
    """Used tokens of one local day by group, most first, and the number of entries that took them."""

    day: date
    by_group: Mapping[str, int]
    entries: int

    @property
    def total(self) -> int:
        """Used tokens of the day."""
        return sum(self.by_group.values())


@dataclass(frozen=True, slots=True)
class Used:
    """Used tokens of consecutive local days. The days add up to ``total``, and so do the groups."""

    days: tuple[UsedOnDay, ...]
    by_group: Mapping[str, int]

    @property
    def total(self) -> int:
        """Used tokens of all days."""
        return sum(self.by_group.values())

    @property
    def average_per_day(self) -> int:
        """Used tokens a day, over all days, rounded down."""
        return self.total // len(self.days)


def used_by_day(
    connection: Connection, key: AccountKey, sequence: int, calendar: Calendar, group: str
) -> Used:
    """Return used tokens of the days by ``group`` (``feature`` or ``type``), of entries up to ``sequence``.

    All that was taken for usage counts: at once, of a hold, or by a meter. It counts at the time of the
    event, not of its posting.
    """
    tokens: list[Tally[str]] = [Tally() for _ in calendar.days]
    count = [0] * len(calendar.days)
    piece = (_seconds(connection, entries.c.occurred_at) - calendar.start) // calendar.step
    statement = _used(connection, key, sequence, calendar, group, piece.label("piece"))
    for row in connection.execute(statement):
        index = calendar.index(row.piece)
        tokens[index][row.name or UNLABELLED] += int(row.used)
        count[index] += row.entries
    return Used(
        days=tuple(
            UsedOnDay(day, _most_first(tally), number)
            for day, tally, number in zip(calendar.days, tokens, count, strict=True)
        ),
        by_group=_most_first(sum(tokens, Tally[str]())),
    )


def used_by_group(
    connection: Connection, key: AccountKey, sequence: int, calendar: Calendar, group: str, most: int
) -> tuple[list[tuple[str | None, int]], int]:
    """Return used tokens by ``group``, most first, and those of the groups behind the first ``most``.

    ``group`` is ``feature``, ``type`` or ``metadata.<key>``; None is what has none.
    """
    ranked = _used(connection, key, sequence, calendar, group).subquery()
    first = select(ranked.c.name, ranked.c.used).order_by(ranked.c.used.desc(), ranked.c.name).limit(most)
    found = [(row.name or None, int(row.used)) for row in connection.execute(first)]
    if len(found) < most:
        return found, 0
    total = connection.execute(select(func.coalesce(func.sum(ranked.c.used), 0))).scalar_one()
    return found, int(total) - sum(tokens for _, tokens in found)


def _used(
    connection: Connection,
    key: AccountKey,
    sequence: int,
    calendar: Calendar,
    group: str,
    *others: Label[int],
) -> Select[Any]:
    """Select used tokens of the days by ``group``, as ``name``, and by the ``others``.

    An index on their times would cost every message; the primary key finds entries by the time of posting.
    """
    start = datetime.fromtimestamp(calendar.start, UTC)
    before = last_posted(connection, key, sequence, lambda moment: moment < start - _AHEAD)
    name = _group_column(group).label("name")
    statement = (
        select(name, *others, func.sum(-entries.c.amount).label("used"), func.count().label("entries"))
        .where(key.owns(entries), entries.c.sequence > before)
        .where(entries.c.counter == Counter.USAGE.value, entries.c.occurred_at >= start)
        .where(entries.c.occurred_at < datetime.fromtimestamp(calendar.end, UTC))
        .group_by(name, *(other.name for other in others))
    )
    if group == "feature":
        return statement
    return statement.join(operations, on_operation(entries.c.operation_id))


def _group_column(group: str) -> ColumnElement[Any]:
    match group.partition("."):
        case "feature", _, _:
            return entries.c.feature
        case "type", _, _:
            return operations.c.type
        case "metadata", _, name:
            value: ColumnElement[Any] = operations.c.metadata[name].as_string()
            return func.nullif(value, "")  # an empty value names no group: one group has no key
    raise AssertionError(f"{group!r} is no group of usage")


def _seconds(connection: Connection, column: ColumnElement[datetime]) -> ColumnElement[int]:
    """Whole seconds since 1970, cut and never rounded: 23:59:59.9999 belongs to its day."""
    if connection.dialect.name == "postgresql":
        return cast(func.floor(extract("epoch", column)), BigInteger)
    return cast(func.strftime("%s", func.substr(column, 1, 19)), BigInteger)


def _most_first(tokens: Tally[str]) -> dict[str, int]:
    return dict(sorted(tokens.items(), key=lambda item: (-item[1], item[0])))
