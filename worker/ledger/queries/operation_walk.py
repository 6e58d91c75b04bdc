"""Walk through operations, newest first, by the indexes that there are.

Of one user: the account's entries, which name their operations, and two indexes of the operations without
entries: rejected, and applied. Of all: an index of what is notable (rejected, or not usage); by the beginning
of a reference, where few have it and the database sorts by code points; else by time. No index on time has
them all, so rows are read in windows, and a sample of one in 31 says where a window ends.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from heapq import merge
from typing import Any, NamedTuple, Protocol

from sqlalchemy import ColumnElement, Connection, Row, Select, TextClause, func, select, text, tuple_

from schemas import Status, slot_of
from worker.errors import NotFoundError
from worker.ledger.identifiers import IDENTIFIERS
from worker.ledger.queries.cursors import cursor_of, place_in, refused_cursor
from worker.ledger.queries.operation_filter import OperationFilter, conditions
from worker.ledger.queries.search import first_behind
from worker.ledger.queries.snapshots import (
    AccountKey,
    account_row,
    last_posted,
    on_operation,
    posted_at,
    values_of,
)
from worker.ledger.slots import Slots, in_slots, parts_of
from worker.ledger.tables import IS_NOTABLE, IS_REJECTED, IS_UNPOSTED, SAMPLES, entries, operations, sampled

#: Most operations that one walk looks at.
SCANNED_MAX = 100_000
#: Most references with a beginning that are read by it, and not by time.
PREFIXED_MAX = 10_000

_FIRST_WINDOW, _GROWTH = 2_000, 4
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

Condition = ColumnElement[bool] | TextClause

#: As the indexes have them, so that they are used.
REJECTED, UNPOSTED, NOTABLE = (text(f"({index})") for index in (IS_REJECTED, IS_UNPOSTED, IS_NOTABLE))
_SAMPLED, _RATE = text(sampled(min(SAMPLES))), min(SAMPLES)


class Place(NamedTuple):
    """Place of an operation among all, in the order of time."""

    recorded_at: datetime
    operation_id: int


@dataclass(frozen=True, slots=True)
class Walked:
    """Rows of operations, newest first, and the cursor behind them; None at the end.

    ``looked_back_to`` is the time of the last one that was looked at, where the walk isn't at its end.
    """

    rows: Sequence[Row[Any]]
    next_cursor: str | None
    looked_back_to: datetime | None


def walk(connection: Connection, wanted: OperationFilter, limit: int, cursor: str | None) -> Walked:
    """Return up to ``limit`` rows behind ``cursor``. Raises NotFoundError for a user nothing is known of."""
    if wanted.user_id is None:
        return _taken(_ListOfAll(connection, wanted, limit, cursor), limit)
    return _taken(_ListOfUser(connection, wanted, limit, wanted.user_id, cursor), limit)


class _Step(NamedTuple):
    """Operation, or only a place up to which nothing else is wanted; ``behind`` is where its list goes on."""

    place: Place
    row: Row[Any] | None
    behind: "Place | int"


def _age(step: _Step) -> tuple[timedelta, int]:
    """Return a key that sorts the newest first."""
    return _EPOCH - step.place.recorded_at, -step.place.operation_id


class _List(Protocol):
    """Streams of steps, each in its own order, and the cursor behind the last step that was taken."""

    windows: "_Windows"

    @property
    def streams(self) -> Sequence[Iterator[_Step]]:
        """Return the streams, from the present place on."""
        ...

    def take(self, step: _Step) -> None:
        """Move behind ``step``."""

    @property
    def cursor(self) -> str:
        """Return the cursor of the present place."""
        ...


def _taken(list_: _List, limit: int) -> Walked:
    found: list[Row[Any]] = []
    reached: datetime | None = None
    for step in merge(*list_.streams, key=_age):
        if step.row is not None:
            if len(found) == limit:
                return Walked(found, list_.cursor, reached)
            found.append(step.row)
        if step.row is not None or len(found) < limit:
            list_.take(step)
            reached = step.place.recorded_at
        if step.row is None and list_.windows.are_used_up:
            return Walked(found, list_.cursor, reached)
    return Walked(found, None, None)


class _Windows:
    """Sizes of the windows of all streams of a walk. Each stream has one at least."""

    def __init__(self, streams: int) -> None:
        self._first, self._left = max(_FIRST_WINDOW // streams, 1), SCANNED_MAX

    @property
    def are_used_up(self) -> bool:
        """True where the walk has looked at as many operations as it may."""
        return self._left <= 0

    def sizes(self) -> Iterator[int]:
        """Yield the sizes of a stream's windows."""
        size = self._first
        while True:
            self._left -= size
            yield size
            if self.are_used_up:
                return
            size = min(size * _GROWTH, self._left)


