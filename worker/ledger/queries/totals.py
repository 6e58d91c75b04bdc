"""The whole ledger in a few numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import add
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, func, select

from worker.ledger.queries.snapshots import IN_FORCE
from worker.ledger.queries.views import View
from worker.ledger.slots import in_slots, parts_of
from worker.ledger.tables import accounts, operations, payment_events, payments


@dataclass(frozen=True)
class OperationCount(View):
    """Number of references that have this outcome."""

    type: str
    status: str
    code: str
    count: int


@dataclass(frozen=True)
class Revenue(View):
    """Payments taken in one currency, in its minor units; what went back is not taken off."""

    currency: str
    payments: int
    amount_minor: int


@dataclass(frozen=True)
class Stats(View):
    """Whole ledger in tokens, as it is posted. ``average_balance`` is rounded down, 0 without users.

    ``total_uncollected`` was spent before its payment went back, and written off.
    """

    users: int
    total_balance: int
    total_held: int
    total_debt: int
    total_allocated: int
    total_purchased: int
    total_bonus: int
    total_refunded: int
    total_adjusted: int
    total_used: int
    total_expired: int
    total_reversed: int
    total_uncollected: int
    average_balance: int
    payments: int
    accounts_by_tier: Mapping[str, int]
    operations: tuple[OperationCount, ...]
    revenue: tuple[Revenue, ...]


def stats(connection: Connection) -> Stats:
    """Return totals over all accounts, operations and payments; read each of these tables once.

    On SQLite a total past 2^63−1 is a LedgerUnavailableError: it has no larger integers.
    """
    ((users, *sums),) = _sums(connection, accounts, _SUMMED).values()
    total = dict(zip(_SUMMED, sums, strict=True))
    ((_, uncollected),) = _sums(connection, payment_events, ("uncollected",)).values()
    tiers = _sums(connection, accounts, by=("tier",))
    outcomes = _sums(connection, operations, only=IN_FORCE, by=("type", "status", "code"))
    revenue = _sums(connection, payments, ("amount_minor",), by=("currency",))
    return Stats(
        users=users,
        **{f"total_{name}": tokens for name, tokens in total.items()},
        total_uncollected=uncollected,
        average_balance=total["balance"] // max(users, 1),
        payments=sum(number for number, _ in revenue.values()),
        accounts_by_tier={tier: number for (tier,), (number,) in sorted(tiers.items())},
        operations=tuple(OperationCount(*names, *number) for names, number in sorted(outcomes.items())),
        revenue=tuple(Revenue(*currency, *paid) for currency, paid in sorted(revenue.items())),
    )


@dataclass(frozen=True, slots=True)
class AccountTotals:
    """Sums over all accounts, in tokens. ``outstanding`` is what their lots have left."""

    users: int
    held: int
    debt: int
    outstanding: int


def account_totals(connection: Connection) -> AccountTotals:
    """Return the sums over all accounts, as they are posted; read the table of accounts once."""
    ((users, balance, held, debt),) = _sums(connection, accounts, ("balance", "held", "debt")).values()
    return AccountTotals(users, held, debt, outstanding=balance + debt)


_SUMMED = (
    "balance",
    "held",
    "debt",
    "allocated",
    "purchased",
    "bonus",
    "refunded",
    "adjusted",
    "used",
    "expired",
    "reversed",
)


def _sums(
    connection: Connection,
    table: Table,
    summed: Sequence[str] = (),
    *,
    by: Sequence[str] = (),
    only: ColumnElement[bool] | None = None,
) -> dict[tuple[Any, ...], list[int]]:
    """Return the number of rows and the sums of columns for each group of rows, over all slots."""
    groups = [table.c[name] for name in by]
    sums = [func.coalesce(func.sum(table.c[name]), 0) for name in summed]
    statement = select(*groups, func.count(), *sums).group_by(*groups)
    if only is not None:
        statement = statement.where(only)
    found: dict[tuple[Any, ...], list[int]] = {}
    for slots in parts_of(connection):
        for row in connection.execute(statement.where(in_slots(table.c.slot, slots))):
            group, part = row[: len(by)], map(int, row[len(by) :])
            found[group] = list(map(add, found[group], part)) if group in found else list(part)
    return found
