"""Connections of batches: what a batch costs beside its messages, which a lone message pays alone.

BEGIN travels with the first statement of a transaction, COMMIT with the last: the driver sends each by
itself. The server decides as before: a statement that fails ends the transaction that was begun before it,
and a COMMIT behind it is not carried out. Rows of prepared statements go past SQLAlchemy, which looks at the
names and types of their columns anew with every result, for longer than a small read takes on the server.
"""

from collections import namedtuple
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import psycopg2
import psycopg2.extensions as driver
from sqlalchemy import Connection, CursorResult

#: Ends a text whose last statement is the transaction's last.
COMMIT = "; COMMIT"
#: Begins the text of a prepared statement's execution.
_EXECUTE = "EXECUTE "


class BatchCursor(driver.cursor):
    """Cursor that begins a transaction together with its first statement.

    It leaves the rows of prepared statements with its connection, and shows none itself.
    """

    connection: "BatchConnection"
    _has_left_rows = False

    def execute(self, query: Any, vars: Any = None) -> None:  # noqa: A002 - psycopg2's name
        is_prepared = isinstance(query, str) and query.startswith(_EXECUTE)
        if self.connection.must_begin:
            query = b"BEGIN; " + query if isinstance(query, bytes) else f"BEGIN; {query}"
        super().execute(query, vars)
        self._has_left_rows = is_prepared
        if is_prepared:
            self.connection.rows = self._all_rows()

    def executemany(self, query: Any, vars_list: Any) -> None:
        if self.connection.must_begin:
            super().execute("BEGIN")
        super().executemany(query, vars_list)

    @property
    def description(self) -> Any:
        """Columns of the result; none where its rows are left with the connection."""
        return None if self._has_left_rows else super().description

    def _all_rows(self) -> Sequence[Any]:
        columns = super().description
        if columns is None:
            return ()
        return list(map(_row_type(tuple(column.name for column in columns))._make, self.fetchall()))


class BatchConnection(driver.connection):
    """Connection whose transactions begin with their first statement and may end with their last.

    To the driver each statement is then a transaction of its own; the server knows whether one is open. With
    another isolation level than READ COMMITTED transactions are the driver's, as they are elsewhere.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.rows: Sequence[Any] = ()
        self._is_joined = False
        self.set_isolation_level(driver.ISOLATION_LEVEL_READ_COMMITTED)

    @property
    def must_begin(self) -> bool:
        """True where the next statement is the first one of a transaction."""
        return self._is_joined and self._is_idle

    @property
    def autocommit(self) -> bool:
        """True where each statement is a transaction of its own to whoever uses the connection."""
        return not self._is_joined and bool(super().autocommit)

    @autocommit.setter
    def autocommit(self, value: bool) -> None:
        levels = driver.ISOLATION_LEVEL_READ_COMMITTED, driver.ISOLATION_LEVEL_AUTOCOMMIT
        self.set_isolation_level(levels[value])

    def set_isolation_level(self, level: int | None) -> None:
        """Set the level of the next transactions; one that is open is rolled back, as the driver does."""
        if self._is_joined:
            self.rollback()
        self._is_joined = level == driver.ISOLATION_LEVEL_READ_COMMITTED
        super().set_isolation_level(driver.ISOLATION_LEVEL_AUTOCOMMIT if self._is_joined else level)

    def commit(self) -> None:
        """Commit, unless the last statement has done so."""
        if not self._is_joined:
            super().commit()
        elif not self._is_idle and self._end("COMMIT") != "COMMIT":
            raise psycopg2.InternalError("the transaction had failed, and was rolled back")

    def rollback(self) -> None:
        """Roll back a transaction that is open."""
        if not self._is_joined:
            super().rollback()
        elif not self._is_idle:
            self._end("ROLLBACK")

    @property
    def _is_idle(self) -> bool:
        """True while no transaction is open; False as well where the connection is lost."""
        return self.get_transaction_status() == driver.TRANSACTION_STATUS_IDLE

    def _end(self, statement: str) -> str | None:
        with driver.cursor(self) as cursor:
            cursor.execute(statement)
            return cursor.statusmessage


@lru_cache(maxsize=256)
def _row_type(names: tuple[str, ...]) -> Any:
    return namedtuple("Row", names, rename=True)


def is_of_batches(connection: Connection) -> bool:
    """Return True where one text may hold several statements, of which the last one's rows are returned."""
    return isinstance(connection.connection.dbapi_connection, BatchConnection)


def rows_of(connection: Connection, result: CursorResult[Any]) -> Sequence[Any]:
    """Return the rows of a prepared statement that has just been executed, by position and by name."""
    own = connection.connection.dbapi_connection
    if not isinstance(own, BatchConnection):
        return result.all() if result.returns_rows else ()
    rows, own.rows = own.rows, ()
    return rows
