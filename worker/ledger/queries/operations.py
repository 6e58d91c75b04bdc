"""Operations that a filter finds, applied and rejected, newest first and page by page.

No index has all operations in the order of time: it would cost every message. So each list is read by what
there is, see ``operation_walk``. A page looks at ``SCANNED_MAX`` operations at most: it may have fewer than
its limit, and go on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row

from schemas import NO_USER
from worker.core.incidents import money_of
from worker.core.outcomes import Outcome
from worker.core.superseded import is_usage
from worker.ledger import rows
from worker.ledger.queries.bounded import bounded_reading
from worker.ledger.queries.features import feature_in
from worker.ledger.queries.operation_filter import OperationFilter
from worker.ledger.queries.operation_walk import walk
from worker.ledger.queries.senders import SenderView, senders_of
from worker.ledger.queries.snapshots import within
from worker.ledger.queries.views import View

LIMIT_MAX = 1_000


@dataclass(frozen=True)
class OperationLine(View):
    """Operation, as its latest attempt was judged.

    ``tokens`` are those it moved itself, to the account's credit where positive; None for one that was
    rejected. ``balance_after`` is None where it is unknown, and ``user_id`` where it names none. ``feature``
    is that of usage, or its meter; ``quantity`` that of a meter. The money is what its command names.
    """

    transaction_id: str
    reference_id: str
    type: str
    user_id: str | None
    status: str
    code: str
    tokens: int | None
    balance_after: int | None
    sender: SenderView | None
    feature: str | None
    quantity: int | None
    amount_minor: int | None
    currency: str | None
    attempt: int
    description: str | None
    metadata: Mapping[str, int | str | bool | None] | None
    occurred_at: datetime
    recorded_at: datetime


@dataclass(frozen=True)
class OperationPage(View):
    """Operations, newest first. ``next_cursor`` continues behind them; None at the end.

    ``looked_back_to`` is given where the page has looked at as many as it may, and found fewer than its
    limit: all that was recorded after this time has been looked at.
    """

    operations: tuple[OperationLine, ...]
    next_cursor: str | None
    looked_back_to: datetime | None


def operation_page(
    connection: Connection, wanted: OperationFilter, limit: int = 50, cursor: str | None = None
) -> OperationPage:
    """Return a page of at most ``limit`` (1 to 1000) operations behind ``cursor``.

    Raises NotFoundError for a user without account and operations, and QueryError for a limit or a cursor
    that can't be, for a sender that is unknown, and where the database takes too long.
    """
    within("limit", limit, 1, LIMIT_MAX)
    with bounded_reading(connection):
        found = walk(connection, wanted, limit, cursor)
        return OperationPage(
            operations=_lines(connection, found.rows),
            next_cursor=found.next_cursor,
            looked_back_to=None if len(found.rows) == limit else found.looked_back_to,
        )


def _lines(connection: Connection, found: Sequence[Row[Any]]) -> tuple[OperationLine, ...]:
    outcomes = [rows.outcome(row) for row in found]
    known = senders_of(connection, outcomes)
    return tuple(_line(outcome, known.get(outcome.sender_id)) for outcome in outcomes)


def _line(outcome: Outcome, sender: SenderView | None) -> OperationLine:
    of_usage = is_usage(outcome.type)
    amount, currency = (None, None) if of_usage else money_of(outcome)
    quantity = outcome.detail.get("quantity")
    return OperationLine(
        transaction_id=str(outcome.transaction_id),
        reference_id=outcome.reference_id,
        type=outcome.type,
        user_id=None if outcome.user_id == NO_USER else outcome.user_id,
        status=outcome.status.value,
        code=outcome.code.value,
        tokens=tokens_of(outcome),
        balance_after=None if outcome.is_of_no_account else outcome.balance_after,
        sender=sender,
        feature=feature_in(outcome.content) if of_usage else None,
        quantity=quantity if isinstance(quantity, int) else None,
        amount_minor=amount,
        currency=currency,
        attempt=outcome.attempt,
        description=outcome.description,
        metadata=outcome.metadata,
        occurred_at=outcome.occurred_at or outcome.recorded_at,
        recorded_at=outcome.recorded_at,
    )


def tokens_of(outcome: Outcome) -> int | None:
    """Return the tokens that an outcome moved itself, to the account's credit; None for a rejection."""
    if not outcome.is_applied or outcome.balance_after is None or outcome.balance_before is None:
        return None
    return outcome.balance_after - outcome.balance_before
