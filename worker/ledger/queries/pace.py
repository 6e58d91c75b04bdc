"""Pace of the ledger: operations by the time they were first judged, with their outcomes.

Operations have no index on time, which would be one more write for every message. Their ids rise with time:
a search by halves over the primary key finds the borders of all buckets at once. Few operations between two
borders are counted, many are estimated from a sample.
"""

import json
from collections import Counter as Tally
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any

from sqlalchemy import BigInteger, Connection, FromClause, and_, bindparam, func, select
from sqlalchemy.dialects.postgresql import ARRAY

from schemas import Status
from worker.ledger.queries.snapshots import within
from worker.ledger.queries.views import View
from worker.ledger.tables import operations

BUCKETS_MAX = 200

#: A bucket of no more ids than these is counted row by row, a larger one by slices.
_COUNTED_MAX = 1_000
_SLICES = 5
_SLICE = 100

# A rejection that was judged anew keeps its id and gets a later time: the earliest of so many neighbours
# tells when this place of the table was written.
_NEIGHBOURS = 8

#: Number of places between two borders that are looked at in one round trip.
_LOOKS = 3


@dataclass(frozen=True)
class PaceBucket(View):
    """Operations first judged from ``start`` until before ``end``: ``applied`` and ``rejected`` of ``count``.

    ``codes`` counts the rejections by code, most first. Where not ``is_counted`` all of these are estimates:
    the number from the ids, the shares from a sample.
    """

    start: datetime
    end: datetime
    count: int
    applied: int
    rejected: int
    codes: Mapping[str, int]
    is_counted: bool


@dataclass(frozen=True)
class Pace(View):
    """Buckets of equal length, in order. ``last_at`` is when the newest operation was judged, None without.

    Duplicates leave no operation and are in no bucket. What was judged anew is in the bucket of its first
    attempt, with its latest outcome.
    """

    start: datetime
    end: datetime
    buckets: tuple[PaceBucket, ...]
    last_at: datetime | None


def pace(connection: Connection, end: datetime, length: timedelta, buckets: int) -> Pace:
    """Return ``buckets`` of ``length`` up to ``end`` (UTC). Raises QueryError for buckets not in 1 to 200."""
    within("buckets", buckets, 1, BUCKETS_MAX)
    moments = [end - length * back for back in range(buckets, -1, -1)]
    newest = connection.execute(_NEWEST).one_or_none()
    borders = [0] * len(moments) if newest is None else _borders(connection, moments, newest.operation_id)
    spans = list(pairwise(borders))
    seen = _seen(connection, spans)
    return Pace(
        start=moments[0],
        end=end,
        buckets=tuple(
            _bucket(start, until, stop - first, seen[place])
            for place, ((start, until), (first, stop)) in enumerate(
                zip(pairwise(moments), spans, strict=True)
            )
        ),
        last_at=None if newest is None else newest.recorded_at,
    )


_NEWEST = (
    select(operations.c.operation_id, operations.c.recorded_at)
    .order_by(operations.c.operation_id.desc())
    .limit(1)
)

_Seen = Tally[tuple[str, str]]


def _borders(connection: Connection, moments: Sequence[datetime], newest: int) -> list[int]:
    """Return for each of ``moments``, which rise, the first id that was judged then or later."""
    oldest = connection.execute(select(func.min(operations.c.operation_id))).scalar_one()
    low, high = [oldest] * len(moments), [newest + 1] * len(moments)
    while open_ := [place for place in range(len(moments)) if low[place] < high[place]]:
        looked_at = {place: _between(low[place], high[place]) for place in open_}
        judged = _judged_at(connection, sorted({number for ids in looked_at.values() for number in ids}))
        for place, ids in looked_at.items():
            before = [number for number in ids if _is_before(judged[number], moments[place])]
            # The first look that isn't before bounds what was judged later; looks behind it say no more.
            first_not = next((number for number in ids if number not in before), high[place])
            high[place] = first_not
            low[place] = max([low[place], *(number + 1 for number in before if number < first_not)])
    # Clocks that differ may make borders cross; a bucket between two such is empty.
    return list(accumulate(low, max))


