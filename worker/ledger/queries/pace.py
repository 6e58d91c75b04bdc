"""How fast the ledger is asked, and with what outcome: operations by the time they were first judged.

Operations have no index on time, which would be one more write for every message. Their ids rise with time,
so that the borders of the buckets are found by halves over the primary key, all of them at once, and what is
between two borders is counted where it is little and estimated from a sample where it is much.
"""

from collections import Counter as Tally
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from sqlalchemy import CTE, BigInteger, Connection, Integer, and_, column, func, select, values

from schemas import Status
from worker.ledger.queries.snapshots import within
from worker.ledger.queries.views import View
from worker.ledger.tables import operations

BUCKETS_MAX = 200

#: A bucket of no more ids than these is counted row by row, a larger one by slices.
_COUNTED_MAX = 1_000
_SLICES = 5
_SLICE = 100

# A rejection that was judged anew keeps its id and gets a later time: of so many neighbours the earliest
# tells when this place of the table was written.
_NEIGHBOURS = 8


@dataclass(frozen=True)
class PaceBucket(View):
    """Operations first judged from ``start`` until before ``end``: ``applied`` and ``rejected`` of ``count``.

    ``codes`` says why what was rejected was, by code, most first. Where not ``is_counted`` all of these are
    estimates: the number from the ids, the shares from a sample.
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
    """``buckets`` of ``length`` up to ``end`` (UTC). Raises QueryError for buckets outside 1 to 200."""
    within("buckets", buckets, 1, BUCKETS_MAX)
    moments = [end - length * back for back in range(buckets, -1, -1)]
    newest = connection.execute(_NEWEST).one_or_none()
    borders = [0] * len(moments) if newest is None else _borders(connection, moments, newest.operation_id)
    spans = list(pairwise(borders))
    slices = [piece for place, span in enumerate(spans) for piece in _slices(place, *span)]
    seen = _seen(connection, slices)
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

_Slice = tuple[int, int, int]  # the bucket's place, the first id, the id it ends before
_Seen = Tally[tuple[str, str]]


def _borders(connection: Connection, moments: Sequence[datetime], newest: int) -> list[int]:
    """For each of ``moments``, which rise, the first id that was judged then or later."""
    oldest = connection.execute(select(func.min(operations.c.operation_id))).scalar_one()
    low, high = [oldest] * len(moments), [newest + 1] * len(moments)
    while open_ := [place for place in range(len(moments)) if low[place] < high[place]]:
        middles = sorted({(low[place] + high[place]) // 2 for place in open_})
        judged = {row.probe: row.judged_at for row in connection.execute(_looked_at(middles))}
        for place in open_:
            middle = (low[place] + high[place]) // 2
            at = judged[middle]
            if at is not None and at < moments[place]:
                low[place] = middle + 1
            else:
                high[place] = middle
    # Clocks that differ may have borders cross; a bucket between two such is empty.
    for place in range(1, len(low)):
        low[place] = max(low[place], low[place - 1])
    return low


def _looked_at(ids: Sequence[int]) -> Any:
    probes = _table("probes", {"probe": BigInteger()}, [(number,) for number in ids])
    near = (
        select(operations.c.recorded_at)
        .where(operations.c.operation_id >= probes.c.probe)
        .order_by(operations.c.operation_id)
        .limit(_NEIGHBOURS)
        .correlate(probes)
        .subquery()
    )
    judged_at = select(func.min(near.c.recorded_at)).scalar_subquery()
    return select(probes.c.probe, judged_at.label("judged_at"))


def _slices(place: int, first: int, stop: int) -> list[_Slice]:
    """All of a small bucket; of a large one slices at equal distances."""
    span = stop - first
    if span <= _COUNTED_MAX:
        return [(place, first, stop)] if span else []
    starts = [first + span * number // _SLICES for number in range(_SLICES)]
    return [(place, start, start + _SLICE) for start in starts]


def _seen(connection: Connection, slices: Sequence[_Slice]) -> list[_Seen]:
    """What the slices hold, by bucket: how many of each status and code."""
    seen = [_Seen() for _ in range(BUCKETS_MAX)]
    if not slices:
        return seen
    kinds = {"place": Integer(), "first": BigInteger(), "stop": BigInteger()}
    pieces = _table("pieces", kinds, slices)
    number = operations.c.operation_id
    statement = (
        select(pieces.c.place, operations.c.status, operations.c.code, func.count().label("found"))
        .join_from(pieces, operations, and_(number >= pieces.c.first, number < pieces.c.stop))
        .group_by(pieces.c.place, operations.c.status, operations.c.code)
    )
    for row in connection.execute(statement):
        seen[row.place][row.status, row.code] += row.found
    return seen


def _table(name: str, kinds: Mapping[str, Any], rows: Sequence[tuple[int, ...]]) -> CTE:
    """``rows`` as a table of their own; SQLite names the columns of such a one only ahead of the query."""
    columns = [column(key, kind) for key, kind in kinds.items()]
    return values(*columns, name=name).data(list(rows)).cte(name)


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
