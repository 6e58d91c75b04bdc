"""Sums that a database can hold.

Those of PostgreSQL have no end that matters. Numbers of SQLite end at 2^63 − 1, and so does a sum there: it
is exact up to that number, and never more.
"""

from typing import Any

from sqlalchemy import Connection, case, func
from sqlalchemy.sql import ColumnElement

SQLITE_MAX = 2**63 - 1
_HALF = 32
_LOW = 2**_HALF - 1


def bounded_sum(connection: Connection, values: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the sum of ``values``, none of them negative; NULLs don't count.

    On SQLite it is made of two halves of 32 bits: SQLite raises an error for a sum beyond its numbers.
    """
    if connection.dialect.name != "sqlite":
        return func.coalesce(func.sum(values), 0)
    low = func.coalesce(func.sum(values.bitwise_and(_LOW)), 0)
    high = func.coalesce(func.sum(values.bitwise_rshift(_HALF)), 0) + low.bitwise_rshift(_HALF)
    whole = high.bitwise_lshift(_HALF) + low.bitwise_and(_LOW)
    return case((high > SQLITE_MAX >> _HALF, SQLITE_MAX), else_=whole)
