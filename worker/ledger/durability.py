"""Durability of what is committed, as the database's settings and its connected standbys promise it.

A role without rights may ask all of this but which standby is synchronous. Storage that replicates by itself
shows in no setting.
"""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Engine, text

from worker.ledger.engine import translated_errors

#: Receivers are standbys, and backups while they run. Without pg_read_all_stats their state is NULL.
_ASK: Final = text(
    "SELECT current_setting('fsync') = 'on' AS flushes, current_setting('full_page_writes') = 'on' AS whole,"
    " current_setting('synchronous_commit') AS commits,"
    " current_setting('synchronous_standby_names') AS names,"
    " (SELECT count(*) FROM pg_stat_replication) AS receivers,"
    " (SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')) AS synchronous,"
    " (SELECT count(*) FROM pg_stat_replication WHERE sync_state IS NULL) AS hidden"
)


@dataclass(frozen=True, slots=True)
class Durability:
    """Promise of a commit: the servers and disks that it waits for.

    ``commits`` is the session's synchronous_commit, ``standby_names`` are those that it waits for,
    ``receivers`` the standbys that are connected; ``synchronous`` is None where the role may not see it.
    """

    commits: str
    standby_names: str = ""
    receivers: int = 0
    synchronous: int | None = 0
    flushes: bool = True

    def warning(self, *, servers: int = 1) -> str | None:
        """Return what an acknowledged message can be lost by; None where nothing is.

        ``servers`` are those that the worker knows by their addresses.
        """
        if not self.flushes:
            return f"{_LOST} a crash of this server: set fsync and full_page_writes to on"
        if self.commits == "off":
            return f"{_LOST} a crash of this server, for synchronous_commit is off: set it to on"
        if not self.standby_names:
            if self.receivers:
                return f"{_LOST} a failover: {_count(self.receivers)}, asynchronous; {_WAY_OUT}"
            if servers > 1:
                return f"{_LOST} a failover: no standby is connected; {_WAY_OUT}"
            return None
        if self.commits == "local":
            return f"{_LOST} a failover, for synchronous_commit is local: set it to on"
        if self.synchronous == 0:
            return f"commits wait for {self.standby_names!r}, and no synchronous standby is connected"
        return None

    @property
    def text(self) -> str:
        """Return what holds where nothing warns."""
        if not self.standby_names:
            return "a commit is on the disk of one server, and no standby is connected"
        found = "which of the standbys is synchronous is unknown without pg_read_all_stats"
        if self.synchronous is not None:
            found = f"{_count(self.synchronous)}, synchronous"
        memory = ", in the standby's memory" if self.commits == "remote_write" else ""
        return f"a commit waits for {self.standby_names!r}{memory}: {found}"


_LOST = "acknowledged messages may be lost in"
_WAY_OUT = 'set synchronous_standby_names: see "what is promised" in the manual'


def _count(standbys: int) -> str:
    return "1 standby is connected" if standbys == 1 else f"{standbys} standbys are connected"


def durability_of(engine: Engine) -> Durability | None:
    """Return what the primary promises; None on SQLite, which flushes each commit to its one file."""
    if engine.dialect.name != "postgresql":
        return None
    with translated_errors(), engine.connect() as connection:
        row = connection.execute(_ASK).one()
    synchronous = None if row.hidden and not row.synchronous else row.synchronous
    return Durability(row.commits, row.names, row.receivers, synchronous, row.flushes and row.whole)
