"""Watched connections of the loops to the primary database, never to a primary that was replaced.

Of several addresses (``?host=a:5432&host=b:5432``) the one that takes writes is used, and the last good one
is tried first. A promotion begins a new timeline: a server on a lower one than this process has seen is an
old primary that came back, and is refused. Fencing it for all others stays the task of whoever promotes.
"""

import logging
import threading
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg2
import psycopg2.extensions
from sqlalchemy import Engine, event
from sqlalchemy.exc import DisconnectionError

from worker.ledger.round_trips import BatchConnection, BatchCursor
from worker.runtime.watchdog import Wait, Watchdog, shut_socket

log = logging.getLogger(__name__)

#: The system's identity and the timeline it writes on; no file name is known in recovery.
_IDENTITY = (
    "SELECT (SELECT system_identifier FROM pg_control_system())::text, "
    "CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_walfile_name(pg_current_wal_lsn()) END"
)

Place = tuple[str, int]  # a system's identity, and a timeline of it


class DatabaseGuard:
    """State shared by all engines of a process: the watchdog, and the highest timelines seen.

    ``timeout_s`` bounds each wait for the database: to connect, for a statement, for a commit.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.watchdog = Watchdog()
        self._highest: dict[str, int] = {}
        self._used: str | None = None
        self._lock = threading.Lock()

    def hurry(self, most_s: float) -> None:
        """Bound every wait by ``most_s`` seconds from now on, because the process is to end."""
        self.watchdog.hurry(most_s)

    def note_used(self, server: str) -> None:
        """Log a change of the server that is used."""
        with self._lock:
            before, self._used = self._used, server
        if before != server:
            log.info("the database's server %s is used", server)

    def is_replaced(self, place: Place | None) -> bool:
        """Return True for a place on a timeline lower than one seen before; remember a higher one."""
        if place is None:
            return False
        system, timeline = place
        with self._lock:
            highest = self._highest[system] = max(self._highest.get(system, 0), timeline)
        return timeline < highest


class _Cursor(psycopg2.extensions.cursor):
    """Cursor whose statements have a deadline."""

    connection: Any

    def execute(self, query: Any, vars: Any = None) -> None:  # noqa: A002 - psycopg2's name
        with self.connection.statement:
            super().execute(query, vars)

    def executemany(self, query: Any, vars_list: Any) -> None:
        with self.connection.statement:
            super().executemany(query, vars_list)


class _Connection(psycopg2.extensions.connection):
    """Connection whose statements and commits have a deadline; a failure says which one passed."""

    statement: "_Deadline"
    committing: "_Deadline"

    def commit(self) -> None:
        with self.committing:
            super().commit()

    def rollback(self) -> None:
        with self.statement:
            super().rollback()


class _BatchCursor(_Cursor, BatchCursor):
    """Cursor of batches whose statements have a deadline."""


class _BatchConnection(_Connection, BatchConnection):
    """Connection of batches whose statements and commits have a deadline."""


class _Deadline(Wait):
    """Bounded wait of one connection; its error names what was overdue."""

    def __init__(self, connection: _Connection, what: str, timeout_s: float) -> None:
        held = weakref.ref(connection)  # no cycle: the pool lets go of connections all the time

        def shut() -> None:
            if (held_now := held()) is not None:
                shut_socket(held_now.fileno())

        super().__init__(shut, timeout_s)
        self._what, self._seconds = what, timeout_s

    def __exit__(self, type_: Any, error: Any, trace: Any) -> None:
        super().__exit__(type_, error, trace)
        if self.is_overdue and isinstance(error, psycopg2.Error):
            raise psycopg2.OperationalError(
                f"no answer to {self._what} within {self._seconds:g} s; its connection was shut"
            ) from error


def guard_engine(engine: Engine, guard: DatabaseGuard, timeout_s: float) -> None:
    """Make ``engine`` connect to the primary alone, and bound each of its waits by ``timeout_s``."""
    last_good: list[Mapping[str, Any]] = []

    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, record: Any, _arguments: Any, parameters: dict[str, Any]) -> Any:
        failures = []
        for address in sorted(_addresses(parameters), key=lambda one: one not in last_good):
            try:
                connection = _connected({**parameters, **address}, guard, timeout_s)
                place = _place_of(connection)
            except psycopg2.ProgrammingError:
                raise  # the URL can't be used, whatever the server
            except psycopg2.Error as error:
                failures.append(str(error).strip().partition("\n")[0])
                continue
            if not guard.is_replaced(place):
                last_good[:] = [address]
                if address:
                    guard.note_used(_shown(address))
                record.info["place"] = place
                return connection
            connection.close()
            failures.append(f"{_shown(address)} was replaced as primary: it is on an old timeline")
        last_good.clear()
        raise psycopg2.OperationalError("; ".join(failures))

    @event.listens_for(engine, "checkout")
    def _refuse_replaced(_connection: Any, record: Any, _proxy: Any) -> None:
        if guard.is_replaced(record.info.get("place")):
            raise DisconnectionError("another server is the primary now")


def _connected(parameters: Mapping[str, Any], guard: DatabaseGuard, timeout_s: float) -> _Connection:
    is_for_batches = parameters.get("connection_factory") is BatchConnection
    kinds = (_BatchConnection, _BatchCursor) if is_for_batches else (_Connection, _Cursor)
    factories = dict(zip(("connection_factory", "cursor_factory"), kinds, strict=True))
    connection: _Connection = psycopg2.connect(**{**parameters, **factories})
    connection.statement = _Deadline(connection, "a statement", timeout_s)
    connection.committing = _Deadline(connection, "a commit", timeout_s)
    guard.watchdog.watch(connection.statement)
    guard.watchdog.watch(connection.committing)
    return connection


def _place_of(connection: _Connection) -> Place | None:
    """Return the system and the timeline behind ``connection``; None where the server doesn't say."""
    connection.autocommit = True  # one way to the server and back
    try:
        with connection.cursor() as cursor:
            cursor.execute(_IDENTITY)
            system, file_name = cursor.fetchone() or (None, None)
    except psycopg2.Error:
        if connection.closed:
            raise
        return None
    finally:
        if not connection.closed:
            connection.autocommit = False
    return None if system is None or file_name is None else (system, int(file_name[:8], 16))


def _addresses(parameters: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each address of the list by itself; libpq would begin with the first one every time."""
    hosts = str(parameters.get("host", "")).split(",")
    ports = str(parameters.get("port", "")).split(",")
    if len(hosts) == 1:
        yield {}
        return
    for place, host in enumerate(hosts):
        port = ports[place] if len(ports) == len(hosts) else ports[0]
        yield {"host": host, "port": port or None}


def _shown(address: Mapping[str, Any]) -> str:
    return f"{address['host']}:{address['port'] or 5432}" if address else "the server"
