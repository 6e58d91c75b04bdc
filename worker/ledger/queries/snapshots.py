"""Snapshots of the ledger, and the look-ups and checks that every query shares."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Row,
    Table,
    Tuple,
    and_,
    bindparam,
    case,
    literal,
    select,
    tuple_,
)
from sqlalchemy.sql import ColumnElement

from schemas import slot_of
from worker.core import AccountState
from worker.errors import NotFoundError, QueryError
from worker.ledger.engine import translated_errors
from worker.ledger.references import references_of
from worker.ledger.tables import accounts, entries, operations


@contextmanager
def snapshot(engine: Engine) -> Iterator[Connection]:
    """Open a connection that reads one state of the ledger, however many statements it runs, and can't write.

    REPEATABLE READ READ ONLY on PostgreSQL. On SQLite any transaction is a snapshot; ``read_only`` asks the
    engine to begin it without the write lock. Raises LedgerUnavailableError and ContentionError.
    """
    options: dict[str, Any] = {"read_only": True}
    if engine.dialect.name == "postgresql":
        options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with translated_errors(), engine.connect() as connection:
        yield connection.execution_options(**options)


class AccountKey(NamedTuple):
    """Key of an account, which the rows of all its tables have."""

    slot: int
    account_id: int

    def owns(self, table: Table) -> ColumnElement[bool]:
        """Return the condition that a row of ``table`` belongs to this account."""
        return and_(table.c.slot == self.slot, table.c.account_id == self.account_id)


def on_operation(column: Column[Any]) -> ColumnElement[bool]:
    """Return the condition that joins operations to the ids in ``column``, which lie in the same slot."""
    return and_(operations.c.operation_id == column, operations.c.slot == column.table.c.slot)


def key_of(state: AccountState) -> AccountKey:
    """Return the key of an account."""
    return AccountKey(slot_of(state.user_id), state.account_id)


def account_row(connection: Connection, user_id: str) -> Row[Any]:
    """Return the account of ``user_id``, with ``posted_at``, the time of its last entry; null without one.

    Raises NotFoundError.
    """
    row = connection.execute(_ACCOUNT, {"user_id": user_id, "slot": slot_of(user_id)}).one_or_none()
    if row is None:
        raise no_account(user_id)
    return row


def no_account(user_id: str) -> NotFoundError:
    """Return the error for a user without an account."""
    return NotFoundError(f"no token account for user {user_id!r}")


_LAST_POSTED = (
    select(entries.c.recorded_at)
    .where(entries.c.slot == bindparam("slot"))
    .where(entries.c.account_id == accounts.c.account_id, entries.c.sequence == accounts.c.sequence)
    .scalar_subquery()
)
# Built once, like all statements of a balance or a page of history: to build a statement takes as long as to
# run it.
_ACCOUNT = select(accounts, _LAST_POSTED.label("posted_at")).where(
    accounts.c.user_id == bindparam("user_id"), accounts.c.slot == bindparam("slot")
)

#: Condition on an operation: its reference is its own, and was not taken.
IN_FORCE = ~operations.c.is_taken


def owner_of(connection: Connection, reference_id: str) -> str | None:
    """Return the user whose this reference is; None where nobody has it."""
    owner = references_of(connection).owners(connection, [reference_id]).get(reference_id)
    return None if owner is None else owner.user_id


def values_of(columns: Sequence[Column[Any]], values: Iterable[Any]) -> Tuple:
    """Return ``values`` of these columns, to be compared with the place of a row."""
    return tuple_(*(literal(value, column.type) for column, value in zip(columns, values, strict=True)))


def within(name: str, value: int, least: int, most: int) -> None:
    """Raise QueryError unless ``value`` is from ``least`` to ``most``."""
    if not least <= value <= most:
        raise QueryError(f"{name} must be from {least} to {most}, not {value}")


def in_utc(name: str, moment: datetime) -> datetime:
    """Return ``moment`` in UTC. Raises QueryError for a time without offset, or outside the calendar."""
    if moment.tzinfo is None:
        raise QueryError(f"{name} must have an offset, such as {moment.isoformat()}Z")
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise QueryError(f"{name} lies outside the years 1 to 9999 in UTC") from error


def posted_at(connection: Connection, key: AccountKey, sequence: int) -> datetime:
    """Return the time when the entry was posted; the entry exists."""
    statement = select(entries.c.recorded_at).where(key.owns(entries), entries.c.sequence == sequence)
    moment: datetime = connection.execute(statement).scalar_one()
    return moment


def last_posted(
    connection: Connection,
    key: AccountKey,
    last: int,
    is_in_time: Callable[[ColumnElement[datetime]], ColumnElement[bool]],
) -> int:
    """Return the sequence of the last entry up to ``last`` that was posted in time; 0 if none was.

    Found by halves, because the sequence has no gaps: a look at the primary key for each bit of ``last``, and
    no index on times. The places looked at are the same however many entries have come since, and what is in
    time for one moment is so for every later one: so a later moment never has fewer entries, even where the
    clocks of two workers differ.
    """
    if last == 0:
        return 0
    highest = literal(1 << (last.bit_length() - 1), BigInteger())
    halves = select(literal(0, BigInteger()).label("found"), highest.label("step")).cte(recursive=True)
    candidate = halves.c.found + halves.c.step
    is_posted = (
        select(is_in_time(entries.c.recorded_at))
        .where(key.owns(entries), entries.c.sequence == candidate)
        .where(candidate <= last)
        .scalar_subquery()
    )
    found = case((is_posted, candidate), else_=halves.c.found)
    halves = halves.union_all(select(found, halves.c.step // 2).where(halves.c.step > 0))
    answer: int = connection.execute(select(halves.c.found).where(halves.c.step == 0)).scalar_one()
    return answer
