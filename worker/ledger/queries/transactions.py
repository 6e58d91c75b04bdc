"""Pages of an account's transactions under filters: posted entries, refused operations, or both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, Row, Select, select, tuple_

from schemas import Status
from worker.ledger.identifiers import IDENTIFIERS
from worker.ledger.queries.cursors import cursor_of, place_in, refused_cursor
from worker.ledger.queries.features import is_of_feature, names_feature
from worker.ledger.queries.history import OF_ACCOUNT, PostedEntry, transaction_in
from worker.ledger.queries.snapshots import (
    IN_FORCE,
    AccountKey,
    account_row,
    last_posted,
    posted_at,
    values_of,
)
from worker.ledger.queries.views import View
from worker.ledger.tables import entries, operations

#: Most entries that one page looks at under a filter; a page may have fewer than its limit, and go on.
SCANNED_MAX = 10_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class RefusedOperation(View):
    """Operation that was rejected and moved nothing; ``balance`` is that of its time, None if unknown."""

    transaction_id: str
    reference_id: str
    type: str
    code: str
    balance: int | None
    description: str | None
    occurred_at: datetime
    recorded_at: datetime
    metadata: Mapping[str, int | str | bool | None] | None


@dataclass(frozen=True, slots=True)
class TransactionFilter:
    """Transactions that are wanted; recorded from ``start`` until before ``end``. None is no filter."""

    status: Literal["applied", "rejected", "all"] = "applied"
    type: str | None = None
    feature: str | None = None
    start: datetime | None = None
    end: datetime | None = None

    @property
    def is_selective(self) -> bool:
        """True where entries between the ends of a range may be unwanted."""
        return self.type is not None or self.feature is not None


@dataclass(frozen=True, slots=True)
class TransactionPage:
    """Transactions, newest first, and the cursor behind them; None at the end."""

    sequence: int
    transactions: tuple[PostedEntry | RefusedOperation, ...]
    next_cursor: str | None


class _Place(NamedTuple):
    """Place in both lists: entries up to ``sequence``, refused operations behind ``refused``."""

    sequence: int
    refused: tuple[datetime, int] | None


class _Window(NamedTuple):
    """Entries found above ``floor``; those below it are not looked at yet, unless it is ``least``."""

    found: Sequence[PostedEntry]
    floor: int
    least: int


def transactions(
    connection: Connection, user_id: str, limit: int, cursor: str | None, wanted: TransactionFilter
) -> TransactionPage:
    """Return a page of at most ``limit`` (from 1) transactions of ``user_id`` behind ``cursor``.

    Raises NotFoundError, and QueryError for a cursor that isn't one of this account.
    """
    account = account_row(connection, user_id)
    key = AccountKey(account.slot, account.account_id)
    place = _Place(account.sequence, None) if cursor is None else _place_in(cursor, key.account_id)
    place = place._replace(sequence=min(place.sequence, account.sequence))
    window = _posted(connection, key, place.sequence, limit, wanted)
    found = _refused(connection, account, place, limit, wanted)
    refused = _newer_than_unseen(connection, key, window, limit, found)
    candidates: list[PostedEntry | RefusedOperation] = [*window.found, *refused]
    page = sorted(candidates, key=_age)[:limit]
    after = _behind(place, page, window)
    is_last = len(page) == len(candidates) and window.floor == window.least
    return TransactionPage(
        sequence=account.sequence,
        transactions=tuple(page),
        next_cursor=None if is_last else _cursor(key.account_id, after),
    )


def _age(one: PostedEntry | RefusedOperation) -> tuple[timedelta, int, int]:
    """Return a key that sorts the newest first; of one time, entries by their sequence."""
    sequence = one.sequence if isinstance(one, PostedEntry) else 0
    return _EPOCH - one.recorded_at, -sequence, -int(one.transaction_id)


def _behind(place: _Place, page: Sequence[PostedEntry | RefusedOperation], window: _Window) -> _Place:
    """Return the place behind ``page``."""
    posted = [one for one in page if isinstance(one, PostedEntry)]
    refused = [one for one in page if isinstance(one, RefusedOperation)]
    if len(posted) == len(window.found):
        sequence = window.floor
    else:
        sequence = posted[-1].sequence - 1 if posted else place.sequence
    if not refused:
        return _Place(sequence, place.refused)
    return _Place(sequence, (refused[-1].recorded_at, int(refused[-1].transaction_id)))


# -- posted entries ---------------------------------------------------------------------------------------


def _posted(
    connection: Connection, key: AccountKey, top: int, limit: int, wanted: TransactionFilter
) -> _Window:
    """Return up to one entry more than ``limit``: the sequence bounds times, and the window bounds work."""
    if wanted.status == "rejected":
        return _Window((), 0, 0)
    start, end, least = wanted.start, wanted.end, 0
    if end is not None:
        top = last_posted(connection, key, top, lambda moment: moment < end)
    if start is not None:
        least = last_posted(connection, key, top, lambda moment: moment < start)
    floor = max(least, top - SCANNED_MAX) if wanted.is_selective else least
    found = connection.execute(_entries(wanted, floor, top, limit + 1), key._asdict()).all()
    if len(found) > limit:
        floor = found[-1].sequence - 1
    return _Window([transaction_in(row) for row in found], floor, least)


def _entries(wanted: TransactionFilter, floor: int, top: int, limit: int) -> Select[Any]:
    statement = OF_ACCOUNT.where(entries.c.sequence > floor, entries.c.sequence <= top)
    if wanted.type is not None:
        statement = statement.where(operations.c.type.in_(_numbers_of(wanted.type)))
    if wanted.feature is not None:
        statement = statement.where(is_of_feature(wanted.feature))
    return statement.order_by(entries.c.sequence.desc()).limit(limit)


# -- refused operations -----------------------------------------------------------------------------------


def _refused(
    connection: Connection, account: Row[Any], place: _Place, limit: int, wanted: TransactionFilter
) -> list[RefusedOperation]:
    """Return up to one refused operation more than ``limit``, newest first."""
    if wanted.status == "applied":
        return []
    operation = operations.c
    order = (operation.recorded_at, operation.operation_id)
    statement = (
        select(operations)
        .where(operation.slot == account.slot, operation.user_id == account.user_id)
        .where(operation.status == Status.REJECTED.value, IN_FORCE)
        .order_by(operation.recorded_at.desc(), operation.operation_id.desc())
        .limit(limit + 1)
    )
    if place.refused is not None:
        statement = statement.where(tuple_(*order) < values_of(order, place.refused))
    if wanted.start is not None:
        statement = statement.where(operation.recorded_at >= wanted.start)
    if wanted.end is not None:
        statement = statement.where(operation.recorded_at < wanted.end)
    if wanted.type is not None:
        statement = statement.where(operation.type.in_(_numbers_of(wanted.type)))
    if wanted.feature is not None:
        statement = statement.where(names_feature(wanted.feature))
    return [_operation(row) for row in connection.execute(statement)]


def _operation(row: Row[Any]) -> RefusedOperation:
    return RefusedOperation(
        transaction_id=str(row.operation_id),
        reference_id=row.reference_id,
        type=row.type,
        code=row.code,
        balance=row.balance_before,
        description=row.description,
        occurred_at=row.occurred_at or row.recorded_at,
        recorded_at=row.recorded_at,
        metadata=row.metadata,
    )


def _newer_than_unseen(
    connection: Connection,
    key: AccountKey,
    window: _Window,
    limit: int,
    refused: Sequence[RefusedOperation],
) -> Sequence[RefusedOperation]:
    """Return those of ``refused`` that no entry below the window can be newer than."""
    if len(window.found) > limit or window.floor == window.least or not refused:
        return refused
    oldest = posted_at(connection, key, window.floor)
    return [one for one in refused if one.recorded_at >= oldest]


def _numbers_of(type_: str) -> list[str]:
    """Return ``type_`` where the ledger has such a type, else nothing."""
    return [type_] if type_ in IDENTIFIERS["type"] else []


# -- cursors ----------------------------------------------------------------------------------------------


def _cursor(account_id: int, place: _Place) -> str:
    moment, operation_id = place.refused or (_EPOCH, 0)
    return cursor_of(account_id, place.sequence, (moment - _EPOCH) // timedelta(microseconds=1), operation_id)


def _place_in(cursor: str, account_id: int) -> _Place:
    sequence, micros, operation_id = place_in(cursor, account_id, 3)
    if (micros, operation_id) == (0, 0):
        return _Place(sequence, None)
    try:
        return _Place(sequence, (_EPOCH + timedelta(microseconds=micros), operation_id))
    except OverflowError as error:
        raise refused_cursor() from error
