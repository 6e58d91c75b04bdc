"""Pace of the ledger: operations by the time they were judged, with their outcomes.

All operations have no more than a coarse index on time: a fine one would be one more write for every message.
Two small indexes have one operation of 31 and one of 961 (``SAMPLES``). A bucket with enough rows in such a
sample is estimated from it; the others, which are small then, are counted.
"""

from collections import Counter as Tally
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    TextClause,
    func,
    literal,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

from schemas import Status
from worker.ledger.queries.snapshots import within
from worker.ledger.queries.views import View
from worker.ledger.slots import WHOLE, Slots, in_slots
from worker.ledger.tables import SAMPLES, UtcDateTime, operations, sampled

BUCKETS_MAX = 200

#: Rows of a sample that suffice for an estimate.
_ENOUGH = 100

#: All operations, as a sample.
_ALL = 1

#: Number of each status and code among the rows of a bucket.
_Counts = Tally[tuple[str, str]]


@dataclass(frozen=True)
class PaceBucket(View):
    """Operations judged from ``start`` until before ``end``: ``applied`` and ``rejected`` of ``count``.

    ``codes`` counts the rejections by code, most first. Where not ``is_counted`` all of these are estimates
    from a sample.
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
    """Buckets of equal length, in order. ``last_at`` is the latest time of a judgement, None without any.

    Duplicates leave no operation and are in no bucket. What was judged anew is in the bucket of its latest
    outcome.
    """

    start: datetime
    end: datetime
    buckets: tuple[PaceBucket, ...]
    last_at: datetime | None


def pace(
    connection: Connection,
    end: datetime,
    length: timedelta,
    buckets: int,
    *,
    shares: Sequence[Slots] = WHOLE,
) -> Pace:
    """Return ``buckets`` of ``length`` up to ``end`` (UTC). Raises QueryError for buckets not in 1 to 200.

    ``shares`` are the ranges of slots that a statement may read, which have all slots together.
    """
    within("buckets", buckets, 1, BUCKETS_MAX)
    if connection.dialect.name == "postgresql":
        # Statistics lag behind a table that grows: no plan may read all of it, or compile for it.
        connection.exec_driver_sql("SET LOCAL jit = off")
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
    moments = [end - length * back for back in range(buckets, -1, -1)]
    counted = _counted(connection, moments, shares)
    return Pace(
        start=moments[0],
        end=end,
        buckets=tuple(
            _bucket(start, until, *counted[place]) for place, (start, until) in enumerate(pairwise(moments))
        ),
        last_at=_last_at(connection, shares),
    )


def _bucket(start: datetime, end: datetime, rate: int, counts: _Counts) -> PaceBucket:
    rejected = Status.REJECTED.value
    codes = {code: rate * number for (status, code), number in counts.most_common() if status == rejected}
    count, refused = rate * counts.total(), sum(codes.values())
    return PaceBucket(start, end, count, count - refused, refused, codes, is_counted=rate == _ALL)


# -- counts -----------------------------------------------------------------------------------------------


def _counted(
    connection: Connection, moments: Sequence[datetime], shares: Sequence[Slots]
) -> Mapping[int, tuple[int, _Counts]]:
    """Return the counts of each bucket, and of which sample they are: the smallest that has enough rows."""
    counted: dict[int, tuple[int, _Counts]] = {}
    open_ = list(range(len(moments) - 1))
    for rate in (*sorted(SAMPLES, reverse=True), _ALL):
        for place, counts in _counts_in_sample(connection, rate, moments, open_, shares).items():
            counted[place] = rate, counts
        open_ = [place for place in open_ if counted[place][1].total() < _ENOUGH]
    return counted


def _counts_in_sample(
    connection: Connection,
    rate: int,
    moments: Sequence[datetime],
    places: Sequence[int],
    shares: Sequence[Slots],
) -> Mapping[int, _Counts]:
    """Return the counts of the buckets at ``places``, in the sample of ``rate``."""
    counts = {place: _Counts() for place in places}
    for first, stop in _runs(places, 1 if connection.dialect.name == "sqlite" else len(moments)):
        for slots in shares:
            for row in connection.execute(_by_bucket(rate, moments[first : stop + 1], slots)):
                counts[first + row.number - 1][row.status, row.code] += row.found
    return counts


def _runs(places: Sequence[int], longest: int) -> Iterator[tuple[int, int]]:
    """Yield first and stop of each run of adjacent ``places``; none has more than ``longest``."""
    first = 0
    for place in range(1, len(places) + 1):
        is_adjacent = place < len(places) and places[place] == places[place - 1] + 1
        if not is_adjacent or place - first == longest:
            yield places[first], places[place - 1] + 1
            first = place


def _by_bucket(rate: int, moments: Sequence[datetime], slots: Slots) -> Select[Any]:
    """Select how many operations each bucket between ``moments`` has, by the bucket's number from 1."""
    recorded_at, status, code = operations.c.recorded_at, operations.c.status, operations.c.code
    number = _number_of_bucket(moments).label("number")
    return (
        select(number, status, code, func.count().label("found"))
        .where(recorded_at >= moments[0], recorded_at < moments[-1])
        .where(in_slots(operations.c.slot, slots), *_in_sample(rate))
        .group_by(number, status, code)
    )


def _number_of_bucket(moments: Sequence[datetime]) -> ColumnElement[int]:
    """Return the number of an operation's bucket; one bucket alone needs no function, which SQLite lacks."""
    if len(moments) <= 2:
        return literal_column("1")
    return func.width_bucket(operations.c.recorded_at, literal(list(moments), ARRAY(UtcDateTime())))


def _in_sample(rate: int) -> list[TextClause]:
    # A text, as in the index: SQLite takes no index of some rows where the number is a parameter.
    return [] if rate == _ALL else [text(sampled(rate))]


# -- the latest time --------------------------------------------------------------------------------------


def _last_at(connection: Connection, shares: Sequence[Slots]) -> datetime | None:
    times = [_last_of(connection, slots) for slots in shares]
    return max((at for at in times if at is not None), default=None)


def _last_of(connection: Connection, slots: Slots) -> datetime | None:
    """Return the latest time of a share; a few operations at most are later than the last of the sample."""
    last = select(operations.c.recorded_at).where(in_slots(operations.c.slot, slots))
    last = last.order_by(operations.c.recorded_at.desc()).limit(1)
    of_sample = connection.execute(last.where(*_in_sample(min(SAMPLES)))).scalar_one_or_none()
    if of_sample is not None:
        last = last.where(operations.c.recorded_at >= of_sample)
    latest: datetime | None = connection.execute(last).scalar_one_or_none()
    return latest
