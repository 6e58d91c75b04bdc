"""Steps of an audit: ranges of accounts and of operations, which leave out no possible id."""

from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import Connection, Subquery, case, func, or_, select

from worker.ledger.tables import accounts, operations

#: Size of a step: a number of accounts, or those that have a number of entries; or a number of operations.
ACCOUNTS_A_STEP = 5_000
ENTRIES_A_STEP = 250_000
OPERATIONS_A_STEP = 100_000
#: A large ledger has larger steps, about this many of each kind: the entries of an account are spread over
#: the whole table, so that each step reads all of it.
STEPS = 5

# All ids that a column can hold: the first step and the last also find rows that belong to nobody.
_LOWEST, _HIGHEST = -(2**63), 2**63 - 1


class AuditStep(NamedTuple):
    """Ids behind ``after`` and up to ``up_to``, of which there are ``size``."""

    after: int
    up_to: int
    size: int


WHOLE = AuditStep(_LOWEST, _HIGHEST, 1)


def account_steps(connection: Connection, accounts_in_all: int, entries_in_all: int) -> Iterator[AuditStep]:
    """Yield ranges of accounts, smaller ones where they have many entries."""
    most = max(ACCOUNTS_A_STEP, accounts_in_all // STEPS)
    most_entries = max(ENTRIES_A_STEP, entries_in_all * 2 // STEPS)
    after = _LOWEST
    while True:
        ahead = _accounts_ahead(after, most, most_entries)
        fits = or_(ahead.c.place == 1, ahead.c.written <= most_entries)
        size, last, count = connection.execute(
            select(func.count().filter(fits), func.max(ahead.c.account_id).filter(fits), func.count())
        ).one()
        if size == count < most:
            yield AuditStep(after, _HIGHEST, size)
            return
        yield AuditStep(after, last, size)
        after = last


def _accounts_ahead(after: int, most: int, most_entries: int) -> Subquery:
    """Select the next accounts, each with its place and the number of entries up to it."""
    account = accounts.c
    # A number above a step's need not be added up exactly, least of all if it is corrupted.
    written = case((account.sequence > most_entries, most_entries), else_=account.sequence)
    return (
        select(
            account.account_id,
            func.row_number().over(order_by=account.account_id).label("place"),
            func.sum(written).over(order_by=account.account_id, rows=(None, 0)).label("written"),
        )
        .where(account.account_id > after)
        .order_by(account.account_id)
        .limit(most)
        .subquery()
    )


def operation_steps(connection: Connection, operations_in_all: int) -> Iterator[AuditStep]:
    """Yield ranges of operations."""
    most = max(OPERATIONS_A_STEP, operations_in_all // STEPS)
    after = _LOWEST
    while True:
        ahead = (
            select(operations.c.operation_id)
            .where(operations.c.operation_id > after)
            .order_by(operations.c.operation_id)
            .limit(most)
            .subquery()
        )
        size, last = connection.execute(select(func.count(), func.max(ahead.c.operation_id))).one()
        if size < most:
            yield AuditStep(after, _HIGHEST, size)
            return
        yield AuditStep(after, last, size)
        after = last
