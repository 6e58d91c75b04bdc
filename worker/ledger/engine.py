"""Connections of the ledger to its database: time-outs, transactions, errors in this project's terms."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal

import psycopg2.extensions
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from schemas import slot_of
from worker.addresses import DatabaseAddress, is_postgresql
from worker.errors import ConfigurationError, LedgerUnavailableError
from worker.ledger.driver_errors import is_of_session, meaning_of
from worker.ledger.primary import DatabaseGuard, guard_engine
from worker.ledger.round_trips import BatchConnection, BatchCursor
from worker.ledger.session_settings import (
    AS_ASKED,
    BY_KEY,
    SessionSettings,
    as_local,
    needed,
    server_timeout_s,
)
from worker.ledger.sessions import prepare_sessions

#: Place of the settings of sessions: each connection sets them, or its role has them.
SettingsPlace = Literal["connection", "role"]

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


def ledger_engine(
    url: str,
    *,
    application_name: str = "billing-worker",
    statement_timeout_s: float = 0,
    only_by_key: bool = False,
    only_reads: bool = False,
    guard: DatabaseGuard | None = None,
    patience: int = 1,
    settings_on: SettingsPlace = "connection",
    plans: SessionSettings = BY_KEY,
) -> Engine:
    """Return an engine for ``url`` (``postgresql://…`` or ``sqlite:///…``); it connects on first use.

    A statement is given up after ``statement_timeout_s`` on PostgreSQL (0: never). ``only_by_key`` is for
    callers that read rows by their keys and nothing else, as batches do, with ``plans``; with ``only_reads``
    they have snapshots, which the connections of batches don't know. ``guard`` is for loops that write: they
    connect to the primary alone, and no wait is longer than ``patience`` times the guard's time-out. Where
    the settings of sessions are on the role, connections ask for none. READ COMMITTED there; one writer at a
    time on SQLite. Raises ConfigurationError for other URLs.
    """
    parsed = _parsed(url)
    match parsed.get_backend_name():
        case "postgresql":
            timeout_s = statement_timeout_s if guard is None else server_timeout_s(guard.timeout_s, patience)
            settings = {**needed(timeout_s), **(plans if only_by_key else {})}
            options: dict[str, Any] = {"application_name": application_name}
            if only_by_key and not only_reads:
                options |= {"connection_factory": BatchConnection, "cursor_factory": BatchCursor}
            engine = _postgresql_engine(parsed, options if guard is None else options | _written(guard))
            prepare_sessions(engine, settings if settings_on == "connection" else {}, application_name)
            event.listen(engine, "connect", _read_in_utc)
            if guard is not None:
                guard_engine(engine, guard, guard.timeout_s * patience)
            if only_by_key:
                event.listen(engine, "begin", _plan_anew)
            elif settings_on == "role" and not timeout_s:
                event.listen(engine, "begin", _as_asked)
            return engine
        case "sqlite":
            return _sqlite_engine(parsed)
        case other:
            raise ConfigurationError(f"the database is {other!r}; PostgreSQL and SQLite are supported")


def _parsed(url: str) -> URL:
    """Return the URL as SQLAlchemy reads it; it has another form for several servers."""
    try:
        text = DatabaseAddress.parse(url).url if is_postgresql(url) else url
    except ValueError as error:
        raise ConfigurationError(f"the database URL {error}") from None
    try:
        return make_url(text)
    except Exception:  # noqa: BLE001 - SQLAlchemy's error quotes the URL, which may hold a password
        raise ConfigurationError("the database URL cannot be read; see --database-url") from None


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
        if is_of_session(context.original_exception):
            context.is_disconnect = True

    return engine


def _read_in_utc(connection: psycopg2.extensions.connection, _record: Any) -> None:
    """Make a session of another time zone read times in UTC: periods are counted by UTC's calendar.

    Where it is UTC already, the driver's own reading does, and is faster.
    """
    if connection.get_parameter_status("TimeZone") not in {"UTC", "Etc/UTC"}:
        psycopg2.extensions.register_type(_IN_UTC, connection)


def _in_utc(value: str | bytes | None, cursor: psycopg2.extensions.cursor) -> datetime | None:
    moment: datetime | None = psycopg2.extensions.PYDATETIMETZ(value, cursor)
    return None if moment is None else moment.astimezone(UTC)


_TIMESTAMPTZ = 1184
_IN_UTC = psycopg2.extensions.new_type((_TIMESTAMPTZ,), "timestamptz in UTC", _in_utc)


def _as_asked(connection: Connection) -> None:
    """Free a transaction from what the role has for loops."""
    connection.exec_driver_sql(as_local(AS_ASKED))


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
        connection.create_function("slot_of", 1, slot_of, deterministic=True)
        for pragma in ("foreign_keys = ON", "journal_mode = WAL", "synchronous = FULL"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # Take the write lock before reading: what was read still holds when it is written.
        mode = "DEFERRED" if connection.get_execution_options().get("read_only") else "IMMEDIATE"
        connection.exec_driver_sql(f"BEGIN {mode}")

    return engine


@contextmanager
def begun_beside(connection: Connection, beside: Connection) -> Iterator[Connection]:
    """Yield ``beside`` in a transaction of its own; where it is ``connection``, in the one that this has."""
    if beside is connection:
        yield connection
        return
    with beside.begin():
        yield beside


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
        if (meaning := meaning_of(error)) is None:
            raise
        raise meaning from error
