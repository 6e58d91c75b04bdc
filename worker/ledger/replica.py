"""Age of a replica, asked once: for checks, which have no places of the primary from before.

Readers note the primary's places as they go instead (``worker.queries.sources``).
"""

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from time import monotonic
from typing import Any, Final

from sqlalchemy import Engine, Row, text

from worker.errors import ConfigurationError
from worker.ledger.queries.snapshots import snapshot

# Each function of a place raises on the other kind of server.
_SERVER: Final = text(
    "SELECT (SELECT system_identifier FROM pg_control_system())::text AS system, "
    "pg_is_in_recovery() AS is_replica, clock_timestamp() AS now, "
    "(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END"
    " - '0/0')::bigint "
    "AS place, pg_last_xact_replay_timestamp() AS committed_at"
)
_ASK_EVERY_S = 0.05


def replica_age(
    primary: Engine,
    replica: Engine,
    *,
    patience_s: float = 1.0,
    seconds: Callable[[], float] = monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> timedelta | None:
    """Return how old the state of ``replica`` may be; None where nothing tells.

    A replica that reaches the primary's place of now within ``patience_s`` is as old as that took: it may be
    idle for long and lack nothing. Any other is as old as the last transaction that it has. Raises
    ConfigurationError for what is no replica of this primary, and LedgerUnavailableError.
    """
    if {primary.dialect.name, replica.dialect.name} != {"postgresql"}:
        raise ConfigurationError("BILLING_READ_DATABASE_URL is for a replica of PostgreSQL; unset it")
    target, began = _server(primary), seconds()
    while True:
        found = _server(replica)
        _require_replica(found, target)
        waited = seconds() - began
        if found.place >= target.place:
            return timedelta(seconds=waited)
        if waited >= patience_s:
            return _since(found.committed_at, _server(primary).now)
        sleep(_ASK_EVERY_S)


def part_of(server: Engine) -> str:
    """Return the part that a server of PostgreSQL plays. Raises LedgerUnavailableError."""
    with snapshot(server) as connection:
        is_standby = connection.execute(text("SELECT pg_is_in_recovery()")).scalar_one()
    return "answers as a standby" if is_standby else "answers as the primary"


def _require_replica(found: Row[Any], primary: Row[Any]) -> None:
    if not found.is_replica:
        raise ConfigurationError("BILLING_READ_DATABASE_URL names a primary, not a replica; unset it")
    if found.system != primary.system:
        raise ConfigurationError(
            "BILLING_READ_DATABASE_URL names a replica of another server; set this one's"
        )


def _since(committed_at: datetime | None, now: datetime) -> timedelta | None:
    """Return the time since a commit, by the primary's clock, which wrote both."""
    return None if committed_at is None else max(now - committed_at, timedelta())


def _server(engine: Engine) -> Row[Any]:
    with snapshot(engine) as connection:
        return connection.execute(_SERVER).one()
