"""Databases that queries read: the primary, or a replica that is not too far behind."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Engine, TextClause, text

from worker.errors import LedgerUnavailableError
from worker.ledger.queries.snapshots import snapshot

log = logging.getLogger(__name__)

_PRIMARY_AT = text("SELECT (pg_current_wal_lsn() - '0/0')::bigint")
_REPLAYED_TO = text("SELECT (pg_last_wal_replay_lsn() - '0/0')::bigint")
_SAMPLE_EVERY = timedelta(seconds=1)
_SAMPLES_MAX = 600


class Database(NamedTuple):
    """Engines of one database: one that plans for reads by key alone, and one for reports."""

    by_key: Engine
    reports: Engine


class ReadSource(NamedTuple):
    """Database to read from; what it has is true for ``as_of``."""

    database: Database
    as_of: datetime


class Sources:
    """Choice of the database for a batch of queries.

    A replica tells its place in the log and no time: an idle primary would look like a replica that stands
    still. So the primary's places are noted with their times. A replica that has replayed one of them knows
    everything up to that time. One that is more than ``max_lag`` behind is not read while the primary is up.
    Threads may share it: those of the HTTP door do.
    """

    def __init__(
        self,
        primary: Database,
        replica: Database | None = None,
        *,
        max_lag: timedelta = timedelta(seconds=10),
        clock: Callable[[], datetime],
    ) -> None:
        self._primary, self._replica = primary, replica
        self._max_lag, self._clock = max_lag, clock
        self._samples: deque[tuple[datetime, int]] = deque(maxlen=_SAMPLES_MAX)
        self._lock = threading.Lock()
        self._complaint: str | None = None

    @property
    def has_replica(self) -> bool:
        """True where a replica is read."""
        return self._replica is not None

    def primary(self) -> ReadSource:
        """Return the primary."""
        return ReadSource(self._primary, self._clock())

    def usual(self) -> ReadSource:
        """Return the replica where there is one that is fresh enough, else the primary."""
        if self._replica is None:
            return self.primary()
        now = self._clock()
        is_up = self._note_primary(now)
        try:
            replayed = _number(self._replica.by_key, _REPLAYED_TO)
        except LedgerUnavailableError as error:
            return self._primary_because(f"the replica does not answer: {error}")
        if replayed is None:
            return self._primary_because("BILLING_READ_DATABASE_URL names a primary, not a replica")
        with self._lock:
            known = [at for at, place in self._samples if place <= replayed]
        if known and (now - known[-1] <= self._max_lag or not is_up):
            self._complain(None)
            return ReadSource(self._replica, known[-1])
        return self._primary_because(f"the replica is more than {self._max_lag.total_seconds():g} s behind")

    def close(self) -> None:
        """Close all connections."""
        for database in (self._primary, self._replica):
            for engine in database or ():
                engine.dispose()

    def _note_primary(self, now: datetime) -> bool:
        """Note the primary's place, once a second; return False where it doesn't answer."""
        if self._samples and now - self._samples[-1][0] < _SAMPLE_EVERY:
            return True
        try:
            place = _number(self._primary.by_key, _PRIMARY_AT)
        except LedgerUnavailableError:
            return False
        if place is not None:
            with self._lock:
                self._samples.append((now, place))
        return True

    def _primary_because(self, complaint: str) -> ReadSource:
        self._complain(complaint)
        return self.primary()

    def _complain(self, complaint: str | None) -> None:
        """Log a change of what is wrong with the replica."""
        if complaint != self._complaint:
            if complaint is None:
                log.info("queries read the replica again")
            else:
                log.warning("queries read the primary: %s", complaint)
        self._complaint = complaint


def _number(engine: Engine, statement: TextClause) -> int | None:
    # A connection that has read a snapshot is read-only, as its use here must be: a replica refuses another.
    with snapshot(engine) as connection:
        value: int | None = connection.execute(statement).scalar_one()
        return value
