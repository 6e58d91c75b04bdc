"""The whole ledger in a few numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select

from worker.ledger.queries.views import View
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
    totals = connection.execute(_totals()).one()
    uncollected = connection.execute(_uncollected()).scalar_one()
    tiers = connection.execute(_accounts_by_tier()).all()
    outcomes = connection.execute(_operations_by_outcome()).all()
    revenue = connection.execute(_revenue_by_currency()).all()
    return Stats(
        users=totals.users,
        total_balance=int(totals.balance),
        total_held=int(totals.held),
        total_debt=int(totals.debt),
        total_allocated=int(totals.allocated),
        total_purchased=int(totals.purchased),
        total_bonus=int(totals.bonus),
        total_refunded=int(totals.refunded),
        total_adjusted=int(totals.adjusted),
        total_used=int(totals.used),
        total_expired=int(totals.expired),
        total_reversed=int(totals.reversed),
        total_uncollected=int(uncollected),
        average_balance=int(totals.balance) // max(totals.users, 1),
        payments=sum(row.payments for row in revenue),
        accounts_by_tier={row.tier: row.accounts for row in sorted(tiers)},
        operations=tuple(OperationCount(*row) for row in sorted(outcomes)),
        revenue=tuple(Revenue(row.currency, row.payments, int(row.amount_minor)) for row in sorted(revenue)),
    )


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


def _totals() -> Any:
    return select(
        func.count().label("users"),
        *(func.coalesce(func.sum(accounts.c[name]), 0).label(name) for name in _SUMMED),
    )


def _uncollected() -> Any:
    return select(func.coalesce(func.sum(payment_events.c.uncollected), 0))


def _accounts_by_tier() -> Any:
    return select(accounts.c.tier, func.count().label("accounts")).group_by(accounts.c.tier)


def _operations_by_outcome() -> Any:
    columns = (operations.c.type, operations.c.status, operations.c.code)
    return select(*columns, func.count()).group_by(*columns)


def _revenue_by_currency() -> Any:
    return select(
        payments.c.currency,
        func.count().label("payments"),
        func.sum(payments.c.amount_minor).label("amount_minor"),
    ).group_by(payments.c.currency)
