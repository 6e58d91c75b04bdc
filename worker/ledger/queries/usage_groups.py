"""Used tokens by local day and group: what every view of usage is made of."""

from collections import Counter as Tally
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Connection, Label, Select, cast, extract, func, select
from sqlalchemy.sql import ColumnElement

from schemas import Limits
from worker.core.plan import Counter
from worker.ledger.queries.days import Calendar
from worker.ledger.queries.features import used_feature
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
    connection: Connection, key: AccountKey, sequence: int, calendar: Calendar, *groups: str
) -> list[Used]:
    """Return used tokens of the days by each of ``groups`` (``feature``, ``type``), up to ``sequence``.

    All that was taken for usage counts: at once, of a hold, or by a meter. It counts at the time of the
    event, not of its posting. The entries are read once.
    """
    tokens: list[list[Tally[str]]] = [[Tally() for _ in calendar.days] for _ in groups]
    count = [0] * len(calendar.days)
    piece = (_seconds(connection, entries.c.occurred_at) - calendar.start) // calendar.step
    statement = _used(connection, key, sequence, calendar, groups, piece.label("piece"))
    for *names, position, used, number in connection.execute(statement):
        index = calendar.index(position)
        count[index] += number
        for name, tallies in zip(names, tokens, strict=True):
            tallies[index][name or UNLABELLED] += int(used)
    return [_by_group(calendar, tallies, count) for tallies in tokens]


def _by_group(calendar: Calendar, tokens: Sequence[Tally[str]], count: Sequence[int]) -> Used:
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
    ranked = _used(connection, key, sequence, calendar, (group,)).subquery()
    name, used = ranked.c.group_0, ranked.c.used
    first = select(name, used).order_by(used.desc(), name).limit(most)
    found = [(label or None, int(tokens)) for label, tokens in connection.execute(first)]
    if len(found) < most:
        return found, 0
    total = connection.execute(select(func.coalesce(func.sum(used), 0))).scalar_one()
    return found, int(total) - sum(tokens for _, tokens in found)


def _used(
    connection: Connection,
    key: AccountKey,
    sequence: int,
    calendar: Calendar,
    groups: Sequence[str],
    *others: Label[int],
) -> Select[Any]:
    """Select used tokens of the days by ``groups``, which come first, and by the ``others``.

    An index on their times would cost every message; the primary key finds entries by the time of posting.
    """
    start = datetime.fromtimestamp(calendar.start, UTC)
    before = last_posted(connection, key, sequence, lambda moment: moment < start - _AHEAD)
    names = [_group_column(group).label(f"group_{place}") for place, group in enumerate(groups)]
    return (
        select(*names, *others, func.sum(-entries.c.amount).label("used"), func.count().label("entries"))
        .where(key.owns(entries), entries.c.sequence > before)
        .where(entries.c.counter == Counter.USAGE.value, entries.c.occurred_at >= start)
        .where(entries.c.occurred_at < datetime.fromtimestamp(calendar.end, UTC))
        .join_from(entries, operations, on_operation(entries.c.operation_id))
        .group_by(*(column.name for column in (*names, *others)))
    )


def _group_column(group: str) -> ColumnElement[Any]:
    match group.partition("."):
        case "feature", _, _:
            return used_feature()
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
