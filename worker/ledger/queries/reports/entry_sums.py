"""Sums of entries by part of the range and group: what reports about tokens are made of."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, and_, func, literal, select
from sqlalchemy.sql import ColumnElement

from worker.core import Counter
from worker.ledger.queries.features import used_feature
from worker.ledger.queries.reports.reading import (
    by_import,
    imports_in,
    of_account,
    period_of,
    streamed,
    was_brought,
)
from worker.ledger.queries.reports.request import Grouping, ReportRequest
from worker.ledger.queries.reports.table import Group, Movements, Report, ReportColumn, folded
from worker.ledger.queries.snapshots import on_operation
from worker.ledger.queries.usage_groups import UNLABELLED
from worker.ledger.slots import Slots, in_slots
from worker.ledger.tables import accounts, entries, lots, operations

#: Source of the entries that make or repay a debt.
DEBT = "debt"


class EntrySum(NamedTuple):
    """Sum of the entries of a group in a part of the range, with one counter-account.

    ``is_brought`` where an import posted them.
    """

    period: int
    group: Group
    counter: Counter
    is_brought: bool
    amount: int
    entries: int


def entry_sums(
    connection: Connection,
    request: ReportRequest,
    *,
    counter: Counter | None = None,
    since_ever: bool = False,
) -> Iterator[EntrySum]:
    """Yield the sums of entries posted in the range, or until its end, by the groupings of ``request``."""
    width = len(request.groups)

    def select_in(slots: Slots) -> Select[Any]:
        imports = imports_in(slots)
        kinds = (
            period_of(connection, entries.c.recorded_at, request.periods).label("period"),
            *(_column(grouping).label(f"group_{place}") for place, grouping in enumerate(request.groups)),
            entries.c.counter,
            was_brought(imports).label("is_brought"),
        )
        statement = (
            select(*kinds, func.sum(entries.c.amount).label("amount"), func.count().label("entries"))
            .select_from(entries)
            .outerjoin(imports, by_import(imports))
            .where(in_slots(entries.c.slot, slots), entries.c.recorded_at < request.end)
        )
        if not since_ever:
            statement = statement.where(entries.c.recorded_at >= request.start)
        if counter is not None:
            statement = statement.where(entries.c.counter == counter.value)
        return _joined(statement, request.groups).group_by(*kinds)

    for row in streamed(connection, select_in):
        group = tuple(map(_shown, request.groups, row[1 : width + 1]))
        yield EntrySum(
            row.period, group, Counter(row.counter), bool(row.is_brought), int(row.amount), row.entries
        )


def report_on_taken(
    connection: Connection, request: ReportRequest, counter: Counter, columns: Sequence[ReportColumn]
) -> Report:
    """Return the report on what a counter-account took: tokens, entries, and the tokens of imports."""
    names = [column.name for column in columns]
    taken, number, imported = names
    movements = Movements(request, names)
    for found in entry_sums(connection, request, counter=counter):
        if found.is_brought:
            movements.add(found.group, found.period, **{imported: -found.amount})
        else:
            movements.add(found.group, found.period, **{taken: -found.amount, number: found.entries})
    return folded(request, movements, columns)


def _joined(statement: Select[Any], groups: Sequence[Grouping]) -> Select[Any]:
    if Grouping.SOURCE in groups:
        statement = statement.outerjoin(lots, _of_lot())
    if Grouping.TIER in groups:
        statement = statement.join(accounts, of_account())
    if Grouping.FEATURE in groups or Grouping.TYPE in groups:
        statement = statement.join(operations, on_operation(entries.c.operation_id))
    return statement


def _of_lot() -> ColumnElement[bool]:
    return and_(
        lots.c.slot == entries.c.slot,
        lots.c.account_id == entries.c.account_id,
        lots.c.number == entries.c.lot,
    )


def _column(grouping: Grouping) -> ColumnElement[Any]:
    match grouping:
        case Grouping.SOURCE:
            return func.coalesce(lots.c.source, literal(DEBT))
        case Grouping.TIER:
            return accounts.c.tier
        case Grouping.FEATURE:
            return used_feature()
        case Grouping.TYPE:
            return operations.c.type
    raise AssertionError(f"entries are not grouped by {grouping}")


def _shown(grouping: Grouping, name: str) -> str:
    return UNLABELLED if grouping is Grouping.FEATURE and not name else name
