"""Dead letters by the time of their last failure, for a chart."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, func, select

from worker.deadletters.store.tables import dead_letters
from worker.ledger.queries.buckets import number_of_bucket


def failures_between(connection: Connection, moments: Sequence[datetime]) -> list[int]:
    """Return how many dead letters failed last between each of ``moments`` (in order) and the next."""
    at = dead_letters.c.last_failed_at
    number = number_of_bucket(connection, at, moments).label("number")
    statement = (
        select(number, func.count().label("found")).where(at >= moments[0], at < moments[-1]).group_by(number)
    )
    counts = {row.number: row.found for row in connection.execute(statement)}
    return [counts.get(place, 0) for place in range(1, len(moments))]
