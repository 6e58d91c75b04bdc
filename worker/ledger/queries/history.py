"""The entries of an account: page by page from the newest, or in their order for a statement."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, select

from schemas.fields import INT64_MAX
from worker.core import Outcome
from worker.errors import QueryError
from worker.ledger.queries.cursors import cursor_of, place_in
from worker.ledger.queries.features import content_of_usage, feature_in
from worker.ledger.queries.snapshots import AccountKey, account_row, on_operation, within
from worker.ledger.queries.views import View
from worker.ledger.tables import entries, lots, operations

HISTORY_LIMIT_MAX = 1_000


@dataclass(frozen=True)
class PostedEntry(View):
    """Posted entry: ``amount`` tokens, to the account's credit where positive.

    Entries of one operation share ``transaction_id`` and ``reference_id``: a purchase with a bonus is two.
    ``lot`` is the number of the lot whose tokens moved, with its ``source``; None where it is the account's
    debt. ``due_at`` is when it fell due, where time brought it about and the operation only posted it.
    ``description`` is the sender's, or the reason of an adjustment.
    """

    transaction_id: str
    reference_id: str
    type: str
    code: str
    counter: str
    amount: int
    balance_before: int
    balance_after: int
    sequence: int
    lot: int | None
    source: str | None
    feature: str | None
    description: str | None
    due_at: datetime | None
    occurred_at: datetime
    recorded_at: datetime
    metadata: Mapping[str, int | str | bool | None] | None


@dataclass(frozen=True)
class History(View):
    """Entries, newest first. ``offset`` counts the newer ones before them, ``total`` all of the account.

    ``next_cursor`` continues behind the last entry of this page, whatever is written meanwhile; None at the
    end.
    """

    user_id: str
    transactions: tuple[PostedEntry, ...]
    total: int
    limit: int
    offset: int
    has_more: bool
    next_cursor: str | None


def history(connection: Connection, user_id: str, limit: int, offset: int, cursor: str | None) -> History:
    """Return a page of the entries of ``user_id``, newest first, from ``offset`` or behind ``cursor``.

    The sequence has no gaps, so that both are a range of the primary key and no page costs more than another.
    Raises NotFoundError, and QueryError for a limit outside 1 to 1000, a negative offset, a cursor that isn't
    one of this account, or both of them.
    """
    within("limit", limit, 1, HISTORY_LIMIT_MAX)
    within("offset", offset, 0, INT64_MAX)
    if cursor is not None and offset != 0:
        raise QueryError("give an offset or a cursor, not both")
    account = account_row(connection, user_id)
    key = AccountKey(account.slot, account.account_id)
    top = account.sequence - offset
    if cursor is not None:
        (behind,) = place_in(cursor, key.account_id, 1)
        top = min(behind - 1, account.sequence)
    page = connection.execute(_NEWEST_FIRST, {**key._asdict(), "top": top, "limit": limit})
    transactions = tuple(map(transaction_in, page))
    has_more = bool(transactions) and transactions[-1].sequence > 1
    return History(
        user_id=user_id,
        transactions=transactions,
        total=account.sequence,
        limit=limit,
        offset=account.sequence - top,
        has_more=has_more,
        next_cursor=cursor_of(key.account_id, transactions[-1].sequence) if has_more else None,
    )


def transactions_between(
    connection: Connection, key: AccountKey, after: int, last: int, *, page: int = 1_000
) -> Iterator[PostedEntry]:
    """Yield the entries behind the sequence ``after`` up to ``last``, in order; at most a page is held."""
    while after < last:
        place = {**key._asdict(), "after": after, "last": last, "limit": page}
        found = connection.execute(_IN_ORDER, place).all()
        if not found:
            return
        yield from map(transaction_in, found)
        after = found[-1].sequence


def transactions_of(
    connection: Connection, key: AccountKey, outcome: Outcome, operation_id: int
) -> Iterator[PostedEntry]:
    """Yield the entries that an operation wrote, in order.

    Where an operation doesn't name its entries although the balance moved, all of the account are searched.
    """
    own = OF_ACCOUNT.where(entries.c.operation_id == operation_id).order_by(entries.c.sequence)
    if outcome.first_entry is not None and outcome.last_entry is not None:
        own = own.where(entries.c.sequence.between(outcome.first_entry, outcome.last_entry))
    elif not outcome.is_applied or outcome.balance_before == outcome.balance_after:
        return
    yield from map(transaction_in, connection.execute(own, key._asdict()))


#: Entries of one account with the operations and lots they belong to.
OF_ACCOUNT = (
    select(entries, operations.c.reference_id, operations.c.type, operations.c.code, lots.c.source)
    .add_columns(content_of_usage().label("naming"))
    .add_columns(operations.c.detail, operations.c.description, operations.c.metadata.label("extra"))
    .join(operations, on_operation(entries.c.operation_id))
    .outerjoin(
        lots,
        and_(
            lots.c.slot == entries.c.slot,
            lots.c.account_id == entries.c.account_id,
            lots.c.number == entries.c.lot,
        ),
    )
    .where(entries.c.slot == bindparam("slot"), entries.c.account_id == bindparam("account_id"))
)
_NEWEST_FIRST = (
    OF_ACCOUNT.where(entries.c.sequence <= bindparam("top"))
    .order_by(entries.c.sequence.desc())
    .limit(bindparam("limit"))
)
_IN_ORDER = (
    OF_ACCOUNT.where(entries.c.sequence > bindparam("after"), entries.c.sequence <= bindparam("last"))
    .order_by(entries.c.sequence)
    .limit(bindparam("limit"))
)


def transaction_in(row: Row[Any]) -> PostedEntry:
    """Return the entry in a row of ``OF_ACCOUNT``."""
    return PostedEntry(
        transaction_id=str(row.operation_id),
        reference_id=row.reference_id,
        type=row.type,
        code=row.code,
        counter=row.counter,
        amount=row.amount,
        balance_before=row.balance_after - row.amount,
        balance_after=row.balance_after,
        sequence=row.sequence,
        lot=row.lot,
        source=row.source,
        feature=feature_in(row.naming),
        description=row.description or (row.detail or {}).get("reason"),
        due_at=row.occurred_at if row.is_due else None,
        occurred_at=row.occurred_at,
        recorded_at=row.recorded_at,
        metadata=row.extra,
    )