# -- by time ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Way:
    """Way to operations in the order of time.

    ``conditions`` are those of an index, or of a range of one. ``marks`` find the rows that say where a
    window ends, each of which stands for ``rate`` operations; None where all is one window.
    """

    conditions: tuple[Condition, ...]
    marks: tuple[Condition, ...] | None
    rate: int = 1


_BY_SAMPLE = Way((), (_SAMPLED,), _RATE)
_BY_NOTABLE = Way((NOTABLE,), (NOTABLE,))


def way_to(connection: Connection, wanted: OperationFilter) -> Way:
    """Return the way to the operations of all users that are ``wanted``."""
    if is_notable(wanted):
        return _BY_NOTABLE
    if wanted.reference_prefix and _sorts_by_code_points(connection):
        range_ = _range_of(wanted.reference_prefix)
        if _are_few(connection, range_):
            return Way(range_, None)
    return _BY_SAMPLE


#: Types of usage.
USAGE = frozenset(name for name, number in IDENTIFIERS["type"].items() if number < 20)
_APPLIED = frozenset(name for name, number in IDENTIFIERS["code"].items() if number < 100)


def is_notable(wanted: OperationFilter) -> bool:
    """Return True where all that is wanted is in the index of notable operations."""
    if wanted.status == Status.REJECTED.value or (wanted.types and not wanted.types & USAGE):
        return True
    return bool(wanted.codes) and not wanted.codes & _APPLIED


def _range_of(prefix: str) -> tuple[Condition, ...]:
    reference = operations.c.reference_id
    end = first_behind(prefix)
    return (reference >= prefix,) if end is None else (reference >= prefix, reference < end)


def _sorts_by_code_points(connection: Connection) -> bool:
    """Return True where the references that begin alike are one range of their index."""
    if connection.dialect.name != "postgresql":
        return True
    return bool(connection.exec_driver_sql(_COLLATION).scalar())


_COLLATION = "SELECT datcollate IN ('C', 'POSIX') FROM pg_database WHERE datname = current_database()"


def _are_few(connection: Connection, range_: Sequence[Condition]) -> bool:
    found = 0
    for slots in parts_of(connection):
        some = select(operations.c.slot).where(in_slots(operations.c.slot, slots), *range_)
        some = some.limit(PREFIXED_MAX + 1 - found)
        found += connection.execute(select(func.count()).select_from(some.subquery())).scalar_one()
    return found <= PREFIXED_MAX


