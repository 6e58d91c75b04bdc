"""Between rows of the tables and what the core knows."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row

from schemas import Code, Status
from worker.core.known import (
    AccountState,
    Happened,
    Hold,
    HoldState,
    Lot,
    Payment,
    PaymentEvent,
    Source,
)
from worker.core.outcomes import Outcome
from worker.core.plan import AccountMove, Entry, QuotaEntry, UsageRefund
from worker.ledger.tables import holds, operations, payment_events, payments

Values = dict[str, Any]

#: The columns of an account's state, in the order of its fields.
ACCOUNT = (
    "account_id",
    "user_id",
    "tier",
    "anchor",
    "granted_until",
    "balance",
    "sequence",
    "allocated",
    "purchased",
    "bonus",
    "refunded",
    "adjusted",
    "used",
    "expired",
    "reversed",
    "held",
    "debt",
    "lot_count",
    "alerts",
    "period_granted",
    "ends_at",
    "due_at",
)

#: The columns of a lot, in the order of its fields.
LOT = (
    "account_id",
    "number",
    "source",
    "granted",
    "priority",
    "effective_at",
    "expires_at",
    "parent",
    "remaining",
    "held",
    "pending",
    "is_noticed",
    "operation_id",
)


#: All columns of an operation, a hold, a payment, and of what happened to a payment.
OPERATION = tuple(column.name for column in operations.columns)
HOLD = tuple(column.name for column in holds.columns)
PAYMENT = tuple(column.name for column in payments.columns)
PAYMENT_EVENT = tuple(column.name for column in payment_events.columns)


# -- from rows --------------------------------------------------------------------------------------------


def account(row: Iterable[Any]) -> AccountState:
    """From the columns ``ACCOUNT``."""
    return AccountState(*row)


def lot(row: Iterable[Any]) -> Lot:
    """From the columns ``LOT``."""
    account_id, number, source, *rest = row
    return Lot(account_id, number, _SOURCES[source], *rest)


_SOURCES: Mapping[str, Source] = {source.value: source for source in Source}


def outcome(row: Row[Any]) -> Outcome:
    """From a row of operations or of superseded outcomes."""
    return Outcome(
        reference_id=row.reference_id,
        type=row.type,
        user_id=row.user_id,
        attempt=row.attempt,
        content=row.content,
        status=_STATUSES[row.status],
        code=_CODES[row.code],
        recorded_at=row.recorded_at,
        amount=row.amount,
        balance_before=row.balance_before,
        balance_after=row.balance_after,
        detail=row.detail or {},
        occurred_at=row.occurred_at,
        metadata=row.metadata,
        description=row.description,
        first_entry=row.first_entry,
        last_entry=row.last_entry,
        notices=tuple(row.notices or ()),
        transaction_id=row.operation_id,
    )


_STATUSES: Mapping[str, Status] = {status.value: status for status in Status}
_CODES: Mapping[str, Code] = {code.value: code for code in Code}


def hold(row: Row[Any], parts: Sequence[tuple[int, int]]) -> Hold:
    """From a row of holds, and its parts in order."""
    return Hold(
        account_id=row.account_id,
        reference_id=row.reference_id,
        amount=row.amount,
        parts=tuple(parts),
        opened_at=row.opened_at,
        expires_at=row.expires_at,
        state=HoldState(row.state),
        captured=row.captured,
        closed_at=row.closed_at,
        operation_id=row.operation_id,
    )


def payment(row: Row[Any], reference_id: str, occurred_at: datetime | None) -> Payment:
    """From a row of payments; its operation has the other two."""
    return Payment(
        account_id=row.account_id,
        reference_id=reference_id,
        package_id=row.package_id,
        amount_minor=row.amount_minor,
        currency=row.currency,
        base_tokens=row.base_tokens,
        bonus_tokens=row.bonus_tokens,
        provider=row.provider,
        recorded_at=row.recorded_at,
        occurred_at=occurred_at,
        operation_id=row.operation_id,
    )


def payment_event(row: Row[Any]) -> PaymentEvent:
    """From a row of payment events."""
    return PaymentEvent(
        account_id=row.account_id,
        payment_reference=row.payment_reference,
        happened=Happened(row.happened),
        recorded_at=row.recorded_at,
        dispute_id=row.dispute_id,
        amount_minor=row.amount_minor,
        currency=row.currency,
        occurred_at=row.occurred_at,
        collected=row.collected,
        uncollected=row.uncollected,
    )


# -- to rows ----------------------------------------------------------------------------------------------

_SELDOM = ("detail", "occurred_at", "metadata", "description", "notices")


def of_outcomes(outcomes: Sequence[Outcome]) -> list[Values]:
    """Rows of operations. A column that none of them has anything for is left out."""
    seldom = [name for name in _SELDOM if any(getattr(outcome, name) for outcome in outcomes)]
    rows = []
    for outcome in outcomes:
        row: Values = {
            "reference_id": outcome.reference_id,
            "type": outcome.type,
            "user_id": outcome.user_id,
            "attempt": outcome.attempt,
            "content": outcome.content,
            "status": outcome.status._value_,  # a plain string is written in a fifth of the time
            "code": outcome.code._value_,
            "amount": outcome.amount,
            "balance_before": outcome.balance_before,
            "balance_after": outcome.balance_after,
            "first_entry": outcome.first_entry,
            "last_entry": outcome.last_entry,
            "recorded_at": outcome.recorded_at,
        }
        for name in seldom:
            row[name] = getattr(outcome, name) or None
        rows.append(row)
    return rows


def of_outcome(outcome: Outcome) -> Values:
    """A whole row of operations or of superseded outcomes, empty columns too."""
    (row,) = of_outcomes([outcome])
    return {**row, **{name: getattr(outcome, name) or None for name in _SELDOM}}


def of_entries(entries: Sequence[Entry], *, by_reference: bool = False) -> list[Values]:
    """Rows of entries, whose outcomes are written, or ``by_reference`` where they are written too."""
    rows: list[Values] = [
        {
            "account_id": entry.account_id,
            "sequence": entry.sequence,
            "operation_id": entry.outcome.transaction_id,
            "counter": entry.counter._value_,
            "amount": entry.amount,
            "balance_before": entry.balance_before,
            "balance_after": entry.balance_after,
            "lot": entry.lot,
            "feature": entry.feature,
            "occurred_at": entry.occurred_at,
            "recorded_at": entry.recorded_at,
        }
        for entry in entries
    ]
    if any(entry.due_at is not None for entry in entries):
        for entry, row in zip(entries, rows, strict=True):
            row["due_at"] = entry.due_at
    if by_reference:
        for entry, row in zip(entries, rows, strict=True):
            del row["operation_id"]
            row["reference_id"] = entry.outcome.reference_id
    return rows


def of_use(move: AccountMove, now: datetime) -> Values:
    """What usage alone changes of an account, with the sequence it must have had."""
    state = move.state
    return {
        "account_id": state.account_id,
        "balance": state.balance,
        "sequence": state.sequence,
        "used": state.used,
        "updated_at": now,
        "expected_sequence": move.sequence_before,
    }


def of_account(move: AccountMove, now: datetime) -> Values:
    """All that may change of an account, with the sequence it must have had."""
    state = move.state
    values = {name: getattr(state, name) for name in ACCOUNT if name != "user_id"}
    return {**values, "updated_at": now, "expected_sequence": move.sequence_before}


def of_new_lot(lot: Lot) -> Values:
    """A whole row of lots; the outcome that granted it is written."""
    values = {name: getattr(lot, name) for name in LOT}
    granted_by = None if lot.outcome is None else lot.outcome.transaction_id
    return {**values, "operation_id": granted_by, "is_open": _is_open(lot)}


def of_used_lot(lot: Lot) -> Values:
    """What usage alone changes of a lot, and its key."""
    return {
        "account_id": lot.account_id,
        "number": lot.number,
        "remaining": lot.remaining,
        "is_open": lot.remaining > 0,
    }


def of_changed_lot(lot: Lot) -> Values:
    """All that may change of a lot, and its key."""
    return {
        "account_id": lot.account_id,
        "number": lot.number,
        "remaining": lot.remaining,
        "held": lot.held,
        "pending": lot.pending,
        "is_open": _is_open(lot),
        "is_noticed": lot.is_noticed,
    }


def _is_open(lot: Lot) -> bool:
    return lot.remaining > 0 or lot.pending > 0


def of_new_hold(hold: Hold) -> Values:
    """A whole row of holds; it may have been closed in the same batch."""
    return {
        "operation_id": None if hold.outcome is None else hold.outcome.transaction_id,
        "account_id": hold.account_id,
        "reference_id": hold.reference_id,
        "amount": hold.amount,
        "opened_at": hold.opened_at,
        "expires_at": hold.expires_at,
        **_end_of(hold),
    }


def of_closed_hold(hold: Hold) -> Values:
    """How a hold ended, and its key."""
    return {"operation_id": hold.operation_id, **_end_of(hold)}


def _end_of(hold: Hold) -> Values:
    return {
        "state": hold.state,
        "captured": hold.captured,
        "closed_at": hold.closed_at,
        "closed_by": None if hold.closed_by is None else hold.closed_by.transaction_id,
    }


def of_parts(hold: Hold) -> list[Values]:
    """Rows of hold parts; the hold's outcome is written."""
    operation_id = None if hold.outcome is None else hold.outcome.transaction_id
    return [
        {
            "operation_id": operation_id,
            "place": place,
            "account_id": hold.account_id,
            "lot": lot,
            "amount": amount,
        }
        for place, (lot, amount) in enumerate(hold.parts)
    ]


