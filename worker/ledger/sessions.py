"""Sessions after connecting: their settings, and the refusal of a pooler that gives them away.

Settings are not asked for in the start of a connection: PgBouncer refuses or drops such options. Behind a
pooler a session may also be another client's from before, with its settings and its prepared statements.
"""

import threading
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any, Final

import psycopg2
import psycopg2.extensions
from sqlalchemy import Engine, event

from worker.errors import ConfigurationError
from worker.ledger.session_settings import SessionSettings
from worker.runtime.watchdog import shut_socket

Session = psycopg2.extensions.connection

#: Sets nothing in a session that isn't this connection's own.
_SET: Final = (
    "SELECT pg_backend_pid(), (SELECT count(set_config(name, value, false))"
    " FROM unnest(%s::text[], %s::text[]) AS wanted (name, value) WHERE pg_backend_pid() = %s)"
)
_PID: Final = "SELECT pg_backend_pid()"
#: Looks at who serves two connections, in turn: a busy pooler may give each its own by chance.
_LOOKS: Final = 10
#: Longest wait of a second connection for a session: a full pool is no pool of transactions.
_SECOND_S: Final = 3.0


def prepare_sessions(engine: Engine, settings: SessionSettings, application_name: str) -> None:
    """Give each new session of ``engine`` its settings.

    A connection raises ConfigurationError where a pooler gives each transaction another session.
    """
    trusted = threading.Event()

    @event.listens_for(
        engine, "connect", insert=True
    )  # before SQLAlchemy begins a transaction to look around
    def _prepare(connection: Session, _record: Any) -> None:
        try:
            connection.autocommit = True  # one statement is one way to the server and back
            _prepare_session(connection, settings, application_name, trusted)
            connection.autocommit = False
        except BaseException:
            connection.close()
            raise


def _prepare_session(
    connection: Session, settings: SessionSettings, application_name: str, trusted: threading.Event
) -> None:
    own = connection.get_backend_pid()
    if (served_by := _set(connection, settings, own)) == own:
        return
    # Who serves isn't who answered the start: a pooler is in between.
    if not trusted.is_set():
        _require_own_session(connection)
        trusted.set()
    _run(connection, "DISCARD ALL")
    _set(connection, {**settings, "application_name": application_name}, served_by)


def _set(connection: Session, settings: SessionSettings, pid: int) -> int:
    """Set ``settings`` where the process ``pid`` serves the connection; return the one that does."""
    return _run(connection, _SET, (list(settings), list(settings.values()), pid))


def _run(connection: Session, statement: str, values: tuple[Any, ...] = ()) -> int:
    with connection.cursor() as cursor:
        cursor.execute(statement, values or None)
        found: tuple[int, ...] = (cursor.fetchone() if cursor.description else None) or (0,)
        return found[0]


def _require_own_session(connection: Session) -> None:
    """Raise ConfigurationError where another connection is served by the same session, or this one by two."""
    with closing(psycopg2.connect(**_place(connection))) as second:
        second.autocommit = True
        late = threading.Timer(_SECOND_S, shut_socket, [second.fileno()])
        late.start()
        try:
            shares = _shares(lambda: _run(connection, _PID), lambda: _run(second, _PID))
        finally:
            late.cancel()
    if shares:
        raise ConfigurationError(
            "the database is behind a pooler in transaction mode, which loses what a session has prepared "
            "and set: give this database pool_mode = session, or name PostgreSQL itself"
        )


def _shares(first: Callable[[], int], second: Callable[[], int]) -> bool:
    """Return True where two connections are not served by one session each, all the time."""
    ours, others = set(), set()
    with suppress(psycopg2.OperationalError):  # the second one gets no session while we keep ours
        for _ in range(_LOOKS):
            ours.add(first())
            others.add(second())
            if len(ours) > 1 or len(others) > 1 or ours & others:
                return True
    return False


def _place(connection: Session) -> dict[str, Any]:
    """Return the arguments that lead to the same server once more."""
    info = connection.info
    found = {**info.dsn_parameters, "password": info.password, "host": info.host, "port": info.port}
    return {name: value for name, value in found.items() if value not in (None, "")}
