"""Tokens that are about to expire: of a user, or of everybody, account by account."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from heapq import merge
from itertools import islice
from operator import itemgetter
from typing import NamedTuple, Self

from sqlalchemy import Connection, select, tuple_

from worker.catalog import Catalog
from worker.core import Account, AccountState, Counter, account_now
from worker.ledger import rows
from worker.ledger.loading import open_holds, open_lots
from worker.ledger.queries.cursors import refused_cursor
from worker.ledger.queries.posted import posted_state
from worker.ledger.queries.snapshots import values_of, within
from worker.ledger.queries.views import View
from worker.ledger.slots import Slots, in_slots, parts_of
from worker.ledger.tables import accounts

EXPIRING_DAYS_MAX = 3_660
EXPIRING_LIMIT_MAX = 1_000
_PAGE = 500


@dataclass(frozen=True)
class Expiring(View):
    """Tokens of a lot that will be lost when it expires, if nobody uses them before."""

    user_id: str
    lot: int
    source: str
    tokens: int
    expires_at: datetime


@dataclass(frozen=True)
class ExpiringPage(View):
    """Page of a list: ``tokens`` are those of all pages, None in the list of everybody.

    ``next_cursor`` continues behind it; None at the end.
    """

    expiring: tuple[Expiring, ...]
    tokens: int | None
    next_cursor: str | None


class _Place(NamedTuple):
    """Place in the list of everybody: that of an account, and the number of a line in it, from 1."""

    due_at: datetime
    account_id: int
    line: int

    @classmethod
    def parse(cls, cursor: str) -> Self:
        """Return the place that ``cursor`` names. Raises QueryError."""
        match = _CURSOR.fullmatch(cursor)
        if match is None:
            raise refused_cursor()
        try:
            due_at = datetime.fromisoformat(match[1])
        except ValueError as error:
            raise refused_cursor() from error
        return cls(due_at, int(match[2]), int(match[3]))

    def __str__(self) -> str:
        return f"{self.due_at.isoformat()}/{self.account_id}/{self.line}"


_CURSOR = re.compile(r"(\S+\+00:00)/(\d{1,18})/(\d{1,9})", re.ASCII)

#: A line, and the place behind it.
_Line = tuple[_Place, Expiring]


def of_user(
    connection: Connection, user_id: str, now: datetime, days: int, catalog: Catalog
) -> list[Expiring]:
    """Return the tokens of ``user_id`` that expire until ``days`` after ``now`` (UTC), in the order of time.

    The worker would post the same then if nobody touched the account: what rolls over isn't lost, and what a
    hold keeps is lost when the hold runs out. Raises NotFoundError, and QueryError for days outside
    1 to 3660.
    """
    until = _horizon(now, days)
    return _lost(posted_state(connection, user_id).now(now, catalog), until, catalog)


def of_everybody(connection: Connection, now: datetime, days: int, catalog: Catalog) -> Iterator[Expiring]:
    """Yield the same for all users, account by account: the one that has something due next comes first.

    Reads only the accounts that have something due by then, a page of them at a time. Raises QueryError for
    days outside 1 to 3660.
    """
    return (lot for _, lot in _lines(connection, now, _horizon(now, days), catalog, None))


def page_of_user(
    connection: Connection,
    user_id: str,
    now: datetime,
    days: int,
    catalog: Catalog,
    limit: int,
    cursor: str | None,
) -> ExpiringPage:
    """Return up to ``limit`` lines of the list of ``user_id``, behind ``cursor``.

    Raises NotFoundError, and QueryError for days outside 1 to 3660, a limit outside 1 to 1000 and a cursor
    that is none of this user's.
    """
    within("limit", limit, 1, EXPIRING_LIMIT_MAX)
    until, posted = _horizon(now, days), posted_state(connection, user_id)
    start = None if cursor is None else _Place.parse(cursor)
    if start is not None and start.account_id != posted.state.account_id:
        raise refused_cursor()
    lost = _lost(posted.now(now, catalog), until, catalog)
    first = 0 if start is None else start.line
    place = (posted.state.due_at or until, posted.state.account_id)
    lines = [(_Place(*place, number), lot) for number, lot in enumerate(lost[first:], first + 1)]
    return _page(lines, limit, tokens=sum(lot.tokens for lot in lost))


def page_of_everybody(
    connection: Connection, now: datetime, days: int, catalog: Catalog, limit: int, cursor: str | None
) -> ExpiringPage:
    """Return up to ``limit`` lines of the list of everybody, behind ``cursor``.

    An account whose next due time changes between two pages changes its place in the list. Raises QueryError
    for days outside 1 to 3660, a limit outside 1 to 1000 and a cursor that is none.
    """
    within("limit", limit, 1, EXPIRING_LIMIT_MAX)
    start = None if cursor is None else _Place.parse(cursor)
    lines = _lines(connection, now, _horizon(now, days), catalog, start)
    return _page(list(islice(lines, limit + 1)), limit, tokens=None)


def _page(lines: list[_Line], limit: int, *, tokens: int | None) -> ExpiringPage:
    """Return the page of the first ``limit`` of ``lines``."""
    shown = lines[:limit]
    next_cursor = str(shown[-1][0]) if len(lines) > limit else None
    return ExpiringPage(tuple(lot for _, lot in shown), tokens, next_cursor)


def _lines(
    connection: Connection, now: datetime, until: datetime, catalog: Catalog, start: _Place | None
) -> Iterator[_Line]:
    parts = parts_of(connection)
    lines = (_lines_in(connection, slots, now, until, catalog, start) for slots in parts)
    return merge(*lines, key=itemgetter(0))


def _lines_in(
    connection: Connection,
    slots: Slots,
    now: datetime,
    until: datetime,
    catalog: Catalog,
    start: _Place | None,
) -> Iterator[_Line]:
    for states in _due_by(connection, slots, until, start):
        lots = open_lots(connection, states)
        holds = open_holds(connection, [state for state in states if state.held])
        for state in states:
            place = (state.due_at or until, state.account_id)
            own_lots, own_holds = lots.get(state.account_id, ()), holds.get(state.account_id, ())
            lost = _lost(account_now(state, own_lots, own_holds, now, catalog), until, catalog)
            first = start.line if start is not None and place == start[:2] else 0
            for number, lot in enumerate(lost[first:], first + 1):
                yield _Place(*place, number), lot


def _horizon(now: datetime, days: int) -> datetime:
    within("days", days, 1, EXPIRING_DAYS_MAX)
    return now + timedelta(days=days)


def _lost(present: Account, until: datetime, catalog: Catalog) -> list[Expiring]:
    """Return the tokens that ``present`` will lose until ``until``."""
    lots, holds = list(present.lots.values()), list(present.holds.values())
    then = account_now(present.state, lots, holds, until, catalog)
    return [
        Expiring(
            user_id=present.state.user_id,
            lot=entry.lot,
            source=then.lots[entry.lot].source.value,
            tokens=-entry.amount,
            expires_at=entry.due_at,
        )
        for entry in then.written.entries
        if entry.counter is Counter.EXPIRY and entry.lot is not None and entry.due_at is not None
    ]


def _due_by(
    connection: Connection, slots: Slots, until: datetime, start: _Place | None
) -> Iterator[list[AccountState]]:
    """Yield pages of the accounts that have something due by ``until``, the soonest first."""
    order = (accounts.c.due_at, accounts.c.account_id)
    first = (
        select(*(accounts.c[name] for name in rows.ACCOUNT))
        .where(in_slots(accounts.c.slot, slots), accounts.c.due_at <= until)
        .order_by(*order)
        .limit(_PAGE)
    )
    place = tuple_(*order)
    page = connection.execute(
        first if start is None else first.where(place >= values_of(order, start[:2]))
    ).all()
    while page:
        yield [rows.account(row) for row in page]
        behind = values_of(order, (page[-1].due_at, page[-1].account_id))
        page = connection.execute(first.where(place > behind)).all()