def of_quota_entry(entry: QuotaEntry) -> Values:
    """A row of quota entries."""
    return {
        **entry.key._asdict(),
        "sequence": entry.sequence,
        "operation_id": entry.outcome.transaction_id,
        "amount": entry.amount,
        "used_before": entry.used_before,
        "used_after": entry.used_after,
        "recorded_at": entry.recorded_at,
    }


def of_payment(payment: Payment) -> Values:
    """A row of payments."""
    return {
        "operation_id": None if payment.outcome is None else payment.outcome.transaction_id,
        "account_id": payment.account_id,
        "package_id": payment.package_id,
        "amount_minor": payment.amount_minor,
        "currency": payment.currency,
        "base_tokens": payment.base_tokens,
        "bonus_tokens": payment.bonus_tokens,
        "provider": payment.provider,
        "recorded_at": payment.recorded_at,
    }


def of_payment_event(event: PaymentEvent) -> Values:
    """A row of payment events."""
    return {
        "operation_id": None if event.outcome is None else event.outcome.transaction_id,
        "account_id": event.account_id,
        "payment_reference": event.payment_reference,
        "happened": event.happened,
        "dispute_id": event.dispute_id,
        "amount_minor": event.amount_minor,
        "currency": event.currency,
        "occurred_at": event.occurred_at,
        "collected": event.collected,
        "uncollected": event.uncollected,
        "recorded_at": event.recorded_at,
    }


def of_usage_refund(refund: UsageRefund) -> Values:
    """A row of usage refunds."""
    return {
        "operation_id": refund.outcome.transaction_id,
        "original_id": refund.original.transaction_id,
        "account_id": refund.account_id,
        "tokens": refund.tokens,
        "recorded_at": refund.recorded_at,
    }
