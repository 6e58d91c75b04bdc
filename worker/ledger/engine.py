"""Connections of the ledger to its database: time-outs, transactions, and the meaning of errors."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DBAPIError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from worker.errors import ConfigurationError, ContentionError, LedgerUnavailableError
from worker.ledger.primary import DatabaseGuard, guard_engine

# A partition of the network would otherwise hang a statement for minutes (psycopg2 #561, #1017): the
# kernel gives a silent connection up after 15 s, the server a silent client after 30 s.
_POSTGRESQL_CONNECT = {
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
_POSTGRESQL_SESSION = "-c timezone=UTC -c idle_in_transaction_session_timeout=30000"
# Rows are loaded and written by their key, always. The planner, which takes a batch of one for a hundred
# rows and knows nothing of a table that has just been filled, would now and then read all of it.
# A prepared statement's plan is then the same for every batch. Without an index (foreign keys look up some
# that have none when an account goes) a scan counts as so dear that it would be compiled each time: no JIT.
_BY_KEY = (
    "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off "
    "-c plan_cache_mode=force_generic_plan -c jit=off"
)

_CONTENTION = {"40001", "40P01", "55P03"}  # serialization failure, deadlock, lock time-out
# A prepared statement that isn't there, is there already, or was outdated by a migration; a row whose columns
# were others when the session looked.
_STALE = {"26000", "42P05", "0A000", "22P02"}
# A read-only server, such as a demoted primary: another connection may find the primary.
_READ_ONLY = "25006"
# Connection, resources, shutdown, system and internal errors: whole classes.
_UNAVAILABLE = ("08", "53", "57", "58", "XX", _READ_ONLY)
# No such table, column, database or schema; not permitted: a deployment to mend, not a message to refuse.
_MISCONFIGURED = ("42P01", "42703", "42501", "42883", "3D000", "3F000", "28")


def ledger_engine(
    url: str,
    *,
    application_name: str = "billing-worker",
    statement_timeout_s: float = 0,
    only_by_key: bool = False,
    guard: DatabaseGuard | None = None,
    patience: int = 1,
) -> Engine:
    """Return an engine for ``url`` (``postgresql://…`` or ``sqlite:///…``); it connects on first use.

    A statement is given up after ``statement_timeout_s`` on PostgreSQL (0: never). ``only_by_key`` is for
    callers that read rows by their keys and nothing else. ``guard`` is for loops that write: they connect to
    the primary alone, and no wait is longer than ``patience`` times the guard's time-out. READ COMMITTED
    there; one writer at a time on SQLite. Raises ConfigurationError for other URLs.
    """
    try:
        parsed = make_url(url)
    except Exception as error:
        raise ConfigurationError("the database URL cannot be read; see --database-url") from error
    match parsed.get_backend_name():
        case "postgresql":
            # A healthy server gives up first, so that the connection is kept.
            timeout_s = statement_timeout_s if guard is None else guard.timeout_s * patience * 0.8
            lock_timeout_s = min(5.0, timeout_s / 2) if timeout_s else 5.0  # contention is no outage
            session = (
                f"{_POSTGRESQL_SESSION} -c lock_timeout={lock_timeout_s * 1000:.0f}"
                f" -c statement_timeout={timeout_s * 1000:.0f}"
            )
            if only_by_key:
                session += f" {_BY_KEY}"
            options: dict[str, Any] = {"application_name": application_name, "options": session}
            engine = _postgresql_engine(parsed, options if guard is None else options | _written(guard))
            if guard is not None:
                guard_engine(engine, guard, guard.timeout_s * patience)
            if only_by_key:
                event.listen(engine, "begin", _plan_anew)
            return engine
        case "sqlite":
            return _sqlite_engine(parsed)
        case other:
            raise ConfigurationError(f"the database is {other!r}; PostgreSQL and SQLite are supported")


def _written(guard: DatabaseGuard) -> dict[str, Any]:
    """Return the options of a connection that must soon reach a server that writes."""
    return {
        "target_session_attrs": "read-write",
        "connect_timeout": max(2, min(_POSTGRESQL_CONNECT["connect_timeout"], round(guard.timeout_s / 2))),
    }


def _postgresql_engine(url: URL, session: Mapping[str, Any]) -> Engine:
    engine = create_engine(
        url.set(drivername="postgresql+psycopg2"),
        connect_args={**_POSTGRESQL_CONNECT, **session},
        pool_recycle=1800,
        hide_parameters=True,  # they are what producers sent; errors end in logs
    )

    @event.listens_for(engine, "handle_error")
    def _leave_useless_session(context: ExceptionContext) -> None:
        # A new session prepares its statements anew, or finds the primary; in this one every batch would
        # fail. The other connections of the pool are as old, and go with it.
        if getattr(context.original_exception, "pgcode", None) in {*_STALE, _READ_ONLY}:
            context.is_disconnect = True

    return engine


def _plan_anew(connection: Connection) -> None:
    """Forget a session's plans in its 10th transaction, its 100th, its 1000th.

    A plan that was made while a table was empty may read all of it for every row, and does so until its
    statistics are gathered again: in the first minute of a ledger that meant thousands of rows a batch.
    """
    begun = connection.info["begun"] = connection.info.get("begun", 0) + 1
    if begun in _PLANNED_ANEW:
        connection.exec_driver_sql("DISCARD PLANS")


_PLANNED_ANEW = frozenset(10**power for power in range(1, 7))


def _sqlite_engine(url: URL) -> Engine:
    engine = create_engine(url, connect_args={"timeout": 30}, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def _connect(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # BEGIN is ours; sqlite3 would delay it
        for pragma in ("foreign_keys = ON", "journal_mode = WAL", "synchronous = FULL"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # Take the write lock before reading: what was read still holds when it is written.
        mode = "DEFERRED" if connection.get_execution_options().get("read_only") else "IMMEDIATE"
        connection.exec_driver_sql(f"BEGIN {mode}")

    return engine


@contextmanager
def translated_errors() -> Iterator[None]:
    """Translate the driver's errors into this project's where those say what to do; let others pass."""
    try:
        yield
    except ArgumentError as error:
        raise ConfigurationError("the database URL cannot be used; see --database-url") from error
    except PoolTimeoutError as error:
        raise LedgerUnavailableError("no connection to the ledger's database came free") from error
    except DBAPIError as error:
        if (translated := _translated(error)) is None:
            raise
        raise translated from error


def _translated(error: DBAPIError) -> Exception | None:
    code = getattr(error.orig, "pgcode", None) or ""
    text = str(error.orig).strip().partition("\n")[0]
    if code in _CONTENTION:
        return ContentionError(f"another transaction was in the way: {text}")
    if code.startswith(_MISCONFIGURED):
        return LedgerUnavailableError(f"the schema is not as it must be, see `billing-worker check`: {text}")
    if code.startswith(_UNAVAILABLE) or error.connection_invalidated:
        return LedgerUnavailableError(f"the ledger's database is not available: {text}")
    if isinstance(error, ProgrammingError) and not code and error.orig is not None and "dsn" in text:
        return ConfigurationError(f"the database URL can't be used: {text}")
    if type(error.orig) in {sqlite3.OperationalError, sqlite3.DatabaseError}:  # locked, full, not a database
        return LedgerUnavailableError(f"the ledger's database is not available: {text}")
    if not code and (isinstance(error, OperationalError | InterfaceError) or type(error) is DatabaseError):
        return LedgerUnavailableError(f"the ledger's database is not available: {text}")
    return None
