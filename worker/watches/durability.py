"""Watch over what a commit outlives: standbys, and whether acknowledged messages can be lost."""

from math import nan

from sqlalchemy import Engine

from worker.ledger.durability import durability_of
from worker.metrics import Metrics


class DurabilityWatch:
    """Gauges of the promise of a commit; ``servers`` are those of the database that we know by address."""

    def __init__(self, engine: Engine, servers: int, metrics: Metrics) -> None:
        self._engine, self._servers, self._metrics = engine, servers, metrics

    def look(self) -> None:
        """Ask the primary; SQLite has no standby, and flushes each commit."""
        found = durability_of(self._engine)
        if found is None:
            self._set(0, 0, 0)
            return
        synchronous = nan if found.synchronous is None else found.synchronous
        self._set(found.receivers, synchronous, found.warning(servers=self._servers) is not None)

    def forget(self) -> None:
        """Set the gauges to NaN."""
        self._set(nan, nan, nan)

    def _set(self, standbys: float, synchronous: float, at_risk: float) -> None:
        self._metrics.standbys.set(standbys)
        self._metrics.synchronous_standbys.set(synchronous)
        self._metrics.commits_at_risk.set(at_risk)