def _between(low: int, high: int) -> list[int]:
    """Return places that divide the range into equal parts: these looks cost less than another round trip."""
    return sorted({low + (high - low) * number // (_LOOKS + 1) for number in range(1, _LOOKS + 1)})


def _is_before(judged_at: datetime | None, moment: datetime) -> bool:
    return judged_at is not None and judged_at < moment


def _judged_at(connection: Connection, ids: Sequence[int]) -> dict[int, datetime | None]:
    """Return the times at which operations near each of ``ids`` were judged; None behind the last."""
    dialect = connection.dialect.name
    rows = connection.execute(_looks(dialect), _given(dialect, [(number, number) for number in ids]))
    return {row.probe: row.judged_at for row in rows}


# Statements are built once: that takes as long as to run them. An array travels as one parameter, on SQLite
# as JSON, so that the text is the same for any number of ids.


@lru_cache
def _looks(dialect: str) -> Any:
    """Return a select of the times at which operations near each of ``firsts`` were judged."""
    ids = _spans(dialect)
    near = (
        select(operations.c.recorded_at)
        .where(operations.c.operation_id >= ids.c.first)
        .order_by(operations.c.operation_id)
        .limit(_NEIGHBOURS)
        .correlate(ids)
        .subquery()
    )
    judged_at = select(func.min(near.c.recorded_at)).scalar_subquery()
    return select(ids.c.first.label("probe"), judged_at.label("judged_at"))


@lru_cache
def _counts(dialect: str) -> Any:
    """Return a select that counts each status and code from each of ``firsts`` until before its ``stop``."""
    span = _spans(dialect)
    number = operations.c.operation_id
    return (
        select(span.c.first, operations.c.status, operations.c.code, func.count().label("found"))
        .join_from(span, operations, and_(number >= span.c.first, number < span.c.stop))
        .group_by(span.c.first, operations.c.status, operations.c.code)
    )


def _spans(dialect: str) -> FromClause:
    """Return the parameters ``firsts`` and ``stops`` as a table."""
    if dialect == "postgresql":
        arrays = [bindparam(name, type_=ARRAY(BigInteger())) for name in ("firsts", "stops")]
        return func.unnest(*arrays).table_valued("first", "stop", name="span").render_derived()
    pair = func.json_each(bindparam("pairs")).table_valued("value", name="pair")
    ends = [func.json_extract(pair.c.value, f"$[{place}]") for place in (0, 1)]
    return select(ends[0].label("first"), ends[1].label("stop")).cte("span")


def _given(dialect: str, pairs: Sequence[tuple[int, int]]) -> dict[str, Any]:
    if dialect != "postgresql":
        return {"pairs": json.dumps(pairs)}
    return {"firsts": [first for first, _ in pairs], "stops": [stop for _, stop in pairs]}


def _slices(first: int, stop: int) -> list[tuple[int, int]]:
    """Return the ranges of ids to read: all of a small bucket, equal distances in a large one."""
    span = stop - first
    if span <= _COUNTED_MAX:
        return [(first, stop)] if span else []
    starts = [first + span * number // _SLICES for number in range(_SLICES)]
    return [(start, start + _SLICE) for start in starts]


def _seen(connection: Connection, spans: Sequence[tuple[int, int]]) -> list[_Seen]:
    """Return the number of each status and code among the rows that were read of each bucket."""
    seen = [_Seen() for _ in spans]
    slices = {piece: place for place, span in enumerate(spans) for piece in _slices(*span)}
    place_of = {first: place for (first, _), place in slices.items()}
    if slices:
        dialect = connection.dialect.name
        if dialect == "postgresql":
            # The planner takes each range for a two-hundredth of the table, and would compile for it.
            connection.exec_driver_sql("SET LOCAL jit = off")
        for row in connection.execute(_counts(dialect), _given(dialect, list(slices))):
            seen[place_of[row.first]][row.status, row.code] += row.found
    return seen


def _bucket(start: datetime, end: datetime, span: int, seen: _Seen) -> PaceBucket:
    is_counted = span <= _COUNTED_MAX
    looked_at = span if is_counted else _SLICES * _SLICE
    found = seen.total()
    # Ids leave gaps where a claim was lost: what the slices hold tells how many of them are rows.
    count = found if is_counted else round(span * found / looked_at)
    scale = count / found if found else 0.0
    codes = {
        code: round(number * scale)
        for (status, code), number in seen.most_common()
        if status == Status.REJECTED.value
    }
    rejected = min(sum(codes.values()), count)
    return PaceBucket(start, end, count, count - rejected, rejected, codes, is_counted)
