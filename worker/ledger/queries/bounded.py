"""Bound of long reads: a statement has a limited time, and its error says what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from worker.errors import QueryError
from worker.ledger.driver_errors import was_canceled

#: Longest time of one statement.
TIMEOUT_S = 15


@contextmanager
def bounded_reading(connection: Connection, *, may_read_all: bool = False) -> Iterator[None]:
    """Bound the time of each statement of this transaction, and let none read a table whole unasked.

    Raises QueryError where a statement takes too long.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{TIMEOUT_S}s'")
        # Statistics lag behind a table that grows: no plan may read all of it, or compile for it.
        connection.exec_driver_sql("SET LOCAL jit = off")
        if not may_read_all:
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
    try:
        yield
    except DBAPIError as error:
        if not was_canceled(error):
            raise
        raise QueryError(
            f"the database has not found it within {TIMEOUT_S} s: narrow the time, or name a user", "since"
        ) from error