class _ByTime:
    """Stream of the operations of some slots along a way."""

    def __init__(
        self, connection: Connection, slots: Slots, way: Way, wanted: OperationFilter, limit: int
    ) -> None:
        operation = operations.c
        self._connection, self._way, self._limit = connection, way, limit
        self._is_here = in_slots(operation.slot, slots)
        own = (self._is_here, *way.conditions, *conditions(connection, wanted))
        self._wanted = self._newest_first(select(operations).where(*own)).limit(limit + 1)
        self._marks = self._newest_first(select(operation.recorded_at).where(self._is_here)).limit(1)
        if wanted.since is not None:
            self._marks = self._marks.where(operation.recorded_at >= wanted.since)

    def steps(self, place: Place | None, windows: _Windows) -> Iterator[_Step]:
        """Yield the operations behind ``place``, and the end of each window."""
        for size in windows.sizes():
            floor = self._floor(place, size)
            found = self._connection.execute(self._between(floor, place)).all()
            for row in found:
                own = Place(row.recorded_at, row.operation_id)
                yield _Step(own, row, own)
            if floor is None or len(found) > self._limit:
                return
            place = Place(floor, 0)
            yield _Step(place, None, place)

    def _floor(self, place: Place | None, size: int) -> datetime | None:
        """Return the time at which a window behind ``place`` ends; None where it takes all that is left."""
        if self._way.marks is None:
            return None
        marks = self._behind(self._marks.where(*self._way.marks), place).offset(size // self._way.rate)
        floor: datetime | None = self._connection.execute(marks).scalar_one_or_none()
        return floor

    def _between(self, floor: datetime | None, place: Place | None) -> Select[Any]:
        found = self._behind(self._wanted, place)
        return found if floor is None else found.where(operations.c.recorded_at >= floor)

    @staticmethod
    def _newest_first(statement: Select[Any]) -> Select[Any]:
        return statement.order_by(operations.c.recorded_at.desc(), operations.c.operation_id.desc())

    @staticmethod
    def _behind(statement: Select[Any], place: Place | None) -> Select[Any]:
        if place is None:
            return statement
        columns = (operations.c.recorded_at, operations.c.operation_id)
        # The first condition is for an index on time alone, which knows nothing of pairs.
        return statement.where(
            operations.c.recorded_at <= place.recorded_at, tuple_(*columns) < values_of(columns, place)
        )


class _ListOfAll:
    """Operations of all users."""

    def __init__(
        self, connection: Connection, wanted: OperationFilter, limit: int, cursor: str | None
    ) -> None:
        place = None if cursor is None else _place_of(*place_in(cursor, 0, 2))
        self._place = place
        parts = parts_of(connection)
        way = way_to(connection, wanted)
        self.windows = _Windows(len(parts))
        self.streams: Sequence[Iterator[_Step]] = [
            _ByTime(connection, slots, way, wanted, limit).steps(place, self.windows) for slots in parts
        ]

    def take(self, step: _Step) -> None:
        """Move behind ``step``."""
        self._place = step.place

    @property
    def cursor(self) -> str:
        """Return the cursor of the present place."""
        return cursor_of(0, *_numbers_of(self._place))


# -- of a user --------------------------------------------------------------------------------------------


class _Posted:
    """Stream of the operations of an account that have entries, by their first entries."""

    def __init__(self, connection: Connection, key: AccountKey, wanted: OperationFilter, limit: int) -> None:
        self._connection, self._key, self._limit, self._time = connection, key, limit, wanted
        own = posted_operations(key, *operations.columns).where(*conditions(connection, wanted))
        self._wanted = own.order_by(entries.c.sequence.desc()).limit(limit + 1)

    def steps(self, top: int, windows: _Windows) -> Iterator[_Step]:
        """Yield the operations with entries up to ``top``, and the end of each window."""
        top, least = posted_range(self._connection, self._key, top, self._time)
        if top <= least:
            return
        for size in windows.sizes():
            floor = max(top - size, least)
            here = self._wanted.where(entries.c.sequence > floor, entries.c.sequence <= top)
            found = self._connection.execute(here).all()
            for row in found:
                yield _Step(Place(row.recorded_at, row.operation_id), row, row.first_entry - 1)
            if floor == least or len(found) > self._limit:
                return
            top = floor
            yield _Step(Place(posted_at(self._connection, self._key, floor + 1), 0), None, floor)


def indexes_without_entries(wanted: OperationFilter) -> Sequence[TextClause]:
    """Return the conditions of the indexes by user that have wanted operations without entries."""
    indexes = {Status.REJECTED.value: REJECTED, Status.APPLIED.value: UNPOSTED}
    return list(indexes.values()) if wanted.status is None else [indexes[wanted.status]]


def user_known(connection: Connection, user_id: str) -> tuple[int, Row[Any] | None]:
    """Return the slot and the account of a user; no account where only commands were rejected.

    Raises NotFoundError for a user nothing is known of.
    """
    slot, operation = slot_of(user_id), operations.c
    try:
        return slot, account_row(connection, user_id)
    except NotFoundError:
        own = select(operation.slot).where(operation.slot == slot, operation.user_id == user_id).limit(1)
        if all(connection.execute(own.where(index)).first() is None for index in (REJECTED, UNPOSTED)):
            raise
        return slot, None


def posted_operations(key: AccountKey, *columns: ColumnElement[Any]) -> Select[Any]:
    """Select ``columns`` of the operations with entries of an account, each once: by its first entry."""
    return (
        select(*columns)
        .join_from(entries, operations, on_operation(entries.c.operation_id))
        .where(key.owns(entries), operations.c.first_entry == entries.c.sequence)
    )


def posted_range(
    connection: Connection, key: AccountKey, top: int, wanted: OperationFilter
) -> tuple[int, int]:
    """Return the last entry up to ``top`` of the time that is wanted, and the one before the first."""
    until, since, least = wanted.until, wanted.since, 0
    if until is not None:
        top = last_posted(connection, key, top, lambda moment: moment < until)
    if since is not None:
        least = last_posted(connection, key, top, lambda moment: moment < since)
    return top, least


class _ListOfUser:
    """Operations of one user: those with entries, and those without, which share a place in time."""

    def __init__(
        self, connection: Connection, wanted: OperationFilter, limit: int, user_id: str, cursor: str | None
    ) -> None:
        slot, account = user_known(connection, user_id)
        self._key = AccountKey(slot, 0 if account is None else account.account_id)
        self._sequence: int = 0 if account is None else account.sequence
        self._place: Place | None = None
        if cursor is not None:
            sequence, *place = place_in(cursor, self._key.account_id, 3)
            self._sequence, self._place = min(sequence, self._sequence), _place_of(*place)
        self.windows = _Windows(3)
        self.streams = list(self._streams(connection, wanted, limit, user_id))

    def _streams(
        self, connection: Connection, wanted: OperationFilter, limit: int, user_id: str
    ) -> Iterator[Iterator[_Step]]:
        slots = Slots(self._key.slot, self._key.slot)
        for index in indexes_without_entries(wanted):
            own: tuple[Condition, ...] = (operations.c.user_id == user_id, index)
            without = _ByTime(connection, slots, Way(own, own), wanted, limit)
            yield without.steps(self._place, self.windows)
        if wanted.status != Status.REJECTED.value:
            yield _Posted(connection, self._key, wanted, limit).steps(self._sequence, self.windows)

    def take(self, step: _Step) -> None:
        """Move behind ``step``."""
        if isinstance(step.behind, Place):
            self._place = step.behind
        else:
            self._sequence = step.behind

    @property
    def cursor(self) -> str:
        """Return the cursor of the present place."""
        return cursor_of(self._key.account_id, self._sequence, *_numbers_of(self._place))


# -- cursors ----------------------------------------------------------------------------------------------


def _numbers_of(place: Place | None) -> tuple[int, int]:
    """Return a place as numbers; both are zero at the beginning."""
    return (0, 0) if place is None else ((place.recorded_at - _EPOCH) // _MICROSECOND, place.operation_id)


def _place_of(micros: int, operation_id: int) -> Place | None:
    try:
        return Place(_EPOCH + micros * _MICROSECOND, operation_id) if micros else None
    except OverflowError as error:
        raise refused_cursor() from error
