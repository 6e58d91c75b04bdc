"""Buckets of time in SQL: the number of the one that a time lies in, in every dialect."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ARRAY, Connection, DateTime, Integer, case, cast, func, literal
from sqlalchemy.sql import ColumnElement

from worker.ledger.tables import UtcDateTime


def number_of_bucket(
    connection: Connection, moment: ColumnElement[datetime], bounds: Sequence[datetime]
) -> ColumnElement[int]:
    """Return the number of the bucket: how many of ``bounds``, which are in order, are not after the time."""
    if connection.dialect.name == "postgresql":
        times = cast(literal(list(bounds), ARRAY(DateTime(timezone=True))), _TIMES)
        return func.width_bucket(moment, times, type_=Integer())
    return _searched(moment, bounds, 0)


_TIMES = ARRAY(DateTime(timezone=True))
_MOMENT, _NUMBER = UtcDateTime(), Integer()


def _searched(moment: ColumnElement[datetime], bounds: Sequence[datetime], first: int) -> ColumnElement[int]:
    """Search the bounds by halves: SQLite has no function for it."""
    if not bounds:
        return literal(first, _NUMBER)
    middle = len(bounds) // 2
    return case(
        (
            moment < literal(bounds[middle], _MOMENT),
            _searched(moment, bounds[:middle], first),
        ),
        else_=_searched(moment, bounds[middle + 1 :], first + middle + 1),
    )
