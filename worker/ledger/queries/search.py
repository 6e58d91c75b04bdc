"""Accounts by the beginning of their users' names, page by page in the order of the names."""

from dataclasses import dataclass, fields
from datetime import datetime
from heapq import merge
from itertools import islice
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, collate, select
from sqlalchemy.sql import ColumnElement

from worker.ledger.queries.snapshots import within
from worker.ledger.queries.views import View
from worker.ledger.slots import in_slots, parts_of
from worker.ledger.tables import accounts

SEARCH_LIMIT_MAX = 200

_LAST_CHARACTER = 0x10FFFF


@dataclass(frozen=True)
class AccountLine(View):
    """Account as it is posted, in tokens; what is due since is not in it.

    ``used`` is what usage has ever taken.
    """

    user_id: str
    tier: str
    balance: int
    held: int
    debt: int
    used: int
    updated_at: datetime


#: The columns of an ``AccountLine``, in their order.
LINE = tuple(field.name for field in fields(AccountLine))


@dataclass(frozen=True)
class AccountPage(View):
    """Accounts whose user begins with ``prefix``, in the order of code points.

    The next page continues behind ``next_after``; None at the end.
    """

    prefix: str
    accounts: tuple[AccountLine, ...]
    next_after: str | None


def accounts_by_prefix(
    connection: Connection, prefix: str = "", after: str | None = None, limit: int = 50
) -> AccountPage:
    """Return the accounts whose user begins with ``prefix``, behind the user ``after``; all begin with "".

    One range of an index, whatever the database's collation. Raises QueryError for a limit outside 1 to 200.
    """
    within("limit", limit, 1, SEARCH_LIMIT_MAX)
    user = _by_code_points(connection)
    statement = (
        select(*(accounts.c[name] for name in LINE))
        .where(*beginning_with(connection, prefix))
        .order_by(user)
        .limit(limit + 1)
    )
    if after is not None:
        statement = statement.where(user > after)
    parts = (
        connection.execute(statement.where(in_slots(accounts.c.slot, slots))).all()
        for slots in parts_of(connection)
    )
    found = tuple(AccountLine(*row) for row in islice(merge(*parts, key=itemgetter(0)), limit + 1))
    page = found[:limit]
    return AccountPage(prefix, page, page[-1].user_id if len(found) > limit else None)


def beginning_with(connection: Connection, prefix: str) -> list[ColumnElement[bool]]:
    """Return the conditions that an account's user begins with ``prefix``: one range of an index."""
    user, end = _by_code_points(connection), first_behind(prefix)
    return [user >= prefix] if end is None else [user >= prefix, user < end]


def _by_code_points(connection: Connection) -> ColumnElement[Any]:
    """Return the user, compared by code points: SQLite compares UTF-8 bytes, PostgreSQL needs a collation."""
    user = accounts.c.user_id
    return collate(user, "C") if connection.dialect.name == "postgresql" else user


def first_behind(prefix: str) -> str | None:
    """Return the least text greater than all that begin with ``prefix``; None where there is none."""
    kept = prefix.rstrip(chr(_LAST_CHARACTER))
    if not kept:
        return None
    following = ord(kept[-1]) + 1
    return kept[:-1] + chr(0xE000 if 0xD800 <= following <= 0xDFFF else following)  # UTF-8 has no surrogates
