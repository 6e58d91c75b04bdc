"""Watch over the ledger's totals: accounts, tokens on hold, debt, and what was given and not used."""

from collections.abc import Callable
from datetime import datetime
from math import nan

from sqlalchemy import Engine

from worker.ledger.queries import snapshot
from worker.ledger.queries.totals import account_totals
from worker.metrics import Metrics


class TotalsWatch:
    """Gauges of the sums over all accounts, as they are posted.

    The table of accounts is read once a look, in one snapshot. Where that takes longer than the engine waits
    for a statement the numbers are unknown here: `billing-worker stats` has them.
    """

    def __init__(self, engine: Engine, metrics: Metrics, clock: Callable[[], datetime]) -> None:
        self._engine, self._metrics, self._clock = engine, metrics, clock

    def look(self) -> None:
        """Sum up the accounts."""
        now = self._clock()
        with snapshot(self._engine) as connection:
            found = account_totals(connection)
        self._set(found.users, found.held, found.debt, found.outstanding, now.timestamp())

    def forget(self) -> None:
        """Set the gauges to NaN."""
        self._set(nan, nan, nan, nan, nan)

    def _set(self, users: float, held: float, debt: float, outstanding: float, at: float) -> None:
        metrics = self._metrics
        metrics.accounts.set(users)
        metrics.held.set(held)
        metrics.debt.set(debt)
        metrics.liability.set(outstanding)
        metrics.totals_read.set(at)
