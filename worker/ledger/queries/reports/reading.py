"""Reading of reports: statements over all users, in parts of the range, by any zone and dialect."""

from collections.abc import Callable, Iterator
from datetime import datetime
from math import inf
from time import monotonic
from typing import Any

from sqlalchemy import Connection, FromClause, Row, Select, and_, select, text
from sqlalchemy.sql import ColumnElement

from schemas import ImportAccount, type_of
from worker.core.rules.imports import PAYMENT_IMPORT
from worker.ledger.queries.buckets import number_of_bucket
from worker.ledger.queries.reports.request import Periods
from worker.ledger.slots import Slots, in_slots, parts_of
from worker.ledger.tables import accounts, entries, operations

#: Types of the operations that brought accounts from another system: their past is not of the range.
IMPORTS = (type_of(ImportAccount), PAYMENT_IMPORT)

_PAGE = 2_000


class ReportTimeoutError(Exception):
    """A report took longer than its reader may wait."""


def streamed(connection: Connection, select_in: Callable[[Slots], Select[Any]]) -> Iterator[Row[Any]]:
    """Yield the rows of a statement over all slots, as few at a time as a page has.

    Raises ReportTimeoutError after the connection's ``report_deadline``, by the monotonic clock.
    """
    deadline: float = connection.get_execution_options().get("report_deadline", inf)
    for slots in parts_of(connection):
        found = connection.execute(select_in(slots), execution_options={"yield_per": _PAGE})
        for page in found.partitions():
            if monotonic() > deadline:
                raise ReportTimeoutError
            yield from page


def read_tables_whole(connection: Connection) -> None:
    """Join by hashes in this transaction: by loops, each purchase would read all entries of its account.

    PostgreSQL can't know how many lots of how many payments there are, and takes them for a few.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL enable_nestloop = off"))


def period_of(
    connection: Connection, moment: ColumnElement[datetime], periods: Periods
) -> ColumnElement[int]:
    """Return the number of the part of the range that a time lies in, see ``Periods``."""
    return number_of_bucket(connection, moment, periods.bounds)


def imports_in(slots: Slots) -> FromClause:
    """Return the operations that brought accounts or payments from another system: few, or none."""
    return (
        select(operations.c.operation_id, operations.c.slot)
        .where(operations.c.type.in_(IMPORTS), in_slots(operations.c.slot, slots))
        .subquery("imports")
    )


def by_import(imports: FromClause) -> ColumnElement[bool]:
    """Return the condition that joins entries to the imports that posted them."""
    return and_(imports.c.slot == entries.c.slot, imports.c.operation_id == entries.c.operation_id)


def was_brought(imports: FromClause) -> ColumnElement[bool]:
    """Return True for an entry of an import itself, and not of what was due with it."""
    return and_(imports.c.operation_id.is_not(None), ~entries.c.is_due)


def of_account() -> ColumnElement[bool]:
    """Return the condition that joins entries to their accounts."""
    return and_(accounts.c.slot == entries.c.slot, accounts.c.account_id == entries.c.account_id)
