"""Report on liability: tokens outstanding by source, what brought and took them, debt, and holds.

``opening`` and the movements add up to ``closing``, for every source and in total: the closing of now is what
is left in the lots, that of the source ``debt`` is what is owed, and their sum is the balance of all users.
Tokens that take effect later are in no balance, and not in here.
"""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Select, and_, case, func, literal, select
from sqlalchemy.sql import ColumnElement

from worker.core import Counter
from worker.ledger.queries.reports.entry_sums import entry_sums
from worker.ledger.queries.reports.reading import period_of, streamed
from worker.ledger.queries.reports.request import Grouping, ReportRequest
from worker.ledger.queries.reports.table import (
    Group,
    Movements,
    Report,
    ReportColumn,
    Stock,
    Summed,
    Unit,
    folded,
)
from worker.ledger.slots import Slots, in_slots
from worker.ledger.tables import accounts, hold_parts, holds, lots, operations

_IMPORTED, _KEPT = "imported", "kept"

#: Columns of the counter-accounts; a column that takes is shown as what it took.
_OF_COUNTER = {
    Counter.ALLOCATION: "allocated",
    Counter.PURCHASES: "purchased",
    Counter.BONUS: "bonus",
    Counter.REFUNDS: "refunded",
    Counter.ADJUSTMENTS: "adjusted",
    Counter.TRANSFERS: "transferred",
    Counter.USAGE: "used",
    Counter.EXPIRY: "expired",
    Counter.REVERSALS: "reversed",
}
_TAKING = frozenset({"used", "expired", "reversed"})

_MEANINGS = {
    "allocated": "came with a period of a tier",
    "purchased": "bought",
    "bonus": "given, with a purchase or by itself",
    "refunded": "given back of usage",
    "adjusted": "corrected by hand: given, or taken where negative",
    "transferred": "moved from one source to another: rolled over, or to repay a debt",
    "used": "taken for usage",
    "expired": "expired unused",
    "reversed": "taken back with money that went back; given back where negative",
}

_RANKS = {"used": 1, "expired": 1, "allocated": 2, "purchased": 2, "bonus": 2}

COLUMNS = (
    ReportColumn("opening", Unit.TOKENS, "outstanding when the range begins", Summed.FIRST),
    ReportColumn(_IMPORTED, Unit.TOKENS, "came with accounts of another system", rank=3),
    *(
        ReportColumn(name, Unit.TOKENS, _MEANINGS[name], rank=_RANKS.get(name, 3))
        for name in _OF_COUNTER.values()
    ),
    ReportColumn("closing", Unit.TOKENS, "outstanding when it ends", Summed.LAST),
    ReportColumn("held", Unit.TOKENS, "of closing, kept by open holds", Summed.LAST, 2),
)
_SIGNS = {_IMPORTED: 1, **{name: -1 if name in _TAKING else 1 for name in _OF_COUNTER.values()}}
_STOCKS = (Stock("closing", _SIGNS, "opening"), Stock("held", {_KEPT: 1}))


def liability_report(connection: Connection, request: ReportRequest) -> Report:
    """Return the report on liability."""
    movements = Movements(request, [*_SIGNS, _KEPT])
    for found in entry_sums(connection, request, since_ever=True):
        name = _IMPORTED if found.is_brought else _OF_COUNTER[found.counter]
        movements.add(found.group, found.period, **{name: _SIGNS[name] * found.amount})
    for group, opened, closed, tokens in _held(connection, request):
        movements.add(group, opened, kept=tokens)
        if closed is not None:
            movements.add(group, closed, kept=-tokens)
    return folded(request, movements, COLUMNS, _STOCKS)


def _held(connection: Connection, request: ReportRequest) -> Iterator[tuple[Group, int, int | None, int]]:
    """Yield tokens of holds by group, and the parts of the range in which they were opened and closed."""

    def select_in(slots: Slots) -> Select[Any]:
        closing = operations.alias("closing")
        opened = period_of(connection, holds.c.opened_at, request.periods).label("opened")
        closed = case(
            (
                holds.c.closed_by.is_not(None),
                period_of(connection, closing.c.recorded_at, request.periods),
            ),
            else_=literal(None),
        ).label("closed")
        groups = [
            (lots.c.source if grouping is Grouping.SOURCE else accounts.c.tier).label(f"group_{place}")
            for place, grouping in enumerate(request.groups)
        ]
        statement = (
            select(*groups, opened, closed, func.sum(hold_parts.c.amount).label("tokens"))
            .select_from(hold_parts)
            .join(holds, _same(hold_parts, holds, "operation_id"))
            .join(lots, and_(_same(hold_parts, lots, "account_id"), hold_parts.c.lot == lots.c.number))
            .outerjoin(
                closing,
                and_(closing.c.slot == holds.c.slot, closing.c.operation_id == holds.c.closed_by),
            )
            .where(in_slots(hold_parts.c.slot, slots), holds.c.opened_at < request.end)
        )
        if Grouping.TIER in request.groups:
            statement = statement.join(accounts, _same(hold_parts, accounts, "account_id"))
        return statement.group_by(*groups, opened, closed)

    for row in streamed(connection, select_in):
        yield tuple(row[: len(request.groups)]), row.opened, row.closed, int(row.tokens)


def _same(one: Any, other: Any, column: str) -> ColumnElement[bool]:
    return and_(one.c.slot == other.c.slot, one.c[column] == other.c[column])
