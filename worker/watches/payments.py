"""Watch over payments that stay rejected: money without tokens."""

from collections.abc import Callable
from datetime import datetime
from math import nan

from sqlalchemy import Engine

from worker.ledger.queries import snapshot
from worker.ledger.queries.incidents import counts
from worker.metrics import Metrics


class RejectedPaymentWatch:
    """Gauge of the payments that stay rejected. The index of incidents has them alone."""

    def __init__(self, engine: Engine, metrics: Metrics, clock: Callable[[], datetime]) -> None:
        self._engine, self._metrics, self._clock = engine, metrics, clock

    def look(self) -> None:
        """Count the rejected payments."""
        with snapshot(self._engine) as connection:
            found = counts(connection, self._clock())
        self._metrics.payments_to_retry.set(found.rejected)

    def forget(self) -> None:
        """Set the gauge to NaN."""
        self._metrics.payments_to_retry.set(nan)
