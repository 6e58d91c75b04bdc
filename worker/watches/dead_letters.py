"""Watch over dead letters: how many wait, since when, and what they are about."""

from math import nan

from sqlalchemy import Connection, Engine, select

from worker.deadletters.models import WAITING
from worker.deadletters.store.groups import counts
from worker.deadletters.store.tables import dead_letters
from worker.ledger.queries import snapshot
from worker.metrics import Metrics


class DeadLetterWatch:
    """Gauges of the dead letters that wait. Their groups are summed up, and not the dead letters."""

    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self._engine, self._metrics = engine, metrics

    def look(self) -> None:
        """Read the groups, and the first failure of the oldest dead letter that waits."""
        with snapshot(self._engine) as connection:
            found, oldest = counts(connection), _oldest(connection)
        waiting = found.parked + found.replaying
        self._set(waiting, oldest, found.tokens_at_stake, found.tokens_unknown)

    def forget(self) -> None:
        """Set the gauges to NaN."""
        self._set(nan, nan, nan, nan)

    def _set(self, waiting: float, oldest: float, tokens: float, without_tokens: float) -> None:
        metrics = self._metrics
        metrics.dead_letters_waiting.set(waiting)
        metrics.dead_letters_oldest.set(oldest)
        metrics.dead_letter_tokens.set(tokens)
        metrics.dead_letters_without_tokens.set(without_tokens)


def _oldest(connection: Connection) -> float:
    """Return the first failure of the dead letter that was drained first of those that wait.

    NaN where none waits, and where its time is unknown. The index on status and number has it at once.
    """
    column = dead_letters.c
    firsts = [
        row
        for status in WAITING
        for row in connection.execute(
            select(column.number, column.first_failed_at)
            .where(column.status == status.value)
            .order_by(column.number)
            .limit(1)
        )
    ]
    if not firsts:
        return nan
    first = min(firsts, key=lambda row: row.number)
    return nan if first.first_failed_at is None else float(first.first_failed_at.timestamp())
