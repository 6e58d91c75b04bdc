"""Accounts in the order of an amount, and those in debt, page by page.

Those in debt have an index. No amount has one, because every message would pay for it: all accounts are read,
within the time that ``bounded_reading`` gives a statement.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from heapq import merge
from itertools import islice
from typing import Any, Literal

from sqlalchemy import Column, Connection, Row, Select, or_, select, text
from sqlalchemy.sql import ColumnElement

from worker.ledger.queries.bounded import bounded_reading
from worker.ledger.queries.cursors import cursor_of, place_in
from worker.ledger.queries.search import LINE, AccountLine, beginning_with
from worker.ledger.queries.snapshots import within
from worker.ledger.queries.views import View
from worker.ledger.slots import in_slots, parts_of
from worker.ledger.tables import IN_DEBT, accounts

LIMIT_MAX = 200

AccountSort = Literal["most_balance", "least_balance", "most_used", "most_debt"]


@dataclass(frozen=True, slots=True)
class AccountFilter:
    """Accounts that are wanted: whose user begins with ``prefix``, in debt, or below zero."""

    prefix: str = ""
    in_debt: bool = False
    negative: bool = False


@dataclass(frozen=True)
class ListedAccounts(View):
    """Accounts in the order that was asked for; ``next_cursor`` continues behind them, None at the end."""

    accounts: tuple[AccountLine, ...]
    next_cursor: str | None


_COLUMNS: Mapping[AccountSort, Column[int]] = {
    "most_balance": accounts.c.balance,
    "least_balance": accounts.c.balance,
    "most_used": accounts.c.used,
    "most_debt": accounts.c.debt,
}
#: Orders of an account list, by name.
SORTS = tuple(_COLUMNS)
_IN_DEBT = text(f"({IN_DEBT})")


def listed_accounts(
    connection: Connection,
    wanted: AccountFilter,
    sort: AccountSort = "most_debt",
    limit: int = 50,
    cursor: str | None = None,
) -> ListedAccounts:
    """Return a page of the accounts that are wanted, in the order of ``sort``.

    Raises QueryError for a limit outside 1 to 200, for a cursor of no page, and where it takes too long.
    """
    within("limit", limit, 1, LIMIT_MAX)
    statement = _statement(connection, wanted, sort, None if cursor is None else _place_in(cursor))
    with bounded_reading(connection, may_read_all=True):
        parts = (
            connection.execute(statement.where(in_slots(accounts.c.slot, slots)).limit(limit + 1)).all()
            for slots in parts_of(connection)
        )
        found = list(islice(merge(*parts, key=lambda row: _order(row, sort)), limit + 1))
    page = tuple(AccountLine(*row[:-1]) for row in found[:limit])
    last = None if len(found) <= limit else found[limit - 1]
    return ListedAccounts(page, None if last is None else _cursor_of(_amount(last, sort), last.account_id))


def _statement(
    connection: Connection, wanted: AccountFilter, sort: AccountSort, place: tuple[int, int] | None
) -> Select[Any]:
    account, column = accounts.c, _COLUMNS[sort]
    shown = (account[name] for name in LINE)
    statement = select(*shown, account.account_id)
    if wanted.in_debt or wanted.negative or sort == "most_debt":
        statement = statement.where(_IN_DEBT)  # a balance below zero is a debt
    if wanted.negative:
        statement = statement.where(account.balance < 0)
    if wanted.prefix:
        statement = statement.where(*beginning_with(connection, wanted.prefix))
    if place is not None:
        statement = statement.where(_behind(column, sort, *place))
    by_amount = column.asc() if sort == "least_balance" else column.desc()
    return statement.order_by(by_amount, account.account_id)


def _behind(column: Column[int], sort: AccountSort, amount: int, account_id: int) -> ColumnElement[bool]:
    is_next = column > amount if sort == "least_balance" else column < amount
    return or_(is_next, (column == amount) & (accounts.c.account_id > account_id))


def _amount(row: Row[Any], sort: AccountSort) -> int:
    amount: int = getattr(row, _COLUMNS[sort].name)
    return amount


def _order(row: Row[Any], sort: AccountSort) -> tuple[int, int]:
    amount = _amount(row, sort)
    return (amount if sort == "least_balance" else -amount), row.account_id


# -- cursors ----------------------------------------------------------------------------------------------


def _cursor_of(amount: int, account_id: int) -> str:
    return cursor_of(0, int(amount < 0), abs(amount), account_id)


def _place_in(cursor: str) -> tuple[int, int]:
    is_negative, amount, account_id = place_in(cursor, 0, 3)
    return (-amount if is_negative else amount), account_id
