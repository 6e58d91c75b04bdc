"""Settings of a session of the ledger's database: each connection sets them, or its role has them.

Nothing else lists them: what a connection sets, the statements for a role and the comparison that
`billing-worker check` makes all come from here. Nothing in the ledger is wrong where one is missing, but
waits may last longer and plans may be slower.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, text

#: Settings by their names, as PostgreSQL reads them; times in milliseconds.
SessionSettings = Mapping[str, str]

#: Share of a client's deadline after which the server gives up: the connection is kept.
_SERVER_SHARE = 0.8
_LOCK_TIMEOUT_S = 5.0

# Rows are loaded and written by their key, always. The planner, which takes a batch of one for a hundred
# rows and knows nothing of a table that has just been filled, would now and then read all of it.
# A prepared statement's plan is then the same for every batch. Without an index (foreign keys look up some
# that have none when an account goes) a scan counts as so dear that it would be compiled each time: no JIT.
#: Plans of loops, which read rows by their keys alone. An advice: a role may lack them, Citus refuses one.
BY_KEY: SessionSettings = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
}
_NOT_ON_CITUS = "plan_cache_mode"
#: Transactions of people's questions, on a role that has the settings of loops: they read whole tables.
AS_ASKED: SessionSettings = {
    "statement_timeout": "0",
    "enable_seqscan": "on",
    "enable_hashjoin": "on",
    "enable_mergejoin": "on",
    "plan_cache_mode": "auto",
}


def plans_by_key(*, distributed: bool) -> SessionSettings:
    """Return ``BY_KEY``, without what Citus refuses where the ledger is ``distributed``."""
    return {name: value for name, value in BY_KEY.items() if not (distributed and name == _NOT_ON_CITUS)}


def server_timeout_s(deadline_s: float, patience: int) -> float:
    """Return the time for a statement on the server, for a client that waits ``patience`` deadlines."""
    return deadline_s * patience * _SERVER_SHARE


def needed(statement_timeout_s: float) -> SessionSettings:
    """Return the settings that a session needs; its statements take no longer than that (0: any time)."""
    lock_timeout_s = min(_LOCK_TIMEOUT_S, statement_timeout_s / 2) if statement_timeout_s else _LOCK_TIMEOUT_S
    return {
        "timezone": "UTC",
        "idle_in_transaction_session_timeout": "30000",
        "lock_timeout": f"{lock_timeout_s * 1000:.0f}",  # contention is no outage
        "statement_timeout": f"{statement_timeout_s * 1000:.0f}",
    }


def as_local(settings: SessionSettings) -> str:
    """Return the statements that give ``settings`` to one transaction; none of them takes a snapshot."""
    return "; ".join(f"SET LOCAL {name} = {value}" for name, value in settings.items())


def for_role(role: str, settings: SessionSettings) -> list[str]:
    """Return the statements that give ``settings`` to ``role``, a name as it stands in SQL."""
    return [f"ALTER ROLE {role} SET {name} = '{value}';" for name, value in settings.items()]


@dataclass(frozen=True, slots=True)
class MissingSettings:
    """Statements for what a session lacks: of what it needs, and of what is an advice."""

    needed: list[str]
    advised: list[str]


def missing_settings(
    connection: Connection, wanted: SessionSettings, plans: SessionSettings = BY_KEY
) -> MissingSettings:
    """Compare this session with the ``wanted`` settings and the ``plans``; a shorter timeout is as good."""
    role: str = connection.execute(_ROLE).scalar_one()
    found = {name.lower(): value for name, value in connection.execute(_FOUND)}
    return MissingSettings(
        *(
            for_role(role, {name: value for name, value in each.items() if not _is_met(found[name], value)})
            for each in (wanted, plans)
        )
    )


_ROLE = text("SELECT quote_ident(session_user)")
_FOUND = text("SELECT name, setting FROM pg_settings")


def _is_met(found: str, wanted: str) -> bool:
    if wanted.isdecimal():
        return 0 < int(found) <= int(wanted)
    return found.removeprefix("Etc/") == wanted
