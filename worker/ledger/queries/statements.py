"""Statement of an account: the opening balance, each entry posted in a time, and the closing balance."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, select

from worker.errors import QueryError
from worker.ledger.queries.history import PostedEntry, transactions_between
from worker.ledger.queries.snapshots import AccountKey, account_row, last_posted
from worker.ledger.queries.views import View
from worker.ledger.tables import entries


@dataclass(frozen=True)
class StatementSummary(View):
    """Sums of the entries of an account that were posted from ``start`` until before ``end``.

    ``opening_balance`` and ``totals``, by counter, add up to ``closing_balance``; that is the opening balance
    of a statement that begins with ``end``. What is due and not posted yet is in none of them.
    """

    user_id: str
    start: datetime
    end: datetime
    opening_balance: int
    closing_balance: int
    entries: int
    totals: Mapping[str, int]


@dataclass(frozen=True)
class Statement:
    """Sums and entries of a time, in order. The entries are read while the caller iterates, and once."""

    summary: StatementSummary
    transactions: Iterator[PostedEntry]


def statement(connection: Connection, user_id: str, start: datetime, end: datetime) -> Statement:
    """Return the statement of ``user_id``: the entries posted from ``start`` until before ``end`` (UTC).

    Raises NotFoundError, and QueryError unless ``start`` is before ``end``.
    """
    if start >= end:
        raise QueryError(
            f"a statement ends after it begins, not from {start.isoformat()} to {end.isoformat()}"
        )
    account = account_row(connection, user_id)
    key = AccountKey(account.slot, account.account_id)
    before = last_posted(connection, key, account.sequence, lambda moment: moment < start)
    last = last_posted(connection, key, account.sequence, lambda moment: moment < end)
    summary = StatementSummary(
        user_id=user_id,
        start=start,
        end=end,
        opening_balance=_balance_after(connection, key, before),
        closing_balance=_balance_after(connection, key, last),
        entries=last - before,
        totals=_totals(connection, key, before, last),
    )
    return Statement(summary, transactions_between(connection, key, before, last))


def _balance_after(connection: Connection, key: AccountKey, sequence: int) -> int:
    if sequence == 0:
        return 0
    statement = select(entries.c.balance_after).where(key.owns(entries), entries.c.sequence == sequence)
    balance: int = connection.execute(statement).scalar_one()
    return balance


def _totals(connection: Connection, key: AccountKey, after: int, last: int) -> dict[str, int]:
    sums = (
        select(entries.c.counter, func.sum(entries.c.amount).label("amount"))
        .where(key.owns(entries), entries.c.sequence > after, entries.c.sequence <= last)
        .group_by(entries.c.counter)
    )
    return dict(sorted((row.counter, int(row.amount)) for row in connection.execute(sums)))
